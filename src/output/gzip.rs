//! A stream → gzip that rsync and deduplicating stores can follow: equal stretches of the input become equal bytes.
//!
//! The input is cut where its bytes say (`cut.rs`), each piece is deflated without knowledge of the ones before, and
//! ends on a byte. So a change makes other bytes of only the pieces next to it, and threads can deflate pieces at once
//! with the same outcome as one. Format: RFC 1951 and RFC 1952; one member, no name, no time.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use flate2::{Compress, Compression, Crc, FlushCompress};

use super::cut;

/// gzip's own default.
const LEVEL: u32 = 6;
/// Magic, deflate, no flags, no time, no hint, made on Unix.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
/// An empty last block with fixed codes.
const END: [u8; 2] = [3, 0];
/// Pieces are handed to threads in lots of about this length.
const LOT: usize = 1 << 20;

/// Bytes and the ends of the pieces that they are.
struct Lot {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

/// Compresses all that `blocks` brings and writes it to `out`, with so many threads (at least one).
///
/// # Errors
/// Those of `out`.
pub(super) fn compress(
    blocks: impl IntoIterator<Item = Vec<u8>>,
    out: &mut dyn Write,
    threads: usize,
) -> io::Result<()> {
    thread::scope(|scope| {
        let mut workers = Workers {
            lots: Vec::new(),
            done: Vec::new(),
            busy: VecDeque::new(),
            next: 0,
        };
        for _ in 0..threads.max(1) {
            let (lot_out, lot_in) = channel::<Lot>();
            let (done_out, done_in) = channel();
            scope.spawn(move || deflate_lots(&lot_in, &done_out));
            workers.lots.push(lot_out);
            workers.done.push(done_in);
        }
        out.write_all(&HEADER)?;
        let mut crc = Crc::new();
        let mut pending = Vec::new();
        for block in blocks {
            crc.update(&block);
            pending.extend_from_slice(&block);
            if pending.len() >= LOT {
                let rest = workers.take(&mut pending, false, out)?;
                pending = rest;
            }
        }
        workers.take(&mut pending, true, out)?;
        workers.finish(out)?;
        out.write_all(&END)?;
        out.write_all(&crc.sum().to_le_bytes())?;
        out.write_all(&crc.amount().to_le_bytes())
    })
}

struct Workers {
    lots: Vec<Sender<Lot>>,
    done: Vec<Receiver<io::Result<Vec<u8>>>>,
    /// The threads that have lots in work, in the order of the stream.
    busy: VecDeque<usize>,
    next: usize,
}

impl Workers {
    /// Hands on all whole pieces of `pending`, or all of it; returns back the rest.
    fn take(
        &mut self,
        pending: &mut Vec<u8>,
        all: bool,
        out: &mut dyn Write,
    ) -> io::Result<Vec<u8>> {
        let mut ends = Vec::new();
        let mut at = 0;
        while let Some(length) = cut::first(&pending[at..]) {
            at += length;
            ends.push(at);
        }
        if all && at < pending.len() {
            at = pending.len();
            ends.push(at);
        }
        let rest = pending.split_off(at);
        if ends.is_empty() {
            return Ok(rest);
        }
        let lot = Lot {
            bytes: std::mem::take(pending),
            ends,
        };
        while self.busy.len() >= 2 * self.lots.len() {
            self.write_oldest(out)?;
        }
        self.lots[self.next]
            .send(lot)
            .map_err(|_| io::Error::other("a thread of ours ended early"))?;
        self.busy.push_back(self.next);
        self.next = (self.next + 1) % self.lots.len();
        Ok(rest)
    }

    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        while !self.busy.is_empty() {
            self.write_oldest(out)?;
        }
        Ok(())
    }

    fn write_oldest(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let Some(worker) = self.busy.pop_front() else {
            return Ok(());
        };
        let done = self.done[worker].recv();
        out.write_all(&done.map_err(io::Error::other)??)
    }
}

