//! The in-memory file system: what an image contains, independent of the form it came in.
//!
//! Takes entries in any order from a reader (`dir.rs`), gives them back sorted, parents before children,
//! each at most once. File contents are not held here: a regular file says where its bytes are, and they are
//! read once, when the initrd is written. Knows nothing of cpio.

use std::path::PathBuf;
use std::sync::Arc;

/// The longest path the kernel's initramfs unpacker accepts, without the terminating NUL (`PATH_MAX` - 1).
pub const PATH_LIMIT: usize = 4095;
/// The longest single name a Linux file system accepts (`NAME_MAX`).
pub const NAME_LIMIT: usize = 255;

/// A path inside the image: relative to its root, components joined by `/`, no `.`, `..`, empty component or NUL.
/// The root itself is the empty path.
pub type ImagePath = Vec<u8>;

/// One file system object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is in the image.
    pub path: ImagePath,
    /// Permission bits including set-uid, set-gid and sticky (`0o7777` at most); no file type.
    pub mode: u16,
    /// Numeric owner in the guest.
    pub uid: u32,
    /// Numeric group in the guest.
    pub gid: u32,
    /// Modification time in seconds since the epoch, as the source has it.
    pub mtime: i64,
    /// What it is.
    pub kind: Kind,
}

/// What an entry is, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File(FileBody),
    /// A symbolic link and its target, as bytes.
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
    /// A unix socket's name.
    Socket,
}

/// The contents of a regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileBody {
    /// Length in bytes.
    pub size: u64,
    /// Where the bytes are.
    pub content: Content,
    /// Names of one file carry the same number; `None` where there is only this name.
    pub link: Option<LinkId>,
}

/// Identifies the set of names of one hard-linked file within a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// Where the bytes of a file are until they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file on the host, to be opened below the image's root directory, and what `stat` said when it was found.
    Host {
        /// Path on the host.
        path: PathBuf,
        /// What must still be true when it is read.
        stamp: Stamp,
    },
    /// Bytes made by rdvm itself.
    Bytes(Arc<[u8]>),
}

/// What identifies one state of one host file: any difference means that it changed while it was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i128,
    /// Change time, nanoseconds since the epoch.
    pub ctime_ns: i128,
}

/// A whole file system: entries sorted by path, parents before their children, no path twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    entries: Vec<Entry>,
}
