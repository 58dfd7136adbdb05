//! The directory of our own in which things wait until they are whole. It has the name `.rdvm-…` and goes with its owner.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, chmod, mkdirat, unlinkat};
use rustix::io::{Errno, Result};

use super::beat::Beat;
use super::beneath;
use rdvm_hostfs::atomic::{TEMPORARY, under_new_name};
use rdvm_hostfs::path;

/// The name in it of the thing that was asked for: none of the guest's names.
pub(super) const STAGED: &[u8] = b"0";

/// An own directory, removed on drop with all that is in it.
#[derive(Debug)]
pub(super) struct Stage {
    home: Arc<OwnedFd>,
    name: PathBuf,
    dir: OwnedFd,
    beat: Arc<Beat>,
}

impl Stage {
    /// Makes one in the directory `home`, for us alone.
    ///
    /// # Errors
    /// Those of mkdir; `EEXIST` also when another process puts something into its place.
    pub(super) fn make(home: &Arc<OwnedFd>, beat: &Arc<Beat>) -> Result<Self> {
        let make = |name: &Path| Ok(mkdirat(home, name, Mode::RWXU)?);
        let made = under_new_name(Path::new(""), TEMPORARY, make);
        let (name, ()) = made.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let dir = beneath::open(home, name.as_os_str().as_bytes(), flags)?;
        // What is in it will be removed. That may be nothing that another process has moved to its name.
        if !beneath::names(&dir)?.is_empty() {
            return Err(Errno::EXIST);
        }
        Ok(Self {
            home: Arc::clone(home),
            name,
            dir,
            beat: Arc::clone(beat),
        })
    }
}

impl AsFd for Stage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        clear(self.dir.as_fd(), &self.beat);
        // What could not be removed stays; there is nothing else to be done.
        let _ = unlinkat(&self.home, &self.name, AtFlags::REMOVEDIR);
    }
}

/// Removes all that is in a directory, as far as possible.
fn clear(top: BorrowedFd<'_>, beat: &Beat) {
    let mut directories = vec![Vec::new()];
    let mut at = 0;
    while let Some(path) = directories.get(at).cloned() {
        at += 1;
        let Ok(dir) = open_owned(top, &path) else {
            continue;
        };
        for name in beneath::names(&dir).unwrap_or_default() {
            beat.tick();
            if unlinkat(&dir, &name, AtFlags::empty()) == Err(Errno::ISDIR) {
                directories.push(path::join(&path, name.as_bytes()));
            }
        }
    }
    for path in directories[1..].iter().rev() {
        beat.tick();
        let (parent, name) = path::split(path);
        if let Ok(parent) = beneath::directory(top, parent) {
            let _ = unlinkat(parent, name, AtFlags::REMOVEDIR);
        }
    }
}

/// Opens a directory that is ours, and may have been given a mode already that keeps us out.
fn open_owned(top: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    let dir = beneath::directory(top, path)?;
    if beneath::names(&dir).is_err() {
        chmod(format!("/proc/self/fd/{}", dir.as_raw_fd()), Mode::RWXU)?;
    }
    Ok(dir)
}
