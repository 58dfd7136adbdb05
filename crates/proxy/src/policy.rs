//! Which hosts, ports and addresses a guest may reach.

use std::net::IpAddr;

use crate::address::{is_own, why_not_public};
use crate::host::Host;
use crate::rules::AllowRule;

/// The longest reason in bytes.
#[cfg(test)]
pub(crate) const REASON_MAX: usize = 120;

/// The rules of a run.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) rules: Vec<AllowRule>,
    /// The way out for a refused request, with `{}` in place of the rule that would allow it.
    pub(crate) remedy: String,
}

/// A host or an address that may not be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Denied {
    /// The reason, to be read behind the host and port.
    pub(crate) reason: String,
    /// The rule that would allow it.
    pub(crate) rule: String,
}

impl Policy {
    /// Decides on a request by its host and port. The addresses of a name that is allowed are decided on by
    /// [`Policy::permit_address`].
    pub(crate) fn permit(&self, host: &Host, port: u16) -> Result<(), Denied> {
        if self.rules.iter().any(|rule| rule.names(host, port)) {
            return Ok(());
        }
        let all_public = self.rules.iter().any(|rule| rule.names_all_public(port));
        match host {
            Host::Address(address) if all_public => self.permit_address(*address, port),
            Host::Name(_) if all_public => Ok(()),
            host => Err(Denied {
                reason: "is not allowed".into(),
                rule: rule_for(host, port),
            }),
        }
    }

    /// Decides on one of the addresses of a name that is allowed.
    pub(crate) fn permit_address(&self, address: IpAddr, port: u16) -> Result<(), Denied> {
        let address = address.to_canonical();
        let host = Host::Address(address);
        let own = || is_own(address).then_some("an address of this computer");
        let Some(name) = why_not_public(address).or_else(own) else {
            return Ok(());
        };
        if self.rules.iter().any(|rule| rule.names(&host, port)) {
            return Ok(());
        }
        Err(Denied {
            reason: format!("leads to {host}, which is {name}"),
            rule: rule_for(&host, port),
        })
    }

    /// Returns the way out of a refusal.
    pub(crate) fn remedy(&self, denied: &Denied) -> String {
        self.remedy.replace("{}", &denied.rule)
    }
}

fn rule_for(host: &Host, port: u16) -> String {
    match port {
        80 | 443 => host.to_string(),
        _ => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Authority;

    fn policy(rules: &[&str]) -> Policy {
        Policy {
            rules: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
            remedy: "allow {}".into(),
        }
    }

    fn permits(rules: &[&str], host: &str, port: u16) -> bool {
        let host = Authority::parse(host).unwrap().host;
        policy(rules).permit(&host, port).is_ok()
    }

    #[test]
    fn names_are_allowed_by_name_and_addresses_by_address() {
        assert!(permits(&["a.example"], "A.example.", 443));
        assert!(!permits(&["a.example"], "b.example", 443));
        assert!(!permits(&["a.example"], "a.example", 22));
        assert!(!permits(&["a.example"], "8.8.8.8", 443));
        assert!(permits(&["8.8.8.8"], "0x08.8.2056", 443));
        assert!(!permits(&[], "a.example", 80));
        // Any public address, by name or number, and none that is not.
        assert!(permits(&["*"], "a.example", 80) && permits(&["*"], "8.8.8.8", 443));
        assert!(!permits(&["*"], "a.example", 22));
        for literal in [
            "127.0.0.1",
            "2130706433",
            "0x7f.1",
            "0177.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "169.254.169.254",
            "[fd00:ec2::254]",
            "[64:ff9b::a00:1]",
            "[2002:a00:1::]",
            "10.0.0.1",
            "100.64.0.1",
            "0.0.0.0",
            "[::]",
        ] {
            assert!(!permits(&["*", "a.example"], literal, 80), "{literal}");
        }
        assert!(permits(&["*", "127.0.0.1:80"], "2130706433", 80));
    }

    #[test]
    fn an_address_of_a_name_is_public_or_allowed_itself() {
        let address = |text: &str| text.parse().unwrap();
        let rules = policy(&["a.example:8080", "10.0.0.1:8080"]);
        assert_eq!(rules.permit_address(address("8.8.8.8"), 8080), Ok(()));
        assert_eq!(rules.permit_address(address("10.0.0.1"), 8080), Ok(()));
        assert_eq!(
            rules.permit_address(address("::ffff:10.0.0.1"), 8080),
            Ok(())
        );
        for (text, reason) in [
            ("10.0.0.2", "leads to 10.0.0.2, which is private"),
            ("::1", "leads to [::1], which is loopback"),
        ] {
            let denied = rules.permit_address(address(text), 8080).unwrap_err();
            assert_eq!(denied.reason, reason);
            assert!(rules.remedy(&denied).starts_with("allow "), "{denied:?}");
        }
        let other_port = rules.permit_address(address("10.0.0.1"), 80);
        assert_eq!(rules.remedy(&other_port.unwrap_err()), "allow 10.0.0.1");
        let other_port = rules.permit_address(address("10.0.0.1"), 81);
        assert_eq!(rules.remedy(&other_port.unwrap_err()), "allow 10.0.0.1:81");
    }

    #[test]
    fn no_reason_is_longer_than_the_record_has_room_for() {
        let longest = "1111:1111:1111:1111:1111:1111:1111:1111".parse().unwrap();
        let denied = policy(&[]).permit_address(longest, 80).unwrap_err();
        assert!(denied.reason.len() + "an address of this computer".len() <= REASON_MAX);
    }
}
