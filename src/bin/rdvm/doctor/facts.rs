//! Facts about this host, gathered without judging it.
//!
//! [`HostFacts::gather`] is the only place where the doctor reads files, asks the system or starts a
//! program; every reader of a text is a pure function beside it.

use rdvm_confine::Layer;
use rdvm_hostfs::escape::reason;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{Access, MemfdFlags};
use rustix::process::{getegid, geteuid, getgroups};

use rdvm_hostfs::hostmem::Memory;
use rdvm_kernel::Search;
use rdvm_vmm::probe::{self, Cpu, KvmState, Packages, QemuState};

use super::limits::Limits;

/// All that the doctor looks at.
#[derive(Debug, Clone)]
pub(crate) struct HostFacts {
    /// The first processor.
    pub(crate) cpu: Cpu,
    /// Processors that this process may use.
    pub(crate) cores: usize,
    /// The state of /dev/kvm.
    pub(crate) kvm: KvmState,
    /// The user who runs rdvm.
    pub(crate) user: User,
    /// QEMU and its answers.
    pub(crate) qemu: QemuState,
    /// The package manager, if the distribution is a known one.
    pub(crate) packages: Option<Packages>,
    /// Memory of the host and its control group.
    pub(crate) memory: Memory,
    /// Resource limits of this process.
    pub(crate) limits: Limits,
    /// Places for files.
    pub(crate) files: Files,
    /// The kernel's means of confining processes.
    pub(crate) fences: SandboxLimits,
}

/// The user who runs rdvm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct User {
    /// True if the effective user is root.
    pub(crate) root: bool,
    /// Groups that this session has, by name where they have one.
    pub(crate) groups: Vec<String>,
    /// Groups that /etc/group promises the user for the next session.
    pub(crate) promised: Vec<String>,
}

/// Places for files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Files {
    /// The error, in the system's words, if a file in memory cannot be made.
    pub(crate) memfd: Result<(), String>,
    /// The directory of temporary files.
    pub(crate) temporary: Folder,
    /// The directory of prepared kernels; `None` if no variable names one.
    pub(crate) cache: Option<Folder>,
}

/// A folder to write in, which need not exist yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    /// The path.
    pub(crate) path: PathBuf,
    /// The error, in the system's words, if files cannot be made there.
    pub(crate) writable: Result<(), String>,
}

/// The kernel's means of confining processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SandboxLimits {
    /// The layers of confinement that a process can have.
    pub(crate) layers: Vec<Layer>,
    /// The command that allows user namespaces, if this user cannot make one.
    pub(crate) user_namespaces: Result<(), &'static str>,
}

impl HostFacts {
    /// Looks at this host. Reads /proc, /sys and /etc, opens /dev/kvm, runs QEMU twice; takes some
    /// 40 ms, at most 20 s with a QEMU that hangs.
    pub(crate) fn gather() -> Self {
        let user = User::gather();
        Self {
            cpu: Cpu::gather(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            kvm: probe::kvm(),
            qemu: probe::qemu(),
            packages: Packages::here(),
            memory: Memory::gather(),
            limits: Limits::gather(),
            files: Files::gather(),
            fences: SandboxLimits::gather(user.root),
            user,
        }
    }
}

impl User {
    fn gather() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let mut groups: Vec<u32> = getgroups()
            .unwrap_or_default()
            .iter()
            .map(|gid| gid.as_raw())
            .collect();
        groups.push(getegid().as_raw());
        Self::from_texts(
            geteuid().as_raw(),
            &groups,
            &read("/etc/passwd"),
            &read("/etc/group"),
        )
    }

