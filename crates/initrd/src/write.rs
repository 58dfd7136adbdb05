//! The archive to its file, to memory, or to a stream.
//!
//! The archive is a function from offset to bytes: it is made in blocks, in any order, by two threads, each block by one
//! write. Records and files that cross from one block into the next are made from both sides. Leaves to `layout.rs` what
//! stands where, to `body.rs` the files.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Error;
use super::body::{Bodies, Piece};
use super::layout::Layout;
use rdvm_image::tree::Kind;

/// Bytes made at a time: small enough for a core's cache between the read and the write, large enough that calls do
/// not count.
pub const BLOCK: u64 = 256 << 10;
/// More would wait for each other: the kernel lets one write to a file at a time.
const WRITERS: usize = 2;

/// Tells whether what is being made is still wanted; several threads ask.
pub type Stopped<'a> = &'a (dyn Fn() -> bool + Sync);

impl Layout<'_> {
    /// Writes the archive to `out` from `offset` on, in no particular order.
    ///
    /// `out` is a regular file, a memfd or the like that holds nothing but zeros there: holes are left out. Errors name
    /// the file that changed or cannot be read; what was written by then is worthless.
    pub fn write(&self, out: &File, offset: u64) -> Result<(), Error> {
        self.write_unless(&|| false, out, offset)
    }

    /// As [`Self::write`], but asks before every block whether it is to stop.
    ///
    /// # Errors
    /// As for [`Self::write`]; it was stopped.
    pub(crate) fn write_unless(
        &self,
        stopped: Stopped<'_>,
        out: &File,
        offset: u64,
    ) -> Result<(), Error> {
        let failed = |source| Error::Write {
            size: self.packed_size(),
            source,
        };
        self.each_block(stopped, || {
            let mut blocks = Blocks::new(self);
            let mut buffer = Vec::new();
            move |start| {
                buffer.resize(self.block_length(start), 0);
                match blocks.make(start, &mut buffer)? {
                    Piece::Hole => Ok(()),
                    Piece::Bytes => out.write_all_at(&buffer, offset + start).map_err(failed),
                }
            }
        })
    }

    /// Makes the archive in `memory`, which has its length and is all zero: files are read to where they are to stand.
    /// Asks before every block whether it is to stop.
    ///
    /// # Errors
    /// As for [`Self::write_unless`].
    pub(crate) fn fill(&self, stopped: Stopped<'_>, memory: &mut [u8]) -> Result<(), Error> {
        let places: Vec<_> = memory.chunks_mut(BLOCK as usize).map(Mutex::new).collect();
        self.each_block(stopped, || {
            let mut blocks = Blocks::new(self);
            let places = &places;
            move |start| {
                let place = places[(start / BLOCK) as usize].lock();
                let mut place = place.unwrap_or_else(PoisonError::into_inner);
                blocks.make(start, &mut place).map(drop)
            }
        })
    }

    /// Writes the archive to a stream, from its start to its end.
    pub fn stream(&self, out: &mut impl Write) -> Result<(), Error> {
        let mut blocks = Blocks::new(self);
        let mut buffer = Vec::new();
        let failed = |source| Error::Write {
            size: self.packed_size(),
            source,
        };
        for start in (0..self.packed_size()).step_by(BLOCK as usize) {
            buffer.resize(self.block_length(start), 0);
            if blocks.make(start, &mut buffer)? == Piece::Hole {
                buffer.fill(0);
            }
            out.write_all(&buffer).map_err(failed)?;
        }
        out.flush().map_err(failed)
    }

    /// Has every block made once, unless it is to stop.
    fn each_block<W>(
        &self,
        stopped: Stopped<'_>,
        worker: impl Fn() -> W + Sync,
    ) -> Result<(), Error>
    where
        W: FnMut(u64) -> Result<(), Error>,
    {
        each_block(self.packed_size(), || {
            let mut worker = worker();
            move |start| match stopped() {
                true => Err(Error::Stopped),
                false => worker(start),
            }
        })
    }

    fn block_length(&self, start: u64) -> usize {
        BLOCK.min(self.packed_size() - start) as usize
    }
}

