//! A directory of the host → entries: one walk, relative to open directories, that follows no symbolic link.
//!
//! Two threads take directories from one list, so depth costs no stack and only a few descriptors are open at a
//! time. Stays on the image's file system. What a name becomes is decided in `entry.rs`. A user's own files, for
//! `--copy-in`, are read the same way, past what a sieve leaves out.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{FileType, RawDir, fstat};
use rustix::io::Errno;

use super::Error;
use super::directory_state::{DirectoryState, Recorder};
use super::entry::{EntryBuilder, UNNUMBERED, failed, kind_of, look};
use super::fakeroot::SaveFile;
use super::files::PathFilter;
use super::host::{HostDir, HostRoot};
use super::tree::{
    self, Content, Entry, FileBody, ImagePath, Kind, LinkId, PATH_LIMIT, Tree, Warning,
};
use super::work_list::WorkList;
use crate::reference::{ImageRef, Ownership};
use rdvm_hostfs::escape::shown;

/// Threads that walk. More would wait for each other: the work between two directories is short.
const WALKERS: usize = 2;

/// Reads the directory `root` as `image` says, and notes its state if that is asked for.
pub(super) fn read(
    root: Arc<HostRoot>,
    image: &ImageRef,
    notes_state: bool,
) -> Result<(Tree, DirectoryState), Error> {
    let save = image.fakeroot.as_deref().map(SaveFile::read).transpose()?;
    let owner = image.owner.resolved();
    let without_owners =
        image.owner == Ownership::Auto && owner == Ownership::Root && save.is_none();
    let Walked {
        entries,
        mounts,
        state,
    } = walk(root, EntryBuilder::new(&owner, save), None, notes_state)?;
    let mounts = mounts.into_iter().map(|path| Warning::MountPoint { path });
    let owners = without_owners.then(|| Warning::Owners {
        shown: shown(&image.path),
    });
    let warnings = owners.into_iter().chain(mounts).collect();
    let tree = Tree::from_entries(entries)?.with_warnings(warnings);
    Ok((tree, state))
}

/// The outcome of a walk.
pub(super) struct Walked {
    /// Everything that was let through, in the order of a tree.
    pub(super) entries: Vec<Entry>,
    /// The directories that other file systems are mounted on, which are read as empty ones.
    pub(super) mounts: Vec<ImagePath>,
    /// The state of it.
    pub(super) state: DirectoryState,
}

/// Returns everything at and below the directory `root` that `filter` lets through.
pub(super) fn walk(
    root: Arc<HostRoot>,
    builder: EntryBuilder<'_>,
    filter: Option<PathFilter<'_>>,
    notes_state: bool,
) -> Result<Walked, Error> {
    let path = root.path().to_owned();
    let unreadable = |errno: Errno| Error::Image {
        path: path.clone(),
        source: errno.into(),
    };
    let dir = Arc::new(HostDir::of_root(root));
    let fd = dir.open().map_err(unreadable)?;
    let mut recorder = Recorder::new(&fd, notes_state).map_err(unreadable)?;
    let stat = fstat(&fd).map_err(unreadable)?;
    let first = Job {
        dir,
        id: (stat.st_dev, stat.st_ino),
        place: 0,
    };
    let walk = Walk {
        builder,
        filter,
        dev: stat.st_dev,
        jobs: WorkList::new(vec![first]),
        places: AtomicUsize::new(0),
    };

    let found = std::thread::scope(|scope| -> Result<_, Error> {
        let others: Vec<_> = (1..WALKERS)
            .map(|_| scope.spawn(|| walk.work(recorder.another())))
            .collect();
        let mut all = walk.work(recorder.another())?;
        for other in others {
            let found = other
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            all.listings.extend(found.listings);
            all.mounts.extend(found.mounts);
            all.state.extend(found.state);
        }
        Ok(all)
    })?;
    recorder.extend(found.state);
    let mut mounts = found.mounts;
    mounts.sort();
    let mut entries = in_order(found.listings);
    number_links(&mut entries);
    Ok(Walked {
        entries,
        mounts,
        state: recorder.into_state(),
    })
}

/// One walk: what is the same for all directories, and the list of those not yet read.
struct Walk<'a> {
    builder: EntryBuilder<'a>,
    /// The names to leave out unread.
    filter: Option<PathFilter<'a>>,
    dev: u64,
    jobs: WorkList<Job>,
    /// Number of directories seen besides the root: the last one's place.
    places: AtomicUsize,
}

/// A directory that was seen, and is to be read.
struct Job {
    dir: Arc<HostDir>,
    id: (u64, u64),
    place: usize,
}

/// A directory that was read.
struct Listing {
    place: usize,
    own: Entry,
    /// Its entries, sorted by name.
    below: Vec<Slot>,
}

/// One name in a directory.
enum Slot {
    Entry(Entry),
    /// A directory that has a listing of its own, at this place.
    Listing(usize),
}

/// The entries that one thread found.
struct Found {
    listings: Vec<Listing>,
    mounts: Vec<ImagePath>,
    state: Recorder,
}

