//! A directory of files that can be made again, each known by a digest and by the state of the files it was made from.
//!
//! An entry, `KEY` and the cache's suffix, is an [`AtomicFile`] until it is complete: concurrent runs, a kill and a full
//! disk leave at worst nothing. There is no fsync, so after a power failure an entry may be short; its reader checks the
//! length. A symbolic link, `at-STATE`, leads to an entry from the state of what it was made of, so that this need not be
//! read again. The cache makes it when it is told to: that the files have been left alone for a while
//! ([`FileStamp::is_settled`](crate::FileStamp::is_settled)) is the caller's to check.

use std::fs::{self, DirBuilder, DirEntry, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;
use rustix::process::geteuid;

use crate::atomic::{self, AtomicFile, TEMPORARY, fits_limit, remove_if_there};
use crate::units::ByteSize;

const LINK: &str = "at-";
/// A writer needs minutes at most; an older temporary file was left by one that was killed.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// A directory of entries.
#[derive(Debug, Clone)]
pub struct ContentCache {
    directory: PathBuf,
    suffix: &'static str,
}

/// The bounds that pruning restores.
#[derive(Debug, Clone, Copy)]
pub struct CacheLimits {
    /// Number of entries.
    pub entries: usize,
    /// Bytes in all entries together.
    pub bytes: u64,
    /// Number of links; one file in many places makes many.
    pub links: usize,
}

impl CacheLimits {
    /// No bounds.
    pub const NONE: Self = Self {
        entries: usize::MAX,
        bytes: u64::MAX,
        links: usize::MAX,
    };
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name of its file.
    pub name: String,
    /// The length of its file.
    pub size: ByteSize,
    /// The time of its last use.
    pub used: SystemTime,
}

/// The outcome of pruning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Number of entries removed.
    pub entries: usize,
    /// Bytes in them.
    pub bytes: ByteSize,
}

impl ContentCache {
    /// Returns the cache in `directory`, which need not exist yet; entries' names end with `suffix`.
    pub fn new(directory: PathBuf, suffix: &'static str) -> Self {
        Self { directory, suffix }
    }

    /// Returns the directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the name of the entry for `key`, 64 hexadecimal digits.
    pub(crate) fn name(&self, key: &str) -> String {
        format!("{key}{}", self.suffix)
    }

    /// Opens the entry for `key`; `None` also if users other than this one and root could have written it.
    pub fn open(&self, key: &str) -> Option<File> {
        self.open_name(&self.name(key))
    }

    /// Opens a listed entry, on the same conditions.
    pub fn open_entry(&self, entry: &Entry) -> Option<File> {
        self.open_name(&entry.name)
    }

    /// Opens the entry that was made from this state, on the same conditions.
    pub fn open_by_state(&self, state: &str) -> Option<File> {
        self.open_name(&format!("{LINK}{state}"))
    }

    fn open_name(&self, name: &str) -> Option<File> {
        // A FIFO must not make us wait.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
        let mut options = File::options();
        let file = options.read(true).custom_flags(flags);
        let file = file.open(self.directory.join(name)).ok()?;
        let meta = file.metadata().ok()?;
        let ours = meta.uid() == geteuid().as_raw() || meta.uid() == 0;
        (meta.is_file() && ours && meta.mode() & 0o022 == 0).then_some(file)
    }

    /// Makes the entry for `key`, or replaces it, with what `write` writes to an empty file: at most `size` bytes.
    ///
    /// # Errors
    /// Those of `write` and of the file system; nothing is left behind then.
    pub fn insert<T, E: From<io::Error>>(
        &self,
        key: &str,
        size: u64,
        mode: u32,
        write: impl FnOnce(&File) -> Result<T, E>,
    ) -> Result<T, E> {
        fits_limit(size)?;
        self.make_directory()?;
        let entry = AtomicFile::beside(&self.directory.join(self.name(key)))?;
        entry.file().set_permissions(Permissions::from_mode(mode))?;
        let written = write(entry.file())?;
        entry.put_in_place()?;
        Ok(written)
    }

    /// Returns an empty file in the directory that no name leads to, and that is gone when it is closed.
    ///
    /// # Errors
    /// The directory cannot be made or written to.
    pub fn unnamed(&self) -> io::Result<File> {
        self.make_directory()?;
        atomic::unnamed(&self.directory)
    }

    fn make_directory(&self) -> io::Result<()> {
        let mut directories = DirBuilder::new();
        directories.recursive(true).mode(0o700);
        directories.create(&self.directory)
    }

    /// Lets [`ContentCache::open_by_state`] find the entry for `key`, and no other that it led to before.
    ///
    /// # Errors
    /// Those of symlink(2); the entry is then found by its key only.
    pub fn link(&self, state: &str, key: &str) -> io::Result<()> {
        let link = self.directory.join(format!("{LINK}{state}"));
        let _ = fs::remove_file(&link);
        symlink(self.name(key), link)
    }

