//! Blobs in the store, whole or still coming.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256};

use rdvm_hostfs::atomic::{fits_limit, remove_if_there};
use rdvm_hostfs::{Digest, hex};

use super::{Store, lock};
use crate::client::PIECE;
use crate::document::Part;
use crate::error::Result;

/// A blob that is being written: this process alone has its file.
pub(crate) struct Partial<'a> {
    store: &'a Store,
    part: Part,
    path: PathBuf,
    file: File,
    hash: Sha256,
    length: u64,
}

impl Store {
    /// True if a blob is here in its full length.
    pub(crate) fn has_blob(&self, part: &Part) -> bool {
        fs::metadata(self.blob(&part.digest))
            .is_ok_and(|meta| meta.is_file() && meta.len() == part.size)
    }

    pub(super) fn open_blob(&self, digest: &Digest) -> Result<Option<File>> {
        match File::open(self.blob(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            file => file.map(Some).map_err(|error| self.failed(error)),
        }
    }

    /// Writes a blob whose bytes are here, and were checked.
    pub(crate) fn put(&self, part: &Part, bytes: &[u8]) -> Result<()> {
        match self.partial(part)? {
            Some(mut partial) => {
                partial.restart()?;
                partial.write(bytes)?;
                partial.finish().map(drop)
            }
            None => Ok(()),
        }
    }

    /// Begins to write a blob, or goes on where an earlier process stopped; `None` if it is whole. Waits while another process
    /// writes it.
    pub(crate) fn partial(&self, part: &Part) -> Result<Option<Partial<'_>>> {
        fits_limit(part.size).map_err(|error| self.failed(error))?;
        let path = self.path.join("partial").join(hex::encode(&part.digest.0));
        loop {
            if self.has_blob(part) {
                return Ok(None);
            }
            let mut options = File::options();
            let options = options.read(true).write(true).create(true).truncate(false);
            let file = options.open(&path).map_err(|error| self.failed(error))?;
            lock(&file, FlockOperation::LockExclusive).map_err(|error| self.failed(error))?;
            // The one that had the lock has given the file its name since, or removed it.
            if !is_at(&file, &path) {
                continue;
            }
            let mut partial = Partial {
                store: self,
                part: *part,
                path,
                file,
                hash: Sha256::new(),
                length: 0,
            };
            partial.resume()?;
            return Ok(Some(partial));
        }
    }
}

/// True if the path still leads to this file.
fn is_at(file: &File, path: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let number = |meta: fs::Metadata| (meta.dev(), meta.ino());
    let there = fs::metadata(path).map(number).ok();
    there.is_some() && there == file.metadata().map(number).ok()
}

impl Partial<'_> {
    /// Returns the number of bytes that are here.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Reads what is there, for the digest.
    fn resume(&mut self) -> Result<()> {
        let mut piece = vec![0; PIECE];
        while self.length <= self.part.size {
            let count = self
                .file
                .read(&mut piece)
                .map_err(|error| self.store.failed(error))?;
            if count == 0 {
                break;
            }
            self.hash.update(&piece[..count]);
            self.length += count as u64;
        }
        match self.length > self.part.size {
            true => self.restart(),
            false => Ok(()),
        }
    }

    /// Throws away what is there.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.hash = Sha256::new();
        self.length = 0;
        let emptied = self
            .file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map(drop).map_err(|error| self.store.failed(error))
    }

    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if let Err(error) = self.file.write_all(bytes) {
            // A full disk is not to stay full of this.
            if matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ) {
                let _ = remove_if_there(&self.path);
            }
            return Err(self.store.failed(error));
        }
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Gives the blob its name, if its bytes are those of its digest; else returns theirs, and removes them.
    pub(crate) fn finish(self) -> Result<std::result::Result<(), Digest>> {
        let found = Digest(self.hash.finalize().into());
        let failed = |error| self.store.failed(error);
        if found != self.part.digest {
            remove_if_there(&self.path).map_err(failed)?;
            return Ok(Err(found));
        }
        fs::rename(&self.path, self.store.blob(&found)).map_err(failed)?;
        Ok(Ok(()))
    }
}
