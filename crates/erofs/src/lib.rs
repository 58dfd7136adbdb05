//! Tree → EROFS: a read-only file system that Linux mounts where it lies, without unpacking it.
//!
//! Uncompressed, with every regular file's bytes at the start of a block of their own, as mapping them in place (DAX) wants
//! it. The same tree always has the same bytes. `layout.rs` decides what stands where, `write.rs` writes it; the format's
//! numbers are `rdvm_image::erofs`.

mod attributes;
mod directory;
mod inode;
mod layout;
mod structure;
mod write;

#[cfg(test)]
#[path = "../../../tests/it/support/skips.rs"]
mod skips;
#[cfg(test)]
mod tests;

use std::io;

use rdvm_hostfs::escape::{escaped, reason};
use rdvm_image::body;
use rdvm_image::tree::ImagePath;

pub use layout::Layout;
pub use structure::{Structure, has_structure};

/// Why no file system was made of a tree.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// More bytes than 32 bits can number blocks.
    #[error("the image has more than 16 TiB; split it")]
    TooLarge,
    /// An extended attribute that the format has no place for.
    #[error(
        "{}: extended attribute \"{}\" of {bytes} bytes has no place in EROFS; remove it from the image, or use another format",
        escaped(path),
        escaped(name)
    )]
    Attribute {
        path: ImagePath,
        name: Vec<u8>,
        bytes: usize,
    },
    /// A file's bytes cannot be had.
    #[error(transparent)]
    Body(#[from] body::Error),
    /// The caller does not want it any more.
    #[error("the file system was not finished: its making was stopped")]
    Stopped,
    /// It cannot be written to its file.
    #[error(
        "the file system cannot be written: {}; see that there is room for {size} bytes",
        reason(source)
    )]
    Write { size: u64, source: io::Error },
}
