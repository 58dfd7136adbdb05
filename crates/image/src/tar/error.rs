//! Why a tar archive was not read: which archive, which member and where, what is wrong with it.

use rustix::io::Errno;

use crate::limit;

/// An archive that cannot be read. A flaw's text ends with the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
    /// Too many members.
    #[error(transparent)]
    Limit(#[from] limit::Error),
}

/// A flaw.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ParseError {
    /// No header where one has to be.
    #[error("this is no tar header, its checksum is wrong; the archive is damaged, get it again")]
    Checksum,
    /// Neither of the two known magic numbers, and something in the fields that only one of them has.
    #[error("the header is of an unknown dialect of tar; write the archive anew with GNU tar")]
    Magic,
    /// The archive ends within something.
    #[error("the archive ends within {what}; it is cut off, get all of it")]
    Cut { what: &'static str },
    /// A block of zeros alone, then more.
    #[error(
        "something follows a single zero block, which ends the archive for some programs and damages it for others; write it anew"
    )]
    LoneZeroBlock,
    /// A numeric field with something else in it.
    #[error("the {what} is not a number; the archive is damaged or badly written, make it anew")]
    Number { what: &'static str },
    /// A number of more than 64 bits.
    #[error("the {what} is too large for 64 bits; write the archive anew with GNU tar")]
    TooLarge { what: &'static str },
    /// A number that Linux cannot hold.
    #[error("the {what} is {value}, which Linux cannot hold; change it and write the archive anew")]
    OutOfRange { what: &'static str, value: i128 },
    /// A long name, or a PAX header, of more than what is reasonable.
    #[error(
        "a {what} of {bytes} bytes, {limit} are the most that is read; the archive is damaged or hostile"
    )]
    Record {
        what: &'static str,
        bytes: u64,
        limit: u64,
    },
    /// A PAX header that is not one.
    #[error("its PAX header is malformed: {what}; write the archive anew")]
    Pax { what: String },
    /// Two headers that say the same and belong to one member.
    #[error(
        "its {what} is given twice, and programs differ in which one counts; write the archive anew"
    )]
    Twice { what: &'static str },
    /// A header for the next member, and none comes.
    #[error("headers for a further member are there, but no member; the archive is damaged")]
    NoMember,
    /// Data where there can be none.
    #[error(
        "a {what} with {bytes} bytes of data, which some programs skip and some do not; write the archive anew with GNU tar"
    )]
    Data { what: &'static str, bytes: u64 },
    /// A sparse file that is not one.
    #[error("its list of data and holes is wrong: {what}; write the archive anew without --sparse")]
    Sparse { what: &'static str },
    /// A part of an archive of several volumes.
    #[error(
        "belongs to an archive of several volumes; put the file together with GNU tar and archive it again"
    )]
    Volumes,
    /// A type that some programs give a meaning that is not known here.
    #[error("is of type {shown}, which rdvm does not know; write the archive anew with GNU tar")]
    Type { shown: String },
}

impl ParseError {
    pub(super) fn out_of_range(what: &'static str, value: impl Into<i128>) -> Self {
        let value = value.into();
        Self::OutOfRange { what, value }
    }

    pub(super) fn pax(what: impl Into<String>) -> Self {
        Self::Pax { what: what.into() }
    }
}
