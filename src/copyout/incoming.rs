//! One wish while it comes: entries → a staged tree.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rdvm_proto::{COPY_DEPTH, COPY_PATH, COPY_TARGET, Sent};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, fchmod, futimens, mkdirat,
    openat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::beneath;
use super::destination::Destination;
use super::error::{CopyError, StreamFault};
use super::stage::{STAGED, Stage};
use super::tree::{Attributes, IncomingTree, Left, Node};
use crate::request::Links;
use rdvm_hostfs::escape::escaped;
use rdvm_hostfs::{atomic, path};

/// The longest name in a directory (`NAME_MAX`).
const NAME_MAX: usize = 255;
/// The bits that are kept of a mode: no setuid, no setgid, no sticky bit.
const PERMISSIONS: u32 = 0o777;

/// The state of what has come.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    pub(super) files: u64,
    pub(super) directories: u64,
    pub(super) links: u64,
    pub(super) bytes: u64,
    pub(super) left_out: u64,
}

/// A thing that is coming.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    stage: Option<Stage>,
    tree: IncomingTree,
    /// The directory that something was last made in.
    last: Option<(Vec<u8>, OwnedFd)>,
    file: Option<OpenFile>,
    /// The thing itself has come, and is a file.
    is_file: bool,
    counts: Counts,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    path: Vec<u8>,
    left: u64,
    attributes: Attributes,
}

/// A thing that has come whole and waits to be put into position.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) stage: Stage,
    pub(super) tree: IncomingTree,
    pub(super) is_file: bool,
    pub(super) counts: Counts,
    /// Links that are not in it, since they lead out.
    pub(super) left: Vec<Left>,
}

impl Staged {
    /// Forgets these links, which are not in it any more.
    pub(super) fn leave(&mut self, left: Vec<Left>) {
        for link in &left {
            self.tree.remove(&link.path);
        }
        self.counts.links -= left.len() as u64;
        self.counts.left_out += left.len() as u64;
        self.left.extend(left);
    }
}

impl Incoming {
    /// Takes the next thing.
    pub(super) fn entry(&mut self, to: &Destination, sent: &Sent<'_>) -> Result<(), CopyError> {
        let wrong = |why| CopyError::Path {
            path: sent.path.to_vec(),
            why,
        };
        check_path(sent.path).map_err(wrong)?;
        if sent.mtime_ns >= 1_000_000_000 {
            return Err(wrong("has a time that is none"));
        }
        if self.is_file || self.tree.has(sent.path) {
            return Err(wrong("comes twice"));
        }
        let (parent, _) = path::split(sent.path);
        if !sent.path.is_empty() && !self.tree.is_directory(parent) {
            return Err(wrong("comes without a directory to be in"));
        }
        let attributes = Attributes {
            mode: sent.mode & PERMISSIONS,
            seconds: sent.mtime,
            nanoseconds: sent.mtime_ns,
        };
        match FileType::from_raw_mode(sent.mode) {
            FileType::RegularFile => {
                self.file = Some(self.make_file(to, sent, attributes)?);
                self.is_file = sent.path.is_empty();
                self.counts.files += 1;
                self.counts.bytes += sent.size;
            }
            FileType::Directory => {
                let (dir, name) = self.place(to, sent.path)?;
                mkdirat(dir, name, Mode::RWXU).map_err(failed(to, sent.path))?;
                let _ = self.tree.insert(sent.path, Node::Directory(attributes));
                self.counts.directories += 1;
            }
            FileType::Symlink if !sent.path.is_empty() => {
                let target = sent.target;
                if target.is_empty() || target.len() > COPY_TARGET || target.contains(&0) {
                    return Err(wrong("is a link to nothing"));
                }
                let (target, times) = (target.into(), attributes);
                let _ = self.tree.insert(sent.path, Node::Link { target, times });
                self.counts.links += 1;
            }
            FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Fifo
            | FileType::Socket
                if !sent.path.is_empty() =>
            {
                self.counts.left_out += 1;
            }
            _ if sent.path.is_empty() => return Err(CopyError::Kind),
            _ => return Err(wrong("is of no known kind")),
        }
        Ok(())
    }