/// One thread: lots in, deflated lots out, until either side has gone.
fn deflate_lots(lots: &Receiver<Lot>, done: &Sender<io::Result<Vec<u8>>>) {
    let mut deflate = Compress::new(Compression::new(LEVEL), false);
    for lot in lots {
        if done.send(deflate_lot(&mut deflate, &lot)).is_err() {
            return;
        }
    }
}

fn deflate_lot(deflate: &mut Compress, lot: &Lot) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(lot.bytes.len() / 2);
    let mut start = 0;
    for &end in &lot.ends {
        deflate.reset();
        let piece = &lot.bytes[start..end];
        let mut taken = 0;
        // A full flush ends the piece on a byte; it is done when it leaves room unused.
        loop {
            out.reserve(piece.len() / 2 + 64);
            deflate
                .compress_vec(&piece[taken..], &mut out, FlushCompress::Full)
                .map_err(io::Error::other)?;
            taken = deflate.total_in() as usize;
            if taken == piece.len() && out.len() < out.capacity() {
                break;
            }
        }
        start = end;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::io::Read;

    fn zipped(bytes: &[u8], block: usize, threads: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let blocks = bytes.chunks(block).map(<[u8]>::to_vec);
        compress(blocks, &mut out, threads).unwrap();
        out
    }

    /// Bytes that compress to about a half, without long repetitions.
    fn text(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let step = |_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            b"etaoin shrdlu..\n"[(state >> 60) as usize]
        };
        (0..length).map(step).collect()
    }

    #[test]
    fn it_unpacks_to_what_it_was_and_neither_threads_nor_blocks_show() {
        for length in [0, 1, 511, cut::SHORTEST, LOT, 3 * LOT + 77] {
            let bytes = text(length);
            let one = zipped(&bytes, 256 << 10, 1);
            for (block, threads) in [(256 << 10, 3), (1000, 2), (length.max(1), 8)] {
                assert!(
                    one == zipped(&bytes, block, threads),
                    "{length} {block} {threads}"
                );
            }
            let mut back = Vec::new();
            let mut reader = flate2::read::GzDecoder::new(&one[..]);
            reader.read_to_end(&mut back).unwrap();
            assert!(back == bytes, "{length}");
            assert!(
                reader.into_inner().is_empty(),
                "one member and nothing behind it"
            );
        }
    }

    #[test]
    fn one_changed_byte_of_20_mb_leaves_almost_all_of_the_output_as_it_was() {
        let old = text(20_000_000);
        let mut new = old.clone();
        new[10_000_000] ^= 1;
        new.insert(15_000_000, b'x');
        let (one, other) = (zipped(&old, 256 << 10, 2), zipped(&new, 256 << 10, 2));
        assert!(one != other);
        // A full flush ends on an empty stored block.
        let pieces = |zipped: &[u8]| -> Vec<Vec<u8>> {
            let mut pieces = vec![Vec::new()];
            for &byte in zipped {
                let last = pieces.last_mut().unwrap();
                last.push(byte);
                if last.ends_with(&[0, 0, 0xff, 0xff]) {
                    pieces.push(Vec::new());
                }
            }
            pieces
        };
        let known: HashSet<Vec<u8>> = pieces(&one).into_iter().collect();
        let lost: Vec<usize> = pieces(&other)
            .into_iter()
            .filter(|piece| !known.contains(piece))
            .map(|piece| piece.len())
            .collect();
        let bytes: usize = lost.iter().sum();
        assert!(lost.len() <= 7, "{} pieces", lost.len());
        assert!(bytes * 20 < other.len(), "{bytes} of {}", other.len());
    }

    #[test]
    fn a_reader_that_has_gone_away_ends_it() {
        struct Disconnected(usize);
        impl Write for Disconnected {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                match self.0.checked_sub(1) {
                    Some(left) => self.0 = left,
                    None => return Err(io::ErrorKind::BrokenPipe.into()),
                }
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for writes in [0, 1, 5] {
            let blocks = std::iter::repeat_with(|| vec![7; 100_000]);
            let error = compress(blocks, &mut Disconnected(writes), 2).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
    }
}
