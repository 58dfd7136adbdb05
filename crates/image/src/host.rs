//! Directories and files of the host, held by their root: opening what is below without ever following a link.
//!
//! Used twice, when the tree is read and when its files' bytes are; in between a component may have been swapped
//! for a symbolic link, and then opening it must fail. Knows nothing of entries and owners.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat};
use rustix::io::{Errno, Result, pread};

use rdvm_hostfs::FileStamp;
use rdvm_hostfs::escape::escaped;
use rdvm_hostfs::{beneath, path};

/// For every directory that is opened: never a link, never kept across an exec.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);
/// For every file: a pipe that took its place must not make us wait.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// The root directory of an image, open as long as anything refers to it.
#[derive(Debug)]
pub(crate) struct HostRoot {
    fd: OwnedFd,
    path: PathBuf,
}

impl HostRoot {
    /// Opens the directory at `path`; only here links are followed.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            fd: openat(CWD, path, DIRECTORY, Mode::empty())?,
            path: path.to_owned(),
        })
    }

    /// The open directory.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Its path, as given.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// A directory at or below a root, by its path from there.
#[derive(Debug, Clone)]
pub struct HostDir {
    root: Arc<HostRoot>,
    path: Vec<u8>,
}

impl HostDir {
    /// The root itself.
    pub(crate) fn of_root(root: Arc<HostRoot>) -> Self {
        Self {
            root,
            path: Vec::new(),
        }
    }

    /// The directory `name` in this one.
    pub(crate) fn child(&self, name: &[u8]) -> Self {
        Self {
            root: self.root.clone(),
            path: self.join(name),
        }
    }

    /// The path of `name` in this directory, from the root.
    pub(crate) fn join(&self, name: &[u8]) -> Vec<u8> {
        path::join(&self.path, name)
    }

    /// This directory's path from the root, empty for the root.
    pub(crate) fn path(&self) -> &[u8] {
        &self.path
    }

    /// Opens it; a link anywhere between the root and here is an error (`ELOOP` or `ENOTDIR`).
    pub(crate) fn open(&self) -> Result<OwnedFd> {
        if self.path.is_empty() {
            return openat(&self.root.fd, ".", DIRECTORY, Mode::empty());
        }
        match beneath::open(&self.root.fd, &self.path, DIRECTORY, ResolveFlags::empty()) {
            // Kernels before 5.6, and sandboxes that do not know the call.
            Err(Errno::NOSYS | Errno::PERM) => self.open_by_steps(),
            done => done,
        }
    }

    /// The same, one component at a time.
    fn open_by_steps(&self) -> Result<OwnedFd> {
        let mut at = openat(&self.root.fd, ".", DIRECTORY, Mode::empty())?;
        for name in self.path.split(|&byte| byte == b'/') {
            at = openat(&at, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        }
        Ok(at)
    }

    /// A path on the host for messages, escaped.
    pub(crate) fn shown(&self, name: &[u8]) -> String {
        let mut path = self.root.path.as_os_str().as_bytes().to_vec();
        for part in [&self.path, name] {
            if !part.is_empty() {
                if path.last() != Some(&b'/') {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
        escaped(&path)
    }
}

impl PartialEq for HostDir {
    /// The same place by name; two openings of one image are the same tree.
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.root.path == other.root.path
    }
}

impl Eq for HostDir {}

/// A regular file below a root, and what it was when it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFile {
    /// The directory it is in.
    pub dir: Arc<HostDir>,
    /// Its name there.
    pub name: Box<[u8]>,
    /// Its state, which must be the same when it is read.
    pub stamp: FileStamp,
}

impl HostFile {
    /// Returns all of its bytes.
    ///
    /// # Errors
    /// It cannot be read, or has changed since it was found.
    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        let file = open_file(self.dir.open()?, &self.name)?;
        let mut bytes = vec![0; usize::try_from(self.stamp.size).map_err(io::Error::other)?];
        read_exact(&file, 0, &mut bytes)?;
        match FileStamp::of(&file)? == self.stamp {
            true => Ok(bytes),
            false => Err(Errno::STALE.into()),
        }
    }

    /// Its path on the host for messages, escaped.
    pub fn shown(&self) -> String {
        self.dir.shown(&self.name)
    }
}

/// Opens the file `name` in an open directory for reading; never follows a link, never waits for a pipe's writer.
///
/// The file's access time stays as it is where we may ask for that (our own files, or as root): to write it down costs
/// the host more than to read a small file.
pub fn open_file(dir: impl AsFd, name: &[u8]) -> Result<OwnedFd> {
    /// False once another user's file was among them.
    static MAY: AtomicBool = AtomicBool::new(true);
    if MAY.load(Ordering::Relaxed) {
        match openat(&dir, name, FILE | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => MAY.store(false, Ordering::Relaxed),
            done => return done,
        }
    }
    openat(dir, name, FILE, Mode::empty())
}

/// Fills `buffer` with a file's bytes from `from` on; `ESTALE` if there are not as many.
pub fn read_exact(file: &OwnedFd, mut from: u64, mut buffer: &mut [u8]) -> Result<()> {
    while !buffer.is_empty() {
        match pread(file, &mut *buffer, from) {
            Ok(0) => return Err(Errno::STALE),
            Ok(count) => {
                buffer = &mut buffer[count..];
                from += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_on_the_way_is_never_followed_whichever_call_is_used() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("real/sub")).unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        symlink("/", dir.path().join("real/out")).unwrap();
        let root = HostDir::of_root(Arc::new(HostRoot::open(dir.path()).unwrap()));

        let good = root.child(b"real").child(b"sub");
        assert!(good.open().is_ok() && good.open_by_steps().is_ok());
        for bad in [
            root.child(b"link").child(b"sub"),
            root.child(b"link"),
            root.child(b"real").child(b"out"),
        ] {
            assert!(bad.open().is_err(), "{bad:?}");
            assert!(bad.open_by_steps().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_image_itself_may_be_a_link() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        assert!(HostRoot::open(&dir.path().join("link")).is_ok());
    }

    #[test]
    fn reading_our_own_file_leaves_its_access_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "text").unwrap();
        // Older than its last change: even a mount with `relatime` would write the new one down.
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_times(fs::FileTimes::new().set_accessed(old))
            .unwrap();
        let root = HostDir::of_root(Arc::new(HostRoot::open(dir.path()).unwrap()));
        let file = open_file(root.open().unwrap(), b"file").unwrap();
        read_exact(&file, 0, &mut [0; 4]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().accessed().unwrap(), old);
    }
}
