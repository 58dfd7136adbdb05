//! `process` of a configuration → the command.

use std::ffi::OsString;

use super::error::Result;
use super::refusals::{Refusals, refuse};
use super::spec::{CapabilityNames, Process, Spec};
use crate::request::{Capabilities, Command, Id, Privileges, ULIMITS, Ulimit, UserSpec};

/// The capabilities by their numbers (`include/uapi/linux/capability.h`).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Returns the names of all capabilities, as capabilities(7) has them.
pub(super) fn capability_names() -> impl Iterator<Item = String> {
    CAPABILITIES.iter().map(|name| format!("CAP_{name}"))
}

/// Returns the command of a configuration.
///
/// # Errors
/// It is incomplete, or asks for what the guest has not.
pub(super) fn command(
    spec: &Spec,
    process: &Process,
    refusals: &Refusals,
    warnings: &mut Vec<String>,
) -> Result<Command> {
    let needs = |what: &str, way_out: &str| refuse(format!("process.{what}"), way_out);
    if process.args.is_empty() {
        return Err(needs("args: there is no program", "name one"));
    }
    if !process.cwd.starts_with('/') {
        return Err(needs("cwd: not an absolute path", "begin it with a slash"));
    }
    let members = [
        (process.io_priority.is_some(), "ioPriority"),
        (process.scheduler.is_some(), "scheduler"),
        (process.exec_cpu_affinity.is_some(), "execCPUAffinity"),
    ];
    for (_, name) in members.iter().filter(|(is_set, _)| *is_set) {
        refusals.refuse("scheduler", format!("process.{name}: is not passed on"))?;
    }
    if let Some(entry) = process.env.iter().find(|entry| entry.starts_with('=')) {
        return Err(needs(
            &format!("env: {entry:?}: no name"),
            "write NAME=VALUE",
        ));
    }
    let words = |list: &[String]| list.iter().map(OsString::from).collect();
    Ok(Command {
        entrypoint: None,
        argv: words(&process.args),
        env: words(&process.env),
        exact_env: true,
        workdir: Some(process.cwd.clone().into()),
        user: Some(UserSpec {
            user: Id::Number(process.user.uid),
            group: Some(Id::Number(process.user.gid)),
        }),
        groups: Some(process.user.additional_gids.clone()),
        hostname: hostname(spec),
        ulimits: ulimits(process)?,
        privileges: Privileges {
            // Without them the process keeps none, as runc has it.
            capabilities: Some(capabilities(process, warnings)),
            no_new_privileges: process.no_new_privileges,
            umask: process.user.umask,
        },
    })
}

/// Returns the configuration's host name; without a namespace for it that of the host, as the specification has it.
fn hostname(spec: &Spec) -> Option<OsString> {
    let own = spec.linux.namespaces.iter().any(|ns| ns.kind == "uts");
    match spec.hostname.as_str() {
        "" if !own => {
            let uname = rustix::system::uname();
            Some(uname.nodename().to_string_lossy().into_owned().into())
        }
        "" => None,
        name => Some(name.into()),
    }
}

fn ulimits(process: &Process) -> Result<Vec<Ulimit>> {
    let mut limits: Vec<Ulimit> = Vec::new();
    for limit in &process.rlimits {
        let refused = |why: &str, way_out: &str| {
            refuse(format!("process.rlimits: {}: {why}", limit.kind), way_out)
        };
        let name = limit.kind.strip_prefix("RLIMIT_").unwrap_or_default();
        let known = ULIMITS
            .iter()
            .find(|(known, _)| known.to_uppercase() == name);
        let &(_, resource) =
            known.ok_or_else(|| refused("no limit", "take RLIMIT_NOFILE or the like"))?;
        if limits.iter().any(|other| other.resource == resource) {
            return Err(refused("given twice", "give it once"));
        }
        if limit.soft > limit.hard {
            return Err(refused(
                "soft is more than hard",
                "lower soft or raise hard",
            ));
        }
        limits.push(Ulimit {
            resource,
            soft: limit.soft,
            hard: limit.hard,
        });
    }
    Ok(limits)
}

fn capabilities(process: &Process, warnings: &mut Vec<String>) -> Capabilities {
    let none = CapabilityNames::default();
    let sets = process.capabilities.as_ref().unwrap_or(&none);
    let mut bits = |names: &[String]| -> u64 {
        let known = names.iter().filter_map(|name| {
            let short = name.strip_prefix("CAP_");
            let number =
                short.and_then(|short| CAPABILITIES.iter().position(|known| *known == short));
            // The specification: what cannot be granted is a warning.
            if number.is_none() {
                warnings.push(format!("process.capabilities: {name:?}: no capability"));
            }
            number
        });
        known.fold(0, |bits, number| bits | 1u64 << number)
    };
    let mut sets = Capabilities {
        bounding: bits(&sets.bounding),
        effective: bits(&sets.effective),
        inheritable: bits(&sets.inheritable),
        permitted: bits(&sets.permitted),
        ambient: bits(&sets.ambient),
    };
    // The kernel's rule (capabilities(7)); engines write such sets, and runc leaves out what cannot be.
    sets.effective &= sets.permitted;
    sets.ambient &= sets.permitted & sets.inheritable;
    sets
}
