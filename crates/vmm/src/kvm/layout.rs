//! The layout of the guest's physical memory: fixed addresses, RAM ranges, the place of the initrd.
//!
//! Pure arithmetic; nothing is mapped or written here. Sources: the PC's memory map as Linux expects it
//! (`Documentation/arch/x86/boot.rst`), the ACPI Specification for the tables' place, KVM's `api.rst` for the two areas
//! that Intel hosts need.

use std::ops::Range;

pub(super) use crate::acpi::ACPI;
use crate::acpi::{ACPI_MAX, IO_APIC, LOCAL_APIC};
use crate::guest::rings::RINGS as RINGS_SIZE;

/// Four descriptors of eight bytes.
pub(super) const GDT: u64 = 0x500;
/// `boot_params`, one page.
pub(super) const ZERO_PAGE: u64 = 0x7000;
/// Page tables that map addresses to themselves: one PML4, one PDPT, a page directory for each GiB.
pub(super) const PML4: u64 = 0x9000;
pub(super) const PDPT: u64 = 0xa000;
pub(super) const PAGE_DIRECTORIES: u64 = 0xb000;
const PAGE_DIRECTORIES_END: u64 = PAGE_DIRECTORIES + (FOUR_GIB >> 30) * PAGE;
/// The command line with its final zero; 64 KiB apart from the tables, so that a longer one could fit.
pub(super) const CMDLINE: u64 = 0x2_0000;
pub(super) const CMDLINE_MAX: u64 = 0x800;
/// The end of RAM below video memory.
pub(super) const LOW_RAM_END: u64 = 0xa_0000;
/// The address at which RAM goes on, above video memory and ROMs.
pub(super) const HIGH_RAM: u64 = 0x10_0000;

/// Below 4 GiB the last GiB belongs to devices: IO-APIC, local APICs, KVM's own.
pub(super) const HOLE: Range<u64> = 3 << 30..FOUR_GIB;
const FOUR_GIB: u64 = 4 << 30;
/// A page for the identity map and three for a task state segment: Intel CPUs need them for guests in real mode
/// (`KVM_SET_IDENTITY_MAP_ADDR`, `KVM_SET_TSS_ADDR`). They may lie anywhere in the hole.
pub(super) const IDENTITY_MAP: u64 = 0xfffb_c000;
pub(super) const TSS: u64 = 0xfffb_d000;

/// Memory that is shared with the guest, in the hole, where no RAM of its own is.
pub(crate) const RINGS: u64 = 0xd000_0000;

/// Linux keeps account of memory in pieces of this (`SECTION_SIZE_BITS`); no region shares one with RAM.
const SECTION: u64 = 128 << 20;

const PAGE: u64 = 4096;
/// The size that a page directory's entry maps, and that the host backs RAM with where it can.
pub(super) const HUGE_PAGE: u64 = 2 << 20;

const _: () = assert!(GDT + 4 * 8 <= ZERO_PAGE, "the GDT runs into the zero page");
const _: () = assert!(
    ZERO_PAGE + PAGE <= PML4,
    "the zero page runs into the page tables"
);
const _: () = assert!(PML4 + PAGE == PDPT && PDPT + PAGE == PAGE_DIRECTORIES);
const _: () = assert!(
    PAGE_DIRECTORIES_END <= CMDLINE,
    "the page tables run into the command line"
);
const _: () = assert!(
    CMDLINE + CMDLINE_MAX <= LOW_RAM_END,
    "the command line runs into video memory"
);
const _: () = assert!(LOW_RAM_END <= ACPI && ACPI + ACPI_MAX <= HIGH_RAM);
const _: () = assert!(
    CMDLINE_MAX > crate::machine::CMDLINE_MAX as u64,
    "no room for the final zero"
);
const _: () = assert!(HOLE.start <= IO_APIC as u64 && (IO_APIC as u64) < LOCAL_APIC as u64);
const _: () = assert!(HOLE.start <= RINGS && RINGS + RINGS_SIZE <= IO_APIC as u64);
const _: () = assert!(IDENTITY_MAP + PAGE == TSS && TSS + 3 * PAGE <= HOLE.end);
const _: () = assert!(
    LOCAL_APIC as u64 + PAGE <= IDENTITY_MAP,
    "KVM's pages lie on the local APIC"
);