impl Walk<'_> {
    /// Reads directories until there are no more.
    fn work(&self, state: Recorder) -> Result<Found, Error> {
        let mut found = Found {
            listings: Vec::new(),
            mounts: Vec::new(),
            state,
        };
        let mut names = Names::default();
        self.jobs
            .each(|job| self.read_dir(&job, &mut names, &mut found))?;
        Ok(found)
    }

    /// Reads one directory, and returns those in it.
    fn read_dir(&self, job: &Job, names: &mut Names, found: &mut Found) -> Result<Vec<Job>, Error> {
        let dir = &job.dir;
        let fd = dir.open().map_err(|errno| failed(dir, b"", errno))?;
        let (own, now) = self.builder.directory(dir, &fd)?;
        if (now.dev, now.ino) != job.id {
            return Err(Error::Changed {
                shown: dir.shown(b""),
            });
        }
        names.fill(&fd).map_err(|errno| failed(dir, b"", errno))?;
        let mut slots = Vec::with_capacity(names.spans.len());
        let mut below = Vec::new();
        found.state.directory(dir.path());
        for (name, guess) in names.sorted() {
            if dir.path().len() + 1 + name.len() > PATH_LIMIT {
                let path = dir.join(name);
                if path.len() > PATH_LIMIT {
                    return Err(tree::Error::too_long(&path).into());
                }
            }
            let failed = |errno| failed(dir, name, errno);
            if let Some(filter) = self.filter {
                let kind = match guess {
                    // Not every file system says.
                    FileType::Unknown => kind_of(&fd, name).map_err(failed)?,
                    kind => kind,
                };
                if filter(&dir.join(name), kind) {
                    continue;
                }
            }
            let seen = look(&fd, name, guess).map_err(failed)?;
            found.state.name(name, &seen.stamp);
            let facts = &seen.facts;
            if facts.is_directory() && !facts.leaves(self.dev) {
                below.push((
                    slots.len(),
                    Arc::new(dir.child(name)),
                    (facts.dev, facts.ino),
                ));
                slots.push(Slot::Listing(0));
                continue;
            }
            let mounted = facts.is_directory();
            let entry = self.builder.named(dir, &fd, name, seen)?;
            if mounted {
                found.mounts.push(entry.path.clone());
            }
            slots.push(Slot::Entry(entry));
        }
        let jobs = below.into_iter().map(|(index, dir, id)| {
            let place = self.places.fetch_add(1, Ordering::Relaxed) + 1;
            slots[index] = Slot::Listing(place);
            Job { dir, id, place }
        });
        let jobs = jobs.collect();
        found.listings.push(Listing {
            place: job.place,
            own,
            below: slots,
        });
        Ok(jobs)
    }
}

/// The names in one directory; the buffers are used again for the next.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    spans: Vec<(usize, usize, FileType)>,
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
                self.spans
                    .push((self.bytes.len(), name.len(), entry.file_type()));
                self.bytes.extend_from_slice(name);
            }
        }
        let bytes = &self.bytes;
        self.spans
            .sort_unstable_by_key(|&(start, length, _)| &bytes[start..start + length]);
        Ok(())
    }

    fn sorted(&self) -> impl Iterator<Item = (&[u8], FileType)> {
        self.spans
            .iter()
            .map(|&(start, length, kind)| (&self.bytes[start..start + length], kind))
    }
}

/// All listings in one, every directory's entries right after it: the order of a tree.
fn in_order(listings: Vec<Listing>) -> Vec<Entry> {
    let mut by_place: Vec<Option<Listing>> = Vec::new();
    by_place.resize_with(listings.len(), || None);
    let mut count = 0;
    for listing in listings {
        count += 1 + listing.below.len();
        let place = listing.place;
        by_place[place] = Some(listing);
    }
    let mut entries = Vec::with_capacity(count);
    let mut open = Vec::new();
    let mut next = Some(0);
    loop {
        // Every place is taken once, and has its listing: a walk that failed does not come here.
        if let Some(listing) = next.take().and_then(|place: usize| by_place[place].take()) {
            entries.push(listing.own);
            open.push(listing.below.into_iter());
        }
        let Some(below) = open.last_mut() else {
            return entries;
        };
        match below.next() {
            Some(Slot::Entry(entry)) => entries.push(entry),
            Some(Slot::Listing(place)) => next = Some(place),
            None => drop(open.pop()),
        }
    }
}

/// Assigns names of one file one number, from 1 in the tree's order; a single name (the others are elsewhere) gets none.
pub(super) fn number_links(entries: &mut [Entry]) {
    fn names(entries: &mut [Entry]) -> impl Iterator<Item = ((u64, u64), &mut Option<LinkId>)> {
        entries
            .iter_mut()
            .filter_map(|entry| match &mut entry.kind {
                Kind::File(FileBody {
                    content: Content::Host(file),
                    link: link @ Some(UNNUMBERED),
                    ..
                }) => Some(((file.stamp.device, file.stamp.inode), link)),
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
