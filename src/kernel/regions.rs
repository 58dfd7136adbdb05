//! The way in which a kernel can have an image, or its swap space, as a region of memory: by itself, or by modules that PID 1
//! loads.
//!
//! The kernel's own list of options is found by a search through all of it, so the answer is kept by the state of its file. The
//! configuration and the modules beside the kernel are looked at each time.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::check::config::Config;
use super::check::features::{REGION_MODULES, REGIONS, SCRATCH};
use super::check::lack;
use rdvm_hostfs::FileStamp;
use rdvm_hostfs::atomic::AtomicFile;
use rdvm_hostfs::escape::shown;
use rdvm_kernel::modules::{ModuleDirectory, ModuleError, Modules};
use rdvm_kernel::{Kernel, KernelImage};

/// The form of what is kept.
const FORM: u32 = 3;
/// A line of what is kept of a kernel that says its options, whatever they are.
const SAYS: &str = "CONFIG_=y\n";

/// The use of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegionUse {
    /// A file system, used in place.
    InPlace,
    /// Swap space.
    Scratch,
}

impl RegionUse {
    /// The options that it takes.
    fn needs(self) -> &'static [&'static str] {
        match self {
            Self::InPlace => REGIONS,
            Self::Scratch => SCRATCH,
        }
    }
}

/// The means by which a kernel has regions.
#[derive(Debug)]
pub(crate) enum Regions {
    /// All is built in.
    BuiltIn,
    /// By modules.
    Modules(Modules),
}

/// Modules as PID 1 gets them.
#[derive(Debug, Clone)]
pub(crate) struct ModuleFile {
    /// The file ([`rdvm_proto::Modules`]).
    pub(crate) bytes: Arc<[u8]>,
    /// The names of the modules.
    pub(crate) names: Vec<String>,
}

impl ModuleFile {
    /// Reads the modules.
    ///
    /// # Errors
    /// One cannot be read or unpacked.
    pub(crate) fn of(modules: &Modules) -> Result<Self, ModuleError> {
        Ok(Self {
            bytes: rdvm_proto::Modules::encode(&modules.read()?).into(),
            names: modules.names().collect(),
        })
    }
}

/// Returns how an open kernel can have regions for this, or why it cannot; what it says itself is kept below `cache`.
///
/// # Errors
/// As a text: subject and reason.
pub(crate) fn of(
    kernel: &Kernel,
    region: RegionUse,
    cache: Option<&Path>,
) -> Result<Regions, String> {
    let modules = ModuleDirectory::of(&kernel.path, kernel.origin, kernel.release.as_deref());
    let config = carried_by(kernel, cache).or_else(|| Config::near(kernel, modules.as_ref()));
    let name = shown(&kernel.path);
    judge(region.needs(), config.as_ref(), modules.as_ref())
        .map_err(|reason| format!("{name}: {reason} (rdvm kernel check)"))
}

/// Returns where an open kernel has what images in place need: `built in`, or `by modules of` a directory.
///
/// # Errors
/// As a text: why it has not.
pub fn describe(kernel: &Kernel, cache: Option<&Path>) -> Result<String, String> {
    of(kernel, RegionUse::InPlace, cache).map(|regions| match regions {
        Regions::Modules(modules) => format!("by modules of {}", shown(&modules.directory)),
        Regions::BuiltIn => "built in".to_owned(),
    })
}

/// Judges options, as far as they are known, and modules, by what is needed.
///
/// # Errors
/// The first that is missing.
pub(super) fn judge(
    needs: &[&str],
    config: Option<&Config>,
    modules: Option<&ModuleDirectory>,
) -> Result<Regions, String> {
    let module_of = |need: &str| REGION_MODULES.iter().find(|(option, _)| *option == need);
    let mut wanted = Vec::new();
    for need in needs {
        let value = config.map(|config| config.value(need));
        match (value, module_of(need)) {
            (Some(Some("y")), _) => {}
            (Some(Some("m")) | None, Some((_, module))) => wanted.push(*module),
            (Some(_), _) => {
                return Err(config
                    .and_then(|config| lack(need, config))
                    .unwrap_or_default());
            }
            // Not known. Distributions whose kernels have the modules have these too.
            (None, None) => {}
        }
    }
    if wanted.is_empty() {
        return Ok(Regions::BuiltIn);
    }
    let Some(directory) = modules else {
        let config = config.and_then(|config| {
            let need = needs.iter().find(|need| config.value(need) != Some("y"))?;
            lack(need, config)
        });
        let reason = "neither its options nor its modules are known";
        return Err(config.unwrap_or_else(|| reason.to_owned()));
    };
    let modules = directory
        .modules(&wanted)
        .map_err(|error| error.to_string())?;
    match modules.is_empty() {
        true => Ok(Regions::BuiltIn),
        false => Ok(Regions::Modules(modules)),
    }
}

