//! The parts of an image archive or an OCI layout by name, and proof that they are what their digests say.
//!
//! A name is looked up among the archive's own members, or below the layout's directory without following any link; it
//! never leads anywhere else. Knows what a descriptor is, and no more of what the parts say.

mod error;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

pub use error::ParseError;

use super::byte_source::{ByteSource, Region};
use super::fs::FileSystem;
use super::host::{HostDir, HostRoot, open_file};
use super::limit::Budget;
use super::manifest::{Descriptor, blob_path};
use super::member::Extent;
use super::stream::{self, Compression};
use super::tree::{Content, FileBody, read_sparse};
use rdvm_hostfs::Digest;

/// The longest JSON document in bytes; real ones have some kilobytes.
pub(super) const JSON_LIMIT: u64 = 4 << 20;
/// The most links from one name to another; old docker saves have one.
const HOPS: usize = 8;

/// Where the parts are.
pub(super) enum Blobs<'a> {
    /// The members of an archive.
    Archive {
        /// The archive, as if it were a root file system.
        system: Box<FileSystem>,
        /// Pays for parts that are sparse in it.
        budget: &'a Budget,
    },
    /// An OCI layout.
    Directory {
        /// It.
        root: Arc<HostDir>,
        /// As given, for messages.
        path: PathBuf,
    },
}

impl Descriptor {
    /// Returns the digest of the blob.
    ///
    /// # Errors
    /// It is no digest, or of another algorithm than sha256.
    pub(super) fn digest(&self) -> Result<Digest, ParseError> {
        let digest = self.digest.clone();
        match digest.parse() {
            Ok(parsed) => Ok(parsed),
            Err(_) if digest.starts_with("sha512:") || digest.starts_with("sha384:") => {
                Err(ParseError::Algorithm { digest })
            }
            Err(_) => Err(ParseError::BadDigest { digest }),
        }
    }
}

impl Blobs<'_> {
    /// The layout in the directory `root`; `None` where it is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn of_directory(root: &Arc<HostRoot>) -> io::Result<Option<Self>> {
        let path = root.path();
        let root = Arc::new(HostDir::of_root(root.clone()));
        let fd = root.open()?;
        let has = |name: &[u8]| match open_file(&fd, name) {
            Ok(file) => fstat(&file)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile),
            Err(_) => false,
        };
        Ok(
            (has(b"oci-layout") && has(b"index.json")).then(|| Self::Directory {
                root: root.clone(),
                path: path.to_owned(),
            }),
        )
    }

    /// Where the bytes of the part `name` are; `None` when there is none.
    ///
    /// # Errors
    /// It cannot be read, or is behind too many links.
    pub(super) fn region(&self, name: &str) -> Result<Option<Region>, ParseError> {
        match self {
            Self::Archive { system, budget } => {
                let links = |_| ParseError::Links {
                    name: name.to_owned(),
                };
                let body = system.file(name.as_bytes(), HOPS).map_err(links)?;
                body.map(|body| region_of(body, name, budget)).transpose()
            }
            Self::Directory { root, path } => {
                let found = open_below(root, name.as_bytes());
                let Some(file) = found.map_err(unreadable(name))? else {
                    return Ok(None);
                };
                let store =
                    ByteSource::of_file(file, &path.join(name)).map_err(unreadable(name))?;
                Ok(Some(Region::whole(Arc::new(store))))
            }
        }
    }

    /// The names at the top of an archive, as far as they are text; none of a layout.
    pub(super) fn top(&self) -> Vec<String> {
        let Self::Archive { system, .. } = self else {
            return Vec::new();
        };
        let names = system.names_in(b"").map(String::from_utf8_lossy);
        names.map(|name| name.into_owned()).collect()
    }

    /// The bytes of a JSON document.
    ///
    /// # Errors
    /// It is not there, too large, or cannot be read.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>, ParseError> {
        let region = self.region(name)?.ok_or_else(|| ParseError::Missing {
            name: name.to_owned(),
        })?;
        if region.length > JSON_LIMIT {
            return Err(ParseError::TooLarge {
                name: name.to_owned(),
                size: region.length,
                limit: JSON_LIMIT,
            });
        }
        let mut bytes = vec![0; region.length as usize];
        let read = region.read_exact(0, &mut bytes);
        read.map_err(unreadable(name))?;
        Ok(bytes)
    }

    /// Where the bytes of the part that `descriptor` means are, as many as it says; whether they are the right ones is
    /// for the reader to find out.
    ///
    /// # Errors
    /// No digest, no such part, another length.
    pub(super) fn blob(&self, descriptor: &Descriptor) -> Result<(Digest, Region), ParseError> {
        let digest = descriptor.digest()?;
        let name = blob_path(&digest);
        let Some(region) = self.region(&name)? else {
            let kind = descriptor.media_type.as_deref().unwrap_or_default();
            return Err(
                match kind.contains(".foreign.") || kind.contains(".nondistributable.") {
                    true => ParseError::Foreign { digest },
                    false => ParseError::Missing { name },
                },
            );
        };
        match region.length == descriptor.size {
            true => Ok((digest, region)),
            false => Err(ParseError::Size {
                name,
                expected: descriptor.size,
                found: region.length,
            }),
        }
    }

    /// The bytes of the JSON document that `descriptor` means.
    ///
    /// # Errors
    /// As [`Self::blob`] and [`Self::document`], and when they are not those of the digest.
    pub(super) fn checked(&self, descriptor: &Descriptor) -> Result<(Digest, Vec<u8>), ParseError> {
        let (expected, _) = self.blob(descriptor)?;
        let name = blob_path(&expected);
        let bytes = self.document(&name)?;
        check(&name, expected, Digest(Sha256::digest(&bytes).into()))?;
        Ok((expected, bytes))
    }
}

