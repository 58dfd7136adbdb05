//! File stamps: a file's state without its contents.

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};

use rustix::fs::{Stat, Statx, fstat, makedev};

/// The age at which a further change must show in a file's times: enough for FAT's two seconds and for a server's clock
/// that is a little off.
const SETTLED: Duration = Duration::from_secs(10);

/// Tells one state of a file from another without reading it. Every write changes the last part, also one that puts the
/// time of modification back; but the clock of file times is coarse, see [`FileStamp::is_settled`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStamp {
    /// Length in bytes.
    pub size: u64,
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    modified: i64,
    changed: i64,
    modified_nanos: u32,
    changed_nanos: u32,
}

impl FileStamp {
    /// Returns the stamp of an open file.
    ///
    /// # Errors
    /// Those of fstat(2).
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        Ok(Self::from(&fstat(file)?))
    }

    /// Returns all parts, to be hashed.
    pub fn to_bytes(&self) -> [u8; 48] {
        let mut bytes = [0; 48];
        let nanos = u64::from(self.modified_nanos) << 32 | u64::from(self.changed_nanos);
        let times = [self.modified as u64, self.changed as u64, nanos];
        let words = [self.size, self.device, self.inode]
            .into_iter()
            .chain(times);
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// True if the last change is so long ago that another one cannot leave the same times.
    pub fn is_settled(&self) -> bool {
        self.is_settled_at(SystemTime::now())
    }

    /// True if that holds for any change after `now`, a time before the stamp was taken.
    pub fn is_settled_at(&self, now: SystemTime) -> bool {
        let last = u64::try_from(self.modified.max(self.changed)).unwrap_or(0);
        let now = now.duration_since(SystemTime::UNIX_EPOCH);
        now.is_ok_and(|now| now.as_secs() > last.saturating_add(SETTLED.as_secs()))
    }
}

impl From<&Stat> for FileStamp {
    fn from(stat: &Stat) -> Self {
        Self {
            size: stat.st_size as u64,
            device: stat.st_dev,
            inode: stat.st_ino,
            modified: stat.st_mtime,
            changed: stat.st_ctime,
            modified_nanos: stat.st_mtime_nsec as u32,
            changed_nanos: stat.st_ctime_nsec as u32,
        }
    }
}

impl From<&Statx> for FileStamp {
    fn from(stat: &Statx) -> Self {
        Self {
            size: stat.stx_size,
            device: makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            modified: stat.stx_mtime.tv_sec,
            changed: stat.stx_ctime.tv_sec,
            modified_nanos: stat.stx_mtime.tv_nsec,
            changed_nanos: stat.stx_ctime.tv_nsec,
        }
    }
}

impl From<&Metadata> for FileStamp {
    fn from(meta: &Metadata) -> Self {
        Self {
            size: meta.len(),
            device: meta.dev(),
            inode: meta.ino(),
            modified: meta.mtime(),
            changed: meta.ctime(),
            modified_nanos: meta.mtime_nsec() as u32,
            changed_nanos: meta.ctime_nsec() as u32,
        }
    }
}

/// All parts, in characters that a file name may have.
impl fmt::Display for FileStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:x}-{:x}-{:x}-{:x}.{:x}-{:x}.{:x}",
            self.device,
            self.inode,
            self.size,
            self.modified,
            self.modified_nanos,
            self.changed,
            self.changed_nanos
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use rustix::fs::{AtFlags, StatxFlags, statx};

    use super::*;

    #[test]
    fn a_stamp_tells_a_rewritten_file_even_when_its_size_and_time_are_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "one").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let before = FileStamp::of(&file).unwrap();
        assert_eq!(before, FileStamp::from(&path.metadata().unwrap()));
        let statx = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
        assert_eq!(before, FileStamp::from(&statx.unwrap()));
        assert!(!before.is_settled());
        let time = file.metadata().unwrap().modified().unwrap();
        // Longer than the coarsest clock of a local file system ticks.
        std::thread::sleep(Duration::from_millis(30));
        fs::write(&path, "two").unwrap();
        file.set_modified(time).unwrap();
        let after = FileStamp::of(&file).unwrap();
        assert_ne!(before.to_string(), after.to_string());
        assert_eq!(before.modified, after.modified);
    }

    #[test]
    fn only_a_stamp_of_long_ago_is_settled() {
        let mut stamp = FileStamp::of(tempfile::tempfile().unwrap()).unwrap();
        stamp.changed -= 60;
        assert!(!stamp.is_settled());
        stamp.modified -= 60;
        assert!(stamp.is_settled());
        stamp.modified = i64::MAX;
        assert!(!stamp.is_settled());
    }
}
