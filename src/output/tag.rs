//! The name of an image, `[HOST[:PORT]/]NAME[:TAG]`, by the rules of docker's references.

use std::str::FromStr;

/// The registry that a name without one means.
const DEFAULT_HOST: &str = "docker.io";
/// Where its images without a user's name are.
const DEFAULT_PLACE: &str = "library/";
/// The longest name and the longest tag, in bytes.
const NAME_LIMIT: usize = 255;
const TAG_LIMIT: usize = 128;

/// A name that was found right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    host: Option<String>,
    path: String,
    tag: String,
}

impl Tag {
    /// As docker shows it: `app:latest`, `ghcr.io/me/app:1`.
    pub(crate) fn familiar(&self) -> String {
        match &self.host {
            Some(host) => format!("{host}/{}:{}", self.path, self.tag),
            None => format!("{}:{}", self.path, self.tag),
        }
    }

    /// With all that docker leaves out: `docker.io/library/app:latest`.
    pub(crate) fn full(&self) -> String {
        match &self.host {
            Some(_) => self.familiar(),
            None if self.path.contains('/') => format!("{DEFAULT_HOST}/{}", self.familiar()),
            None => format!("{DEFAULT_HOST}/{DEFAULT_PLACE}{}", self.familiar()),
        }
    }

    /// Only what is behind the colon.
    pub(crate) fn tag(&self) -> &str {
        &self.tag
    }
}

impl FromStr for Tag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, rest) = match text.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => {
                (Some(host), rest)
            }
            _ => (None, text),
        };
        let (path, tag) = rest.split_once(':').unwrap_or((rest, "latest"));
        let path = match (host, path.strip_prefix(DEFAULT_PLACE)) {
            (Some(DEFAULT_HOST), Some(short)) if !short.contains('/') => short,
            _ => path,
        };
        let is_right = host.is_none_or(is_host)
            && path.split('/').all(is_component)
            && text.len() <= NAME_LIMIT
            && is_tag(tag);
        match is_right {
            true => Ok(Self {
                host: host.filter(|host| *host != DEFAULT_HOST).map(str::to_owned),
                path: path.to_owned(),
                tag: tag.to_owned(),
            }),
            false => Err("no image name; write [HOST/]NAME[:TAG], NAME in lower case".to_owned()),
        }
    }
}

fn is_host(host: &str) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    let part = |part: &str| {
        let dash = part.starts_with('-') || part.ends_with('-');
        let letters = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !part.is_empty() && !dash && part.chars().all(letters)
    };
    name.split('.').all(part) && !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

/// Lower case letters and digits, and between them a dot, one or two underscores, or dashes.
fn is_component(name: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let words = [name.bytes().next(), name.bytes().next_back()];
    let ends = words.iter().all(|end| end.as_ref().is_some_and(is_word));
    let separators = |separator: &[u8]| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-')
    };
    ends && name.as_bytes().split(is_word).all(separators)
}

fn is_tag(tag: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=TAG_LIMIT).contains(&tag.len())
        && is_letter(tag.as_bytes()[0])
        && tag
            .bytes()
            .all(|byte| is_letter(byte) || b".-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_docker_does() {
        for (text, familiar, full) in [
            ("app", "app:latest", "docker.io/library/app:latest"),
            ("me/app:1.0", "me/app:1.0", "docker.io/me/app:1.0"),
            (
                "docker.io/library/app",
                "app:latest",
                "docker.io/library/app:latest",
            ),
            (
                "docker.io/me/app",
                "me/app:latest",
                "docker.io/me/app:latest",
            ),
            ("localhost/a:b", "localhost/a:b", "localhost/a:b"),
            (
                "h:5000/a/b__c-d.e:T_1",
                "h:5000/a/b__c-d.e:T_1",
                "h:5000/a/b__c-d.e:T_1",
            ),
        ] {
            let tag: Tag = text.parse().unwrap();
            assert_eq!((&*tag.familiar(), &*tag.full()), (familiar, full));
        }
    }

    #[test]
    fn what_docker_would_refuse_is_refused() {
        for text in [
            "",
            "App",
            "app:",
            "app:-x",
            "/app",
            "app/",
            "a//b",
            "a..b",
            "a___b",
            "-a",
            "a b",
            "a@sha256:00",
            "a:b:c",
            "h:x/a",
            "é",
            "a.:5/x",
            "app:é",
        ] {
            assert!(text.parse::<Tag>().is_err(), "{text:?}");
        }
        assert!(format!("a:{}", "t".repeat(129)).parse::<Tag>().is_err());
    }
}
