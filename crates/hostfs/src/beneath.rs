//! Opening what is below a directory and nothing else, even if names change meanwhile.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{Errno, Result};

/// Opens `path` below `dir`, the empty path being `dir` itself: through no link and never out of `dir`. `also` holds further
/// restrictions.
///
/// # Errors
/// Those of openat2(2): `NOSYS` before Linux 5.6, `PERM` in sandboxes that do not know the call.
pub fn open(dir: impl AsFd, path: &[u8], flags: OFlags, also: ResolveFlags) -> Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = flags | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(&dir, path, flags, Mode::empty(), resolve | also) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
