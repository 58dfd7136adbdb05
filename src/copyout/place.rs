//! A staged thing → its position: what is in the way is found first, then names are moved, one by one where a directory
//! goes into another.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    Access, AtFlags, FileType, Mode, OFlags, RenameFlags, accessat, fchmod, renameat,
    renameat_with, unlinkat,
};
use rustix::io::Errno;

use super::beneath;
use super::destination::{Destination, Site, kind_of};
use super::error::CopyError;
use super::incoming::{Staged, set_attributes};
use super::stage::STAGED;
use super::tree::{Attributes, IncomingTree};
use crate::request::Links;
use rdvm_hostfs::escape::escaped;
use rdvm_hostfs::path;

/// The permissions that a directory needs for its own name to be moved to another: it holds `..`.
const OWNER: u32 = 0o700;

/// Puts a thing into position. The staging directory is gone afterwards.
///
/// # Errors
/// Nothing has been moved, but for [`CopyError::Half`].
pub(super) fn place(to: &Destination, staged: &mut Staged, links: Links) -> Result<(), CopyError> {
    let (site, made) = to.find(!staged.is_file)?;
    let placed = match site {
        Site::Put { dir, name } => put(to, staged, &dir, &name),
        Site::Merge { dir } => {
            leave_links(to, staged, &dir, links).and_then(|()| merge(to, staged, &dir))
        }
    };
    placed.inspect_err(|_| to.forget(made))
}

/// The whole thing becomes `name`.
fn put(to: &Destination, staged: &Staged, dir: &OwnedFd, name: &[u8]) -> Result<(), CopyError> {
    let there = kind_of(dir, name);
    let what = || format!("{}: {}", to.shown(), escaped(name));
    let fresh = clear_of(staged.is_file, there).map_err(|why| CopyError::Conflict {
        what: format!("{} {why}", what()),
    })?;
    if !staged.is_file {
        let root = staged_root(to, staged)?;
        set_directories(to, &root, &staged.tree, &HashSet::new(), &[Vec::new()])?;
    }
    move_name((&staged.stage, STAGED), (dir, name), fresh)
        .map_err(|errno| CopyError::host(what(), errno))?;
    match staged.tree.directories().last() {
        Some((_, attributes)) => restrict(dir, name, *attributes),
        None => Ok(()),
    }
    .map_err(|errno| half(what(), errno, 1, 1))
}

/// The names that belong into one directory that both trees have.
struct Moves {
    path: Vec<u8>,
    /// Names, and whether there is nothing of that name yet.
    names: Vec<(CString, bool)>,
}

/// Moves what is in the thing into `dir`, and so for every directory that is there already.
fn merge(to: &Destination, staged: &Staged, dir: &OwnedFd) -> Result<(), CopyError> {
    let root = staged_root(to, staged)?;
    let plan = plan(to, &root, dir)?;
    let merged: HashSet<&[u8]> = plan.iter().map(|moves| &*moves.path).collect();
    let tops: Vec<Vec<u8>> = plan
        .iter()
        .flat_map(|moves| {
            let path = |(name, _): &(CString, bool)| path::join(&moves.path, name.as_bytes());
            moves.names.iter().map(path)
        })
        .collect();
    set_directories(to, &root, &staged.tree, &merged, &tops)?;
    let all = tops.len();
    let mut done = 0;
    for moves in &plan {
        let what = |name: &[u8]| inside(to, &path::join(&moves.path, name));
        let failed = |done, name: &[u8], errno| match done {
            0 => CopyError::host(what(name), errno),
            _ => half(what(name), errno, done, all),
        };
        let from = beneath::directory(&root, &moves.path).map_err(|e| failed(done, b"", e))?;
        let into = beneath::directory(dir, &moves.path).map_err(|e| failed(done, b"", e))?;
        for (name, fresh) in &moves.names {
            to.beat().tick();
            let name = name.as_bytes();
            move_name((&from, name), (&into, name), *fresh)
                .map_err(|errno| failed(done, name, errno))?;
            done += 1;
        }
    }
    let tops: HashSet<&[u8]> = tops.iter().map(|path| &**path).collect();
    for (path, attributes) in staged.tree.directories() {
        if tops.contains(path) {
            restrict(dir, path, attributes)
                .map_err(|errno| half(inside(to, path), errno, done, all))?;
        }
    }
    Ok(())
}

