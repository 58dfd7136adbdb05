//! Where an inode's bytes are in the file: one stretch, two with the last bytes beside the inode, or chunks with holes.

use super::error::{Fault, ParseError, Spend};
use super::inode::Inode;
use super::{BLOCK, CHUNKS, HOLE, INLINE};
use crate::buffered_region::BufferedRegion;

/// Bytes of an entry in a map of chunks, and in one with devices.
const SHORT: u64 = 4;
const LONG: u64 = 8;
/// The map's form: the chunks' size, and that entries are long.
const SIZE_BITS: u32 = 0x1f;
const LONG_ENTRIES: u32 = 0x20;

/// Bytes of an inode that are neither holes nor in several chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    /// Where they are in its contents.
    pub(super) at: u64,
    pub(super) length: u64,
    /// Where they are in the file.
    pub(super) offset: u64,
}

/// Returns where the bytes are of an inode without chunks: those in blocks, and those beside the inode. `end` is the file's.
pub(super) fn flat(inode: &Inode, end: u64) -> Result<[Stretch; 2], ParseError> {
    let tail = match inode.layout {
        // A whole block beside its inode would cross the next one, and is found below.
        INLINE if inode.size > 0 => (inode.size - 1) % BLOCK + 1,
        _ => 0,
    };
    let head = inode.size - tail;
    if tail > 0 && inode.behind() % BLOCK + tail > BLOCK {
        return Err(ParseError::Crossing);
    }
    let stretch = |at, length, offset| Stretch { at, length, offset };
    let stretches = [
        stretch(0, head, u64::from(inode.union) * BLOCK),
        stretch(head, tail, inode.behind()),
    ];
    match stretches.iter().all(|stretch| stretch.is_inside(end)) {
        true => Ok(stretches),
        false => Err(ParseError::Outside("a part of its contents")),
    }
}

/// Returns where the bytes are of an inode in chunks, in order and without the holes.
///
/// `spend` is asked before every piece of the map is read, since maps of several inodes may be one: with the bytes that it
/// may come to in memory.
pub(super) fn chunks(
    inode: &Inode,
    window: &mut BufferedRegion<'_>,
    end: u64,
    spend: Spend<'_>,
) -> Result<Vec<Stretch>, Fault> {
    debug_assert_eq!(inode.layout, CHUNKS);
    /// Entries that are read at once.
    const PIECE: u64 = 1024;
    const OUTSIDE: ParseError = ParseError::Outside("its map of chunks");
    if inode.union & !(SIZE_BITS | LONG_ENTRIES) != 0 {
        let what = format!("chunks of the unknown form {:#x}", inode.union);
        return Err(ParseError::Feature(what).into());
    }
    let entry = match inode.union & LONG_ENTRIES {
        0 => SHORT,
        _ => LONG,
    };
    let chunk = BLOCK << (inode.union & SIZE_BITS);
    let count = inode.size.div_ceil(chunk);
    let begin = inode.behind().next_multiple_of(entry);
    // Also that what follows cannot overflow.
    if count > end / entry || begin > end - count * entry {
        return Err(OUTSIDE.into());
    }
    let mut found: Vec<Stretch> = Vec::new();
    for first in (0..count).step_by(PIECE as usize) {
        let number = PIECE.min(count - first);
        spend(number * entry)?;
        let before = found.len();
        let bytes = window.get(begin + first * entry, (number * entry) as usize)?;
        let bytes = bytes.ok_or(OUTSIDE)?;
        for (index, entry) in (first..).zip(bytes.chunks_exact(entry as usize)) {
            let (device, block) = entry.split_at(entry.len() - SHORT as usize);
            let block = block.try_into().map_or(HOLE, u32::from_le_bytes);
            if block == HOLE {
                continue;
            }
            if let [_, _, low, high] = device
                && (*low, *high) != (0, 0)
            {
                let number = u16::from_le_bytes([*low, *high]);
                return Err(ParseError::Device(number).into());
            }
            let at = index * chunk;
            let next = Stretch {
                at,
                length: chunk.min(inode.size - at),
                offset: u64::from(block) * BLOCK,
            };
            if !next.is_inside(end) {
                return Err(ParseError::Outside("a part of its contents").into());
            }
            match found.last_mut() {
                Some(last) if last.goes_on_with(&next) => last.length += next.length,
                _ => found.push(next),
            }
        }
        spend((found.len() - before) as u64 * size_of::<Stretch>() as u64)?;
    }
    Ok(found)
}

impl Stretch {
    fn is_inside(&self, end: u64) -> bool {
        self.length == 0
            || self
                .offset
                .checked_add(self.length)
                .is_some_and(|stop| stop <= end)
    }

    fn goes_on_with(&self, next: &Self) -> bool {
        self.at + self.length == next.at && self.offset + self.length == next.offset
    }
}
