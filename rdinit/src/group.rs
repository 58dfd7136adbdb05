//! The command's control group, where the number of its processes is limited.

use crate::{setup, sys};

/// Makes the group with a limit of so many processes and threads. Returns the descriptor by which a process enters it, which
/// works whatever is mounted over the file later.
///
/// # Errors
/// The kernel has no control groups, or not the controller `pids`.
pub(crate) fn make(limit: u32) -> sys::Result<i32> {
    setup::write(b"/sys/fs/cgroup/cgroup.subtree_control\0", b"+pids")?;
    sys::mkdir(b"/sys/fs/cgroup/rdvm\0", 0o755)?;
    setup::write(b"/sys/fs/cgroup/rdvm/pids.max\0", &hexadecimal(limit))?;
    let processes = b"/sys/fs/cgroup/rdvm/cgroup.procs\0";
    sys::open(processes, sys::O_WRONLY | sys::O_CLOEXEC)
}

/// Moves this process into the group.
pub(crate) fn enter(processes: i32) -> sys::Result<()> {
    sys::write(processes, b"0").map(drop)
}

/// A number as the kernel reads it, whatever base is usual.
fn hexadecimal(number: u32) -> [u8; 10] {
    let mut text = *b"0x00000000";
    for (place, digit) in text[2..].iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (4 * place)) as usize & 15];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_written_so_that_the_kernel_reads_it() {
        assert_eq!(hexadecimal(0x12ab), *b"0x000012ab");
        assert_eq!(hexadecimal(u32::MAX), *b"0xffffffff");
    }
}
