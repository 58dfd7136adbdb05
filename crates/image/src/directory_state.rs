//! A directory's state: the names and stamps of everything in it, so that a change of any of it is seen without reading a file.
//!
//! It is noted while the directory is read and compared with the directory later. On the common file systems no names are read
//! then: where one was added, removed or renamed, the directory's own stamp is another. On others the names are counted. The
//! stamps are kept as they are, since a digest of them costs more than the comparison, and would have to withstand those who
//! choose the names.
//!
//! The stamp of the directory, then listings: length in eight bytes, path, and for each name in it name and stamp. Paths and
//! names end with a zero byte. Where names are not counted they may be paths: small directories have no listing of their own.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, fstat, fstatfs, openat, statat};

use super::host::HostRoot;
use rdvm_hostfs::{FileStamp, path};

/// Threads that compare.
const WALKERS: usize = 2;
/// A state of fewer bytes is not worth a thread.
const FEW: usize = 16 << 10;
/// Bytes of names that are read at a time.
const NAMES: usize = 16 << 10;
/// Length of a stamp.
const STAMP: usize = 48;
/// Length of the number that is a listing's length.
const LENGTH: usize = 8;
/// The file systems that are known to change a directory's times with its names (`linux/magic.h`, and those of ZFS and bcachefs):
/// ext4, XFS, btrfs, tmpfs, overlayfs, F2FS. Where objects of a store are shown as files, directories may have no times of their own.
const TIMED: [u64; 8] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x794c_7630,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0xca45_1a4e,
];

/// A directory of as many names is opened to compare them: below, longer paths cost less than to open and close it.
const MANY: usize = 8;

/// The state of a directory and of everything below it on its file system.
#[derive(Debug)]
pub(super) struct DirectoryState {
    bytes: Vec<u8>,
    is_settled: bool,
}

impl DirectoryState {
    /// Returns the state, if every further change must show ([`FileStamp::is_settled`]).
    pub(super) fn settled(self) -> Option<Vec<u8>> {
        self.is_settled.then_some(self.bytes)
    }
}

/// A state in the making, or a part of one.
pub(super) struct Recorder {
    /// False where no state is asked for: then nothing is noted.
    is_wanted: bool,
    root: FileStamp,
    is_timed: bool,
    is_settled: bool,
    /// A time before the first stamp.
    now: SystemTime,
    listings: Vec<Listing>,
}

/// The names in a directory with their stamps, as they are kept.
struct Listing {
    path: Vec<u8>,
    count: usize,
    bytes: Vec<u8>,
}

impl Recorder {
    /// Returns one that has the stamp of the directory itself, before any of it is read.
    pub(super) fn new(root: impl AsFd, is_wanted: bool) -> rustix::io::Result<Self> {
        let now = SystemTime::now();
        let stamp = FileStamp::from(&fstat(&root)?);
        Ok(Self {
            is_wanted,
            root: stamp,
            is_timed: is_timed(root),
            is_settled: is_wanted && stamp.is_settled_at(now),
            now,
            listings: Vec::new(),
        })
    }

    /// Returns one for another part.
    pub(super) fn another(&self) -> Self {
        Self {
            listings: Vec::new(),
            ..*self
        }
    }

    /// Begins with the names in the directory at `path`, whose stamp is taken already.
    pub(super) fn directory(&mut self, path: &[u8]) {
        if !self.is_wanted {
            return;
        }
        self.listings.push(Listing {
            path: path.to_vec(),
            count: 0,
            bytes: Vec::new(),
        });
    }

    /// Adds a name in it, with the stamp that was taken before anything else of the file.
    pub(super) fn name(&mut self, name: &[u8], stamp: &FileStamp) {
        if let Some(listing) = self.listings.last_mut() {
            listing.add(&[name], &stamp.to_bytes());
            self.is_settled &= stamp.is_settled_at(self.now);
        }
    }

    /// Adds another part.
    pub(super) fn extend(&mut self, other: Self) {
        self.listings.extend(other.listings);
        self.is_settled &= other.is_settled;
    }

