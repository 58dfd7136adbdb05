//! The memory of this host: what it has, what the control groups around this process allow of it, and whether the kernel
//! killed a process for want of it.
//!
//! Reads /proc and both versions of cgroups; every reader of a text is a pure function. Knows no images and no machines:
//! takes sizes, and tells whether the host can have as much.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::units::ByteSize;

/// Memory that rdvm and QEMU take for themselves beside the guest's RAM, about.
const BESIDE: ByteSize = ByteSize::mib(64);

/// The host's memory. `None` for what the host does not report, and for limits that are not set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// RAM.
    pub ram: Option<ByteSize>,
    /// Swap space.
    pub swap: ByteSize,
    /// Swap space that is free.
    pub swap_free: ByteSize,
    /// Memory that the host could give without swapping.
    pub available: Option<ByteSize>,
    /// The most that the kernel promises, and how much of it is given away, where it promises no more than it has.
    pub commit: Option<(ByteSize, ByteSize)>,
    /// The limit that leaves least, of this process's control group and of those around it.
    pub group: Option<GroupLimit>,
    /// The smallest limit of those groups.
    pub limit: Option<ByteSize>,
    /// The smallest limit of those groups, with the swap that it comes with.
    pub limit_with_swap: Option<ByteSize>,
}

/// A control group's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLimit {
    /// The limit itself.
    pub limit: ByteSize,
    /// The rest that it leaves; file caches that can be dropped count as left.
    pub left: ByteSize,
}

/// The bound of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// RAM and swap.
    Host {
        /// RAM.
        ram: ByteSize,
        /// Swap.
        swap: ByteSize,
    },
    /// A control group's limit, swap included.
    Group(ByteSize),
    /// The kernel's promise.
    Commit(ByteSize),
}

impl Bound {
    fn size(self) -> ByteSize {
        match self {
            Self::Host { ram, swap } => ByteSize(ram.0.saturating_add(swap.0)),
            Self::Group(size) | Self::Commit(size) => size,
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Host { .. } => "run it on a larger host",
            Self::Group(_) => "raise that limit (docker run --memory, systemd's MemoryMax=)",
            Self::Commit(_) => "set vm.overcommit_memory to 0",
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { ram, swap } => write!(f, "this host has {ram} of RAM and {swap} of swap"),
            Self::Group(size) => write!(f, "the control group is limited to {size}"),
            Self::Commit(size) => write!(f, "vm.overcommit_memory is 2, and CommitLimit {size}"),
        }
    }
}

/// A demand for more memory than there can be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// The caller asks for it.
    #[error("{given} is more than there can be: {bound}; give it less, or {}", bound.remedy())]
    Given { given: ByteSize, bound: Bound },
    /// The image and what is copied in need it.
    #[error(
        "RAM: the machine needs {need}, and {bound}; leave files out, or {}",
        bound.remedy()
    )]
    Needed { need: ByteSize, bound: Bound },
}

