//! One name in an open directory → [`Entry`]: its kind, owner, mode, and a small file's bytes.
//!
//! A regular file is opened right here, and looked at through its descriptor: finding a name costs more than all the
//! rest, so files that fit a page are read at once instead of being found again later. That also finds files that may
//! not be read before anything is written. Extended attributes are read through open descriptors too, which is why a
//! directory's entry is made when the directory is read and not when its name is.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, FileType, RawMode, Stat, Statx, StatxAttributes, StatxFlags};
use rustix::fs::{fstat, major, makedev, minor, readlinkat, statx};
use rustix::io::{Errno, pread};

use super::fakeroot::{Pretended, SaveFile};
use super::host::{HostDir, HostFile, open_file};
use super::tree::{Content, Entry, FileBody, Kind, LinkId, Xattrs};
use super::xattr::{self, HostXattrs};
use super::{Error, override_stat};
use crate::reference::Ownership;
use rdvm_hostfs::FileStamp;
use rdvm_hostfs::escape::escaped;

/// The largest file that is read when it is found, in bytes: its memory costs one page fault, finding it again more.
pub(super) const SMALL: u64 = 4096;
/// The most bytes of small files that are kept; the rest is read when the initrd is written.
const KEEP: u64 = 64 << 20;

/// The part of `stat` that matters here.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileStat {
    mode: RawMode,
    nlink: u64,
    uid: u32,
    gid: u32,
    rdev: u64,
    size: u64,
    mtime: i64,
    pub(super) dev: u64,
    pub(super) ino: u64,
    /// Something is mounted there.
    mounted: bool,
}

impl FileStat {
    pub(super) fn is_directory(&self) -> bool {
        FileType::from_raw_mode(self.mode) == FileType::Directory
    }

    /// True for a directory that belongs to another file system than `dev`, or is mounted from elsewhere in the same.
    pub(super) fn leaves(&self, dev: u64) -> bool {
        self.mounted || self.dev != dev
    }
}

impl From<&Statx> for FileStat {
    fn from(stat: &Statx) -> Self {
        Self {
            mode: stat.stx_mode.into(),
            nlink: stat.stx_nlink.into(),
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            rdev: makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
            size: stat.stx_size,
            mtime: stat.stx_mtime.tv_sec,
            dev: makedev(stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            mounted: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        }
    }
}

impl From<&Stat> for FileStat {
    fn from(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode,
            nlink: stat.st_nlink,
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: stat.st_rdev,
            size: stat.st_size as u64,
            mtime: stat.st_mtime,
            dev: stat.st_dev,
            ino: stat.st_ino,
            mounted: false,
        }
    }
}

/// Makes entries: what is the same for all of an image.
pub(super) struct EntryBuilder<'a> {
    owner: &'a Ownership,
    save: Option<SaveFile>,
    kept: AtomicU64,
    /// `None` for files whose extended attributes are not read.
    attributes: Option<xattr::XattrReader>,
}

impl<'a> EntryBuilder<'a> {
    pub(super) fn new(owner: &'a Ownership, save: Option<SaveFile>) -> Self {
        Self {
            owner,
            save,
            kept: AtomicU64::new(0),
            attributes: Some(xattr::XattrReader::default()),
        }
    }

    /// For files that are no image: without extended attributes.
    pub(super) fn plain(owner: &'a Ownership) -> Self {
        Self {
            attributes: None,
            ..Self::new(owner, None)
        }
    }

    fn attributes(&self, file: &OwnedFd) -> Result<HostXattrs, Errno> {
        let reader = self.attributes.as_ref();
        reader.map_or_else(|| Ok(HostXattrs::default()), |reader| reader.read(file))
    }

    /// The entry of an open directory itself.
    pub(super) fn directory(
        &self,
        dir: &Arc<HostDir>,
        fd: &OwnedFd,
    ) -> Result<(Entry, FileStat), Error> {
        let seen = look(fd, b"", FileType::Directory).map_err(|errno| failed(dir, b"", errno))?;
        let facts = seen.facts;
        let found = self.attributes(fd);
        let found = found.map_err(|errno| failed(dir, b"", errno))?;
        Ok((self.entry(dir, fd, b"", seen, found)?, facts))
    }

