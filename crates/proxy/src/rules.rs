//! The rules as the user writes them: destinations that a guest may reach, and ports by which it is reached.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::str::FromStr;

use rdvm_hostfs::escape::{escaped, reason};
use serde::{Deserialize, Serialize};

use crate::host::{Authority, Host, HostError, parse_port};

/// The ports of a rule that names none.
const PORTS: [u16; 2] = [80, 443];

/// A destination that a guest may reach: `HOST[:PORT]`, where HOST is a name, `*.example.org` for all names below one, `*` for
/// every public address, or an IP address. Without a port these are 80 and 443.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AllowRule {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    /// Every public address, by whatever name.
    Public,
    /// All names that end like this, which begins with a dot.
    Below(String),
    /// One name, or one address.
    One(Host),
}

/// A port of the host that leads to one of the guest's loopback: `[IP:]PORT:GUESTPORT`. The address is 127.0.0.1 unless there is
/// one; port 0 is any that is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishRule {
    address: SocketAddr,
    guest_port: u16,
}

/// A published port: connections that arrive at the listener are carried to the guest's port.
#[derive(Debug)]
pub struct Published {
    /// The socket on the host.
    pub listener: TcpListener,
    /// The port of the guest's loopback.
    pub guest_port: u16,
}

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum RuleError {
    /// Not `HOST[:PORT]`.
    #[error(
        "{rule}: {reason}; write HOST or HOST:PORT, with a name, *.NAME, * or an IP address as HOST"
    )]
    Allow { rule: String, reason: &'static str },
    /// An address in an unusual notation.
    #[error("{rule}: is the address {address}; write that")]
    Notation { rule: String, address: String },
    /// Not `[IP:]PORT:GUESTPORT`.
    #[error("{rule}: {reason}; write PORT:GUESTPORT or IP:PORT:GUESTPORT")]
    Publish { rule: String, reason: &'static str },
    /// The port is taken, or the address is not the host's.
    #[error(
        "{address}: cannot listen there: {reason}; choose another address or port, or port 0 for any that is free"
    )]
    Listen { address: SocketAddr, reason: String },
}

impl AllowRule {
    /// Returns true if the rule names this very host, or a name above it, with this port.
    pub(crate) fn names(&self, host: &Host, port: u16) -> bool {
        let is_host = match (&self.hosts, host) {
            (Hosts::Public, _) => false,
            (Hosts::Below(end), Host::Name(name)) => name.ends_with(end.as_str()),
            (Hosts::Below(_), Host::Address(_)) => false,
            (Hosts::One(one), host) => one == host,
        };
        is_host && self.has_port(port)
    }

    /// Returns true if the rule allows every public address, with this port.
    pub(crate) fn names_all_public(&self, port: u16) -> bool {
        self.hosts == Hosts::Public && self.has_port(port)
    }

    fn has_port(&self, port: u16) -> bool {
        self.port
            .map_or_else(|| PORTS.contains(&port), |only| only == port)
    }

    fn parse(text: &str) -> Result<Self, HostError> {
        let (wild, rest) = match text.strip_prefix('*') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        if wild && (rest.is_empty() || rest.starts_with(':')) {
            let port = rest.strip_prefix(':').map(parse_port).transpose()?;
            return Ok(Self {
                hosts: Hosts::Public,
                port,
            });
        }
        if let Some(rest) = rest.strip_prefix('.').filter(|_| wild) {
            let authority = Authority::parse(rest)?;
            let Host::Name(name) = authority.host else {
                return Err(HostError::Address);
            };
            let hosts = Hosts::Below(format!(".{name}"));
            return Ok(Self {
                hosts,
                port: authority.port,
            });
        }
        let authority = match text.parse::<IpAddr>() {
            Ok(address) => Authority {
                host: Host::Address(address.to_canonical()),
                port: None,
            },
            Err(_) => Authority::parse(text)?,
        };
        Ok(Self {
            hosts: Hosts::One(authority.host),
            port: authority.port,
        })
    }
}

