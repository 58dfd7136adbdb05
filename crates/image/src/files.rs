//! Files of the user's that are no image, to be copied into a guest: read like one, without owners and extended attributes.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::Error;
use super::dir::{self, Walked};
use super::entry::{EntryBuilder, failed, look};
use super::host::{HostDir, HostRoot};
use super::reference::Ownership;
use super::tree::{Entry, ImagePath};

/// Says of a path below the directory that is read, and of its kind, that it stays out. A directory that does is not
/// looked into.
pub(crate) type PathFilter<'a> = &'a (dyn Fn(&[u8], FileType) -> bool + Sync);

/// Everything at and below the directory at `path` that `filter` lets through, in the order of a tree and with its root,
/// its owners read as `owner` has it; and the directories that something else is mounted on, which come empty.
///
/// # Errors
/// As for an image.
pub fn below(
    path: &Path,
    owner: &Ownership,
    filter: PathFilter<'_>,
) -> Result<(Vec<Entry>, Vec<ImagePath>), Error> {
    let root = HostRoot::open(path).map_err(|errno| Error::Image {
        path: path.to_owned(),
        source: errno.into(),
    })?;
    let Walked {
        entries, mounts, ..
    } = dir::walk(
        Arc::new(root),
        EntryBuilder::plain(owner),
        Some(filter),
        false,
    )?;
    Ok((entries, mounts))
}

/// The regular file at `path`, as an entry without a path, its owner read as `owner` has it. Links are followed; by the time it is read none may be left.
///
/// # Errors
/// As for an image.
pub fn one(path: &Path, owner: &Ownership) -> Result<Entry, Error> {
    let unreadable = |source| Error::Image {
        path: path.to_owned(),
        source,
    };
    let real = path.canonicalize().map_err(unreadable)?;
    let (Some(parent), Some(name)) = (real.parent(), real.file_name()) else {
        return Err(unreadable(Errno::ISDIR.into()));
    };
    let root = HostRoot::open(parent).map_err(|errno| unreadable(errno.into()))?;
    let dir = Arc::new(HostDir::of_root(Arc::new(root)));
    let name = name.as_bytes();
    let failed = |errno| failed(&dir, name, errno);
    let fd = dir.open().map_err(failed)?;
    let seen = look(&fd, name, FileType::RegularFile).map_err(failed)?;
    let mut entry = [EntryBuilder::plain(owner).named(&dir, &fd, name, seen)?];
    dir::number_links(&mut entry);
    let [entry] = entry;
    Ok(Entry {
        path: Vec::new(),
        ..entry
    })
}
