//! Is it the image that was agreed on? Tree → digest, and what it is to be: `--expect`, or the project's `rdvm.lock`.

pub mod lock;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::request::{Expectation, ImageRef};
use crate::way_out::DIGESTS;
use rdvm_hostfs::escape::{reason, shown};
use rdvm_hostfs::{BadDigest, Digest};
use rdvm_image::tree::Tree;
use rdvm_image::{Sources, digest};

/// Returns the digest that the image must have, and its origin; `None` if there is none. With layers on top it is the digest of
/// all together, and only `--expect` can say; what the lock file says of its parts, [`check_parts`] looks at.
///
/// # Errors
/// The lock file cannot be read or understood.
pub(crate) fn wanted(image: &ImageRef) -> Result<Option<Wanted>, Error> {
    match &image.expect {
        Expectation::Digest(digest) => Ok(Some(Wanted {
            digest: *digest,
            by: "--expect".to_owned(),
        })),
        Expectation::Lock if image.layers.is_empty() => by_lock(&image.path),
        _ => Ok(None),
    }
}

/// Checks that the image and the layers on top of it are each what the lock file says; those that it knows are read for
/// that, one by one, and stay open in `sources`, so that nothing else is read of them later. Without layers [`wanted`] is
/// all there is.
///
/// # Errors
/// One is not, or cannot be read.
pub(crate) fn check_parts(image: &ImageRef, sources: &Sources) -> Result<(), crate::error::Error> {
    if image.expect != Expectation::Lock || image.layers.is_empty() {
        return Ok(());
    }
    for (index, path) in std::iter::once(&image.path)
        .chain(&image.layers)
        .enumerate()
    {
        if let Some(wanted) = by_lock(path)? {
            let is_base = index == 0;
            let part = ImageRef {
                path: path.clone(),
                layers: Vec::new(),
                // Said of IMAGE only.
                format: image.format.filter(|_| is_base),
                tag: image.tag.clone().filter(|_| is_base),
                ..image.clone()
            };
            let digest =
                digest::of(&rdvm_image::open_from(&part, sources)?.tree).map_err(Error::from)?;
            wanted.check(path, digest)?;
        }
    }
    Ok(())
}

/// Checks that an image that was read from `sources` is the one agreed on. Reads its contents, if that is asked for.
///
/// # Errors
/// It is not; its contents cannot be read.
pub fn check(image: &ImageRef, tree: &Tree, sources: &Sources) -> Result<(), crate::error::Error> {
    check_parts(image, sources)?;
    match wanted(image)? {
        Some(wanted) => Ok(wanted.check(image.name(), digest::of(tree).map_err(Error::from)?)?),
        None => Ok(()),
    }
}

fn by_lock(image: &Path) -> Result<Option<Wanted>, Error> {
    if image == Path::new("-") {
        return Ok(None);
    }
    let here = std::env::current_dir().unwrap_or_default();
    match lock::find(&here) {
        Some(path) => Ok(lock::Lock::read(&path)?.wanted(&here, image)),
        None => Ok(None),
    }
}

/// A digest that is demanded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The digest.
    pub digest: Digest,
    /// The origin of the demand, for messages.
    pub by: String,
}

impl Wanted {
    /// True if an image's digest is what is wanted.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn check(&self, image: &Path, digest: Digest) -> Result<(), Error> {
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
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// Another image than agreed.
    #[error(
        "{}: its digest is {digest}, and {} wants {}; get the right image, or run this one with --no-expect",
        shown(image), wanted.by, wanted.digest
    )]
    Other {
        image: PathBuf,
        wanted: Wanted,
        digest: Digest,
    },
    /// The lock file cannot be read or written.
    #[error(
        "{}: {}; see that it can be read and written, or use --no-expect",
        shown(path),
        reason(source)
    )]
    LockFile {
        path: PathBuf,
        source: std::io::Error,
    },
    /// A line that is no line of a lock file.
    #[error(
        "{}: line {line}: {source}; {DIGESTS}, two spaces and the image's path",
        shown(path)
    )]
    LockLine {
        path: PathBuf,
        line: usize,
        source: BadDigest,
    },
    /// An image was named there that cannot be.
    #[error(
        "{}: cannot be kept in a lock file: {why}; name a file or directory",
        shown(image)
    )]
    NotLockable { image: PathBuf, why: &'static str },
    /// Its contents cannot be read.
    #[error(transparent)]
    Contents(#[from] rdvm_image::body::Error),
}
