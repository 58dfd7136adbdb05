//! Unpacked kernels, kept by the sha256 of the bzImage that they came from: `CACHE/vmlinux/HASH`.
//!
//! Takes and gives bytes and open files; does not unpack and does not look into a kernel. A cache that cannot be used
//! is never an error: the bytes then go into a memfd, and the caller is told why.
//!
//! An entry gets its name by a rename when it is complete, so that neither a kill nor a second writer can leave half of
//! one behind. There is no fsync: after a power failure an entry may be short, and one whose size is not the size that
//! the bzImage promises is not used and is written anew.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::process::{Resource, geteuid, getrlimit};
use sha2::{Digest, Sha256};

use super::file::{self, Links};

/// Unpacked kernels are some 50 MB each; who compares more than eight at a time can wait 60 ms for the ninth.
const ENTRIES: usize = 8;
const TEMPORARY: &str = ".new-";
/// A writer needs well under a second; what is older was left by one that was killed.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// The key of a bzImage: the sha256 of its bytes in hexadecimal.
///
/// 12 ms for Debian's 14 MB with the CPU's SHA instructions, about as much as reading them once more. An index by inode
/// and times would save that, but a wrong hit would boot the wrong kernel.
pub(super) fn key(bzimage: &[u8]) -> String {
    let hash = Sha256::digest(bzimage);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The entry for `key`, open for reading, if it has exactly `bytes` bytes and nobody else could have written it.
pub(super) fn find(cache: &Path, key: &str, bytes: u64) -> Option<File> {
    let file = file::open(&directory(cache).join(key), Links::Follow).ok()?;
    let meta = file.metadata().ok()?;
    let ours = meta.uid() == geteuid().as_raw() || meta.uid() == 0;
    let closed = meta.mode() & 0o022 == 0;
    (meta.len() == bytes && ours && closed).then_some(file)
}

/// Makes an entry, throws out what is too old or too many, and gives the entry open for reading.
///
/// # Errors
/// Whatever keeps it from being written completely (no space, no permission, a limit); nothing is left behind then.
pub(super) fn insert(cache: &Path, key: &str, bytes: &[u8]) -> io::Result<File> {
    fits_limit(bytes)?;
    let directory = directory(cache);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)?;
    let (temporary, file) = create_new(&directory, key)?;
    let written = fill(&temporary, file, bytes).and_then(|file| {
        fs::rename(&temporary, directory.join(key))?;
        Ok(file)
    });
    if written.is_err() {
        // What cannot be removed now is stale tomorrow.
        let _ = fs::remove_file(&temporary);
    }
    prune(&directory, key);
    written
}

/// The bytes as a file without a name, sealed against any change.
///
/// # Errors
/// Those of making and writing it, a lack of memory for example.
pub(super) fn without_name(bytes: &[u8]) -> io::Result<File> {
    fits_limit(bytes)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(memfd_create("vmlinux", flags)?);
    // By offset, so that its position stays 0.
    std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0)?;
    fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(file)
}

fn directory(cache: &Path) -> PathBuf {
    cache.join("vmlinux")
}

/// A write beyond `ulimit -f` is not only an error but a deadly signal, so it is not tried.
fn fits_limit(bytes: &[u8]) -> io::Result<()> {
    match getrlimit(Resource::Fsize).current {
        Some(limit) if limit < bytes.len() as u64 => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!(
                "the file size limit (ulimit -f) is {limit} bytes, {} are needed",
                bytes.len()
            ),
        )),
        _ => Ok(()),
    }
}

/// A new file under a name that no other writer has.
fn create_new(directory: &Path, key: &str) -> io::Result<(PathBuf, File)> {
    let process = std::process::id();
    let mut attempt = 0;
    loop {
        let path = directory.join(format!("{TEMPORARY}{key}-{process}-{attempt}"));
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true);
        match std::os::unix::fs::OpenOptionsExt::mode(options, 0o644).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => {
                attempt += 1;
            }
            other => return other.map(|file| (path, file)),
        }
    }
}

/// Writes all of it and opens it again, this time for reading only.
fn fill(path: &Path, mut file: File, bytes: &[u8]) -> io::Result<File> {
    file.write_all(bytes)?;
    let reader = File::open(path)?;
    if reader.metadata()?.len() != bytes.len() as u64 {
        return Err(io::Error::other("the file is not as long as was written"));
    }
    Ok(reader)
}

/// Keeps the newest entries and `key`. What cannot be removed stays: the next insertion tries again.
fn prune(directory: &Path, key: &str) {
    let Ok(list) = fs::read_dir(directory) else {
        return;
    };
    let now = SystemTime::now();
    let mut entries = Vec::new();
    for entry in list.flatten() {
        let Ok(modified) = entry.metadata().and_then(|meta| meta.modified()) else {
            continue;
        };
        let name = entry.file_name();
        if is_temporary(&name) {
            let age = now.duration_since(modified).unwrap_or_default();
            if age > STALE {
                let _ = fs::remove_file(entry.path());
            }
        } else if is_key(&name) && name != key {
            entries.push((modified, entry.path()));
        }
    }
    entries.sort();
    let surplus = (entries.len() + 1).saturating_sub(ENTRIES);
    for (_, path) in entries.iter().take(surplus) {
        let _ = fs::remove_file(path);
    }
}

fn is_temporary(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes())
}

/// Only what looks like one of ours is ever removed.
fn is_key(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    bytes.len() == 64 && bytes.iter().all(u8::is_ascii_hexdigit)
}