impl FromStr for AllowRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let refused = |error: HostError| RuleError::Allow {
            rule: escaped(text.as_bytes()),
            reason: error.text(),
        };
        let rule = Self::parse(text).map_err(refused)?;
        // An address that only a resolver would take for one is more likely a mistake.
        if let Hosts::One(Host::Address(IpAddr::V4(address))) = rule.hosts {
            let address = address.to_string();
            let is_plain = text.split(':').next() == Some(&address) || text.contains("::ffff:");
            if !is_plain {
                let rule = escaped(text.as_bytes());
                return Err(RuleError::Notation { rule, address });
            }
        }
        Ok(rule)
    }
}

impl fmt::Display for AllowRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hosts {
            Hosts::Public => f.write_str("*")?,
            Hosts::Below(end) => write!(f, "*{end}")?,
            Hosts::One(host) => write!(f, "{host}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl TryFrom<String> for AllowRule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse()
    }
}

impl From<AllowRule> for String {
    fn from(rule: AllowRule) -> Self {
        rule.to_string()
    }
}

impl fmt::Display for PublishRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} leads to port {} of the guest",
            self.address, self.guest_port
        )
    }
}

impl PublishRule {
    /// Returns false if any free port of the host is taken.
    pub fn has_port(&self) -> bool {
        self.address.port() != 0
    }

    /// Listens on the address.
    ///
    /// # Errors
    ///
    /// [`RuleError::Listen`].
    pub fn listen(&self) -> Result<Published, RuleError> {
        let address = self.address;
        let refused = |error: io::Error| RuleError::Listen {
            address,
            reason: reason(&error),
        };
        Ok(Published {
            listener: TcpListener::bind(address).map_err(refused)?,
            guest_port: self.guest_port,
        })
    }
}

