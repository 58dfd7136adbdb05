//! The images that are here: an OCI image layout, `oci-layout`, `index.json` and `blobs/sha256/HEX`, which rdvm, skopeo and
//! others read as it is.
//!
//! - `index.json` is replaced whole, under the lock of `index.lock`.
//! - A blob has its name once its digest was checked; before it is `partial/HEX`, locked by its only writer.
//! - `lock` is held shared while an image comes or is opened, and exclusively while blobs that no image has are removed.
//! - A run holds a shared lock of its manifest's file: its image's blobs stay until its process has ended.
//! - The modification time of a manifest's file is the time of the last use.
//!
//! There is no fsync: after a power failure a blob may be damaged, which its readers notice by its digest.

mod blobs;
mod collect;
mod index;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use rdvm_hostfs::Digest;

pub(crate) use self::blobs::Partial;
pub use self::collect::Removed;
pub use self::index::StoredImage;

use crate::error::{Error, Result};
use crate::reference::Reference;

/// A directory of images.
#[derive(Debug, Clone)]
pub struct Store {
    path: PathBuf,
}

/// An image that stays in the store as long as this lives.
#[derive(Debug, Clone)]
pub struct ImageInUse {
    /// The image.
    pub image: StoredImage,
    /// The manifest, locked.
    pub lock: Arc<File>,
}

/// A lock of the whole store.
#[derive(Debug)]
pub(crate) struct StoreLock {
    _file: File,
}

impl Store {
    /// Opens the store in a directory, or makes one there.
    ///
    /// # Errors
    /// The directory cannot be made; it is another user's, or others can write to it.
    pub fn open(path: &Path) -> Result<Self> {
        let store = Self {
            path: path.to_owned(),
        };
        let mut directories = DirBuilder::new();
        directories.recursive(true).mode(0o700);
        for directory in [path.join("blobs/sha256"), path.join("partial")] {
            directories
                .create(&directory)
                .map_err(|error| store.failed(error))?;
        }
        let meta = fs::metadata(path).map_err(|error| store.failed(error))?;
        let own = [0, rustix::process::geteuid().as_raw()].contains(&meta.uid());
        if !own || meta.mode() & 0o022 != 0 {
            return Err(Error::StoreOwner {
                path: path.to_owned(),
            });
        }
        store.write_layout()?;
        Ok(store)
    }

    /// Returns its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns an image by its name, and keeps it from being removed; `None` if it is not here, or not whole.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn take(&self, reference: &Reference) -> Result<Option<ImageInUse>> {
        let _lock = self.lock_shared()?;
        let Some(image) = self.images()?.into_iter().find(|image| image.is(reference)) else {
            return Ok(None);
        };
        match self.use_of(&image)? {
            Some(lock) if self.is_whole(&image) => Ok(Some(ImageInUse { image, lock })),
            _ => Ok(None),
        }
    }

    /// Opens and locks an image's manifest, and marks it as used now.
    fn use_of(&self, image: &StoredImage) -> Result<Option<Arc<File>>> {
        let Some(file) = self.open_blob(&image.manifest)? else {
            return Ok(None);
        };
        lock(&file, FlockOperation::LockShared).map_err(|error| self.failed(error))?;
        // Where that is not allowed it only looks older.
        let _ = file.set_modified(SystemTime::now());
        Ok(Some(Arc::new(file)))
    }

    /// Waits until nothing is being removed, and keeps it so.
    pub(crate) fn lock_shared(&self) -> Result<StoreLock> {
        let file = self.lock_file("lock")?;
        lock(&file, FlockOperation::LockShared).map_err(|error| self.failed(error))?;
        Ok(StoreLock { _file: file })
    }

    /// Takes the store for itself; `None` while others use it.
    fn try_lock(&self) -> Result<Option<StoreLock>> {
        let file = self.lock_file("lock")?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(StoreLock { _file: file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(self.failed(errno.into())),
        }
    }

    fn lock_index(&self) -> Result<StoreLock> {
        let file = self.lock_file("index.lock")?;
        lock(&file, FlockOperation::LockExclusive).map_err(|error| self.failed(error))?;
        Ok(StoreLock { _file: file })
    }

    fn lock_file(&self, name: &str) -> Result<File> {
        let mut options = File::options();
        let options = options.write(true).create(true).truncate(false);
        options
            .open(self.path.join(name))
            .map_err(|error| self.failed(error))
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.path.join(rdvm_image::manifest::blob_path(digest))
    }

    pub(crate) fn failed(&self, source: io::Error) -> Error {
        Error::Store {
            path: self.path.clone(),
            source,
        }
    }
}

/// Locks a file, however often a signal comes in between.
fn lock(file: &File, operation: FlockOperation) -> io::Result<()> {
    loop {
        match flock(file, operation) {
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}
