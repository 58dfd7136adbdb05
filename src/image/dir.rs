//! A directory of the host → entries: one walk, relative to open directories, that follows no symbolic link.
//!
//! Two threads take directories from one list, so depth costs no stack and only a few descriptors are open at a
//! time. Stays on the image's file system. File contents are not read here, only what `statx` says of them.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rustix::fs::{Access, AtFlags, FileType, RawDir, Statx, StatxAttributes, StatxFlags};
use rustix::fs::{accessat, fstat, major, makedev, minor, readlinkat, statx};
use rustix::io::Errno;

use super::Error;
use super::fakeroot::SaveFile;
use super::host::{HostDir, HostRoot};
use super::tree::{
    self, Content, Entry, FileBody, ImagePath, Kind, LinkId, PATH_LIMIT, Stamp, Tree, Warning,
};
use crate::request::{ImageRef, Ownership};

/// Threads that walk. More would wait for each other: the work between two directories is short.
const WALKERS: usize = 2;

/// Reads the directory that `image` names.
pub(super) fn read(image: &ImageRef) -> Result<Tree, Error> {
    let save = image.fakeroot.as_deref().map(SaveFile::read).transpose()?;
    let root = HostRoot::open(&image.path).map_err(|errno| Error::Image {
        path: image.path.clone(),
        source: errno.into(),
    })?;
    let dir = Arc::new(HostDir::of_root(Arc::new(root)));
    let fd = dir.open().map_err(|errno| failed(&dir, b"", errno))?;
    let stat = look_at(&dir, &fd, b"")?;
    let walk = Walk {
        owner: &image.owner,
        save: save.as_ref(),
        dev: dev_of(&stat),
        list: Mutex::default(),
        more: Condvar::new(),
    };
    let root = walk.entry(&dir, &fd, b"", Vec::new(), &stat)?;
    walk.list
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .waiting
        .push(Job {
            dir,
            id: (dev_of(&stat), stat.stx_ino),
            place: 0,
        });

    let results: Vec<_> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..WALKERS).map(|_| scope.spawn(|| walk.work())).collect();
        let own = walk.work();
        let join = |other: std::thread::ScopedJoinHandle<'_, _>| {
            other
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        std::iter::once(own)
            .chain(others.into_iter().map(join))
            .collect()
    });
    let mut listings = Vec::new();
    let mut warnings = Vec::new();
    for result in results {
        let found = result?;
        listings.extend(found.listings);
        warnings.extend(found.warnings);
    }
    warnings.sort_by(|Warning::MountPoint { path: a }, Warning::MountPoint { path: b }| a.cmp(b));
    let mut entries = in_order(root, listings);
    number_links(&mut entries);
    Ok(Tree::from_entries(entries)?.with_warnings(warnings))
}

/// One walk: what is the same for all directories, and the list of those not yet read.
struct Walk<'a> {
    owner: &'a Ownership,
    save: Option<&'a SaveFile>,
    dev: u64,
    list: Mutex<List>,
    more: Condvar,
}

/// Directories to be read.
#[derive(Default)]
struct List {
    waiting: Vec<Job>,
    /// How many are being read: their subdirectories are still to come.
    reading: usize,
    /// Number of directories seen besides the root: the next one's place.
    places: usize,
    /// Somebody failed; the rest is not needed.
    stopped: bool,
}

/// A directory that was seen, and is to be read.
struct Job {
    dir: Arc<HostDir>,
    id: (u64, u64),
    place: usize,
}

/// A directory's entries sorted by name, each with the place of its own listing if it is a directory that was read.
type Listing = (usize, Vec<(Entry, Option<usize>)>);

/// What one thread found.
#[derive(Default)]
struct Found {
    listings: Vec<Listing>,
    warnings: Vec<Warning>,
}