impl FromStr for PublishRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let refused = |reason| RuleError::Publish {
            rule: escaped(text.as_bytes()),
            reason,
        };
        let (rest, guest_port) = text
            .rsplit_once(':')
            .ok_or(refused("has no port of the guest"))?;
        let guest_port = parse_port(guest_port)
            .map_err(|_| refused("the guest's port is not a number from 1 to 65535"))?;
        let (address, port) = match rest.rsplit_once(':') {
            None => (Ipv4Addr::LOCALHOST.into(), rest),
            Some((address, port)) => {
                let inside = address
                    .strip_prefix('[')
                    .and_then(|text| text.strip_suffix(']'));
                let address = match inside {
                    Some(inside) => inside.parse().map(IpAddr::V6),
                    None => address.parse().map(IpAddr::V4),
                };
                let address = address.map_err(|_| {
                    refused("the host's address is not an IP address, IPv6 in brackets")
                })?;
                (address, port)
            }
        };
        let port = match port {
            "0" => 0,
            _ => parse_port(port)
                .map_err(|_| refused("the host's port is not a number from 0 to 65535"))?,
        };
        Ok(Self {
            address: SocketAddr::new(address, port),
            guest_port,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> AllowRule {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn names(text: &str, host: &str, port: u16) -> bool {
        rule(text).names(&Authority::parse(host).unwrap().host, port)
    }

    #[test]
    fn a_rule_names_hosts_and_ports_and_no_others() {
        for (text, host, port, expected) in [
            ("example.org", "example.org", 80, true),
            ("example.org", "EXAMPLE.org.", 443, true),
            ("Example.Org.", "example.org", 443, true),
            ("example.org", "example.org", 8080, false),
            ("example.org:8080", "example.org", 8080, true),
            ("example.org:8080", "example.org", 80, false),
            ("example.org", "www.example.org", 80, false),
            ("example.org", "example.org.evil", 80, false),
            ("*.example.org", "www.example.org", 80, true),
            ("*.example.org", "a.b.example.org", 443, true),
            ("*.example.org", "example.org", 80, false),
            ("*.example.org", "badexample.org", 80, false),
            ("*.example.org:81", "a.example.org", 81, true),
            ("*.example.org:81", "a.example.org", 80, false),
            ("10.0.0.1", "10.0.0.1", 80, true),
            ("10.0.0.1", "0xa000001", 80, true),
            ("10.0.0.1", "[::ffff:10.0.0.1]", 80, true),
            ("::ffff:10.0.0.1", "10.0.0.1", 80, true),
            ("10.0.0.1", "10.0.0.2", 80, false),
            ("10.0.0.1:22", "10.0.0.1", 22, true),
            ("::1", "[::1]", 80, true),
            ("[::1]", "[::1]", 443, true),
            ("[::1]:8080", "[0::1]", 8080, true),
            ("[::1]:8080", "[::1]", 80, false),
            ("*", "example.org", 80, false),
        ] {
            assert_eq!(names(text, host, port), expected, "{text} {host}:{port}");
        }
        assert!(rule("*").names_all_public(443) && !rule("*").names_all_public(22));
        assert!(rule("*:22").names_all_public(22) && !rule("*:22").names_all_public(80));
        assert!(!rule("*.example.org").names_all_public(80));
    }

    #[test]
    fn rules_print_as_they_parse() {
        for text in [
            "example.org",
            "*.example.org:81",
            "*",
            "*:22",
            "10.0.0.1:22",
            "[::1]:80",
            "[::1]",
        ] {
            assert_eq!(rule(text).to_string(), text);
            let json = serde_json::to_string(&rule(text)).unwrap();
            assert_eq!(
                serde_json::from_str::<AllowRule>(&json).unwrap(),
                rule(text)
            );
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_in_one_line_with_the_form() {
        for (text, reason) in [
            ("", "the host is empty"),
            ("*x", "characters"),
            ("*.", "the host is empty"),
            ("*.10.0.0.1", "not a valid IP address"),
            ("a.*.b", "characters"),
            ("http://example.org", "the port is not a number"),
            ("example.org/", "characters"),
            ("example.org:0", "the port is not a number"),
            ("example.org:http", "the port is not a number"),
            ("user@example.org", "a user name"),
            ("10.0.0.0/8", "characters"),
            ("fe80::1%eth0", "port"),
            ("[fe80::1%eth0]", "zones"),
            ("a\nb", "characters"),
            ("*:", "the port is not a number"),
        ] {
            let error = text.parse::<AllowRule>().unwrap_err().to_string();
            assert!(
                error.contains(reason) && !error.contains('\n'),
                "{text:?}: {error}"
            );
        }
        let error = "0x7f.1".parse::<AllowRule>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "0x7f.1: is the address 127.0.0.1; write that"
        );
    }

    #[test]
    fn a_published_port_has_an_address_of_the_host_and_a_port_of_the_guest() {
        let parsed = |text: &str| text.parse::<PublishRule>();
        for (text, address, guest_port) in [
            ("8080:80", "127.0.0.1:8080", 80),
            ("0:5432", "127.0.0.1:0", 5432),
            ("0.0.0.0:8080:80", "0.0.0.0:8080", 80),
            ("[::1]:8080:80", "[::1]:8080", 80),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(
                parsed(text),
                Ok(PublishRule {
                    address,
                    guest_port
                }),
                "{text}"
            );
        }
        for text in [
            "",
            "80",
            "80:",
            ":80",
            "80:0",
            "a:80",
            "80:b",
            "::1:80:80",
            "localhost:80:80",
            "70000:80",
            "1:2:3:4",
            "+1:2",
        ] {
            assert!(parsed(text).is_err(), "{text}");
        }
        let one = parsed("0:80").unwrap().listen().unwrap();
        let taken = one.listener.local_addr().unwrap();
        assert_eq!(one.guest_port, 80);
        let again = parsed(&format!("{}:81", taken.port())).unwrap().listen();
        let error = again.unwrap_err().to_string();
        let expected = format!("{taken}: cannot listen there: Address already in use; ");
        assert!(error.starts_with(&expected), "{error}");
    }
}
