//! Names of images: `[HOST[:PORT]/]PATH[:TAG][@sha256:DIGEST]`, as docker and podman write them.
//!
//! An [`ImageName`] is what a user types; a [`Reference`] has a registry. Grammar: the reference package of the distribution
//! project.

use std::fmt;
use std::str::FromStr;

use rdvm_hostfs::Digest;

use crate::docker_hub;

/// The longest name without tag and digest, in bytes.
const NAME_LIMIT: usize = 255;
/// The longest tag in bytes.
const TAG_LIMIT: usize = 128;
/// The tag of a name that has none.
const LATEST: &str = "latest";
/// The transport that skopeo and podman put before names.
pub const TRANSPORT: &str = "docker://";

/// A name as it was typed, perhaps without a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    registry: Option<String>,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// The full name of an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Host and port, as in `localhost:5000`.
    pub(crate) registry: String,
    /// The path below it.
    pub(crate) repository: String,
    /// The version by tag or digest.
    pub(crate) version: Version,
}

/// The version of an image.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Version {
    /// The one that a tag names today.
    Tag(String),
    /// The one whose manifest has this digest, whatever tag was named with it.
    Digest(Digest),
}

/// Not the name of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// A part before the tag.
    #[error("not an image's name; write [HOST/]NAME[:TAG] in small letters, or NAME@sha256:DIGEST")]
    Name,
    /// The tag.
    #[error("its tag is wrong; write letters, digits, dots, dashes and underscores, at most 128")]
    Tag,
    /// The digest.
    #[error("its digest is wrong; write @sha256: and 64 hexadecimal digits")]
    Digest,
    /// A longer name than registries have.
    #[error("longer than 255 characters, which no registry has")]
    Long,
}

