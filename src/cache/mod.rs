//! Packed images, kept from one run for the next: `CACHE/images/KEY.initrd`, with what else is known of the image behind
//! the archive.
//!
//! An entry's key is a digest of what is in it. `at-STAMP`, a symbolic link, leads there from the state of the files
//! that it was made of and the options that it was made with; it is made only when those files have been left alone for
//! a while, so that a change must show in their stamps. An entry gets its name when it is whole, and is read through an
//! open file, so that concurrent runs, a kill and a full disk leave at worst nothing. There is no fsync: an entry that is not
//! as long as it says it is does not count. Knows no images: takes and gives bytes.

mod prune;

#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, futimens};
use rustix::process::geteuid;
use sha2::{Digest as _, Sha256};

use rdvm_hostfs::Digest;
use rdvm_hostfs::atomic::{AtomicFile, fits_limit};
use rdvm_hostfs::units::ByteSize;

pub use prune::{Entry, Pruned};

/// The last bytes of an entry, behind the length of the facts; another form of entry would end otherwise.
const END: [u8; 8] = *b"rdvmimg1";
/// Facts are names, numbers and some account files.
const FACTS_LIMIT: u64 = 64 << 20;
const SUFFIX: &str = ".initrd";
const LINK: &str = "at-";

/// How much is kept when nobody says otherwise.
pub const DEFAULT_LIMIT: ByteSize = ByteSize(8 << 30);
/// A file that was changed so recently could be changed again without a difference in its times.
const SETTLED: Duration = Duration::from_secs(10);

/// The directory that packed images are kept in.
#[derive(Debug, Clone)]
pub struct Cache {
    directory: PathBuf,
}

/// A packed image, open.
#[derive(Debug)]
pub struct Packed {
    /// The file; the archive is at its start.
    pub file: File,
    /// Length of the archive in bytes.
    pub size: u64,
    /// What was kept with it.
    pub facts: Vec<u8>,
}

/// The state of what an entry is made of.
#[derive(Debug, Clone)]
pub struct CacheInputs {
    hash: Sha256,
    newest: SystemTime,
}

impl CacheInputs {
    /// One with nothing in it but `options`, everything besides files that the archive depends on.
    pub fn new(options: &str) -> Self {
        let mut hash = Sha256::new_with_prefix(END);
        hash.update(options.as_bytes());
        hash.update([0]);
        Self {
            hash,
            newest: SystemTime::UNIX_EPOCH,
        }
    }

    /// Adds the state of a file, and what it is there for: which it is, its length and its times.
    ///
    /// Errors: it is not a regular file, whose state its times do not tell.
    pub fn file(&mut self, role: &str, meta: &Metadata) -> io::Result<()> {
        self.hash.update(role.as_bytes());
        self.hash.update([0]);
        if !meta.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let numbers = [
            meta.dev() as i128,
            meta.ino() as i128,
            meta.len() as i128,
            i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
            i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec()),
        ];
        for number in numbers {
            self.hash.update(number.to_le_bytes());
        }
        let changed = u64::try_from(meta.ctime().max(meta.mtime())).unwrap_or(0);
        self.newest = self
            .newest
            .max(SystemTime::UNIX_EPOCH + Duration::from_secs(changed));
        Ok(())
    }

    /// Whether all files have been left alone for so long that a further change must show in their times. Without that an
    /// entry could not be found again.
    pub fn is_settled(&self) -> bool {
        let age = SystemTime::now().duration_since(self.newest);
        age.is_ok_and(|age| age > SETTLED)
    }

    fn link(&self) -> String {
        let hash: [u8; 32] = self.hash.clone().finalize().into();
        format!("{LINK}{}", hex(&Digest(hash)))
    }
}

impl Cache {
    /// The one below `cache`, rdvm's directory for everything that can be made again.
    pub fn below(cache: &Path) -> Self {
        Self {
            directory: cache.join("images"),
        }
    }

    /// What was made by this recipe, if it is still there and whole, and nobody else could have written it.
    pub fn find(&self, inputs: &CacheInputs) -> Option<Packed> {
        self.open(&inputs.link())
    }

    /// What was kept under this key, on the same conditions.
    pub fn get(&self, key: &Digest) -> Option<Packed> {
        self.open(&format!("{}{SUFFIX}", hex(key)))
    }

    fn open(&self, name: &str) -> Option<Packed> {
        let file = File::open(self.directory.join(name)).ok()?;
        let packed = read(file)?;
        // It was used: what is pruned first is what nobody uses. Where that is not allowed it only looks older.
        let _ = futimens(
            &packed.file,
            &Timestamps {
                last_access: Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_OMIT as _,
                },
                last_modification: Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_NOW as _,
                },
            },
        );
        Some(packed)
    }

    /// Keeps an archive of `size` bytes, to be found by its key and by its recipe, if it has one, which `write`
    /// writes to an empty file, and the facts that it gives; gives it back open. Then removes what has not been used
    /// for longest until at most `limit` bytes are kept.
    ///
    /// Errors: those of `write`; whatever the file system says. Nothing is left behind then.
    pub fn insert<E: From<io::Error>>(
        &self,
        inputs: Option<&CacheInputs>,
        key: &Digest,
        size: u64,
        limit: ByteSize,
        write: impl FnOnce(&File) -> Result<Vec<u8>, E>,
    ) -> Result<Packed, E> {
        // The facts and the end are little.
        fits_limit(size.saturating_add(FACTS_LIMIT))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        let name = format!("{}{SUFFIX}", hex(key));
        let path = self.directory.join(&name);
        let draft = AtomicFile::beside(&path)?;
        draft
            .file()
            .set_permissions(Permissions::from_mode(0o600))?;
        draft.file().set_len(size)?;
        let facts = write(draft.file())?;
        let mut end = draft.file();
        end.seek(io::SeekFrom::Start(size))?;
        end.write_all(&facts)?;
        end.write_all(&(facts.len() as u64).to_le_bytes())?;
        end.write_all(&END)?;
        draft.put_in_place()?;
        if let Some(inputs) = inputs
            && inputs.is_settled()
        {
            let link = self.directory.join(inputs.link());
            // One that leads elsewhere is from a time when the files were the same and the archive was not.
            let _ = fs::remove_file(&link);
            // Without it the next run packs again.
            let _ = symlink(&name, link);
        }
        let file = File::open(&path)?;
        self.prune(limit, Some(&name))?;
        let packed = read(file).filter(|packed| packed.size == size);
        Ok(packed.ok_or_else(|| io::Error::other("the file is not what was written"))?)
    }
}

/// An entry's parts, if it is whole.
fn read(file: File) -> Option<Packed> {
    let meta = file.metadata().ok()?;
    let ours = meta.uid() == geteuid().as_raw() || meta.uid() == 0;
    if !meta.is_file() || !ours || meta.mode() & 0o022 != 0 {
        return None;
    }
    let mut end = [0; 16];
    let end_at = meta.len().checked_sub(end.len() as u64)?;
    file.read_exact_at(&mut end, end_at).ok()?;
    let (length, magic) = end.split_at(8);
    let length = u64::from_le_bytes(length.try_into().ok()?);
    if magic != END || length > FACTS_LIMIT {
        return None;
    }
    let size = end_at.checked_sub(length)?;
    let mut facts = vec![0; length as usize];
    file.read_exact_at(&mut facts, size).ok()?;
    Some(Packed { file, size, facts })
}

fn hex(digest: &Digest) -> String {
    digest.to_string().split_off("sha256:".len())
}
