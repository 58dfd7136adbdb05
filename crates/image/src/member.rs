//! The common form of archives' members: one member as the archive has it, its name and link targets unchecked.
//!
//! Readers (`tar/`, `cpio.rs`) make members in the archive's order; `fs.rs` decides what they come to.

use super::byte_source::Span;
use super::tree::Xattrs;

/// One record of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its name as written: perhaps with a leading `/`, `./`, `..`, doubled or trailing slashes.
    pub name: Vec<u8>,
    /// Permission bits including set-uid, set-gid and sticky (`0o7777` at most); no file type.
    pub mode: u16,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Modification time in seconds since the epoch, rounded down.
    pub mtime: i64,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Its kind.
    pub what: EntryKind,
}

/// The kind of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file, and where its bytes are.
    File {
        /// Length in bytes.
        size: u64,
        /// Its bytes; an empty file has none.
        content: FileContent,
        /// Names with the same number (not 0) in one archive are one file (cpio); 0 where the format links by name.
        link: u64,
    },
    /// Another name for what the member of this name is (tar).
    HardLink(Vec<u8>),
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A unix socket's name (cpio only).
    Socket,
}

/// Where a member's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FileContent {
    /// In one stretch of the archive.
    Span(Span),
    /// In several, with holes between them that read as zeros.
    Sparse(Vec<Extent>),
}

/// A part of a sparse file that is not a hole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Where it is in the file, in bytes; extents are sorted and do not overlap.
    pub at: u64,
    /// Length in bytes.
    pub length: u64,
    /// Its bytes.
    pub bytes: Span,
}
