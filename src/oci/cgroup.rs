//! The control groups of the host that a machine's process is put into, of version 1, 2 or both.
//!
//! A group is a directory by the path of `linux.cgroupsPath` in every hierarchy that is mounted. Where systemd has the
//! say it is asked for a scope, by its own program `busctl`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::error::{Result, at, host};
use super::refusals::refuse;
use super::resources::{self, Settings};
use super::spec::Linux;

/// The maker of control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// rdvm, below /sys/fs/cgroup.
    Files,
    /// systemd.
    Systemd,
    /// Nobody: the process stays where it is.
    Nobody,
}

/// The looks at a removed group's last processes, or at systemd's work, and the time between two.
const PATIENCE: (u32, Duration) = (200, Duration::from_millis(10));

/// A hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    mounted_at: PathBuf,
    is_version_2: bool,
}

/// The groups of a container.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: Vec<Hierarchy>,
    scope: Option<Scope>,
    version_1: Settings,
    version_2: Settings,
    /// A group that cannot be had is an error, and not just a pity.
    is_required: bool,
}

/// A unit of systemd's.
#[derive(Debug)]
struct Scope {
    slice: String,
    unit: String,
    is_users: bool,
}

impl Groups {
    /// Plans the groups of a container. `path` of each is the directory; nothing is made yet.
    ///
    /// # Errors
    /// The path is not what the manager reads; the mounts cannot be read.
    pub(super) fn plan(linux: &Linux, manager: Manager) -> Result<Self> {
        let path = linux.cgroups_path.as_str();
        let (version_1, version_2) = settings(linux);
        let is_required = rustix::process::geteuid().is_root() && !is_in_user_namespace();
        let planned = Self {
            version_1,
            version_2,
            is_required,
            ..Self::default()
        };
        if path.is_empty() || manager == Manager::Nobody {
            return Ok(planned);
        }
        if manager == Manager::Systemd {
            let scope = Some(Scope::of(path, !is_required)?);
            return Ok(Self { scope, ..planned });
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo");
        let mounts = mounts.map_err(host("/proc/self/mountinfo"))?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(host("/proc/self/cgroup"))?;
        let groups = hierarchies(&mounts).map(|(hierarchy, controllers)| {
            // A path that is not from the root is below the group of who calls (the specification's "cgroupsPath").
            let base = match path.starts_with('/') {
                true => "",
                false => own_group(&own, &controllers),
            };
            let below = Path::new(base.trim_start_matches('/')).join(path.trim_start_matches('/'));
            Hierarchy {
                mounted_at: hierarchy.mounted_at.join(below),
                ..hierarchy
            }
        });
        Ok(Self {
            groups: groups.collect(),
            ..planned
        })
    }

    /// Returns the directories that are to be removed with the container.
    pub(super) fn directories(&self) -> Vec<PathBuf> {
        self.groups
            .iter()
            .map(|group| group.mounted_at.clone())
            .collect()
    }

    /// Makes the groups and puts a process into them. Returns what could not be had and is no error.
    ///
    /// # Errors
    /// One cannot be made, of an administrator's container.
    pub(super) fn join(&self, pid: i32) -> Result<Vec<String>> {
        let mut pities = Vec::new();
        if let Some(scope) = &self.scope {
            let joined = scope.start(pid).map(|directory| self.set(&directory, true));
            self.judge(joined.and_then(|set| set), &mut pities)?;
        }
        for group in &self.groups {
            let joined = make(&group.mounted_at, group.is_version_2)
                .and_then(|()| self.set(&group.mounted_at, group.is_version_2))
                .and_then(|()| {
                    let file = group.mounted_at.join("cgroup.procs");
                    fs::write(&file, pid.to_string()).map_err(at(&file))
                });
            self.judge(joined, &mut pities)?;
        }
        Ok(pities)
    }

    fn judge(&self, joined: Result<()>, pities: &mut Vec<String>) -> Result<()> {
        match joined {
            Err(error) if !self.is_required => {
                pities.push(format!(
                    "{error}; the container is in no control group of its own there"
                ));
                Ok(())
            }
            joined => joined,
        }
    }

    /// Writes the limits that this hierarchy has files for.
    fn set(&self, group: &Path, is_version_2: bool) -> Result<()> {
        let settings = match is_version_2 {
            true => &self.version_2,
            false => &self.version_1,
        };
        for (name, value) in settings {
            let path = group.join(name);
            // Without making it: that is refused, where a file is only missing.
            let file = File::options().write(true).open(&path);
            match file.and_then(|mut file| file.write_all(value.as_bytes())) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                written => written.map_err(at(&path))?,
            }
        }
        Ok(())
    }
}

