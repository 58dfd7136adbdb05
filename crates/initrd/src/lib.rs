//! Tree → initrd: the newc archive that a kernel unpacks.
//!
//! Knows nothing of images' kinds and of engines.

pub mod attributes;
mod file;
pub mod layout;
mod newc;
#[cfg(test)]
mod newc_reader;

mod write;

#[cfg(test)]
#[path = "../../../tests/it/support/skips.rs"]
mod skips;
#[cfg(test)]
mod tests;

pub use file::unchanged;
pub use file::{Initrd, write_archive};
pub use layout::{Contents, Epoch, Layout, Places};
pub use write::{BLOCK, Stopped, each_block};

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rdvm_hostfs::escape::{escaped, reason};
use rdvm_image::body;
use rdvm_image::tree::ImagePath;

/// Why an initrd was not made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// A file that the format's 32-bit size cannot hold.
    #[error(
        "{}: has {size} bytes, an initrd holds files up to {}; remove it from the image or split it",
        escaped(path),
        u32::MAX
    )]
    FileTooLarge { path: ImagePath, size: u64 },
    /// More than the format's 32-bit inode numbers.
    #[error(
        "the image has more than {} entries, an initrd cannot number them; use a smaller image",
        u32::MAX
    )]
    TooManyEntries,
    /// `SOURCE_DATE_EPOCH` is no time.
    #[error("SOURCE_DATE_EPOCH={}: not a number of seconds from 0 to {}; correct or unset it", escaped(value.as_encoded_bytes()), u32::MAX)]
    Epoch { value: std::ffi::OsString },
    /// A file's bytes cannot be had.
    #[error(transparent)]
    Body(#[from] body::Error),
    /// The caller does not want it any more.
    #[error("the initrd was not finished: its making was stopped")]
    Stopped,
    /// An extended attribute that no Linux file system holds.
    #[error(
        "{}: extended attribute \"{}\" of {bytes} bytes cannot be kept: a name has 1 to 255 bytes without NUL, a value 65536 at most; remove it from the image",
        escaped(path),
        escaped(name)
    )]
    BadAttribute {
        path: ImagePath,
        name: Vec<u8>,
        bytes: usize,
    },
    /// The archive cannot be written to the file or stream it is to go to.
    #[error(
        "the initrd cannot be written: {}; see that there is room for {size} bytes",
        reason(source)
    )]
    Write { size: u64, source: io::Error },
    /// The file that the archive is to go to cannot be had.
    #[error("{}: {}; name a file in a directory that you may write to", escaped(path.as_os_str().as_bytes()), reason(source))]
    Output { path: PathBuf, source: io::Error },
}

impl Error {
    /// True if the reader of the archive has gone away.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Write { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}
