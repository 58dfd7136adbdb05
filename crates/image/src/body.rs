//! A file's bytes, piece by piece, with the proof that they are those of the file that was found.
//!
//! A piece is good only if, after it was read, the open file is still what `stat` said when the tree was made: the same
//! inode, length and times. Files are not mapped: one that shrinks would kill the process.

use rdvm_hostfs::escape::reason;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{SeekFrom, copy_file_range, fstat, seek};
use rustix::io::Errno;

use crate::byte_source::ByteSource;
use crate::host::{HostDir, HostFile, open_file, read_exact};
use crate::member::Extent;
use crate::tree::{Content, read_sparse};
use rdvm_hostfs::FileStamp;

/// Why a file's bytes cannot be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// A file is no longer what it was when the image was looked at.
    #[error("{shown}: changed while it was packed; try again when nothing writes to the image")]
    Changed { shown: String },
    /// A file's bytes cannot be had.
    #[error(
        "{shown}: cannot be read: {}; run as a user who may, or remove it from the image",
        reason(source)
    )]
    Unreadable {
        shown: String,
        source: std::io::Error,
    },
}

/// One thread's way to files: the last directory and file stay open, since the next piece is mostly there.
#[derive(Default)]
pub struct Bodies<'a> {
    dir: Option<(&'a Arc<HostDir>, OwnedFd)>,
    file: Option<Opened<'a>>,
    ahead: Ahead<'a>,
    /// True once the kernel refused to copy.
    must_read: bool,
}

/// Bytes of an archive read in advance: small files mostly stand there one after the other, in the order in which they
/// are asked for, and a call for each would cost more than all else that is done with them.
#[derive(Default)]
struct Ahead<'a> {
    store: Option<&'a Arc<ByteSource>>,
    /// Where `bytes` begin.
    at: u64,
    bytes: Vec<u8>,
    /// Where the last read ended.
    last: u64,
}

/// Bytes that are read in advance.
const AHEAD: usize = 32 << 10;
/// The smallest file that is asked for its holes, in bytes.
const SPARSE: u64 = 128 << 10;
/// The smallest piece that is copied by the kernel: below, a call costs more than the bytes.
const COPIED: u64 = 32 << 10;
/// So far apart are two small files that are taken for neighbours, and so long is a small file.
const NEAR: u64 = 4 << 10;

impl<'a> Ahead<'a> {
    /// Fills `buffer` with the bytes of `store` from `from` on.
    fn read(
        &mut self,
        store: &'a Arc<ByteSource>,
        from: u64,
        buffer: &mut [u8],
    ) -> Result<(), Errno> {
        if self.store.is_none_or(|own| !Arc::ptr_eq(own, store)) {
            self.store = Some(store);
            self.bytes.clear();
            self.last = 0;
        }
        let gap = from.checked_sub(self.last);
        self.last = from.saturating_add(buffer.len() as u64);
        if let Some(bytes) = self.known(from, buffer.len()) {
            buffer.copy_from_slice(bytes);
            return Ok(());
        }
        if buffer.len() as u64 > NEAR || gap.is_none_or(|gap| gap > NEAR) {
            return store.read_exact(from, buffer);
        }
        // What is not there is for the reader of the buffer to find.
        let there = store.length().saturating_sub(from).min(AHEAD as u64) as usize;
        self.bytes.resize(there.max(buffer.len()), 0);
        self.at = from;
        if let Err(errno) = store.read_exact(from, &mut self.bytes) {
            self.bytes.clear();
            return Err(errno);
        }
        buffer.copy_from_slice(&self.bytes[..buffer.len()]);
        Ok(())
    }

    fn known(&self, from: u64, length: usize) -> Option<&[u8]> {
        let start = usize::try_from(from.checked_sub(self.at)?).ok()?;
        self.bytes.get(start..start.checked_add(length)?)
    }
}

struct Opened<'a> {
    file: &'a HostFile,
    fd: OwnedFd,
    holes: bool,
}

/// The contents of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Bytes, now in the buffer.
    Bytes,
    /// A hole: all zero, and the buffer is as it was.
    Hole,
}

