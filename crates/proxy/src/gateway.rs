//! The parts that all connections of a proxy share, and the state of one that its stream shares.

use std::fmt;
use std::io;
use std::net::{IpAddr, Shutdown, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::policy::{Denied, Policy};
use crate::record::Ledger;
use crate::refusal::Refusal;
use crate::rules::AllowRule;
use crate::upstream::UpstreamProxy;

/// The destinations that a guest may reach, and the way to them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Settings {
    /// The rules, of which one has to match.
    pub allow: Vec<AllowRule>,
    /// The proxy that requests are passed on to. It resolves the names then, so that a name that is allowed leads to wherever
    /// that proxy can reach.
    pub upstream: Option<UpstreamProxy>,
    /// The way out that the response to a refused request ends with; `{}` in it stands for the rule that would allow it.
    pub remedy: String,
}

/// How long a connection waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For the first byte of the next request.
    pub(crate) idle: Duration,
    /// For the rest of a request's head.
    pub(crate) head: Duration,
    /// For a connection to a server.
    pub(crate) connect: Duration,
    /// For a server's next byte.
    pub(crate) answer: Duration,
    /// For a client that still sends after the last response.
    pub(crate) linger: Duration,
}

/// The time that real clients and servers need.
pub(crate) const PATIENCE: Patience = Patience {
    idle: Duration::from_secs(60),
    head: Duration::from_secs(30),
    connect: Duration::from_secs(30),
    answer: Duration::from_secs(300),
    linger: Duration::from_secs(2),
};

/// Looks a name up.
pub(crate) type Resolve = Box<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// The rules, and what else all connections share.
pub(crate) struct Gateway {
    pub(crate) policy: Policy,
    pub(crate) upstream: Option<UpstreamProxy>,
    pub(crate) resolve: Resolve,
    pub(crate) patience: Patience,
    pub(crate) ledger: Ledger,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("policy", &self.policy)
            .field("upstream", &self.upstream)
            .finish_non_exhaustive()
    }
}

impl Gateway {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            policy: Policy {
                rules: settings.allow,
                remedy: settings.remedy,
            },
            upstream: settings.upstream,
            resolve: Box::new(|name| {
                let addresses = (name, 0).to_socket_addrs()?;
                Ok(addresses.map(|address| address.ip()).collect())
            }),
            patience: PATIENCE,
            ledger: Ledger::default(),
        }
    }

    /// Decides on a request; one that is refused is noted.
    pub(crate) fn permit(&self, host: &Host, port: u16) -> Result<(), Refusal> {
        let permitted = self.policy.permit(host, port);
        permitted.map_err(|denied| self.refuse(host, port, &denied))
    }

    /// Decides on an address of a host that is allowed.
    pub(crate) fn permit_address(
        &self,
        host: &Host,
        port: u16,
        address: IpAddr,
    ) -> Result<(), Denied> {
        match host {
            // It was decided on as the host.
            Host::Address(_) => Ok(()),
            Host::Name(_) => self.policy.permit_address(address, port),
        }
    }

    /// Notes a refused request, and returns the response to it.
    pub(crate) fn refuse(&self, host: &Host, port: u16, denied: &Denied) -> Refusal {
        self.ledger.refused(host.to_string(), port, denied);
        let remedy = self.policy.remedy(denied);
        Refusal::new(403, &format!("{host}:{port}: {}; {remedy}", denied.reason))
    }
}

/// The state that the thread of a connection shares with the loop of all streams.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// The stream is over: the connection to the server is of no use any more.
    over: AtomicBool,
    /// The connection was cut, and has not ended in order.
    cut: AtomicBool,
    origin: Mutex<Option<Arc<TcpStream>>>,
}

impl Session {
    /// Names the connection that is to end with the stream.
    pub(crate) fn attach(&self, origin: Arc<TcpStream>) {
        let mut attached = self.origin.lock().unwrap_or_else(PoisonError::into_inner);
        if self.over.load(Relaxed) {
            let _ = origin.shutdown(Shutdown::Both);
        }
        *attached = Some(origin);
    }

    /// Ends the connection to the server: threads that wait for it go on.
    pub(crate) fn end(&self) {
        let attached = self.origin.lock().unwrap_or_else(PoisonError::into_inner);
        self.over.store(true, Relaxed);
        if let Some(origin) = &*attached {
            let _ = origin.shutdown(Shutdown::Both);
        }
    }

    /// Notes that what was sent is not all that there was.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Relaxed);
    }

    /// Returns true if the connection was cut.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Relaxed)
    }
}