impl Walk<'_> {
    /// Reads directories until there are no more.
    fn work(&self) -> Result<Found, Error> {
        let mut found = Found::default();
        let mut names = Names::default();
        while let Some(job) = self.next() {
            let done = self.read_dir(&job, &mut names, &mut found);
            let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
            list.reading -= 1;
            list.stopped |= done.is_err();
            drop(list);
            self.more.notify_all();
            done?;
        }
        Ok(found)
    }

    /// The next directory to read; waits while others may still find some.
    fn next(&self) -> Option<Job> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if list.stopped {
                return None;
            }
            if let Some(job) = list.waiting.pop() {
                list.reading += 1;
                return Some(job);
            }
            if list.reading == 0 {
                return None;
            }
            list = self.more.wait(list).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Reads one directory, and puts those below it on the list.
    fn read_dir(&self, job: &Job, names: &mut Names, found: &mut Found) -> Result<(), Error> {
        let dir = &job.dir;
        let fd = dir.open().map_err(|errno| failed(dir, b"", errno))?;
        let now = fstat(&fd).map_err(|errno| failed(dir, b"", errno))?;
        if (now.st_dev, now.st_ino) != job.id {
            return Err(Error::Changed {
                shown: dir.shown(b""),
            });
        }
        names.fill(&fd).map_err(|errno| failed(dir, b"", errno))?;
        let mut entries = Vec::with_capacity(names.spans.len());
        let mut below = Vec::new();
        for name in names.sorted() {
            let path = dir.join(name);
            if path.len() > PATH_LIMIT {
                return Err(tree::Error::PathTooLong {
                    start: path[..64].to_vec(),
                    bytes: path.len(),
                }
                .into());
            }
            let stat = look_at(dir, &fd, name)?;
            if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory {
                if self.leaves_file_system(&stat) {
                    found
                        .warnings
                        .push(Warning::MountPoint { path: path.clone() });
                } else {
                    below.push((
                        entries.len(),
                        Arc::new(dir.child(name)),
                        (dev_of(&stat), stat.stx_ino),
                    ));
                }
            }
            entries.push((self.entry(dir, &fd, name, path, &stat)?, None));
        }
        if !below.is_empty() {
            let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
            for (index, dir, id) in below {
                list.places += 1;
                entries[index].1 = Some(list.places);
                let place = list.places;
                list.waiting.push(Job { dir, id, place });
            }
        }
        found.listings.push((job.place, entries));
        Ok(())
    }

    /// Something is mounted there: another device, or (what only `statx` tells) a bind mount of the same one.
    fn leaves_file_system(&self, stat: &Statx) -> bool {
        dev_of(stat) != self.dev || stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
    }

    /// One entry from what `statx` and fakeroot say of it.
    fn entry(
        &self,
        dir: &Arc<HostDir>,
        fd: &OwnedFd,
        name: &[u8],
        path: ImagePath,
        stat: &Statx,
    ) -> Result<Entry, Error> {
        let real = FileType::from_raw_mode(stat.stx_mode.into());
        let mut mode = u32::from(stat.stx_mode);
        let mut rdev = makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
        let (uid, gid) = match self
            .save
            .and_then(|save| save.get(dev_of(stat), stat.stx_ino))
        {
            Some(pretended) => {
                let kind = FileType::from_raw_mode(pretended.mode);
                // Under fakeroot, mknod makes an empty regular file; no other kind ever stands in for another.
                let stands_in = real == FileType::RegularFile && stat.stx_size == 0;
                if kind != real
                    && !(stands_in && kind != FileType::Directory && kind != FileType::Symlink)
                {
                    return Err(Error::SaveFileStale {
                        shown: dir.shown(name),
                    });
                }
                (mode, rdev) = (pretended.mode, pretended.rdev);
                (pretended.uid, pretended.gid)
            }
            None => {
                let number = |what, number| {
                    let unmapped = || Error::OwnerUnmapped {
                        shown: dir.shown(name),
                        what,
                        number,
                    };
                    self.owner.in_guest(number).ok_or_else(unmapped)
                };
                (
                    number("user", stat.stx_uid)?,
                    number("group", stat.stx_gid)?,
                )
            }
        };
        let kind = match FileType::from_raw_mode(mode) {
            FileType::RegularFile => Kind::File(body(dir, fd, name, stat)?),
            FileType::Directory => Kind::Directory,
            FileType::Symlink => {
                let target =
                    readlinkat(fd, name, Vec::new()).map_err(|errno| failed(dir, name, errno))?;
                Kind::Symlink(target.into_bytes())
            }
            FileType::CharacterDevice if rdev == 0 => {
                return Err(Error::Whiteout {
                    shown: dir.shown(name),
                });
            }
            FileType::CharacterDevice => Kind::CharDevice {
                major: major(rdev),
                minor: minor(rdev),
            },
            FileType::BlockDevice => Kind::BlockDevice {
                major: major(rdev),
                minor: minor(rdev),
            },
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
            FileType::Unknown => {
                return Err(Error::UnknownType {
                    shown: dir.shown(name),
                });
            }
        };
        Ok(Entry {
            path,
            mode: (mode & 0o7777) as u16,
            uid,
            gid,
            mtime: stat.stx_mtime.tv_sec,
            kind,
        })
    }
}

