//! The guest's RAM: mapped once, huge pages where they are worth it and the host has them, registered with KVM.
//!
//! Nothing is touched before it is used: the host pays for what the guest uses. Bytes that are read from files go straight
//! into it (`load.rs`).

use std::fs::File;
use std::io;
use std::ops::Range;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MmapRegion,
};

use super::layout::{self, HUGE_PAGE};
use super::{Error, kvm};
use crate::guest::rings::{RINGS, Rings};
use crate::machine::Machine;

/// Half of a process's addresses.
const MOST: u64 = 1 << 46;

/// Machines of up to so many bytes have small pages below the kernel.
const SMALL: u64 = 96 << 20;

/// RAM has one or two slots from 0 on.
const RINGS_SLOT: u32 = 2;

/// Guest RAM. The mapping lives as long as this does.
#[derive(Debug)]
pub(super) struct Ram {
    memory: GuestMemoryMmap,
    _reservation: Reservation,
}

impl Ram {
    /// Maps `total` bytes, a multiple of a page, in the ranges of `layout::ram`.
    ///
    /// # Errors
    ///
    /// The host has not so much address space, or does not give it to us (`ulimit -v`).
    pub(super) fn map(total: u64) -> io::Result<Self> {
        let out_of_range = || io::Error::from(io::ErrorKind::OutOfMemory);
        if total > MOST {
            return Err(out_of_range());
        }
        let (low, high) = layout::ram(total);
        let ranges: Vec<_> = [Some(low), high].into_iter().flatten().collect();
        let spans: Vec<usize> = ranges
            .iter()
            .map(|range| usize::try_from(range.end - range.start))
            .collect::<Result<_, _>>()
            .map_err(|_| out_of_range())?;
        let huge = HUGE_PAGE as usize;
        let room = spans
            .iter()
            .map(|span| span.next_multiple_of(huge))
            .sum::<usize>()
            + huge;
        let reservation = Reservation::new(room)?;
        let mut at = reservation.start.next_multiple_of(huge);
        let mut regions = Vec::new();
        for (range, span) in ranges.iter().zip(spans) {
            advise(at, span, Advice::LinuxDontDump);
            advise(at, span, all_of(total));
            // SAFETY: `at` and `span` lie within the reservation: it has room for all spans rounded up to huge pages,
            // and for aligning the first one. It is unmapped only when `self` is dropped, together with `memory`, which
            // never leaves it; a region that is built like this does not unmap anything itself.
            let region =
                unsafe { MmapRegion::build_raw(at as *mut u8, span, libc_prot(), libc_flags()) }
                    .map_err(io::Error::other)?;
            let region = GuestRegionMmap::new(region, GuestAddress(range.start));
            regions.push(region.ok_or_else(out_of_range)?);
            at += span.next_multiple_of(huge);
        }
        Ok(Self {
            memory: GuestMemoryMmap::from_regions(regions).map_err(io::Error::other)?,
            _reservation: reservation,
        })
    }

    /// Returns the memory, to be written at guest-physical addresses.
    pub(super) fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// A range of guest-physical addresses as bytes; `None` when it is not all RAM.
    pub(super) fn slice(&mut self, range: Range<u64>) -> Option<&mut [u8]> {
        let length = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
        let region = self.memory.find_region(GuestAddress(range.start))?;
        let offset = range.start - region.start_addr().raw_value();
        if offset + length as u64 > region.len() {
            return None;
        }
        // SAFETY: the bytes are mapped, readable and writable, as the check above and `map` ensure, for as long as
        // `self` lives. `self` is borrowed mutably, so no other Rust code reaches them meanwhile; and no guest does,
        // since KVM gets to know the memory by `register`, which takes `self` away from who could call this.
        Some(unsafe {
            std::slice::from_raw_parts_mut(region.as_ptr().add(offset as usize), length)
        })
    }

    /// Asks for huge pages in a range that will all be used: those of them that lie within it.
    pub(super) fn want_huge_pages(&mut self, range: Range<u64>) {
        let whole = range.start.next_multiple_of(HUGE_PAGE)..range.end & !(HUGE_PAGE - 1);
        if let Some(place) = self.slice(whole) {
            advise(place.as_ptr() as usize, place.len(), Advice::LinuxHugepage);
        }
    }

    /// Registers the memory with a machine. From now on the guest may change it at any time.
    ///
    /// # Errors
    ///
    /// Those of KVM.
    pub(super) fn register(self, vm: &VmFd) -> Result<Registered, Error> {
        for (slot, region) in (0..).zip(self.memory.iter()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: region.as_ptr() as u64,
            };
            kvm("registering the guest's RAM", || {
                // SAFETY: the range is mapped and belongs to nothing else, and each has a slot and addresses of its own.
                // `Registered` keeps it mapped until `boot` drops it. No vCPU is left then: `Session` ends their threads
                // before it is gone itself, whether `boot` returns or unwinds.
                unsafe { vm.set_user_memory_region(region) }
            })?;
        }
        Ok(Registered { _ram: self })
    }
}

