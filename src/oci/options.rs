//! Options of mounts: those that are flags of `mount(2)`, and the rest, which a file system reads.

use crate::request::SetupStep;

/// Names of options, what they set and what they clear (mount(8); `include/uapi/linux/mount.h`).
const FLAGS: [(&str, u64, u64); 25] = [
    ("ro", libc::MS_RDONLY, 0),
    ("rw", 0, libc::MS_RDONLY),
    ("nosuid", libc::MS_NOSUID, 0),
    ("suid", 0, libc::MS_NOSUID),
    ("nodev", libc::MS_NODEV, 0),
    ("dev", 0, libc::MS_NODEV),
    ("noexec", libc::MS_NOEXEC, 0),
    ("exec", 0, libc::MS_NOEXEC),
    ("sync", libc::MS_SYNCHRONOUS, 0),
    ("async", 0, libc::MS_SYNCHRONOUS),
    ("dirsync", libc::MS_DIRSYNC, 0),
    ("mand", libc::MS_MANDLOCK, 0),
    ("nomand", 0, libc::MS_MANDLOCK),
    (
        "noatime",
        libc::MS_NOATIME,
        libc::MS_RELATIME | libc::MS_STRICTATIME,
    ),
    ("atime", 0, libc::MS_NOATIME),
    ("nodiratime", libc::MS_NODIRATIME, 0),
    ("diratime", 0, libc::MS_NODIRATIME),
    ("relatime", libc::MS_RELATIME, libc::MS_NOATIME),
    ("norelatime", 0, libc::MS_RELATIME),
    ("strictatime", libc::MS_STRICTATIME, libc::MS_NOATIME),
    ("nostrictatime", 0, libc::MS_STRICTATIME),
    ("silent", libc::MS_SILENT, 0),
    ("loud", 0, libc::MS_SILENT),
    ("nosymfollow", MS_NOSYMFOLLOW, 0),
    ("defaults", 0, 0),
];

/// `MS_NOSYMFOLLOW`, which libc has not.
const MS_NOSYMFOLLOW: u64 = 256;

/// Returns the names of all options that are known for every file system.
pub(super) fn names() -> Vec<&'static str> {
    let others = [
        "bind",
        "rbind",
        "private",
        "rprivate",
        "unbindable",
        "runbindable",
        "tmpcopyup",
    ];
    FLAGS.iter().map(|(name, ..)| *name).chain(others).collect()
}

/// The way of later mounts between a mount and its copies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Propagation {
    /// They stay where they are made.
    #[default]
    Private,
    /// The host's are seen in the guest, or the guest's on the host.
    WithHost,
}

/// The options of a mount.
#[derive(Debug, Clone, Default)]
pub(super) struct MountFlags {
    flags: u64,
    pub(super) is_bind: bool,
    pub(super) propagation: Propagation,
    /// Options that only a file system knows.
    pub(super) rest: Vec<String>,
}

impl MountFlags {
    /// Sorts the options of a mount.
    pub(super) fn parse(options: &[String]) -> Self {
        let mut parsed = Self::default();
        for option in options {
            // Those with a recursive form mean the same in a guest, where nothing is mounted below.
            let plain = option.strip_prefix('r').unwrap_or(option);
            let flag = FLAGS.iter().find(|(name, ..)| name == option);
            let flag = flag.or_else(|| FLAGS[..8].iter().find(|(name, ..)| *name == plain));
            match (flag, plain) {
                (Some((_, set, clear)), _) => parsed.flags = parsed.flags & !clear | set,
                (None, "bind") => parsed.is_bind = true,
                (None, "private" | "unbindable") => {}
                (None, "shared" | "slave") => parsed.propagation = Propagation::WithHost,
                // SELinux's labels of files; the guest has none.
                (None, "z" | "Z") => {}
                (None, _) => parsed.rest.push(option.clone()),
            }
        }
        parsed
    }

    /// True if nothing may be written.
    pub(super) fn is_read_only(&self) -> bool {
        self.flags & libc::MS_RDONLY != 0
    }

    /// Removes an option of the file system; true if it was there.
    pub(super) fn take(&mut self, name: &str) -> bool {
        let before = self.rest.len();
        self.rest.retain(|option| option != name);
        self.rest.len() < before
    }

    /// Returns the mount of a file system with these options.
    pub(super) fn mount(&self, kind: &str, source: &str, target: &str) -> SetupStep {
        SetupStep::Mount {
            kind: kind.into(),
            source: source.into(),
            target: target.into(),
            flags: self.flags,
            data: self.rest.join(",").into(),
        }
    }

    /// Returns the step that gives a mount that is there these options.
    pub(super) fn remount(&self, target: &str) -> SetupStep {
        SetupStep::Mount {
            kind: "".into(),
            source: "none".into(),
            target: target.into(),
            flags: self.flags | libc::MS_REMOUNT | libc::MS_BIND,
            data: "".into(),
        }
    }
}

impl SetupStep {
    /// Makes `source` visible at `target` too.
    pub(super) fn bind(source: &str, target: &str) -> Self {
        Self::Mount {
            kind: "".into(),
            source: source.into(),
            target: target.into(),
            flags: libc::MS_BIND | libc::MS_REC,
            data: "".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> MountFlags {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        MountFlags::parse(&options)
    }

    #[test]
    fn options_are_flags_or_the_file_systems() {
        let all = parse(&["rbind", "rprivate", "ro", "nosuid", "size=64m", "mode=1777"]);
        assert!(all.is_bind && all.is_read_only());
        assert_eq!(all.propagation, Propagation::Private);
        assert_eq!(all.flags, libc::MS_RDONLY | libc::MS_NOSUID);
        assert_eq!(all.rest, ["size=64m", "mode=1777"]);
    }

    #[test]
    fn of_options_that_exclude_each_other_the_last_counts() {
        assert!(!parse(&["ro", "rw"]).is_read_only());
        assert!(parse(&["rw", "ro"]).is_read_only());
        assert_eq!(parse(&["noexec", "exec"]).flags, 0);
        assert_eq!(parse(&["noatime", "relatime"]).flags, libc::MS_RELATIME);
    }

    #[test]
    fn recursive_forms_are_understood() {
        assert!(parse(&["rro"]).is_read_only());
        assert_eq!(parse(&["rnoexec"]).flags, libc::MS_NOEXEC);
        assert_eq!(parse(&["rshared"]).propagation, Propagation::WithHost);
        assert_eq!(parse(&["relatime"]).flags, libc::MS_RELATIME);
        assert_eq!(parse(&["rw"]).rest, [""; 0]);
    }
}
