//! Where unpacked bytes go: chunks of a [`ByteSource`], each paid for and seen when it is full.
//!
//! A second thread does what is not unpacking, as soon as there is more than one chunk: it gets the memory (the host
//! has to clear every page of it, which takes a quarter of the time of unpacking gzip), shows what is full to the tap (a
//! digest takes longer than that), and looks for zeros.

use std::io::{self, Write};
use std::mem;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use super::Error;
use crate::byte_source::{ByteSource, CHUNK};
use crate::limit::Budget;

/// The empty chunks that the second thread has ready.
const AHEAD: usize = 2;

/// The destination of full chunks.
struct Keeper<'a> {
    shown: &'a str,
    budget: &'a Budget,
    tap: &'a mut (dyn FnMut(&[u8]) + Send),
    kept: Vec<Option<Box<[u8]>>>,
    length: u64,
}

impl Keeper<'_> {
    /// Puts a chunk away. Gives its memory back when it held zeros: a bomb of zeros needs no more than that.
    fn keep(&mut self, mut chunk: Vec<u8>) -> Result<Option<Vec<u8>>, Error> {
        let bytes = chunk.len() as u64;
        self.budget.spend(bytes, self.shown)?;
        (self.tap)(&chunk);
        self.length += bytes;
        if is_zero(&chunk) {
            self.kept.push(None);
            chunk.resize(CHUNK, 0);
            return Ok(Some(chunk));
        }
        self.kept.push(Some(chunk.into_boxed_slice()));
        Ok(None)
    }

    /// The work of the second thread: full chunks come in, empty ones go out, one for one.
    fn work(mut self, full: Receiver<Vec<u8>>, empty: SyncSender<Vec<u8>>) -> Result<Self, Error> {
        // The last empty ones have no receiver: that they cannot be sent is no failure.
        for _ in 0..AHEAD {
            empty.send(fresh(self.shown)?).ok();
        }
        for chunk in full {
            let next = match self.keep(chunk)? {
                Some(chunk) => chunk,
                None => fresh(self.shown)?,
            };
            empty.send(next).ok();
        }
        Ok(self)
    }

    fn finish(self) -> ByteSource {
        ByteSource::of_chunks(self.kept, self.length, self.shown.to_owned())
    }
}

/// Memory for one chunk, all of whose pages the host has given.
fn fresh(shown: &str) -> Result<Vec<u8>, Error> {
    let mut chunk = Vec::new();
    if chunk.try_reserve_exact(CHUNK).is_err() {
        return Err(no_memory(shown));
    }
    chunk.resize(CHUNK, 0);
    Ok(chunk)
}

fn no_memory(shown: &str) -> Error {
    let shown = shown.to_owned();
    Error::NoMemory { shown }
}

/// A store in the making.
pub(super) struct Chunks<'scope, 'env, 'a: 'scope> {
    scope: &'scope Scope<'scope, 'env>,
    shown: &'a str,
    /// The chunk that is being filled, if any.
    current: Vec<u8>,
    /// The part of it that is filled.
    filled: usize,
    /// Until there is a second thread, which gets it.
    keeper: Option<Keeper<'a>>,
    second: Option<Second<'scope, 'a>>,
    failure: Option<Error>,
}

/// The second thread and the ways to it and back.
struct Second<'scope, 'a> {
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    thread: ScopedJoinHandle<'scope, Result<Keeper<'a>, Error>>,
}

impl<'scope, 'env, 'a: 'scope> Chunks<'scope, 'env, 'a> {
    pub(super) fn new(
        scope: &'scope Scope<'scope, 'env>,
        shown: &'a str,
        budget: &'a Budget,
        tap: &'a mut (dyn FnMut(&[u8]) + Send),
    ) -> Self {
        let keeper = Keeper {
            shown,
            budget,
            tap,
            kept: Vec::new(),
            length: 0,
        };
        Self {
            scope,
            shown,
            current: Vec::new(),
            filled: 0,
            keeper: Some(keeper),
            second: None,
            failure: None,
        }
    }

    /// Where the next bytes go; at least one. What is there already means nothing.
    ///
    /// # Errors
    /// [`Self::finish`] says what they are; what is given here only ends the decoder's work.
    pub(super) fn room(&mut self) -> io::Result<&mut [u8]> {
        if self.current.is_empty() {
            // The first one; many streams need no more.
            let first = fresh(self.shown);
            self.current = first.map_err(|error| self.fail(error))?;
        } else if self.filled == CHUNK {
            self.exchange()?;
        }
        Ok(&mut self.current[self.filled..])
    }

    /// So many bytes have been put into [`Self::room`].
    pub(super) fn advance(&mut self, count: usize) {
        self.filled += count;
    }

    /// Exchanges the full chunk for an empty one.
    fn exchange(&mut self) -> io::Result<()> {
        let second = match self.second.take() {
            Some(second) => second,
            None => self.start()?,
        };
        let chunk = mem::take(&mut self.current);
        let sent = second.full.send(chunk).ok();
        let next = sent.and_then(|()| second.empty.recv().ok());
        self.second = Some(second);
        // Without an answer the second thread has failed.
        self.current = next.ok_or(io::ErrorKind::Other)?;
        self.filled = 0;
        Ok(())
    }

    fn start(&mut self) -> io::Result<Second<'scope, 'a>> {
        let keeper = self.keeper.take().ok_or(io::ErrorKind::Other)?;
        // There are never more chunks on the way than there are places, so that no sender waits.
        let (full, from_first) = sync_channel(AHEAD + 1);
        let (to_first, empty) = sync_channel(AHEAD + 1);
        let work = move || keeper.work(from_first, to_first);
        match Builder::new().spawn_scoped(self.scope, work) {
            Ok(thread) => Ok(Second {
                full,
                empty,
                thread,
            }),
            Err(_) => Err(self.fail(no_memory(self.shown))),
        }
    }

    fn fail(&mut self, error: Error) -> io::Error {
        self.failure = Some(error);
        io::ErrorKind::Other.into()
    }

    /// Puts the last chunk away and gives the store.
    ///
    /// # Errors
    /// The budget is spent, or the host has no memory, now or when a decoder asked for room.
    pub(super) fn finish(mut self) -> Result<ByteSource, Error> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        let mut last = mem::take(&mut self.current);
        last.truncate(self.filled);
        if let Some(Second {
            full,
            empty,
            thread,
        }) = self.second
        {
            if !last.is_empty() {
                full.send(last).ok();
            }
            drop((full, empty));
            let done = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            return done.map(Keeper::finish);
        }
        let mut keeper = self.keeper.ok_or_else(|| no_memory(self.shown))?;
        if !last.is_empty() {
            keeper.keep(last)?;
        }
        Ok(keeper.finish())
    }
}

/// For decoders that bring their bytes.
impl<'scope, 'a: 'scope> Write for Chunks<'scope, '_, 'a> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.room()?;
        let count = bytes.len().min(room.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.advance(count);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// True if all bytes are zero; found out at the first piece with another one, and by vector instructions until then.
fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(256)
        .all(|piece| piece.iter().fold(0, |sum, byte| sum | byte) == 0)
}
