//! A file's bytes, piece by piece, with the proof that they are those of the file that was found.
//!
//! A piece is good only if, after it was read, the open file is still what `stat` said when the tree was made: the same
//! inode, length and times. Files are not mapped: one that shrinks would kill the process.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{SeekFrom, fstat, seek};
use rustix::io::Errno;

use super::Error;
use crate::image::host::{HostDir, HostFile, Stamp, open_file, read_exact};
use crate::image::member::Extent;
use crate::image::tree::{Content, read_sparse};

/// One thread's way to files: the last directory and file stay open, since the next piece is mostly there.
#[derive(Default)]
pub(crate) struct Bodies<'a> {
    dir: Option<(&'a Arc<HostDir>, OwnedFd)>,
    file: Option<Opened<'a>>,
}

struct Opened<'a> {
    file: &'a HostFile,
    fd: OwnedFd,
    holes: bool,
}

/// What a piece turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Bytes, now in the buffer.
    Bytes,
    /// A hole: all zero, and the buffer is as it was.
    Hole,
}

impl<'a> Bodies<'a> {
    /// Fills `buffer` with a file's bytes from `from` on, or finds that they are a hole.
    pub(crate) fn read(
        &mut self,
        content: &'a Content,
        from: u64,
        buffer: &mut [u8],
    ) -> Result<Piece, Error> {
        match content {
            Content::Bytes(bytes) => {
                let from = from as usize;
                buffer.copy_from_slice(&bytes[from..from + buffer.len()]);
                Ok(Piece::Bytes)
            }
            Content::Host(file) => self
                .read_host(file, from, buffer)
                .map_err(|errno| failed(file.shown(), errno)),
            Content::Span(span) => match span.store.read_exact(span.offset + from, buffer) {
                Ok(()) => Ok(Piece::Bytes),
                Err(errno) => Err(failed(span.store.shown().to_owned(), errno)),
            },
            Content::Sparse(extents) => self.read_sparse(extents, from, buffer),
        }
    }

    /// The same with holes as zeros, whatever the buffer held.
    pub(crate) fn read_filled(
        &mut self,
        content: &'a Content,
        from: u64,
        buffer: &mut [u8],
    ) -> Result<(), Error> {
        if self.read(content, from, buffer)? == Piece::Hole {
            buffer.fill(0);
        }
        Ok(())
    }

    /// Holes are told, not filled: what is not a hole is read over zeros.
    fn read_sparse(
        &mut self,
        extents: &[Extent],
        from: u64,
        buffer: &mut [u8],
    ) -> Result<Piece, Error> {
        let end = from + buffer.len() as u64;
        let next = extents.partition_point(|extent| extent.at + extent.length <= from);
        if extents.get(next).is_none_or(|extent| extent.at >= end) {
            return Ok(Piece::Hole);
        }
        buffer.fill(0);
        match read_sparse(extents, from, buffer) {
            Ok(()) => Ok(Piece::Bytes),
            Err(errno) => {
                let store = extents
                    .first()
                    .map_or("-", |extent| extent.bytes.store.shown());
                Err(failed(store.to_owned(), errno))
            }
        }
    }

    fn read_host(
        &mut self,
        file: &'a HostFile,
        from: u64,
        buffer: &mut [u8],
    ) -> Result<Piece, Errno> {
        let opened = match self.file.take() {
            Some(opened) if std::ptr::eq(opened.file, file) => opened,
            _ => Opened::new(file, self.dir(&file.dir)?)?,
        };
        let piece = opened.read(from, buffer);
        // First of all: what was read, or could not be, says nothing if it is not that file any more.
        if Stamp::from(&fstat(&opened.fd)?) != file.stamp {
            return Err(Errno::STALE);
        }
        if from + (buffer.len() as u64) < file.stamp.size {
            self.file = Some(opened);
        }
        piece
    }

    fn dir(&mut self, dir: &'a Arc<HostDir>) -> Result<&OwnedFd, Errno> {
        let open = match self.dir.take() {
            Some((last, fd)) if Arc::ptr_eq(last, dir) => fd,
            _ => dir.open()?,
        };
        Ok(&self.dir.insert((dir, open)).1)
    }
}

impl<'a> Opened<'a> {
    fn new(file: &'a HostFile, dir: &OwnedFd) -> Result<Self, Errno> {
        let fd = open_file(dir, &file.name)?;
        let now = fstat(&fd)?;
        // Something else than the file that was found is not even read.
        if Stamp::from(&now) != file.stamp {
            return Err(Errno::STALE);
        }
        let holes = (now.st_blocks as u64) * 512 < file.stamp.size;
        Ok(Self { file, fd, holes })
    }

    fn read(&self, from: u64, buffer: &mut [u8]) -> Result<Piece, Errno> {
        if self.holes
            && self
                .next_data(from)?
                .is_none_or(|data| data >= from + buffer.len() as u64)
        {
            return Ok(Piece::Hole);
        }
        read_exact(&self.fd, from, buffer)?;
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

/// What an errno means for a file that was there when the tree was made.
fn failed(shown: String, errno: Errno) -> Error {
    match errno {
        // Nothing, a link, a socket or a device without driver in its place, or in its directory's.
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::STALE => {
            Error::Changed { shown }
        }
        _ => Error::Unreadable {
            shown,
            source: errno.into(),
        },
    }
}
