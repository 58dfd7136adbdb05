//! Unpacked kernels, kept by the sha256 of the bzImage that they came from: `CACHE/vmlinux/HASH`.
//!
//! Reading and hashing Debian's 14 MB costs 19 ms (12 of them the hash, and that with the CPU's SHA instructions), more
//! than everything else that is done with a kernel. So a bzImage that was hashed is remembered by its stamp (device,
//! inode, size, times): a symbolic link `CACHE/vmlinux/at-STAMP` leads to the entry. It is trusted only when all of the
//! stamp is the same, and made only when the file has been left alone for a while, so that a change must show in it.
//!
//! Takes and gives bytes and open files; does not unpack and does not look into a kernel. A cache that cannot be used
//! is never an error: the bytes then go into a memfd, and the caller is told why.
//!
//! An entry is a [`AtomicFile`] until it is complete, so that a second writer never meets half of one and a kill leaves nothing
//! behind. There is no fsync: after a power failure an
//! entry may be short, and one whose size is not the size that the bzImage promises is not used and is written anew.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::process::geteuid;
use sha2::{Digest, Sha256};

use super::file::{self, Links, Stamp};
use rdvm_hostfs::atomic::{AtomicFile, TEMPORARY, fits_limit};

/// Unpacked kernels are some 50 MB each; who compares more than eight at a time can wait 60 ms for the ninth.
const ENTRIES: usize = 8;
/// The same file in many places (a kernel in copies of an image) makes many.
const LINKS: usize = 64;
const LINK: &str = "at-";
/// A writer needs well under a second; what is older was left by one that was killed.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// The key of a bzImage: the sha256 of its bytes in hexadecimal.
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

/// The same for a bzImage that has not been read, by its stamp.
pub(super) fn find_by_stamp(cache: &Path, stamp: &Stamp, bytes: u64) -> Option<File> {
    find(cache, &link_name(stamp), bytes)
}

/// Makes `find_by_stamp` find the entry for `key`. When that fails, the next run hashes again.
pub(super) fn remember(cache: &Path, key: &str, stamp: &Stamp) {
    let directory = directory(cache);
    if stamp.is_settled() && symlink(key, directory.join(link_name(stamp))).is_ok() {
        prune(&directory, key);
    }
}

/// Makes an entry, throws out what is too old or too many, and gives the entry open for reading.
///
/// # Errors
/// Whatever keeps it from being written completely (no space, no permission, a limit); nothing is left behind then.
pub(super) fn insert(cache: &Path, key: &str, bytes: &[u8]) -> io::Result<File> {
    fits_limit(bytes.len() as u64)?;
    let directory = directory(cache);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)?;
    let path = directory.join(key);
    let draft = AtomicFile::beside(&path)?;
    draft
        .file()
        .set_permissions(Permissions::from_mode(0o644))?;
    draft.file().write_all(bytes)?;
    draft.put_in_place()?;
    prune(&directory, key);
    // Some file systems run out of space late.
    let whole = find(cache, key, bytes.len() as u64);
    whole.ok_or_else(|| io::Error::other("the file is not as long as was written"))
}

/// The bytes as a file without a name, sealed against any change.
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

fn directory(cache: &Path) -> PathBuf {
    cache.join("vmlinux")
}

/// Keeps the newest entries and links, and `key`. What cannot be removed stays: the next call tries again.
fn prune(directory: &Path, key: &str) {
    let Ok(list) = fs::read_dir(directory) else {
        return;
    };
    let now = SystemTime::now();
    let (mut entries, mut links) = (Vec::new(), Vec::new());
    for entry in list.flatten() {
        let Ok(modified) = entry.metadata().and_then(|meta| meta.modified()) else {
            continue;
        };
        let (name, path) = (entry.file_name(), entry.path());
        if starts_with(&name, LINK) {
            // One that leads nowhere is the oldest.
            let target = path.exists();
            links.push((target, modified, path));
        } else if starts_with(&name, TEMPORARY) {
            if now.duration_since(modified).unwrap_or_default() > STALE {
                let _ = fs::remove_file(path);
            }
        } else if is_key(&name) && name != key {
            entries.push((true, modified, path));
        }
    }
    remove_oldest(entries, ENTRIES - 1);
    remove_oldest(links, LINKS);
}

fn remove_oldest(mut files: Vec<(bool, SystemTime, PathBuf)>, keep: usize) {
    files.sort();
    let surplus = files.len().saturating_sub(keep);
    for (_, _, path) in files.iter().take(surplus) {
        let _ = fs::remove_file(path);
    }
}

fn link_name(stamp: &Stamp) -> String {
    format!("{LINK}{}", stamp.name())
}

fn starts_with(name: &OsStr, prefix: &str) -> bool {
    name.as_encoded_bytes().starts_with(prefix.as_bytes())
}

/// Only what looks like one of ours is ever removed.
fn is_key(name: &OsStr) -> bool {
    let bytes = name.as_encoded_bytes();
    bytes.len() == 64 && bytes.iter().all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    fn content(mut file: File) -> Vec<u8> {
        let mut bytes = Vec::new();
        assert_eq!(file.stream_position().unwrap(), 0);
        file.read_to_end(&mut bytes).unwrap();
        bytes
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
    fn what_a_killed_writer_left_is_not_in_the_way_and_goes_after_a_day() {
        let cache = tempfile::tempdir().unwrap();
        let key = key(b"");
        insert(cache.path(), &key, b"").unwrap();
        let fresh = format!("{TEMPORARY}{}-0", std::process::id());
        let old = format!("{TEMPORARY}1-0");
        for name in [&fresh, &old] {
            fs::write(directory(cache.path()).join(name), "half").unwrap();
        }
        let before = SystemTime::now() - STALE - Duration::from_secs(1);
        let old = File::options()
            .write(true)
            .open(directory(cache.path()).join(&old))
            .unwrap();
        old.set_modified(before).unwrap();
        insert(cache.path(), &key, b"whole").unwrap();
        assert_eq!(names(cache.path()), [fresh, key]);
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
        let file = File::open("/proc/self/exe").unwrap();
        let stamp = Stamp::of(&file).unwrap();
        let key = key(b"");
        insert(cache.path(), &key, b"unpacked").unwrap();
        let young = Stamp::of(&tempfile::tempfile().unwrap()).unwrap();
        remember(cache.path(), &key, &young);
        assert!(find_by_stamp(cache.path(), &young, 8).is_none());
        let old = stamp.long_ago();
        remember(cache.path(), &key, &old);
        assert_eq!(
            content(find_by_stamp(cache.path(), &old, 8).unwrap()),
            b"unpacked"
        );
        assert!(find_by_stamp(cache.path(), &old, 9).is_none());
        assert!(find_by_stamp(cache.path(), &young, 8).is_none());
    }

    #[test]
    fn links_are_kept_to_a_number_and_those_that_lead_nowhere_go_first() {
        let cache = tempfile::tempdir().unwrap();
        let key = key(b"");
        insert(cache.path(), &key, b"x").unwrap();
        let at = |name: &str| directory(cache.path()).join(format!("{LINK}{name}"));
        symlink(&key, at("first")).unwrap();
        for number in 0..LINKS {
            symlink("gone", at(&number.to_string())).unwrap();
        }
        insert(cache.path(), &key, b"x").unwrap();
        assert_eq!(names(cache.path()).len(), LINKS + 1);
        assert!(at("first").exists());
    }
}