    /// The entry for `name` in `dir`, which is open as `fd`; `seen` is what [`look`] found there.
    pub(super) fn named(
        &self,
        dir: &Arc<HostDir>,
        fd: &OwnedFd,
        name: &[u8],
        seen: Seen,
    ) -> Result<Entry, Error> {
        let found = match &seen.file {
            Some(file) => self.attributes(file),
            // A link or special file, or a directory that something is mounted on.
            None => Ok(HostXattrs::default()),
        };
        let found = found.map_err(|errno| failed(dir, name, errno))?;
        self.entry(dir, fd, name, seen, found)
    }

    fn entry(
        &self,
        dir: &Arc<HostDir>,
        fd: &OwnedFd,
        name: &[u8],
        seen: Seen,
        found: HostXattrs,
    ) -> Result<Entry, Error> {
        let shown = || dir.shown(name);
        let Seen { facts, stamp, file } = seen;
        let claim = self.claim(dir, name, &facts, found.stat.as_deref())?;
        let (major, minor) = (major(claim.rdev), minor(claim.rdev));
        let kind = match (FileType::from_raw_mode(claim.mode), file) {
            (FileType::RegularFile, Some(file)) => Kind::File(
                self.body(dir, name, &facts, (file, stamp))
                    .map_err(|errno| failed(dir, name, errno))?,
            ),
            (FileType::Directory, _) => Kind::Directory,
            (FileType::Symlink, _) => {
                let target =
                    readlinkat(fd, name, Vec::new()).map_err(|errno| failed(dir, name, errno))?;
                Kind::Symlink(target.into_bytes())
            }
            (FileType::CharacterDevice, _) if claim.rdev == 0 => {
                return Err(Error::Whiteout { shown: shown() });
            }
            (FileType::CharacterDevice, _) => Kind::CharDevice { major, minor },
            (FileType::BlockDevice, _) => Kind::BlockDevice { major, minor },
            (FileType::Fifo, _) => Kind::Fifo,
            (FileType::Socket, _) => Kind::Socket,
            _ => return Err(Error::UnknownType { shown: shown() }),
        };
        let path = if name.is_empty() {
            dir.path().to_vec()
        } else {
            dir.join(name)
        };
        Ok(Entry {
            path,
            mode: (claim.mode & 0o7777) as u16,
            uid: claim.uid,
            gid: claim.gid,
            mtime: facts.mtime,
            xattrs: self.in_guest(dir, name, found)?,
            kind,
        })
    }

    /// Kind, mode and owner in the guest: fakeroot's word, else the container engine's, else what is really there under
    /// [`Ownership`](crate::reference::Ownership).
    fn claim(
        &self,
        dir: &HostDir,
        name: &[u8],
        facts: &FileStat,
        stat: Option<&[u8]>,
    ) -> Result<Pretended, Error> {
        let real = FileType::from_raw_mode(facts.mode);
        // An empty regular file stands for what only root can make; no other kind ever stands in for another.
        let can_be = |claim: &Pretended| {
            let claimed = FileType::from_raw_mode(claim.mode);
            let stands_in = real == FileType::RegularFile && facts.size == 0;
            let is_node = !matches!(claimed, FileType::Directory | FileType::Symlink);
            claimed == real || stands_in && is_node
        };
        let shown = || dir.shown(name);
        let save = self.save.as_ref();
        if let Some(claim) = save.and_then(|save| save.get(facts.dev, facts.ino)) {
            return match can_be(claim) {
                true => Ok(*claim),
                false => Err(Error::SaveFileStale { shown: shown() }),
            };
        }
        if let Some(value) = stat {
            let (shown, text) = (shown(), || escaped(value));
            return match override_stat::parse(value, real) {
                Some(claim) if can_be(&claim) => Ok(claim),
                Some(_) => Err(Error::OverrideStatStale {
                    shown,
                    value: text(),
                }),
                None => Err(Error::OverrideStat {
                    shown,
                    value: text(),
                }),
            };
        }
        let in_guest = |what, number| {
            let unmapped = || unmapped(dir, name, (what, number));
            self.owner.in_guest(number).ok_or_else(unmapped)
        };
        Ok(Pretended {
            mode: facts.mode,
            uid: in_guest("user", facts.uid)?,
            gid: in_guest("group", facts.gid)?,
            rdev: facts.rdev,
        })
    }

