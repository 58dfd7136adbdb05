//! How much memory a run can have: the host's free memory and the limits of our control group.
//!
//! Reads /proc/meminfo and both versions of cgroups; the judgement is [`check`].

use std::fs;
use std::path::{Path, PathBuf};

use crate::units::ByteSize;

use super::Finding;
use crate::level::Level;

/// Below this no run works, by estimate: QEMU 7.2 booting Debian's 6.1 cloud kernel with 128 MiB of
/// guest RAM and no initrd was measured once, at 201 MiB resident; a little less guest RAM will do.
const LEAST_MEMORY: ByteSize = ByteSize::mib(192);
/// Below this an image of some size will not fit.
const GOOD_MEMORY: ByteSize = ByteSize::mib(512);

/// How much memory there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// What the host could give without swapping; `None` when it does not say.
    pub available: Option<ByteSize>,
    /// The tightest limit of our control group and of those around it, if any is limited.
    pub group: Option<GroupLimit>,
}

/// A control group's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLimit {
    /// The limit itself.
    pub limit: ByteSize,
    /// What it leaves; file caches that can be dropped count as left.
    pub left: ByteSize,
}

/// The names of one cgroup version's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Names {
    limit: &'static str,
    usage: &'static str,
    cache: &'static str,
}

const VERSION_1: Names = Names {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    cache: "total_inactive_file",
};
const VERSION_2: Names = Names {
    limit: "memory.max",
    usage: "memory.current",
    cache: "inactive_file",
};
/// Version 1 writes "no limit" as the largest number of whole pages; no host has an exbibyte.
const UNLIMITED: u64 = 1 << 60;

/// Asks the host.
pub(super) fn gather() -> Memory {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let text = |path: &str| read(Path::new(path)).unwrap_or_default();
    let groups = groups(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"));
    Memory {
        available: available(&text("/proc/meminfo")),
        group: tightest(&groups, read),
    }
}

/// A finding for the host's memory, and one for a limited control group.
pub(super) fn check(memory: &Memory) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.push(match memory.available {
        Some(available) => {
            let remedy = "ps aux --sort=-rss | head (shows who has the memory)";
            enough(available, format!("{available} available"), remedy)
        }
        None => Finding::new(
            "memory",
            Level::Note,
            "/proc/meminfo does not say what is available".into(),
            None,
        ),
    });
    if let Some(group) = memory.group {
        let text = format!("control group: limit {}, {} left", group.limit, group.left);
        let remedy =
            "raise it: docker run --memory 1g, or systemctl set-property UNIT MemoryMax=1G";
        findings.push(enough(group.left, text, remedy));
    }
    findings
}

fn enough(there: ByteSize, text: String, remedy: &str) -> Finding {
    if there < LEAST_MEMORY {
        let text = format!("{text}, a run needs at least {LEAST_MEMORY}");
        Finding::new("memory", Level::Problem, text, Some(remedy.into()))
    } else if there < GOOD_MEMORY {
        let text = format!("{text}, too little for large images");
        Finding::new("memory", Level::Note, text, Some(remedy.into()))
    } else {
        Finding::new("memory", Level::Ok, text, None)
    }
}

fn available(meminfo: &str) -> Option<ByteSize> {
    let rest = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(ByteSize(kib.checked_mul(1024)?))
}

/// The limit that leaves least, of all groups that set one.
fn tightest(
    groups: &[(PathBuf, Names)],
    read: impl Fn(&Path) -> Option<String>,
) -> Option<GroupLimit> {
    let number = |path: PathBuf| read(&path)?.trim().parse::<u64>().ok();
    let limits = groups.iter().filter_map(|(folder, names)| {
        let limit = number(folder.join(names.limit)).filter(|limit| *limit < UNLIMITED)?;
        let usage = number(folder.join(names.usage)).unwrap_or(0);
        let stat = read(&folder.join("memory.stat")).unwrap_or_default();
        let cache = stat
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(name, _)| *name == names.cache)
            .and_then(|(_, value)| value.parse().ok())
            .unwrap_or(0);
        Some(GroupLimit {
            limit: ByteSize(limit),
            left: ByteSize(limit.saturating_sub(usage.saturating_sub(cache))),
        })
    });
    limits.min_by_key(|group| group.left)
}