    /// Returns the state. The names of small directories go to the listing of a larger one above, unless they are counted.
    pub(super) fn into_state(self) -> DirectoryState {
        let is_kept =
            |listing: &Listing| !self.is_timed || listing.count >= MANY || listing.path.is_empty();
        let (mut kept, small): (Vec<_>, Vec<_>) = self.listings.into_iter().partition(is_kept);
        let places: HashMap<Vec<u8>, usize> = kept
            .iter()
            .enumerate()
            .map(|(at, listing)| (listing.path.clone(), at))
            .collect();
        for listing in small {
            let mut above = &listing.path[..];
            let place = loop {
                above = path::split(above).0;
                match places.get(above) {
                    Some(&place) => break place,
                    None if above.is_empty() => break kept.len(),
                    None => {}
                }
            };
            let way = listing.path.get(above.len()..).unwrap_or_default();
            let way = way.strip_prefix(b"/").unwrap_or(way);
            let mut names = &listing.bytes[..];
            while let (Some((name, stamp, rest)), Some(kept)) = (entry(names), kept.get_mut(place))
            {
                kept.add(&[way, b"/", name.to_bytes()], stamp);
                names = rest;
            }
        }
        let mut bytes = self.root.to_bytes().to_vec();
        for Listing {
            path, bytes: names, ..
        } in kept
        {
            bytes.extend(((path.len() + 1 + names.len()) as u64).to_le_bytes());
            bytes.extend([&path[..], &[0], &names].concat());
        }
        DirectoryState {
            bytes,
            is_settled: self.is_settled,
        }
    }
}

impl Listing {
    fn add(&mut self, name: &[&[u8]], stamp: &[u8; STAMP]) {
        name.iter().for_each(|part| self.bytes.extend(*part));
        self.bytes.push(0);
        self.bytes.extend(stamp);
        self.count += 1;
    }
}

/// True if names cannot come or go on this file system without a change of a directory's times.
fn is_timed(root: impl AsFd) -> bool {
    fstatfs(root).is_ok_and(|system| TIMED.contains(&(system.f_type as u64)))
}

/// Returns the state of a directory that is not read as a tree.
///
/// # Errors
/// It, or a directory in it, cannot be read.
pub(super) fn of(root: &HostRoot) -> io::Result<DirectoryState> {
    record(root, Recorder::new(root.as_fd(), true)?)
}

fn record(root: &HostRoot, mut recorder: Recorder) -> io::Result<DirectoryState> {
    let mut buffer = Vec::with_capacity(NAMES);
    let mut waiting = vec![Vec::new()];
    while let Some(at) = waiting.pop() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let shown: &[u8] = if at.is_empty() { b"." } else { &at };
        let fd = openat(root.as_fd(), shown, flags, Mode::empty())?;
        recorder.directory(&at);
        let mut names = RawDir::new(&fd, buffer.spare_capacity_mut());
        while let Some(entry) = names.next() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
            recorder.name(name.to_bytes(), &FileStamp::from(&stat));
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Directory && stat.st_dev == recorder.root.device {
                waiting.push(path::join(&at, name.to_bytes()));
            }
        }
    }
    Ok(recorder.into_state())
}

/// True if a directory is in this state. One that is damaged is that of no directory.
pub(super) fn is_that_of(root: &HostRoot, state: &[u8]) -> bool {
    matches(root, state, !is_timed(root.as_fd()))
}

fn matches(root: &HostRoot, state: &[u8], counts: bool) -> bool {
    let Some((own, listings)) = state.split_first_chunk::<STAMP>() else {
        return false;
    };
    let now = FileStamp::of(root.as_fd());
    let Some(listings) = split(listings).filter(|_| now.is_ok_and(|now| now.to_bytes() == *own))
    else {
        return false;
    };
    let next = AtomicUsize::new(0);
    let compare = || {
        while let Some(listing) = listings.get(next.fetch_add(1, Ordering::Relaxed)) {
            if compare(root, listing, counts).is_none() {
                // The rest does not matter.
                next.store(listings.len(), Ordering::Relaxed);
                return false;
            }
        }
        true
    };
    std::thread::scope(|scope| {
        let threads = if state.len() < FEW { 1 } else { WALKERS };
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(compare)).collect();
        let own = compare();
        others.into_iter().fold(own, |same, other| {
            let other = other
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            same && other
        })
    })
}

