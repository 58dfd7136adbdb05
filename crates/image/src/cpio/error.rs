//! Why a cpio archive was not read: which archive, which member and where, what is wrong with it.

use rustix::io::Errno;

use crate::byte_source::Region;
use crate::limit::{self, shortened};
use crate::stream;

/// An archive that cannot be read. A flaw's text ends with the way out.
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
    /// Something is wrong between members, or with a header whose name is not known.
    #[error("{shown}: at offset {offset}: {flaw}")]
    Archive {
        shown: String,
        offset: u64,
        flaw: ParseError,
    },
    /// Something is wrong with a member.
    #[error("{shown}: {name} (header at offset {offset}): {flaw}")]
    Member {
        shown: String,
        name: String,
        offset: u64,
        flaw: ParseError,
    },
    /// The compressed part was not unpacked.
    #[error(transparent)]
    Stream(#[from] stream::Error),
    /// Too many members.
    #[error(transparent)]
    Limit(#[from] limit::Error),
}

/// A flaw.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ParseError {
    /// No archive at all.
    #[error("there is no cpio archive in it; give another file")]
    Nothing,
    /// Neither a header nor anything else that may follow an archive.
    #[error("this is no newc header; the archive is damaged, get it again")]
    Magic,
    /// The format before newc.
    #[error(
        "the archive is in cpio's old format ({0}); write it anew with cpio -o -H newc, or bsdtar --format newc"
    )]
    OldFormat(&'static str),
    /// A digit that is none.
    #[error("a field of the header is not hexadecimal; the archive is damaged, get it again")]
    Digit,
    /// An archive behind another one, at a place where the kernel would not see it.
    #[error("an archive begins at no multiple of four; fill up with zeros between archives")]
    Unaligned,
    /// A name that the kernel would not take.
    #[error("a name of {0} bytes with its NUL, 2 to 4096 are possible; the archive is damaged")]
    NameLength(u32),
    /// A name without its NUL, or with nothing before it.
    #[error("its name is empty, or has no NUL at its end; write the archive anew")]
    Nul,
    /// The archive ends within something.
    #[error("the archive ends within {0}; it is cut off, get all of it")]
    Cut(&'static str),
    /// A type of file that Linux does not have.
    #[error("is of the unknown file type {0:o}; write the archive anew")]
    Type(u32),
    /// Data for which the kernel ignores the record.
    #[error("a {what} with {bytes} bytes of data; write the archive anew")]
    Data { what: &'static str, bytes: u64 },
    /// The checksum of the data.
    #[error(
        "its data have the checksum {found:08x}, the header says {promised:08x}; get the archive again"
    )]
    Checksum { promised: u32, found: u32 },
    /// Names of one file with data of different lengths.
    #[error("another name of the same file has {0} bytes of data; write the archive anew")]
    LinksDiffer(u64),
    /// More parts than there is a reason for.
    #[error("more than {0} compressed archives are in it; join them")]
    TooMany(usize),
    /// Bytes that belong to nothing.
    #[error("something that is no cpio archive follows; cut it off, or write the archive anew")]
    Trailing,
}

impl ParseError {
    /// With its place, where no name is known.
    pub(super) fn at(self, region: &Region, offset: u64) -> Error {
        Error::Archive {
            shown: region.store.shown().to_owned(),
            offset,
            flaw: self,
        }
    }

    /// With the member's name and place.
    pub(super) fn of(self, region: &Region, name: &[u8], offset: u64) -> Error {
        Error::Member {
            shown: region.store.shown().to_owned(),
            name: shortened(name),
            offset,
            flaw: self,
        }
    }
}

/// The error for an archive that the host cannot read.
pub(super) fn unreadable(region: &Region, offset: u64, errno: Errno) -> Error {
    Error::Read {
        shown: region.store.shown().to_owned(),
        offset,
        errno,
    }
}
