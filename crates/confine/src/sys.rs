//! System calls that have no safe wrapper: those of Landlock (landlock(7)), which no libc has, and unshare(2).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// `struct landlock_ruleset_attr`.
#[repr(C)]
pub(crate) struct RulesetAttr {
    pub(crate) handled_access_fs: u64,
    pub(crate) handled_access_net: u64,
    pub(crate) scoped: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

/// `LANDLOCK_RULE_PATH_BENEATH`.
const PATH_BENEATH: i32 = 1;
/// `LANDLOCK_CREATE_RULESET_VERSION`.
const VERSION: u32 = 1;

/// Makes a ruleset of the first `size` bytes of a structure: an older kernel knows fewer of its fields.
pub(crate) fn create_ruleset(attr: &RulesetAttr, size: usize) -> io::Result<OwnedFd> {
    let size = size.min(size_of::<RulesetAttr>());
    // SAFETY: the structure has the layout of the kernel's, and at least the size that is said; it is only read.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const *attr,
            size,
            0u32,
        )
    };
    let fd = result(fd)?;
    // SAFETY: the call has made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Returns the kernel's version of Landlock.
pub(crate) fn landlock_version() -> io::Result<u64> {
    let none = std::ptr::null::<RulesetAttr>();
    // SAFETY: with this flag the call takes no structure, and returns a number.
    result(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, VERSION) })
}

/// Adds a rule for what is at or below a place.
pub(crate) fn add_rule(
    ruleset: BorrowedFd<'_>,
    place: BorrowedFd<'_>,
    rights: u64,
) -> io::Result<()> {
    let attr = PathBeneathAttr {
        allowed_access: rights,
        parent_fd: place.as_raw_fd(),
    };
    let ruleset = ruleset.as_raw_fd();
    // SAFETY: the structure has the layout of the kernel's for this kind of rule; it is only read.
    let added = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset,
            PATH_BENEATH,
            &raw const attr,
            0u32,
        )
    };
    result(added).map(drop)
}

/// Puts a ruleset on the calling thread.
pub(crate) fn restrict_self(ruleset: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the call takes two numbers, and touches no memory of the caller's.
    let restricted =
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0u32) };
    result(restricted).map(drop)
}

/// Has all descriptors but the standard streams closed when the calling process becomes another program.
pub(crate) fn close_on_exec() -> io::Result<()> {
    let last = libc::c_uint::MAX;
    // SAFETY: with this flag the call closes nothing; it changes what execve(2) does, which ends every owner of a descriptor.
    let closed =
        unsafe { libc::syscall(libc::SYS_close_range, 3u32, last, libc::CLOSE_RANGE_CLOEXEC) };
    result(closed).map(drop)
}

/// Moves the calling process into a network of its own; by way of a namespace of users, too, if that is said.
pub(crate) fn leave_network(by_users: bool) -> io::Result<()> {
    let mut flags = UnshareFlags::NEWNET;
    if by_users {
        flags |= UnshareFlags::NEWUSER;
    }
    // SAFETY: neither namespace has anything to do with memory or descriptors that this process uses.
    Ok(unsafe { unshare_unsafe(flags) }?)
}

fn result(value: libc::c_long) -> io::Result<u64> {
    u64::try_from(value).map_err(|_| io::Error::last_os_error())
}