/// Returns the listings of a state.
fn split(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut listings = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<LENGTH>()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (listing, rest) = rest.split_at_checked(length)?;
        listings.push(listing);
        bytes = rest;
    }
    Some(listings)
}

/// Compares a listing with what is there; `None` where that is something else. Nothing is opened but directories, and no link
/// is followed at the end of a path: one on the way to it is another name in another listing.
fn compare(root: &HostRoot, listing: &[u8], counts: bool) -> Option<()> {
    let (at, mut names) = text(listing)?;
    if names.is_empty() && !counts {
        return Some(());
    }
    let opened: OwnedFd;
    let dir = match at.is_empty() {
        true => root.as_fd(),
        false => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            opened = openat(root.as_fd(), at, flags, Mode::empty()).ok()?;
            opened.as_fd()
        }
    };
    let mut left = if counts { count(dir)? } else { 0 };
    while !names.is_empty() {
        let (name, stamp, rest) = entry(names)?;
        let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        if FileStamp::from(&stat).to_bytes() != *stamp {
            return None;
        }
        names = rest;
        left = left.saturating_sub(1);
    }
    (left == 0).then_some(())
}

/// Counts the names in a directory.
fn count(dir: BorrowedFd<'_>) -> Option<usize> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(dir, c".", flags, Mode::empty()).ok()?;
    let mut buffer = Vec::with_capacity(NAMES);
    let mut names = RawDir::new(dir, buffer.spare_capacity_mut());
    let mut count = 0;
    while let Some(name) = names.next() {
        count += usize::from(!matches!(name.ok()?.file_name().to_bytes(), b"." | b".."));
    }
    Some(count)
}

/// Splits off a name with its stamp.
fn entry(bytes: &[u8]) -> Option<(&CStr, &[u8; STAMP], &[u8])> {
    let (name, rest) = text(bytes)?;
    let (stamp, rest) = rest.split_first_chunk()?;
    Some((name, stamp, rest))
}

