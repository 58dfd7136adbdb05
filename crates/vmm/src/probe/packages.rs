//! The names of packages in each family of distributions, for remedies that can be typed.
//!
//! Takes the text of /etc/os-release. A family that is not in the table gets words instead of a command.

/// The commands by which this distribution installs QEMU and a kernel, without `sudo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packages {
    /// Installs `qemu-system-x86_64`.
    pub qemu: &'static str,
    /// Installs a kernel that boots as a guest.
    pub kernel: &'static str,
}

/// Each family by its ID in os-release: QEMU, kernel.
const FAMILIES: [(&str, &str, &str); 7] = [
    (
        "ubuntu",
        "apt install qemu-system-x86",
        "apt install linux-image-virtual",
    ),
    (
        "debian",
        "apt install qemu-system-x86",
        "apt install linux-image-cloud-amd64",
    ),
    (
        "fedora",
        "dnf install qemu-system-x86-core",
        "dnf install kernel-core",
    ),
    ("arch", "pacman -S qemu-system-x86", "pacman -S linux"),
    ("alpine", "apk add qemu-system-x86_64", "apk add linux-virt"),
    (
        "suse",
        "zypper install qemu-x86",
        "zypper install kernel-default",
    ),
    (
        "opensuse",
        "zypper install qemu-x86",
        "zypper install kernel-default",
    ),
];

impl Packages {
    /// Returns the commands of the distribution that `os_release` describes, by its ID, else by the first
    /// known one of ID_LIKE. `None` for an unknown family.
    pub fn of(os_release: &str) -> Option<Self> {
        let value = |key: &str| {
            let mut lines = os_release.lines().filter_map(|line| line.split_once('='));
            let line = lines.find(|(name, _)| *name == key);
            line.map_or("", |(_, value)| value.trim_matches(['"', '\'']))
        };
        let mut ids = value("ID").split(' ').chain(value("ID_LIKE").split(' '));
        let (_, qemu, kernel) = ids.find_map(|id| FAMILIES.iter().find(|family| family.0 == id))?;
        Some(Self { qemu, kernel })
    }

    /// Returns the commands for this host.
    pub fn here() -> Option<Self> {
        Self::of(&std::fs::read_to_string("/etc/os-release").unwrap_or_default())
    }
}

/// Returns the command as this user types it: with `sudo` for anyone but root.
pub fn as_root(root: bool, command: &str) -> String {
    let sudo = if root { "" } else { "sudo " };
    format!("{sudo}{command}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_known_by_its_id_or_by_what_it_is_like() {
        let qemu = |text| Packages::of(text).map(|packages| packages.qemu);
        let debian = Some("apt install qemu-system-x86");
        assert_eq!(qemu("NAME=\"Debian GNU/Linux\"\nID=debian\n"), debian);
        assert_eq!(qemu("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"), debian);
        let fedora = Some("dnf install qemu-system-x86-core");
        assert_eq!(qemu("ID_LIKE=\"fedora\"\nID=\"nobara\"\n"), fedora);
        assert_eq!(qemu("ID=plan9\n"), None);
        assert_eq!(qemu(""), None);
    }

    #[test]
    fn the_id_counts_before_what_it_is_like() {
        let kernel = Packages::of("ID_LIKE=debian\nID=ubuntu\n").map(|packages| packages.kernel);
        assert_eq!(kernel, Some("apt install linux-image-virtual"));
    }
}
