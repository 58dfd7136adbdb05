//! Where unpacked bytes go: chunks of a [`Store`], each paid for and seen when it is full.

use std::io::{self, Write};
use std::mem;

use super::Error;
use crate::image::limit::Budget;
use crate::image::store::{CHUNK, Store};

/// A store in the making.
pub(super) struct Chunks<'a> {
    shown: &'a str,
    budget: &'a Budget,
    tap: &'a mut dyn FnMut(&[u8]),
    full: Vec<Option<Box<[u8]>>>,
    /// What is being filled: no memory at all, or room for one chunk.
    current: Vec<u8>,
    length: u64,
    failure: Option<Error>,
}

impl<'a> Chunks<'a> {
    pub(super) fn new(shown: &'a str, budget: &'a Budget, tap: &'a mut dyn FnMut(&[u8])) -> Self {
        Self {
            shown,
            budget,
            tap,
            full: Vec::new(),
            current: Vec::new(),
            length: 0,
            failure: None,
        }
    }

    /// The chunk that is being filled, with a capacity of one chunk at the most, and not full.
    ///
    /// Errors: see [`Self::take_failure`]; what is given here only ends the decoder's work.
    pub(super) fn room(&mut self) -> io::Result<&mut Vec<u8>> {
        if self.current.len() >= CHUNK {
            self.settle()?;
        }
        if self.current.capacity() == 0 && self.current.try_reserve_exact(CHUNK).is_err() {
            return Err(self.fail(Error::NoMemory {
                shown: self.shown.to_owned(),
            }));
        }
        Ok(&mut self.current)
    }

    /// Puts away what the current chunk holds.
    ///
    /// A chunk of zeros is not kept, and its memory is used again: a bomb of zeros needs one chunk.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        if self.current.is_empty() {
            return Ok(());
        }
        let bytes = self.current.len() as u64;
        if let Err(error) = self.budget.spend(bytes, self.shown) {
            return Err(self.fail(error.into()));
        }
        (self.tap)(&self.current);
        self.length += bytes;
        if is_zero(&self.current) {
            self.full.push(None);
            self.current.clear();
        } else {
            let chunk = mem::take(&mut self.current);
            self.full.push(Some(chunk.into_boxed_slice()));
        }
        Ok(())
    }

    /// The store; [`Self::settle`] comes before.
    pub(super) fn finish(self) -> Store {
        Store::of_chunks(self.full, self.length, self.shown.to_owned())
    }

    /// Why there was no room, if that is what happened.
    pub(super) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    fn fail(&mut self, error: Error) -> io::Error {
        self.failure = Some(error);
        io::ErrorKind::Other.into()
    }
}

/// For decoders that bring their bytes.
impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.room()?;
        let count = bytes.len().min(CHUNK - room.len());
        room.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether all bytes are zero; found out at the first piece with another one, and by vector instructions until then.
fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(256)
        .all(|piece| piece.iter().fold(0, |sum, byte| sum | byte) == 0)
}
