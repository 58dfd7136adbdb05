//! Request → what a run of it needs: the image and what is copied in laid out, the kernel opened, the RAM planned.

use std::cell::{Cell, OnceCell};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;

use super::command_line;
use crate::cache::Cache;
use crate::command;
use crate::copyin::{self, Gathered};
use crate::error::{Error, Result};
use crate::kernel::regions::{self, ModuleFile, RegionUse, Regions};
use crate::memory::{self, MemoryPlan, Needs};
use crate::payload;
use crate::prepared_image::{ImageInfo, InPlace, PreparedImage};
use crate::request::{
    Command, Expectation, Format, ImageRef, MemorySpec, Request, RootSpec, SetupStep,
};
use crate::scratch::ScratchPlan;
use rdvm_hostfs::escape::shown;
use rdvm_hostfs::hostmem::Memory;
use rdvm_hostfs::units::ByteSize;
use rdvm_image::account::Account;
use rdvm_image::tree::Tree;
use rdvm_initrd::layout::{Layout, Places};
use rdvm_initrd::{Contents, Epoch};
use rdvm_kernel::{Kernel, Search};
use rdvm_vmm::Engine;
use rdvm_vmm::machine::{REGION_ALIGN, Sizes};

/// The least that is counted for a command's words and variables, so that a plan does not change with each.
const FEW_WORDS: u64 = 64 << 10;

/// More RAM than `auto` gives a machine with an image in place, but for what grows with the image.
const MOST_BESIDE: u64 = 256 << 20;

/// The needs of a run, computed without booting.
#[derive(Debug)]
pub struct Plan {
    /// The image.
    pub image: PreparedImage,
    /// The kernel that boots.
    pub kernel: Kernel,
    /// The RAM, as a sum.
    pub memory: MemoryPlan,
    /// Problems that do not keep the machine from running, one line each.
    pub warnings: Vec<String>,
    /// The reason why a large image is not used in place.
    pub not_in_place: Option<String>,
    /// The request's command over the image's.
    pub(super) command: Command,
    /// The account that runs it.
    pub(super) account: Account,
    /// The files that are copied in, laid out.
    pub(super) copied: Option<(Tree, Places)>,
    /// The sizes of what is in the initrd besides PID 1: the copied files, and the image unless it is a region.
    pub(super) contents: Contents,
    /// The volumes.
    pub(super) volumes: Vec<PreparedVolume>,
    /// The sizes of the regions, the root's first.
    pub(super) regions: Vec<u64>,
    /// The scratch space, if there is to be any.
    pub scratch: Option<ScratchPlan>,
    /// The modules that PID 1 loads for all of these.
    pub(super) modules: Option<ModuleFile>,
}

/// The result of reading.
struct Read {
    image: PreparedImage,
    volumes: Vec<PreparedVolume>,
    kernel: Kernel,
    modules: Option<ModuleFile>,
    not_in_place: Option<String>,
}

/// A volume, and the place where it is mounted.
pub(super) type PreparedVolume = (PreparedImage, Vec<u8>);

/// Plans a run; nothing is written.
///
/// # Errors
/// Whatever keeps the machine from being built, as far as reading tells.
pub fn plan(request: &Request) -> Result<Plan> {
    let (engine, _) = Engine::choose(request.engine)?;
    make(request, &engine)
}

/// Returns the directory of packed images, where the request has them kept.
pub(super) fn cache_of(request: &Request) -> Option<Cache> {
    let cache = Search::from_env().cache.filter(|_| request.cache);
    cache.as_deref().map(Cache::below)
}

