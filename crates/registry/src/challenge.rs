//! `WWW-Authenticate`: the ways in which a registry lets itself be asked. RFC 9110, section 11.6.1.

/// The longest header that is read, in bytes.
const LIMIT: usize = 8 << 10;
/// The most parameters of one challenge.
const PARAMETERS: usize = 32;

/// One way to authenticate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// The scheme in small letters, `bearer` for example.
    pub(crate) scheme: String,
    /// Names in small letters, and values.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// Returns the value of a parameter.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Returns the challenges of a header's value, as far as they can be understood.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut rest = match header.len() <= LIMIT {
        true => header,
        false => "",
    };
    let mut challenges: Vec<Challenge> = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let word = token(rest);
        if word.is_empty() {
            return challenges;
        }
        let behind = rest[word.len()..].trim_start_matches([' ', '\t']);
        let value = behind
            .strip_prefix('=')
            .map(|text| text.trim_start_matches([' ', '\t']));
        match (value, challenges.last_mut()) {
            (Some(text), Some(challenge)) => {
                let Some((value, after)) = value_of(text) else {
                    return challenges;
                };
                if challenge.parameters.len() < PARAMETERS {
                    challenge
                        .parameters
                        .push((word.to_ascii_lowercase(), value));
                }
                rest = after;
            }
            (Some(_), None) => return challenges,
            (None, _) => {
                challenges.push(Challenge {
                    scheme: word.to_ascii_lowercase(),
                    parameters: Vec::new(),
                });
                rest = behind;
            }
        }
    }
}

/// The token that a text begins with, perhaps an empty one.
fn token(text: &str) -> &str {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    &text[..text.find(|c| !is_token(c)).unwrap_or(text.len())]
}

/// The value that a text begins with, and what follows it.
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let word = token(text);
        return (!word.is_empty()).then(|| (word.to_owned(), &text[word.len()..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(header: &str) -> Vec<String> {
        let one = |it: Challenge| {
            let parameters: Vec<String> = it
                .parameters
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            format!("{} {}", it.scheme, parameters.join(";"))
        };
        parse(header).into_iter().map(one).collect()
    }

    #[test]
    fn challenges_are_read_with_their_parameters() {
        for (header, expected) in [
            (r#"Basic realm="r""#, &["basic realm=r"][..]),
            (
                r#"Bearer realm="https://a/t",service="s", scope="repository:x:pull,push""#,
                &["bearer realm=https://a/t;service=s;scope=repository:x:pull,push"],
            ),
            (
                r#"Negotiate, BASIC realm=x , Bearer Realm = "a\"b\\""#,
                &["negotiate ", "basic realm=x", r#"bearer realm=a"b\"#],
            ),
            ("", &[]),
            (",, ,", &[]),
            ("realm=x", &[]),
            (r#"Bearer realm="open"#, &["bearer "]),
            ("Bearer realm=", &["bearer "]),
            ("Bearer \u{e9}", &["bearer "]),
        ] {
            assert_eq!(shown(header), expected, "{header}");
        }
    }

    #[test]
    fn a_header_is_bounded() {
        assert_eq!(parse(&"a ".repeat(LIMIT)), []);
        let many = format!("Bearer {}", "a=1,".repeat(1000));
        assert_eq!(parse(&many)[0].parameters.len(), PARAMETERS);
    }
}
