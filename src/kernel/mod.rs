//! The kernel: found, checked, unpacked, open.
//!
//! Takes the wish and the places to look; gives open files and checked facts, so that an engine has nothing left to
//! verify. Boots nothing, and does not know which engine will. Steps: `find` (which file), `file` (open it safely),
//! `probe` (what is in it), `bzimage` and `elf`
//! (check it), `unpack`, `cache` (do so only once).

mod bzimage;
mod cache;
mod elf;
mod error;
mod field;
mod file;
mod find;
mod list;
mod probe;
mod unpack;

use std::fs::File;
use std::path::{Path, PathBuf};

pub use bzimage::BzImageFacts;
pub use elf::ElfFacts;
pub use error::{Error, Problem};
pub use field::Flaw;
pub use find::{Origin, Search};
pub use list::{Found, list, render};
pub use probe::Format;
pub use unpack::Compression;

use crate::request::KernelWish;
use find::Candidate;
use probe::Probe;

/// A kernel that was found and checked.
#[derive(Debug)]
pub struct Kernel {
    /// The file that it came from.
    pub path: PathBuf,
    /// Why this one.
    pub origin: Origin,
    /// Its release (`uname -r`); a bare vmlinux does not say.
    pub release: Option<String>,
    /// What to boot.
    pub image: KernelImage,
    /// Things that went less well than they should and did not stop it, one line each.
    pub warnings: Vec<String>,
}

/// The forms in which a kernel is there. All files are open for reading at position 0.
#[derive(Debug)]
pub enum KernelImage {
    /// Uncompressed.
    Elf {
        /// The vmlinux; maybe without a name (memfd).
        elf: File,
        /// What was checked in it.
        facts: ElfFacts,
        /// The bzImage that it came out of.
        bzimage: Option<(File, BzImageFacts)>,
    },
    /// Only as a bzImage that unpacks itself in the guest.
    BzImage {
        /// The bzImage.
        bzimage: File,
        /// What was checked in it.
        facts: BzImageFacts,
        /// Why it is not unpacked, to follow "booted as bzImage:".
        why: String,
    },
}

/// The form in which a machine without 64-bit entry (QEMU) starts a kernel.
#[derive(Debug)]
pub enum Boot {
    /// An ELF with a PVH entry (`facts.pvh_entry` is set).
    Pvh(File, ElfFacts),
    /// A bzImage.
    BzImage(File, BzImageFacts),
}

/// Finds, opens, checks and unpacks the kernel. `image_boot` is the directory of the image's own kernels, if the image
/// is a directory on this host.
///
/// # Errors
/// Each names the file, what is wrong, and the remedy.
pub fn open(wish: &KernelWish, image_boot: Option<&Path>, host: &Search) -> Result<Kernel, Error> {
    let candidates = host.candidates(wish, image_boot);
    let (candidate, probe, mut warnings) = find::choose(candidates, host, image_boot, Probe::new)?;
    let Candidate { path, origin } = candidate;
    let release = probe.release().map(str::to_owned);
    let (image, warning) = match probe.load(host.cache.as_deref()) {
        Ok(loaded) => loaded,
        Err(problem) => return Err(Error::File { path, problem }),
    };
    warnings.extend(warning);
    Ok(Kernel {
        path,
        origin,
        release,
        image,
        warnings,
    })
}

impl Kernel {
    /// The longest command line that it keeps, in bytes.
    pub fn cmdline_max(&self) -> u64 {
        match &self.image {
            KernelImage::Elf { bzimage: None, .. } => VMLINUX_CMDLINE_MAX,
            KernelImage::Elf {
                bzimage: Some((_, facts)),
                ..
            }
            | KernelImage::BzImage { facts, .. } => facts.cmdline_size,
        }
    }

    /// RAM that it occupies before it runs anything else, in bytes. For a bzImage that is not unpacked it is the room
    /// that it wants for unpacking itself, which is a little more.
    pub fn memory_bytes(&self) -> u64 {
        match &self.image {
            KernelImage::Elf { facts, .. } => facts.memory_bytes,
            KernelImage::BzImage { facts, .. } => facts.init_size,
        }
    }

    /// The form that a machine without 64-bit entry starts: by the PVH entry, else the bzImage.
    ///
    /// # Errors
    /// `NoPvh` for a vmlinux without that entry.
    pub fn into_boot(self) -> Result<Boot, Error> {
        match self.image {
            KernelImage::Elf { elf, facts, .. } if facts.pvh_entry.is_some() => {
                Ok(Boot::Pvh(elf, facts))
            }
            KernelImage::Elf {
                bzimage: Some((bzimage, facts)),
                ..
            }
            | KernelImage::BzImage { bzimage, facts, .. } => Ok(Boot::BzImage(bzimage, facts)),
            KernelImage::Elf { bzimage: None, .. } => Err(Error::File {
                path: self.path,
                problem: Problem::NoPvh,
            }),
        }
    }
}

/// A bare vmlinux has no header to ask; x86-64 keeps 2048 bytes with the final zero.
const VMLINUX_CMDLINE_MAX: u64 = 2047;
