//! A kernel's configuration, from whatever has it: the text, the text compressed, a kernel that carries it, or a file
//! beside a kernel that does not.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::Error;
use crate::request::KernelSpec;
use rdvm_kernel::file::{self, Links};
use rdvm_kernel::modules::ModuleDirectory;
use rdvm_kernel::{Kernel, KernelImage, Origin, Search, bzimage};

/// Distributions' have 300 KB.
const MAX_TEXT: u64 = 8 << 20;
const GZIP: &[u8] = b"\x1f\x8b\x08";
/// The mark before the compressed text in a kernel (`kernel/configs.c`).
const MARK: &[u8] = b"IKCFG_ST";

/// The options that are set, with their values.
#[derive(Debug)]
pub(crate) struct Config {
    values: HashMap<String, String>,
    /// Where they were found.
    pub(super) from: PathBuf,
    /// The modules of its kernel.
    pub(super) modules: Option<ModuleDirectory>,
}

impl Config {
    /// Reads that of `path`, which is a configuration or a kernel. Kernels are unpacked by way of `cache`.
    ///
    /// # Errors
    /// `path` is neither; those of reading.
    pub(super) fn read(path: &Path, cache: Option<&Path>) -> Result<Self, Error> {
        let failed = |problem| Error::File {
            path: path.to_owned(),
            problem,
        };
        let file = file::open(path, Links::Follow).map_err(failed)?;
        let length = file.metadata().map_err(|error| failed(error.into()))?.len();
        let head = length.min(bzimage::HEAD_BYTES) as usize;
        let head = file::read_at(&file, 0, head).map_err(|error| failed(error.into()))?;
        let text = if bzimage::recognise(&head) || head.starts_with(b"\x7fELF") {
            return Self::of_kernel(path, cache);
        } else if head.starts_with(GZIP) {
            let mut bytes = Vec::new();
            let gzip = flate2::read::GzDecoder::new(&file);
            let read = gzip.take(MAX_TEXT).read_to_end(&mut bytes);
            read.map(|_| bytes).map_err(|error| failed(error.into()))
        } else if length > MAX_TEXT {
            Ok(Vec::new())
        } else {
            file::read_at(&file, 0, length as usize).map_err(|error| failed(error.into()))
        };
        let config = Self::of_text(&text?, path).ok_or_else(|| Error::NoConfig {
            path: path.to_owned(),
        })?;
        let modules = ModuleDirectory::of(path, Origin::Asked, None);
        Ok(Self { modules, ..config })
    }

    /// That which a kernel carries, or that of `config-RELEASE` beside it.
    fn of_kernel(path: &Path, cache: Option<&Path>) -> Result<Self, Error> {
        let host = Search {
            cache: cache.map(Path::to_owned),
            ..Search::default()
        };
        let kernel = rdvm_kernel::open(&KernelSpec::File(path.to_owned()), None, &host)?;
        let modules = ModuleDirectory::of(path, kernel.origin, kernel.release.as_deref());
        let config = Self::carried_by(&kernel)
            .or_else(|| Self::near(&kernel, modules.as_ref()))
            .ok_or_else(|| Error::Silent {
                path: path.to_owned(),
                beside: beside(path, kernel.release.as_deref())
                    .pop()
                    .unwrap_or_default(),
            })?;
        Ok(Self { modules, ..config })
    }

    /// Searches an open kernel for its configuration.
    pub(crate) fn carried_by(kernel: &Kernel) -> Option<Self> {
        let KernelImage::Elf { elf, .. } = &kernel.image else {
            return None;
        };
        Self::of_text(&carried(elf)?, &kernel.path)
    }

    /// Reads the configuration beside a kernel that does not carry it, or among its modules.
    pub(crate) fn near(kernel: &Kernel, modules: Option<&ModuleDirectory>) -> Option<Self> {
        let links = match kernel.origin {
            Origin::Image => Links::Refuse,
            _ => Links::Follow,
        };
        let beside = beside(&kernel.path, kernel.release.as_deref());
        let beside = beside.iter().find_map(|beside| {
            let file = file::open(beside, links).ok()?;
            let mut text = Vec::new();
            file.take(MAX_TEXT).read_to_end(&mut text).ok()?;
            Self::of_text(&text, beside)
        });
        beside.or_else(|| {
            let text = modules?.text("config").ok()?;
            Self::of_text(text.as_bytes(), &modules?.path().join("config"))
        })
    }