fn settings(linux: &Linux) -> (Settings, Settings) {
    let cpu = &linux.resources.cpu;
    let mut version_2 = resources::version_2(cpu);
    let unified = linux.resources.unified.iter();
    version_2.extend(unified.map(|(name, value)| (name.clone(), value.clone())));
    (resources::version_1(cpu), version_2)
}

/// True for root that is root only in a user namespace.
fn is_in_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mut fields = map.split_whitespace();
    (fields.next(), fields.next(), fields.next()) != (Some("0"), Some("0"), Some("4294967295"))
}

/// Returns the hierarchies among the mounts, each once, and their controllers.
fn hierarchies(mountinfo: &str) -> impl Iterator<Item = (Hierarchy, String)> {
    let mut seen: Vec<String> = Vec::new();
    mountinfo.lines().filter_map(move |line| {
        let (before, after) = line.split_once(" - ")?;
        let mounted_at = before.split(' ').nth(4)?;
        let mut after = after.split(' ');
        let (kind, _, options) = (after.next()?, after.next()?, after.next()?);
        let is_version_2 = match kind {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        let controllers = match is_version_2 {
            true => String::new(),
            false => options
                .split(',')
                .filter(|option| !matches!(*option, "rw" | "ro" | "xattr"))
                .collect::<Vec<_>>()
                .join(","),
        };
        if seen.contains(&controllers) {
            return None;
        }
        seen.push(controllers.clone());
        let hierarchy = Hierarchy {
            mounted_at: mounted_at.into(),
            is_version_2,
        };
        Some((hierarchy, controllers))
    })
}

/// Returns this process's group in the hierarchy with these controllers.
fn own_group<'a>(own: &'a str, controllers: &str) -> &'a str {
    let mut groups = own.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    });
    let group = groups.find(|(names, _)| *names == controllers);
    group.map_or("/", |(_, group)| group)
}

/// Makes a group and those above it.
fn make(group: &Path, is_version_2: bool) -> Result<()> {
    let mut missing: Vec<&Path> = Vec::new();
    for path in group.ancestors().take_while(|path| !path.exists()) {
        missing.push(path);
    }
    for path in missing.into_iter().rev() {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(at(path))?,
        }
        match is_version_2 {
            true => hand_down_controllers(path),
            false => hand_down_cpuset(path),
        }
    }
    if is_version_2 {
        hand_down_controllers(group);
    }
    Ok(())
}

/// Lets a group of version 2 have the controllers that the one above it has. What is refused shows where a limit is set.
fn hand_down_controllers(group: &Path) {
    let Some(above) = group.parent() else { return };
    for controller in ["cpu", "cpuset", "io", "memory", "pids"] {
        let _ = fs::write(
            above.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
}

/// A new group of version 1 has no CPUs, and no process can enter it.
fn hand_down_cpuset(group: &Path) {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let Some(above) = group.parent() else { return };
        let has = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        if group.join(name).exists() && has(group.join(name)).trim().is_empty() {
            let _ = fs::write(group.join(name), has(above.join(name)));
        }
    }
}

/// Removes groups whose processes are gone, or about to be.
pub(super) fn remove(groups: &[PathBuf]) {
    for group in groups {
        for _ in 0..PATIENCE.0 {
            match fs::remove_dir(group) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    thread::sleep(PATIENCE.1)
                }
                _ => break,
            }
        }
    }
}

