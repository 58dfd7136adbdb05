//! Memory that is shared with the host.

use crate::arch::*;

use super::{EINVAL, O_CLOEXEC, O_RDWR, Result, call, call3, close, open};

/// Physical memory that is not the kernel's, mapped for good. The other side may change it at any time.
#[derive(Debug)]
pub(crate) struct Shared {
    address: usize,
    length: usize,
}

impl Shared {
    /// Maps `length` bytes at a physical address, both multiples of a page. Wants `/dev/mem`, which kernels give out as far
    /// as it is not their own RAM (`CONFIG_STRICT_DEVMEM`).
    pub(crate) fn map(physical: u64, length: u64) -> Result<Self> {
        let fd = open(b"/dev/mem\0", O_RDWR | O_CLOEXEC)?;
        let length = length as usize;
        let address = call(__NR_mmap, [0, length, 3, 1, fd as usize, physical as usize]);
        close(fd);
        address.map(|address| Self { address, length })
    }

    /// Writes bytes from it to a descriptor, straight: `count` from `at` on. Gives how many were taken.
    pub(crate) fn write_to(&self, fd: i32, at: usize, count: usize) -> Result<usize> {
        match at.checked_add(count) {
            Some(end) if end <= self.length => {
                call3(__NR_write, fd as usize, self.address + at, count)
            }
            _ => Err(EINVAL),
        }
    }

    /// Copies `bytes` to `at`; what would not fit is left out.
    pub(crate) fn put(&self, at: usize, bytes: &[u8]) {
        let room = self.length.saturating_sub(at);
        let bytes = &bytes[..bytes.len().min(room)];
        let to = (self.address + at) as *mut u8;
        let (words, rest) = bytes.as_chunks::<8>();
        for (index, word) in words.iter().enumerate() {
            // SAFETY: `at` and the cut above keep all of this within the mapping, which is never unmapped. x86-64 stores at
            // any address. In words, which cost as much as
            // bytes where it is not cached; the system call that tells the host comes after them and is not moved before them.
            unsafe {
                core::ptr::write_unaligned(to.cast::<u64>().add(index), u64::from_ne_bytes(*word))
            };
        }
        for (index, byte) in rest.iter().enumerate() {
            // SAFETY: as above.
            unsafe { to.add(words.len() * 8 + index).write_volatile(*byte) };
        }
    }
}