impl Memory {
    /// Reads the host's files.
    pub fn gather() -> Self {
        let read = |path: &Path| fs::read_to_string(path).ok();
        let text = |path: &str| read(Path::new(path)).unwrap_or_default();
        let groups = groups(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"));
        let mut memory = Self::of_host(
            &text("/proc/meminfo"),
            &text("/proc/sys/vm/overcommit_memory"),
        );
        memory.add_groups(&groups, read);
        memory
    }

    fn of_host(meminfo: &str, overcommit: &str) -> Self {
        let field = |name| field(meminfo, name);
        let commit = field("CommitLimit:").zip(field("Committed_AS:"));
        Self {
            ram: field("MemTotal:"),
            swap: field("SwapTotal:").unwrap_or_default(),
            swap_free: field("SwapFree:").unwrap_or_default(),
            available: field("MemAvailable:"),
            commit: commit.filter(|_| overcommit.trim() == "2"),
            ..Self::default()
        }
    }

    fn add_groups(&mut self, groups: &[(PathBuf, Names)], read: impl Fn(&Path) -> Option<String>) {
        let number = |path: PathBuf| read(&path)?.trim().parse::<u64>().ok();
        let limited = |limit: &u64| *limit < UNLIMITED;
        for (folder, names) in groups {
            let Some(limit) = number(folder.join(names.limit)).filter(limited) else {
                continue;
            };
            let usage = number(folder.join(names.usage)).unwrap_or(0);
            let stat = read(&folder.join("memory.stat")).unwrap_or_default();
            let cache = counter(&stat, names.cache).unwrap_or(0);
            let group = GroupLimit {
                limit: ByteSize(limit),
                left: ByteSize(limit.saturating_sub(usage.saturating_sub(cache))),
            };
            let swap = number(folder.join(names.swap)).filter(limited);
            let with_swap = match *names == VERSION_2 {
                true => limit.saturating_add(swap.unwrap_or(u64::MAX).min(self.swap.0)),
                false => limit
                    .saturating_add(self.swap.0)
                    .min(swap.unwrap_or(u64::MAX)),
            };
            let least = |old: Option<ByteSize>, new| Some(old.map_or(new, |old| old.min(new)));
            self.limit = least(self.limit, group.limit);
            self.limit_with_swap = least(self.limit_with_swap, ByteSize(with_swap));
            if self.group.is_none_or(|old| group.left < old.left) {
                self.group = Some(group);
            }
        }
    }

    /// Returns the RAM that this process can have: the host's, or what its control groups allow of it.
    pub fn most_ram(&self) -> Option<ByteSize> {
        [self.ram, self.limit].into_iter().flatten().min()
    }

    /// Returns the bound that this process cannot exceed, whatever else goes on; `None` if it is unknown.
    pub fn bound(&self) -> Option<Bound> {
        let swap = self.swap;
        let bounds = [
            self.ram.map(|ram| Bound::Host { ram, swap }),
            self.limit_with_swap.map(Bound::Group),
            self.commit.map(|(limit, _)| Bound::Commit(limit)),
        ];
        bounds
            .into_iter()
            .flatten()
            .min_by_key(|bound| bound.size())
    }

    /// Checks the RAM that a user gives a machine. Its RAM is taken page by page as the guest touches it, but a machine that is
    /// larger than all there is can only end badly.
    ///
    /// # Errors
    /// [`Error::Given`].
    pub fn check_given(&self, given: ByteSize) -> Result<(), Error> {
        match self.bound() {
            Some(bound) if given > bound.size() => Err(Error::Given { given, bound }),
            _ => Ok(()),
        }
    }

    /// Checks the memory that a guest is sure to touch; returns a line for the user if the host can have as much, but has
    /// not at the moment.
    ///
    /// # Errors
    /// [`Error::Needed`].
    pub fn check_needed(&self, need: ByteSize) -> Result<Option<String>, Error> {
        if let Some(bound) = self.bound()
            && need > bound.size()
        {
            return Err(Error::Needed { need, bound });
        }
        let now = [
            self.available
                .map(|available| available.0.saturating_add(self.swap_free.0)),
            self.group
                .map(|group| group.left.0.saturating_add(self.swap_free.0)),
            self.commit
                .map(|(limit, given)| limit.0.saturating_sub(given.0)),
        ];
        let now = now.into_iter().flatten().min().map(ByteSize);
        let short = now.filter(|now| need.0.saturating_add(BESIDE.0) > now.0);
        Ok(short.map(|now| {
            format!(
                "RAM: the machine needs {need} and some {BESIDE} beside it, and {now} are free just now: it may be \
                 slow, or be killed"
            )
        }))
    }
}

/// The counts of processes that the kernel has killed for want of memory, by the control group's own count and by the host's. Their
/// files stay open, for a process that will not be able to open them.
#[derive(Debug)]
pub struct OomWatch {
    group: Option<File>,
    host: Option<File>,
    before: OomKills,
}

/// The counts at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OomKills {
    group: Option<u64>,
    host: Option<u64>,
}

impl OomWatch {
    /// Begins with the counts of now.
    pub fn start() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let groups = groups(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"));
        let mut watch = Self {
            group: first_count(&groups, |path| File::open(path).ok(), kills_in),
            host: File::open("/proc/vmstat").ok(),
            before: OomKills {
                group: None,
                host: None,
            },
        };
        watch.before = watch.now();
        watch
    }

    /// Returns true if a process was killed since: one of this process's control group where that counts them, else any.
    pub fn has_seen_a_kill(&self) -> bool {
        self.now().have_risen_since(self.before)
    }

    fn now(&self) -> OomKills {
        OomKills {
            group: self.group.as_ref().and_then(kills_in),
            host: self.host.as_ref().and_then(kills_in),
        }
    }
}

impl OomKills {
    fn have_risen_since(self, before: Self) -> bool {
        match (before.group, self.group) {
            (Some(before), Some(now)) => now > before,
            _ => self.host > before.host,
        }
    }
}

/// Returns the first file that counts. A group counts the kills in the groups below it too; in a hybrid setup only one version has
/// the file.
fn first_count<F>(
    groups: &[(PathBuf, Names)],
    open: impl Fn(&Path) -> Option<F>,
    count: impl Fn(&F) -> Option<u64>,
) -> Option<F> {
    let mut files = groups
        .iter()
        .filter_map(|(folder, names)| open(&folder.join(names.kills)));
    files.find(|file| count(file).is_some())
}

