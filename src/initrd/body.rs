//! A file's bytes, piece by piece, with the proof that they are those of the file that was found.
//!
//! A piece is good only if, after it was read, the open file is still what `stat` said when the tree was made: the same
//! inode, length and times. Files are not mapped: one that shrinks would kill the process.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, SeekFrom, Stat, fstat, seek, statat};
use rustix::io::{Errno, pread};

use super::Error;
use crate::image::host::{HostDir, open_file};
use crate::image::tree::{Content, FileBody, Stamp};

/// From this length on it is worth asking whether a file has holes.
const HOLES_FROM: u64 = 64 << 10;

/// One thread's way to files: the last directory and file stay open, since the next piece is mostly there.
#[derive(Default)]
pub(super) struct Bodies<'a> {
    dir: Option<(&'a Arc<HostDir>, OwnedFd)>,
    file: Option<(&'a FileBody, Opened)>,
}

struct Opened {
    fd: OwnedFd,
    holes: bool,
}

/// What a piece turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// Bytes, now in the buffer.
    Bytes,
    /// A hole: all zero, and the buffer is as it was.
    Hole,
}

impl<'a> Bodies<'a> {
    /// Fills `buffer` with the file's bytes from `from` on, or finds that they are a hole.
    pub(super) fn read(
        &mut self,
        body: &'a FileBody,
        from: u64,
        buffer: &mut [u8],
    ) -> Result<Piece, Error> {
        match &body.content {
            Content::Bytes(bytes) => {
                let from = from as usize;
                buffer.copy_from_slice(&bytes[from..from + buffer.len()]);
                Ok(Piece::Bytes)
            }
            Content::Host { dir, name, stamp } => {
                let failed = |errno| failed(dir, name, errno);
                if !self
                    .file
                    .as_ref()
                    .is_some_and(|(last, _)| std::ptr::eq(*last, body))
                {
                    self.file = None;
                    let opened =
                        open(self.dir(dir).map_err(failed)?, name, stamp).map_err(failed)?;
                    self.file = Some((body, opened));
                }
                let Some((_, opened)) = &self.file else {
                    unreachable!("opened above")
                };
                let piece = opened.read(from, buffer);
                // First of all: what was read, or could not be, says nothing if it is not that file any more.
                if !is_still(stamp, &fstat(&opened.fd).map_err(failed)?) {
                    return Err(Error::Changed {
                        shown: dir.shown(name),
                    });
                }
                let piece = piece.map_err(failed)?;
                if from + buffer.len() as u64 == stamp.size {
                    self.file = None;
                }
                Ok(piece)
            }
        }
    }

    /// Sees that a file found empty still is, without opening it.
    pub(super) fn check_empty(&mut self, body: &'a FileBody) -> Result<(), Error> {
        let Content::Host { dir, name, stamp } = &body.content else {
            return Ok(());
        };
        let failed = |errno| failed(dir, name, errno);
        let now = statat(
            self.dir(dir).map_err(failed)?,
            &**name,
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(failed)?;
        if is_still(stamp, &now) {
            Ok(())
        } else {
            Err(Error::Changed {
                shown: dir.shown(name),
            })
        }
    }

    fn dir(&mut self, dir: &'a Arc<HostDir>) -> Result<&OwnedFd, Errno> {
        if !self
            .dir
            .as_ref()
            .is_some_and(|(last, _)| Arc::ptr_eq(last, dir))
        {
            self.dir = None;
            self.dir = Some((dir, dir.open()?));
        }
        match &self.dir {
            Some((_, fd)) => Ok(fd),
            None => unreachable!("opened above"),
        }
    }
}

fn open(dir: &OwnedFd, name: &[u8], stamp: &Stamp) -> Result<Opened, Errno> {
    let fd = open_file(dir, name)?;
    let mut holes = false;
    if stamp.size >= HOLES_FROM {
        let now = fstat(&fd)?;
        // Something else than the file that was found is not even read.
        if !is_still(stamp, &now) {
            return Err(Errno::STALE);
        }
        holes = (now.st_blocks as u64) * 512 < stamp.size;
    }
    Ok(Opened { fd, holes })
}

impl Opened {
    fn read(&self, mut from: u64, mut buffer: &mut [u8]) -> Result<Piece, Errno> {
        if self.holes
            && self
                .next_data(from)?
                .is_none_or(|data| data >= from + buffer.len() as u64)
        {
            return Ok(Piece::Hole);
        }
        while !buffer.is_empty() {
            match pread(&self.fd, &mut *buffer, from) {
                Ok(0) => return Err(Errno::STALE),
                Ok(count) => {
                    buffer = &mut buffer[count..];
                    from += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(Piece::Bytes)
    }

    /// Where data begins at or after `from`; `None` when only a hole follows.
    fn next_data(&self, from: u64) -> Result<Option<u64>, Errno> {
        match seek(&self.fd, SeekFrom::Data(from)) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            // A file system that knows no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(from)),
            Err(errno) => Err(errno),
        }
    }
}

fn is_still(stamp: &Stamp, now: &Stat) -> bool {
    let nanoseconds =
        |seconds: i64, rest: u64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    *stamp
        == Stamp {
            dev: now.st_dev,
            ino: now.st_ino,
            size: now.st_size as u64,
            mtime_ns: nanoseconds(now.st_mtime as i64, now.st_mtime_nsec as u64),
            ctime_ns: nanoseconds(now.st_ctime as i64, now.st_ctime_nsec as u64),
        }
}

/// What an errno means for a file that was there when the tree was made.
fn failed(dir: &HostDir, name: &[u8], errno: Errno) -> Error {
    let shown = dir.shown(name);
    match errno {
        Errno::NOENT
        | Errno::NOTDIR
        | Errno::ISDIR
        | Errno::LOOP
        | Errno::NXIO
        | Errno::STALE
        | Errno::AGAIN => Error::Changed { shown },
        _ => Error::Unreadable {
            shown,
            source: errno.into(),
        },
    }
}
