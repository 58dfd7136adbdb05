//! IMAGE → [`tree::Tree`]: what kind of thing the path is, then the reader for that kind.
//!
//! Nothing is ever unpacked or changed on the host. Knows nothing of the form the tree is written in.

pub mod cpio;
pub mod fakeroot;
pub mod fs;
pub mod host;
pub mod limit;
pub mod member;
pub mod owner;
pub mod store;
pub mod stream;
pub mod tar;
pub mod tree;

mod dir;
mod entry;
mod rules;
mod window;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::escape::shown;
use crate::request::ImageRef;
use tree::Tree;

/// Reads the image's tree; file contents stay where they are until they are written.
///
/// Errors name the image or the file in it, and what to do.
pub fn open(image: &ImageRef) -> Result<Tree, Error> {
    let path = &image.path;
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Error::Missing { path: path.clone() },
        _ => Error::Image {
            path: path.clone(),
            source,
        },
    };
    let kind = std::fs::metadata(path).map_err(unreadable)?.file_type();
    if !kind.is_dir() {
        let what = if kind.is_file() {
            recognise(&start_of(path).map_err(unreadable)?)
        } else if kind.is_fifo() {
            "a named pipe"
        } else if kind.is_socket() {
            "a socket"
        } else {
            "a device"
        };
        return Err(Error::WrongKind {
            path: path.clone(),
            what,
        });
    }
    let tree = dir::read(image)?;
    match tree.entries() {
        [] | [_] => Err(Error::Empty { path: path.clone() }),
        _ => Ok(tree),
    }
}

/// The first bytes of a file, as many as there are up to a tar header.
fn start_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut start = Vec::new();
    File::open(path)?.take(512).read_to_end(&mut start)?;
    Ok(start)
}

/// Where a known kind of file has which bytes.
const KINDS: [(usize, &[u8], &str); 16] = [
    (257, b"ustar", "a tar archive"),
    (0, b"\x1f\x8b", "gzip-compressed data, perhaps a tar.gz"),
    (
        0,
        b"\x28\xb5\x2f\xfd",
        "zstd-compressed data, perhaps a tar.zst",
    ),
    (0, b"\xfd7zXZ\0", "xz-compressed data, perhaps a tar.xz"),
    (0, b"BZh", "bzip2-compressed data, perhaps a tar.bz2"),
    (0, b"\x04\x22\x4d\x18", "lz4-compressed data"),
    (0, b"\x02\x21\x4c\x18", "lz4-compressed data"),
    (0, b"070701", "a cpio archive"),
    (0, b"070702", "a cpio archive"),
    (0, b"070707", "a cpio archive in the old format"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"!<arch>\n", "an ar archive or a Debian package"),
    (0, b"hsqs", "a squashfs file system"),
    (0, b"QFI\xfb", "a qcow2 disk image"),
    (0, b"\x7fELF", "a program"),
    (0, b"#!", "a script"),
];

/// A regular file's kind, for the message that says why it is not taken.
fn recognise(start: &[u8]) -> &'static str {
    let known = |&&(at, magic, _): &&(usize, &[u8], _)| {
        start.get(at..).is_some_and(|rest| rest.starts_with(magic))
    };
    match KINDS.iter().find(known) {
        Some((_, _, what)) => what,
        None if start.is_empty() => "an empty file",
        None => "a file of unknown kind",
    }
}

/// Why an image was not read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing at the path.
    #[error(
        "{}: no such file or directory; give the path of a directory that holds a root file system",
        shown(path)
    )]
    Missing {
        /// As given.
        path: PathBuf,
    },
    /// The image itself cannot be looked at.
    #[error(
        "{}: the image cannot be read: {source}; run as a user who may",
        shown(path)
    )]
    Image {
        /// As given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a directory.
    #[error(
        "{}: is {what}, and rdvm reads only directories so far; unpack it into a directory and give that",
        shown(path)
    )]
    WrongKind {
        /// As given.
        path: PathBuf,
        /// What it seems to be, with its article.
        what: &'static str,
    },
    /// A directory without entries.
    #[error(
        "{}: the directory is empty; fill it with a root file system first",
        shown(path)
    )]
    Empty {
        /// As given.
        path: PathBuf,
    },
    /// Something inside cannot be read.
    #[error(
        "{shown}: cannot be read: {source}; run as a user who may, or remove it from the image"
    )]
    Unreadable {
        /// Its path on the host, escaped.
        shown: String,
        /// Why.
        source: io::Error,
    },
    /// Something was renamed, removed or replaced between two looks at it.
    #[error("{shown}: changed while it was read; try again when nothing writes to the image")]
    Changed {
        /// Its path on the host, escaped.
        shown: String,
    },
    /// A file type this system does not define.
    #[error("{shown}: is of an unknown file type; remove it from the image")]
    UnknownType {
        /// Its path on the host, escaped.
        shown: String,
    },
    /// A character device 0:0.
    #[error(
        "{shown}: is an overlayfs whiteout (character device 0:0); mount the overlay and give the merged directory"
    )]
    Whiteout {
        /// Its path on the host, escaped.
        shown: String,
    },
    /// An owner that the map does not know.
    #[error("{shown}: {what} {number} is in no range of --owner; add one that has it")]
    OwnerUnmapped {
        /// Path on the host, escaped.
        shown: String,
        /// `user` or `group`.
        what: &'static str,
        /// The host's number.
        number: u32,
    },
    /// The save file cannot be read.
    #[error(
        "{}: the fakeroot save file cannot be read: {source}; write one with fakeroot -s FILE",
        shown(path)
    )]
    SaveFile {
        /// As given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of the save file is malformed or there twice.
    #[error(
        "{}: line {line} is not one that fakeroot writes, or repeats a file; write the file anew with fakeroot -s",
        shown(path)
    )]
    SaveFileLine {
        /// As given.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// The save file says of a file what cannot be.
    #[error(
        "{shown}: the fakeroot save file knows this inode as another kind of file; use the save file of this very directory"
    )]
    SaveFileStale {
        /// Path on the host, escaped.
        shown: String,
    },
    /// The entries do not make a tree.
    #[error(transparent)]
    Tree(#[from] tree::Error),
}
