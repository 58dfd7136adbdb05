//! `--copy-out`: frames of the guest's → files of the host, staged and moved into position when they are whole.
//!
//! The guest is not believed. Its names are checked one by one; whatever it sends is first put below a directory of our
//! own, beside where it is to go; from there it is moved by names below descriptors that are held since before the
//! machine ran, through no link and to no other file system. Who decides what may come is `docs/copies.md`.

mod beneath;
mod destination;
mod fault;
mod incoming;
mod place;
mod receiver;
mod stage;
mod tree;

use serde::Serialize;

pub use self::destination::Error;
pub use self::receiver::Receiver;

/// How many files, directories, links and other things may come at most.
pub const ENTRIES: u64 = 1_000_000;
/// How many bytes the paths of everything and the targets of links, which are kept until the end, may have together.
pub const NAMES: u64 = 256 << 20;

/// What became of one `--copy-out`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// What was asked for, fit to be shown.
    pub guest: String,
    /// Where it was to go, fit to be shown.
    pub host: String,
    /// Regular files that have come.
    pub files: u64,
    /// Directories, the one asked for included.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// Bytes in the files.
    pub bytes: u64,
    /// Devices, pipes and sockets that were left out, and directories whose content was, since something is mounted on
    /// them in the guest.
    pub left_out: u64,
    /// Why it is not there; then nothing of it is, unless the text says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Copied {
    /// The error as a line for the user.
    pub fn message(&self) -> Option<String> {
        let error = self.error.as_ref()?;
        Some(format!("--copy-out: {}: {error}", self.guest))
    }
}

#[cfg(test)]
mod tests;
