//! Which image, and how it is to be read.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use rdvm_hostfs::Digest;
use rdvm_hostfs::units::ByteSize;

/// The IMAGE argument, and what is stacked on it.
#[derive(Debug, Clone, Default)]
pub struct ImageRef {
    /// A directory or an archive; `-` is an archive on standard input.
    pub path: PathBuf,
    /// Its form, unless the content is to tell.
    pub format: Option<Format>,
    /// A tar archive is the lowest layer of an image: names that begin with `.wh.` are whiteouts there too, of nothing.
    pub is_layer: bool,
    /// Directories and archives to put on top of it, in this order.
    pub layers: Vec<PathBuf>,
    /// Which image of an archive that holds several: a name with tag, or a digest.
    pub tag: Option<String>,
    /// The owners of a directory's files in the guest; archives have their own.
    pub owner: Ownership,
    /// A save file of `fakeroot -s`, which has the last word on owners, modes and devices.
    pub fakeroot: Option<PathBuf>,
    /// Bounds on what archives unpack to.
    pub limits: Limits,
    /// The content digest that it must have.
    pub expect: Expectation,
    /// The image is one of a store, whose blobs never change: `path` is the store's layout, and `tag` the manifest's digest.
    pub stored: Option<Stored>,
}

impl ImageRef {
    /// Returns the image's name for messages: its path, or the name that led to it in a store.
    pub fn name(&self) -> &Path {
        match &self.stored {
            Some(stored) => Path::new(&stored.name),
            None => &self.path,
        }
    }
}

/// An image of a store of blobs.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The name that led to it.
    pub name: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// A file whose lock keeps the image in the store as long as this is open.
    pub _in_use: Arc<File>,
}

/// Which image it has to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Expectation {
    /// The digest in the project's `rdvm.lock`, if there is one and it has the image.
    #[default]
    Lock,
    /// The one with this digest.
    Digest(Digest),
    /// Any.
    Nothing,
}

/// The form an image comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A directory that holds a root file system.
    Dir,
    /// A tar archive of a root file system.
    Tar,
    /// An archive of `docker save`.
    Docker,
    /// An OCI image layout, as a directory or in a tar archive.
    Oci,
    /// newc cpio, one archive or several behind each other.
    Cpio,
    /// An EROFS file system.
    Erofs,
}

/// Bounds on archives that unpack to more than expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes that archives may unpack to; by default half of the memory that the host has or the control group allows.
    pub unpacked: Option<ByteSize>,
    /// The most members that all archives may have together.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unpacked: None,
            entries: 4_000_000,
        }
    }
}

/// The owners of the image's files in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Ownership {
    /// As on the host for root, of the host or of a user namespace, who can give files to others; else everything is 0:0.
    #[default]
    Auto,
    /// Everything is 0:0.
    Root,
    /// As on the host.
    Keep,
    /// Host numbers are looked up in ranges; a number in none of them is an error that names the file.
    Map(Vec<OwnerRange>),
}

/// `count` numbers from `host` on become `guest` and following, for users and groups alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerRange {
    /// First number on the host.
    pub host: u32,
    /// The number in the guest.
    pub guest: u32,
    /// The length of the range.
    pub count: u32,
}

/// `-u USER[:GROUP]`, numbers or names of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSpec {
    /// User.
    pub user: Id,
    /// Group; the user's own when not given.
    pub group: Option<Id>,
}

/// Not `USER` or `USER:GROUP`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name or a number is missing; write USER or USER:GROUP")]
pub struct BadUser;

impl FromStr for UserSpec {
    type Err = BadUser;

    /// Reads each part that is a number as one.
    fn from_str(text: &str) -> Result<Self, BadUser> {
        let id = |text: &str| match text {
            "" => Err(BadUser),
            text => Ok(text
                .parse()
                .map_or_else(|_| Id::Name(text.to_owned()), Id::Number)),
        };
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        Ok(Self {
            user: id(user)?,
            group: group.map(id).transpose()?,
        })
    }
}

impl fmt::Display for UserSpec {
    /// As it is written: `USER` or `USER:GROUP`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.user)?;
        match &self.group {
            Some(group) => write!(f, ":{group}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A number, or a name to be looked up in the image's own `/etc/passwd` or `/etc/group`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Id {
    /// A number.
    Number(u32),
    /// A name.
    Name(String),
}
