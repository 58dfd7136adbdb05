//! Why there is no kernel to boot: what is wrong with a file, and the remedy.
//!
//! Owns the texts; opens nothing.

use std::io;
use std::path::{Path, PathBuf};

use super::field::ParseError;
use rdvm_hostfs::escape::{reason, shown};

/// Why `open` has no kernel.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// The file that was asked for, or that the search came to, cannot be used.
    #[error("{}: {problem}; {}", shown(path), problem.remedy(path))]
    File { path: PathBuf, problem: FileError },
    /// The search came to no file at all.
    #[error("kernel: none found in {places}{unusable}; {INSTALL}")]
    None { places: String, unusable: String },
}

/// The flaw of one file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum FileError {
    /// There is none of that name.
    #[error("no such file")]
    Missing,
    /// It may not be read (Ubuntu installs its kernels so).
    #[error("permission denied")]
    Unreadable,
    /// Not a file.
    #[error("is {kind}, not a file")]
    NotRegular { kind: &'static str },
    /// More than 512 MiB.
    #[error("{bytes} bytes are more than the 536870912 that are read of a bzImage")]
    TooLarge { bytes: u64 },
    /// It was written to while it was read.
    #[error("changed while it was read")]
    Changed,
    /// Its contents are not those of a kernel that can be booted.
    #[error("{0}")]
    Flawed(#[from] ParseError),
    /// A vmlinux that only an engine with 64-bit entry can start.
    #[error("has no PVH entry (CONFIG_PVH), by which QEMU starts an uncompressed kernel")]
    NoPvh,
    /// Anything else that the system said.
    #[error("{}", reason(.0))]
    Io(io::Error),
}

const INSTALL: &str = "sudo apt install linux-image-cloud-amd64 (Debian) or linux-image-kvm (Ubuntu), \
                       or name one with -k FILE";

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing,
            io::ErrorKind::PermissionDenied => Self::Unreadable,
            // Only what lies within the file's length is ever asked for.
            io::ErrorKind::UnexpectedEof => Self::Changed,
            _ => Self::Io(error),
        }
    }
}

impl FileError {
    /// Returns the way out for the user, when the file is `path`.
    pub fn remedy(&self, path: &Path) -> String {
        match self {
            Self::Unreadable => {
                let path = shown(path);
                format!(
                    "sudo chmod a+r {path}, or for good sudo dpkg-statoverride --update --add root root 0644 {path}, \
                     or name another with -k FILE"
                )
            }
            Self::Changed => "try again when its installation has ended".into(),
            Self::NoPvh => "name the bzImage of the same kernel with -k FILE".into(),
            _ => "rdvm kernel list shows those that can be used, -k FILE names one".into(),
        }
    }
}

/// Returns the way out when there is no kernel at all.
pub(super) fn install() -> &'static str {
    INSTALL
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn an_unreadable_kernel_comes_with_the_commands_that_make_it_readable() {
        let error = Error::File {
            path: "/boot/vmlinuz-6.8.0-31-generic".into(),
            problem: io::Error::from(io::ErrorKind::PermissionDenied).into(),
        };
        assert_eq!(
            error.to_string(),
            "/boot/vmlinuz-6.8.0-31-generic: permission denied; sudo chmod a+r /boot/vmlinuz-6.8.0-31-generic, or for \
             good sudo dpkg-statoverride --update --add root root 0644 /boot/vmlinuz-6.8.0-31-generic, or name another \
             with -k FILE"
        );
    }
}
