//! Why an EROFS file was not read: which file, which entry and where, what is wrong with it.

use rustix::io::Errno;

use crate::byte_source::Region;
use crate::limit::{self, shortened};

/// A file system that cannot be read. A flaw's text ends with the way out.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// The host could not read it.
    #[error("{shown}: cannot be read at offset {offset}: {}; try again when nothing writes to it", std::io::Error::from(*errno))]
    Read {
        shown: String,
        offset: u64,
        errno: Errno,
    },
    /// Something is wrong with the super block.
    #[error("{shown}: {flaw}")]
    SuperBlock { shown: String, flaw: ParseError },
    /// Something is wrong with an entry.
    #[error("{shown}: {name} (at offset {offset}): {flaw}")]
    Entry {
        shown: String,
        name: String,
        offset: u64,
        flaw: ParseError,
    },
    /// Too many entries, or too much to keep.
    #[error(transparent)]
    Limit(#[from] limit::Error),
}

/// A flaw.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ParseError {
    /// No file system at all.
    #[error("there is no EROFS file system in it; give another file")]
    Nothing,
    /// The file ends before the file system does.
    #[error("the file has {found} bytes, its file system {promised}; it is cut off, get all of it")]
    Short { found: u64, promised: u64 },
    /// The checksum of the super block.
    #[error(
        "the super block has the checksum {found:08x} and names {promised:08x}; the file is damaged, get it again"
    )]
    Checksum { promised: u32, found: u32 },
    /// Blocks that Linux does not mount everywhere.
    #[error("its blocks have 2^{0} bytes and not 4096; write it anew with mkfs.erofs -b 4096")]
    BlockSize(u8),
    /// A feature that this reader does not know.
    #[error(
        "the file system has {0}, which is not read; mount it and give the directory, or write it anew with mkfs.erofs and no options"
    )]
    Feature(String),
    /// Compressed contents.
    #[error(
        "is compressed, which is not read in EROFS; mount the file system and give the directory, or write it anew with mkfs.erofs without -z"
    )]
    Compressed,
    /// An inode in a form that this reader does not know.
    #[error(
        "its inode has the unknown format {0:#x}; mount the file system and give the directory, or write it anew with mkfs.erofs and no options"
    )]
    Format(u16),
    /// A place that the file does not have.
    #[error("{0} lies outside of the file; the file system is damaged or cut off, get it again")]
    Outside(&'static str),
    /// A type of file that Linux does not have.
    #[error("is of the unknown file type {0:o}; the file system is damaged, get it again")]
    Type(u16),
    /// A root that is something else.
    #[error("is no directory; the file system is damaged, get it again")]
    Root,
    /// The directory says another type than the inode.
    #[error(
        "its directory has it as type {0}, its inode as another; the file system is damaged, get it again"
    )]
    OtherType(u8),
    /// A length that its type cannot have.
    #[error("a {what} of {bytes} bytes; the file system is damaged, get it again")]
    Size { what: &'static str, bytes: u64 },
    /// A link target with a NUL.
    #[error("its target has a NUL byte; the file system is damaged, get it again")]
    Target,
    /// A directory or link in a layout that is for files.
    #[error("a {0} in chunks; the file system is damaged, get it again")]
    Chunks(&'static str),
    /// The end beside the inode goes beyond the block.
    #[error("its last bytes cross the end of a block; the file system is damaged, get it again")]
    Crossing,
    /// A chunk on a device that is not there.
    #[error("a chunk on device {0}, which is not there; the file system is damaged, get it again")]
    Device(u16),
    /// Attributes that are not as they should be.
    #[error("an extended attribute {0}; the file system is damaged, get it again")]
    Attribute(&'static str),
    /// The directory's own bytes.
    #[error("a directory block {0}; the file system is damaged, get it again")]
    Directory(&'static str),
    /// A name that no directory can have.
    #[error("its name {0}; the file system is damaged, get it again")]
    Name(&'static str),
    /// A directory that is in two places, perhaps in itself.
    #[error("a directory with two names; the file system is damaged, get it again")]
    Twice,
    /// A path that Linux cannot use.
    #[error("its path has {0} bytes, 4095 is the limit; use shorter names or fewer levels")]
    Path(usize),
}

/// Why a part was not read, without its place.
#[derive(Debug)]
pub(super) enum Fault {
    Flaw(ParseError),
    Read(Errno),
    Limit(limit::Error),
}

impl From<ParseError> for Fault {
    fn from(flaw: ParseError) -> Self {
        Self::Flaw(flaw)
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::Read(errno)
    }
}

impl From<limit::Error> for Fault {
    fn from(error: limit::Error) -> Self {
        Self::Limit(error)
    }
}

impl Fault {
    /// With the entry's path and place.
    pub(super) fn of(self, region: &Region, path: &[u8], offset: u64) -> Error {
        match self {
            Self::Flaw(flaw) => flaw.of(region, path, offset),
            Self::Read(errno) => unreadable(region, offset, errno),
            Self::Limit(error) => error.into(),
        }
    }
}

/// Asks whether there is room for so many bytes in memory.
pub(super) type Spend<'a> = &'a mut dyn FnMut(u64) -> Result<(), limit::Error>;

impl ParseError {
    /// For the file system as a whole.
    pub(super) fn at(self, region: &Region) -> Error {
        Error::SuperBlock {
            shown: region.store.shown().to_owned(),
            flaw: self,
        }
    }

    /// With the entry's path and place.
    pub(super) fn of(self, region: &Region, path: &[u8], offset: u64) -> Error {
        let name = match path {
            [] => "the root directory".to_owned(),
            path => shortened(path),
        };
        Error::Entry {
            shown: region.store.shown().to_owned(),
            name,
            offset,
            flaw: self,
        }
    }
}

/// The error for a file that the host cannot read.
pub(super) fn unreadable(region: &Region, offset: u64, errno: Errno) -> Error {
    Error::Read {
        shown: region.store.shown().to_owned(),
        offset,
        errno,
    }
}
