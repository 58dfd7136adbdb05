//! IMAGE and kernel → what a run of it needs.

use std::io;
use std::thread;

use super::host;
use crate::base::{self, Base, Keep};
use crate::cache::Cache;
use crate::error::{Error, Result};
use crate::initrd::{Epoch, payload};
use crate::kernel::{self, Kernel, Search};
use crate::memory::{self, MemoryPlan, Needs};
use crate::request::{ImageRef, KernelWish, MemoryWish};
use crate::units::ByteSize;

/// What is counted for a command's words and variables when they are fewer, so that a plan does not change with each.
const FEW_WORDS: u64 = 64 << 10;

/// What an image needs, before anything is written or booted.
#[derive(Debug)]
pub struct Plan {
    /// The image, laid out.
    pub base: Base,
    /// The kernel.
    pub kernel: Kernel,
    /// RAM.
    pub memory: MemoryPlan,
}

/// Reads the image and finds the kernel, both at once, and plans the RAM.
///
/// Errors: the image or the kernel cannot be used, the image is not the one agreed on, or the memory wished for is too
/// little.
pub fn plan(image: &ImageRef, kernel: &KernelWish, cpus: u8, wish: MemoryWish) -> Result<Plan> {
    let (base, kernel) = read(image, kernel, Keeps::Nothing)?;
    let memory = memory::plan(&needs(&base, &kernel, cpus, 0), wish)?;
    Ok(Plan {
        base,
        kernel,
        memory,
    })
}

/// Which packed images a run keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeps {
    Nothing,
    Archives,
    All,
}

/// The image and the kernel, both at once.
///
/// Errors: those of the image, then those of the kernel; what is to be shared has no directory to be kept in.
pub(super) fn read(image: &ImageRef, kernel: &KernelWish, keeps: Keeps) -> Result<(Base, Kernel)> {
    let search = Search::from_env();
    let cache = search.cache.as_deref().map(Cache::below);
    let keep = match (keeps, &cache) {
        (Keeps::Nothing, _) | (Keeps::Archives, None) => Keep::Nothing,
        (Keeps::Archives, Some(cache)) => Keep::Archives(cache),
        (Keeps::All, Some(cache)) => Keep::All(cache),
        (Keeps::All, None) => {
            let source = io::Error::other("there is no directory to keep it in; set RDVM_CACHE");
            return Err(host(|| "--share".to_owned())(source));
        }
    };
    let epoch = Epoch::from_env_or_last()?;
    let image_boot = image.path.join("boot");
    let (kernel, base) = thread::scope(|scope| {
        let kernel = scope.spawn(|| kernel::open(kernel, Some(&image_boot), &search));
        let base = base::open(image, epoch, keep);
        (kernel.join(), base)
    });
    // The image's faults first: it is what the user named.
    let base = base?;
    let kernel = kernel.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok((base, kernel))
}

/// What they need together, with a command of so many bytes, all its words and variables counted.
pub(super) fn needs(base: &Base, kernel: &Kernel, cpus: u8, command: u64) -> Needs {
    let table = base.facts.attributes.as_ref().map_or(0, Vec::len) as u64;
    // In the record, in PID 1 and with the command; most are short.
    let words = command.saturating_mul(3).max(FEW_WORDS);
    Needs {
        contents: base.facts.contents,
        kernel: ByteSize(kernel.memory_bytes()),
        kernel_end: kernel.load_end(),
        own: ByteSize(payload::RDINIT.len() as u64 + table + words),
        cpus,
        keeps_initrd: false,
        attributes: base.facts.attributes.is_some(),
    }
}

/// Reads the image, and plans a run of it as far as there is a kernel for one.
///
/// Errors: the image cannot be used, or is not the one agreed on; the second result's is why there is no plan.
pub fn look(
    image: &ImageRef,
    kernel: &KernelWish,
    cpus: u8,
) -> Result<(Base, Result<(Kernel, MemoryPlan)>)> {
    let base = base::open(image, Epoch::from_env_or_last()?, Keep::Nothing)?;
    let kernel = kernel::open(kernel, Some(&image.path.join("boot")), &Search::from_env());
    let machine = kernel.map_err(Error::from).and_then(|kernel| {
        let memory = memory::plan(&needs(&base, &kernel, cpus, 0), MemoryWish::FromImage)?;
        Ok((kernel, memory))
    });
    Ok((base, machine))
}

impl Plan {
    /// What went less well than it should and is no reason to stop, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let image = self.base.facts.warnings.iter();
        image.chain(&self.kernel.warnings).cloned().collect()
    }
}
