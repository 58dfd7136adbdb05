//! The kernel: found, checked, unpacked, open.
//!
//! Takes the wish and the places to look; returns open files and checked facts, so that an engine has nothing left to
//! verify. Boots nothing, and does not know which engine will. Steps: `find` (which file), `file` (open it safely),
//! `probe` (what is in it), `bzimage` and `elf`
//! (check it), `unpack`, `cache` (do so only once). Beside that path: `list`, `modules`.

#![forbid(unsafe_code)]

mod banner;
pub mod bzimage;
mod cache;
mod elf;
mod error;
mod field;
pub mod file;
pub mod find;
mod list;
pub mod modules;
mod probe;
#[cfg(any(test, feature = "samples"))]
pub mod samples;
#[cfg(test)]
#[path = "../../../tests/it/support/skips.rs"]
mod skips;
mod unpack;

use std::fs::File;
use std::path::{Path, PathBuf};

pub use bzimage::BzImageFacts;
pub use elf::ElfFacts;
pub use error::{Error, FileError};
pub use field::ParseError;
pub use find::{Origin, Search};
pub use list::{KernelFile, list, render};
pub use probe::Format;
pub use unpack::Compression;

use find::Candidate;
use probe::Probe;
use std::ffi::OsString;

/// Which kernel boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelSpec {
    /// The first of the search order.
    Search,
    /// This file.
    File(PathBuf),
    /// As typed after `-k`: a path when it has a slash or is there, else a release in the host's /boot.
    Named(OsString),
}

