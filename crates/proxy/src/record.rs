//! The record of a run: every host and port that was reached, and every one that was refused.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::policy::Denied;

/// Hosts and ports that have an entry of their own, of those reached and of those refused.
const ENTRIES: usize = 1000;
/// The host of the entry for all others.
const OTHERS: &str = "*";

/// Everything that a guest has reached and tried to reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Record {
    /// Hosts and ports to which there was a connection, sorted. Of more than 1,000 the last to come have one entry together,
    /// with the host `*` and port 0.
    pub reached: Vec<Reached>,
    /// Hosts and ports that were refused, sorted, with the same limit.
    pub refused: Vec<Refused>,
    /// The frame of the guest's that ended the network, if one did.
    pub fault: Option<String>,
}

/// A host and port to which there was a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// The name or address in the request; one of IPv6 is in brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The number of connections.
    pub connections: u64,
    /// Bytes that were sent there.
    pub sent: u64,
    /// Bytes that came from there.
    pub received: u64,
}

/// A host and port that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The name or address in the request; one of IPv6 is in brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The reason, as in "example.org:80: REASON".
    pub reason: String,
    /// The rule that would allow it.
    pub rule: String,
    /// The number of requests.
    pub times: u64,
}

/// The counters of one host and port, which its connections share.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    connections: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
}

/// The record while it is made.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    reached: Mutex<Entries<Arc<Traffic>>>,
    refused: Mutex<Entries<(Denied, u64)>>,
    fault: Mutex<Option<String>>,
}

type Entries<T> = BTreeMap<(String, u16), T>;

/// The entry of this host and port, or that of all others.
fn entry<T: Default>(entries: &mut Entries<T>, host: String, port: u16) -> &mut T {
    let mut key = (host, port);
    if entries.len() >= ENTRIES && !entries.contains_key(&key) {
        key = (OTHERS.into(), 0);
    }
    entries.entry(key).or_default()
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    /// Notes a connection to this host and port; returns the counters for its bytes.
    pub(crate) fn reached(&self, host: String, port: u16) -> Arc<Traffic> {
        let mut entries = locked(&self.reached);
        let traffic = Arc::clone(entry(&mut entries, host, port));
        traffic.connections.fetch_add(1, Relaxed);
        traffic
    }

    /// Notes a request that was refused.
    pub(crate) fn refused(&self, host: String, port: u16, denied: &Denied) {
        let mut entries = locked(&self.refused);
        let (kept, times) = entry(&mut entries, host, port);
        if *times == 0 {
            *kept = denied.clone();
        }
        *times += 1;
    }

    /// Notes the frame that ended the network.
    pub(crate) fn fault(&self, fault: String) {
        *locked(&self.fault) = Some(fault);
    }

    /// Returns the record as it is now.
    pub(crate) fn record(&self) -> Record {
        let reached = locked(&self.reached);
        let reached = reached.iter().map(|((host, port), traffic)| Reached {
            host: host.clone(),
            port: *port,
            connections: traffic.connections.load(Relaxed),
            sent: traffic.sent.load(Relaxed),
            received: traffic.received.load(Relaxed),
        });
        let reached = reached.collect();
        let refused = locked(&self.refused);
        let refused = refused
            .iter()
            .map(|((host, port), (denied, times))| Refused {
                host: host.clone(),
                port: *port,
                reason: denied.reason.clone(),
                rule: denied.rule.clone(),
                times: *times,
            });
        Record {
            reached,
            refused: refused.collect(),
            fault: locked(&self.fault).clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(reason: &str) -> Denied {
        Denied {
            reason: reason.into(),
            rule: "rule".into(),
        }
    }

    #[test]
    fn connections_bytes_and_refusals_add_up() {
        let ledger = Ledger::default();
        for sent in [10, 20] {
            let traffic = ledger.reached("a.example".into(), 80);
            traffic.sent.fetch_add(sent, Relaxed);
            traffic.received.fetch_add(1, Relaxed);
        }
        ledger.reached("a.example".into(), 443);
        ledger.refused("b.example".into(), 80, &denied("is not allowed"));
        ledger.refused("b.example".into(), 80, &denied("is private"));
        let record = ledger.record();
        let reached = |entry: &Reached| (entry.port, entry.connections, entry.sent, entry.received);
        let reached: Vec<_> = record.reached.iter().map(reached).collect();
        assert_eq!(reached, [(80, 2, 30, 2), (443, 1, 0, 0)]);
        let refused = &record.refused[0];
        assert_eq!(
            (refused.times, refused.reason.as_str()),
            (2, "is not allowed")
        );
    }

    #[test]
    fn a_million_hosts_have_a_thousand_entries_and_one() {
        let ledger = Ledger::default();
        for at in 0..1_000_000 {
            ledger.refused(format!("{at}.example"), 80, &denied("is not allowed"));
            if at < 2000 {
                ledger.reached(format!("{at}.example"), 80);
            }
        }
        let record = ledger.record();
        assert_eq!((record.refused.len(), record.reached.len()), (1001, 1001));
        let others = &record.refused[0];
        assert_eq!(
            (others.host.as_str(), others.port, others.times),
            ("*", 0, 999_000)
        );
        assert_eq!(record.reached[0].connections, 1000);
    }
}
