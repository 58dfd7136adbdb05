//! Numbers of Linux: errors, flags of open files, signals, events. Sources: `include/uapi/` of the Linux source.

use super::Errno;

/// No such file or directory.
pub const ENOENT: Errno = Errno(2);
/// Interrupted by a signal.
pub const EINTR: Errno = Errno(4);
/// Input or output error; of a terminal's master side, no slave side is open.
pub const EIO: Errno = Errno(5);
/// Try again.
pub const EAGAIN: Errno = Errno(11);
/// Permission denied.
pub const EACCES: Errno = Errno(13);
/// A path component is not a directory.
pub const ENOTDIR: Errno = Errno(20);
/// Invalid argument.
pub const EINVAL: Errno = Errno(22);

/// Open for reading.
pub const O_RDONLY: usize = 0;
/// Open for writing.
pub const O_WRONLY: usize = 1;
/// Open for both.
pub const O_RDWR: usize = 2;
/// Do not make it the controlling terminal.
pub const O_NOCTTY: usize = 0o400;
/// Do not block.
pub const O_NONBLOCK: usize = 0o4000;
/// Close on exec.
pub const O_CLOEXEC: usize = 0o2000000;

/// `SIGKILL`.
pub const SIGKILL: usize = 9;
pub(super) const SIGCHLD: u64 = 17;

/// `poll`: there is something to read.
pub const POLLIN: i16 = 1;
/// `poll`: writing will not block.
pub const POLLOUT: i16 = 4;
