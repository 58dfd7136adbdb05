//! A machine's parts into its RAM: kernel, initrd, command line, tables, zero page.
//!
//! Takes parts that were checked, returns where execution begins; knows no KVM. Kernel and initrd are read from their files
//! straight to their place. Source: `Documentation/arch/x86/boot.rst`, the 64-bit boot protocol.

use std::ops::Range;

use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::Error;
use super::cpu::GDT_ENTRIES;
use super::layout::{self, ACPI, CMDLINE, GDT, PAGE_DIRECTORIES, PDPT, PML4, ZERO_PAGE};
use super::ram::Ram;
use crate::acpi;
use crate::machine::Machine;
use rdvm_initrd::Stopped;
use rdvm_kernel::{Kernel, KernelImage};

/// The offset of the 64-bit entry in a bzImage's own code.
const BZIMAGE_ENTRY: u64 = 0x200;
/// KVM's routes lead every interrupt line to the pin of the same number, the timer's too.
const TIMER: u8 = 0;
/// A boot loader without a number of its own.
const LOADER: u8 = 0xff;
const BOOT_FLAG: u16 = 0xaa55;
const HEADER: u32 = 0x5372_6448; // "HdrS"
const E820_RAM: u32 = 1;
/// Memory with the contents of a file (`E820_TYPE_PRAM` in arch/x86/include/asm/e820/types.h).
const E820_PRAM: u32 = 12;
const PRESENT_WRITABLE: u64 = 3;
const HUGE: u64 = 1 << 7;

/// The entry point of a machine, for the boot CPU's registers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    pub(super) entry: u64,
    pub(super) zero_page: u64,
}

/// A kernel in its place.
struct Placed {
    entry: u64,
    /// First address above what it occupies.
    end: u64,
    /// The header for the zero page.
    header: setup_header,
    /// First address that the initrd may not touch.
    initrd_limit: u64,
}

/// Puts everything into `ram`; ends early once `stopped` returns true.
///
/// # Errors
///
/// Kernel or initrd do not fit; a file cannot be read; it was stopped.
pub(super) fn load(
    ram: &mut Ram,
    machine: &mut Machine,
    stopped: Stopped<'_>,
) -> Result<Start, Error> {
    let total = machine.memory.0;
    let begin = match &machine.kernel.image {
        KernelImage::Elf { facts, .. } => facts.entry,
        KernelImage::BzImage { facts, .. } => facts.pref_address,
    };
    ram.want_huge_pages(begin..layout::ram(total).0.end);
    let kernel = kernel(ram.memory(), &mut machine.kernel, total)?;
    let size = machine.initrd.size();
    let at = layout::initrd(total, size, kernel.end, kernel.initrd_limit);
    let at = at.ok_or(Error::InitrdPlace {
        size: machine.initrd.size(),
        kernel_end: kernel.end,
        limit: kernel.initrd_limit,
        memory: machine.memory,
    })?;
    let place = ram.slice(at..at + size).ok_or(Error::Place)?;
    machine.initrd.fill(stopped, place)?;
    let memory = ram.memory();
    tables(memory, kernel.end, machine.cpus)?;
    let mut cmdline = machine.cmdline.clone().into_bytes();
    cmdline.push(0);
    put(memory, CMDLINE, &cmdline)?;
    let regions = layout::regions(total, machine.region_sizes());
    let params = zero_page(kernel.header, at..at + size, total, &regions);
    LinuxBootConfigurator::write_bootparams(
        &BootParams::new(&params, GuestAddress(ZERO_PAGE)),
        memory,
    )
    .map_err(|_| Error::Place)?;
    Ok(Start {
        entry: kernel.entry,
        zero_page: ZERO_PAGE,
    })
}

