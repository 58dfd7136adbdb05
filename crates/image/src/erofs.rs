//! EROFS, the read-only file system of Linux: the numbers of its format, and its files → members (`read.rs`).
//!
//! Source: `Documentation/filesystems/erofs.rst` and `fs/erofs/erofs_fs.h` of Linux. All numbers are little-endian.

mod attributes;
mod content;
mod directory;
mod error;
mod inode;
mod read;
mod super_block;

pub use error::{Error, ParseError};
pub(crate) use read::read;

/// Bytes of a block.
pub const BLOCK: u64 = 4096;
/// Where the super block is, and its length.
pub const SUPER_AT: u64 = 1024;
/// Bytes of the super block.
pub const SUPER: usize = 128;
/// First bytes of the super block.
pub const MAGIC: u32 = 0xe0f5_e1e2;
/// An inode's number is its place in units of so many bytes.
pub const SLOT: u64 = 32;
/// Bytes of an inode of the longer form.
pub const INODE: u64 = 64;
/// Bytes of an inode of the shorter form, which has the file system's time.
pub(crate) const INODE_COMPACT: u64 = 32;
/// Bytes of the header before an inode's extended attributes, and of the header of each.
pub const XATTR_HEADER: usize = 12;
/// Bytes before the name of an extended attribute.
pub const XATTR_ENTRY: usize = 4;
/// Bytes of a directory's entry without its name.
pub const DIRENT: usize = 12;
/// The address of a chunk that is a hole.
pub const HOLE: u32 = u32::MAX;

/// Feature that a reader may ignore: the super block has a checksum.
pub(crate) const COMPAT_CHECKSUM: u32 = 1;
/// Feature that a reader may ignore: times of inodes are those of the last modification.
pub const COMPAT_MTIME: u32 = 2;
/// Feature that a reader must know: files in chunks.
pub const INCOMPAT_CHUNKS: u32 = 4;

/// An inode's bytes follow each other from a block on.
pub const PLAIN: u16 = 0;
/// The bytes are compressed.
pub(crate) const COMPRESSED: u16 = 1;
/// The last bytes stand behind the inode.
pub const INLINE: u16 = 2;
/// The bytes are compressed, with a shorter index.
pub(crate) const COMPRESSED_COMPACT: u16 = 3;
/// The bytes are chunks of one size, whose addresses stand behind the inode.
pub const CHUNKS: u16 = 4;

/// Namespaces of extended attributes, each with its number; a name is stored without its namespace.
pub const NAMESPACES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];
