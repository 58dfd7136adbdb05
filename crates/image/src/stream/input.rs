//! The source of compressed bytes: a buffered reader that remembers how far it was read and how it failed.

use std::io::{self, Read};
use std::ops::Range;

/// Bytes to read at once: many enough that a decoder is seldom interrupted, few enough for a CPU's cache.
const BUFFER: usize = 128 << 10;

/// A buffered reader.
pub struct Input<R> {
    inner: R,
    buffer: Box<[u8]>,
    /// The part of the buffer that has not been consumed.
    held: Range<usize>,
    position: u64,
    at_end: bool,
    failure: Option<io::Error>,
}

impl<R: Read> Input<R> {
    /// Begins where `inner` is.
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            buffer: vec![0; BUFFER].into(),
            held: 0..0,
            position: 0,
            at_end: false,
            failure: None,
        }
    }

    /// Returns the number of bytes consumed.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// True if a read went beyond the end.
    pub(super) fn is_at_end(&self) -> bool {
        self.at_end
    }

    /// Why it could not be read, if that is what happened.
    pub(super) fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// Some bytes that come next; none at the end.
    pub(super) fn fill(&mut self) -> io::Result<&[u8]> {
        if self.held.is_empty() {
            self.held = 0..0;
            self.at_end = self.more()? == 0;
        }
        Ok(&self.buffer[self.held.clone()])
    }

    /// The next bytes, which stay unread: `count` of them, or all that are left.
    pub(crate) fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        if self.held.len() < count {
            self.buffer.copy_within(self.held.clone(), 0);
            self.held = 0..self.held.len();
            while self.held.len() < count && self.more()? > 0 {}
        }
        let there = self.held.len().min(count);
        Ok(&self.buffer[self.held.clone()][..there])
    }

    /// Reads behind what is held; returns the number of bytes, 0 at the end.
    fn more(&mut self) -> io::Result<usize> {
        let read = uninterrupted(&mut self.inner, &mut self.buffer[self.held.end..]);
        let count = read.map_err(|error| self.fail(error))?;
        self.held.end += count;
        Ok(count)
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.held.start += count;
        self.position += count as u64;
    }

    /// Passes over bytes of a length that the input names.
    pub(super) fn skip(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            let there = self.fill()?.len() as u64;
            if there == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.consume(there.min(count) as usize);
            count -= there.min(count);
        }
        Ok(())
    }

    /// The next `N` bytes.
    pub(super) fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Reads some bytes without a buffer between, if there are as many; returns their number, 0 at the end.
    pub(super) fn read_directly(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if !self.held.is_empty() {
            return self.read(room);
        }
        let count = uninterrupted(&mut self.inner, room).map_err(|error| self.fail(error))?;
        self.position += count as u64;
        Ok(count)
    }

    fn fail(&mut self, error: io::Error) -> io::Error {
        let kind = error.kind();
        self.failure = Some(error);
        kind.into()
    }
}

fn uninterrupted(inner: &mut impl Read, room: &mut [u8]) -> io::Result<usize> {
    loop {
        match inner.read(room) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let filled = self.fill()?;
        let count = filled.len().min(buffer.len());
        buffer[..count].copy_from_slice(&filled[..count]);
        self.consume(count);
        Ok(count)
    }
}
