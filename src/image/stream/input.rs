//! What compressed bytes come from: a buffered reader that remembers how far it was read and how it failed.

use std::io::{self, BufRead, BufReader, Read};

/// Bytes to read at once: many enough that a decoder is seldom interrupted, few enough for a CPU's cache.
const BUFFER: usize = 128 << 10;

/// A buffered reader.
pub(super) struct Input<R> {
    inner: BufReader<R>,
    position: u64,
    at_end: bool,
    failure: Option<io::Error>,
}

impl<R: Read> Input<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner: BufReader::with_capacity(BUFFER, inner),
            position: 0,
            at_end: false,
            failure: None,
        }
    }

    /// How many bytes have been consumed.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Whether somebody asked for more than there is.
    pub(super) fn is_at_end(&self) -> bool {
        self.at_end
    }

    /// Why it could not be read, if that is what happened.
    pub(super) fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    /// Some bytes that come next; none at the end.
    pub(super) fn fill(&mut self) -> io::Result<&[u8]> {
        let filled = loop {
            match self.inner.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                filled => break filled.map(<[u8]>::len),
            }
        };
        match filled {
            Ok(count) => self.at_end = count == 0,
            Err(error) => return Err(self.fail(error)),
        }
        Ok(self.inner.buffer())
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.inner.consume(count);
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

    /// Reads some bytes without a buffer between, if there are as many; gives their number, 0 at the end.
    pub(super) fn read_directly(&mut self, room: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.inner.read(room) {
                Ok(count) => {
                    self.position += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.fail(error)),
            }
        }
    }

    fn fail(&mut self, error: io::Error) -> io::Error {
        let kind = error.kind();
        self.failure = Some(error);
        kind.into()
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
