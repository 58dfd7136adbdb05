//! The rules that the entries of a tree keep, so that the types hold what they promise.
//!
//! Takes entries in the order of a tree, returns the first broken rule. The rules are Linux's own and the kernel's
//! initramfs unpacker's, which skips in silence what it does not take.

use std::collections::HashMap;

use super::tree::{
    Content, Entry, FileBody, ImagePath, Kind, NAME_LIMIT, PATH_LIMIT, RESERVED_NAME,
};
use rdvm_hostfs::escape::escaped;
use rdvm_hostfs::path::split;

/// Every path is a plain name in a directory that came before it.
///
/// Since the parent was checked first, only the last component has to be looked at.
pub(super) fn check_places(sorted: &[Entry]) -> Result<(), Error> {
    let mut parents: Vec<&Entry> = Vec::new();
    let mut previous: Option<&Entry> = None;
    for entry in sorted {
        let path = &entry.path;
        if previous.is_some_and(|previous| previous.path == *path) {
            return Err(Error::Duplicate { path: path.clone() });
        }
        previous = Some(entry);
        if path.is_empty() {
            if entry.kind != Kind::Directory {
                return Err(Error::RootNotDirectory);
            }
            continue;
        }
        let (parent, name) = split(path);
        check_name(path, name)?;
        while parents.last().is_some_and(|above| above.path != parent) {
            parents.pop();
        }
        if parents.is_empty() && !parent.is_empty() {
            return Err(Error::NoParent { path: path.clone() });
        }
        if entry.kind == Kind::Directory {
            parents.push(entry);
        }
    }
    Ok(())
}

/// One name is one that Linux accepts; `path` is the whole of it.
fn check_name(path: &[u8], name: &[u8]) -> Result<(), Error> {
    if path.len() > PATH_LIMIT {
        return Err(Error::too_long(path));
    }
    if name.len() > NAME_LIMIT {
        return Err(Error::NameTooLong {
            path: path.to_vec(),
            bytes: name.len(),
        });
    }
    if path == RESERVED_NAME {
        return Err(Error::Reserved);
    }
    if matches!(name, b"" | b"." | b"..") || name.contains(&0) || path[0] == b'/' {
        return Err(Error::BadName {
            path: path.to_vec(),
        });
    }
    Ok(())
}

/// Checks an entry against the rules for its own kind.
pub(super) fn check_entry(entry: &Entry) -> Result<(), Error> {
    let path = || entry.path.clone();
    if entry.mode & !0o7777 != 0 {
        return Err(Error::BadMode {
            path: path(),
            mode: entry.mode,
        });
    }
    match &entry.kind {
        Kind::Symlink(target)
            if target.is_empty() || target.len() > PATH_LIMIT || target.contains(&0) =>
        {
            Err(Error::BadTarget {
                path: path(),
                bytes: target.len(),
            })
        }
        Kind::File(FileBody {
            size,
            content: Content::Bytes(bytes),
            ..
        }) if *size != bytes.len() as u64 => Err(Error::LinksDiffer { path: path() }),
        _ => Ok(()),
    }
}

/// All names of one file agree on its length.
pub(super) fn check_links(entries: &[Entry]) -> Result<(), Error> {
    let mut sizes = HashMap::new();
    for entry in entries {
        if let Kind::File(FileBody {
            size,
            link: Some(link),
            ..
        }) = &entry.kind
            && sizes.insert(link, size).is_some_and(|other| other != size)
        {
            return Err(Error::LinksDiffer {
                path: entry.path.clone(),
            });
        }
    }
    Ok(())
}

/// Why entries do not make a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// A path the kernel's unpacker would skip.
    #[error(
        "{}…: the path has {bytes} bytes, {PATH_LIMIT} is the limit; use shorter names or fewer levels",
        escaped(start)
    )]
    PathTooLong { start: ImagePath, bytes: usize },
    /// A name no Linux file system takes.
    #[error(
        "{}: the name has {bytes} bytes, {NAME_LIMIT} is the limit; use a shorter one",
        escaped(path)
    )]
    NameTooLong { path: ImagePath, bytes: usize },
    /// An empty component, `.`, `..` or one with a NUL byte.
    #[error(
        "{}: not a plain path inside the image; remove the entry",
        escaped(path)
    )]
    BadName { path: ImagePath },
    /// The end mark of the archive as a file name.
    #[error("TRAILER!!!: the initrd format uses this name as its end mark; rename the file")]
    Reserved,
    /// A path that is there twice.
    #[error("{}: is there twice; keep one of them", escaped(path))]
    Duplicate { path: ImagePath },
    /// An entry whose directory is missing, or not a directory.
    #[error(
        "{}: there is no directory to hold it; add the directory before it",
        escaped(path)
    )]
    NoParent { path: ImagePath },
    /// The root is something else than a directory.
    #[error("the image's root is not a directory; use a directory that holds a root file system")]
    RootNotDirectory,
    /// A target that is empty, too long, or has a NUL byte.
    #[error(
        "{}: a link target of {bytes} bytes cannot be kept, 1 to {PATH_LIMIT} without NUL can; remove the link",
        escaped(path)
    )]
    BadTarget { path: ImagePath, bytes: usize },
    /// More than permission bits.
    #[error("{}: {mode:o} is not a mode; keep it within 7777", escaped(path))]
    BadMode { path: ImagePath, mode: u16 },
    /// Names of one file, or a file and its bytes, that do not agree on the length.
    #[error(
        "{}: its length is not that of the file it is a name of; pack it again while nothing changes it",
        escaped(path)
    )]
    LinksDiffer { path: ImagePath },
}

impl Error {
    /// For a path over the limit, of which a message need not show all.
    pub(super) fn too_long(path: &[u8]) -> Self {
        Self::PathTooLong {
            start: path[..path.len().min(64)].to_vec(),
            bytes: path.len(),
        }
    }
}
