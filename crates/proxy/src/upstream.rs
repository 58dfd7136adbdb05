//! The proxy's own proxy.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::host::{Authority, Host};

/// The URL of a proxy that all requests are passed on to: `http://[USER:PASSWORD@]HOST:PORT`, with `%` escapes in user and
/// password. It is not subject to the rules, and resolves the names of the requests itself.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UpstreamProxy {
    pub(crate) host: Host,
    pub(crate) port: u16,
    /// User, a colon, password.
    credentials: Option<Vec<u8>>,
    url: String,
}

/// Why a text is no such URL. The text is not part of the messages, since it may have a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// Another scheme, or none.
    #[error("the proxy's URL does not begin with http://; proxies are reached by plain HTTP")]
    Scheme,
    /// Something behind the port.
    #[error("the proxy's URL has a path; leave out what is behind the port")]
    Path,
    /// No port.
    #[error("the proxy's URL has no port; write http://HOST:PORT")]
    NoPort,
    /// A user without a password, or bad escapes.
    #[error("the proxy's URL has no USER:PASSWORD before the @; write other characters as %XX")]
    Credentials,
    /// Not a host.
    #[error("the proxy's URL: {0}; write http://HOST:PORT")]
    Host(&'static str),
}

impl UpstreamProxy {
    /// Returns the line of a head that has the credentials, if there are any.
    pub(crate) fn authorization(&self) -> String {
        let line = |credentials: &Vec<u8>| {
            format!("Proxy-Authorization: Basic {}\r\n", base64(credentials))
        };
        self.credentials.as_ref().map(line).unwrap_or_default()
    }
}

impl FromStr for UpstreamProxy {
    type Err = UpstreamError;

    fn from_str(url: &str) -> Result<Self, UpstreamError> {
        let (scheme, rest) = url.split_once("://").ok_or(UpstreamError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(UpstreamError::Scheme);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // A password may have an @, although it should be written as %40.
        let (credentials, authority) = match rest.rsplit_once('@') {
            Some((credentials, authority)) => {
                let credentials =
                    unescaped(credentials).filter(|bytes| is_user_and_password(bytes));
                (
                    Some(credentials.ok_or(UpstreamError::Credentials)?),
                    authority,
                )
            }
            None => (None, rest),
        };
        if authority.contains(['/', '?', '#']) {
            return Err(UpstreamError::Path);
        }
        let authority =
            Authority::parse(authority).map_err(|error| UpstreamError::Host(error.text()))?;
        Ok(Self {
            host: authority.host,
            port: authority.port.ok_or(UpstreamError::NoPort)?,
            credentials,
            url: url.to_owned(),
        })
    }
}

/// Without the credentials.
impl fmt::Display for UpstreamProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for UpstreamProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for UpstreamProxy {
    type Error = UpstreamError;

    fn try_from(url: String) -> Result<Self, UpstreamError> {
        url.parse()
    }
}

impl From<UpstreamProxy> for String {
    fn from(proxy: UpstreamProxy) -> Self {
        proxy.url
    }
}

fn is_user_and_password(bytes: &[u8]) -> bool {
    bytes.contains(&b':') && !bytes.iter().any(u8::is_ascii_control)
}

/// Returns the bytes with their `%XX` in place of the escapes.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut parts = text.split('%');
    bytes.extend(parts.next()?.as_bytes());
    for part in parts {
        let digits = part
            .get(..2)
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(&part.as_bytes()[2..]);
    }
    Some(bytes)
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0, |bits, &byte| bits << 8 | usize::from(byte))
            << (8 * (3 - group.len()));
        for at in 0..4 {
            text.push(match at <= group.len() {
                true => char::from(DIGITS[bits >> (18 - 6 * at) & 63]),
                false => '=',
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::HostError;

    #[test]
    fn the_url_has_a_host_a_port_and_perhaps_credentials() {
        for (url, host, port, authorization) in [
            ("http://proxy.example:3128", "proxy.example", 3128, ""),
            ("HTTP://10.0.0.1:80/", "10.0.0.1", 80, ""),
            ("http://[::1]:3142", "[::1]", 3142, ""),
            (
                "http://user:pass@proxy:1",
                "proxy",
                1,
                "Proxy-Authorization: Basic dXNlcjpwYXNz\r\n",
            ),
            (
                "http://u%40d:p%3aw@x@proxy:1",
                "proxy",
                1,
                "Proxy-Authorization: Basic dUBkOnA6d0B4\r\n",
            ),
            (
                "http://u:@proxy:1",
                "proxy",
                1,
                "Proxy-Authorization: Basic dTo=\r\n",
            ),
        ] {
            let proxy: UpstreamProxy = url.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!((proxy.host.to_string().as_str(), proxy.port), (host, port));
            assert_eq!(proxy.authorization(), authorization, "{url}");
            assert_eq!(format!("{proxy:?}"), format!("http://{host}:{port}"));
            let json = serde_json::to_string(&proxy).unwrap();
            assert!(serde_json::from_str::<UpstreamProxy>(&json).unwrap() == proxy);
        }
    }

    #[test]
    fn other_urls_are_refused_and_no_message_has_a_password() {
        for (url, error) in [
            ("proxy:3128", UpstreamError::Scheme),
            ("https://u:secret@proxy:3128", UpstreamError::Scheme),
            ("socks5://proxy:3128", UpstreamError::Scheme),
            ("http://u:secret@proxy", UpstreamError::NoPort),
            ("http://u:secret@proxy:1/path", UpstreamError::Path),
            ("http://secret@proxy:1", UpstreamError::Credentials),
            ("http://u:secret%@proxy:1", UpstreamError::Credentials),
            (
                "http://u:secret%0d%0aX:@proxy:1",
                UpstreamError::Credentials,
            ),
            ("http://u:secret%+1@proxy:1", UpstreamError::Credentials),
            (
                "http://u:secret@:1",
                UpstreamError::Host(HostError::Length.text()),
            ),
            (
                "http://u:secret@proxy:99999",
                UpstreamError::Host(HostError::Port.text()),
            ),
        ] {
            let refused = url.parse::<UpstreamProxy>().unwrap_err();
            assert_eq!(refused, error, "{url}");
            assert!(!refused.to_string().contains("secret"));
        }
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let texts = ["", "f", "fo", "foo", "foob", "fooba", "foobar"];
        let coded = [
            "", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy",
        ];
        assert_eq!(texts.map(|text| base64(text.as_bytes())), coded);
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }
}