/// Takes those links out of what is staged that would lead through a link which `dir` has, or to another file system there.
fn leave_links(
    to: &Destination,
    staged: &mut Staged,
    dir: &OwnedFd,
    links: Links,
) -> Result<(), CopyError> {
    if links == Links::Keep {
        return Ok(());
    }
    let root = staged_root(to, staged)?;
    let left = staged.tree.links_out(|path| {
        to.beat().tick();
        // A file of ours replaces what is there; anything else a link would lead to is theirs.
        let (parent, name) = path::split(path);
        let ours = beneath::directory(&root, parent).is_ok_and(|dir| kind_of(&dir, name).is_some());
        let found = beneath::open(dir, path, OFlags::PATH);
        ours || !matches!(found, Err(Errno::LOOP | Errno::XDEV))
    });
    for link in &left {
        let (parent, name) = path::split(&link.path);
        beneath::directory(&root, parent)
            .and_then(|dir| unlinkat(dir, name, AtFlags::empty()))
            .map_err(|errno| CopyError::host(inside(to, &link.path), errno))?;
    }
    staged.leave(left);
    Ok(())
}

/// Finds what is to be moved, directory by directory, and whether anything is in the way.
fn plan(to: &Destination, root: &OwnedFd, dir: &OwnedFd) -> Result<Vec<Moves>, CopyError> {
    let mut plan = Vec::new();
    let mut paths = vec![Vec::new()];
    while let Some(path) = paths.pop() {
        let host = |errno: Errno| CopyError::host(inside(to, &path), errno);
        let from = beneath::directory(root, &path).map_err(host)?;
        let into = beneath::directory(dir, &path).map_err(host)?;
        let access = Access::WRITE_OK | Access::EXEC_OK;
        accessat(&into, ".", access, AtFlags::empty()).map_err(host)?;
        let mut names = Vec::new();
        for name in beneath::names(&from).map_err(host)? {
            to.beat().tick();
            let is_file = kind_of(&from, name.as_bytes()) != Some(FileType::Directory);
            let there = kind_of(&into, name.as_bytes());
            let below = path::join(&path, name.as_bytes());
            if !is_file && there == Some(FileType::Directory) {
                paths.push(below);
                continue;
            }
            match clear_of(is_file, there) {
                Ok(fresh) => names.push((name, fresh)),
                Err(why) => {
                    let what = format!("{} {why}", inside(to, &below));
                    return Err(CopyError::Conflict { what });
                }
            }
        }
        plan.push(Moves { path, names });
    }
    Ok(plan)
}

/// True if a name is free (true) or what has it may be replaced (false).
///
/// # Errors
/// Why neither.
fn clear_of(is_file: bool, there: Option<FileType>) -> Result<bool, &'static str> {
    match (is_file, there) {
        (_, None) => Ok(true),
        (true, Some(FileType::Directory)) => Err("is a directory and what came is none"),
        (true, Some(FileType::RegularFile | FileType::Symlink)) => Ok(false),
        (true, Some(_)) => Err("is a device, pipe or socket"),
        (false, Some(_)) => Err("is no directory and what came is one"),
    }
}

/// Sets the permissions and times of all directories that are not `merged`. `tops` are what will be moved: they keep
/// what that takes until it is done.
fn set_directories(
    to: &Destination,
    root: &OwnedFd,
    tree: &IncomingTree,
    merged: &HashSet<&[u8]>,
    tops: &[Vec<u8>],
) -> Result<(), CopyError> {
    let tops: HashSet<&[u8]> = tops.iter().map(|path| &**path).collect();
    for (path, mut attributes) in tree.directories() {
        to.beat().tick();
        if merged.contains(path) {
            continue;
        }
        if tops.contains(path) {
            attributes.mode |= OWNER;
        }
        beneath::open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)
            .and_then(|dir| set_attributes(dir, attributes))
            .map_err(|errno| CopyError::host(inside(to, path), errno))?;
    }
    Ok(())
}

/// Takes from a directory what it had only to be moved.
fn restrict(dir: &OwnedFd, path: &[u8], attributes: Attributes) -> rustix::io::Result<()> {
    if attributes.mode & OWNER == OWNER {
        return Ok(());
    }
    let dir = beneath::open(dir, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    fchmod(dir, Mode::from_raw_mode(attributes.mode))
}

fn move_name(
    (from, old): (impl AsFd, &[u8]),
    (into, new): (impl AsFd, &[u8]),
    fresh: bool,
) -> rustix::io::Result<()> {
    if fresh {
        match renameat_with(&from, old, &into, new, RenameFlags::NOREPLACE) {
            // A file system that cannot: then what was found free a moment ago has to do.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            result => return result,
        }
    }
    renameat(from, old, into, new)
}

fn staged_root(to: &Destination, staged: &Staged) -> Result<OwnedFd, CopyError> {
    beneath::directory(&staged.stage, STAGED).map_err(|errno| CopyError::host(to.shown(), errno))
}

fn half(what: String, errno: Errno, done: usize, all: usize) -> CopyError {
    let source = errno.into();
    CopyError::Half {
        what,
        source,
        done,
        all,
    }
}

fn inside(to: &Destination, path: &[u8]) -> String {
    match path.is_empty() {
        true => to.shown().to_owned(),
        false => format!("{}: {}", to.shown(), escaped(path)),
    }
}