/// Returns what the kernel itself says of these options.
fn carried_by(kernel: &Kernel, cache: Option<&Path>) -> Option<Config> {
    let file = match &kernel.image {
        KernelImage::Elf { elf, bzimage, .. } => bzimage.as_ref().map_or(elf, |(file, _)| file),
        KernelImage::BzImage { bzimage, .. } => bzimage,
    };
    let stamp = FileStamp::of(file).ok().filter(FileStamp::is_settled);
    let note = cache.zip(stamp).map(|(cache, stamp)| {
        let directory = cache.join("kernel-features");
        directory.join(format!("{FORM}-{stamp}"))
    });
    if let Some(kept) = note.as_deref().and_then(|note| fs::read(note).ok()) {
        return Config::of_text(&kept, &kernel.path);
    }
    let config = Config::carried_by(kernel);
    if let Some(note) = note {
        let text = config.as_ref().map_or_else(String::new, |config| {
            let values = REGIONS
                .iter()
                .chain(SCRATCH)
                .filter_map(|name| Some((name, config.value(name)?)));
            let lines = values.map(|(name, value)| format!("CONFIG_{name}={value}\n"));
            lines.fold(SAYS.to_owned(), |text, line| text + &line)
        });
        // Without it the kernel is searched again the next time.
        let _ = keep(&note, text.as_bytes());
    }
    config
}

fn keep(note: &Path, answer: &[u8]) -> std::io::Result<()> {
    note.parent().map_or(Ok(()), fs::create_dir_all)?;
    let draft = AtomicFile::beside(note)?;
    let mut file: &File = draft.file();
    file.write_all(answer)?;
    draft.put_in_place()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdvm_kernel::Origin;

    /// The options of a kernel with `value` for those that can be modules, and `other` for one of the others.
    fn config(value: &str, other: &str) -> Config {
        let modular = |need: &str| REGION_MODULES.iter().any(|(option, _)| *option == need);
        let line = |need: &&str| match *need {
            need if modular(need) => format!("CONFIG_{need}={value}\n"),
            "FS_DAX" => format!("CONFIG_FS_DAX={other}\n"),
            need => format!("CONFIG_{need}=y\n"),
        };
        let text: String = REGIONS.iter().map(line).collect();
        Config::of_text(text.as_bytes(), Path::new("config")).unwrap()
    }

    #[test]
    fn a_kernel_has_regions_by_itself_or_by_modules_or_says_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("modules/1");
        fs::create_dir_all(&place).unwrap();
        let write = |name: &str, text: &str| fs::write(place.join(name), text).unwrap();
        let directory = || {
            let kernel = dir.path().join("vmlinuz-1");
            ModuleDirectory::of(&kernel, Origin::Asked, None)
        };
        let judged_for = |needs: &[&str], config: Option<&Config>| match judge(
            needs,
            config,
            directory().as_ref(),
        ) {
            Ok(Regions::BuiltIn) => "built in".to_owned(),
            Ok(Regions::Modules(modules)) => modules.names().collect::<Vec<_>>().join(" "),
            Err(reason) => reason,
        };
        let judged = |config: Option<&Config>| judged_for(REGIONS, config);
        assert_eq!(judged(Some(&config("y", "y"))), "built in");
        assert_eq!(
            judged(Some(&config("m", "y"))),
            "CONFIG_X86_PMEM_LEGACY is a module"
        );
        let unknown = "neither its options nor its modules are known";
        assert_eq!(judged(None), unknown);
        for name in ["erofs", "overlay", "nd_pmem", "nd_e820"] {
            write(&format!("{name}.ko"), "");
        }
        let all = "nd_e820.ko:\nnd_pmem.ko:\nerofs.ko:\noverlay.ko:\n";
        write("modules.dep", all);
        let order = "nd_e820 nd_pmem erofs overlay";
        assert_eq!(judged(Some(&config("m", "y"))), order);
        assert_eq!(judged(None), order);
        // Swap space is no file system.
        assert_eq!(judged_for(SCRATCH, None), "nd_e820 nd_pmem");
        let without = judged_for(SCRATCH, Some(&config("m", "y")));
        assert_eq!(without, "CONFIG_SWAP is off");
        // These are no modules, whatever there is.
        assert_eq!(judged(Some(&config("m", "n"))), "CONFIG_FS_DAX is off");
        assert_eq!(
            judged(Some(&config("n", "y"))),
            "CONFIG_X86_PMEM_LEGACY is off"
        );
        write(
            "modules.builtin",
            "a/nd-e820.ko\na/nd_pmem.ko\na/overlay.ko\n",
        );
        assert_eq!(judged(None), "erofs");
        write("modules.dep", "");
        let missing = format!("{}: has no module erofs", place.display());
        assert_eq!(judged(Some(&config("m", "y"))), missing);
        write(
            "modules.builtin",
            "nd_e820.ko\nnd_pmem.ko\noverlay.ko\nerofs.ko\n",
        );
        assert_eq!(judged(None), "built in");
    }
}