/// The folders of our own memory group and of all groups around it that can be seen. A container
/// may see only a part of the hierarchy, mounted at its own group; then the mount point is asked.
fn groups(cgroup: &str, mountinfo: &str) -> Vec<(PathBuf, Names)> {
    let mut folders = Vec::new();
    for line in mountinfo.lines() {
        let Some((root, point, names)) = memory_mount(line) else {
            continue;
        };
        let own = own_group(cgroup, names).unwrap_or("/");
        let below = Path::new(own)
            .strip_prefix(root)
            .ok()
            .filter(|below| !below.iter().any(|part| part == ".."))
            .unwrap_or(Path::new(""));
        folders.extend(
            below
                .ancestors()
                .map(|part| (Path::new(point).join(part), names)),
        );
    }
    folders
}

/// The path of our group in a /proc/self/cgroup.
fn own_group(cgroup: &str, names: Names) -> Option<&str> {
    cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let ours = match names == VERSION_2 {
            true => number == "0" && controllers.is_empty(),
            false => controllers.split(',').any(|name| name == "memory"),
        };
        ours.then_some(path)
    })
}

/// Root, mount point and version, when this line of mountinfo mounts memory groups.
fn memory_mount(line: &str) -> Option<(&str, &str, Names)> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, point) = (place.next()?, place.next()?);
    let mut kind = kind.split(' ');
    match kind.next()? {
        "cgroup2" => Some((root, point, VERSION_2)),
        "cgroup" => {
            let options = kind.nth(1)?;
            let memory = options.split(',').any(|option| option == "memory");
            memory.then_some((root, point, VERSION_1))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str =
        "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    fn paths(cgroup: &str, mountinfo: &str) -> Vec<String> {
        let groups = groups(cgroup, mountinfo);
        groups
            .iter()
            .map(|(path, _)| path.display().to_string().trim_end_matches('/').into())
            .collect()
    }

    #[test]
    fn every_group_around_ours_is_asked() {
        let expected = [
            "/sys/fs/cgroup/a.slice/b",
            "/sys/fs/cgroup/a.slice",
            "/sys/fs/cgroup",
        ];
        assert_eq!(paths("0::/a.slice/b\n", V2), expected);
    }

    #[test]
    fn version_1_has_its_own_hierarchy_for_memory() {
        let mounts = "33 31 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let expected = ["/sys/fs/cgroup/memory/job", "/sys/fs/cgroup/memory"];
        assert_eq!(paths("4:memory:/job\n1:cpu:/other\n", mounts), expected);
    }

    #[test]
    fn a_container_that_sees_only_its_own_group_asks_the_mount_point() {
        let mount = "35 31 0:32 /docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        assert_eq!(
            paths("4:memory:/docker/x\n", mount),
            ["/sys/fs/cgroup/memory"]
        );
        assert_eq!(
            paths("4:memory:/elsewhere\n", mount),
            ["/sys/fs/cgroup/memory"]
        );
        assert_eq!(paths("0::/../outside\n", V2), ["/sys/fs/cgroup"]);
    }

    #[test]
    fn the_tightest_limit_counts_and_droppable_caches_are_left() {
        let groups =
            [("/g/a", VERSION_2), ("/g", VERSION_2)].map(|(path, names)| (path.into(), names));
        let limit = tightest(&groups, |path| {
            let text = match path.to_str()? {
                "/g/a/memory.max" => "max\n",
                "/g/memory.max" => "1000\n",
                "/g/memory.current" => "900\n",
                "/g/memory.stat" => "anon 1\ninactive_file 300\n",
                _ => return None,
            };
            Some(text.into())
        });
        let expected = GroupLimit {
            limit: ByteSize(1000),
            left: ByteSize(400),
        };
        assert_eq!(limit, Some(expected));
    }

    #[test]
    fn the_largest_number_is_no_limit_in_version_1() {
        let groups = [("/g".into(), VERSION_1)];
        assert_eq!(
            tightest(&groups, |_| Some("9223372036854771712\n".into())),
            None
        );
    }

    #[test]
    fn free_memory_is_what_the_kernel_calls_available() {
        let meminfo = "MemTotal:       24683900 kB\nMemAvailable:   24235008 kB\n";
        assert_eq!(available(meminfo), Some(ByteSize(24_235_008 << 10)));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
        assert_eq!(available("MemAvailable: 99999999999999999999 kB\n"), None);
    }
}
