//! Opening files that others may have made: regular ones only, no waiting, one open and one read.
//!
//! Takes paths, returns `File` at position 0 (all reading is by offset, so it stays there). Knows nothing of kernels.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rdvm_hostfs::FileStamp;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat};

use super::error::FileError;

/// The most that is ever read into memory.
pub(super) const MAX_BYTES: u64 = 512 << 20;

/// Whose symbolic links are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// The host's own: all.
    Follow,
    /// In an image: none in the last two components (the file and the directory that it is in), so that a link in an
    /// image cannot name a file of the host.
    Refuse,
}

/// Opens a regular file for reading. A fifo is refused without waiting for its writer.
///
/// # Errors
/// Those of opening it; `NotRegular` for anything but a file.
pub fn open(path: &Path, links: Links) -> Result<File, FileError> {
    let directory: OwnedFd;
    let (at, name, look, flags) = match (links, path.parent(), path.file_name()) {
        (Links::Refuse, Some(parent), Some(name)) => {
            directory = open_dir(parent, links).map_err(io::Error::from)?;
            let (look, flags) = (AtFlags::SYMLINK_NOFOLLOW, OFlags::NOFOLLOW);
            (directory.as_fd(), Path::new(name), look, flags)
        }
        _ => (CWD, path, AtFlags::empty(), OFlags::empty()),
    };
    // A look before the open, since opening a device can do something; and one after it, since names can change.
    regular(statat(at, name, look).map_err(io::Error::from)?.st_mode)?;
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = openat(at, name, flags, Mode::empty()).map_err(io::Error::from)?;
    let file = File::from(file);
    regular(file.metadata()?.mode())?;
    Ok(file)
}

/// The names in a directory, in no order.
///
/// # Errors
/// Those of opening and reading it; a symbolic link is one when links are refused.
pub(super) fn names(directory: &Path, links: Links) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(open_dir(directory, links)?)? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        names.push(name);
    }
    Ok(names)
}

/// `length` bytes from `offset` on.
///
/// # Errors
/// Those of reading; `UnexpectedEof` when the file is shorter.
pub fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// All of the file, once, and the stamp that it had all the while.
///
/// # Errors
/// `TooLarge`; `Changed` when it was written to meanwhile; those of reading.
pub fn read_all(file: &File) -> Result<(Vec<u8>, FileStamp), FileError> {
    let before = FileStamp::of(file)?;
    let bytes = before.size;
    if bytes > MAX_BYTES {
        return Err(FileError::TooLarge { bytes });
    }
    let read = read_at(file, 0, bytes as usize);
    if FileStamp::of(file)? != before {
        return Err(FileError::Changed);
    }
    Ok((read?, before))
}

fn open_dir(path: &Path, links: Links) -> rustix::io::Result<OwnedFd> {
    let flags = match links {
        Links::Follow => OFlags::empty(),
        Links::Refuse => OFlags::NOFOLLOW,
    };
    let flags = flags | OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
}

fn regular(mode: u32) -> Result<(), FileError> {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::RegularFile => return Ok(()),
        FileType::Directory => "a directory",
        FileType::Fifo => "a fifo",
        FileType::Symlink => "a symbolic link in an image, which is not followed",
        FileType::Socket => "a socket",
        _ => "a device",
    };
    Err(FileError::NotRegular { kind })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn only_regular_files_are_opened_and_a_fifo_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(CWD, &fifo, mode).unwrap();
        for (path, want) in [
            (fifo.as_path(), "is a fifo, not a file"),
            (dir.path(), "is a directory, not a file"),
            (Path::new("/dev/zero"), "is a device, not a file"),
            (Path::new("/nowhere/file"), "no such file"),
            (Path::new("/dev/null/file"), "no such file"),
            (Path::new(""), "no such file"),
        ] {
            assert_eq!(open(path, Links::Follow).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn links_in_an_image_lead_nowhere() {
        let image = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let secret = outside.path().join("secret");
        std::fs::write(&secret, "host").unwrap();
        let boot = image.path().join("boot");
        std::fs::create_dir(&boot).unwrap();
        std::fs::write(boot.join("real"), "guest").unwrap();
        symlink(&secret, boot.join("absolute")).unwrap();
        symlink("real", boot.join("inside")).unwrap();
        symlink(outside.path(), image.path().join("moved")).unwrap();
        let opens = |path: &str| open(&image.path().join(path), Links::Refuse).is_ok();
        assert!(opens("boot/real"));
        assert!(!opens("boot/absolute"));
        assert!(!opens("boot/inside"));
        assert!(!opens("moved/secret"));
        assert!(names(&image.path().join("moved"), Links::Refuse).is_err());
        assert!(open(&boot.join("absolute"), Links::Follow).is_ok());
    }

    #[test]
    fn all_of_a_file_is_read_and_its_position_stays_at_the_start() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"kernel").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        assert_eq!(read_all(&file).unwrap().0, b"kernel");
        assert_eq!(std::io::Seek::stream_position(&mut file).unwrap(), 0);
    }

    #[test]
    fn a_file_that_is_larger_than_the_limit_is_not_read() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(MAX_BYTES + 1).unwrap();
        let problem = read_all(&file).unwrap_err();
        assert!(matches!(problem, FileError::TooLarge { bytes } if bytes == MAX_BYTES + 1));
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut long = false;
                while !stop.load(Ordering::Relaxed) {
                    long = !long;
                    let length = if long { 8 << 20 } else { 7 << 20 };
                    file.as_file().set_len(length).unwrap();
                }
            });
            let reader = File::open(file.path()).unwrap();
            let noticed = (0..1000).any(|_| matches!(read_all(&reader), Err(FileError::Changed)));
            stop.store(true, Ordering::Relaxed);
            assert!(noticed);
        });
    }
}
