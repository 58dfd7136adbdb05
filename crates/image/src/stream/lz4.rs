//! lz4: the frame format (version 1.6.4) and the older one of `lz4 -l`, frames one behind the other.
//!
//! Our own reader of frames around the library's blocks: the library's takes a frame without its end for a whole one.

use std::hash::Hasher;
use std::io::{self, Read, Write};

use lz4_flex::block::{decompress_into, decompress_into_with_dict};
use twox_hash::XxHash32;

use super::chunks::Chunks;
use super::input::Input;

const FRAME: u32 = 0x184d_2204;
const OLD_FRAME: u32 = 0x184c_2102;
/// Frames of the user's own.
const SKIPPED_FIRST: u32 = 0x184d_2a50;
const SKIPPED_LAST: u32 = 0x184d_2a5f;
/// The most that a block of the old format unpacks to.
const OLD_BLOCK: usize = 8 << 20;
/// The reach of a match, which is what blocks that depend on each other have to keep.
const WINDOW: usize = 64 << 10;

pub(super) fn unpack(
    input: &mut Input<impl Read>,
    chunks: &mut Chunks<'_, '_, '_>,
) -> io::Result<()> {
    let mut decoder = Decoder::default();
    loop {
        match u32::from_le_bytes(input.take()?) {
            FRAME => decoder.frame(input, chunks)?,
            OLD_FRAME => decoder.old_frame(input, chunks)?,
            SKIPPED_FIRST..=SKIPPED_LAST => {
                let length = u32::from_le_bytes(input.take()?);
                input.skip(length.into())?;
            }
            _ => return Err(flaw("no frame begins here")),
        }
        if !is_frame(input.peek(4)?) {
            return Ok(());
        }
    }
}

/// True if a frame begins with these four bytes.
fn is_frame(magic: &[u8]) -> bool {
    let magic = magic.try_into().map(u32::from_le_bytes);
    matches!(magic, Ok(FRAME | OLD_FRAME | SKIPPED_FIRST..=SKIPPED_LAST))
}

/// A frame's header.
struct Header {
    linked: bool,
    block_sums: bool,
    sum: bool,
    length: Option<u64>,
    block: usize,
}

/// Buffers for blocks, which grow to what is needed, 8 MiB each at the most.
#[derive(Default)]
struct Decoder {
    packed: Vec<u8>,
    bytes: Vec<u8>,
    /// The last bytes before the current block, where the frame's blocks depend on each other.
    window: Vec<u8>,
}

impl Decoder {
    fn frame(
        &mut self,
        input: &mut Input<impl Read>,
        chunks: &mut Chunks<'_, '_, '_>,
    ) -> io::Result<()> {
        let header = header(input)?;
        let mut sum = XxHash32::with_seed(0);
        let mut length = 0;
        self.window.clear();
        loop {
            let word = u32::from_le_bytes(input.take()?);
            if word == 0 {
                break;
            }
            let packed = (word & 0x7fff_ffff) as usize;
            if packed > header.block {
                return Err(flaw("a block is longer than its frame allows"));
            }
            fill(&mut self.packed, packed, input)?;
            if header.block_sums {
                check(sum_of(&self.packed), input, "a block has a wrong checksum")?;
            }
            let bytes: &[u8] = if word >> 31 == 1 {
                &self.packed
            } else {
                self.bytes.resize(header.block, 0);
                let count = match self.window.is_empty() {
                    true => decompress_into(&self.packed, &mut self.bytes),
                    false => decompress_into_with_dict(&self.packed, &mut self.bytes, &self.window),
                };
                &self.bytes[..count.map_err(io::Error::other)?]
            };
            chunks.write_all(bytes)?;
            length += bytes.len() as u64;
            if header.sum {
                sum.write(bytes);
            }
            if header.linked {
                remember(&mut self.window, bytes);
            }
        }
        if header.length.is_some_and(|promised| promised != length) {
            return Err(flaw("a frame has not the length it promises"));
        }
        match header.sum {
            true => check(sum.finish_32(), input, "a frame has a wrong checksum"),
            false => Ok(()),
        }
    }

    /// Blocks until the input ends or what should be a length is a frame's magic number, or none, which is how Linux tells
    /// an initrd's lz4 part from what follows it.
    ///
    /// Nothing in this format says where it ends: one that is cut between two blocks looks whole.
    fn old_frame(
        &mut self,
        input: &mut Input<impl Read>,
        chunks: &mut Chunks<'_, '_, '_>,
    ) -> io::Result<()> {
        loop {
            let next = input.peek(4)?;
            if next.is_empty() || next == [0; 4] || is_frame(next) {
                return Ok(());
            }
            let word = u32::from_le_bytes(input.take()?);
            // What does not compress takes a little more room than it had.
            if word as usize > OLD_BLOCK + OLD_BLOCK / 255 + 16 {
                return Err(flaw("a block is longer than its frame allows"));
            }
            fill(&mut self.packed, word as usize, input)?;
            self.bytes.resize(OLD_BLOCK, 0);
            let count = decompress_into(&self.packed, &mut self.bytes).map_err(io::Error::other)?;
            chunks.write_all(&self.bytes[..count])?;
        }
    }
}

fn header(input: &mut Input<impl Read>) -> io::Result<Header> {
    let mut seen = XxHash32::with_seed(0);
    let [flags, size] = input.take()?;
    seen.write(&[flags, size]);
    let length = match flags & 8 {
        0 => None,
        _ => {
            let bytes: [u8; 8] = input.take()?;
            seen.write(&bytes);
            Some(u64::from_le_bytes(bytes))
        }
    };
    if flags >> 6 != 1 || flags & 2 != 0 || size & 0x8f != 0 {
        return Err(flaw("a frame of an unknown version"));
    }
    if flags & 1 != 0 {
        return Err(flaw("a frame that needs a dictionary"));
    }
    let block = match size >> 4 {
        power @ 4..=7 => 1 << (2 * power + 8),
        _ => return Err(flaw("a frame with blocks of an unknown size")),
    };
    let [byte] = input.take()?;
    if byte != (seen.finish_32() >> 8) as u8 {
        return Err(flaw("a frame's header has a wrong checksum"));
    }
    Ok(Header {
        linked: flags & 0x20 == 0,
        block_sums: flags & 0x10 != 0,
        sum: flags & 4 != 0,
        length,
        block,
    })
}

/// Reads `count` bytes, which the caller has checked against a limit.
fn fill(buffer: &mut Vec<u8>, count: usize, input: &mut Input<impl Read>) -> io::Result<()> {
    buffer.resize(count, 0);
    input.read_exact(buffer)
}

fn remember(window: &mut Vec<u8>, bytes: &[u8]) {
    let new = &bytes[bytes.len().saturating_sub(WINDOW)..];
    let keep = WINDOW - new.len();
    window.drain(..window.len().saturating_sub(keep));
    window.extend_from_slice(new);
}

fn sum_of(bytes: &[u8]) -> u32 {
    XxHash32::oneshot(0, bytes)
}

fn check(sum: u32, input: &mut Input<impl Read>, what: &'static str) -> io::Result<()> {
    match u32::from_le_bytes(input.take()?) == sum {
        true => Ok(()),
        false => Err(flaw(what)),
    }
}

fn flaw(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
