//! The host and port of a request or a rule. A numeric host is an address in whatever notation a resolver would read it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest name in bytes.
const NAME_MAX: usize = 253;
/// The longest part of a name in bytes.
const LABEL_MAX: usize = 63;

/// A host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// A name to be resolved, in lower case and without a dot at its end.
    Name(String),
    /// An address; one of IPv4 that is mapped into IPv6 is one of IPv4.
    Address(IpAddr),
}

/// A host, and a port if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Authority {
    pub(crate) host: Host,
    pub(crate) port: Option<u16>,
}

/// Why a text is no host and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostError {
    UserInfo,
    Characters,
    Length,
    Address,
    Zone,
    Port,
}

impl HostError {
    /// Returns the reason in words.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::UserInfo => "a user name has no place in a host",
            Self::Characters => "the host has characters that no host name has",
            Self::Length => "the host is empty, too long or has an empty part",
            Self::Address => "the host is not a valid IP address",
            Self::Zone => "IPv6 zones cannot be used",
            Self::Port => "the port is not a number from 1 to 65535",
        }
    }
}

impl Authority {
    /// Parses `HOST`, `HOST:PORT` or `[IPv6]:PORT`.
    pub(crate) fn parse(text: &str) -> Result<Self, HostError> {
        if text.contains('@') {
            return Err(HostError::UserInfo);
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']').ok_or(HostError::Address)?;
                let port = match rest {
                    "" => None,
                    _ => Some(rest.strip_prefix(':').ok_or(HostError::Address)?),
                };
                (ipv6(address)?, port)
            }
            None => match text.split_once(':') {
                Some((host, port)) => (Host::parse(host)?, Some(port)),
                None => (Host::parse(text)?, None),
            },
        };
        let port = port.map(parse_port).transpose()?;
        Ok(Self { host, port })
    }
}

/// Parses a port, by digits alone.
pub(crate) fn parse_port(text: &str) -> Result<u16, HostError> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|&port| is_number && port > 0);
    port.ok_or(HostError::Port)
}

fn ipv6(text: &str) -> Result<Host, HostError> {
    if text.contains('%') {
        return Err(HostError::Zone);
    }
    let address: Ipv6Addr = text.parse().map_err(|_| HostError::Address)?;
    Ok(Host::Address(address.to_canonical()))
}

impl Host {
    /// Parses a name or an IPv4 address.
    pub(crate) fn parse(text: &str) -> Result<Self, HostError> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !text.bytes().all(is_part) {
            return Err(HostError::Characters);
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        let labels = || text.split('.');
        if text.len() > NAME_MAX || !labels().all(|part| (1..=LABEL_MAX).contains(&part.len())) {
            return Err(HostError::Length);
        }
        // A resolver reads it as an address if its last part is a number; a domain's last part never is.
        match labels().next_back().is_some_and(is_number) {
            true => ipv4(text).map(|address| Self::Address(address.into())),
            false => Ok(Self::Name(text.to_ascii_lowercase())),
        }
    }
}

fn is_number(part: &str) -> bool {
    let part = part.as_bytes();
    part.iter().all(u8::is_ascii_digit)
        || matches!(part, [b'0', b'x' | b'X', digits @ ..] if digits.iter().all(u8::is_ascii_hexdigit))
}

