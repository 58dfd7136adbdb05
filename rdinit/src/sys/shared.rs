//! Memory that is shared with the host.

use crate::arch::*;

use core::sync::atomic::{AtomicU64, Ordering, fence};

use super::{EINVAL, O_CLOEXEC, O_RDWR, Result, call, call3, close, device_number, open};

/// The number of /dev/mem (`Documentation/admin-guide/devices.txt`).
const DEV_MEM: u64 = 1 << 8 | 1;

/// Physical memory that is not the kernel's, mapped for good. The other side may change it at any time.
#[derive(Debug, Clone, Copy)]
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
        // Whatever else may stand there by now gets none of what the host is to see.
        let address = match device_number(fd) {
            Ok(DEV_MEM) => call(__NR_mmap, [0, length, 3, 1, fd as usize, physical as usize]),
            _ => Err(EINVAL),
        };
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

    /// Reads bytes from a descriptor straight into it: at most `count`, to `at` and behind. Gives how many there were.
    pub(crate) fn read_from(&self, fd: i32, at: usize, count: usize) -> Result<usize> {
        match at.checked_add(count) {
            Some(end) if end <= self.length => {
                call3(__NR_read, fd as usize, self.address + at, count)
            }
            _ => Err(EINVAL),
        }
    }

    /// Copies bytes from `at` on to `to`; what lies beyond the end is left out.
    pub(crate) fn get(&self, at: usize, to: &mut [u8]) {
        let room = self.length.saturating_sub(at);
        let length = to.len().min(room);
        let from = (self.address + at) as *const u8;
        let (words, rest) = to[..length].as_chunks_mut::<8>();
        let whole = words.len() * 8;
        for (index, word) in words.iter_mut().enumerate() {
            // SAFETY: `at` and the cut above keep all of this within the mapping, which is never unmapped. x86-64 loads from any
            // address. In words, as in `put`: emulation steps through the copying of a library slowly. The host may write there
            // meanwhile, and then some of either is copied: bytes are bytes.
            *word = unsafe { from.cast::<u64>().add(index).read_unaligned() }.to_ne_bytes();
        }
        for (index, byte) in rest.iter_mut().enumerate() {
            // SAFETY: as above.
            *byte = unsafe { from.add(whole + index).read_volatile() };
        }
    }

    /// The number at `at`, a multiple of eight; what was read before is not read again before this.
    pub(crate) fn load(&self, at: usize) -> u64 {
        self.number(at)
            .map_or(0, |number| number.load(Ordering::Acquire))
    }

    /// Puts a number at `at`, a multiple of eight, after everything that was put before.
    pub(crate) fn store(&self, at: usize, value: u64) {
        if let Some(number) = self.number(at) {
            number.store(value, Ordering::Release);
        }
    }

    /// Everything that was put before is seen by the other side before anything is read that comes after.
    pub(crate) fn settle() {
        fence(Ordering::SeqCst);
    }

    fn number(&self, at: usize) -> Option<&AtomicU64> {
        let fits = at.is_multiple_of(8) && at.checked_add(8).is_some_and(|end| end <= self.length);
        // SAFETY: it lies within the mapping, which is never unmapped and begins at a page, so it is aligned; this process has
        // one thread and reaches what stands there in no other way, and who else does (the host) is no part of the program.
        fits.then(|| unsafe { AtomicU64::from_ptr((self.address + at) as *mut u64) })
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
