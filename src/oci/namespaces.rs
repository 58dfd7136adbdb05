//! `linux.namespaces` of a configuration.
//!
//! A guest has everything of its own, so a new namespace is what there is anyway. One that is shared with the host or with
//! another container is what a machine cannot give. The network's is entered all the same, or made: what the engine has put
//! into it shows there, hooks find it by the process's number, and a proxy of the guest's speaks from it.

use std::fs::{self, File};
use std::io;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::error::{Result, at, host};
use super::refusals::{Refusals, refuse};
use super::spec::{Linux, Namespace, Spec};
use std::os::fd::AsFd;
use std::path::Path;

/// The network namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Network {
    /// A new one, with nothing in it but what hooks put there.
    New,
    /// This one.
    Of(String),
    /// That of the process which creates the container.
    Hosts,
}

/// Interfaces that a kernel puts into every namespace where their drivers are loaded (`fb_tunnels_only_for_init_net` in
/// Documentation/admin-guide/sysctl/net.rst), and the loopback.
const ALWAYS: [&str; 11] = [
    "lo", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0",
    "ip6gre0", "teql0",
];

/// Checks the namespaces of a configuration and returns what the network's is to be.
///
/// # Errors
/// One is to be shared that cannot be.
pub(super) fn check(spec: &Spec, refusals: &Refusals) -> Result<Network> {
    let linux = &spec.linux;
    let mut kinds: Vec<&str> = Vec::new();
    for Namespace { kind, path } in &linux.namespaces {
        if kinds.contains(&kind.as_str()) {
            let what = format!("linux.namespaces: {kind}: given twice");
            return Err(refuse(what, "give it once"));
        }
        kinds.push(kind);
        let shared = |name| {
            let what = format!(
                "linux.namespaces: {kind}: {path}: a machine has its own and joins no other"
            );
            refusals.refuse(name, what)
        };
        match (kind.as_str(), path.as_str()) {
            ("network" | "mount" | "cgroup" | "pid" | "ipc" | "uts" | "user" | "time", "") => {}
            // Containers of a pod are given the sandbox's in any case, whether they use them or not.
            ("ipc" | "uts", _) if spec.is_in_pod() => {}
            ("network" | "mount" | "cgroup", _) => {}
            ("pid", _) => shared("pid")?,
            ("ipc", _) => shared("ipc")?,
            ("uts", _) => shared("uts")?,
            ("user", _) => shared("user")?,
            ("time", _) => shared("time")?,
            _ => {
                let what = format!("linux.namespaces: {kind:?}: no kind of namespace");
                return Err(refuse(what, "take one of the specification's"));
            }
        }
    }
    for kind in ["pid", "ipc"] {
        if !kinds.contains(&kind) && !spec.is_pod_sandbox() {
            let what = format!(
                "linux.namespaces: {kind}: none is the host's, which a machine does not see"
            );
            refusals.refuse(if kind == "pid" { "pid" } else { "ipc" }, what)?;
        }
    }
    if linux.time_offsets.is_some() {
        refusals.refuse(
            "time",
            "linux.timeOffsets: the guest's clocks are not shifted",
        )?;
    }
    Ok(network(linux))
}

/// Returns what the network's namespace is to be.
pub(super) fn network(linux: &Linux) -> Network {
    let network = linux.namespaces.iter().find(|ns| ns.kind == "network");
    match network.map(|ns| ns.path.as_str()) {
        None => Network::Hosts,
        Some("") => Network::New,
        Some(path) => Network::Of(path.to_owned()),
    }
}

impl Network {
    /// Makes the network namespace that of the calling thread, and of those that it starts.
    ///
    /// # Errors
    /// It cannot be entered, or made.
    pub(super) fn enter(&self) -> Result<()> {
        match self {
            Self::Hosts => Ok(()),
            Self::New => new_network().map_err(host("a new network namespace")),
            Self::Of(path) => {
                let namespace = File::open(path).map_err(at(Path::new(path)))?;
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), kind).map_err(|error| {
                    host(format!("linux.namespaces: network: {path}"))(error.into())
                })
            }
        }
    }

    /// Checks that nobody expects the guest to use the network that the calling thread has.
    ///
    /// # Errors
    /// It is the host's, or has an interface.
    pub(super) fn check(&self, refusals: &Refusals) -> Result<()> {
        let has_no = "a machine has no network card; take the engine's network \"none\"";
        if *self == Self::Hosts {
            let what = format!("linux.namespaces: network: none is the host's, but {has_no}");
            return refusals.refuse("network", what);
        }
        let names = interfaces().map_err(host("/proc/thread-self/net/dev"))?;
        match names.iter().find(|name| !ALWAYS.contains(&name.as_str())) {
            Some(name) => {
                let what =
                    format!("linux.namespaces: network: has the interface {name}, but {has_no}");
                refusals.refuse("network", what)
            }
            None => Ok(()),
        }
    }
}

/// Returns the names of the network interfaces of the calling thread's namespace.
fn interfaces() -> io::Result<Vec<String>> {
    let table = fs::read_to_string("/proc/thread-self/net/dev")?;
    let names = table.lines().filter_map(|line| line.split_once(':'));
    Ok(names.map(|(name, _)| name.trim().to_owned()).collect())
}

#[allow(unsafe_code)]
fn new_network() -> io::Result<()> {
    // SAFETY: only sharing of memory or of descriptors with other threads is what code may rely on, and neither is changed.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.map_err(Into::into)
}
