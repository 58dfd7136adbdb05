//! A descriptor of our caller's, opened anew so that it never makes us wait.
//!
//! `O_NONBLOCK` belongs to the open file, which is shared with whoever started us; so it is not set there. Through
//! /proc/self/fd (proc(5)) a terminal or a pipe is opened a second time, for ourselves alone.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};

/// `fd` opened anew with `access` (`O_RDONLY` or `O_WRONLY`), not to wait; where that is refused, `fd` as it is.
pub(super) fn unblocked(fd: OwnedFd, access: OFlags) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).unwrap_or(fd)
}
