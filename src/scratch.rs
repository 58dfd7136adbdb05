//! Scratch space: a file of the host's that the guest's kernel swaps to, so that files and programs may be larger than its RAM.
//!
//! The file has no name, so that nothing is left of it however a run ends, and holes where nothing was written. The guest has it
//! as a region of memory, and PID 1 says to its kernel that it is swap space.

use std::env;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::fs::{fstatfs, fstatvfs};

use crate::error::Error;
use rdvm_hostfs::atomic;
use rdvm_hostfs::escape::shown;
use rdvm_hostfs::units::{ByteSize, PAGE};
use rdvm_vmm::machine::{REGION_ALIGN, Scratch};

/// The least that is of use: some of it is never files' (`Room` in crates/proto).
pub(crate) const LEAST: ByteSize = ByteSize::mib(16);
/// The most, by which a guest that counts 40 bits of addresses has some left.
pub(crate) const MOST: ByteSize = ByteSize(512 << 30);

/// The directory where TMPDIR names none: by the Filesystem Hierarchy Standard it is for large files, and on a disk, as /tmp need not
/// be.
const DIRECTORY: &str = "/var/tmp";

/// File systems whose files are memory (`include/uapi/linux/magic.h`).
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Scratch space to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScratchPlan {
    /// Its size, a multiple of what a region's must be.
    pub size: ByteSize,
    /// The directory in whose file system it is.
    pub directory: PathBuf,
}

impl ScratchPlan {
    /// Plans scratch space of this size.
    pub(crate) fn new(size: ByteSize) -> Self {
        let directory = env::var_os("TMPDIR").filter(|value| !value.is_empty());
        Self {
            size: ByteSize(size.0.next_multiple_of(REGION_ALIGN)),
            directory: directory.map_or_else(|| DIRECTORY.into(), PathBuf::from),
        }
    }

    /// Makes it. What the user should know of its place is added to `warnings`, a line each.
    ///
    /// # Errors
    /// The directory cannot be written to; its file system has no files of that size.
    pub(crate) fn make(&self, warnings: &mut Vec<String>) -> Result<Scratch, Error> {
        self.try_make(warnings).map_err(|source| Error::Scratch {
            directory: shown(&self.directory),
            source,
        })
    }

    fn try_make(&self, warnings: &mut Vec<String>) -> io::Result<Scratch> {
        let file = atomic::unnamed(&self.directory)?;
        warnings.extend(self.warning(&file)?);
        file.write_all_at(&header(self.size), 0)?;
        Scratch::new(file, self.size.0)
    }

    /// Returns the reason why the place of the file may not be what the user wants.
    fn warning(&self, file: &File) -> io::Result<Option<String>> {
        let place = shown(&self.directory);
        let kind = fstatfs(file)?.f_type as u64;
        if IN_MEMORY.contains(&kind) {
            return Ok(Some(format!(
                "--scratch: the files of {place} are in this host's memory; set TMPDIR to a directory on a disk"
            )));
        }
        let about = fstatvfs(file)?;
        let free = ByteSize(about.f_bavail.saturating_mul(about.f_frsize));
        Ok((free < self.size).then(|| {
            format!(
                "--scratch: the file system of {place} has room for {free} of {}; the machine is stopped where it needs more",
                self.size
            )
        }))
    }
}

impl std::fmt::Display for ScratchPlan {
    /// Size and directory on one line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let place = shown(&self.directory);
        write!(f, "scratch space {} in a file in {place}", self.size)
    }
}

/// Returns the first page of swap space of this size, as mkswap(8) writes it (`union swap_header` in include/linux/swap.h).
fn header(size: ByteSize) -> [u8; PAGE as usize] {
    const VERSION: u32 = 1;
    const SIGNATURE: &[u8] = b"SWAPSPACE2";
    let last_page = (size.0 / PAGE - 1) as u32;
    let mut page = [0; PAGE as usize];
    page[1024..1028].copy_from_slice(&VERSION.to_le_bytes());
    page[1028..1032].copy_from_slice(&last_page.to_le_bytes());
    page[PAGE as usize - SIGNATURE.len()..].copy_from_slice(SIGNATURE);
    page
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_header_is_what_mkswap_writes() {
        let size = ByteSize::mib(40);
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size.0).unwrap();
        let mkswap = std::process::Command::new("/sbin/mkswap")
            .arg("--uuid=00000000-0000-0000-0000-000000000000")
            .arg(file.path())
            .output();
        // It is a part of util-linux, which every Debian has; what it writes has not changed since Linux 2.1.
        let Ok(output) = mkswap else {
            return;
        };
        assert!(output.status.success(), "{output:?}");
        let mut page = [0; PAGE as usize];
        file.as_file().read_exact_at(&mut page, 0).unwrap();
        assert!(page == header(size));
    }

    #[test]
    fn the_file_has_holes_and_no_name_and_memory_is_warned_of() {
        let dir = tempfile::tempdir().unwrap();
        let plan = |directory: &Path| ScratchPlan {
            size: ByteSize::mib(64),
            directory: directory.to_owned(),
        };
        let mut warnings = Vec::new();
        let _scratch = plan(dir.path()).make(&mut warnings).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let mut warnings = Vec::new();
        plan(Path::new("/dev/shm")).make(&mut warnings).unwrap();
        let [line] = &warnings[..] else {
            panic!("{warnings:?}")
        };
        assert!(
            line.starts_with("--scratch: the files of /dev/shm are in"),
            "{line}"
        );
        let huge = ScratchPlan {
            size: ByteSize(MOST.0 / 2),
            ..plan(dir.path())
        };
        let mut warnings = Vec::new();
        if huge.make(&mut warnings).is_ok() {
            assert!(warnings[0].contains(" has room for "), "{warnings:?}");
        }
        let error = plan(&dir.path().join("none")).make(&mut warnings);
        let error = error.unwrap_err().to_string();
        assert!(
            error.ends_with("none: No such file or directory; set TMPDIR to a directory on a disk"),
            "{error}"
        );
    }
}
