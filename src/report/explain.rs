//! An ending → exit code, outcome and the line on stderr.

use std::os::unix::ffi::OsStrExt;

use rdvm_proto::{RootUse, Stage, Totals};

use super::Outcome;
use crate::request::{CopyIn, SetupStep, ULIMITS};
use rdvm_hostfs::escape::{escaped, reason};
use rdvm_hostfs::units::ByteSize;
use rdvm_vmm::guest::ending::Ending;

/// The machine was stopped after `--timeout`, as timeout(1) says it.
pub const TIMED_OUT: u8 = 124;
/// rdvm or the machine failed.
pub const FAILED: u8 = 125;
/// The command was found and cannot be run.
pub const CANNOT_RUN: u8 = 126;
/// The command was not found.
pub const NOT_FOUND: u8 = 127;
/// Added to the number of the signal that ended it.
pub const BY_SIGNAL: u8 = 128;

const ENOSPC: i32 = 28;
const EXDEV: i32 = 18;
const EINVAL: i32 = 22;
pub(super) const ENOENT: i32 = 2;
const SIGINT: i32 = 2;
const SIGPIPE: i32 = 13;
const SIGXFSZ: i32 = 25;
/// The exit code of a command whose reader has gone away.
pub const BY_SIGPIPE: u8 = BY_SIGNAL + SIGPIPE as u8;

const SIGKILL: u8 = 9;

/// Returns rdvm's exit code: the one table.
pub fn exit_code(ending: &Ending) -> u8 {
    match *ending {
        Ending::Exited { code, .. } => code,
        Ending::Killed { signal, .. } => by_signal(i32::from(signal)),
        Ending::NotStarted {
            stage: Stage::Exec,
            errno: ENOENT,
            ..
        } => NOT_FOUND,
        Ending::NotStarted {
            stage: Stage::Exec | Stage::Interpreter,
            ..
        } => CANNOT_RUN,
        Ending::NotStarted { .. }
        | Ending::Died { .. }
        | Ending::Starved { .. }
        | Ending::NoRoom { .. }
        | Ending::OutputFailed(_)
        | Ending::InputFailed(_) => FAILED,
        Ending::TimedOut { .. } => TIMED_OUT,
        Ending::Interrupted(signal) => by_signal(signal),
        Ending::Left => by_signal(SIGINT),
        // As a command is killed that writes more than `ulimit -f` to a file.
        Ending::OutputLimit => by_signal(SIGXFSZ),
        Ending::OutputClosed => by_signal(SIGPIPE),
    }
}

fn by_signal(signal: i32) -> u8 {
    u8::try_from(signal).map_or(FAILED, |signal| BY_SIGNAL.saturating_add(signal))
}

/// The names in the messages.
#[derive(Debug, Clone, Copy)]
pub struct Subjects<'a> {
    /// The command as the user knows it.
    pub command: &'a str,
    /// The machine's RAM.
    pub memory: &'a str,
    /// The copies, in the order in which the guest counts them.
    pub copies: &'a [CopyIn],
    /// The names of the modules, likewise.
    pub modules: &'a [String],
    /// The directory of the scratch space, escaped.
    pub scratch: &'a str,
    /// The steps that PID 1 carries out, likewise.
    pub steps: &'a [SetupStep],
}

/// The outcome's name, and the line for stderr where the command did not end by itself.
pub(super) fn explain(ending: &Ending, subjects: Subjects<'_>) -> (Outcome, Option<String>) {
    (outcome(ending), message(ending, subjects))
}

fn outcome(ending: &Ending) -> Outcome {
    match ending {
        Ending::Exited { .. } => Outcome::Exited,
        Ending::Killed { signal, totals } if is_for_memory(*signal, totals) => Outcome::OutOfMemory,
        Ending::Killed { .. } => Outcome::Killed,
        Ending::NotStarted {
            stage: Stage::Exec,
            errno: ENOENT,
            ..
        } => Outcome::NotFound,
        Ending::NotStarted {
            stage: Stage::Exec | Stage::Interpreter,
            ..
        } => Outcome::CannotRun,
        Ending::NotStarted { .. } => Outcome::SetupFailed,
        Ending::Died { panic: Some(_), .. } => Outcome::KernelPanic,
        Ending::Died { .. } | Ending::Starved { .. } | Ending::NoRoom { .. } => {
            Outcome::MachineDied
        }
        Ending::TimedOut { .. } => Outcome::TimedOut,
        Ending::OutputLimit => Outcome::OutputLimit,
        Ending::Left | Ending::Interrupted(_) => Outcome::Interrupted,
        Ending::OutputClosed => Outcome::OutputClosed,
        Ending::OutputFailed(_) => Outcome::OutputFailed,
        Ending::InputFailed(_) => Outcome::Error,
    }
}

