//! The guest's network: what it may reach, and what reaches it.

use std::path::PathBuf;

pub use rdvm_proxy::{AllowRule, PublishRule, UpstreamProxy};

/// The network of a run; the default is none.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// Hosts and ports that the guest reaches by an HTTP proxy. There is none without a rule.
    pub allow: Vec<AllowRule>,
    /// The proxy's own proxy.
    pub upstream: Option<UpstreamProxy>,
    /// Ports of the host that lead into the guest.
    pub publish: Vec<PublishRule>,
    /// The program that is the proxy when it is called with the word `network-proxy`, which `rdvm` is and a program that calls
    /// `rdvm_proxy::main` for it. By default the running program.
    pub program: Option<PathBuf>,
}

impl Network {
    /// True if there is any.
    pub(crate) fn is_wanted(&self) -> bool {
        self.has_proxy() || !self.publish.is_empty()
    }

    /// Returns a line for the proxy, and one for each port.
    pub fn lines(&self) -> Vec<String> {
        let rules: Vec<String> = self.allow.iter().map(ToString::to_string).collect();
        let upstream = self.upstream.iter();
        let upstream: String = upstream.map(|url| format!(", by {url}")).collect();
        let proxy = self.has_proxy();
        let proxy = proxy.then(|| format!("network: proxy to {}{upstream}", rules.join(", ")));
        let ports = self.publish.iter().map(|rule| format!("network: {rule}"));
        proxy.into_iter().chain(ports).collect()
    }

    /// True if the guest has a proxy.
    pub(crate) fn has_proxy(&self) -> bool {
        !self.allow.is_empty()
    }
}
