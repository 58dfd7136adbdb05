//! Wishes of container runtimes: privileges that are given up, and steps that are carried out before the command.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;

pub use rdvm_proto::Capabilities;

use rdvm_hostfs::escape::escaped;

/// The privileges of the command, where they are others than those of its user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Privileges {
    /// Capability sets instead of those that the user has. Capabilities that the guest's kernel does not know are left out.
    pub capabilities: Option<Capabilities>,
    /// True if no file that is executed gives privileges, by its owner or its capabilities.
    pub no_new_privileges: bool,
    /// The file mode mask; 022 by default.
    pub umask: Option<u32>,
}

/// A step that PID 1 carries out before the command runs, after its own mounts, volumes, copies in and files in `/etc`. Paths
/// lead where they lead in the guest's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetupStep {
    /// Mounts a file system, on a target that is made where it is missing.
    Mount {
        /// The kind of file system; of no meaning for a bind mount.
        kind: OsString,
        /// The directory or file of a bind mount, else a name.
        source: OsString,
        /// The mount point.
        target: OsString,
        /// Bits of `mount(2)`, those of a bind mount and of propagation among them.
        flags: u64,
        /// Options of the file system, with commas between them.
        data: OsString,
    },
    /// Writes to a file that is there, a setting of the kernel's.
    Write {
        /// The file, `/proc/sys/` and so on.
        path: OsString,
        /// The bytes.
        value: OsString,
    },
    /// Hides a path, if it is there: a file behind `/dev/null`, a directory behind an empty one.
    Mask {
        /// The path.
        path: OsString,
    },
    /// Makes a path read-only, if it is there.
    ReadOnly {
        /// The path.
        path: OsString,
    },
}

const MS_BIND: u64 = 4096;
const MS_REMOUNT: u64 = 32;

impl SetupStep {
    /// Returns the path below which the guest may see something else afterwards; `None` where only what can be done changes.
    pub(crate) fn covers(&self) -> Option<&[u8]> {
        match self {
            Self::Mount { flags, .. } if flags & MS_REMOUNT != 0 => None,
            Self::Mount { target, .. } => Some(target.as_bytes()),
            Self::Mask { path } => Some(path.as_bytes()),
            Self::Write { .. } | Self::ReadOnly { .. } => None,
        }
    }

    /// Returns about how many bytes the step has in the start record.
    pub(crate) fn size(&self) -> u64 {
        const NUMBERS: u64 = 16;
        let words: &[&OsString] = match self {
            Self::Mount {
                kind,
                source,
                target,
                data,
                ..
            } => &[kind, source, target, data],
            Self::Write { path, value } => &[path, value],
            Self::Mask { path } | Self::ReadOnly { path } => &[path],
        };
        NUMBERS + words.iter().map(|word| word.len() as u64).sum::<u64>()
    }
}

impl fmt::Display for SetupStep {
    /// The step as the subject of a message.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text: &OsStr| escaped(text.as_encoded_bytes());
        match self {
            Self::Mount {
                kind,
                source,
                target,
                flags,
                ..
            } => {
                let what = if flags & MS_BIND != 0 { source } else { kind };
                write!(f, "mounting {} on {}", shown(what), shown(target))
            }
            Self::Write { path, .. } => match path.to_str().and_then(setting) {
                Some(name) => write!(f, "sysctl {}", escaped(name.as_bytes())),
                None => write!(f, "writing {}", shown(path)),
            },
            Self::Mask { path } => write!(f, "masking {}", shown(path)),
            Self::ReadOnly { path } => write!(f, "making {} read-only", shown(path)),
        }
    }
}

/// The name that sysctl(8) has for a file.
fn setting(path: &str) -> Option<String> {
    // A dot in a name is a slash there.
    let swap = |letter| match letter {
        '/' => '.',
        '.' => '/',
        letter => letter,
    };
    let name = path.strip_prefix("/proc/sys/")?;
    Some(name.chars().map(swap).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_named_by_what_they_do() {
        let mount = |flags| SetupStep::Mount {
            kind: "tmpfs".into(),
            source: "/a b".into(),
            target: "/x".into(),
            flags,
            data: "".into(),
        };
        let path = || "/proc/kcore".into();
        let write = |path: &str| SetupStep::Write {
            path: path.into(),
            value: "1".into(),
        };
        for (step, words) in [
            (mount(0), "mounting tmpfs on /x"),
            (mount(MS_BIND | 1), "mounting /a b on /x"),
            (
                write("/proc/sys/net/ipv4/conf/eth0.1/forwarding"),
                "sysctl net.ipv4.conf.eth0/1.forwarding",
            ),
            (write("/sys/x"), "writing /sys/x"),
            (SetupStep::Mask { path: path() }, "masking /proc/kcore"),
            (
                SetupStep::ReadOnly { path: path() },
                "making /proc/kcore read-only",
            ),
        ] {
            assert_eq!(step.to_string(), words);
        }
    }
}