/// Memory in a slot of its own that the guest and we both use. It must not go before the last vCPU has.
///
/// # Errors
///
/// No memory; those of KVM.
pub(super) fn share(vm: &VmFd) -> Result<Rings, Error> {
    let region = MmapRegion::new(RINGS as usize);
    let region = region.map_err(|error| Error::host("sharing memory")(io::Error::other(error)))?;
    let slot = kvm_userspace_memory_region {
        slot: RINGS_SLOT,
        flags: 0,
        guest_phys_addr: layout::RINGS,
        memory_size: RINGS,
        userspace_addr: region.as_ptr() as u64,
    };
    kvm("registering shared memory", || {
        // SAFETY: the range is mapped and belongs to nothing else, and its slot and addresses are its own: RAM leaves them
        // free (`layout::ram`). It is unmapped when the `Rings` are dropped, which `boot` gives to the guest's ports; they are
        // in the hands of the session, and leave them only when the vCPUs' threads have ended, also when unwound.
        unsafe { vm.set_user_memory_region(slot) }
    })?;
    Ok(Rings::new(region))
}

/// Maps the files of regions privately, so that machines share their page cache, each at its range of guest-physical addresses.
/// A page that the guest writes there becomes its own, and never reaches the file. Only scratch space is the file. It must not
/// go before the last vCPU has.
///
/// # Errors
///
/// The host has no more mappings for us; those of KVM.
pub(super) fn map_regions(vm: &VmFd, machine: &Machine) -> Result<Regions, Error> {
    let places = layout::regions(machine.memory.0, machine.region_sizes());
    let regions = machine.regions.iter();
    let regions = regions.map(|region| (&region.file, MapFlags::PRIVATE));
    let scratch = machine.scratch.iter();
    let scratch = scratch.map(|scratch| (scratch.file(), MapFlags::SHARED));
    let mut mapped = Regions(Vec::new());
    for ((slot, place), (file, how)) in (RINGS_SLOT + 1..).zip(places).zip(regions.chain(scratch)) {
        let size = place.end - place.start;
        let mapping = Reservation::of_file(file, size as usize, how);
        let mapping = mapping.map_err(Error::host("mapping a region"))?;
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: place.start,
            memory_size: size,
            userspace_addr: mapping.start as u64,
        };
        mapped.0.push(mapping);
        kvm("registering a region", || {
            // SAFETY: the range is mapped and nothing of ours reads or writes it; its slot and addresses are its own
            // (`layout::regions`). `Regions` keeps it mapped until `boot` drops it, when no vCPU is left, as with RAM. A
            // guest that reaches beyond the end of a file that shrinks, or for whose page the file system has no room, is
            // stopped by KVM; no signal reaches us.
            unsafe { vm.set_user_memory_region(region) }
        })?;
    }
    Ok(mapped)
}

/// Mappings that a guest may be using.
#[derive(Debug)]
pub(super) struct Regions(Vec<Reservation>);

/// RAM that a guest may be using.
#[derive(Debug)]
pub(super) struct Registered {
    _ram: Ram,
}

/// A range of our address space.
#[derive(Debug)]
struct Reservation {
    start: usize,
    length: usize,
}

impl Reservation {
    fn new(length: usize) -> io::Result<Self> {
        // SAFETY: a new private mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        Ok(Self {
            start: start as usize,
            length,
        })
    }

    /// Maps the first bytes of a file.
    fn of_file(file: &File, length: usize, how: MapFlags) -> io::Result<Self> {
        // SAFETY: as in `new`. Nothing of ours reads or writes what is mapped.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                how | MapFlags::NORESERVE,
                file,
                0,
            )
        }?;
        advise(start as usize, length, Advice::LinuxDontDump);
        Ok(Self {
            start: start as usize,
            length,
        })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours since `new`, and who could reach into it (`Ram::memory`) is gone or goes with us.
        let _ = unsafe { rustix::mm::munmap(self.start as *mut _, self.length) };
    }
}

/// Huge pages spare a guest most of its page faults; where the host has none, small ones do. But of each the guest may use a
/// few bytes only. Where much RAM was planned or asked for, it is going to be used; in a small machine all above the kernel's first
/// byte is, and of what is below only some pages.
fn all_of(total: u64) -> Advice {
    match total > SMALL {
        true => Advice::LinuxHugepage,
        false => Advice::LinuxNoHugepage,
    }
}

/// Advises the kernel on huge pages for a range, and keeps it out of our core dumps, which are for our bugs and not for the
/// guest's gigabytes.
fn advise(start: usize, length: usize, advice: Advice) {
    // SAFETY: none of the advices that are given here changes the contents of memory.
    let _ = unsafe { madvise(start as *mut _, length, advice) };
}

fn libc_prot() -> i32 {
    (ProtFlags::READ | ProtFlags::WRITE).bits() as i32
}

fn libc_flags() -> i32 {
    // What `mmap_anonymous` was asked for, for the record: nothing is mapped by it.
    MapFlags::PRIVATE.bits() as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_starts_on_a_huge_page_and_is_zero() {
        let mut ram = Ram::map(5 << 20).unwrap();
        let slice = ram.slice(0..5 << 20).unwrap();
        assert_eq!(slice.as_ptr() as u64 % HUGE_PAGE, 0);
        assert!(slice.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn only_what_is_ram_can_be_had_as_bytes() {
        let mut ram = Ram::map((3 << 30) + 8192).unwrap();
        assert!(ram.slice((3 << 30) - 4096..3 << 30).is_some());
        assert!(ram.slice(4 << 30..(4 << 30) + 8192).is_some());
        for range in [
            (3 << 30) - 1..(3 << 30) + 1,
            3 << 30..(3 << 30) + 1,
            4 << 30..(4 << 30) + 8193,
        ] {
            assert!(ram.slice(range).is_none());
        }
        let backwards = Range {
            start: 8192,
            end: 4096,
        };
        assert!(ram.slice(backwards).is_none());
    }

    #[test]
    fn more_than_there_are_addresses_is_an_error() {
        assert!(Ram::map(1 << 50).is_err());
    }
}
