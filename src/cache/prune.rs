//! What is kept, and what is thrown out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Cache, LINK, SUFFIX};
use rdvm_hostfs::atomic::TEMPORARY;
use rdvm_hostfs::units::ByteSize;

/// A writer needs minutes at most; what is older was left by one that was killed.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its file's name.
    pub name: String,
    /// Length of the file in bytes.
    pub size: ByteSize,
    /// When it was last used.
    pub used: SystemTime,
}

/// What pruning removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many entries.
    pub entries: usize,
    /// How many bytes.
    pub bytes: ByteSize,
}

impl Cache {
    /// Where the entries are.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// All entries, the one used last first; none where there is no directory yet.
    ///
    /// Errors: the directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for file in self.files()? {
            let name = file.file_name().into_string().unwrap_or_default();
            // Another run may have removed it by now.
            if let Ok(meta) = file.metadata()
                && is_entry(&name)
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

    /// Returns what was kept with an entry, if it is still there and whole; it does not count as used for that.
    pub fn facts(&self, entry: &Entry) -> Option<Vec<u8>> {
        let file = fs::File::open(self.directory.join(&entry.name)).ok()?;
        Some(super::read(file)?.facts)
    }

    /// Removes what has not been used for longest until at most `limit` bytes are kept (`spared` stays in any case), links
    /// that lead nowhere, and what a killed run left.
    ///
    /// Errors: the directory cannot be read; an entry cannot be removed.
    pub fn prune(&self, limit: ByteSize, spared: Option<&str>) -> io::Result<Pruned> {
        let mut pruned = Pruned::default();
        let entries = self.list()?;
        let (spared, others): (Vec<_>, Vec<_>) = entries
            .iter()
            .partition(|entry| Some(&*entry.name) == spared);
        let mut kept: u64 = spared.iter().map(|entry| entry.size.0).sum();
        for entry in others {
            kept = kept.saturating_add(entry.size.0);
            if kept > limit.0 {
                kept -= entry.size.0;
                remove(&self.directory.join(&entry.name))?;
                pruned.entries += 1;
                pruned.bytes.0 += entry.size.0;
            }
        }
        for file in self.files()? {
            let name = file.file_name().into_string().unwrap_or_default();
            let path = file.path();
            let leads_nowhere = name.starts_with(LINK) && path.is_symlink() && !path.exists();
            if leads_nowhere || is_left_over(&name, &path) {
                remove(&path)?;
            }
        }
        Ok(pruned)
    }

    fn files(&self) -> io::Result<Vec<fs::DirEntry>> {
        match fs::read_dir(&self.directory) {
            Ok(files) => files.collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// Only what looks like one of ours is ever removed.
fn is_entry(name: &str) -> bool {
    name.strip_suffix(SUFFIX)
        .is_some_and(|key| key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A draft that has been there for too long.
fn is_left_over(name: &str, path: &Path) -> bool {
    name.starts_with(TEMPORARY)
        && fs::symlink_metadata(path)
            .and_then(|meta| meta.modified())
            .is_ok_and(|modified| {
                SystemTime::now()
                    .duration_since(modified)
                    .is_ok_and(|age| age > STALE)
            })
}

/// Removes a file that another run may have removed already.
fn remove(path: &PathBuf) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
