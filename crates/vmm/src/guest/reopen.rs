//! A descriptor of the caller, opened anew so that it never blocks.
//!
//! `O_NONBLOCK` belongs to the open file, which is shared with the program that started us; so it is not set there. Through
//! /proc/self/fd (proc(5)) a terminal or a pipe is opened a second time, for ourselves alone.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};

/// Opens `fd` anew with `access` (`O_RDONLY` or `O_WRONLY`), not to wait; returns `fd` where that is refused, as it is
/// for another user's pipe or terminal, or for a pipe whose other end is closed.
pub(super) fn unblocked(fd: OwnedFd, access: OFlags) -> Result<OwnedFd, OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).map_err(|_| fd)
}