/// A regular file's body: where its bytes are, and whether we may have them.
fn body(dir: &Arc<HostDir>, fd: &OwnedFd, name: &[u8], stat: &Statx) -> Result<FileBody, Error> {
    // Whoever may read all of it needs no further question; the others cost one more call.
    if stat.stx_mode & 0o444 != 0o444 && stat.stx_size > 0 {
        match accessat(fd, name, Access::READ_OK, AtFlags::EACCESS) {
            Ok(()) | Err(Errno::NOSYS | Errno::INVAL) => {}
            Err(errno) => return Err(failed(dir, name, errno)),
        }
    }
    Ok(FileBody {
        size: stat.stx_size,
        content: Content::Host {
            dir: dir.clone(),
            name: name.into(),
            stamp: stamp(stat),
        },
        // The number itself is given when all names are known.
        link: (stat.stx_nlink > 1).then_some(LinkId(0)),
    })
}

fn look_at(dir: &HostDir, fd: &OwnedFd, name: &[u8]) -> Result<Statx, Error> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
    statx(fd, name, flags, StatxFlags::BASIC_STATS).map_err(|errno| failed(dir, name, errno))
}

fn dev_of(stat: &Statx) -> u64 {
    makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

fn stamp(stat: &Statx) -> Stamp {
    let nanoseconds = |time: rustix::fs::StatxTimestamp| {
        i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
    };
    Stamp {
        dev: dev_of(stat),
        ino: stat.stx_ino,
        size: stat.stx_size,
        mtime_ns: nanoseconds(stat.stx_mtime),
        ctime_ns: nanoseconds(stat.stx_ctime),
    }
}

/// What an errno means for something that was there a moment ago.
fn failed(dir: &HostDir, name: &[u8], errno: Errno) -> Error {
    let shown = dir.shown(name);
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL => Error::Changed { shown },
        _ => Error::Unreadable {
            shown,
            source: errno.into(),
        },
    }
}

/// The names in one directory; the buffers are used again for the next.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    spans: Vec<(usize, usize)>,
}

impl Names {
    fn fill(&mut self, fd: &OwnedFd) -> Result<(), Errno> {
        self.bytes.clear();
        self.spans.clear();
        let mut buffer = [MaybeUninit::<u8>::uninit(); 32 << 10];
        let mut entries = RawDir::new(fd, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                self.spans.push((self.bytes.len(), name.len()));
                self.bytes.extend_from_slice(name);
            }
        }
        let bytes = &self.bytes;
        self.spans
            .sort_unstable_by_key(|&(start, length)| &bytes[start..start + length]);
        Ok(())
    }

    fn sorted(&self) -> impl Iterator<Item = &[u8]> {
        self.spans
            .iter()
            .map(|&(start, length)| &self.bytes[start..start + length])
    }
}

/// All listings in one, every directory's entries right after it: the order of a tree.
fn in_order(root: Entry, listings: Vec<Listing>) -> Vec<Entry> {
    let mut by_place: Vec<Vec<(Entry, Option<usize>)>> = Vec::new();
    by_place.resize_with(listings.len(), Vec::new);
    let mut count = 1;
    for (place, listing) in listings {
        count += listing.len();
        by_place[place] = listing;
    }
    let mut entries = Vec::with_capacity(count);
    entries.push(root);
    let mut open = vec![std::mem::take(&mut by_place[0]).into_iter()];
    while let Some(listing) = open.last_mut() {
        match listing.next() {
            Some((entry, below)) => {
                entries.push(entry);
                if let Some(place) = below {
                    open.push(std::mem::take(&mut by_place[place]).into_iter());
                }
            }
            None => {
                open.pop();
            }
        }
    }
    entries
}

/// Gives names of one file one number, from 1 in the tree's order; a single name (the others are elsewhere) gets none.
fn number_links(entries: &mut [Entry]) {
    fn names(entries: &mut [Entry]) -> impl Iterator<Item = ((u64, u64), &mut Option<LinkId>)> {
        entries
            .iter_mut()
            .filter_map(|entry| match &mut entry.kind {
                Kind::File(FileBody {
                    content: Content::Host { stamp, .. },
                    link: link @ Some(_),
                    ..
                }) => Some(((stamp.dev, stamp.ino), link)),
                _ => None,
            })
    }
    let mut numbers: HashMap<(u64, u64), (LinkId, usize)> = HashMap::new();
    for (id, _) in names(entries) {
        let next = LinkId(numbers.len() as u64 + 1);
        numbers.entry(id).or_insert((next, 0)).1 += 1;
    }
    for (id, link) in names(entries) {
        *link = numbers
            .get(&id)
            .and_then(|&(number, count)| (count > 1).then_some(number));
    }
}