/// Plans a run on this engine.
///
/// # Errors
/// Those of [`plan`].
pub(super) fn make(request: &Request, engine: &Engine) -> Result<Plan> {
    // Before anything is read.
    let host = Memory::gather();
    if let MemorySpec::Exactly(given) = request.memory {
        host.check_given(given)?;
    }
    let Read {
        image,
        volumes,
        kernel,
        modules,
        not_in_place,
    } = read(request, engine)?;
    let info = image.info();
    let mut warnings = info.warnings.clone();
    warnings.extend(kernel.warnings.iter().cloned());
    let command = command::over(&request.command, &info.config);
    let account = command_line::account_of(&image, &command, request)?;
    command_line::check(&image, &command, &account, request)?;
    let below = payload::copy_in_directory(&info.init);
    let regions = info.region.into_iter();
    let regions = regions.chain(
        volumes
            .iter()
            .filter_map(|(volume, _)| volume.info().region),
    );
    let regions: Vec<u64> = regions
        .map(|size| size.next_multiple_of(REGION_ALIGN))
        .collect();
    let told =
        command_line::words(&command) + request.steps.iter().map(SetupStep::size).sum::<u64>();
    let mut needs = needs(info, &kernel, request.cpus, told);
    needs.regions = ByteSize(regions.iter().sum());
    let scratch = request.scratch.map(ScratchPlan::new);
    needs.scratch = scratch.as_ref().map_or(ByteSize(0), |scratch| scratch.size);
    let mut modules = modules.filter(|_| !regions.is_empty());
    if scratch.is_some() {
        let found = modules_for(
            &kernel,
            RegionUse::Scratch,
            Search::from_env().cache.as_deref(),
        );
        let found = found.map_err(|reason| Error::NoScratch { reason })?;
        // Those for images are all of these and more.
        modules = modules.or(found);
    }
    let loaded = modules.as_ref().map_or(0, |modules| modules.bytes.len());
    needs.modules = ByteSize(loaded as u64);
    needs.own.0 += needs.modules.0;
    let mut copied = None;
    if let Some(gathered) = copyin::read(&request.copies, &below, account.uid, account.gid)? {
        let Gathered {
            tree,
            warnings: left_out,
        } = gathered;
        let places = Layout::of(&tree, Epoch::from_env_or_last()?)?.into_places();
        needs.contents = needs.contents.and(places.contents());
        warnings.extend(left_out);
        copied = Some((tree, places));
    }
    needs.root_keeps_its_half = request.rdinit.is_some();
    let memory = memory::plan(&needs, request.memory)?;
    let least = match request.memory {
        // A limit is no need: what no process touches costs the host nothing.
        MemorySpec::Room(_) => memory::plan(&needs, MemorySpec::FromImage)?
            .need
            .min(memory.need),
        _ => memory.need,
    };
    let sizes = Sizes {
        memory: memory.total,
        initrd: 0,
        regions: &regions,
        scratch: scratch.as_ref().map(|scratch| scratch.size.0),
    };
    if scratch.is_some() && !engine.fits(&sizes) {
        return Err(Error::NoScratch {
            reason: "in QEMU image and RAM have to fit into 3 GiB beside it".to_owned(),
        });
    }
    let cache = cache_of(request);
    let prepared = volumes.iter().map(|(volume, _)| volume).chain([&image]);
    let in_memory: u64 = prepared.map(|image| image.in_memory(cache.as_ref())).sum();
    warnings.extend(host.check_needed(ByteSize(least.0.saturating_add(in_memory)))?);
    Ok(Plan {
        image,
        kernel,
        memory,
        warnings,
        not_in_place,
        command,
        account,
        copied,
        contents: needs.contents,
        volumes,
        regions,
        scratch,
        modules,
    })
}

