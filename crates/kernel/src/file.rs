//! Opening files that somebody else may have made: regular ones only, no waiting, one open and one read.
//!
//! Takes paths, gives `File` at position 0 (all reading is by offset, so it stays there). Knows nothing of kernels.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::SystemTime;

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
/// What is wrong with it; `NotRegular` for anything but a file.
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
pub fn read_all(file: &File) -> Result<(Vec<u8>, Stamp), FileError> {
    let before = Stamp::of(file)?;
    let bytes = before.bytes;
    if bytes > MAX_BYTES {
        return Err(FileError::TooLarge { bytes });
    }
    let read = read_at(file, 0, bytes as usize);
    if Stamp::of(file)? != before {
        return Err(FileError::Changed);
    }
    Ok((read?, before))
}

/// What tells one state of one file from another without reading it. Any write changes the last part, also one that
/// puts the time of modification back; except that the clock of file times is coarse, see `is_settled`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// That of an open file.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    /// Whether the last change is so long ago that another one cannot get the same time any more. Ten seconds are
    /// enough for FAT's two and for a server's clock that is a little off.
    pub(super) fn is_settled(&self) -> bool {
        let last = self.modified.0.max(self.changed.0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.is_ok_and(|now| now.as_secs() as i64 > last.saturating_add(10))
    }

    /// The same with times of a minute before, for tests.
    #[cfg(test)]
    pub(super) fn long_ago(mut self) -> Self {
        self.modified.0 -= 60;
        self.changed.0 = self.modified.0;
        self
    }

    /// All of it in letters that a file name may have.
    pub(super) fn name(&self) -> String {
        let (modified, changed) = (self.modified, self.changed);
        format!(
            "{:x}-{:x}-{:x}-{:x}.{:x}-{:x}.{:x}",
            self.device, self.inode, self.bytes, modified.0, modified.1, changed.0, changed.1
        )
    }
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

    #[test]
    fn a_stamp_tells_a_rewritten_file_even_when_its_size_and_time_are_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "one").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let before = Stamp::of(&file).unwrap();
        assert!(!before.is_settled());
        let time = file.metadata().unwrap().modified().unwrap();
        // Longer than the coarsest clock of a local file system ticks.
        std::thread::sleep(std::time::Duration::from_millis(30));
        std::fs::write(&path, "two").unwrap();
        file.set_modified(time).unwrap();
        let after = Stamp::of(&file).unwrap();
        assert_ne!(before.name(), after.name());
        assert_eq!(before.modified, after.modified);
    }

    #[test]
    fn only_a_stamp_of_long_ago_is_settled() {
        let mut stamp = Stamp::of(&tempfile::tempfile().unwrap()).unwrap();
        stamp.changed.0 -= 60;
        assert!(!stamp.is_settled());
        stamp.modified.0 -= 60;
        assert!(stamp.is_settled());
        stamp.modified.0 = i64::MAX;
        assert!(!stamp.is_settled());
    }
}