    /// Returns all entries, the one used last first; none where there is no directory yet.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn list(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for file in self.files()? {
            let name = file.file_name().into_string().unwrap_or_default();
            // Another run may have removed it by now.
            if let Ok(meta) = file.metadata()
                && self.is_entry(&name)
                && meta.is_file()
            {
                entries.push(Entry {
                    name,
                    size: ByteSize(meta.len()),
                    used: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                });
            }
        }
        entries.sort_by(|a, b| (b.used, &a.name).cmp(&(a.used, &b.name)));
        Ok(entries)
    }

    /// Removes the entries that have not been used for longest until the limits are met (that of `spared`, a key, counts
    /// and stays in any case), links that lead nowhere, the oldest links, and what a killed run left.
    ///
    /// # Errors
    /// Those of reading the directory and of removing an entry.
    pub fn prune(&self, limits: CacheLimits, spared: Option<&str>) -> io::Result<Pruned> {
        let mut pruned = Pruned::default();
        let spared = spared.map(|key| self.name(key));
        let mut entries = self.list()?;
        entries.sort_by_key(|entry| Some(&entry.name) != spared.as_ref());
        let (mut count, mut bytes) = (0, 0_u64);
        for entry in entries {
            let sum = bytes.saturating_add(entry.size.0);
            if Some(&entry.name) == spared.as_ref() || count < limits.entries && sum <= limits.bytes
            {
                (count, bytes) = (count + 1, sum);
            } else {
                remove_if_there(&self.directory.join(&entry.name))?;
                pruned.entries += 1;
                pruned.bytes.0 += entry.size.0;
            }
        }
        let mut links = Vec::new();
        for file in self.files()? {
            let name = file.file_name().into_string().unwrap_or_default();
            let (path, meta) = (file.path(), file.metadata());
            // Another run may have removed it by now.
            let Ok(modified) = meta.and_then(|meta| meta.modified()) else {
                continue;
            };
            if name.starts_with(LINK) && path.is_symlink() {
                match path.exists() {
                    true => links.push((modified, path)),
                    false => remove_if_there(&path)?,
                }
            } else if name.starts_with(TEMPORARY) && modified.elapsed().is_ok_and(|age| age > STALE)
            {
                remove_if_there(&path)?;
            }
        }
        links.sort();
        for (_, path) in &links[..links.len().saturating_sub(limits.links)] {
            remove_if_there(path)?;
        }
        Ok(pruned)
    }

    fn files(&self) -> io::Result<Vec<DirEntry>> {
        match fs::read_dir(&self.directory) {
            Ok(files) => files.collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// True for a name that an entry can have; nothing else counts as one, or is removed as one.
    fn is_entry(&self, name: &str) -> bool {
        name.strip_suffix(self.suffix)
            .is_some_and(|key| key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    struct Place {
        _dir: tempfile::TempDir,
        cache: ContentCache,
    }

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let cache = ContentCache::new(dir.path().join("cache"), ".x");
        Place { _dir: dir, cache }
    }

    impl Place {
        fn insert(&self, key: &str) {
            let write = |mut file: &File| file.write_all(b"whole");
            self.cache.insert(key, 5, 0o600, write).unwrap();
        }

        fn names(&self) -> Vec<String> {
            let list = fs::read_dir(self.cache.directory()).unwrap();
            let names = list.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.collect();
            names.sort();
            names
        }
    }

    #[test]
    fn what_a_killed_writer_left_is_not_in_the_way_and_goes_after_a_day() {
        let place = place();
        let key = "a".repeat(64);
        place.insert(&key);
        let fresh = format!("{TEMPORARY}{}-0", std::process::id());
        let old = format!("{TEMPORARY}1-0");
        for name in [&fresh, &old] {
            fs::write(place.cache.directory().join(name), "half").unwrap();
        }
        let before = SystemTime::now() - STALE - Duration::from_secs(1);
        let path = place.cache.directory().join(&old);
        let old = File::options().write(true).open(path).unwrap();
        old.set_modified(before).unwrap();
        place.insert(&key);
        place.cache.prune(CacheLimits::NONE, None).unwrap();
        assert_eq!(place.names(), [fresh, place.cache.name(&key)]);
    }

    #[test]
    fn links_are_kept_to_a_number_and_those_that_lead_nowhere_go() {
        let place = place();
        let key = "a".repeat(64);
        place.insert(&key);
        for state in ["1", "2", "3"] {
            place.cache.link(state, &key).unwrap();
            place
                .cache
                .link(&format!("gone{state}"), &"b".repeat(64))
                .unwrap();
            // Longer than the coarsest clock of a local file system ticks.
            std::thread::sleep(Duration::from_millis(30));
        }
        let limits = CacheLimits {
            links: 2,
            ..CacheLimits::NONE
        };
        place.cache.prune(limits, None).unwrap();
        assert_eq!(
            place.names(),
            [place.cache.name(&key), "at-2".into(), "at-3".into()]
        );
    }

    #[test]
    fn a_link_leads_to_what_it_was_last_made_for() {
        let place = place();
        let keys = ["a".repeat(64), "b".repeat(64)];
        place.insert(&keys[1]);
        for key in &keys {
            assert!(place.cache.open_by_state("1").is_none());
            place.cache.link("1", key).unwrap();
        }
        assert!(place.cache.open_by_state("1").is_some());
    }

    #[test]
    fn a_fifo_in_an_entrys_place_does_not_hang() {
        let place = place();
        let key = "a".repeat(64);
        fs::create_dir(place.cache.directory()).unwrap();
        let path = place.cache.directory().join(place.cache.name(&key));
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();
        assert!(place.cache.open(&key).is_none());
    }
}
