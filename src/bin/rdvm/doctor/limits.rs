//! Resource limits of this process: what they are, and which of them are too low for a run.
//!
//! One table of rules; each limit below its rule becomes a finding.

use rustix::process::{Resource, getrlimit};

use rdvm_hostfs::units::ByteSize;

use super::diagnosis::Finding;
use super::facts::HostFacts;
use rdvm::level::Level;

/// Resource limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Open files.
    pub(crate) open_files: Limit,
    /// Processes and threads of the user.
    pub(crate) processes: Limit,
    /// Bytes in a file.
    pub(crate) file_size: Limit,
    /// Bytes of address space.
    pub(crate) address_space: Limit,
}

/// One resource limit; `None` is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limit {
    /// The current limit.
    pub(crate) soft: Option<u64>,
    /// The most that it can be raised to without root.
    pub(crate) hard: Option<u64>,
}

/// The rule for one limit.
struct Rule {
    what: &'static str,
    limit: Limit,
    /// Below this no run works.
    least: u64,
    /// Below this a note is due.
    good: u64,
    shown: fn(u64) -> String,
    /// The value that the remedy sets; `None` is unlimited.
    spec: Option<u64>,
    /// Its letter for the shell's `ulimit` and its name for prlimit(1).
    names: (char, &'static str),
}

impl Limits {
    /// Asks the system.
    pub(super) fn gather() -> Self {
        let limit = |resource| {
            let limit = getrlimit(resource);
            Limit {
                soft: limit.current,
                hard: limit.maximum,
            }
        };
        Self {
            open_files: limit(Resource::Nofile),
            processes: limit(Resource::Nproc),
            file_size: limit(Resource::Fsize),
            address_space: limit(Resource::As),
        }
    }
}

/// A finding for each limit that is too low, else one that names them all.
pub(super) fn check(facts: &HostFacts) -> Vec<Finding> {
    let rules = rules(&facts.limits, facts.user.root);
    let findings: Vec<Finding> = rules.iter().filter_map(Rule::broken).collect();
    if !findings.is_empty() {
        return findings;
    }
    let said = rules.iter().map(|rule| {
        let value = rule.limit.soft.map_or("unlimited".into(), rule.shown);
        format!("{} {value}", rule.what)
    });
    let text = said.collect::<Vec<_>>().join(", ");
    vec![Finding::new("limits", Level::Ok, text, None)]
}

fn rules(limits: &Limits, root: bool) -> [Rule; 4] {
    let number: fn(u64) -> String = |value| value.to_string();
    let bytes: fn(u64) -> String = |value| ByteSize(value).to_string();
    [
        Rule {
            what: "open files",
            limit: limits.open_files,
            // QEMU 7.2 fails at 8 and starts at 16; the rest is for rdvm's own pipes and the image.
            least: 64,
            good: 64,
            shown: number,
            spec: Some(1024),
            names: ('n', "nofile"),
        },
        Rule {
            what: "processes",
            // The kernel does not hold root to it.
            limit: if root {
                Limit::default()
            } else {
                limits.processes
            },
            least: 16,
            good: 256,
            shown: number,
            spec: Some(4096),
            names: ('u', "nproc"),
        },
        Rule {
            what: "file size",
            limit: limits.file_size,
            // An initrd and an unpacked kernel are files; those of a small image take tens of MiB.
            least: ByteSize::mib(64).0,
            good: u64::MAX,
            shown: bytes,
            spec: None,
            names: ('f', "fsize"),
        },
        Rule {
            what: "address space",
            limit: limits.address_space,
            // QEMU 7.2 reserves 1 GiB for translated code, guest RAM on top: with 128 MiB of guest
            // RAM it failed at 1200 MiB and started at 1400.
            least: ByteSize::mib(1400).0,
            good: ByteSize::mib(8192).0,
            shown: bytes,
            spec: None,
            names: ('v', "as"),
        },
    ]
}

impl Rule {
    fn broken(&self) -> Option<Finding> {
        let soft = self.limit.soft.filter(|soft| *soft < self.good)?;
        let mut text = format!("{} limited to {}", self.what, (self.shown)(soft));
        let mut level = Level::Note;
        if soft < self.least {
            text += &format!(", a run needs at least {}", (self.shown)(self.least));
            level = Level::Problem;
        }
        let spec = self
            .spec
            .map_or("unlimited".into(), |spec| spec.to_string());
        let (letter, name) = self.names;
        // Below the hard limit anyone may raise the soft one.
        let without_root = match (self.limit.hard, self.spec) {
            (None, _) => true,
            (Some(hard), Some(spec)) => hard >= spec,
            (Some(_), None) => false,
        };
        let remedy = match without_root {
            true => format!("ulimit -{letter} {spec}"),
            false => format!("sudo prlimit --pid $$ --{name}={spec}"),
        };
        Some(Finding::new("limits", level, text, Some(remedy)))
    }
}
