//! Removing images, and blobs that no image has.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};

use rdvm_hostfs::Digest;
use rdvm_hostfs::atomic::remove_if_there;
use rdvm_hostfs::units::ByteSize;

use super::index::name_of;
use super::{Store, StoredImage};
use crate::document::LIMIT;
use crate::error::Result;

/// Partial blobs that were not written to for so long are not gone on with.
const STALE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The outcome of a removal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// The names that are gone.
    pub names: Vec<String>,
    /// The bytes of blobs that are gone.
    pub bytes: ByteSize,
    /// Some stay until another process has ended, since it uses them, and go with the next removal.
    pub in_use: bool,
}

impl Store {
    /// Removes the images that `is_meant`, and the blobs that no other image has.
    ///
    /// # Errors
    /// The store cannot be changed.
    pub fn remove(&self, is_meant: impl Fn(&StoredImage) -> bool) -> Result<Removed> {
        let images = self.images()?;
        let meant: Vec<StoredImage> = images.into_iter().filter(is_meant).collect();
        self.remove_names(&meant)?;
        let mut removed = self.collect()?;
        removed.names = meant.into_iter().map(|image| image.name).collect();
        Ok(removed)
    }

    fn remove_names(&self, images: &[StoredImage]) -> Result<()> {
        if images.is_empty() {
            return Ok(());
        }
        self.change_index(|manifests| {
            let is_gone = |old: &rdvm_image::manifest::Descriptor| {
                // Another process may have put another image in its place.
                let same = |image: &StoredImage| {
                    image.name == name_of(old) && image.manifest.to_string() == old.digest
                };
                images.iter().any(same)
            };
            manifests.retain(|old| !is_gone(old));
        })
    }

    /// Removes the images that were not used for longest until all blobs together have at most `limit` bytes. Images in use
    /// stay, and so does the one with the manifest `keep`.
    ///
    /// # Errors
    /// The store cannot be changed.
    pub fn shrink(&self, limit: ByteSize, keep: Option<&Digest>) -> Result<Removed> {
        let mut all = self.collect()?;
        // No name is worth removing while its blobs cannot go.
        if self.try_lock()?.is_none() {
            return Ok(all);
        }
        let mut images = self.images()?;
        while self.bytes()? > limit.0 {
            let is_free = |image: &StoredImage| {
                Some(&image.manifest) != keep && !is_locked(&self.blob(&image.manifest))
            };
            let Some(at) = images.iter().rposition(is_free) else {
                break;
            };
            let oldest = images.remove(at);
            let manifest = oldest.manifest;
            let removed = self.remove(|image| image.manifest == manifest)?;
            images.retain(|image| image.manifest != manifest);
            all.names.extend(removed.names);
            all.bytes.0 += removed.bytes.0;
            if removed.in_use {
                all.in_use = true;
                break;
            }
        }
        Ok(all)
    }

    /// Removes blobs that no image has, unless another process has the store's lock.
    pub(crate) fn collect(&self) -> Result<Removed> {
        let mut removed = Removed::default();
        let Some(_lock) = self.try_lock()? else {
            removed.in_use = true;
            return Ok(removed);
        };
        let (kept, in_use) = self.reachable()?;
        removed.in_use = in_use;
        for (path, digest, length) in self.blobs()? {
            if digest.is_none_or(|digest| !kept.contains(&digest)) {
                remove_if_there(&path).map_err(|error| self.failed(error))?;
                removed.bytes.0 += length;
            }
        }
        self.remove_stale_partials();
        Ok(removed)
    }

    /// The blobs of images in the list, and of manifests that are locked; whether there is any of the latter kind.
    fn reachable(&self) -> Result<(HashSet<Digest>, bool)> {
        let index = self.index()?;
        let listed = index
            .manifests
            .iter()
            .filter_map(|descriptor| descriptor.digest.parse().ok());
        let mut kept: HashSet<Digest> = HashSet::new();
        let mut keep = |manifest: Digest| {
            kept.insert(manifest);
            let found = self.manifest(&manifest);
            kept.extend(
                found
                    .iter()
                    .flat_map(|found| found.parts())
                    .map(|part| part.digest),
            );
        };
        let listed: Vec<Digest> = listed.collect();
        listed.iter().copied().for_each(&mut keep);
        let mut in_use = false;
        for (path, digest, length) in self.blobs()? {
            if let Some(digest) = digest.filter(|digest| !listed.contains(digest))
                && length <= LIMIT
                && is_locked(&path)
            {
                in_use = true;
                keep(digest);
            }
        }
        Ok((kept, in_use))
    }

    /// The files of blobs, with their digests if they are named so, and their lengths.
    fn blobs(&self) -> Result<Vec<(std::path::PathBuf, Option<Digest>, u64)>> {
        let list = || -> io::Result<Vec<_>> {
            let entries = fs::read_dir(self.path.join("blobs/sha256"))?;
            let one = |entry: io::Result<fs::DirEntry>| {
                let entry = entry?;
                let name = entry.file_name();
                let digest = name
                    .to_str()
                    .and_then(|name| format!("sha256:{name}").parse().ok());
                Ok((entry.path(), digest, entry.metadata()?.len()))
            };
            entries.map(one).collect()
        };
        list().map_err(|error| self.failed(error))
    }

    /// Returns the bytes of all blobs.
    fn bytes(&self) -> Result<u64> {
        Ok(self.blobs()?.iter().map(|(_, _, length)| length).sum())
    }

    fn remove_stale_partials(&self) {
        let entries = fs::read_dir(self.path.join("partial"))
            .into_iter()
            .flatten();
        for entry in entries.flatten() {
            let modified = entry.metadata().and_then(|meta| meta.modified());
            let age =
                modified.map(|time| SystemTime::now().duration_since(time).unwrap_or_default());
            if age.is_ok_and(|age| age > STALE) && !is_locked(&entry.path()) {
                // The next time, if not now; directories are skopeo's.
                let _ = fs::remove_file(entry.path()).or_else(|_| fs::remove_dir_all(entry.path()));
            }
        }
    }
}

/// True if another process has locked a file.
fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
}
