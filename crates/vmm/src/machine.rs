//! A machine as data: all that an engine needs to know to run it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rdvm_hostfs::units::{ByteSize, PAGE};
use rdvm_initrd::Initrd;
use rdvm_kernel::Kernel;

/// The most vCPUs that a machine has: what the tables and masks of both engines have room for.
pub(crate) const CPUS_MAX: u8 = 16;
/// The longest command line in bytes, without its NUL (`COMMAND_LINE_SIZE` on x86).
pub(crate) const CMDLINE_MAX: usize = 2047;

/// A machine to boot.
#[derive(Debug)]
pub struct Machine {
    /// The kernel, checked.
    pub kernel: Kernel,
    /// The initrd, yet to be made: an engine knows best where it belongs.
    pub initrd: Initrd,
    /// The kernel command line, checked.
    pub cmdline: String,
    /// Guest RAM, a multiple of a page.
    pub memory: ByteSize,
    /// Number of vCPUs, 1 to 16.
    pub cpus: u8,
    /// Memory is shared with the guest (`guest::rings`), at [`Engine::rings_at`](crate::Engine::rings_at).
    pub rings: bool,
    /// Files that the guest has in its memory, as persistent memory (`/dev/pmem0` and so on, in this order).
    pub regions: Vec<Region>,
    /// One more, behind them, which the guest writes to.
    pub scratch: Option<Scratch>,
}

/// A file that the guest has in its memory without a copy. What it writes there is its own and never reaches the file.
#[derive(Debug)]
pub struct Region {
    /// The file, open for reading.
    pub file: File,
    /// The number of its bytes that the guest has, a multiple of [`REGION_ALIGN`]. The file is at least as long.
    pub size: u64,
}

/// A file that is memory of the guest's: what it writes there takes room in the file, page by page, and memory of the host's as any
/// file does.
#[derive(Debug)]
pub struct Scratch {
    /// The file, open for reading and writing. Nobody else has it.
    file: File,
    size: u64,
}

/// The sizes of a machine's RAM and of all that it has beside it.
#[derive(Debug, Clone, Copy)]
pub struct Sizes<'a> {
    /// Guest RAM.
    pub memory: ByteSize,
    /// The length of the initrd.
    pub initrd: u64,
    /// The sizes of the regions.
    pub regions: &'a [u64],
    /// The size of the scratch space.
    pub scratch: Option<u64>,
}

/// Regions begin and end at a multiple of this: what Linux can add to its memory at least (`SUBSECTION_SIZE`).
pub const REGION_ALIGN: u64 = 2 << 20;

impl Region {
    /// Returns the first `size` bytes of `file`, rounded up, as a region.
    ///
    /// # Errors
    ///
    /// The file is shorter than that, so that a guest could reach beyond its end.
    pub fn new(file: File, size: u64) -> io::Result<Self> {
        let size = size.next_multiple_of(REGION_ALIGN);
        match file.metadata()?.len() >= size {
            true => Ok(Self { file, size }),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// True if the file is no longer as long as it must be.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.file
            .metadata()
            .is_ok_and(|file| file.len() < self.size)
    }
}

impl Sizes<'_> {
    /// True if there is anything beside RAM.
    pub(crate) fn has_regions(&self) -> bool {
        !self.regions.is_empty() || self.scratch.is_some()
    }
}

impl Scratch {
    /// Returns `file`, made `size` bytes long, rounded up, as scratch space.
    ///
    /// # Errors
    ///
    /// The file cannot have that length.
    pub fn new(file: File, size: u64) -> io::Result<Self> {
        let size = size.next_multiple_of(REGION_ALIGN);
        file.set_len(size)?;
        Ok(Self { file, size })
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The number of its bytes, a multiple of [`REGION_ALIGN`].
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Returns why the file system has no room for another page, if it has none.
    pub(crate) fn refusal(&self) -> Option<io::Error> {
        // Behind what the guest has. A file system that gives one page has a second one for a file that is larger by then.
        let refused = self.file.write_all_at(&[1; PAGE as usize], self.size).err();
        let _ = self.file.set_len(self.size);
        refused
    }
}

/// A machine that no engine can run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Too few or too many vCPUs.
    #[error("machine: {0} CPUs; give it 1 to {CPUS_MAX}")]
    Cpus(u8),
    /// No RAM, or no whole number of pages.
    #[error("machine: {} bytes of RAM; give it a multiple of {PAGE}", .0.0)]
    Memory(ByteSize),
    /// A command line that the kernel would cut.
    #[error("machine: a kernel command line of {0} bytes; {CMDLINE_MAX} are the most")]
    CommandLine(usize),
    /// A command line that ends before its end.
    #[error("machine: the kernel command line has a NUL in it; leave it out")]
    Nul,
}

impl Machine {
    /// The sizes of all regions, the scratch space last.
    pub(crate) fn region_sizes(&self) -> impl Iterator<Item = u64> {
        let scratch = self.scratch.iter().map(Scratch::size);
        self.regions.iter().map(|region| region.size).chain(scratch)
    }

    /// Checks what the types do not. Engines do so before they run it.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub(crate) fn check(&self) -> Result<(), Error> {
        check(self.cpus, self.memory, &self.cmdline)
    }
}

fn check(cpus: u8, memory: ByteSize, cmdline: &str) -> Result<(), Error> {
    if !(1..=CPUS_MAX).contains(&cpus) {
        return Err(Error::Cpus(cpus));
    }
    if memory.0 == 0 || !memory.0.is_multiple_of(PAGE) {
        return Err(Error::Memory(memory));
    }
    if cmdline.len() > CMDLINE_MAX {
        return Err(Error::CommandLine(cmdline.len()));
    }
    match cmdline.contains('\0') {
        true => Err(Error::Nul),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_engine_can_run_is_told_by_its_kind() {
        let memory = ByteSize::mib(64);
        for cpus in [0, 17, 32, 33, 255] {
            assert_eq!(check(cpus, memory, ""), Err(Error::Cpus(cpus)));
        }
        for bytes in [0, 1, PAGE + 1, u64::MAX] {
            let memory = ByteSize(bytes);
            assert_eq!(check(1, memory, ""), Err(Error::Memory(memory)));
        }
        let long = "x".repeat(CMDLINE_MAX + 1);
        assert_eq!(check(1, memory, &long), Err(Error::CommandLine(2048)));
        assert_eq!(check(1, memory, "a\0b"), Err(Error::Nul));
        for cpus in 1..=CPUS_MAX {
            assert_eq!(check(cpus, memory, &long[1..]), Ok(()));
        }
    }
}
