//! The network of a run: the process that reaches what the rules allow, the command's environment, and what was reached.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process;

use serde::Serialize;

use crate::error::Result;
use crate::request::{Command, Network};
use crate::way_out;
use rdvm_proto::NET_PORT;
use rdvm_proxy::{Proxy, Published, Reached, Record, Refused, Settings};
use rdvm_vmm::guest::net_link::NetLink;

/// The word by which rdvm's own program is the proxy.
pub const PROXY_VERB: &str = "network-proxy";

/// The variables by which programs find a proxy, with what is before and behind its address: those of curl and most others, in
/// both spellings; Node 24 and newer; Java.
const VARIABLES: [(&str, Value); 8] = [
    ("http_proxy", Value::Url),
    ("https_proxy", Value::Url),
    ("HTTP_PROXY", Value::Url),
    ("HTTPS_PROXY", Value::Url),
    ("no_proxy", Value::Text(OWN)),
    ("NO_PROXY", Value::Text(OWN)),
    ("NODE_USE_ENV_PROXY", Value::Text("1")),
    ("JAVA_TOOL_OPTIONS", Value::Java),
];

/// The names of the guest itself.
const OWN: &str = "localhost,127.0.0.1,::1";

/// A variable's value.
enum Value {
    Url,
    Java,
    Text(&'static str),
}

/// The network as the report has it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct NetworkFacts {
    /// Hosts and ports that the guest reached.
    pub reached: Vec<Reached>,
    /// Hosts and ports that it was refused.
    pub refused: Vec<Refused>,
    /// Ports of the host that led into the guest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<PublishedPort>,
    /// Variables of the proxy that the image or the user has set otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overridden: Vec<String>,
    /// The error that ended the network, if one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

/// A port of the host that led into the guest.
#[derive(Debug, Clone, Serialize)]
pub struct PublishedPort {
    /// Address and port on the host.
    pub address: String,
    /// The port in the guest.
    pub guest_port: u16,
}

/// A network about to be there: its ports are listened on.
#[derive(Debug)]
pub(crate) struct PreparedNetwork {
    settings: Settings,
    program: PathBuf,
    published: Vec<Published>,
    /// The user has chosen the number of the port on the host.
    is_chosen: Vec<bool>,
    facts: NetworkFacts,
}

/// A running proxy.
#[derive(Debug)]
pub(crate) struct RunningNetwork {
    proxy: Proxy,
    facts: NetworkFacts,
}

impl PreparedNetwork {
    /// Listens on the ports of a request for `command`; `None` if it has no network.
    ///
    /// # Errors
    /// A port is taken, or its address is not the host's.
    pub(crate) fn listen(network: &Network, command: &Command) -> Result<Option<Self>> {
        if !network.is_wanted() {
            return Ok(None);
        }
        let published = network.publish.iter().map(|rule| rule.listen());
        let published = published.collect::<std::result::Result<Vec<_>, _>>()?;
        let ports = published.iter().filter_map(|port| {
            let address = port.listener.local_addr().ok()?.to_string();
            Some(PublishedPort {
                address,
                guest_port: port.guest_port,
            })
        });
        let facts = NetworkFacts {
            published: ports.collect(),
            overridden: match network.has_proxy() {
                true => overridden(command),
                false => Vec::new(),
            },
            ..NetworkFacts::default()
        };
        let program = network.program.clone();
        Ok(Some(Self {
            settings: Settings {
                allow: network.allow.clone(),
                upstream: network.upstream.clone(),
                remedy: way_out::ALLOW.to_owned(),
            },
            program: program.unwrap_or_else(|| "/proc/self/exe".into()),
            published,
            is_chosen: network.publish.iter().map(|rule| rule.has_port()).collect(),
            facts,
        }))
    }

    /// Returns a line for each published port; `any` leaves out those whose number the user has chosen.
    pub(crate) fn lines(&self, any: bool) -> Vec<String> {
        let ports = self.facts.published.iter().zip(&self.is_chosen);
        let told = ports.filter(|(_, is_chosen)| !(any && **is_chosen));
        let line = |port: &PublishedPort| {
            let PublishedPort {
                address,
                guest_port,
            } = port;
            format!("network: {address} leads to port {guest_port} of the guest")
        };
        told.map(|(port, _)| line(port)).collect()
    }

    /// Starts the process; returns it and the link to it.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start(self) -> Result<(RunningNetwork, NetLink)> {
        let mut command = process::Command::new(self.program);
        command.arg(PROXY_VERB);
        let (proxy, link) = Proxy::start(command, &self.settings, self.published)?;
        let facts = self.facts;
        Ok((RunningNetwork { proxy, facts }, NetLink::new(link.into())))
    }
}

impl RunningNetwork {
    /// Waits for the end of the process, whose link is closed; returns what it has recorded.
    pub(crate) fn finish(self) -> NetworkFacts {
        let (record, complaint) = self.proxy.finish();
        let Record {
            reached,
            refused,
            fault,
            ..
        } = record;
        NetworkFacts {
            reached,
            refused,
            fault: fault.or(complaint),
            ..self.facts
        }
    }
}

impl NetworkFacts {
    /// Returns a line for each host and port that was refused.
    pub fn lines(&self) -> Vec<String> {
        let refused = self.refused.iter().map(|refused| {
            let Refused {
                host,
                port,
                reason,
                rule,
                times,
            } = refused;
            let times = match times {
                1 => String::new(),
                times => format!(" ({times} times)"),
            };
            let way_out = way_out::ALLOW.replace("{}", rule);
            format!("network: {host}:{port}: {reason}{times}; {way_out}")
        });
        let fault = self.fault.iter();
        refused
            .chain(fault.map(|fault| format!("network: {fault}")))
            .collect()
    }
}

/// Returns the variables for a command that has a proxy.
pub(crate) fn environment() -> Vec<String> {
    let url = format!("http://127.0.0.1:{NET_PORT}");
    let java = ["http", "https"]
        .map(|scheme| format!("-D{scheme}.proxyHost=127.0.0.1 -D{scheme}.proxyPort={NET_PORT}"));
    let entries = VARIABLES.iter().map(|(name, value)| match value {
        Value::Url => format!("{name}={url}"),
        Value::Java => format!("{name}={}", java.join(" ")),
        Value::Text(text) => format!("{name}={text}"),
    });
    entries.collect()
}

fn overridden(command: &Command) -> Vec<String> {
    let own = |name: &&str| {
        command.env.iter().any(|entry| {
            let rest = entry.as_bytes().strip_prefix(name.as_bytes());
            rest.is_some_and(|rest| rest.starts_with(b"="))
        })
    };
    let names = VARIABLES.iter().map(|(name, _)| *name);
    names.filter(own).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_own_settings_are_known_by_their_names() {
        let command = Command {
            env: vec!["http_proxy=x".into(), "no_proxyX=1".into(), "A=b".into()],
            ..Command::default()
        };
        assert_eq!(overridden(&command), ["http_proxy"]);
    }

    #[test]
    fn what_was_refused_is_one_line_each() {
        let refused = |times| Refused {
            host: "a.example".into(),
            port: 80,
            reason: "is not allowed".into(),
            rule: "a.example".into(),
            times,
        };
        let facts = NetworkFacts {
            refused: vec![refused(1), refused(3)],
            fault: Some("over".into()),
            ..NetworkFacts::default()
        };
        let lines = [
            "network: a.example:80: is not allowed; --allow a.example allows it",
            "network: a.example:80: is not allowed (3 times); --allow a.example allows it",
            "network: over",
        ];
        assert_eq!(facts.lines(), lines);
    }
}
