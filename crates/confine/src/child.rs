//! The layers of a child that becomes another program: made before fork(2), put on between that and execve(2).

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::landlock::{Access, Ruleset};
use crate::layers::LayerName;
use crate::{process, sys};

/// The layers that a child puts on before it becomes a program that reads a few places and has no network.
#[derive(Debug)]
pub struct ChildLayers {
    files: Option<Ruleset>,
}

impl ChildLayers {
    /// Prepares the layers; `None` if this process has not asked for confinement. The child reads and runs what is below `places`, as
    /// far as they are there, and uses the files that are open as is said beside them, should it open them again.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    pub fn prepare(
        places: &[&Path],
        open: &[(BorrowedFd<'_>, Access)],
    ) -> io::Result<Option<Self>> {
        if !process::is_asked() {
            return Ok(None);
        }
        let has_landlock = |layer: &crate::Layer| layer.name == LayerName::Landlock && layer.on;
        let files = match process::layers().iter().any(has_landlock) {
            true => Some(rules(places, open)?),
            false => None,
        };
        Ok(Some(Self { files }))
    }

    /// Puts them on the calling process, which is about to become the program. Makes a few system calls, allocates nothing and takes
    /// no lock, as signal-safety(7) asks for.
    ///
    /// # Errors
    ///
    /// The host refuses one. That it gives no network namespace is no error.
    pub fn put_on(&self) -> io::Result<()> {
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        setrlimit(Resource::Core, none)?;
        // An administrator's process needs no namespace of users for it, and keeps its way to files of others.
        if sys::leave_network(false).is_err() {
            let _ = sys::leave_network(true);
        }
        rustix::thread::set_no_new_privs(true)?;
        match &self.files {
            Some(ruleset) => ruleset.enter(),
            None => Ok(()),
        }
    }
}

/// Has all descriptors but the standard streams closed when the calling process becomes another program; those that it is to keep
/// are named after that. As safe between fork(2) and execve(2) as [`ChildLayers::put_on`]. Before Linux 5.11 it does nothing.
pub fn close_on_exec() {
    let _ = sys::close_on_exec();
}

fn rules(places: &[&Path], open: &[(BorrowedFd<'_>, Access)]) -> io::Result<Ruleset> {
    let ruleset = Ruleset::new()?;
    for place in places {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        // Not every host has each of them.
        let Ok(fd) = openat(CWD, *place, flags, Mode::empty()) else {
            continue;
        };
        ruleset.allow(fd.as_fd(), is_file(fd.as_fd()), Access::Execute)?;
    }
    for (fd, access) in open {
        ruleset.allow(*fd, true, *access)?;
    }
    Ok(ruleset)
}

fn is_file(fd: BorrowedFd<'_>) -> bool {
    fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::Directory)
}

/// Returns why a child shares this process's network, if it does or if that cannot be told.
pub fn shares_network(child: u32) -> Option<String> {
    let ours = fs::read_link("/proc/self/ns/net");
    let theirs = fs::read_link(format!("/proc/{child}/ns/net"));
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) if ours != theirs => None,
        (Ok(_), Ok(_)) => Some("this host lets no user make namespaces".to_owned()),
        (Err(error), _) | (_, Err(error)) => {
            Some(format!("it cannot be looked at ({})", error.kind()))
        }
    }
}