impl<'a> Bodies<'a> {
    /// Fills `buffer` with a file's bytes from `from` on, or finds that they are a hole.
    pub fn read(
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
                .with_host(file, |opened| opened.read(from, buffer))
                .map_err(|errno| failed(file.shown(), errno)),
            Content::Span(span) => match self.ahead.read(&span.store, span.offset + from, buffer) {
                Ok(()) => Ok(Piece::Bytes),
                Err(errno) => Err(failed(span.store.shown().to_owned(), errno)),
            },
            Content::Sparse(extents) => self.read_sparse(extents, from, buffer),
        }
    }

    /// Has the kernel copy `length` bytes of a file, from `from` on, to `out` at `at`: they are moved once and not twice, or not at
    /// all where both files can share them. False where they must be read instead.
    pub fn copy(
        &mut self,
        content: &'a Content,
        from: u64,
        length: u64,
        out: impl AsFd,
        at: u64,
    ) -> Result<bool, Error> {
        if length < COPIED || self.must_read {
            return Ok(false);
        }
        let copied = match content {
            Content::Host(file) => {
                let copied = self.with_host(file, |opened| {
                    // They would be filled.
                    let has_holes = opened.holes;
                    Ok((!has_holes).then(|| copy(&opened.fd, from, length, out, at)))
                });
                copied.map_err(|errno| failed(file.shown(), errno))?
            }
            Content::Span(span) => span
                .store
                .file()
                .map(|file| copy(file, span.offset + from, length, out, at)),
            Content::Bytes(_) | Content::Sparse(_) => None,
        };
        self.must_read = copied == Some(false);
        Ok(copied == Some(true))
    }

    /// As [`Self::read`], with holes as zeros, whatever the buffer held.
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

    /// Returns where a file of `size` bytes has data, in order; the rest are holes.
    pub fn data(&mut self, content: &'a Content, size: u64) -> Result<Vec<Range<u64>>, Error> {
        let whole = || Ok(Vec::from_iter(std::iter::once(0..size)));
        match content {
            Content::Bytes(_) | Content::Span(_) => whole(),
            Content::Sparse(extents) => {
                let data = extents.iter();
                Ok(data
                    .map(|extent| extent.at..extent.at + extent.length)
                    .collect())
            }
            // What is this small has no holes that are worth a look.
            Content::Host(_) if size < SPARSE => whole(),
            Content::Host(file) => {
                let data = self.data_of_host(file);
                data.map_err(|errno| failed(file.shown(), errno))
            }
        }
    }

    fn data_of_host(&mut self, file: &'a HostFile) -> Result<Vec<Range<u64>>, Errno> {
        let opened = Opened::new(file, self.dir(&file.dir)?)?;
        let size = file.stamp.size;
        if !opened.holes {
            return Ok(Vec::from_iter(std::iter::once(0..size)));
        }
        let mut data = Vec::new();
        let mut at = 0;
        while let Some(start) = opened.next_data(at)?.filter(|start| *start < size) {
            at = match seek(&opened.fd, SeekFrom::Hole(start)) {
                Ok(end) => end.min(size),
                Err(Errno::INVAL | Errno::OPNOTSUPP) => size,
                Err(errno) => return Err(errno),
            };
            data.push(start..at);
        }
        Ok(data)
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

    /// Does something with a file of the host, which stays open for the next piece.
    fn with_host<T>(
        &mut self,
        file: &'a HostFile,
        work: impl FnOnce(&Opened<'a>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let opened = match self.file.take() {
            Some(opened) if std::ptr::eq(opened.file, file) => opened,
            _ => Opened::new(file, self.dir(&file.dir)?)?,
        };
        let opened = self.file.insert(opened);
        let done = work(opened);
        // First of all: what was read, or could not be, says nothing if it is not that file any more.
        match FileStamp::from(&fstat(&opened.fd)?) == file.stamp {
            true => done,
            false => Err(Errno::STALE),
        }
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
        if FileStamp::from(&now) != file.stamp {
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

/// Has the kernel copy bytes from one file to another. What cannot be copied is found out by reading and writing.
fn copy(file: impl AsFd, mut from: u64, length: u64, out: impl AsFd, mut at: u64) -> bool {
    let mut rest = length;
    while rest > 0 {
        let count = rest.try_into().unwrap_or(usize::MAX);
        match copy_file_range(&file, Some(&mut from), &out, Some(&mut at), count) {
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => return false,
            Ok(count) => rest -= count as u64,
        }
    }
    true
}

/// Turns the errno for a file that was there when the tree was made into the error that it means.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A store of `bytes`.
    fn store(bytes: &[u8]) -> Arc<ByteSource> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, bytes).unwrap();
        let path = file.path().to_owned();
        Arc::new(ByteSource::of_file(file.reopen().unwrap(), &path).unwrap())
    }

    #[test]
    fn what_is_read_in_advance_is_what_stands_there() {
        let bytes: Vec<u8> = (0..200_000u32).map(|n| (n * 7 % 251) as u8).collect();
        let stores = [store(&bytes), store(&bytes[1..])];
        let mut ahead = Ahead::default();
        let mut number = 1u64;
        let mut at = 0;
        for round in 0..20_000u64 {
            number = number
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let random = number >> 33;
            // Mostly forward in small steps, now and then anywhere, or a large piece, or the other store.
            at = match random % 50 {
                0 => random % 199_000,
                _ => (at + random % 300) % 199_000,
            };
            let which = usize::from(random.is_multiple_of(97));
            let length = match round % 61 {
                0 => 9000,
                _ => random % 200,
            };
            let length = length.min(199_000 - at) as usize;
            let mut buffer = vec![0xff; length];
            ahead.read(&stores[which], at, &mut buffer).unwrap();
            let from = at as usize + which;
            assert_eq!(
                buffer,
                bytes[from..from + length],
                "{length} bytes at {at} of {which}"
            );
        }
    }

    #[test]
    fn small_files_side_by_side_are_not_read_one_by_one() {
        let bytes = vec![5; 100 * 136];
        let store = store(&bytes);
        let mut ahead = Ahead::default();
        let mut reads = 0;
        for file in 0..100u64 {
            let before = (ahead.at, ahead.bytes.len());
            ahead.read(&store, file * 136 + 110, &mut [0; 3]).unwrap();
            reads += usize::from((ahead.at, ahead.bytes.len()) != before);
        }
        assert_eq!(reads, 1);
    }

    #[test]
    fn an_end_that_is_missing_is_an_error_as_without() {
        let store = store(&[1; 100]);
        let mut ahead = Ahead::default();
        ahead.read(&store, 0, &mut [0; 90]).unwrap();
        assert_eq!(ahead.read(&store, 95, &mut [0; 10]), Err(Errno::STALE));
        assert_eq!(ahead.read(&store, 99, &mut [0; 1]), Ok(()));
    }
}