/// Reads the count of an open file, from its beginning.
fn kills_in(file: &File) -> Option<u64> {
    let mut text = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match file.read_at(&mut piece, text.len() as u64) {
            Ok(0) => return counter(&String::from_utf8_lossy(&text), "oom_kill"),
            Ok(count) => text.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

/// The names of one cgroup version's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Names {
    limit: &'static str,
    usage: &'static str,
    /// Version 1: of memory and swap together.
    swap: &'static str,
    kills: &'static str,
    cache: &'static str,
}

const VERSION_1: Names = Names {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    swap: "memory.memsw.limit_in_bytes",
    kills: "memory.oom_control",
    cache: "total_inactive_file",
};
const VERSION_2: Names = Names {
    limit: "memory.max",
    usage: "memory.current",
    swap: "memory.swap.max",
    kills: "memory.events",
    cache: "inactive_file",
};
/// Version 1 writes "no limit" as the largest number of whole pages; no host has an exbibyte.
const UNLIMITED: u64 = 1 << 60;

/// A line of /proc/meminfo.
fn field(meminfo: &str, name: &str) -> Option<ByteSize> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(ByteSize(kib.checked_mul(1024)?))
}

/// Returns the value behind a name on a line of its own.
fn counter(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let (_, value) = lines.find(|(known, _)| *known == name)?;
    value.trim().parse().ok()
}

/// Returns the folders of this process's memory group and of all groups around it that can be seen. A container
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

/// Returns the path of this process's group in a /proc/self/cgroup.
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

