//! Unpacked kernels, kept by the sha256 of the bzImage that they came from: `CACHE/vmlinux/HASH`.
//!
//! Reading and hashing Debian's 14 MB costs 19 ms (12 of them the hash, and that with the CPU's SHA instructions), more
//! than everything else that is done with a kernel. So a bzImage that was hashed is also remembered by its stamp. That is
//! trusted only if all of it is the same, and remembered only once it is settled, so that a change must show in it.
//!
//! Takes and returns bytes and open files; does not unpack and does not look into a kernel. A cache that cannot be used
//! is never an error: the bytes then go into a memfd, and the caller learns why.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rdvm_hostfs::atomic::fits_limit;
use rdvm_hostfs::cache::{CacheLimits, ContentCache};
use rdvm_hostfs::{FileStamp, hex};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use sha2::{Digest, Sha256};

/// Unpacked kernels are some 50 MB each; comparing more than eight at a time costs 60 ms for the ninth.
const LIMITS: CacheLimits = CacheLimits {
    entries: 8,
    // The same file in many places (a kernel in copies of an image) makes many.
    links: 64,
    ..CacheLimits::NONE
};

/// Returns the key of a bzImage: the sha256 of its bytes in hexadecimal.
pub(super) fn key(bzimage: &[u8]) -> String {
    hex::encode(&Sha256::digest(bzimage))
}

/// Returns the entry for `key`, open for reading, if it has exactly `bytes` bytes and only this user or root could have
/// written it.
pub(super) fn find(cache: &Path, key: &str, bytes: u64) -> Option<File> {
    of_length(kernels(cache).open(key)?, bytes)
}

/// The same for a bzImage that has not been read, by its stamp.
pub(super) fn find_by_stamp(cache: &Path, stamp: &FileStamp, bytes: u64) -> Option<File> {
    of_length(kernels(cache).open_by_state(&stamp.to_string())?, bytes)
}

/// Makes `find_by_stamp` find the entry for `key`. If that fails, the next run hashes again.
pub(super) fn remember(cache: &Path, key: &str, stamp: &FileStamp) {
    let kernels = kernels(cache);
    if stamp.is_settled() && kernels.link(&stamp.to_string(), key).is_ok() {
        prune(&kernels, key);
    }
}

/// Makes an entry, removes those that are too old or too many, and returns the new one open for reading.
///
/// # Errors
/// Whatever keeps it from being written completely (no space, no permission, a limit); nothing is left behind then.
pub(super) fn insert(cache: &Path, key: &str, bytes: &[u8]) -> io::Result<File> {
    let kernels = kernels(cache);
    let length = bytes.len() as u64;
    kernels.insert(key, length, 0o644, |mut file| file.write_all(bytes))?;
    prune(&kernels, key);
    // Some file systems run out of space late.
    let whole = find(cache, key, length);
    whole.ok_or_else(|| io::Error::other("the file is not as long as was written"))
}

/// Returns the bytes as a file without a name, sealed against any change.
///
/// # Errors
/// Those of making and writing it, a lack of memory for example.
pub(super) fn without_name(bytes: &[u8]) -> io::Result<File> {
    fits_limit(bytes.len() as u64)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(memfd_create("vmlinux", flags)?);
    // By offset, so that its position stays 0.
    file.write_all_at(bytes, 0)?;
    fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(file)
}

fn kernels(cache: &Path) -> ContentCache {
    ContentCache::new(cache.join("vmlinux"), "")
}

fn of_length(file: File, bytes: u64) -> Option<File> {
    let length = file.metadata().ok()?.len();
    (length == bytes).then_some(file)
}

