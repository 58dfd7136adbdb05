//! Modules of a kernel: found near it, put into the order in which they are loaded, unpacked.
//!
//! Goes by the files of depmod(8), `modules.dep` and `modules.builtin`. Which modules are wanted, and for what, is the caller's.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rdvm_hostfs::beneath;
use rdvm_hostfs::escape::shown;
use rustix::fs::{OFlags, ResolveFlags};

use super::error::FileError;
use super::file::{self, Links};
use super::find::Origin;
use super::unpack;

/// The most bytes that are read of a list; distributions' have 700 KB.
const MAX_LIST: u64 = 16 << 20;
/// The most bytes of all modules together, packed or unpacked. Those for regions have 2 MB.
const MAX_BYTES: u64 = 32 << 20;
/// The most modules; those for regions are eight.
const MAX_MODULES: usize = 64;

/// Modules that others ask for while they start, by the name of an algorithm: `modules.dep` does not say so. They may as well
/// be built in under another name.
const SOFT: &[(&str, &str)] = &[("libcrc32c", "crc32c_generic")];

/// A module that cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ModuleError {
    /// It is neither built in nor a file.
    #[error("{}: has no module {name}", shown(directory))]
    Missing { directory: PathBuf, name: String },
    /// A list that is no real one.
    #[error("{}: {name} needs more than {MAX_MODULES} others", shown(directory))]
    TooMany { directory: PathBuf, name: String },
    /// Its file cannot be read or unpacked.
    #[error("{}: {problem}", shown(path))]
    File { path: PathBuf, problem: FileError },
}

/// The directory with the modules of one kernel.
#[derive(Debug)]
pub struct ModuleDirectory {
    path: PathBuf,
    /// The root of the image that it belongs to: no link in it is followed.
    image: Option<PathBuf>,
    dependencies: String,
    builtin: HashSet<String>,
}

/// Modules in the order in which they are loaded, open.
#[derive(Debug)]
pub struct Modules {
    /// The directory that they are in.
    pub directory: PathBuf,
    files: Vec<(PathBuf, File)>,
}

impl ModuleDirectory {
    /// Finds the directory of `kernel`, or of a configuration beside one: by its release, else by its name.
    pub fn of(kernel: &Path, origin: Origin, release: Option<&str>) -> Option<Self> {
        let name = kernel.file_name()?.to_string_lossy();
        let by_name = name.split_once('-').map(|(_, release)| release);
        let is_name = |release: &&str| !release.is_empty() && !release.contains('/');
        let mut releases: Vec<&str> = release.into_iter().chain(by_name).collect();
        releases.retain(is_name);
        let directory = kernel.parent().unwrap_or(Path::new(""));
        let above = match directory.file_name() {
            Some(_) => directory.parent().unwrap_or(Path::new("")).to_owned(),
            None => directory.join(".."),
        };
        releases.into_iter().find_map(|release| {
            if origin == Origin::Image {
                let mut places = ["boot/modules", "lib/modules", "usr/lib/modules"].into_iter();
                return places.find_map(|place| {
                    let path = above.join(place).join(release);
                    Self::open(path, Some(above.clone()))
                });
            }
            let below = |place: &Path, name: &str| place.join(name).join(release);
            let places = [
                below(directory, "modules"),
                below(directory, "lib/modules"),
                below(&above, "modules"),
                below(&above, "lib/modules"),
            ];
            // Some distributions have the kernel among its modules.
            let own = (directory.file_name()? == release).then(|| directory.to_owned());
            let mut places = places.into_iter().chain(own);
            places.find_map(|path| Self::open(path, None))
        })
    }