/// Parses one to four parts, each decimal, octal or hexadecimal, the last of which has the bytes that remain: inet_aton(3).
fn ipv4(text: &str) -> Result<Ipv4Addr, HostError> {
    let number = |part: &str| match part.as_bytes() {
        _ if !is_number(part) => None,
        [b'0', b'x' | b'X'] => Some(0),
        [b'0', b'x' | b'X', ..] => u64::from_str_radix(&part[2..], 16).ok(),
        [b'0', _, ..] => u64::from_str_radix(part, 8).ok(),
        _ => part.parse().ok(),
    };
    let parts: Option<Vec<u64>> = text.split('.').map(number).collect();
    let parts = parts.filter(|parts| parts.len() <= 4);
    let address = parts.and_then(|parts| {
        let (last, first) = parts.split_last()?;
        let bits = 8 * (4 - first.len() as u32);
        let is_small = first.iter().all(|&part| part < 256) && *last < 1 << bits;
        let first = first.iter().fold(0, |sum, part| sum << 8 | part);
        is_small.then(|| Ipv4Addr::from((first << bits | last) as u32))
    });
    address.ok_or(HostError::Address)
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(String, Option<u16>), HostError> {
        Authority::parse(text).map(|authority| (authority.host.to_string(), authority.port))
    }

    #[test]
    fn names_are_lower_case_and_end_without_a_dot() {
        let name = |text: &str| Authority::parse(text).unwrap().host;
        for text in [
            "Example.ORG",
            "example.org.",
            "example.org",
            "EXAMPLE.org.:80",
        ] {
            assert_eq!(name(text), Host::Name("example.org".into()), "{text}");
        }
        assert_eq!(parsed("a_b-c.d:65535"), Ok(("a_b-c.d".into(), Some(65535))));
        // Numbers are in other places of names, and look like hexadecimal ones.
        for text in ["1.2.3.4.example", "0x7f", "1e100.net", "3com", "deb12"] {
            let is_name = matches!(name(text), Host::Name(_));
            assert_eq!(is_name, text != "0x7f", "{text}");
        }
    }

    #[test]
    fn addresses_are_known_in_every_notation() {
        for text in [
            "127.0.0.1",
            "127.1",
            "127.0.1",
            "2130706433",
            "0x7f000001",
            "0X7F.1",
            "0177.0.0.01",
            "017700000001",
            "127.0.0.1.",
            "0x7f.0.0x0.0x1",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "00000177.1",
        ] {
            assert_eq!(parsed(text), Ok(("127.0.0.1".into(), None)), "{text}");
        }
        assert_eq!(parsed("[::1]:8080"), Ok(("[::1]".into(), Some(8080))));
        assert_eq!(parsed("[0:0::0:1]"), Ok(("[::1]".into(), None)));
        for text in [
            "256.0.0.1",
            "1.2.3.256",
            "1.2.3.4.5",
            "4294967296",
            "0x100000000",
            "1.16777216",
            "08.1",
            "a.1",
            "[::1",
            "[::1]x",
            "[127.0.0.1]",
            "[example.org]",
            "[]",
            "0x7fffffffffffffffffff",
            "99999999999999999999999",
        ] {
            assert_eq!(parsed(text), Err(HostError::Address), "{text}");
        }
        assert_eq!(parsed("[fe80::1%eth0]:80"), Err(HostError::Zone));
        assert_eq!(parsed("[fe80::1%25eth0]"), Err(HostError::Zone));
    }

    #[test]
    fn what_is_no_host_or_port_is_refused() {
        for (text, error) in [
            ("allowed.example@evil.example", HostError::UserInfo),
            ("user:word@evil.example:80", HostError::UserInfo),
            ("", HostError::Length),
            (":80", HostError::Length),
            (".", HostError::Length),
            ("a..b", HostError::Length),
            (".a", HostError::Length),
            ("a b", HostError::Characters),
            ("a\0b", HostError::Characters),
            ("a/b", HostError::Characters),
            ("a\\b", HostError::Characters),
            ("a#b", HostError::Characters),
            ("%31%32%37.0.0.1", HostError::Characters),
            ("bücher.example", HostError::Characters),
            ("１２７.0.0.1", HostError::Characters),
            ("127。0。0。1", HostError::Characters),
            ("a:", HostError::Port),
            ("a:0", HostError::Port),
            ("a:+80", HostError::Port),
            ("a:80:80", HostError::Port),
            ("a:65536", HostError::Port),
            ("a: 80", HostError::Port),
            ("[::1]:", HostError::Port),
        ] {
            assert_eq!(parsed(text), Err(error), "{text:?}");
        }
        assert_eq!(parsed(&"a".repeat(64)), Err(HostError::Length));
        assert_eq!(
            parsed(&"a.".repeat(127)),
            Ok(("a.".repeat(127)[..253].into(), None))
        );
        assert_eq!(parsed(&"a.".repeat(128)), Err(HostError::Length));
    }
}
