//! An initrd that machines share: the file that all of them have mapped is a part of their RAM, and the kernel is told where.
//!
//! QEMU copies what `-initrd` names, so it is not told of this one. What it says to a kernel that starts by its PVH entry
//! (`struct hvm_start_info`, Xen's `public/arch-x86/hvm/start_info.h`) is completed by a few instructions of ours, which
//! stand behind the initrd and run before the kernel's first: QEMU takes their address for the kernel's entry. The word
//! `initrdmem=` would be simpler, but a kernel reads it too late to keep its own data out of that memory.

use std::fs::File;
use std::io::{self, Error, ErrorKind};
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, memfd_create};

use rdvm_hostfs::units::{ByteSize, PAGE};

/// RAM below devices, in one piece.
const LOW_RAM: u64 = 3 << 30;

/// The kernels of distributions have 50 MB; one with all that a compiler says of it for debuggers has more.
const KERNEL_MAX: u64 = 1 << 30;

/// Header and name of the note that has the PVH entry, without the length of that (`XEN_ELFNOTE_PHYS32_ENTRY`).
const NOTE_NAME: &[u8] = b"\x04\0\0\0";
const NOTE_TYPE: &[u8] = b"\x12\0\0\0Xen\0";

/// The place of the parts of such an initrd in the guest's RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// The first byte, directly above the kernel.
    pub(super) at: u64,
    /// Number of bytes from there on that are of the shared file, whole pages.
    pub(super) shared: u64,
    /// Length of the initrd in bytes, with what follows those.
    size: u64,
}

impl Place {
    /// The place of an initrd of `size` bytes, `shared` of which are of the file; `None` when there is no place for it in RAM of
    /// `memory` bytes.
    pub(super) fn new(kernel_end: u64, shared: u64, size: u64, memory: ByteSize) -> Option<Self> {
        let at = kernel_end.checked_next_multiple_of(PAGE)?;
        let place = Self { at, shared, size };
        (place.code().checked_add(PAGE)? <= memory.0.min(LOW_RAM)).then_some(place)
    }

    /// Returns how much of `memory` is above the shared file.
    pub(super) fn above(&self, memory: ByteSize) -> u64 {
        memory.0.saturating_sub(self.at + self.shared)
    }

    /// Returns the address of our instructions: the first whole page behind the initrd.
    fn code(&self) -> u64 {
        (self.at + self.size).next_multiple_of(PAGE)
    }

    /// Writes our instructions to `above`, the file of the RAM above the shared one, which go on to `entry`; returns a copy of
    /// the kernel that starts with them.
    ///
    /// # Errors
    ///
    /// No memory; the kernel has no such entry.
    pub(super) fn hand_over(&self, kernel: &File, entry: u64, above: &File) -> io::Result<File> {
        let entry = u32::try_from(entry).map_err(Error::other)?;
        let code = self.code();
        above.write_all_at(&self.instructions(entry)?, code - self.at - self.shared)?;
        let code = u32::try_from(code).map_err(Error::other)?;
        let length = kernel.metadata()?.len();
        if length > KERNEL_MAX {
            return Err(ErrorKind::FileTooLarge.into());
        }
        let mut bytes = vec![0; length as usize];
        kernel.read_exact_at(&mut bytes, 0)?;
        let at = entry_in(&bytes, entry).ok_or(ErrorKind::InvalidData)?;
        bytes[at..at + 4].copy_from_slice(&code.to_le_bytes());
        let copy = File::from(memfd_create("rdvm-kernel", MemfdFlags::CLOEXEC)?);
        copy.write_all_at(&bytes, 0)?;
        Ok(copy)
    }