fn is_for_memory(signal: u8, totals: &Totals) -> bool {
    signal == SIGKILL && totals.oom_kills > 0
}

fn message(ending: &Ending, subjects: Subjects<'_>) -> Option<String> {
    let Subjects {
        command: name,
        memory,
        ..
    } = subjects;
    Some(match ending {
        Ending::Exited { code: 0, .. } => return None,
        Ending::Exited { code, totals } => {
            format!(
                "{name}: exited with {code}, and {}",
                full_root(&totals.root)?
            )
        }
        Ending::Killed { signal, totals } if is_for_memory(*signal, totals) => {
            format!("{name}: killed, the guest ran out of memory ({memory}); give it more with -m")
        }
        Ending::Killed { signal, totals } => {
            let full = full_root(&totals.root)?;
            format!("{name}: killed by signal {signal}, and {full}")
        }
        Ending::NotStarted {
            stage,
            errno,
            which,
        } => not_started(*stage, *errno, *which, subjects),
        Ending::Died {
            started,
            panic: Some(reason),
            ..
        } => {
            let when = if *started { "while" } else { "before" };
            format!("guest kernel: panic {when} the command ran: {reason}; --show-boot shows more")
        }
        Ending::Died { started, how, .. } => {
            died(name, *started, how.as_deref().unwrap_or("was reset"))
        }
        Ending::Starved { started, bound } => {
            let when = if *started { "while" } else { "before" };
            let bound = bound.map_or_else(String::new, |bound| format!(" ({bound})"));
            format!(
                "{name}: the host's kernel killed the machine for want of memory {when} it ran{bound}; give it a host or \
                 control group with more, or fewer files"
            )
        }
        Ending::NoRoom { started, errno } => no_room(*errno, *started, subjects),
        Ending::TimedOut { started } => {
            let when = if *started {
                "still ran"
            } else {
                "had not started yet"
            };
            format!("{name}: {when} when --timeout had passed; the machine was stopped")
        }
        Ending::OutputLimit => {
            format!("{name}: printed more than --max-output; the machine was stopped")
        }
        Ending::Left => "Ctrl-] three times: the machine was stopped".to_owned(),
        Ending::Interrupted(signal) => format!("signal {signal}: the machine was stopped"),
        // Like any local command that is killed by SIGPIPE, it says nothing.
        Ending::OutputClosed => return None,
        Ending::OutputFailed(errno) => stream_failed("output", *errno),
        Ending::InputFailed(errno) => stream_failed("input", *errno),
    })
}

/// The message about a machine that stopped without a panic.
fn died(name: &str, started: bool, how: &str) -> String {
    match started {
        true => format!("{name}: the machine {how} before it ended; there is no exit status"),
        false => {
            format!(
                "machine: {how} before the command ran; --show-boot shows the kernel's messages"
            )
        }
    }
}

/// The message about a machine whose scratch space could not grow.
fn no_room(errno: i32, started: bool, subjects: Subjects<'_>) -> String {
    let Subjects {
        command: name,
        scratch: place,
        ..
    } = subjects;
    let why = match errno {
        ENOSPC => format!("no space left on {place}'s file system"),
        errno => {
            let error = reason(&std::io::Error::from_raw_os_error(errno));
            format!("{place}: {error}")
        }
    };
    let when = if started { "while" } else { "before" };
    format!(
        "--scratch: {why}, so the machine was stopped {when} {name} ran; make room there, or set TMPDIR to another directory"
    )
}

fn stream_failed(stream: &str, errno: i32) -> String {
    let error = reason(&std::io::Error::from_raw_os_error(errno));
    format!("standard {stream}: {error}; the machine was stopped")
}

/// Returns the words about a root that is full. It may not be why the command failed, but whoever looks for the reason must
/// know it.
fn full_root(root: &RootUse) -> Option<String> {
    let size = ByteSize(root.bytes);
    let way_out = match root.free_inodes {
        // They are in RAM, whatever else is not.
        0 => "give the machine more RAM with -m",
        _ => "give the machine room on a disk with --scratch, or more RAM with -m",
    };
    root.is_full()
        .then(|| format!("the root file system is full ({size}); {way_out}"))
}