fn kernel(memory: &GuestMemoryMmap, kernel: &mut Kernel, total: u64) -> Result<Placed, Error> {
    let ram_end = layout::ram(total).0.end;
    let fits = |end: u64| match end <= ram_end {
        true => Ok(end),
        false => Err(Error::KernelPlace {
            kernel: kernel.path.clone(),
            end,
            ram_end,
        }),
    };
    let unreadable = |source| Error::Kernel {
        kernel: kernel.path.clone(),
        source,
    };
    match &mut kernel.image {
        KernelImage::Elf {
            elf,
            facts,
            bzimage,
        } => {
            let end = fits(facts.load_end)?;
            Elf::load(memory, None, elf, None).map_err(unreadable)?;
            let initrd_limit = match bzimage {
                Some((_, facts)) => facts.initrd_limit(),
                None => u64::MAX,
            };
            let header = setup_header {
                boot_flag: BOOT_FLAG,
                header: HEADER,
                ..Default::default()
            };
            Ok(Placed {
                entry: facts.entry,
                end,
                header,
                initrd_limit,
            })
        }
        KernelImage::BzImage { bzimage, facts, .. } => {
            let end = fits(facts.pref_address + facts.init_size)?;
            let at = GuestAddress(facts.pref_address);
            let loaded = BzImage::load(memory, Some(at), bzimage, None).map_err(unreadable)?;
            Ok(Placed {
                entry: facts.pref_address + BZIMAGE_ENTRY,
                end,
                header: loaded.setup_header.unwrap_or_default(),
                initrd_limit: facts.initrd_limit(),
            })
        }
    }
}

/// Descriptors, page tables that map the first GiBs up to `kernel_end` to themselves, and the ACPI tables.
fn tables(memory: &GuestMemoryMmap, kernel_end: u64, cpus: u8) -> Result<(), Error> {
    put(memory, GDT, &words(&GDT_ENTRIES))?;
    let directories = kernel_end.div_ceil(1 << 30).max(1);
    let entries: Vec<u64> = (0..directories * 512)
        .map(|page| (page * layout::HUGE_PAGE) | PRESENT_WRITABLE | HUGE)
        .collect();
    let pointers: Vec<u64> = (0..directories)
        .map(|index| (PAGE_DIRECTORIES + index * 4096) | PRESENT_WRITABLE)
        .collect();
    put(memory, PML4, &words(&[PDPT | PRESENT_WRITABLE]))?;
    put(memory, PDPT, &words(&pointers))?;
    put(memory, PAGE_DIRECTORIES, &words(&entries))?;
    put(memory, ACPI, &acpi::tables(cpus, TIMER))
}

/// The kernel's parameters: `header` with what every loader fills in, and the map of RAM and regions.
fn zero_page(
    header: setup_header,
    initrd: Range<u64>,
    total: u64,
    regions: &[Range<u64>],
) -> boot_params {
    let mut params = boot_params {
        hdr: header,
        ..Default::default()
    };
    let size = initrd.end - initrd.start;
    params.acpi_rsdp_addr = ACPI;
    params.hdr.type_of_loader = LOADER;
    params.hdr.cmd_line_ptr = CMDLINE as u32;
    params.hdr.ramdisk_image = initrd.start as u32;
    params.hdr.ramdisk_size = size as u32;
    params.ext_ramdisk_image = (initrd.start >> 32) as u32;
    params.ext_ramdisk_size = (size >> 32) as u32;
    let ram = layout::usable(total)
        .into_iter()
        .map(|range| (range, E820_RAM));
    let regions = regions.iter().map(|range| (range.clone(), E820_PRAM));
    for (entry, (range, kind)) in params.e820_table.iter_mut().zip(ram.chain(regions)) {
        *entry = boot_e820_entry {
            addr: range.start,
            size: range.end - range.start,
            r#type: kind,
        };
        params.e820_entries += 1;
    }
    params
}

fn words(values: &[u64]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn put(memory: &GuestMemoryMmap, at: u64, bytes: &[u8]) -> Result<(), Error> {
    memory
        .write_slice(bytes, GuestAddress(at))
        .map_err(|_| Error::Place)
}