/// Splits off a text with its zero byte.
fn text(bytes: &[u8]) -> Option<(&CStr, &[u8])> {
    let text = CStr::from_bytes_until_nul(bytes).ok()?;
    Some((text, &bytes[text.to_bytes_with_nul().len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Ownership;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use crate::dir::walk;
    use crate::entry::EntryBuilder;

    fn host(root: &Path) -> HostRoot {
        HostRoot::open(root).unwrap()
    }

    /// The states that the two ways of reading a directory find.
    fn states(root: &Path) -> [Vec<u8>; 2] {
        let walked = walk(
            Arc::new(host(root)),
            EntryBuilder::plain(&Ownership::Root),
            None,
            true,
        )
        .unwrap();
        [of(&host(root)).unwrap(), walked.state].map(|state| state.bytes)
    }

    #[test]
    fn every_change_is_another_state() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("a/b/empty")).unwrap();
        let file = root.join("a/b/file");
        fs::write(&file, "1").unwrap();
        symlink("x", root.join("a/link")).unwrap();
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        let open = || fs::File::options().write(true).open(&file).unwrap();
        let own = rustix::process::geteuid().as_raw();
        let changes: [&dyn Fn(); 15] = [
            &|| fs::write(&file, "22").unwrap(),
            // Of the same length, with the old time.
            &|| {
                fs::write(&file, "33").unwrap();
                open().set_modified(time).unwrap();
            },
            &|| open().set_modified(SystemTime::now()).unwrap(),
            &|| fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap(),
            &|| chown(&file, Some(own), None).unwrap(),
            &|| lchown(root.join("a/link"), Some(own), None).unwrap(),
            &|| fs::write(root.join("a/new"), "").unwrap(),
            &|| fs::rename(root.join("a/new"), root.join("a/newer")).unwrap(),
            // A file in the place of another.
            &|| fs::rename(root.join("a/newer"), &file).unwrap(),
            &|| fs::hard_link(&file, root.join("a/b/hard")).unwrap(),
            &|| fs::remove_file(root.join("a/b/hard")).unwrap(),
            &|| fs::write(root.join("a/b/empty/file"), "").unwrap(),
            &|| symlink("x", root.join("link")).unwrap(),
            &|| fs::set_permissions(root, fs::Permissions::from_mode(0o711)).unwrap(),
            &|| {
                fs::set_permissions(root.join("a/b/empty"), fs::Permissions::from_mode(0o711))
                    .unwrap()
            },
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let before = states(root);
            assert!(before.iter().all(|state| is_that_of(&host(root), state)));
            // Longer than the coarsest clock of a local file system ticks.
            std::thread::sleep(Duration::from_millis(10));
            change();
            for (way, state) in before.iter().enumerate() {
                assert!(!is_that_of(&host(root), state), "change {index}, way {way}");
            }
        }
        let walked = walk(
            Arc::new(host(root)),
            EntryBuilder::plain(&Ownership::Root),
            None,
            true,
        )
        .unwrap();
        assert!(walked.state.settled().is_none(), "changed just now");
        assert!(of(&host(root)).unwrap().settled().is_none());
    }

    #[test]
    fn names_are_counted_where_a_directory_has_no_times() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("a/file"), "").unwrap();
        let root = host(dir.path());
        let mut recorder = Recorder::new(root.as_fd(), true).unwrap();
        recorder.is_timed = false;
        let state = record(&root, recorder).unwrap().bytes;
        assert!(matches(&root, &state, true));
        // As if the file had come later.
        let at = state.windows(5).position(|word| word == b"file\0").unwrap();
        let mut before = state.clone();
        before.drain(at..at + b"file\0".len() + STAMP);
        let length = at - b"a\0".len() - LENGTH;
        before[length..length + LENGTH].copy_from_slice(&2u64.to_le_bytes());
        assert!(matches(&root, &before, false) && !matches(&root, &before, true));
    }

    #[test]
    fn many_directories_are_compared_by_both_threads() {
        let dir = tempfile::tempdir().unwrap();
        let file = |index: usize| dir.path().join(format!("{}/{index}/file", index % 7));
        for index in 0..400 {
            fs::create_dir_all(file(index).parent().unwrap()).unwrap();
            fs::write(file(index), "").unwrap();
        }
        for state in states(dir.path()) {
            assert!(state.len() > FEW);
            assert!((0..20).all(|_| is_that_of(&host(dir.path()), &state)));
        }
        let before = states(dir.path());
        std::thread::sleep(Duration::from_millis(10));
        fs::write(file(399), "").unwrap();
        for state in before {
            assert!((0..20).all(|_| !is_that_of(&host(dir.path()), &state)));
        }
    }

    #[test]
    fn a_damaged_state_is_that_of_no_directory() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/file"), "").unwrap();
        for number in 1..MANY {
            fs::write(dir.path().join(format!("a/file{number}")), "").unwrap();
        }
        let root = host(dir.path());
        let state = of(&root).unwrap().bytes;
        let listing = b"a\0file\0".len() + STAMP + (MANY - 1) * (b"file1\0".len() + STAMP);
        let last = state.len() - LENGTH - listing;
        assert_eq!(state[last..last + LENGTH], (listing as u64).to_le_bytes());
        for end in (0..STAMP).chain(last + 1..state.len()) {
            assert!(!is_that_of(&root, &state[..end]), "{end}");
        }
        for at in 0..state.len() {
            let mut state = state.clone();
            state[at] ^= 1;
            assert!(!is_that_of(&root, &state), "{at}");
        }
    }
}
