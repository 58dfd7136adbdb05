//! The file that `--report` names.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::Report;
use rdvm_hostfs::atomic::AtomicFile;
use rdvm_hostfs::escape::{reason, shown};

/// A report's file, which gets its name only when it is whole.
#[derive(Debug)]
pub struct ReportFile {
    path: PathBuf,
    draft: AtomicFile,
}

/// A report's file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error(
    "--report: {}: {}; name a file in a directory that can be written to",
    shown(path),
    reason(source)
)]
pub struct FileError {
    path: PathBuf,
    source: io::Error,
}

impl ReportFile {
    /// Starts the report at `path`, `-` for standard output. An old one goes at once: whatever happens to us, it says nothing
    /// of this run.
    ///
    /// # Errors
    /// It cannot be written there.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let target = match path == Path::new("-") {
            true => Path::new("/dev/stdout"),
            false => path,
        };
        let draft = AtomicFile::beside(target).and_then(|draft| {
            draft.remove_old()?;
            Ok(draft)
        });
        let draft = draft.map_err(|source| FileError::new(path, source))?;
        Ok(Self {
            path: path.to_owned(),
            draft,
        })
    }

    /// Returns the directory in which the report gets its name, if it is to have one.
    pub fn directory(&self) -> Option<&Path> {
        self.draft.directory()
    }

    /// Writes the report.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(self, report: &Report) -> Result<(), FileError> {
        let written = self.draft.file().write_all(report.to_json().as_bytes());
        written
            .and_then(|()| self.draft.put_in_place())
            .map_err(|source| FileError::new(&self.path, source))
    }
}

impl FileError {
    fn new(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self { path, source }
    }
}
