//! Opening what is below a directory on the same file system.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rdvm_hostfs::beneath;
use rustix::fs::{Dir, OFlags, ResolveFlags};
use rustix::io::Result;

/// Opens `path`, the empty one being `dir` itself: through no link, to no other file system, never out of `dir`.
pub(super) fn open(dir: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    beneath::open(dir, path, flags, ResolveFlags::NO_XDEV)
}

/// Opens a directory to work in.
pub(super) fn directory(dir: impl AsFd, path: &[u8]) -> Result<OwnedFd> {
    open(dir, path, OFlags::PATH | OFlags::DIRECTORY)
}

/// Returns the names in a directory, `.` and `..` left out.
pub(super) fn names(dir: impl AsFd) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    // A descriptor for paths only cannot be read.
    let dir = open(dir, b"", OFlags::RDONLY | OFlags::DIRECTORY)?;
    for entry in Dir::new(dir)? {
        let name = entry?.file_name().to_owned();
        if ![&b"."[..], b".."].contains(&name.as_bytes()) {
            names.push(name);
        }
    }
    Ok(names)
}
