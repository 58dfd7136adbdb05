//! The options of `rdvm run` for the network.

use clap::{Args, ValueEnum};

use crate::request::{AllowRule, Network, PublishRule, UpstreamProxy};

/// Network of the guest.
#[derive(Debug, Args)]
pub(super) struct NetworkArgs {
    /// Network of the guest (default: none, or proxy with --allow)
    #[arg(
        long,
        alias = "net",
        value_enum,
        value_name = "HOW",
        help_heading = "Network"
    )]
    network: Option<NetworkArg>,
    /// Let the guest reach HOST by its proxy, on ports 80 and 443: a name, *.NAME, an address, or * for any public one; repeatable
    #[arg(long, value_name = "HOST[:PORT]", value_parser = str::parse::<AllowRule>, help_heading = "Network")]
    pub(super) allow: Vec<AllowRule>,
    /// Proxy that the guest's proxy uses, as in http://USER:PASSWORD@HOST:PORT
    #[arg(long, value_name = "URL", value_parser = str::parse::<UpstreamProxy>, help_heading = "Network")]
    upstream_proxy: Option<UpstreamProxy>,
    /// Forward a port of the host to a port of the guest; repeatable
    #[arg(short, long, value_name = "[IP:]PORT:GUESTPORT", value_parser = str::parse::<PublishRule>, help_heading = "Network")]
    pub(super) publish: Vec<PublishRule>,
}

/// `--network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NetworkArg {
    /// Loopback only
    None,
    /// An HTTP proxy on the guest's 127.0.0.1, which reaches what --allow names
    Proxy,
}

/// Options for the network that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A proxy without a rule.
    #[error("--network: a proxy reaches only what is named; add --allow HOST[:PORT]")]
    NothingAllowed,
    /// A network and none.
    #[error("--network none: contradicts --allow and --publish; leave one of them out")]
    NoNetwork,
    /// A network without rings.
    #[error(
        "--ports uart: connections do not go over serial ports; leave it out, or --allow and --publish"
    )]
    ByUart,
    /// A variable of the host's with a proxy that cannot be used.
    #[error("{name}: {source}; or name another with --upstream-proxy")]
    ProxyOfEnv {
        /// The variable.
        name: &'static str,
        /// The error.
        source: rdvm_proxy::UpstreamError,
    },
}

impl NetworkArgs {
    /// Returns the network. There is none without shared memory.
    ///
    /// # Errors
    /// Options that contradict each other; the host's own proxy cannot be used.
    pub(super) fn to_network(&self, only_ports: bool) -> Result<Network, NetworkError> {
        let has_rules = !self.allow.is_empty();
        let is_wanted = has_rules || !self.publish.is_empty();
        match self.network {
            Some(NetworkArg::Proxy) if !has_rules => return Err(NetworkError::NothingAllowed),
            Some(NetworkArg::None) if is_wanted => return Err(NetworkError::NoNetwork),
            _ if self.upstream_proxy.is_some() && !has_rules => {
                return Err(NetworkError::NothingAllowed);
            }
            _ if is_wanted && only_ports => return Err(NetworkError::ByUart),
            _ => {}
        }
        let from_env = || match self.network {
            Some(NetworkArg::Proxy) => upstream_of_env(),
            _ => Ok(None),
        };
        let upstream = self
            .upstream_proxy
            .clone()
            .map_or_else(from_env, |url| Ok(Some(url)));
        Ok(Network {
            allow: self.allow.clone(),
            upstream: upstream?,
            publish: self.publish.clone(),
            program: None,
        })
    }
}

/// Returns the host's own proxy, as curl finds it.
fn upstream_of_env() -> Result<Option<UpstreamProxy>, NetworkError> {
    let url = ["https_proxy", "http_proxy"].into_iter().find_map(|name| {
        let url = std::env::var(name).ok().filter(|url| !url.is_empty())?;
        Some((name, url))
    });
    let parsed = url.map(|(name, url)| {
        let refused = |source| NetworkError::ProxyOfEnv { name, source };
        url.parse().map_err(refused)
    });
    parsed.transpose()
}
