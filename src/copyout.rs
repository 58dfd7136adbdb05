//! `--copy-out`: frames of the guest's → files of the host, staged and moved into position when they are whole.
//!
//! The guest is not believed. Its names are checked one by one; whatever it sends is first put below a directory of our
//! own, beside where it is to go; from there it is moved by names below descriptors that are held since before the
//! machine ran, through no link and to no other file system. Who decides what may come is `docs/copies.md`.

mod beat;
mod beneath;
mod destination;
mod error;
mod incoming;
mod place;
mod receiver;
mod stage;
mod thread;
mod tree;

use serde::Serialize;

pub use self::destination::Error;
pub use self::receiver::Receiver;
pub use self::thread::CopyOut;

use self::error::CopyError;

/// How many files, directories, links and other things may come at most.
pub(crate) const ENTRIES: u64 = 1_000_000;
/// How many bytes the paths of everything and the targets of links, which are kept until the end, may have together.
pub(crate) const NAMES: u64 = 256 << 20;

/// The result of one `--copy-out`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// The path in the guest, fit to be shown.
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
    /// Links that were left out, since they lead out of what is copied. They count among `left_out` too.
    #[serde(skip_serializing_if = "is_zero")]
    pub links_left_out: u64,
    /// The first of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_links: Vec<LeftLink>,
    /// Why it is not there; then nothing of it is, unless the text says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Number of links left out that the report names.
pub(crate) const LINKS_NAMED: usize = 100;
/// And in the line on stderr.
const LINKS_SAID: usize = 3;

/// A link that was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftLink {
    /// Its path below what was asked for, fit to be shown.
    pub path: String,
    /// Where it leads, fit to be shown.
    pub target: String,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Copied {
    /// The result for a path that could not be copied.
    fn failed(guest: String, host: String, error: &CopyError) -> Self {
        Self {
            guest,
            host,
            files: 0,
            directories: 0,
            links: 0,
            bytes: 0,
            left_out: 0,
            links_left_out: 0,
            left_links: Vec::new(),
            error: Some(error.to_string()),
        }
    }

    /// True if all that was asked for is there, but for what no copy has.
    pub(crate) fn is_complete(&self) -> bool {
        self.error.is_none() && self.links_left_out == 0
    }

    /// The error, as a line for the user.
    pub fn message(&self) -> Option<String> {
        let guest = &self.guest;
        if let Some(error) = &self.error {
            return Some(format!("--copy-out: {guest}: {error}"));
        }
        let said = self.left_links.iter().take(LINKS_SAID);
        let said: Vec<_> = said
            .map(|link| format!("{} -> {}", link.path, link.target))
            .collect();
        let more = match self.links_left_out.saturating_sub(said.len() as u64) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let said = said.join(", ");
        (self.links_left_out > 0).then(|| {
            format!(
                "--copy-out: {guest}: left out links that lead out of it: {said}{more}; all else is there, and --copy-links keep copies links as they are"
            )
        })
    }
}

#[cfg(test)]
mod tests;
