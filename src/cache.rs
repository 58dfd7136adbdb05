//! Packed images, kept from one run for the next: `CACHE/images/KEY.erofs`, with what else is known of the image behind the
//! file system, and the states of the directories that it was made from.
//!
//! An entry's key is the state of the files that it was made from, the numbers of the directories, and the options that it was
//! made with. A directory's state is long; it is in the entry, to be compared. An entry that is not as long as it says does
//! not count. Knows no images: takes and returns bytes.

#[cfg(test)]
mod tests;

use std::fs::{File, Metadata};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use rdvm_hostfs::cache::{CacheLimits, ContentCache};
use rdvm_hostfs::units::ByteSize;
use rdvm_hostfs::{FileStamp, hex};

pub use rdvm_hostfs::cache::{Entry, Pruned};

/// The last bytes of an entry, behind the lengths of facts and states; another form of entry would end otherwise.
const END: [u8; 8] = *b"rdvmimg3";
/// Facts are names, numbers and some account files.
const FACTS_LIMIT: u64 = 64 << 20;
/// States are about 60 bytes for each file in a directory.
const STATES_LIMIT: u64 = 1 << 30;

/// The bytes that are kept unless `cache prune` asks for fewer.
pub(crate) const DEFAULT_LIMIT: ByteSize = ByteSize(8 << 30);

/// The directory of packed images.
#[derive(Debug, Clone)]
pub struct Cache(ContentCache);

/// A packed image, open.
#[derive(Debug)]
pub struct Packed {
    /// The file; the file system is at its start.
    pub file: File,
    /// Length of the file system in bytes.
    pub size: u64,
    /// The facts kept with it.
    pub facts: Vec<u8>,
    /// Where the states of its directories begin, and their length.
    states: (u64, u64),
}

impl Packed {
    /// Returns what [`CacheInputs::states`] were.
    pub(crate) fn states(&self) -> Option<Vec<u8>> {
        let (at, length) = self.states;
        part(&self.file, at, length)
    }
}

/// The state of everything that an entry is made from.
#[derive(Debug, Clone)]
pub struct CacheInputs {
    hash: Sha256,
    is_settled: bool,
    directories: Vec<PathBuf>,
    /// The states of the directories, which the entry is to have; not a part of its key.
    pub(crate) states: Vec<u8>,
}

impl CacheInputs {
    /// Returns the state of no files; `options` is everything besides files that the archive depends on.
    pub(crate) fn new(options: &str) -> Self {
        let mut hash = Sha256::new_with_prefix(END);
        hash.update(options.as_bytes());
        hash.update([0]);
        Self {
            hash,
            is_settled: true,
            directories: Vec::new(),
            states: Vec::new(),
        }
    }

    /// Adds a directory and its role. Its state is to be compared with that of the entry.
    pub(crate) fn directory(&mut self, role: &str, path: &Path, meta: &Metadata) {
        let place = format!("{role}\0{:x}-{:x}\0", meta.dev(), meta.ino());
        self.hash.update(place.as_bytes());
        if !self.directories.iter().any(|known| known == path) {
            self.directories.push(path.to_owned());
        }
    }

    /// Returns the paths of the directories, each once.
    pub(crate) fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// Adds the state of a file and its role.
    ///
    /// # Errors
    /// It is not a regular file, so that its times say nothing of its contents.
    pub(crate) fn file(&mut self, role: &str, meta: &Metadata) -> io::Result<()> {
        if !meta.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let stamp = FileStamp::from(meta);
        self.hash.update(format!("{role}\0{stamp}\0").as_bytes());
        self.is_settled &= stamp.is_settled();
        Ok(())
    }

    /// True if a further change of any file, apart from those in directories, must show in its times. Without that an entry
    /// cannot be found again.
    pub(crate) fn is_settled(&self) -> bool {
        self.is_settled
    }

    fn key(&self) -> String {
        hex::encode(&self.hash.clone().finalize())
    }
}

impl PartialEq for CacheInputs {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Cache {
    /// Returns the one below `cache`, rdvm's directory for everything that can be made again.
    pub fn below(cache: &Path) -> Self {
        Self(ContentCache::new(cache.join("images"), ".erofs"))
    }

