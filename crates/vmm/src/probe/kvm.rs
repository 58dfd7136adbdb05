//! The state of /dev/kvm: usable, or the exact reason why not.
//!
//! Facts ([`KvmFacts::gather`]) apart from judgement ([`KvmFacts::judge`]). KVM's API version needs
//! an ioctl and is left to the KVM engine.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::{Cpu, Extension};
use rustix::io::Errno;

const NODE: &str = "/dev/kvm";
/// `MISC_MAJOR` and `KVM_MINOR` of Linux, fixed numbers both.
const NUMBER: (u32, u32) = (10, 232);
/// The state of /dev/kvm. `Display` prints one line, "/dev/kvm: what; way out".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvmState {
    /// There is no /dev/kvm.
    Missing {
        /// The CPU's virtualisation, which the kernel's module would make usable.
        extension: Option<Extension>,
    },
    /// A file or a directory; docker leaves an empty directory where it was told to mount what is not there.
    NotADevice,
    /// Its mode keeps us out.
    PermissionDenied {
        /// The device's group: its name, or its number where it has no name here.
        group: String,
        /// The device's permission bits.
        mode: u32,
    },
    /// A device, but not KVM's.
    NotKvm,
    /// KVM's device node without a driver behind it.
    NoDriver,
    /// The open fails otherwise; EPERM comes from the device rules of a container.
    Refused {
        /// The system's words for it.
        why: String,
    },
    /// Another API than 12. Never found here, but reported by the KVM engine.
    OldApi {
        /// The version that KVM reports.
        version: i32,
    },
    /// KVM without a CPU that can do it (PVM): it opens, but would interpret an unmodified kernel, a
    /// million instructions a second, until it meets one that it does not know.
    Paravirtual,
    /// KVM on hardware, and it opens.
    Usable,
}

/// Facts about KVM, without any judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvmFacts {
    /// The file at /dev/kvm.
    pub node: KvmNode,
    /// The CPU's virtualisation.
    pub extension: Option<Extension>,
    /// The kernel has the PVM module and neither Intel's nor AMD's.
    pub pvm_only: bool,
}

/// The file at /dev/kvm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvmNode {
    /// Nothing.
    Absent,
    /// Something that is not a character device.
    Other,
    /// A character device.
    Device {
        /// Major and minor number.
        number: (u32, u32),
        /// Name or number of its group.
        group: String,
        /// Permission bits.
        mode: u32,
        /// The result of opening it for reading and writing; `Ok` and not tried when the number is not KVM's.
        open: Result<(), Errno>,
    },
}

/// Returns the state of /dev/kvm. Starts no process, makes no ioctl.
pub fn kvm() -> KvmState {
    KvmFacts::gather().judge()
}

impl KvmFacts {
    /// Looks at /dev/kvm (and opens it once), /proc/cpuinfo and /sys/module.
    pub(crate) fn gather() -> Self {
        let module = |name: &str| Path::new("/sys/module").join(name).exists();
        Self {
            node: KvmNode::gather(Path::new(NODE)),
            extension: Cpu::gather().extension,
            pvm_only: module("kvm_pvm") && !module("kvm_intel") && !module("kvm_amd"),
        }
    }

    /// Judges the facts. A CPU that cannot do it outweighs a permission: asking for that
    /// would be a walk for nothing.
    pub(crate) fn judge(&self) -> KvmState {
        let KvmNode::Device {
            number,
            group,
            mode,
            open,
        } = &self.node
        else {
            return match self.node {
                KvmNode::Absent => KvmState::Missing {
                    extension: self.extension,
                },
                _ => KvmState::NotADevice,
            };
        };
        match open {
            _ if *number != NUMBER => KvmState::NotKvm,
            Err(Errno::NODEV | Errno::NXIO | Errno::NOENT) => KvmState::NoDriver,
            _ if self.extension.is_none() || self.pvm_only => KvmState::Paravirtual,
            Ok(()) => KvmState::Usable,
            Err(Errno::ACCESS) => KvmState::PermissionDenied {
                group: group.clone(),
                mode: *mode,
            },
            Err(other) => KvmState::Refused {
                why: std::io::Error::from(*other).to_string(),
            },
        }
    }
}

