//! Numbers of Linux: errors, flags of open files, signals, events. Sources: `include/uapi/` of the Linux source.

use super::Errno;

/// No such file or directory.
pub(crate) const ENOENT: Errno = Errno(2);
/// Interrupted by a signal.
pub(crate) const EINTR: Errno = Errno(4);
/// Input or output error; of a terminal's master side, no slave side is open.
pub(crate) const EIO: Errno = Errno(5);
/// No such device or address.
pub(crate) const ENXIO: Errno = Errno(6);
/// Try again.
pub(crate) const EAGAIN: Errno = Errno(11);
/// Permission denied.
pub(crate) const EACCES: Errno = Errno(13);
/// It is there already.
pub(crate) const EEXIST: Errno = Errno(17);
/// A path component is not a directory.
pub(crate) const ENOTDIR: Errno = Errno(20);
/// Invalid argument.
pub(crate) const EINVAL: Errno = Errno(22);

/// Open for reading.
pub(crate) const O_RDONLY: usize = 0;
/// Open for writing.
pub(crate) const O_WRONLY: usize = 1;
/// Open for both.
pub(crate) const O_RDWR: usize = 2;
/// Do not make it the controlling terminal.
pub(crate) const O_NOCTTY: usize = 0o400;
/// Do not block.
pub(crate) const O_NONBLOCK: usize = 0o4000;
/// Close on exec.
pub(crate) const O_CLOEXEC: usize = 0o2000000;

/// `SIGKILL`.
pub(crate) const SIGKILL: usize = 9;
pub(super) const SIGCHLD: u64 = 17;

/// `poll`: there is something to read.
pub(crate) const POLLIN: i16 = 1;
/// `poll`: writing will not block.
pub(crate) const POLLOUT: i16 = 4;
