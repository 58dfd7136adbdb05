//! Files that go in before the command runs and come out when it has ended.

use std::ffi::OsString;
use std::path::PathBuf;

use rdvm_hostfs::units::ByteSize;

/// The default of `--copy-out-limit`.
pub(crate) const COPY_OUT_LIMIT: ByteSize = ByteSize::mib(1024);

/// Files copied in and out.
#[derive(Debug, Clone)]
pub struct Copies {
    /// Copied in before the command runs.
    pub into: Vec<CopyIn>,
    /// True if what is copied in keeps its owners, which are the command's user and group otherwise.
    pub keep_owners: bool,
    /// Patterns of files that are not copied in, as lines of a `.gitignore`.
    pub exclude: Vec<String>,
    /// Copied out when the command has ended.
    pub out: Vec<CopyOut>,
    /// The most bytes that are copied out, all files together.
    pub limit: ByteSize,
    /// The symbolic links that are copied out.
    pub links: Links,
}

/// The symbolic links that are copied out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Links {
    /// Links to targets inside the copied tree.
    #[default]
    Inside,
    /// All links, unchanged.
    Keep,
}

impl Default for Copies {
    fn default() -> Self {
        Self {
            into: Vec::new(),
            keep_owners: false,
            exclude: Vec::new(),
            out: Vec::new(),
            limit: COPY_OUT_LIMIT,
            links: Links::default(),
        }
    }
}

/// `--copy-in HOST:GUEST`. A GUEST that ends in a slash is the directory to copy into, else the copy's own path; a
/// directory is merged into an existing one, a file goes into one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyIn {
    /// A file or a directory.
    pub host: PathBuf,
    /// Its destination; from the working directory when relative.
    pub guest: OsString,
}

/// `--copy-out GUEST:HOST`, by the same rules in the other direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOut {
    /// A file or a directory; from the working directory when relative.
    pub guest: OsString,
    /// Its destination.
    pub host: PathBuf,
}