    fn from_texts(uid: u32, gids: &[u32], passwd: &str, group: &str) -> Self {
        // Lines of both files begin with name, password, number.
        let names: Vec<_> = passwd.lines().filter_map(probe::group_entry).collect();
        let groups: Vec<_> = group.lines().filter_map(probe::group_entry).collect();
        let name = names
            .iter()
            .find(|(_, number, _)| *number == uid)
            .map(|(name, ..)| *name);
        let named = |gid: u32| {
            let entry = groups.iter().find(|(_, number, _)| *number == gid);
            entry.map_or(gid.to_string(), |(name, ..)| (*name).into())
        };
        let mut held: Vec<String> = gids.iter().map(|gid| named(*gid)).collect();
        held.sort();
        held.dedup();
        let promised = groups
            .iter()
            .filter(|(_, _, members)| members.split(',').any(|member| Some(member) == name))
            .map(|(group, ..)| (*group).into())
            .collect();
        Self {
            root: uid == 0,
            groups: held,
            promised,
        }
    }
}

impl Files {
    fn gather() -> Self {
        Self {
            memfd: rustix::fs::memfd_create("rdvm-doctor", MemfdFlags::CLOEXEC)
                .map(drop)
                .map_err(|error| reason(&error.into())),
            temporary: Folder::look(env::temp_dir(), false),
            cache: Search::from_env()
                .cache
                .map(|path| Folder::look(path, true)),
        }
    }
}

impl Folder {
    /// Looks without leaving a trace: when `may_be_made`, the nearest parent that exists is asked.
    fn look(path: PathBuf, may_be_made: bool) -> Self {
        let mut parents = path.ancestors();
        let asked = match may_be_made {
            true => parents.find(|parent| parent.symlink_metadata().is_ok()),
            false => parents.next(),
        };
        Self {
            writable: writable(asked.unwrap_or(Path::new("/"))),
            path,
        }
    }
}

fn writable(folder: &Path) -> Result<(), String> {
    let found = fs::metadata(folder).map_err(|error| reason(&error))?;
    if !found.is_dir() {
        return Err(format!(
            "{} is not a directory",
            rdvm_hostfs::escape::shown(folder)
        ));
    }
    rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| reason(&error.into()))
}

impl SandboxLimits {
    fn gather(root: bool) -> Self {
        let number =
            |path: &str| -> Option<u64> { fs::read_to_string(path).ok()?.trim().parse().ok() };
        let blocked = [
            (
                "/proc/sys/user/max_user_namespaces",
                0,
                false,
                "sysctl user.max_user_namespaces=10000",
            ),
            (
                "/proc/sys/kernel/unprivileged_userns_clone",
                0,
                true,
                "sysctl kernel.unprivileged_userns_clone=1",
            ),
            (
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                1,
                true,
                "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
            ),
        ]
        .into_iter()
        .find(|(path, value, spares_root, _)| {
            !(root && *spares_root) && number(path) == Some(*value)
        });
        Self {
            layers: rdvm_confine::available(),
            user_namespaces: blocked.map_or(Ok(()), |(.., command)| Err(command)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_can_be_made_is_as_good_as_one_that_is_there() {
        let here = tempfile::tempdir().unwrap();
        let deep = here.path().join("a/b/c");
        assert_eq!(Folder::look(deep.clone(), true).writable, Ok(()));
        assert!(Folder::look(deep, false).writable.is_err());
        assert!(!here.path().join("a").exists(), "looking leaves no trace");
        fs::write(here.path().join("file"), "").unwrap();
        let under_a_file = Folder::look(here.path().join("file/x"), true).writable;
        assert!(
            under_a_file
                .unwrap_err()
                .ends_with("file is not a directory")
        );
    }

    #[test]
    fn a_group_joined_after_login_is_promised_but_not_held() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000:Ann,,,:/home/ann:/bin/sh\n";
        let group = "root:x:0:\nkvm:x:104:bob,ann\nann:x:1000:\nann2:x:1001:annie\n";
        let user = User {
            root: false,
            groups: vec!["77".into(), "ann".into()],
            promised: vec!["kvm".into()],
        };
        assert_eq!(
            User::from_texts(1000, &[1000, 77, 1000], passwd, group),
            user
        );
    }
}