impl KvmNode {
    fn gather(path: &Path) -> Self {
        let Ok(found) = fs::metadata(path) else {
            return Self::Absent;
        };
        if !found.file_type().is_char_device() {
            return Self::Other;
        }
        let number = (
            rustix::fs::major(found.rdev()),
            rustix::fs::minor(found.rdev()),
        );
        // Opening some other device could do anything, so it is not tried.
        let open = match number == NUMBER {
            true => File::options().read(true).write(true).open(path).map(drop),
            false => Ok(()),
        };
        Self::Device {
            number,
            group: group_name(found.gid()),
            mode: found.mode() & 0o7777,
            open: open.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }
}

impl KvmState {
    /// Returns the problem, without the path and without the way out.
    pub fn what(&self) -> String {
        match self {
            Self::Missing { extension: Some(_) } => "no such file".into(),
            Self::Missing { extension: None } => {
                "no such file, and the CPU shows neither vmx nor svm".into()
            }
            Self::NotADevice => "a file or directory, not a device".into(),
            Self::PermissionDenied { group, mode } => {
                format!("permission denied (group {group}, mode {mode:04o})")
            }
            Self::NotKvm => "a device, but not KVM's".into(),
            Self::NoDriver => "KVM's device node, but there is no driver behind it".into(),
            Self::Refused { why } => format!("cannot be opened: {why}"),
            Self::OldApi { version } => format!("has API version {version} instead of 12"),
            Self::Paravirtual => "paravirtual (PVM), it cannot run an unmodified kernel".into(),
            Self::Usable => "usable".into(),
        }
    }

    /// Returns the problem, with the path.
    pub fn reason(&self) -> String {
        format!("{NODE}: {}", self.what())
    }

    /// Returns the state of a device that could not be opened after all.
    pub(crate) fn of_open_error(errno: Errno) -> Self {
        let mut facts = KvmFacts::gather();
        if let KvmNode::Device { open, .. } = &mut facts.node {
            *open = Err(errno);
        }
        facts.judge()
    }

    /// Returns the way out, a command where there is one; `None` for [`KvmState::Usable`].
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::Missing { extension: Some(extension) } => format!(
                "sudo modprobe {} (in a container: start it with --device {NODE})",
                extension.module()
            ),
            Self::Missing { extension: None } | Self::NoDriver => {
                "turn on virtualisation in the firmware, or nested virtualisation on the host of this machine".into()
            }
            Self::NotADevice | Self::NotKvm => format!(
                "sudo rm -d {NODE} && sudo mknod -m 0660 {NODE} c {} {} (in a container: start it with --device {NODE})",
                NUMBER.0, NUMBER.1
            ),
            Self::PermissionDenied { group, mode } => access_remedy(group, *mode),
            Self::Refused { .. } => format!("start the container with --device {NODE}"),
            Self::OldApi { .. } => "boot a kernel whose KVM has API 12 (Linux 2.6.22 or later)".into(),
            Self::Paravirtual => "take a host whose CPU shows vmx or svm".into(),
            Self::Usable => return None,
        })
    }
}

