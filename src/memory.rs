//! How much RAM an image needs. Pure arithmetic: sizes in, a plan with its sum out.
//!
//! The kernel keeps the initrd until it has unpacked it, so the first peak is initrd + unpacked tree; afterwards the
//! initrd is free again and the command may use its place. Whichever is larger counts.

use std::fmt;

use crate::initrd::layout::Contents;
use crate::request::MemoryWish;
use crate::units::{ByteSize, PAGE};

/// What every command can write or allocate on top of its image, at least.
pub const HEADROOM: ByteSize = ByteSize::mib(64);

/// Of every page of RAM the kernel keeps a `struct page` of 64 bytes: one part in 64. Page-cache trees, page tables
/// and the reserve that it never gives out (`min_free_kbytes`) grow with RAM too and were measured to stay below as
/// much again.
const PER_RAM: u64 = 32;

/// What a small stock kernel allocates for itself before PID 1 runs, beyond its image: slabs, per-CPU areas, hash
/// tables, page tables, and the low memory it leaves alone. Measured, see docs/performance.md.
const KERNEL_OWN: ByteSize = ByteSize::mib(24);

/// A further CPU's stacks, per-CPU area and run queues.
const PER_CPU: ByteSize = ByteSize::mib(1);

/// An inode, its directory entry and their page-cache bookkeeping.
const PER_ENTRY: u64 = 1200;

/// What a plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// What the initrd holds.
    pub contents: Contents,
    /// What the loaded kernel occupies, from its first to its last byte including bss.
    pub kernel: ByteSize,
    /// Number of vCPUs.
    pub cpus: u8,
}

/// The file system that the kernel unpacks the image into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootFs {
    /// Limited: a command that writes too much gets "no space left on device".
    Tmpfs {
        /// What it may hold in all once the command runs.
        limit: ByteSize,
    },
    /// Not limited, and not bound to half the RAM while the image is unpacked.
    Ramfs,
}

/// How much RAM, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    /// What the guest gets.
    pub total: ByteSize,
    /// What it needs at least.
    pub need: ByteSize,
    /// The parts that the need is the sum of.
    pub terms: Vec<(&'static str, ByteSize)>,
    /// Where the image is unpacked.
    pub root: RootFs,
}

/// `-m` is below what the image needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "--memory: the image needs {need} of guest RAM, {given} were given; raise it to {need} or leave it out ({sum})"
)]
pub struct TooLittle {
    /// What is needed.
    pub need: ByteSize,
    /// What was asked for.
    pub given: ByteSize,
    /// The need as a sum.
    pub sum: String,
}

/// Plans the RAM for `needs`, or checks what the user wished.
///
/// Errors: [`TooLittle`] with both numbers.
pub fn plan(needs: &Needs, wish: MemoryWish) -> Result<MemoryPlan, TooLittle> {
    let entries = ByteSize(needs.contents.entries.saturating_mul(PER_ENTRY)).page_round_up();
    let unpacked = ByteSize(needs.contents.page_rounded_bytes);
    let initrd = ByteSize(needs.contents.packed_bytes).page_round_up();
    let mut terms = vec![
        ("kernel", needs.kernel.page_round_up()),
        (
            "its own data",
            ByteSize(KERNEL_OWN.0 + PER_CPU.0 * u64::from(needs.cpus.saturating_sub(1))),
        ),
        ("unpacked files", unpacked),
        ("inodes", entries),
    ];
    terms.push(match initrd > HEADROOM {
        true => ("initrd, later room to write", initrd),
        false => ("room to write, at first the initrd", HEADROOM),
    });
    let used = terms
        .iter()
        .fold(0u64, |sum, (_, size)| sum.saturating_add(size.0));
    // The bookkeeping of all RAM, itself included: used / (1 - 1/32).
    let need = ByteSize(used.saturating_add(used / (PER_RAM - 1))).mib_round_up();
    terms.push((
        "page tables and structs",
        ByteSize(need.0 - used.min(need.0)),
    ));
    let total = match wish {
        MemoryWish::FromImage => need,
        MemoryWish::Exactly(given) if given < need => {
            return Err(TooLittle {
                need,
                given,
                sum: sum(need, &terms),
            });
        }
        MemoryWish::Exactly(given) => ByteSize(given.0 & !(PAGE - 1)),
    };
    let kernel = ByteSize(terms[0].1.0 + terms[1].1.0 + total.0 / PER_RAM);
    let root = root_fs(total, kernel, initrd, unpacked, entries);
    Ok(MemoryPlan {
        total,
        need,
        terms,
        root,
    })
}

/// A tmpfs where the image fits into half of what is free while it is unpacked (`mm/shmem.c`: the default limit is
/// half of the RAM that is not reserved at mount time, and the initrd still is), for pages and for inodes.
fn root_fs(
    total: ByteSize,
    kernel: ByteSize,
    initrd: ByteSize,
    unpacked: ByteSize,
    entries: ByteSize,
) -> RootFs {
    let free = total.0.saturating_sub(kernel.0).saturating_sub(initrd.0);
    let inodes = free / 2 / PAGE;
    if unpacked.0 > free / 2 || entries.0 / PER_ENTRY > inodes {
        return RootFs::Ramfs;
    }
    // What the kernel, PID 1 and the command's own processes need stays out of reach of files.
    let limit = total.0.saturating_sub(kernel.0).saturating_sub(entries.0);
    RootFs::Tmpfs {
        limit: ByteSize(limit.max(unpacked.0)),
    }
}

fn sum(total: ByteSize, terms: &[(&'static str, ByteSize)]) -> String {
    let parts: Vec<String> = terms
        .iter()
        .map(|(name, size)| format!("{name} {size}"))
        .collect();
    format!("ram {total} = {}", parts.join(" + "))
}

impl fmt::Display for MemoryPlan {
    /// The sum on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&sum(self.need, &self.terms))?;
        if self.total > self.need {
            write!(f, "; --memory gives {}", self.total)?;
        }
        match self.root {
            RootFs::Tmpfs { limit } => write!(f, "; root is a tmpfs of {limit}"),
            RootFs::Ramfs => write!(f, "; root is a ramfs"),
        }
    }
}
