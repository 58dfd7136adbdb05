//! Files that go in before the command runs and come out when it has ended.

use std::ffi::OsString;
use std::path::PathBuf;

use rdvm_hostfs::units::ByteSize;

/// How much `--copy-out` brings back at most.
pub const COPY_OUT_LIMIT: ByteSize = ByteSize::mib(1024);

/// Files that go in and out.
#[derive(Debug, Clone)]
pub struct Copies {
    /// Before the command runs.
    pub into: Vec<CopyIn>,
    /// What of it stays out, as lines of a `.gitignore`.
    pub exclude: Vec<String>,
    /// When the command has ended.
    pub out: Vec<CopyOut>,
    /// How many bytes come out at most, all files together.
    pub limit: ByteSize,
    /// Which symbolic links come out.
    pub links: Links,
}

/// Which symbolic links come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Links {
    /// Those that lead to something that is copied along, or would.
    #[default]
    Inside,
    /// All, as they are.
    Keep,
}

impl Default for Copies {
    fn default() -> Self {
        Self {
            into: Vec::new(),
            exclude: Vec::new(),
            out: Vec::new(),
            limit: COPY_OUT_LIMIT,
            links: Links::default(),
        }
    }
}

/// `--copy-in HOST:GUEST`. With a slash at its end GUEST is the directory to put it into, else what it becomes; a
/// directory is merged into one that is there, a file goes into one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyIn {
    /// A file or a directory.
    pub host: PathBuf,
    /// Where it goes; from the working directory when relative.
    pub guest: OsString,
}

/// `--copy-out GUEST:HOST`, by the same rules the other way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOut {
    /// A file or a directory; from the working directory when relative.
    pub guest: OsString,
    /// Where it goes.
    pub host: PathBuf,
}
