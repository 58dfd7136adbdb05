//! Is it the image that was agreed on? Tree → digest, and what it is to be: `--expect`, or the project's `rdvm.lock`.

pub mod digest;
pub mod lock;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::digest::{BadDigest, Digest};
use crate::escape::shown;
use crate::image::tree::Tree;
use crate::request::{Expectation, ImageRef};

/// What the image's digest has to be, and who says so; `None` where nobody does.
///
/// Errors: the lock file cannot be read or understood.
pub fn wanted(image: &ImageRef) -> Result<Option<Wanted>, Error> {
    match &image.expect {
        Expectation::Nothing => Ok(None),
        Expectation::Digest(digest) => Ok(Some(Wanted {
            digest: *digest,
            by: "--expect".to_owned(),
        })),
        Expectation::Lock => {
            let here = std::env::current_dir().unwrap_or_default();
            match lock::find(&here) {
                Some(path) => Ok(lock::Lock::read(&path)?.wanted(&here, &image.path)),
                None => Ok(None),
            }
        }
    }
}

/// A digest that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The digest.
    pub digest: Digest,
    /// Who wants it, for messages.
    pub by: String,
}

impl Wanted {
    /// Whether `tree` is what is wanted; reads all contents.
    ///
    /// Errors: it is not; a file cannot be read.
    pub fn check(&self, image: &Path, tree: &Tree) -> Result<(), Error> {
        let digest = digest::of(tree)?;
        match digest == self.digest {
            true => Ok(()),
            false => Err(Error::Other {
                image: image.to_owned(),
                wanted: self.clone(),
                digest,
            }),
        }
    }
}

/// Why an image is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another image than agreed.
    #[error(
        "{}: its digest is {digest}, and {} wants {}; get the right image, or run this one with --no-expect",
        shown(image), wanted.by, wanted.digest
    )]
    Other {
        /// As given.
        image: PathBuf,
        /// What it should have been.
        wanted: Wanted,
        /// What it is.
        digest: Digest,
    },
    /// The lock file cannot be read or written.
    #[error(
        "{}: {source}; see that it can be read and written, or use --no-expect",
        shown(path)
    )]
    LockFile {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line that is no line of a lock file.
    #[error(
        "{}: line {line}: {source}, two spaces and the image's path",
        shown(path)
    )]
    LockLine {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        source: BadDigest,
    },
    /// An image was named there that cannot be.
    #[error(
        "{}: cannot be kept in a lock file: {why}; name a file or directory",
        shown(image)
    )]
    NotLockable {
        /// As given.
        image: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// Its contents cannot be read.
    #[error(transparent)]
    Contents(#[from] crate::initrd::Error),
}
