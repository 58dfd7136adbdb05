//! The root file system: made one that can be pivoted, given its size, and asked how full it is.
//!
//! The kernel unpacks the image into a tmpfs that may hold half of the RAM (`mm/shmem.c`), at the bottom of the mount
//! tree, where `pivot_root(2)` refuses to work.

use crate::sys;
use rdvm_proto::{Room, RootUse};

const REMOUNT: usize = 32;
const BIND: usize = 4096;

/// Covers the root with a mount of itself and enters that. Its parent is the kernel's own mount, which no process has as
/// its root any more: so the new one can be moved, and it is the only one that `/proc/self/mountinfo` shows for `/`.
pub(crate) fn cover() {
    if sys::mount(b"/\0", b"/\0", BIND, b"\0").is_ok() {
        // `/` is still the lower one; a walk over `..` ends at what is mounted on it.
        let _ = sys::chdir(b"/..\0").and_then(|()| sys::chroot(b".\0"));
    }
}

/// Gives the root its limits: what it holds, and what files may take of the RAM and swap space that are free. Wants `/proc`.
pub(crate) fn set_limits() {
    let root = match sys::stat_fs(b"/\0") {
        Ok(root) if root.bytes > 0 => root,
        // A kernel without tmpfs.
        _ => return,
    };
    // The kernel keeps `min_free_kbytes` for emergencies and begins to look for memory at a quarter more.
    let kept = kernel_reserve().saturating_mul(5) / 4;
    let (ram, swap) = sys::free_memory();
    let room = Room::within(ram.saturating_sub(kept), swap);
    let mut data = Options::new();
    data.add(b"size=", root.bytes - root.free_bytes + room.bytes);
    data.add(b",nr_inodes=", root.inodes - root.free_inodes + room.inodes);
    let _ = sys::mount(b"rootfs\0", b"/\0", REMOUNT, data.with_nul());
}

/// Returns how full the root is.
pub(crate) fn in_use() -> RootUse {
    let root = sys::stat_fs(b"/\0").unwrap_or_default();
    RootUse {
        bytes: root.bytes,
        free_bytes: root.free_bytes,
        free_inodes: root.free_inodes,
    }
}

/// `min_free_kbytes` in bytes; where it cannot be read, what it is in the largest machine with huge pages.
fn kernel_reserve() -> u64 {
    let mut text = [0u8; 32];
    let length = sys::read_file(b"/proc/sys/vm/min_free_kbytes\0", &mut text).unwrap_or(0);
    match sys::decimal(&text[..length]) {
        0 => 66 << 20,
        kib => kib << 10,
    }
}

/// Mount options, as text.
struct Options {
    text: [u8; 80],
    length: usize,
}

impl Options {
    fn new() -> Self {
        Self {
            text: [0; 80],
            length: 0,
        }
    }

    /// Adds a name and a number in hexadecimal: of a decimal one leading zeros would make an octal one.
    fn add(&mut self, name: &[u8], number: u64) {
        let digits = (0..16).rev().map(|place| (number >> (4 * place)) & 15);
        let digits = digits.map(|digit| b"0123456789abcdef"[digit as usize]);
        let text = name.iter().copied().chain(*b"0x").chain(digits);
        for (slot, byte) in self.text[self.length..79].iter_mut().zip(text) {
            *slot = byte;
            self.length += 1;
        }
    }

    fn with_nul(&self) -> &[u8] {
        &self.text[..=self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_so_that_the_kernel_reads_them() {
        let mut options = Options::new();
        options.add(b"size=", 0x12_3000);
        options.add(b",nr_inodes=", u64::MAX);
        assert_eq!(
            options.with_nul(),
            b"size=0x0000000000123000,nr_inodes=0xffffffffffffffff\0"
        );
    }
}