    /// Takes the next bytes of the file that came last.
    pub(super) fn data(&mut self, to: &Destination, bytes: &[u8]) -> Result<(), CopyError> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        match file.left.checked_sub(bytes.len() as u64) {
            Some(left) => file.left = left,
            None => return Err(CopyError::Length(file.path.clone())),
        }
        let written = file.file.write_all(bytes);
        written.map_err(|error| CopyError::host(named(to, &file.path), error))
    }

    /// Takes the end of the file that came last.
    pub(super) fn file_end(&mut self, to: &Destination, errno: i32) -> Result<(), CopyError> {
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        let path = file.path;
        match errno {
            0 if file.left > 0 => Err(CopyError::Length(path)),
            0 => set_attributes(&file.file, file.attributes).map_err(failed(to, &path)),
            errno => Err(CopyError::Unread { path, errno }),
        }
    }

    /// Takes note that what is mounted somewhere does not come.
    pub(super) fn mounted(&mut self) {
        self.counts.left_out += 1;
    }

    /// Everything has come: makes the links, now that it can be told where they lead.
    pub(super) fn complete(mut self, to: &Destination, links: Links) -> Result<Staged, CopyError> {
        let left = match links {
            Links::Inside => self.tree.links_out(|_| true),
            Links::Keep => Vec::new(),
        };
        left.iter().for_each(|link| self.tree.remove(&link.path));
        self.counts.links -= left.len() as u64;
        self.counts.left_out += left.len() as u64;
        let tree = std::mem::take(&mut self.tree);
        for (path, target, times) in tree.links() {
            to.beat().tick();
            let (dir, name) = self.place(to, path)?;
            symlinkat(target, dir, name)
                .and_then(|()| utimensat(dir, name, &stamps(times), AtFlags::SYMLINK_NOFOLLOW))
                .map_err(failed(to, path))?;
        }
        match self.stage {
            Some(stage) if self.is_file || tree.has(b"") => Ok(Staged {
                stage,
                tree,
                is_file: self.is_file,
                counts: self.counts,
                left,
            }),
            _ => Err(CopyError::Stream(StreamFault::Order)),
        }
    }

    /// The directory that `path` is to be made in, and its name there.
    fn place<'a>(
        &'a mut self,
        to: &Destination,
        path: &'a [u8],
    ) -> Result<(BorrowedFd<'a>, &'a [u8]), CopyError> {
        let stage = match self.stage.take() {
            Some(stage) => stage,
            None => {
                let stage = Stage::make(to.home(), to.beat());
                stage.map_err(|errno| CopyError::host(to.shown().to_owned(), errno))?
            }
        };
        let stage: &Stage = self.stage.insert(stage);
        if path.is_empty() {
            return Ok((stage.as_fd(), STAGED));
        }
        let (parent, name) = path::split(path);
        let last = match self.last.take() {
            Some((last, dir)) if last == parent => (last, dir),
            _ => {
                let dir = beneath::directory(stage, STAGED)
                    .and_then(|root| beneath::directory(root, parent))
                    .map_err(failed(to, parent))?;
                (parent.to_vec(), dir)
            }
        };
        let (_, dir) = &*self.last.insert(last);
        Ok((dir.as_fd(), name))
    }

    fn make_file(
        &mut self,
        to: &Destination,
        sent: &Sent<'_>,
        attributes: Attributes,
    ) -> Result<OpenFile, CopyError> {
        atomic::fits_limit(sent.size)
            .map_err(|error| CopyError::host(named(to, sent.path), error))?;
        let (dir, name) = self.place(to, sent.path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(dir, name, flags, Mode::RUSR | Mode::WUSR);
        let fd = fd.map_err(|errno| match errno {
            Errno::EXIST => CopyError::Path {
                path: sent.path.to_vec(),
                why: "comes twice",
            },
            errno => failed(to, sent.path)(errno),
        })?;
        Ok(OpenFile {
            file: fd.into(),
            path: sent.path.to_vec(),
            left: sent.size,
            attributes,
        })
    }
}

/// True if something may have this path below what was wished for.
///
/// # Errors
/// Its flaw.
pub(super) fn check_path(path: &[u8]) -> Result<(), &'static str> {
    if path.is_empty() {
        return Ok(());
    }
    if path.len() > COPY_PATH {
        return Err("is too long");
    }
    if path.contains(&0) {
        return Err("has a NUL in it");
    }
    for (depth, name) in path.split(|&byte| byte == b'/').enumerate() {
        match name {
            b"" | b"." | b".." => return Err("is no path below what was asked for"),
            _ if name.len() > NAME_MAX || depth >= COPY_DEPTH => return Err("is too long"),
            _ => {}
        }
    }
    Ok(())
}

/// Sets the permissions and time of an open file or directory.
pub(super) fn set_attributes(fd: impl AsFd, attributes: Attributes) -> rustix::io::Result<()> {
    fchmod(&fd, Mode::from_raw_mode(attributes.mode))?;
    futimens(&fd, &stamps(attributes))
}

fn stamps(attributes: Attributes) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: attributes.seconds,
            tv_nsec: attributes.nanoseconds.into(),
        },
    }
}

/// Turns an errno into the fault of what is at this path.
fn failed<'a>(to: &'a Destination, path: &'a [u8]) -> impl Fn(Errno) -> CopyError + use<'a> {
    move |errno| match errno {
        Errno::EXIST => CopyError::Path {
            path: path.to_vec(),
            why: "comes twice",
        },
        errno => CopyError::host(named(to, path), errno),
    }
}

fn named(to: &Destination, path: &[u8]) -> String {
    match path.is_empty() {
        true => to.shown().to_owned(),
        false => format!("{}: {}", to.shown(), escaped(path)),
    }
}
