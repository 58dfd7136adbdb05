//! An image, and a plan for a run of it, for those who only look at it.

use std::cell::OnceCell;

use super::plan::{modules_for, needs};
use crate::error::{Error, Result};
use crate::kernel::regions::RegionUse;
use crate::memory::{self, MemoryPlan};
use crate::prepared_image::{InPlace, PreparedImage};
use crate::request::{ImageRef, KernelSpec, MemorySpec, RootSpec};
use crate::scratch::ScratchPlan;
use rdvm_hostfs::progress::Progress;
use rdvm_hostfs::units::ByteSize;
use rdvm_initrd::Epoch;
use rdvm_kernel::{Kernel, Search};

/// Reads the image, and plans a run of it as far as there is a kernel for one.
///
/// # Errors
/// The image cannot be used, or is not the expected one; the second result holds why there is no plan.
pub fn look(
    image: &ImageRef,
    kernel: &KernelSpec,
    (cpus, scratch): (u8, Option<ByteSize>),
    progress: &Progress,
) -> Result<(PreparedImage, Result<(Kernel, MemoryPlan)>)> {
    let epoch = Epoch::from_env_or_last()?;
    let search = Search::from_env();
    let kernel = rdvm_kernel::open(kernel, Some(&image.path.join("boot")), &search);
    let modules = OnceCell::new();
    let can = |_| {
        let kernel = kernel.as_ref().map_err(ToString::to_string)?;
        let modules = modules
            .get_or_init(|| modules_for(kernel, RegionUse::InPlace, search.cache.as_deref()));
        modules.as_ref().map(drop).map_err(String::clone)
    };
    let in_place = InPlace {
        root: RootSpec::Auto,
        can: &can,
    };
    let prepared = PreparedImage::open(image, epoch, &in_place, None, progress)?;
    let machine = kernel.map_err(Error::from).and_then(|kernel| {
        let mut needs = needs(prepared.info(), &kernel, cpus, 0);
        if let Some(region) = prepared.info().region {
            let modules = modules.into_inner().and_then(std::result::Result::ok);
            let modules = modules.flatten().map_or(0, |modules| modules.bytes.len());
            needs.regions = ByteSize(region);
            needs.modules = ByteSize(modules as u64);
            needs.own.0 += needs.modules.0;
        }
        needs.scratch = scratch.map_or(ByteSize(0), |size| ScratchPlan::new(size).size);
        let memory = memory::plan(&needs, MemorySpec::FromImage)?;
        Ok((kernel, memory))
    });
    Ok((prepared, machine))
}