/// Keeps the newest entries and links, and `key`. What cannot be removed stays: the next call tries again.
fn prune(kernels: &ContentCache, key: &str) {
    let _ = kernels.prune(LIMITS, Some(key));
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Seek};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::time::{Duration, SystemTime};

    use super::*;

    fn content(mut file: File) -> Vec<u8> {
        let mut bytes = Vec::new();
        assert_eq!(file.stream_position().unwrap(), 0);
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn directory(cache: &Path) -> PathBuf {
        kernels(cache).directory().to_owned()
    }

    fn names(cache: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory(cache)).unwrap();
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
        let mut names: Vec<_> = entries.map(|entry| name(entry).unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_entry_is_found_again_under_the_hash_of_its_bzimage() {
        let cache = tempfile::tempdir().unwrap();
        let key = key(b"abc");
        assert!(key.starts_with("ba7816bf8f01cfea"), "{key}");
        assert!(find(cache.path(), &key, 8).is_none());
        assert_eq!(
            content(insert(cache.path(), &key, b"unpacked").unwrap()),
            b"unpacked"
        );
        assert_eq!(content(find(cache.path(), &key, 8).unwrap()), b"unpacked");
        assert_eq!(names(cache.path()), [key]);
    }

    #[test]
    fn an_entry_of_another_size_or_that_others_can_write_is_not_used_but_replaced() {
        let cache = tempfile::tempdir().unwrap();
        let key = key(b"");
        insert(cache.path(), &key, b"unpacked").unwrap();
        let path = directory(cache.path()).join(&key);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(7)
            .unwrap();
        assert!(find(cache.path(), &key, 8).is_none());
        insert(cache.path(), &key, b"unpacked").unwrap();
        assert!(find(cache.path(), &key, 8).is_some());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(find(cache.path(), &key, 8).is_none());
    }

    #[test]
    fn the_newest_eight_stay_and_files_of_others_are_not_touched() {
        let cache = tempfile::tempdir().unwrap();
        let keys: Vec<String> = (0..10_u8).map(|number| key(&[number])).collect();
        insert(cache.path(), &keys[0], b"x").unwrap();
        fs::write(directory(cache.path()).join("README"), "mine").unwrap();
        for (age, key) in keys.iter().enumerate() {
            insert(cache.path(), key, b"x").unwrap();
            // The clock of the file system may be too coarse to tell ten insertions apart.
            let entry = directory(cache.path()).join(key);
            let entry = File::options().write(true).open(entry).unwrap();
            let ago = Duration::from_secs(1000 - age as u64);
            entry.set_modified(SystemTime::now() - ago).unwrap();
        }
        let mut want: Vec<String> = keys[2..].to_vec();
        want.push("README".into());
        want.sort();
        assert_eq!(names(cache.path()), want);
    }

    #[test]
    fn many_writers_and_readers_at_once_never_see_half_an_entry() {
        let cache = tempfile::tempdir().unwrap();
        let key = key(b"");
        let bytes = vec![7; 1 << 20];
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        if let Some(file) = find(cache.path(), &key, bytes.len() as u64) {
                            assert!(content(file) == bytes);
                        }
                        assert!(content(insert(cache.path(), &key, &bytes).unwrap()) == bytes);
                    }
                });
            }
        });
        assert_eq!(names(cache.path()), [key.as_str()]);
    }

    #[test]
    fn a_cache_that_cannot_be_made_is_an_error_with_nothing_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join("file");
        fs::write(&blocked, "").unwrap();
        assert!(insert(&blocked, &key(b""), b"x").is_err());
        assert!(find(&blocked, &key(b""), 1).is_none());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_without_a_name_has_the_bytes_and_cannot_be_changed() {
        let file = without_name(b"unpacked").unwrap();
        assert!((&file).write_all(b"x").is_err());
        assert_eq!(content(file), b"unpacked");
    }

    #[test]
    fn a_bzimage_that_was_hashed_is_known_by_its_stamp_until_it_changes() {
        let cache = tempfile::tempdir().unwrap();
        // Left alone for long, unlike the other.
        let old = FileStamp::of(File::open("/usr/bin/env").unwrap()).unwrap();
        let key = key(b"");
        insert(cache.path(), &key, b"unpacked").unwrap();
        let young = FileStamp::of(tempfile::tempfile().unwrap()).unwrap();
        remember(cache.path(), &key, &young);
        assert!(find_by_stamp(cache.path(), &young, 8).is_none());
        remember(cache.path(), &key, &old);
        assert_eq!(
            content(find_by_stamp(cache.path(), &old, 8).unwrap()),
            b"unpacked"
        );
        assert!(find_by_stamp(cache.path(), &old, 9).is_none());
        assert!(find_by_stamp(cache.path(), &young, 8).is_none());
    }
}
