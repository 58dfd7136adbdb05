//! `mounts` of a configuration → volumes, copies and mounts of the guest's.
//!
//! A directory or file of the host is a snapshot: there is no file system that host and guest share. Directories are
//! volumes, files are copied. What the guest has anyway (`/proc`, `/dev` and the like) is not mounted a second time.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::error::{Result, at};
use super::options::{MountFlags, Propagation};
use super::refusals::{Refusals, refuse};
use super::spec::{Mount, Spec};
use crate::request::{CopyIn, CopyOut, SetupStep, Volume};

/// The annotation that makes a writable bind a copy, which goes back when the container has ended.
const VOLUMES: &str = "org.rdvm.volumes";

/// The most volumes of a machine. Further directories are copied.
const VOLUMES_MAX: usize = 8;

/// Where engines bind writable files of their own in every container. The guest gets copies, which it may change.
const ENGINE_FILES: [&str; 6] = [
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/run/.containerenv",
    "/run/secrets",
    "/.dockerenv",
];

/// The file in which Kubernetes looks for a container's last words: it goes back.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// Where copies lie that are mounted elsewhere.
const ASIDE: &str = "/run/.rdvm";

/// The file systems that the guest has at these places whatever the configuration says.
const OWN: [(&str, &str); 8] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("tmpfs", "/dev"),
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("mqueue", "/dev/mqueue"),
    ("cgroup", "/sys/fs/cgroup"),
    ("cgroup2", "/sys/fs/cgroup"),
];

/// The result of a configuration's mounts.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub(super) volumes: Vec<Volume>,
    pub(super) copies_in: Vec<CopyIn>,
    pub(super) copies_out: Vec<CopyOut>,
    pub(super) steps: Vec<SetupStep>,
}

impl Mounts {
    /// Translates the mounts of `spec`, whose root is `root`. Relative sources are below `bundle`.
    ///
    /// # Errors
    /// A mount that the guest cannot have, or whose source is missing.
    pub(super) fn of(spec: &Spec, bundle: &Path, root: &Path, refusals: &Refusals) -> Result<Self> {
        let copied_back = match spec.annotations.get(VOLUMES).map(String::as_str) {
            None => false,
            Some("copy") => true,
            Some(other) => {
                let what = format!("annotations: {VOLUMES}: {other:?} means nothing");
                return Err(refuse(what, "the only value is copy"));
            }
        };
        let mut mounts = Self::default();
        for mount in &spec.mounts {
            let of = OneMount {
                mount,
                bundle,
                root,
                refusals,
                copied_back,
            };
            mounts.add(&of)?;
        }
        Ok(mounts)
    }

    fn add(&mut self, of: &OneMount<'_>) -> Result<()> {
        let mount = of.mount;
        let target = of.target()?;
        if !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty() {
            of.refuse("mount-options", "owners are not mapped")?;
        }
        let flags = MountFlags::parse(&mount.options);
        if flags.propagation == Propagation::WithHost {
            of.refuse("propagation", "mounts do not travel between host and guest")?;
        }
        let is_own = |kind: &str| OWN.contains(&(kind, target.as_str()));
        match mount.kind.as_str() {
            _ if flags.is_bind || mount.kind == "bind" => self.bind(of, &target, &flags),
            kind if is_own(kind) => {
                self.own(&target, &flags);
                Ok(())
            }
            "tmpfs" => self.tmpfs(of, &target, &flags),
            "proc" | "sysfs" | "mqueue" | "devpts" => {
                self.steps
                    .push(flags.mount(&mount.kind, &mount.kind, &target));
                Ok(())
            }
            kind => {
                let what = format!("mounts: {target}: the guest has no file system {kind:?}");
                Err(refuse(what, "bind a directory, or take tmpfs"))
            }
        }
    }

    /// One of the guest's own: only `ro` is left to do.
    fn own(&mut self, target: &str, flags: &MountFlags) {
        if flags.is_read_only() {
            self.steps.push(SetupStep::ReadOnly {
                path: target.into(),
            });
        }
    }

    fn tmpfs(&mut self, of: &OneMount<'_>, target: &str, flags: &MountFlags) -> Result<()> {
        let mut flags = flags.clone();
        if flags.take("tmpcopyup") {
            let below = of.root.join(target.trim_start_matches('/'));
            let is_empty = fs::read_dir(below).map_or(true, |mut names| names.next().is_none());
            if !is_empty {
                of.refuse("tmpcopyup", "the image's files there are not copied up")?;
            }
        }
        self.steps.push(flags.mount("tmpfs", "tmpfs", target));
        Ok(())
    }

