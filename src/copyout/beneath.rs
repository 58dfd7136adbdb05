//! Opening what is below a directory and nothing else, whatever others do to the names meanwhile.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{Errno, Result};

/// Opens `path`, the empty one being `dir` itself: through no link, to no other file system, never out of `dir`.
pub(super) fn open(dir: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = flags | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    loop {
        match openat2(&dir, path, flags, Mode::empty(), resolve) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Opens a directory to work in.
pub(super) fn directory(dir: impl AsFd, path: &[u8]) -> Result<OwnedFd> {
    open(dir, path, OFlags::PATH | OFlags::DIRECTORY)
}

/// The names in a directory, `.` and `..` left out.
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