    fn open(path: PathBuf, image: Option<PathBuf>) -> Option<Self> {
        let mut directory = Self {
            path,
            image,
            dependencies: String::new(),
            builtin: HashSet::new(),
        };
        directory.dependencies = directory.text("modules.dep").ok()?;
        let builtin = directory.text("modules.builtin").unwrap_or_default();
        directory.builtin = builtin.lines().map(name).collect();
        Some(directory)
    }

    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a text in the directory.
    ///
    /// # Errors
    /// It is not there, no text, or too long.
    pub fn text(&self, name: &str) -> Result<String, FileError> {
        let mut text = String::new();
        let file = self.file(name)?;
        let length = file.take(MAX_LIST + 1).read_to_string(&mut text)? as u64;
        match length > MAX_LIST {
            true => Err(io::Error::from(io::ErrorKind::FileTooLarge).into()),
            false => Ok(text),
        }
    }

    fn file(&self, name: &str) -> Result<File, FileError> {
        let path = self.path.join(name);
        let Some(root) = &self.image else {
            return file::open(&path, Links::Follow);
        };
        let below = path.strip_prefix(root).unwrap_or(&path);
        let root = File::open(root)?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let below = below.as_os_str().as_bytes();
        let file = beneath::open(root, below, flags, ResolveFlags::empty());
        let file = File::from(file.map_err(io::Error::from)?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(FileError::NotRegular { kind: "no file" }),
        }
    }

    /// Opens the modules `names` and all that they need, each once and in the order in which they are loaded. What is built in
    /// is left out.
    ///
    /// # Errors
    /// One is neither there nor built in, or cannot be opened.
    pub fn modules(&self, names: &[&str]) -> Result<Modules, ModuleError> {
        let lines = self
            .dependencies
            .lines()
            .filter_map(|line| line.split_once(':'));
        let mut order = Order {
            directory: self,
            lines: lines
                .map(|(file, needs)| (name(file), (file, needs)))
                .collect(),
            seen: HashSet::new(),
            files: Vec::new(),
        };
        for wanted in names {
            order.add(&name(wanted))?;
        }
        let open = |file: &str| {
            let path = self.path.join(file);
            match self.file(file) {
                Ok(file) => Ok((path, file)),
                Err(problem) => Err(ModuleError::File { path, problem }),
            }
        };
        let files = order.files.into_iter().map(open);
        Ok(Modules {
            directory: self.path.clone(),
            files: files.collect::<Result<_, _>>()?,
        })
    }
}

impl Modules {
    /// True if all that was asked for is built in.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The names of the modules.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.files
            .iter()
            .map(|(path, _)| name(&path.to_string_lossy()))
    }

    /// Reads the modules, unpacked.
    ///
    /// # Errors
    /// One cannot be read or unpacked, or is too large.
    pub fn read(&self) -> Result<Vec<Vec<u8>>, ModuleError> {
        let mut left = MAX_BYTES;
        let read = |(path, file): &(PathBuf, File)| {
            let bytes = read(file, left).map_err(|problem| ModuleError::File {
                path: path.clone(),
                problem,
            })?;
            left -= bytes.len() as u64;
            Ok(bytes)
        };
        self.files.iter().map(read).collect()
    }
}

fn read(file: &File, limit: u64) -> Result<Vec<u8>, FileError> {
    let bytes = file.metadata()?.len();
    if bytes > limit {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge).into());
    }
    let bytes = file::read_at(file, 0, bytes as usize)?;
    Ok(unpack::unpack_module(bytes, limit)?)
}

/// The search for an order.
struct Order<'a> {
    directory: &'a ModuleDirectory,
    /// The file and the files that it needs, by the module's name.
    lines: HashMap<String, (&'a str, &'a str)>,
    seen: HashSet<String>,
    files: Vec<&'a str>,
}

impl Order<'_> {
    /// Adds a module behind all that it needs.
    fn add(&mut self, module: &str) -> Result<(), ModuleError> {
        if self.directory.builtin.contains(module) || !self.seen.insert(module.to_owned()) {
            return Ok(());
        }
        if self.seen.len() > MAX_MODULES {
            return Err(ModuleError::TooMany {
                directory: self.directory.path.clone(),
                name: module.to_owned(),
            });
        }
        // An entry that leads out of the directory is one that nobody's depmod writes.
        let line = self.lines.get(module).copied();
        let line = line.filter(|(file, _)| {
            !file.starts_with('/') && !file.split('/').any(|part| part == "..")
        });
        let Some((file, needs)) = line else {
            return Err(ModuleError::Missing {
                directory: self.directory.path.clone(),
                name: module.to_owned(),
            });
        };
        for (_, soft) in SOFT.iter().filter(|(of, _)| *of == module) {
            if self.lines.contains_key(*soft) {
                self.add(soft)?;
            }
        }
        // The list has what is loaded first at its end.
        for need in needs.split_ascii_whitespace().rev() {
            self.add(&name(need))?;
        }
        self.files.push(file);
        Ok(())
    }
}

