//! URLs of registries: what the protocol needs of them, and nothing that could lead elsewhere than it seems to.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::reference::is_host;

/// The longest URL in bytes.
const LIMIT: usize = 8 << 10;

/// `http` or `https`, a host with or without a port, a path with or without a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    is_https: bool,
    /// As it was written, in small letters.
    authority: String,
    /// From the slash on.
    path: String,
}

/// Not such a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadUrl;

impl FromStr for Url {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let (scheme, rest) = text.split_once("://").ok_or(BadUrl)?;
        let is_https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(BadUrl),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = path.split('#').next().unwrap_or_default();
        // Neither users, nor spaces, nor control characters.
        let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic());
        match is_host(authority) && is_plain && text.len() <= LIMIT {
            true => Ok(Self {
                is_https,
                authority: authority.to_ascii_lowercase(),
                path: match path.starts_with('/') {
                    true => path.to_owned(),
                    false => format!("/{path}"),
                },
            }),
            false => Err(BadUrl),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

impl Url {
    /// Returns the URL of a path at a host.
    pub(crate) fn new(is_https: bool, host: &str, path: String) -> Self {
        Self {
            is_https,
            authority: host.to_ascii_lowercase(),
            path,
        }
    }

    /// Returns what a redirect from this URL leads to.
    ///
    /// # Errors
    /// It is no URL.
    pub(crate) fn join(&self, location: &str) -> Result<Self, BadUrl> {
        let scheme = if self.is_https { "https" } else { "http" };
        let bare = location.split(['?', '#']).next().unwrap_or_default();
        match location {
            _ if bare.contains("://") => location.parse(),
            _ if location.starts_with("//") => format!("{scheme}:{location}").parse(),
            _ if location.starts_with('/') => {
                format!("{scheme}://{}{location}", self.authority).parse()
            }
            _ => {
                let path = self.path.split('?').next().unwrap_or_default();
                let directory = &path[..path.rfind('/').map_or(0, |at| at + 1)];
                format!("{scheme}://{}{directory}{location}", self.authority).parse()
            }
        }
    }

    /// True for TLS.
    pub(crate) fn is_https(&self) -> bool {
        self.is_https
    }

    /// Returns host and port as they were written.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Returns the host, and the port that is used.
    pub(crate) fn host_and_port(&self) -> (&str, u16) {
        let usual = if self.is_https { 443 } else { 80 };
        let port = |text: &str| text.parse().unwrap_or(usual);
        match self
            .authority
            .strip_prefix('[')
            .and_then(|rest| rest.split_once(']'))
        {
            Some((host, rest)) => (host, port(rest.trim_start_matches(':'))),
            None => match self.authority.split_once(':') {
                Some((host, text)) => (host, port(text)),
                None => (&self.authority, usual),
            },
        }
    }

    /// True if both are of one scheme, host and port.
    pub(crate) fn has_origin_of(&self, other: &Self) -> bool {
        self.is_https == other.is_https && self.host_and_port() == other.host_and_port()
    }

    /// True for an address of this host.
    pub(crate) fn is_loopback(&self) -> bool {
        let (host, _) = self.host_and_port();
        host == "localhost"
            || host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_where_its_location_says() {
        let from: Url = "https://r.example:5000/v2/a/blobs/x?q=1".parse().unwrap();
        for (location, to) in [
            ("https://cdn.example/b?s=//", "https://cdn.example/b?s=//"),
            ("HTTP://CDN.example", "http://cdn.example/"),
            ("//cdn.example/b", "https://cdn.example/b"),
            ("/b?u=http://x", "https://r.example:5000/b?u=http://x"),
            ("y?z", "https://r.example:5000/v2/a/blobs/y?z"),
            ("/b#part", "https://r.example:5000/b"),
        ] {
            assert_eq!(from.join(location).unwrap().to_string(), to, "{location}");
        }
        for location in [
            "ftp://x/",
            "https://u@x/",
            "https:///b",
            "/a b",
            "/a\r\nb",
            "file:///etc",
            "https://x:y/",
        ] {
            assert_eq!(from.join(location), Err(BadUrl), "{location}");
        }
    }

    #[test]
    fn origins_differ_by_scheme_host_and_port() {
        let url = |text: &str| text.parse::<Url>().unwrap();
        assert!(url("https://x/a").has_origin_of(&url("https://X:443/b")));
        for other in ["http://x/", "https://x:444/", "https://y/", "https://x.y/"] {
            assert!(!url("https://x/").has_origin_of(&url(other)), "{other}");
        }
        for (text, loopback) in [
            ("http://127.9.0.1/", true),
            ("http://[::1]:5/", true),
            ("http://localhost:1/", true),
            ("http://127.0.0.1.example/", false),
        ] {
            assert_eq!(url(text).is_loopback(), loopback, "{text}");
        }
    }
}
