//! Output files that appear whole or not at all.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// A file being written. It has no name until it is put in place, so nothing is left of it whatever happens to us;
/// on file systems that cannot do that it has a temporary one, removed on drop.
#[derive(Debug)]
pub struct Draft {
    file: File,
    target: PathBuf,
    state: State,
}

#[derive(Debug)]
enum State {
    Nameless,
    Named(PathBuf),
    /// A pipe or a device (`/dev/null`, `/dev/fd/3`), written to as it stands.
    Special,
}

impl Draft {
    /// Starts a file that is to become `target`. A link is followed, so that the file it names is replaced and the
    /// link stays.
    ///
    /// Errors: the directory is missing or cannot be written to; `target` is a directory.
    pub fn beside(target: &Path) -> io::Result<Self> {
        let target = target.canonicalize().unwrap_or_else(|_| target.to_owned());
        match target.metadata() {
            Ok(meta) if meta.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(meta) if !meta.is_file() => {
                let file = File::options().write(true).open(&target)?;
                return Ok(Self {
                    file,
                    target,
                    state: State::Special,
                });
            }
            _ => {}
        }
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(directory, flags, Mode::from_raw_mode(0o666)) {
            Ok(fd) => Ok(Self {
                file: fd.into(),
                target,
                state: State::Nameless,
            }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let name = temporary_name(&target)?;
                let file = File::options()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(&name)?;
                Ok(Self {
                    file,
                    target,
                    state: State::Named(name),
                })
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Whether any place in it can be written to, which a pipe's cannot.
    pub fn is_seekable(&self) -> bool {
        !matches!(self.state, State::Special)
    }

    /// Gives the file its name.
    ///
    /// Errors: those of link and rename; the file is removed then.
    pub fn put_in_place(mut self) -> io::Result<()> {
        if matches!(self.state, State::Nameless) {
            // A link cannot replace a file, a rename can: so it gets a temporary name for a moment.
            let name = temporary_name(&self.target)?;
            let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            rustix::fs::linkat(CWD, own, CWD, &name, AtFlags::SYMLINK_FOLLOW)?;
            self.state = State::Named(name);
        }
        if let State::Named(name) = &self.state {
            std::fs::rename(name, &self.target)?;
            self.state = State::Special;
        }
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let State::Named(name) = &self.state {
            // It may be gone already; there is nothing else to be done.
            let _ = std::fs::remove_file(name);
        }
    }
}

/// Whether a file may have `size` bytes. A write beyond `ulimit -f` is not only an error but a deadly signal, so what can be
/// done without is not even tried.
///
/// Errors: it may not.
pub fn fits_limit(size: u64) -> io::Result<()> {
    match getrlimit(Resource::Fsize).current {
        Some(limit) if limit < size => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("the file size limit (ulimit -f) is {limit} bytes, {size} are needed"),
        )),
        _ => Ok(()),
    }
}

fn temporary_name(target: &Path) -> io::Result<PathBuf> {
    let mut name = OsString::from(".");
    name.push(target.file_name().ok_or(io::ErrorKind::InvalidInput)?);
    name.push(format!(".{}.tmp", std::process::id()));
    Ok(target.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn write(target: &Path, bytes: &[u8]) -> io::Result<()> {
        let draft = Draft::beside(target)?;
        draft.file().write_all(bytes)?;
        draft.put_in_place()
    }

    #[test]
    fn a_draft_that_is_dropped_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        write(&target, b"old").unwrap();
        let draft = Draft::beside(&target).unwrap();
        draft.file().write_all(b"half").unwrap();
        drop(draft);
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_and_a_device_is_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        std::fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink("target", &link).unwrap();
        write(&link, b"new").unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert!(link.is_symlink());
        write(Path::new("/dev/null"), b"gone").unwrap();
        assert!(write(dir.path(), b"").is_err());
    }
}
