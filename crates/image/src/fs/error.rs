//! Why a member cannot be put into the in-memory file system.

use crate::tree;
use rdvm_hostfs::escape::escaped;

/// The most symbolic links that are followed for one name, as Linux does.
pub(crate) const HOPS: usize = 40;

/// Why a member cannot be put where it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// A name that goes up.
    #[error(
        "{}: has \"..\" in its name; pack the archive again without it",
        escaped(name)
    )]
    Up { name: Vec<u8> },
    /// A file that is named like the root.
    #[error(
        "{}: is the root's name and no directory; remove it from the archive",
        escaped(name)
    )]
    Root { name: Vec<u8> },
    /// Something above it is no directory.
    #[error(
        "{}: {} is not a directory; remove one of the two",
        escaped(name),
        escaped(parent)
    )]
    ParentNotDirectory { name: Vec<u8>, parent: Vec<u8> },
    /// It lies behind a symbolic link to nothing.
    #[error(
        "{}: the link {} leads nowhere; put the directory that it names before it",
        escaped(name),
        escaped(link)
    )]
    ParentDangling { name: Vec<u8>, link: Vec<u8> },
    /// Too many symbolic links.
    #[error(
        "{}: more than {hops} symbolic links on the way, perhaps a loop; remove one of them",
        escaped(name)
    )]
    Loop { name: Vec<u8>, hops: usize },
    /// A hard link to nothing.
    #[error(
        "{}: hard link to {}, which is not there; the file must come before the link",
        escaped(name),
        escaped(target)
    )]
    LinkMissing { name: Vec<u8>, target: Vec<u8> },
    /// A hard link to a directory.
    #[error(
        "{}: hard link to {}, which is a directory; use a symbolic link",
        escaped(name),
        escaped(target)
    )]
    LinkToDirectory { name: Vec<u8>, target: Vec<u8> },
    /// A whiteout of nothing that could be a name.
    #[error(
        "{}: a whiteout must name what it hides; remove it from the layer",
        escaped(name)
    )]
    BadWhiteout { name: Vec<u8> },
    /// More names than there may be.
    #[error(
        "{}: one name more than the {limit} there may be, with the directories above them",
        escaped(name)
    )]
    TooMany { name: Vec<u8>, limit: u64 },
    /// A name that Linux cannot hold.
    #[error(transparent)]
    Name(#[from] tree::Error),
}