impl FromStr for ImageName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let text = text.strip_prefix(TRANSPORT).unwrap_or(text);
        let (text, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse().map_err(|_| BadName::Digest)?)),
            None => (text, None),
        };
        // A colon before the last slash is a port's.
        let last = text.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match text[last..].find(':') {
            Some(at) => (&text[..last + at], Some(&text[last + at + 1..])),
            None => (text, None),
        };
        if name.len() > NAME_LIMIT {
            return Err(BadName::Long);
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(BadName::Tag);
        }
        let (registry, path) = match name.split_once('/') {
            Some((host, path)) if is_registry(host) => (Some(host), path),
            _ => (None, name),
        };
        let is_known = registry.is_none_or(is_host);
        if !is_known || !path.split('/').all(is_component) {
            return Err(BadName::Name);
        }
        Ok(Self {
            registry: registry.map(canonical_registry),
            path: path.to_owned(),
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

impl ImageName {
    /// True if it names a registry.
    pub fn has_registry(&self) -> bool {
        self.registry.is_some()
    }

    /// Returns its path, which aliases are looked up by, without tag and digest.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Returns the full name, if it has a registry.
    pub(crate) fn full(&self) -> Option<Reference> {
        self.registry.as_deref().map(|registry| self.at(registry))
    }

    /// Returns the full name in a registry, which is used where the name has none of its own.
    pub(crate) fn at(&self, registry: &str) -> Reference {
        let registry = canonical_registry(self.registry.as_deref().unwrap_or(registry));
        let repository = match registry == docker_hub::REGISTRY && !self.path.contains('/') {
            true => format!("{}/{}", docker_hub::LIBRARY, self.path),
            false => self.path.clone(),
        };
        self.of(registry, repository)
    }

    /// Returns the full name of this version of another name.
    pub(crate) fn of(&self, registry: String, repository: String) -> Reference {
        let tag = self.tag.as_deref().unwrap_or(LATEST);
        Reference {
            registry,
            repository,
            version: match self.digest {
                Some(digest) => Version::Digest(digest),
                None => Version::Tag(tag.to_owned()),
            },
        }
    }
}

impl Reference {
    /// Returns the name without tag and digest.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Returns the name of the version with this digest.
    pub fn at_digest(&self, digest: Digest) -> Self {
        Self {
            version: Version::Digest(digest),
            ..self.clone()
        }
    }

    /// Returns the digest, if it names one.
    pub fn digest(&self) -> Option<Digest> {
        match self.version {
            Version::Digest(digest) => Some(digest),
            Version::Tag(_) => None,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match &self.version {
            Version::Tag(tag) => write!(f, ":{tag}"),
            Version::Digest(digest) => write!(f, "@{digest}"),
        }
    }
}

impl FromStr for Reference {
    type Err = BadName;

    /// Reads a full name; one without a registry is an error.
    fn from_str(text: &str) -> Result<Self, BadName> {
        text.parse::<ImageName>()?.full().ok_or(BadName::Name)
    }
}

impl fmt::Display for Version {
    /// As the protocol has it behind `manifests/`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

/// True if the first part of a name is a host and not a directory.
fn is_registry(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':']) || part.chars().any(|c| c.is_ascii_uppercase())
}

fn canonical_registry(registry: &str) -> String {
    match registry {
        docker_hub::OLD_REGISTRY | docker_hub::HOST => docker_hub::REGISTRY.to_owned(),
        other => other.to_owned(),
    }
}

/// True for a host name or address, with or without a port.
pub(crate) fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, rest)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (
                "v6",
                rest.strip_prefix(':').or((!rest.is_empty()).then_some("x")),
            ),
            _ => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_label = |label: &str| {
        let inner = label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        inner && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_port =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    host.split('.').all(is_label) && port.is_none_or(is_port)
}

/// True for a part of a path: runs of small letters and digits, with one dot, one or two underscores, or dashes between them.
fn is_component(part: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator =
        |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    part.starts_with(is_alphanumeric)
        && part.ends_with(is_alphanumeric)
        && part.split(is_alphanumeric).all(is_separator)
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_inner = |byte: u8| is_word(byte) || byte == b'.' || byte == b'-';
    tag.len() <= TAG_LIMIT && tag.bytes().next().is_some_and(is_word) && tag.bytes().all(is_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn names_are_completed_as_docker_does() {
        for (typed, full) in [
            ("debian", "docker.io/library/debian:latest"),
            ("debian:12", "docker.io/library/debian:12"),
            ("docker://debian:12", "docker.io/library/debian:12"),
            ("index.docker.io/debian", "docker.io/library/debian:latest"),
            ("user/app:v1.0-rc_1", "docker.io/user/app:v1.0-rc_1"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/a/b/c", "localhost:5000/a/b/c:latest"),
            ("127.0.0.1:5000/app:1", "127.0.0.1:5000/app:1"),
            ("[::1]:5000/app", "[::1]:5000/app:latest"),
            ("Host/app", "Host/app:latest"),
            ("quay.example/x/y__z.w--v:t", "quay.example/x/y__z.w--v:t"),
        ] {
            let name: ImageName = typed.parse().unwrap();
            assert_eq!(name.at("docker.io").to_string(), full, "{typed}");
        }
    }

    #[test]
    fn a_digest_counts_more_than_a_tag() {
        for typed in ["debian@", "debian:12@"] {
            let name: ImageName = format!("{typed}{DIGEST}").parse().unwrap();
            let full = name.at("docker.io");
            assert_eq!(
                full.to_string(),
                format!("docker.io/library/debian@{DIGEST}")
            );
            assert_eq!(full.digest(), DIGEST.parse().ok());
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(256);
        let tag = format!("a:{}", "t".repeat(129));
        for (typed, error) in [
            ("", BadName::Name),
            ("./dir:1", BadName::Name),
            ("/abs:1", BadName::Name),
            ("../up:1", BadName::Name),
            ("a//b", BadName::Name),
            ("Debian:12", BadName::Name),
            ("a/../b:1", BadName::Name),
            ("a___b", BadName::Name),
            ("a..b", BadName::Name),
            ("-a", BadName::Name),
            ("a b:1", BadName::Name),
            ("host:99999/a", BadName::Name),
            ("host:/a", BadName::Name),
            ("ho_st.x/a", BadName::Name),
            ("[::1/a", BadName::Name),
            ("[::1]x/a", BadName::Name),
            ("debian:", BadName::Tag),
            ("debian:.1", BadName::Tag),
            ("debian:a:b", BadName::Tag),
            (&tag, BadName::Tag),
            ("debian@sha256:12", BadName::Digest),
            ("debian@sha512:00", BadName::Digest),
            (&long, BadName::Long),
        ] {
            assert_eq!(typed.parse::<ImageName>(), Err(error), "{typed}");
        }
    }
}