impl Scope {
    /// Reads `SLICE:PREFIX:NAME`.
    fn of(path: &str, is_users: bool) -> Result<Self> {
        let parts: Vec<&str> = path.split(':').collect();
        let &[slice, prefix, name] = &parts[..] else {
            let what = format!("linux.cgroupsPath: {path:?}: systemd reads SLICE:PREFIX:NAME");
            return Err(refuse(what, "or leave --systemd-cgroup out"));
        };
        let usual = match is_users {
            true => "user.slice",
            false => "system.slice",
        };
        let dash = if prefix.is_empty() { "" } else { "-" };
        Ok(Self {
            slice: if slice.is_empty() { usual } else { slice }.to_owned(),
            unit: format!("{prefix}{dash}{name}.scope"),
            is_users,
        })
    }

    /// Asks systemd to put a process into the scope. Returns the directory of its group.
    fn start(&self, pid: i32) -> Result<PathBuf> {
        let what = format!("busctl: asking systemd for {}", self.unit);
        let mut busctl = Command::new("busctl");
        busctl.args(self.is_users.then_some("--user"));
        busctl.args(self.words(pid));
        let output = busctl.output().map_err(host(&*what))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(host(what)(io::Error::other(text)));
        }
        // It answers before it has done it.
        for _ in 0..PATIENCE.0 {
            if let Some(directory) = self.directory(pid) {
                return Ok(directory);
            }
            thread::sleep(PATIENCE.1);
        }
        Err(host(what)(io::ErrorKind::TimedOut.into()))
    }

    /// The call of StartTransientUnit (org.freedesktop.systemd1(5)).
    fn words(&self, pid: i32) -> Vec<String> {
        let pid = pid.to_string();
        let service = "org.freedesktop.systemd1";
        let call = [
            "--quiet",
            "call",
            service,
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
            "StartTransientUnit",
            "ssa(sv)a(sa(sv))",
            &self.unit,
            "replace",
        ];
        let properties = [
            "6",
            "Description",
            "s",
            "rdvm container",
            "Slice",
            "s",
            &self.slice,
            "Delegate",
            "b",
            "true",
            "DefaultDependencies",
            "b",
            "false",
            "CollectMode",
            "s",
            "inactive-or-failed",
            "PIDs",
            "au",
            "1",
            &pid,
            "0",
        ];
        call.iter()
            .chain(&properties)
            .map(|word| (*word).to_owned())
            .collect()
    }

    /// Returns the group that the process is in, if that is the scope's.
    fn directory(&self, pid: i32) -> Option<PathBuf> {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let (hierarchy, _) = hierarchies(&mounts).find(|(hierarchy, _)| hierarchy.is_version_2)?;
        let is_its = group.ends_with(&self.unit);
        is_its.then(|| hierarchy.mounted_at.join(group.trim_start_matches('/')))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 master:3 - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 30 0:28 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct
";

    #[test]
    fn every_hierarchy_is_found_once() {
        let found: Vec<_> = hierarchies(HYBRID)
            .map(|(hierarchy, names)| (hierarchy.mounted_at, names))
            .collect();
        let expected = [
            ("/sys/fs/cgroup/unified", ""),
            ("/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct"),
            ("/sys/fs/cgroup/systemd", "name=systemd"),
        ];
        assert_eq!(
            found,
            expected.map(|(path, names)| (path.into(), names.to_owned()))
        );
        let own = "12:cpu,cpuacct:/a/b\n1:name=systemd:/s\n0::/u\n";
        let own = |names| own_group(own, names);
        assert_eq!(
            [
                own("cpu,cpuacct"),
                own("name=systemd"),
                own(""),
                own("pids")
            ],
            ["/a/b", "/s", "/u", "/"]
        );
    }

    #[test]
    fn a_scope_has_the_name_that_engines_look_for() {
        let scope = Scope::of("machine.slice:libpod:abc", false).unwrap();
        assert_eq!(
            (&*scope.slice, &*scope.unit),
            ("machine.slice", "libpod-abc.scope")
        );
        let scope = Scope::of("::abc", true).unwrap();
        assert_eq!((&*scope.slice, &*scope.unit), ("user.slice", "abc.scope"));
        assert!(Scope::of("/a/b", false).is_err());
        let words = scope.words(42);
        assert_eq!(words.iter().filter(|word| *word == "42").count(), 1);
    }
}