    /// `None` for a text in which no option is set.
    pub(crate) fn of_text(text: &[u8], from: &Path) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let settings = text
            .lines()
            .filter_map(|line| line.trim_end().strip_prefix("CONFIG_")?.split_once('='));
        let values: HashMap<String, String> = settings
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        (!values.is_empty()).then(|| Self {
            values,
            from: from.to_owned(),
            modules: None,
        })
    }

    /// The value of an option without `CONFIG_`, such as `y` or `16`; `None` when it is off or not known.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }
}

/// Names that the configuration may have in the kernel's directory: by the kernel's own name, and by its release.
fn beside(path: &Path, release: Option<&str>) -> Vec<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let by_name = name.split_once('-').map(|(_, release)| release.to_owned());
    let releases = by_name.into_iter().chain(release.map(str::to_owned));
    let names = releases.map(|release| path.with_file_name(format!("config-{release}")));
    let mut names: Vec<PathBuf> = names.collect();
    names.dedup();
    if names.is_empty() {
        names.push(path.with_file_name("config-RELEASE"));
    }
    names
}

/// The text that an uncompressed kernel has in it.
fn carried(elf: &File) -> Option<Vec<u8>> {
    let (kernel, _) = file::read_all(elf).ok()?;
    let mark = [MARK, GZIP].concat();
    // Kernels are 10 to 100 MB.
    let at = memchr::memmem::find(&kernel, &mark)?;
    let mut text = Vec::new();
    let gzip = flate2::read::GzDecoder::new(&kernel[at + MARK.len()..]);
    gzip.take(MAX_TEXT).read_to_end(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;
    use rdvm_kernel::Compression;
    use rdvm_kernel::samples::{bzimage as bzimage_of, pack, vmlinux};

    const TEXT: &str =
        "# Linux\nCONFIG_SMP=y\nCONFIG_NR_CPUS=16\n# CONFIG_PVH is not set\nCONFIG_FUSE_FS=m\r\n";

    fn gzipped(text: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(text).unwrap();
        gzip.finish().unwrap()
    }

    fn carrying() -> Vec<u8> {
        let mut elf = vmlinux();
        elf.extend([MARK, &gzipped(TEXT.as_bytes()), b"IKCFG_ED"].concat());
        elf
    }

    fn read(name: &str, bytes: &[u8]) -> Result<Config, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        Config::read(&path, None)
    }

    #[test]
    fn a_configuration_is_read_from_whatever_has_it() {
        for (name, bytes) in [
            (".config", TEXT.as_bytes().to_vec()),
            ("config.gz", gzipped(TEXT.as_bytes())),
            ("vmlinux", carrying()),
            ("bzImage", bzimage_of(&pack(Compression::Gzip, &carrying()))),
        ] {
            let config = read(name, &bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(config.value("SMP"), Some("y"), "{name}");
            assert_eq!(config.value("NR_CPUS"), Some("16"), "{name}");
            assert_eq!(config.value("FUSE_FS"), Some("m"), "{name}");
            assert_eq!(config.value("PVH"), None, "{name}");
        }
    }

    #[test]
    fn a_kernel_that_says_nothing_has_its_configuration_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("vmlinuz-1.2-x");
        fs::write(&kernel, bzimage_of(&pack(Compression::Gzip, &vmlinux()))).unwrap();
        let error = Config::read(&kernel, None).unwrap_err().to_string();
        assert!(error.contains("does not say its options"), "{error}");
        for name in ["config-1.2-x", "config-6.1.0-test"] {
            let beside = dir.path().join(name);
            fs::write(&beside, TEXT).unwrap();
            let config = Config::read(&kernel, None).unwrap();
            assert_eq!(config.from, beside);
            fs::remove_file(beside).unwrap();
        }
    }

    #[test]
    fn what_is_no_configuration_is_refused_by_its_name() {
        for (name, bytes) in [
            ("empty", b"".to_vec()),
            ("text", b"CONFIG\nhello\n".to_vec()),
            ("gz", gzipped(b"hello")),
            ("bytes", vec![0xff; 100]),
        ] {
            let error = read(name, &bytes).unwrap_err().to_string();
            assert!(error.contains("no kernel and no configuration"), "{error}");
        }
        let cut = &gzipped(TEXT.as_bytes())[..20];
        read("cut", cut).unwrap_err();
    }

    #[test]
    fn a_bomb_is_not_unpacked_beyond_the_limit() {
        let bomb = gzipped(&vec![b'\n'; 2 * MAX_TEXT as usize]);
        read("bomb", &bomb).unwrap_err();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        Config::read(&path, None).unwrap_err();
    }
}