/// Has every block of `size` bytes made once, by its start: two threads, each with a worker of its own.
///
/// # Errors
/// The first error of a worker, after which no further block is made.
pub fn each_block<W, E: Send>(size: u64, worker: impl Fn() -> W + Sync) -> Result<(), E>
where
    W: FnMut(u64) -> Result<(), E>,
{
    let next = AtomicU64::new(0);
    let first_error = Mutex::new(None);
    let work = || {
        let mut worker = worker();
        loop {
            let start = next.fetch_add(BLOCK, Ordering::Relaxed);
            if start >= size {
                return;
            }
            if let Err(error) = worker(start) {
                next.store(u64::MAX / 2, Ordering::Relaxed);
                first_error
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_or_insert(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..WRITERS.min(size.div_ceil(BLOCK) as usize) {
            scope.spawn(work);
        }
        work();
    });
    first_error
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .map_or(Ok(()), Err)
}

/// One thread's block in the making.
struct Blocks<'a> {
    layout: &'a Layout<'a>,
    bodies: Bodies<'a>,
    head: Vec<u8>,
}

impl<'a> Blocks<'a> {
    fn new(layout: &'a Layout<'a>) -> Self {
        Self {
            layout,
            bodies: Bodies::default(),
            head: Vec::new(),
        }
    }

    /// Makes the block from `start` on in `buffer`, which has its length; a hole leaves the buffer as it was.
    fn make(&mut self, start: u64, buffer: &mut [u8]) -> Result<Piece, Error> {
        let layout = self.layout;
        let end = start + buffer.len() as u64;
        let first = layout
            .records
            .partition_point(|record| record.offset <= start)
            .saturating_sub(1);
        let mut made = Piece::Hole;
        for index in first..layout.records.len() {
            if layout.records[index].offset >= end {
                return Ok(made);
            }
            if self.record(index, start, buffer)? == Piece::Bytes {
                made = Piece::Bytes;
            }
        }
        if end > layout.trailer {
            self.head.clear();
            Layout::append_trailer(&mut self.head);
            self.head
                .resize((layout.packed_size() - layout.trailer) as usize, 0);
            copy(&self.head, layout.trailer, start, buffer);
            made = Piece::Bytes;
        }
        Ok(made)
    }

    /// Returns the part of one record that lies in the block.
    fn record(&mut self, index: usize, start: u64, buffer: &mut [u8]) -> Result<Piece, Error> {
        let (entry, record) = (&self.layout.entries[index], self.layout.records[index]);
        let (data_at, length) = (record.data_at(entry), u64::from(record.data));
        let mut made = Piece::Hole;
        if data_at > start {
            self.head.clear();
            self.layout.head(index, &mut self.head);
            copy(&self.head, record.offset, start, buffer);
            made = Piece::Bytes;
        }
        match &entry.kind {
            Kind::Symlink(target) if copy(target, data_at, start, buffer) => made = Piece::Bytes,
            Kind::File(body) => {
                if let Some((from, piece)) = overlap(data_at, length, start, buffer) {
                    let whole_block = piece.len() as u64 == BLOCK;
                    match self.bodies.read(&body.content, from, piece)? {
                        Piece::Hole if whole_block => return Ok(Piece::Hole),
                        Piece::Hole => piece.fill(0),
                        Piece::Bytes => {}
                    }
                    made = Piece::Bytes;
                }
            }
            _ => {}
        }
        let padding = record.end(entry) - data_at - length;
        if copy(&[0; 3][..padding as usize], data_at + length, start, buffer) {
            made = Piece::Bytes;
        }
        Ok(made)
    }
}

/// The part of `buffer`, a block that begins at `start`, where `length` bytes from `at` on belong; and which of them is
/// the first one there.
fn overlap(at: u64, length: u64, start: u64, buffer: &mut [u8]) -> Option<(u64, &mut [u8])> {
    let from = at.max(start);
    let to = (at + length).min(start + buffer.len() as u64);
    (from < to).then(|| {
        (
            from - at,
            &mut buffer[(from - start) as usize..(to - start) as usize],
        )
    })
}

/// Copies what of `bytes`, which stand at `at`, belongs in the block; tells whether anything did.
fn copy(bytes: &[u8], at: u64, start: u64, buffer: &mut [u8]) -> bool {
    match overlap(at, bytes.len() as u64, start, buffer) {
        Some((from, piece)) => {
            piece.copy_from_slice(&bytes[from as usize..from as usize + piece.len()]);
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Epoch;
    use rdvm_image::reference::{ImageRef, Ownership};
    use rdvm_image::{self, tree::Tree};

    const BLOCKS: usize = 40;

    /// A file without zeros, some blocks long.
    fn tree(dir: &std::path::Path) -> Tree {
        std::fs::write(dir.join("file"), vec![7; BLOCKS * BLOCK as usize]).unwrap();
        let image = rdvm_image::open(&ImageRef {
            path: dir.into(),
            owner: Ownership::Root,
            ..ImageRef::default()
        });
        image.unwrap().tree
    }

    /// Blocks in which anything was made.
    fn made(bytes: &[u8]) -> usize {
        let blocks = bytes.chunks(BLOCK as usize);
        blocks.filter(|block| block.contains(&7)).count()
    }

    #[test]
    fn whoever_is_told_to_stop_makes_no_further_block() {
        let dir = tempfile::tempdir().unwrap();
        let tree = tree(dir.path());
        let layout = Layout::of(&tree, Epoch::default()).unwrap();
        let size = layout.packed_size();
        for wanted in [0, 1, 7] {
            let asked = AtomicU64::new(0);
            let stopped = || asked.fetch_add(1, Ordering::Relaxed) >= wanted as u64;
            let mut memory = vec![0; size as usize];
            let result = layout.fill(&stopped, &mut memory);
            assert!(matches!(result, Err(Error::Stopped)), "{result:?}");
            assert_eq!(made(&memory), wanted);

            asked.store(0, Ordering::Relaxed);
            let file = tempfile::tempfile().unwrap();
            file.set_len(size).unwrap();
            let result = layout.write_unless(&stopped, &file, 0);
            assert!(matches!(result, Err(Error::Stopped)), "{result:?}");
            memory.fill(0);
            file.read_exact_at(&mut memory, 0).unwrap();
            assert_eq!(made(&memory), wanted);
        }
    }
}