/// Returns the ranges of the guest's RAM of `total` bytes: from 0 up to the hole, and what is left from 4 GiB on.
pub(super) fn ram(total: u64) -> (Range<u64>, Option<Range<u64>>) {
    let low = total.min(HOLE.start);
    let high = HOLE.end..HOLE.end.saturating_add(total - low);
    (0..low, (!high.is_empty()).then_some(high))
}

/// Returns the ranges of regions of these sizes, beside RAM of `total` bytes: above it and above 4 GiB.
pub(super) fn regions(total: u64, sizes: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
    let end = ram(total).1.map_or(HOLE.end, |high| high.end);
    let ranges = sizes.scan(end, |at, size| {
        let start = at.next_multiple_of(SECTION);
        *at = start + size;
        Some(start..*at)
    });
    ranges.collect()
}

/// Returns the ranges that the guest is told it may use: RAM without video memory, ACPI tables and ROMs.
pub(super) fn usable(total: u64) -> Vec<Range<u64>> {
    let (low, high) = ram(total);
    let below = [0..LOW_RAM_END, HIGH_RAM..low.end];
    below.into_iter().chain(high).collect()
}

/// Returns the address of an initrd of `size` bytes: as high as possible below `limit`, page-aligned, above the kernel; above
/// 4 GiB only where it fits nowhere else and `limit` allows that. `None` when there is no such place.
pub(super) fn initrd(total: u64, size: u64, kernel_end: u64, limit: u64) -> Option<u64> {
    let size = size.next_multiple_of(PAGE);
    let (low, high) = ram(total);
    [Some(low), high].into_iter().flatten().find_map(|range| {
        let start = range.end.min(limit).checked_sub(size)? & !(PAGE - 1);
        (start >= range.start.max(kernel_end)).then_some(start)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn ram_leaves_the_devices_hole_out() {
        assert_eq!(ram(128 * MIB), (0..128 * MIB, None));
        assert_eq!(ram(3 * GIB), (0..3 * GIB, None));
        assert_eq!(ram(6 * GIB), (0..3 * GIB, Some(4 * GIB..7 * GIB)));
        assert_eq!(ram(3 * GIB + PAGE).1, Some(4 * GIB..4 * GIB + PAGE));
    }

    #[test]
    fn what_is_usable_leaves_video_memory_and_tables_out() {
        assert_eq!(usable(128 * MIB), [0..0xa0000, MIB..128 * MIB]);
        assert_eq!(usable(4 * GIB)[2], 4 * GIB..5 * GIB);
    }

    #[test]
    fn regions_lie_above_all_ram_and_apart() {
        let sizes = [2 * MIB, 928 * MIB];
        let at = 4 * GIB + SECTION;
        assert_eq!(
            regions(96 * MIB, sizes.into_iter()),
            [4 * GIB..4 * GIB + 2 * MIB, at..at + 928 * MIB]
        );
        let above = regions(4 * GIB, [MIB].into_iter());
        assert_eq!(above.first(), Some(&(5 * GIB..5 * GIB + MIB)));
    }

    #[test]
    fn an_initrd_ends_with_the_ram_or_at_the_kernels_limit() {
        let end = 62 * MIB;
        assert_eq!(
            initrd(128 * MIB, 5000, end, 2 * GIB),
            Some(128 * MIB - 0x2000)
        );
        assert_eq!(initrd(3 * GIB, 4096, end, 0x8000_0000), Some(0x7fff_f000));
        // A limit is the highest address that may be used and so rarely page-aligned.
        assert_eq!(initrd(3 * GIB, 4096, end, 0x37ff_ffff), Some(0x37ff_e000));
    }

    #[test]
    fn an_initrd_that_fits_nowhere_below_goes_above_four_gib_or_nowhere() {
        let (size, end) = (2 * GIB + 512, 62 * MIB);
        assert_eq!(initrd(6 * GIB, size, end, 2 * GIB), None);
        assert_eq!(initrd(6 * GIB, size, end, u64::MAX), Some(GIB - PAGE));
        assert_eq!(initrd(8 * GIB, 3 * GIB, end, u64::MAX), Some(6 * GIB));
        assert_eq!(initrd(64 * MIB, 3 * MIB, end, u64::MAX), None);
        assert_eq!(initrd(64 * MIB, 2 * MIB, end, u64::MAX), Some(62 * MIB));
        assert_eq!(initrd(64 * MIB, u64::MAX / 2, end, u64::MAX), None);
    }
}
