//! Why an image was not read.

use std::io;
use std::path::PathBuf;

use super::blobs::ParseError;
use super::{cpio, erofs, fs, limit, stream, tar, tree};
use rdvm_hostfs::escape::{reason, shown};

/// Why an image was not read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// There is nothing at the path.
    #[error(
        "{}: no such file or directory; give the path of a directory or an archive",
        shown(path)
    )]
    Missing { path: PathBuf },
    /// The image itself cannot be looked at.
    #[error(
        "{}: the image cannot be read: {}; run as a user who may",
        shown(path),
        reason(source)
    )]
    Image { path: PathBuf, source: io::Error },
    /// Neither a directory nor an archive.
    #[error(
        "{}: is {what}, which is no image; give a directory, or what tar, docker save, skopeo, cpio -H newc or mkfs.erofs made",
        shown(path)
    )]
    WrongKind { path: PathBuf, what: &'static str },
    /// An archive without members.
    #[error("{shown}: nothing is in it; fill it with a root file system first")]
    Nothing { shown: String },
    /// It is not of the form that was asked for.
    #[error("{}: is not {wanted}", shown(path))]
    NotOfFormat { path: PathBuf, wanted: &'static str },
    /// Compressed twice.
    #[error("{shown}: is compressed twice; compress it once")]
    Nested { shown: String },
    /// Several images to choose from are only in archives that hold images.
    #[error("{}: there is only one image in it, and it has no name", shown(path))]
    NoTags { path: PathBuf },
    /// An archive was written to while it was read.
    #[error(
        "{shown}: cannot be read: {}; try again when nothing writes to it",
        reason(source)
    )]
    Archive { shown: String, source: io::Error },
    /// An archive of images is not as it should be.
    #[error("{shown}: {flaw}")]
    Bundle {
        shown: String,
        flaw: Box<ParseError>,
    },
    /// A layer cannot be applied.
    #[error("layer {number} of {count}: {source}")]
    Layer {
        number: usize,
        count: usize,
        source: Box<Error>,
    },
    /// A member of an archive cannot be put where it says.
    #[error("{shown}: {source}")]
    Member { shown: String, source: fs::Error },
    /// Compressed data cannot be unpacked.
    #[error(transparent)]
    Stream(#[from] stream::Error),
    /// A tar archive cannot be read.
    #[error(transparent)]
    Tar(#[from] tar::Error),
    /// A cpio archive cannot be read.
    #[error(transparent)]
    Cpio(#[from] cpio::Error),
    /// An EROFS file system cannot be read.
    #[error(transparent)]
    Erofs(#[from] erofs::Error),
    /// An image comes to too much.
    #[error(transparent)]
    Limit(#[from] limit::Error),
    /// A directory without entries.
    #[error(
        "{}: the directory is empty; fill it with a root file system first",
        shown(path)
    )]
    Empty { path: PathBuf },
    /// Something inside cannot be read.
    #[error(
        "{shown}: cannot be read: {}; run as a user who may, or remove it from the image",
        reason(source)
    )]
    Unreadable { shown: String, source: io::Error },
    /// Something was renamed, removed or replaced between two looks at it.
    #[error("{shown}: changed while it was read; try again when nothing writes to the image")]
    Changed { shown: String },
    /// A file type this system does not define.
    #[error("{shown}: is of an unknown file type; remove it from the image")]
    UnknownType { shown: String },
    /// A character device 0:0.
    #[error(
        "{shown}: is an overlayfs whiteout (character device 0:0); mount the overlay and give the merged directory"
    )]
    Whiteout { shown: String },
    /// An owner that the map does not know.
    #[error("{shown}: {what} {number} is in no range of the owner map")]
    OwnerUnmapped {
        shown: String,
        what: &'static str,
        number: u32,
    },
    /// A save file, and no directory that it could be about.
    #[error(
        "{}: is no directory, and an archive says itself who owns its files",
        shown(path)
    )]
    FakerootOfArchive { path: PathBuf },
    /// The save file cannot be read.
    #[error(
        "{}: the fakeroot save file cannot be read: {}; write one with fakeroot -s FILE",
        shown(path),
        reason(source)
    )]
    SaveFile { path: PathBuf, source: io::Error },
    /// A line of the save file is malformed or there twice.
    #[error(
        "{}: line {line} is not one that fakeroot writes, or repeats a file; write the file anew with fakeroot -s",
        shown(path)
    )]
    SaveFileLine { path: PathBuf, line: usize },
    /// The save file says of a file what cannot be.
    #[error(
        "{shown}: the fakeroot save file knows this inode as another kind of file; use the save file of this very directory"
    )]
    SaveFileStale { shown: String },
    /// `user.containers.override_stat` does not read as what container engines write.
    #[error(
        "{shown}: its attribute user.containers.override_stat is \"{value}\" and not UID:GID:MODE[:KIND]; correct or remove it with setfattr"
    )]
    OverrideStat { shown: String, value: String },
    /// `user.containers.override_stat` makes of a file what cannot be.
    #[error(
        "{shown}: its attribute user.containers.override_stat is \"{value}\", which this file cannot stand for; remove the attribute with setfattr -x"
    )]
    OverrideStatStale { shown: String, value: String },
    /// The entries do not make a tree.
    #[error(transparent)]
    Tree(#[from] tree::Error),
}

/// A way out that is the caller's: a field of [`ImageRef`](crate::reference::ImageRef) to set or to leave. Messages have
/// no words for it, as they do not know what the user calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Export the image from docker, since the path names nothing.
    Export,
    /// Raise `limits.unpacked`.
    RaiseUnpacked,
    /// Raise `limits.entries`.
    RaiseEntries,
    /// Set `tag`, to choose an image.
    NameImage,
    /// Set `tag` to one of the names in the message.
    NameOneOfThose,
    /// Set `tag` to something else.
    NameAnother,
    /// Leave `tag` unset.
    OmitName,
    /// Leave `format` unset.
    OmitFormat,
    /// Leave `fakeroot` unset.
    OmitFakeroot,
    /// Add a range to `owner`.
    AddOwnerRange,
    /// Run the command as a user other than the image's.
    NameUser,
}

impl Error {
    /// Returns the way out that the message leaves to the caller; most messages end with one of their own.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Missing { .. } => Some(Remedy::Export),
            Self::NotOfFormat { .. } => Some(Remedy::OmitFormat),
            Self::NoTags { .. } => Some(Remedy::OmitName),
            Self::OwnerUnmapped { .. } => Some(Remedy::AddOwnerRange),
            Self::FakerootOfArchive { .. } => Some(Remedy::OmitFakeroot),
            Self::Bundle { flaw, .. } => flaw.remedy(),
            Self::Layer { source, .. } => source.remedy(),
            Self::Limit(limit)
            | Self::Stream(stream::Error::Limit(limit))
            | Self::Tar(tar::Error::Limit(limit))
            | Self::Erofs(erofs::Error::Limit(limit))
            | Self::Cpio(
                cpio::Error::Limit(limit) | cpio::Error::Stream(stream::Error::Limit(limit)),
            ) => Some(limit.remedy()),
            Self::Member {
                source: fs::Error::TooMany { .. },
                ..
            } => Some(Remedy::RaiseEntries),
            _ => None,
        }
    }

    /// For an archive that cannot be read.
    pub(super) fn read(shown: &str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Archive {
            shown: shown.to_owned(),
            source,
        }
    }
}