/// The message about a command that PID 1 could not start.
fn not_started(stage: Stage, errno: i32, which: u32, subjects: Subjects<'_>) -> String {
    let name = subjects.command;
    let error = reason(&std::io::Error::from_raw_os_error(errno));
    match stage {
        Stage::Exec if errno == ENOENT && name == crate::payload::DEFAULT_COMMAND => {
            format!("{name}: not in the image; name a command after IMAGE")
        }
        Stage::Exec if errno == ENOENT && name.starts_with('-') => {
            format!("{name}: not found in the image; options of rdvm stand before IMAGE")
        }
        Stage::Exec if errno == ENOENT => {
            format!("{name}: not found in the image; check the name and the image's PATH")
        }
        Stage::Exec => format!("{name}: cannot be executed: {error}; check its mode and format"),
        Stage::Interpreter => format!(
            "{name}: its interpreter or dynamic loader is not in the image; add it, or link statically"
        ),
        Stage::Workdir => format!("--workdir: {error}; name a directory of the image"),
        Stage::User => format!("--user: the guest's kernel refused it: {error}"),
        Stage::CopyIn if errno == EXDEV => format!(
            "{}: goes where another file system is mounted in the guest (/proc, /sys, /dev); name a path outside of it",
            copy_name(subjects.copies, which)
        ),
        Stage::CopyIn => format!(
            "{}: cannot be put in its place in the guest: {error}; name a path whose parents are directories",
            copy_name(subjects.copies, which)
        ),
        Stage::Limit => format!(
            "--ulimit: {}: the guest's kernel refused it: {error}; name a lower one",
            limit_name(which)
        ),
        Stage::Terminal => format!(
            "--tty: the guest has no terminal: {error}; is CONFIG_UNIX98_PTYS in its kernel?"
        ),
        Stage::Region => format!(
            "region {which}: the guest's kernel did not mount it: {error}; add --root initrd, or take another kernel (rdvm kernel check)"
        ),
        Stage::Scratch => format!(
            "--scratch: the guest's kernel does not swap to it: {error}; leave it out, or take another kernel (rdvm kernel check)"
        ),
        Stage::Modules => {
            let module = subjects.modules.get(which as usize);
            let module = module.map_or("modules", String::as_str);
            format!(
                "{module}: the guest's kernel did not load this module: {error}; add --root initrd, or take another kernel (rdvm kernel check)"
            )
        }
        Stage::Setup => {
            let step = subjects.steps.get(which as usize);
            let step = step.map_or_else(|| format!("step {which}"), SetupStep::to_string);
            format!("{step}: the guest's kernel refused it: {error}")
        }
        Stage::ReadOnlyRoot => {
            format!("/: the guest's kernel did not make the root read-only: {error}")
        }
        Stage::Pids => format!(
            "{name}: the guest's kernel does not limit its processes: {error}; take a kernel with CONFIG_CGROUP_PIDS, or leave the limit out"
        ),
        Stage::Privileges => format!(
            "{name}: the guest's kernel refused its capabilities: {error}; effective ones have to be permitted, ambient ones permitted and inheritable, and all of them bounding"
        ),
        Stage::Network => {
            format!("rdinit: network: {error}; is CONFIG_DEVMEM in the guest's kernel?")
        }
        Stage::Fork if errno == EINVAL => format!(
            "{name}: has to be PID 1, and the guest's kernel has no PID namespaces; take a kernel with CONFIG_PID_NS"
        ),
        Stage::Record | Stage::Ports | Stage::Pipes | Stage::Fork => {
            let step = format!("{stage:?}").to_lowercase();
            format!("rdinit: {step}: {error}; is CONFIG_SERIAL_8250 in the guest's kernel?")
        }
    }
}

/// A copy as the user gave it, by the guest's number; the guest may say any.
fn copy_name(copies: &[CopyIn], which: u32) -> String {
    let Some(copy) = copies.get(which as usize) else {
        return "--copy-in".to_owned();
    };
    let host = escaped(copy.host.as_os_str().as_bytes());
    format!("--copy-in {host}:{}", escaped(copy.guest.as_bytes()))
}

fn limit_name(resource: u32) -> String {
    let known = ULIMITS.iter().find(|(_, number)| *number == resource);
    known.map_or_else(|| resource.to_string(), |(name, _)| (*name).to_owned())
}