/// A kernel that was found and checked.
#[derive(Debug)]
pub struct Kernel {
    /// The file that it came from.
    pub path: PathBuf,
    /// Why this one.
    pub origin: Origin,
    /// Its release (`uname -r`); a bare vmlinux does not say.
    pub release: Option<String>,
    /// The kernel to boot.
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
        /// The facts that were checked.
        facts: ElfFacts,
        /// The bzImage that it came out of.
        bzimage: Option<(File, BzImageFacts)>,
    },
    /// Only as a bzImage that unpacks itself in the guest.
    BzImage {
        /// The bzImage.
        bzimage: File,
        /// The facts that were checked.
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
pub fn open(spec: &KernelSpec, image_boot: Option<&Path>, host: &Search) -> Result<Kernel, Error> {
    let candidates = host.candidates(spec, image_boot);
    let (candidate, probe, mut warnings) = find::choose(candidates, host, image_boot, Probe::new)?;
    let Candidate { path, origin } = candidate;
    let release = probe.release().map(str::to_owned);
    let (image, warning) = match probe.load(host.cache.as_deref()) {
        Ok(loaded) => loaded,
        Err(problem) => return Err(Error::File { path, problem }),
    };
    // Whose home takes nothing knows it, or is told under --verbose.
    warnings.extend(warning.filter(|_| host.keeps_nothing.is_none()));
    Ok(Kernel {
        path,
        origin,
        release,
        image,
        warnings,
    })
}

impl Kernel {
    /// RAM that it occupies before it runs anything else, in bytes. For a bzImage that is not unpacked it is the room that it
    /// wants for unpacking itself, which is a little more.
    pub fn memory_bytes(&self) -> u64 {
        match &self.image {
            KernelImage::Elf { facts, .. } => facts.memory_bytes,
            KernelImage::BzImage { facts, .. } => facts.init_size,
        }
    }

    /// The guest-physical address behind its last byte.
    pub fn load_end(&self) -> u64 {
        match &self.image {
            KernelImage::Elf { facts, .. } => facts.load_end,
            KernelImage::BzImage { facts, .. } => {
                facts.pref_address.saturating_add(facts.init_size)
            }
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
                problem: FileError::NoPvh,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Seek};

    use super::samples::{bzimage, pack, put, vmlinux};
    use super::*;

    fn open_file(path: &Path, cache: Option<PathBuf>) -> Kernel {
        let host = Search {
            cache,
            ..Search::default()
        };
        open(&KernelSpec::File(path.into()), None, &host).unwrap()
    }

    #[test]
    fn a_machine_without_64_bit_entry_gets_the_elf_by_pvh_else_the_bzimage() {
        let dir = tempfile::tempdir().unwrap();
        let mut plain = vmlinux();
        put(&mut plain, 56, 2, 2); // drops the note segment
        let file = dir.path().join("kernel");
        let boot = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            open_file(&file, None).into_boot()
        };
        assert!(matches!(boot(&vmlinux()), Ok(Boot::Pvh(..))));
        let packed = |elf: &[u8]| bzimage(&pack(Compression::Gzip, elf));
        assert!(matches!(boot(&packed(&vmlinux())), Ok(Boot::Pvh(..))));
        assert!(matches!(boot(&packed(&plain)), Ok(Boot::BzImage(..))));
        let bzip2 = bzimage(&pack(Compression::Bzip2, b""));
        assert!(matches!(boot(&bzip2), Ok(Boot::BzImage(..))));
        let error = boot(&plain).unwrap_err().to_string();
        assert!(error.contains("has no PVH entry"), "{error}");
    }

    #[test]
    fn the_kernel_tells_its_release_and_its_room() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kernel");
        fs::write(&file, bzimage(&pack(Compression::Zstd, &vmlinux()))).unwrap();
        let kernel = open_file(&file, None);
        assert_eq!(kernel.release.as_deref(), Some("6.1.0-test"));
        assert_eq!(kernel.memory_bytes(), 0x3200);
        fs::write(&file, bzimage(&pack(Compression::Bzip2, b""))).unwrap();
        assert_eq!(open_file(&file, None).memory_bytes(), samples::INIT_SIZE);
    }

    #[test]
    fn a_kernel_that_wants_to_lie_far_up_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kernel");
        let gigabyte = 1 << 30;
        let mut elf = vmlinux();
        put(&mut elf, 56, 2, 1);
        put(&mut elf, 24, 8, gigabyte);
        put(&mut elf, samples::program_header(0) + 24, 8, gigabyte);
        fs::write(&file, &elf).unwrap();
        assert_eq!(open_file(&file, None).load_end(), gigabyte + 0x200);
        let mut packed = bzimage(&pack(Compression::Bzip2, b""));
        put(&mut packed, 0x258, 8, gigabyte);
        fs::write(&file, &packed).unwrap();
        let end = gigabyte + samples::INIT_SIZE;
        assert_eq!(open_file(&file, None).load_end(), end);
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error_that_names_it() {
        let spec = KernelSpec::File("/no/such\nfile".into());
        let error = open(&spec, None, &Search::default()).unwrap_err();
        let want = "/no/such\\nfile: no such file; rdvm kernel list shows those that can be used, -k FILE names one";
        assert_eq!(error.to_string(), want);
    }

    /// The cloud kernels of this host, of whatever release.
    fn cloud_kernels() -> Vec<PathBuf> {
        let boot = fs::read_dir("/boot").into_iter().flatten().flatten();
        let is_cloud = |name: &str| name.starts_with("vmlinuz-") && name.ends_with("-cloud-amd64");
        boot.filter(|entry| entry.file_name().to_str().is_some_and(is_cloud))
            .map(|entry| entry.path())
            .collect()
    }

    /// Debian's own kernel: the made-up ones above are only as right as what we know.
    #[test]
    fn debians_cloud_kernel_is_unpacked_and_cached() {
        let paths = cloud_kernels();
        if paths.is_empty() {
            let missing = "/boot/vmlinuz-*-cloud-amd64";
            // Ubuntu has no package of it; tests/it/kernels.rs has its kernels.
            let debian =
                fs::read_to_string("/etc/os-release").is_ok_and(|os| os.contains("\nID=debian\n"));
            match debian {
                true => crate::skips::missing(missing),
                false => crate::skips::left_out(missing),
            }
        }
        for path in paths {
            let cache = tempfile::tempdir().unwrap();
            let kernel = open_file(&path, Some(cache.path().into()));
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(kernel.release.as_deref(), name.strip_prefix("vmlinuz-"));
            assert_eq!(kernel.warnings, [""; 0]);
            let again = open_file(&path, Some(cache.path().into()));
            for kernel in [kernel, again] {
                let Boot::Pvh(mut elf, facts) = kernel.into_boot().unwrap() else {
                    panic!("no PVH entry");
                };
                assert_eq!((facts.entry, facts.load_start), (0x100_0000, 0x100_0000));
                assert!(facts.pvh_entry.is_some_and(|entry| entry > facts.entry));
                assert!(facts.memory_bytes > 30 << 20 && facts.load_end < 128 << 20);
                let mut magic = [0; 4];
                assert_eq!(elf.stream_position().unwrap(), 0);
                elf.read_exact(&mut magic).unwrap();
                assert_eq!(&magic, b"\x7fELF");
            }
        }
    }
}