/// True if the digest of the part `name` is what it should be.
pub(super) fn check(name: &str, expected: Digest, found: Digest) -> Result<(), ParseError> {
    match expected == found {
        true => Ok(()),
        false => Err(ParseError::Contents {
            name: name.to_owned(),
            expected,
            found,
        }),
    }
}

/// Reads a JSON document.
///
/// # Errors
/// It is none, or does not say what it has to.
pub(super) fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, ParseError> {
    serde_json::from_slice(bytes).map_err(|source| ParseError::Json {
        name: name.to_owned(),
        source,
    })
}

/// For a part that cannot be read.
pub(super) fn unreadable(name: &str) -> impl FnOnce(Errno) -> ParseError {
    move |errno| ParseError::Unreadable {
        name: name.to_owned(),
        source: errno.into(),
    }
}

/// The regular file `name` below a directory, through no link at all; `None` when there is none.
fn open_below(root: &HostDir, name: &[u8]) -> Result<Option<File>, Errno> {
    let mut components: Vec<&[u8]> = name.split(|&byte| byte == b'/').collect();
    let last = components.pop().unwrap_or_default();
    let above = components
        .iter()
        .fold(root.clone(), |dir, component| dir.child(component));
    let opened = above.open().and_then(|dir| open_file(dir, last));
    match opened {
        Ok(fd) => match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
            FileType::RegularFile => Ok(Some(fd.into())),
            _ => Err(Errno::INVAL),
        },
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Where a member's bytes are in one stretch. Only those of a sparse member have to be copied for that.
fn region_of(body: &FileBody, name: &str, budget: &Budget) -> Result<Region, ParseError> {
    match &body.content {
        Content::Span(span) => Ok(Region {
            store: span.store.clone(),
            offset: span.offset,
            length: body.size,
        }),
        Content::Sparse(extents) => {
            let reader = SparseReader {
                extents,
                at: 0,
                size: body.size,
            };
            let store = stream::unpack(reader, Compression::None, name, budget, &mut |_| {});
            let store = store.map_err(|error| ParseError::Unreadable {
                name: name.to_owned(),
                source: io::Error::other(error),
            })?;
            Ok(Region::whole(Arc::new(store)))
        }
        Content::Bytes(_) | Content::Host(_) => {
            // Archives' members are never anything else, but for those that are empty.
            let store = ByteSource::of_chunks(Vec::new(), 0, name.to_owned());
            Ok(Region::whole(Arc::new(store)))
        }
    }
}

/// A sparse member's bytes from its start to its end.
struct SparseReader<'a> {
    extents: &'a [Extent],
    at: u64,
    size: u64,
}

impl Read for SparseReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size - self.at).unwrap_or(usize::MAX);
        let count = left.min(buffer.len());
        buffer[..count].fill(0);
        read_sparse(self.extents, self.at, &mut buffer[..count])?;
        self.at += count as u64;
        Ok(count)
    }
}