    /// Returns the image that was packed from these inputs, if it is still there and complete, and only this user or root
    /// could have written it. The states of directories are the caller's to compare.
    pub(crate) fn find(&self, inputs: &CacheInputs) -> Option<Packed> {
        used(self.0.open(&inputs.key())?)
    }

    /// Keeps a file system of `size` bytes, which `write` writes to an empty file before it returns the facts, and returns it
    /// open. Then removes what has not been used for longest until at most `limit` bytes are kept.
    ///
    /// # Errors
    /// Those of `write` and of the file system; nothing is left behind then.
    pub(crate) fn insert<E: From<io::Error>>(
        &self,
        inputs: &CacheInputs,
        size: u64,
        limit: ByteSize,
        write: impl FnOnce(&File) -> Result<Vec<u8>, E>,
    ) -> Result<Packed, E> {
        let key = inputs.key();
        let states = &inputs.states;
        // The end is small beside the facts.
        let most = size.saturating_add(FACTS_LIMIT + states.len() as u64);
        self.0
            .insert(&key, most, 0o600, |mut file| -> Result<(), E> {
                file.set_len(size)?;
                let facts = write(file)?;
                file.seek(io::SeekFrom::Start(size))?;
                file.write_all(&facts)?;
                file.write_all(states)?;
                let lengths =
                    [facts.len(), states.len()].map(|length| (length as u64).to_le_bytes());
                file.write_all(lengths.as_flattened())?;
                Ok(file.write_all(&END)?)
            })?;
        let file = self.0.open(&key);
        self.0.prune(limits(limit), Some(&key))?;
        let packed = file.and_then(read).filter(|packed| packed.size == size);
        Ok(packed.ok_or_else(|| io::Error::other("the file is not what was written"))?)
    }

    /// Returns an empty file in the directory of the entries that no name leads to; `None` where there can be none.
    pub fn unnamed(&self) -> Option<File> {
        self.0.unnamed().ok()
    }

    /// Returns the directory of the entries.
    pub fn directory(&self) -> &Path {
        self.0.directory()
    }

    /// Returns all entries, the one used last first; none where there is no directory yet.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<Entry>> {
        self.0.list()
    }

    /// Returns an entry's facts, if it is still there and complete; it does not count as used for that.
    pub fn facts(&self, entry: &Entry) -> Option<Vec<u8>> {
        Some(read(self.0.open_entry(entry)?)?.facts)
    }

    /// Removes what has not been used for longest until at most `limit` bytes are kept, links that lead nowhere, and what a
    /// killed run left.
    ///
    /// # Errors
    /// The directory cannot be read; an entry cannot be removed.
    pub fn prune(&self, limit: ByteSize) -> io::Result<Pruned> {
        self.0.prune(limits(limit), None)
    }
}

fn limits(limit: ByteSize) -> CacheLimits {
    CacheLimits {
        bytes: limit.0,
        ..CacheLimits::NONE
    }
}

/// Returns an entry's parts, and marks it as used: pruning begins with what is not.
fn used(file: File) -> Option<Packed> {
    let packed = read(file)?;
    // Where that is not allowed it only looks older.
    let _ = packed.file.set_modified(SystemTime::now());
    Some(packed)
}

/// Returns an entry's parts, if it is complete.
fn read(file: File) -> Option<Packed> {
    let mut end = [[0; 8]; 3];
    let end_at = file.metadata().ok()?.len().checked_sub(24)?;
    file.read_exact_at(end.as_flattened_mut(), end_at).ok()?;
    let [facts, states, magic] = end;
    let [facts, states] = [facts, states].map(u64::from_le_bytes);
    if magic != END || facts > FACTS_LIMIT || states > STATES_LIMIT {
        return None;
    }
    let size = end_at.checked_sub(facts + states)?;
    Some(Packed {
        facts: part(&file, size, facts)?,
        states: (size + facts, states),
        file,
        size,
    })
}

fn part(file: &File, at: u64, length: u64) -> Option<Vec<u8>> {
    let mut part = vec![0; length as usize];
    file.read_exact_at(&mut part, at).map(|()| part).ok()
}