/// Opens the image, the volumes and the kernel, which is looked for meanwhile.
///
/// # Errors
/// Those of the image and the volumes, then those of the kernel.
fn read(request: &Request, engine: &Engine) -> Result<Read> {
    let epoch = Epoch::from_env_or_last()?;
    let search = Search::from_env();
    let cache = cache_of(request);
    let image_boot = request.image.path.join("boot");
    thread::scope(|scope| {
        let finding =
            scope.spawn(|| rdvm_kernel::open(&request.kernel, Some(&image_boot), &search));
        let (finding, found) = (Cell::new(Some(finding)), OnceCell::new());
        let kernel = || {
            found.get_or_init(|| {
                let result = finding.take().map(|finding| finding.join());
                let result = result.expect("it is asked for once");
                result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        };
        let (taken, modules) = (Cell::new(0), OnceCell::new());
        let not_in_place = Cell::new(None);
        let can = |size: u64| -> std::result::Result<(), String> {
            let Ok(kernel) = kernel() else {
                // The kernel's error is told when the image has been read.
                return Err("there is no kernel".to_owned());
            };
            let modules = modules
                .get_or_init(|| modules_for(kernel, RegionUse::InPlace, search.cache.as_deref()));
            modules.as_ref().map_err(String::clone)?;
            let scratch = request.scratch.map(|size| size.0);
            let ram = match request.memory {
                MemorySpec::Exactly(given) => given,
                MemorySpec::FromImage | MemorySpec::Room(_) => {
                    let room = match request.memory {
                        MemorySpec::Room(room) => room.0,
                        _ => 0,
                    };
                    let beside = MOST_BESIDE + size / 32 + scratch.unwrap_or(0) / 32;
                    ByteSize(beside.saturating_add(room))
                }
            };
            let sizes = Sizes {
                memory: ram,
                initrd: 0,
                regions: &[taken.get(), size],
                scratch,
            };
            match engine.fits(&sizes) {
                true => Ok(()),
                false => Err("in QEMU it has to fit into 3 GiB with the RAM".to_owned()),
            }
        };
        let can =
            |size: u64| can(size).inspect_err(|reason| not_in_place.set(Some(reason.clone())));
        let root = match request.rdinit {
            // A PID 1 of the user's own mounts none.
            Some(_) => RootSpec::Initrd,
            None => request.root,
        };
        let in_place = InPlace { root, can: &can };
        let open = |image: &ImageRef, in_place: &InPlace<'_>| {
            PreparedImage::open(image, epoch, in_place, cache.as_ref(), &request.progress)
        };
        // The image's errors first: it is what the user named.
        let image = open(&request.image, &in_place)?;
        taken.set(image.info().region.unwrap_or(0));
        let in_place = InPlace {
            root: RootSpec::Erofs,
            can: &can,
        };
        let mut volumes = Vec::new();
        for volume in &request.volumes {
            let directory = ImageRef {
                path: volume.host.clone(),
                format: Some(Format::Dir),
                expect: Expectation::Nothing,
                ..request.image.clone()
            };
            let directory = ImageRef {
                layers: Vec::new(),
                is_layer: false,
                ..directory
            };
            let prepared = open(&directory, &in_place).map_err(|error| match error {
                Error::NotInPlace { reason } => Error::NotAVolume {
                    directory: shown(&volume.host),
                    reason,
                },
                error => error,
            })?;
            taken.set(taken.get() + prepared.info().region.unwrap_or(0));
            volumes.push((prepared, volume.guest.as_bytes().to_vec()));
        }
        kernel();
        let kernel = found.into_inner().expect("it was asked for")?;
        let modules = modules.into_inner().and_then(std::result::Result::ok);
        Ok(Read {
            image,
            volumes,
            kernel,
            modules: modules.flatten(),
            not_in_place: not_in_place.into_inner(),
        })
    })
}

/// Returns the modules by which a kernel has regions; `None` where it needs none.
///
/// # Errors
/// As a text: why it cannot have them.
pub(super) fn modules_for(
    kernel: &Kernel,
    region: RegionUse,
    cache: Option<&Path>,
) -> std::result::Result<Option<ModuleFile>, String> {
    match regions::of(kernel, region, cache)? {
        Regions::BuiltIn => Ok(None),
        Regions::Modules(modules) => {
            let file = ModuleFile::of(&modules).map_err(|error| error.to_string())?;
            Ok(Some(file))
        }
    }
}

/// Returns what image and kernel need together, with a command of so many bytes, all its words and variables counted.
pub(super) fn needs(image: &ImageInfo, kernel: &Kernel, cpus: u8, command: u64) -> Needs {
    let table = image.attributes.as_ref().map_or(0, Vec::len) as u64;
    // In the record, in PID 1 and with the command; most are short.
    let words = command.saturating_mul(3).max(FEW_WORDS);
    Needs {
        contents: match image.region {
            Some(_) => Contents::default(),
            None => image.contents,
        },
        kernel: ByteSize(kernel.memory_bytes()),
        kernel_end: kernel.load_end(),
        own: ByteSize(payload::RDINIT.len() as u64 + table + words),
        modules: ByteSize(0),
        cpus,
        regions: ByteSize(0),
        scratch: ByteSize(0),
        root_keeps_its_half: false,
    }
}