    /// Returns 32-bit instructions, then the list of one module that they name. `ebx` has the address of `hvm_start_info`.
    fn instructions(&self, entry: u32) -> io::Result<Vec<u8>> {
        /// The offset of the list.
        const LIST: u64 = 32;
        let list = u32::try_from(self.code() + LIST).map_err(Error::other)?;
        let mut code = Vec::new();
        // mov dword [ebx + field], value: nr_modules, and modlist_paddr of 64 bits.
        for (field, value) in [(12, 1), (16, list), (20, 0)] {
            code.extend([0xc7, 0x43, field]);
            code.extend(u32::to_le_bytes(value));
        }
        // mov eax, entry; jmp eax
        code.push(0xb8);
        code.extend(entry.to_le_bytes());
        code.extend([0xff, 0xe0]);
        code.resize(LIST as usize, 0);
        // struct hvm_modlist_entry: paddr, size, cmdline_paddr, reserved.
        for value in [self.at, self.size, 0, 0] {
            code.extend(value.to_le_bytes());
        }
        Ok(code)
    }
}

/// Returns the offset in a kernel's bytes at which its PVH entry is noted.
fn entry_in(kernel: &[u8], entry: u32) -> Option<usize> {
    let value = entry.to_le_bytes();
    let is_type = |at: &usize| kernel[*at..].starts_with(NOTE_TYPE);
    let mut at = (8..kernel.len().saturating_sub(12))
        .step_by(4)
        .filter(is_type);
    // Four bytes of length between name's and type, four or eight of the value.
    let found = at.find(|&at| {
        kernel[at - 8..].starts_with(NOTE_NAME)
            && kernel[at + NOTE_TYPE.len()..].starts_with(&value)
    })?;
    Some(found + NOTE_TYPE.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_initrd_lies_between_the_kernel_and_our_instructions_or_has_no_place() {
        let memory = ByteSize::mib(100);
        let place = Place::new(0x1c1_5001, 0x5000, 0x5123, memory).unwrap();
        assert_eq!((place.at, place.code()), (0x1c1_6000, 0x1c1_c000));
        assert_eq!(place.above(memory), (100 << 20) - 0x1c1_b000);
        let end = place.code() + PAGE;
        assert!(Place::new(0x1c1_5001, 0x5000, 0x5123, ByteSize(end)).is_some());
        assert!(Place::new(0x1c1_5001, 0x5000, 0x5123, ByteSize(end - 1)).is_none());
        assert!(Place::new(0x1c1_5001, 0x5000, 3 << 30, ByteSize(8 << 30)).is_none());
        assert!(Place::new(u64::MAX, 0x5000, 0x5123, memory).is_none());
    }

    #[test]
    fn the_instructions_name_the_initrd_and_go_on_to_the_kernel() {
        let place = Place::new(16 << 20, 0x5000, 0x5123, ByteSize::mib(100)).unwrap();
        let code = place.instructions(0x0100_0450).unwrap();
        #[rustfmt::skip]
        assert_eq!(code[..28], [
            0xc7, 0x43, 12, 1, 0, 0, 0,
            0xc7, 0x43, 16, 0x20, 0x60, 0, 1,
            0xc7, 0x43, 20, 0, 0, 0, 0,
            0xb8, 0x50, 0x04, 0, 1, 0xff, 0xe0,
        ]);
        let words: Vec<u64> = code[32..]
            .chunks(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
            .collect();
        assert_eq!(words, [16 << 20, 0x5123, 0, 0]);
    }

    #[test]
    fn the_entry_is_found_in_its_note_and_nowhere_else() {
        let mut kernel = vec![0u8; 64];
        kernel[16..20].copy_from_slice(&0x0100_0450u32.to_le_bytes());
        assert_eq!(entry_in(&kernel, 0x0100_0450), None);
        for length in [4u8, 8] {
            kernel[32..48].copy_from_slice(b"\x04\0\0\0\x04\0\0\0\x12\0\0\0Xen\0");
            kernel[36] = length;
            kernel[48..52].copy_from_slice(&0x0100_0450u32.to_le_bytes());
            assert_eq!(entry_in(&kernel, 0x0100_0450), Some(48));
            assert_eq!(entry_in(&kernel, 0x0100_0451), None);
        }
        assert_eq!(entry_in(&kernel[..8], 0), None);
        assert_eq!(entry_in(&[], 0), None);
    }
}