    fn bind(&mut self, of: &OneMount<'_>, target: &str, flags: &MountFlags) -> Result<()> {
        if let Some(option) = flags.rest.first() {
            of.refuse("mount-options", format!("option {option:?} is not known"))?;
        }
        // podman's own, of a size that the guest's has not; it is memory either way.
        if target == "/dev/shm" {
            return Ok(());
        }
        let source = of.bundle.join(&of.mount.source);
        let kind = fs::metadata(&source).map_err(at(&source))?.file_type();
        let in_dev = target.starts_with("/dev/");
        if in_dev && kind.is_char_device() && super::devices::is_in_every_guest(target) {
            return Ok(());
        }
        if !kind.is_dir() && !kind.is_file() {
            let what = if kind.is_socket() {
                "socket"
            } else {
                "device or pipe"
            };
            let what = format!(
                "mounts: {target}: {} is a {what} of the host's",
                source.display()
            );
            return Err(refuse(what, "a machine has no way to it; leave it out"));
        }
        if target == TERMINATION_LOG {
            self.copy(&source, target, kind.is_dir());
            self.copy_back(&source, target);
        } else if flags.is_read_only() {
            self.snapshot(&source, target, kind.is_dir(), flags);
        } else if of.copied_back {
            self.copy(&source, target, kind.is_dir());
            self.copy_back(&source, target);
        } else if ENGINE_FILES.contains(&target) {
            self.copy(&source, target, kind.is_dir());
        } else {
            let what = format!("mounts: {target}: the guest cannot write to the host's files");
            let way_out =
                format!("bind it read-only, or as a copy by the annotation {VOLUMES}=copy");
            return Err(refuse(what, way_out));
        }
        Ok(())
    }

    /// The present state of a file or directory, which the guest cannot change.
    fn snapshot(&mut self, source: &Path, target: &str, is_directory: bool, flags: &MountFlags) {
        if is_directory && self.volumes.len() < VOLUMES_MAX {
            self.volumes.push(Volume {
                host: source.to_owned(),
                guest: target.into(),
            });
        } else {
            self.copy(source, target, is_directory);
            self.steps.push(SetupStep::bind(target, target));
        }
        self.steps.push(flags.remount(target));
    }

    fn copy(&mut self, source: &Path, target: &str, is_directory: bool) {
        let host = match is_directory {
            // Its contents, to merge with what is there.
            true => source.join("."),
            false => source.to_owned(),
        };
        // Nothing is moved into a file system of the guest's kernel: what belongs there is mounted from beside it.
        let aside = target
            .starts_with("/dev/")
            .then(|| format!("{ASIDE}/{}", self.copies_in.len()));
        if let Some(aside) = &aside {
            // Before a mount can hide it.
            self.steps.insert(0, SetupStep::bind(aside, target));
        }
        self.copies_in.push(CopyIn {
            host,
            guest: aside.unwrap_or_else(|| target.to_owned()).into(),
        });
    }

    fn copy_back(&mut self, source: &Path, target: &str) {
        self.copies_out.push(CopyOut {
            guest: target.into(),
            host: source.to_owned(),
        });
    }
}

/// A mount and what is needed to judge it.
struct OneMount<'a> {
    mount: &'a Mount,
    bundle: &'a Path,
    root: &'a Path,
    refusals: &'a Refusals,
    copied_back: bool,
}

impl OneMount<'_> {
    /// Returns the mount point, from the root and without superfluous parts. Relative ones are of old engines (runtime-spec 1.0).
    fn target(&self) -> Result<String> {
        let mut target = PathBuf::from("/");
        for part in Path::new(&self.mount.destination).components() {
            match part {
                std::path::Component::Normal(name) => target.push(name),
                std::path::Component::ParentDir => {
                    target.pop();
                }
                _ => {}
            }
        }
        match target.as_os_str() == "/" {
            true => Err(refuse(
                format!(
                    "mounts: {:?}: the root is no mount point",
                    self.mount.destination
                ),
                "name the root file system by root.path",
            )),
            false => Ok(target.to_string_lossy().into_owned()),
        }
    }

    fn refuse(&self, name: &'static str, why: impl std::fmt::Display) -> Result<()> {
        let what = format!("mounts: {}: {why}", self.mount.destination);
        self.refusals.refuse(name, what)
    }
}