/// The name of a module, by its path or in another spelling.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split_once(".ko").map_or(file, |(stem, _)| stem);
    stem.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::samples::pack;
    use super::*;
    use crate::Compression;

    const DEP: &str = "kernel/fs/erofs/erofs.ko: kernel/lib/libcrc32c.ko
kernel/lib/libcrc32c.ko:
kernel/crypto/crc32c_generic.ko.gz:
kernel/drivers/nvdimm/libnvdimm.ko:
kernel/drivers/nvdimm/nd-btt.ko.xz: kernel/drivers/nvdimm/libnvdimm.ko
kernel/drivers/nvdimm/nd_pmem.ko.zst: kernel/drivers/nvdimm/nd-btt.ko.xz kernel/drivers/nvdimm/libnvdimm.ko
kernel/fs/a.ko: kernel/fs/b.ko
kernel/fs/b.ko: kernel/fs/a.ko kernel/fs/built.ko
kernel/fs/gone.ko:
kernel/fs/needy.ko: kernel/fs/nowhere.ko
/etc/absolute.ko:
kernel/../../up.ko:
";

    fn packed(path: &Path, text: &[u8]) -> Vec<u8> {
        let compression = match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => Compression::Gzip,
            Some("xz") => Compression::Xz,
            Some("zst") => Compression::Zstd,
            _ => return text.to_vec(),
        };
        let mut packed = pack(compression, text);
        if compression != Compression::Gzip {
            // The kernel's build adds a size.
            packed.truncate(packed.len() - 4);
        }
        packed
    }

    /// Modules below `place`, each of which holds its own name.
    fn make(place: &Path) {
        for line in DEP.lines().filter(|line| line.starts_with("kernel/")) {
            let (file, _) = line.split_once(':').unwrap();
            let path = place.join(file);
            if !file.contains("gone") && !file.contains("..") {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let text = format!("\x7fELF{}", name(file));
                fs::write(&path, packed(&path, text.as_bytes())).unwrap();
            }
        }
        fs::write(place.join("modules.dep"), DEP).unwrap();
        fs::write(
            place.join("modules.builtin"),
            "kernel/fs/built.ko\nkernel/x/also-built.ko\n",
        )
        .unwrap();
    }

    fn asked(kernel: &Path, release: Option<&str>) -> Option<PathBuf> {
        let directory = ModuleDirectory::of(kernel, Origin::Asked, release);
        directory.map(|directory| directory.path().to_owned())
    }

    #[test]
    fn modules_come_behind_what_they_need_each_once_and_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        make(&dir.path().join("modules/1.2"));
        let kernel = dir.path().join("vmlinuz-1.2");
        let directory = ModuleDirectory::of(&kernel, Origin::Asked, None).unwrap();
        let order = |names: &[&str]| directory.modules(names);
        let modules = order(&["nd-pmem", "erofs", "also_built", "erofs"]).unwrap();
        let names: Vec<String> = modules.names().collect();
        let expected = [
            "libnvdimm",
            "nd_btt",
            "nd_pmem",
            "crc32c_generic",
            "libcrc32c",
            "erofs",
        ];
        assert_eq!(names, expected);
        let bytes = expected.map(|name| format!("\x7fELF{name}").into_bytes());
        assert_eq!(modules.read().unwrap(), bytes);
        // A circle, which depmod does not write.
        let names: Vec<String> = order(&["a"]).unwrap().names().collect();
        assert_eq!(names, ["b", "a"]);
        assert!(order(&["built", "also-built"]).unwrap().is_empty());
        let chain: String = (0..100_000)
            .map(|n| format!("{n}.ko: {}.ko\n", n + 1))
            .collect();
        fs::write(dir.path().join("modules/1.2/modules.dep"), chain).unwrap();
        let long = ModuleDirectory::of(&kernel, Origin::Asked, None).unwrap();
        let error = long.modules(&["0"]).unwrap_err().to_string();
        assert!(error.ends_with("needs more than 64 others"), "{error}");
        for (wanted, missing) in [
            ("nothing", "modules/1.2: has no module nothing"),
            ("needy", "modules/1.2: has no module nowhere"),
            ("absolute", "modules/1.2: has no module absolute"),
            ("up", "modules/1.2: has no module up"),
            ("gone", "modules/1.2/kernel/fs/gone.ko: no such file"),
        ] {
            let error = order(&[wanted]).unwrap_err().to_string();
            assert!(error.ends_with(missing), "{error}");
        }
    }

    #[test]
    fn a_kernels_modules_are_near_it_under_its_release() {
        let dir = tempfile::tempdir().unwrap();
        let boot = dir.path().join("boot");
        fs::create_dir(&boot).unwrap();
        for (place, kernel, release) in [
            ("boot/modules/1", "boot/vmlinuz-1", None),
            ("boot/lib/modules/2", "boot/linux", Some("2")),
            ("modules/3", "boot/config-3", None),
            ("lib/modules/4", "boot/vmlinuz-other", Some("4")),
            ("lib/modules/5", "lib/modules/5/vmlinuz", Some("5")),
        ] {
            let kernel = dir.path().join(kernel);
            assert_eq!(asked(&kernel, release), None);
            make(&dir.path().join(place));
            assert_eq!(asked(&kernel, release), Some(dir.path().join(place)));
            assert_eq!(
                asked(&kernel, Some("../x")).is_some(),
                kernel.ends_with("vmlinuz-1") || kernel.ends_with("config-3")
            );
        }
        assert_eq!(asked(&boot.join("vmlinuz"), None), None);
    }

    #[test]
    fn an_images_modules_are_its_own_and_no_link_leads_out_of_it() {
        let image = tempfile::tempdir().unwrap();
        let host = tempfile::tempdir().unwrap();
        let kernel = image.path().join("boot/vmlinuz-1");
        make(&host.path().join("modules/1"));
        let of = || ModuleDirectory::of(&kernel, Origin::Image, None);
        symlink(host.path(), image.path().join("lib")).unwrap();
        assert!(of().is_none());
        make(&image.path().join("usr/lib/modules/1"));
        let directory = of().unwrap();
        assert!(directory.modules(&["erofs"]).is_ok());
        let file = image.path().join("usr/lib/modules/1/kernel/fs/gone.ko");
        symlink(host.path().join("modules/1/kernel/fs/a.ko"), file).unwrap();
        assert!(directory.modules(&["gone"]).is_err());
    }

    #[test]
    fn a_module_that_is_damaged_or_too_large_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("modules/1");
        make(&place);
        let directory = ModuleDirectory::of(&dir.path().join("vmlinuz-1"), Origin::Asked, None);
        let directory = directory.unwrap();
        let path = place.join("kernel/crypto/crc32c_generic.ko.gz");
        let bomb = vec![0x7f; MAX_BYTES as usize + 1];
        for bytes in [
            packed(&path, &bomb),
            packed(&path, b"text"),
            packed(&path, b"\x7fELFmodule")[..20].to_vec(),
            pack(Compression::Bzip2, b"\x7fELF"),
            Vec::new(),
        ] {
            fs::write(&path, bytes).unwrap();
            let modules = directory.modules(&["crc32c_generic"]).unwrap();
            let error = modules.read().unwrap_err().to_string();
            assert!(error.contains("crc32c_generic.ko.gz: "), "{error}");
        }
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        directory
            .modules(&["crc32c_generic"])
            .unwrap()
            .read()
            .unwrap_err();
    }
}