    /// A file's attributes with the guest's numbers.
    fn in_guest(&self, dir: &HostDir, name: &[u8], found: HostXattrs) -> Result<Xattrs, Error> {
        let mut list = found.list;
        for (attribute, value) in &mut list {
            xattr::put_in_guest(attribute, value, self.owner)
                .map_err(|number| unmapped(dir, name, number))?;
        }
        Ok((!list.is_empty()).then(|| Arc::new(list)))
    }

    /// A regular file's body: its bytes if it is small, else where they are.
    fn body(
        &self,
        dir: &Arc<HostDir>,
        name: &[u8],
        facts: &FileStat,
        (file, stamp): (OwnedFd, FileStamp),
    ) -> Result<FileBody, Errno> {
        let link = (facts.nlink > 1).then_some(UNNUMBERED);
        // Names of one file are told from others by its stamp, so those stay with the host.
        let small = stamp.size <= SMALL && link.is_none();
        let keep = small && self.kept.fetch_add(stamp.size, Ordering::Relaxed) + stamp.size <= KEEP;
        let content = match keep {
            true => Content::Bytes(small_file(&file, &stamp)?),
            false => Content::Host(Box::new(HostFile {
                dir: dir.clone(),
                name: name.into(),
                stamp,
            })),
        };
        Ok(FileBody {
            size: stamp.size,
            content,
            link,
        })
    }
}

/// All bytes of a file of at most [`SMALL`] bytes, by one read that would also see one more: a file that has grown or
/// shrunk since its stamp was taken is an error. The same length with other bytes is the file as it is at that moment.
fn small_file(file: &OwnedFd, stamp: &FileStamp) -> Result<Arc<[u8]>, Errno> {
    if stamp.size == 0 {
        return Ok(Arc::default());
    }
    let mut buffer = [MaybeUninit::<u8>::uninit(); SMALL as usize + 1];
    let (bytes, _) = pread(file, &mut buffer[..=stamp.size as usize], 0)?;
    match bytes.len() as u64 == stamp.size {
        true => Ok((&*bytes).into()),
        false => Err(Errno::STALE),
    }
}

/// The mark of links until all names are known, and `dir.rs` numbers them.
pub(super) const UNNUMBERED: LinkId = LinkId(0);

/// The state of a name; a regular file also comes open.
pub(super) struct Seen {
    pub(super) facts: FileStat,
    pub(super) stamp: FileStamp,
    file: Option<OwnedFd>,
}

/// Looks at `name` in a directory; the empty name is the directory itself. `guess` is the kind that the directory gave
/// with the name.
pub(super) fn look(fd: &OwnedFd, name: &[u8], guess: FileType) -> Result<Seen, Errno> {
    if guess != FileType::RegularFile {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
        let stat = statx(fd, name, flags, StatxFlags::BASIC_STATS)?;
        let facts = FileStat::from(&stat);
        if FileType::from_raw_mode(facts.mode) != FileType::RegularFile {
            return Ok(Seen {
                facts,
                stamp: FileStamp::from(&stat),
                file: None,
            });
        }
    }
    let file = open_file(fd, name)?;
    let stat = fstat(&file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(Seen {
            facts: FileStat::from(&stat),
            stamp: FileStamp::from(&stat),
            file: Some(file),
        }),
        _ => Err(Errno::STALE),
    }
}

/// Returns the kind of `name` in a directory.
pub(super) fn kind_of(fd: &OwnedFd, name: &[u8]) -> Result<FileType, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = statx(fd, name, flags, StatxFlags::TYPE)?;
    Ok(FileType::from_raw_mode(stat.stx_mode.into()))
}

fn unmapped(dir: &HostDir, name: &[u8], (what, number): xattr::Unmapped) -> Error {
    Error::OwnerUnmapped {
        shown: dir.shown(name),
        what,
        number,
    }
}

/// Turns the errno for something that was there a moment ago into the error that it means.
pub(super) fn failed(dir: &HostDir, name: &[u8], errno: Errno) -> Error {
    let shown = dir.shown(name);
    match errno {
        // A pipe, link or directory in its place, or nothing.
        Errno::NOENT
        | Errno::NOTDIR
        | Errno::ISDIR
        | Errno::LOOP
        | Errno::NXIO
        | Errno::INVAL
        | Errno::STALE => Error::Changed { shown },
        _ => Error::Unreadable {
            shown,
            source: errno.into(),
        },
    }
}