impl fmt::Display for KvmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NODE}: {}", self.what())?;
        match self.remedy() {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

/// Returns the least that opens the device: joining its group where that has access and a name.
fn access_remedy(group: &str, mode: u32) -> String {
    let group_may = mode & 0o060 == 0o060;
    match group.parse::<u32>() {
        Ok(number) if group_may => format!("start the container with --group-add {number}"),
        Err(_) if group_may && group != "root" => {
            format!("sudo usermod -aG {group} \"$USER\", then log in again")
        }
        _ => format!("sudo chmod 0666 {NODE} (to last: the udev rule in docs/engines.md)"),
    }
}

/// Returns the name of a group, or its number where /etc/group has none for it.
fn group_name(gid: u32) -> String {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    groups
        .lines()
        .filter_map(group_entry)
        .find(|(_, number, _)| *number == gid)
        .map_or(gid.to_string(), |(name, _, _)| name.into())
}

/// Splits one line of /etc/group into name, number and the members' names with commas; `None` for a malformed line.
pub fn group_entry(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let number = fields.nth(1)?.parse().ok()?;
    Some((name, number, fields.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: KvmNode = KvmNode::Device {
        number: NUMBER,
        group: String::new(),
        mode: 0o660,
        open: Ok(()),
    };

    fn judged(node: KvmNode, extension: Option<Extension>) -> KvmState {
        let facts = KvmFacts {
            node,
            extension,
            pvm_only: false,
        };
        facts.judge()
    }

    fn failing(errno: Errno) -> KvmNode {
        KvmNode::Device {
            number: NUMBER,
            group: "kvm".into(),
            mode: 0o660,
            open: Err(errno),
        }
    }

    #[test]
    fn kvm_is_usable_when_it_opens_on_a_cpu_that_can_do_it() {
        assert_eq!(judged(DEVICE, Some(Extension::Vmx)), KvmState::Usable);
        assert_eq!(judged(DEVICE, Some(Extension::Svm)), KvmState::Usable);
    }

    #[test]
    fn kvm_that_opens_on_a_cpu_without_vmx_and_svm_is_paravirtual() {
        assert_eq!(judged(DEVICE, None), KvmState::Paravirtual);
    }

    #[test]
    fn the_pvm_module_alone_is_paravirtual_whatever_the_cpu_shows() {
        let facts = KvmFacts {
            node: DEVICE,
            extension: Some(Extension::Vmx),
            pvm_only: true,
        };
        assert_eq!(facts.judge(), KvmState::Paravirtual);
    }

    #[test]
    fn a_denied_device_says_which_group_to_join() {
        let state = judged(failing(Errno::ACCESS), Some(Extension::Vmx));
        assert_eq!(
            state.to_string(),
            "/dev/kvm: permission denied (group kvm, mode 0660); \
             sudo usermod -aG kvm \"$USER\", then log in again"
        );
    }

    #[test]
    fn nobody_is_sent_for_a_permission_that_would_not_help() {
        assert_eq!(judged(failing(Errno::ACCESS), None), KvmState::Paravirtual);
    }

    #[test]
    fn the_remedy_for_a_denial_fits_the_group_and_the_mode() {
        assert_eq!(
            access_remedy("993", 0o660),
            "start the container with --group-add 993"
        );
        for (group, mode) in [("root", 0o660), ("kvm", 0o600), ("993", 0o600)] {
            let remedy = access_remedy(group, mode);
            assert!(remedy.starts_with("sudo chmod 0666 /dev/kvm"), "{remedy}");
        }
    }

    #[test]
    fn a_missing_device_names_the_module_of_this_cpu() {
        let text = judged(KvmNode::Absent, Some(Extension::Svm)).to_string();
        assert!(text.starts_with("/dev/kvm: no such file; sudo modprobe kvm_amd"));
        let text = judged(KvmNode::Absent, None).to_string();
        assert!(text.contains("neither vmx nor svm; turn on virtualisation"));
    }

    #[test]
    fn what_is_not_kvm_is_told_apart() {
        assert_eq!(judged(KvmNode::Other, None), KvmState::NotADevice);
        let null = KvmNode::Device {
            number: (1, 3),
            group: "root".into(),
            mode: 0o666,
            open: Ok(()),
        };
        assert_eq!(judged(null, Some(Extension::Vmx)), KvmState::NotKvm);
        let state = judged(failing(Errno::NODEV), None);
        assert_eq!(state, KvmState::NoDriver);
        let state = judged(failing(Errno::PERM), Some(Extension::Vmx));
        assert!(matches!(state, KvmState::Refused { .. }), "{state:?}");
    }

    #[test]
    fn real_nodes_are_seen_as_what_they_are() {
        assert_eq!(KvmNode::gather(Path::new("/nowhere")), KvmNode::Absent);
        assert_eq!(KvmNode::gather(Path::new("/dev")), KvmNode::Other);
        let KvmNode::Device { number, open, .. } = KvmNode::gather(Path::new("/dev/null")) else {
            panic!("/dev/null is a device");
        };
        assert_eq!((number, open), ((1, 3), Ok(())));
    }

    #[test]
    fn every_state_is_one_line_with_a_way_out() {
        let states = [
            KvmState::Missing { extension: None },
            KvmState::NotADevice,
            KvmState::PermissionDenied {
                group: "kvm".into(),
                mode: 0o660,
            },
            KvmState::NotKvm,
            KvmState::NoDriver,
            KvmState::Refused { why: "no".into() },
            KvmState::OldApi { version: 11 },
            KvmState::Paravirtual,
        ];
        for text in states.map(|state| state.to_string()) {
            assert!(
                text.starts_with("/dev/kvm: ") && text.contains("; "),
                "{text}"
            );
            assert!(!text.contains('\n'), "{text}");
        }
        assert_eq!(KvmState::Usable.to_string(), "/dev/kvm: usable");
    }

    #[test]
    fn groups_are_read_from_the_file_of_groups() {
        assert_eq!(
            group_entry("kvm:x:104:ann,bob"),
            Some(("kvm", 104, "ann,bob"))
        );
        assert_eq!(group_entry("kvm:x:many:"), None);
        assert_eq!(group_entry("# a comment"), None);
    }
}