/// Returns root, mount point and version, if this line of mountinfo mounts memory groups.
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

    fn limits(groups: &[(&str, Names)], files: &[(&str, &str)], swap: ByteSize) -> Memory {
        let groups: Vec<_> = groups
            .iter()
            .map(|(path, names)| (path.into(), *names))
            .collect();
        let mut memory = Memory {
            swap,
            ..Memory::default()
        };
        memory.add_groups(&groups, |path| {
            let found = files.iter().find(|(name, _)| path == Path::new(name));
            found.map(|(_, text)| (*text).to_owned())
        });
        memory
    }

    #[test]
    fn the_tightest_limit_counts_and_droppable_caches_are_left() {
        let files = [
            ("/g/a/memory.max", "max\n"),
            ("/g/memory.max", "1000\n"),
            ("/g/memory.current", "900\n"),
            ("/g/memory.stat", "anon 1\ninactive_file 300\n"),
        ];
        let groups = [("/g/a", VERSION_2), ("/g", VERSION_2)];
        let memory = limits(&groups, &files, ByteSize(0));
        let expected = GroupLimit {
            limit: ByteSize(1000),
            left: ByteSize(400),
        };
        assert_eq!(memory.group, Some(expected));
    }

    #[test]
    fn the_smallest_limit_up_the_tree_bounds_a_machine_also_when_another_leaves_less() {
        let files = [
            ("/1/a/memory.limit_in_bytes", "4000\n"),
            ("/1/a/memory.usage_in_bytes", "3900\n"),
            ("/1/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/2/a/b/memory.max", "max\n"),
            ("/2/a/memory.max", "3000\n"),
            ("/2/a/memory.current", "10\n"),
            ("/2/a/memory.swap.max", "500\n"),
        ];
        // Hybrid: both versions are mounted.
        let groups = [
            ("/1/a", VERSION_1),
            ("/1", VERSION_1),
            ("/2/a/b", VERSION_2),
            ("/2/a", VERSION_2),
        ];
        let memory = limits(&groups, &files, ByteSize(2000));
        assert_eq!(memory.group.unwrap().left, ByteSize(100));
        assert_eq!(memory.limit, Some(ByteSize(3000)));
        assert_eq!(memory.bound(), Some(Bound::Group(ByteSize(3500))));
        let host = Memory {
            ram: Some(ByteSize(1000)),
            ..memory
        };
        assert_eq!(host.most_ram(), Some(ByteSize(1000)));
        assert_eq!(host.bound().unwrap().size(), ByteSize(3000));
        let together = [("/1/a/memory.memsw.limit_in_bytes", "4100\n"), files[0]];
        let memory = limits(&groups[..1], &together, ByteSize(2000));
        assert_eq!(memory.bound(), Some(Bound::Group(ByteSize(4100))));
    }

    #[test]
    fn the_largest_number_is_no_limit_in_version_1() {
        let files = [("/g/memory.limit_in_bytes", "9223372036854771712\n")];
        let memory = limits(&[("/g", VERSION_1)], &files, ByteSize(0));
        assert_eq!((memory.group, memory.bound()), (None, None));
    }

    const MEMINFO: &str = "MemTotal:       2097152 kB\nMemAvailable:   1048576 kB\nSwapTotal:  524288 kB\n\
                           SwapFree:  262144 kB\nCommitLimit:  1572864 kB\nCommitted_AS:  1048576 kB\n";

    #[test]
    fn what_can_never_be_is_refused_with_the_numbers_and_what_is_not_there_now_is_told() {
        let memory = Memory::of_host(MEMINFO, "0\n");
        memory.check_given(ByteSize::mib(2560)).unwrap();
        let error = memory.check_given(ByteSize::mib(200 << 10)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "204800 MiB is more than there can be: this host has 2048 MiB of RAM and 512 MiB of swap; give it \
             less, or run it on a larger host"
        );
        let error = memory.check_needed(ByteSize::mib(76 << 10)).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("RAM: the machine needs 77824 MiB, and this host has 2048 MiB of RAM"),
            "{text}"
        );
        assert_eq!(memory.check_needed(ByteSize::mib(1000)), Ok(None));
        let line = memory.check_needed(ByteSize::mib(1240)).unwrap().unwrap();
        assert!(
            line.contains("needs 1240 MiB") && line.contains("1280 MiB are free"),
            "{line}"
        );
        let limited = Memory {
            limit_with_swap: Some(ByteSize::mib(300)),
            group: Some(GroupLimit {
                limit: ByteSize::mib(300),
                left: ByteSize(0),
            }),
            ..memory
        };
        let text = limited
            .check_given(ByteSize::mib(512))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("the control group is limited to 300 MiB; "),
            "{text}"
        );
        assert!(limited.check_needed(ByteSize::mib(200)).unwrap().is_some());
        // A kernel that promises no more than it has.
        let strict = Memory::of_host(MEMINFO, "2\n");
        assert_eq!(strict.bound(), Some(Bound::Commit(ByteSize::mib(1536))));
        assert!(strict.check_needed(ByteSize::mib(500)).unwrap().is_some());
        // A host that says nothing.
        let silent = Memory::of_host("", "");
        silent.check_given(ByteSize(u64::MAX)).unwrap();
        assert_eq!(silent.check_needed(ByteSize(u64::MAX)), Ok(None));
    }

    #[test]
    fn free_memory_is_what_the_kernel_calls_available() {
        assert_eq!(
            Memory::of_host(MEMINFO, "0").available,
            Some(ByteSize::mib(1024))
        );
        assert_eq!(field("MemTotal: 1 kB\n", "MemAvailable:"), None);
        assert_eq!(
            field("MemAvailable: 99999999999999999999 kB\n", "MemAvailable:"),
            None
        );
    }

    #[test]
    fn a_kill_is_told_by_the_groups_count_where_there_is_one_else_by_the_hosts() {
        let groups: [(PathBuf, Names); 2] =
            [("/1/a".into(), VERSION_1), ("/2/a".into(), VERSION_2)];
        let kills = |group: Option<&str>, file: &'static str, host: &str| {
            let open = |path: &Path| group.filter(|_| path == Path::new(file));
            let count = |text: &&str| counter(text, "oom_kill");
            OomKills {
                group: first_count(&groups, open, count).as_ref().and_then(count),
                host: counter(host, "oom_kill"),
            }
        };
        let v1 = "/1/a/memory.oom_control";
        let v2 = "/2/a/memory.events";
        let before = kills(
            Some("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
            v1,
            "oom_kill 5\n",
        );
        let after = kills(
            Some("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
            v1,
            "oom_kill 6\n",
        );
        assert!(after.have_risen_since(before) && !before.have_risen_since(before));
        let before = kills(
            Some("low 0\noom 3\noom_kill 1\noom_group_kill 0\n"),
            v2,
            "oom_kill 5\n",
        );
        let others = kills(
            Some("low 0\noom 4\noom_kill 1\noom_group_kill 0\n"),
            v2,
            "oom_kill 6\n",
        );
        assert!(!others.have_risen_since(before));
        let before = kills(None, v2, "pgfault 3\noom_kill 5\n");
        assert!(kills(None, v2, "pgfault 3\noom_kill 6\n").have_risen_since(before));
        assert!(!kills(None, v2, "").have_risen_since(kills(None, v2, "")));
    }

    #[test]
    fn an_open_count_is_read_again_from_its_beginning() {
        let mut file = tempfile::tempfile().unwrap();
        let text = format!("{}oom_kill 3\n", "pgfault 12345\n".repeat(1000));
        io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        assert_eq!(kills_in(&file), Some(3));
        file.write_all_at(b"4", text.len() as u64 - 2).unwrap();
        assert_eq!(kills_in(&file), Some(4));
        assert!(!OomWatch::start().has_seen_a_kill());
    }
}
