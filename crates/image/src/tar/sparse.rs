//! Sparse files: which parts have data, as GNU tar's four formats have it, and where those parts are in the archive.
//!
//! The parts' bytes lie one behind the other. Source: GNU tar's manual ("Storing Sparse Files", "GNU extensions").

use rustix::io::Errno;

use super::error::ParseError;
use super::header::{BLOCK, unsigned};
use super::pax::decimal;
use crate::buffered_region::BufferedRegion;
use crate::byte_source::{Region, Span};
use crate::member::Extent;

/// Parts with data: offset and length, sorted, without overlaps and empty ones, neighbours made one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Map {
    parts: Vec<(u64, u64)>,
    /// Where the last part ended, which may have been an empty one.
    end: u64,
    /// Bytes of all parts.
    data: u64,
}

impl Map {
    /// Adds the next part.
    pub(super) fn add(&mut self, at: u64, length: u64) -> Result<(), ParseError> {
        let Some(end) = at.checked_add(length) else {
            return Err(flaw("a part ends beyond 64 bits"));
        };
        if at < self.end {
            return Err(flaw("parts overlap or are not in order"));
        }
        match self.parts.last_mut() {
            _ if length == 0 => {}
            Some((last, before)) if *last + *before == at => *before += length,
            _ => self.parts.push((at, length)),
        }
        self.end = end;
        self.data += length;
        Ok(())
    }

    /// The parts of a file of `size` bytes, whose data are the `stored` bytes of the region from `offset` on.
    pub(super) fn extents(
        self,
        size: u64,
        stored: u64,
        region: &Region,
        offset: u64,
    ) -> Result<Vec<Extent>, ParseError> {
        if self.end > size {
            return Err(flaw("a part ends beyond the file"));
        }
        if self.data != stored {
            return Err(flaw("the parts are not as long as the data"));
        }
        let mut offset = region.offset + offset;
        let extent = |(at, length)| {
            let store = region.store.clone();
            let bytes = Span { store, offset };
            offset += length;
            Extent { at, length, bytes }
        };
        Ok(self.parts.into_iter().map(extent).collect())
    }
}

fn flaw(what: &'static str) -> ParseError {
    ParseError::Sparse { what }
}

/// Faults of a map that is read from the archive.
pub(super) enum Stop {
    ParseError(ParseError),
    Read(u64, Errno),
}

impl From<ParseError> for Stop {
    fn from(flaw: ParseError) -> Self {
        Self::ParseError(flaw)
    }
}

/// The old format: four parts in the header `block` at `offset`, 21 more in each block that follows it.
///
/// Returns the map, the file's size, and how many blocks follow the header.
pub(super) fn old(
    block: &[u8],
    offset: u64,
    window: &mut BufferedRegion<'_>,
) -> Result<(Map, u64, u64), Stop> {
    let size = unsigned(&block[483..495], "size of a sparse file")?;
    let mut map = Map::default();
    let mut more = add_entries(&mut map, &block[386..482])? && block[482] != 0;
    let mut blocks = 0;
    while more {
        blocks += 1;
        let at = offset + blocks * BLOCK as u64;
        let next = window.get(at, BLOCK).map_err(|errno| Stop::Read(at, errno));
        let block = next?.ok_or(ParseError::Cut {
            what: "a list of data and holes",
        })?;
        more = add_entries(&mut map, &block[..504])? && block[504] != 0;
    }
    Ok((map, size, blocks))
}

/// Returns true if all places for entries were used: one without a length ends the list.
fn add_entries(map: &mut Map, entries: &[u8]) -> Result<bool, ParseError> {
    for entry in entries.chunks_exact(24) {
        if entry[12] == 0 {
            return Ok(false);
        }
        let at = unsigned(&entry[..12], "offset of a part")?;
        map.add(at, unsigned(&entry[12..], "length of a part")?)?;
    }
    Ok(true)
}

/// Format 1.0: the data begin with the map, decimal numbers in lines: how many parts, then offset and length of each.
///
/// `data` is where the data are in the region. Gives the map and how many bytes it takes up, in whole blocks.
pub(super) fn leading(
    data: std::ops::Range<u64>,
    window: &mut BufferedRegion<'_>,
) -> Result<(Map, u64), Stop> {
    let mut lines = Lines { data, used: 0 };
    let mut map = Map::default();
    let count = lines.next(window)?;
    for _ in 0..count {
        let at = lines.next(window)?;
        map.add(at, lines.next(window)?)?;
    }
    Ok((map, lines.used.next_multiple_of(BLOCK as u64)))
}

struct Lines {
    data: std::ops::Range<u64>,
    used: u64,
}

impl Lines {
    fn next(&mut self, window: &mut BufferedRegion<'_>) -> Result<u64, Stop> {
        // The longest number of 64 bits, and the line's end.
        const LINE: u64 = 21;
        let at = self.data.start + self.used;
        let there = self.data.end.saturating_sub(at).min(LINE);
        let bytes = window.get(at, there as usize);
        let bytes = bytes.map_err(|errno| Stop::Read(at, errno))?;
        let bytes = bytes.unwrap_or_default();
        let line = bytes.iter().position(|&byte| byte == b'\n');
        let number = line.and_then(|end| decimal(&bytes[..end]).zip(Some(end)));
        let (number, end) = number.ok_or(flaw("a line of it is no number"))?;
        self.used += end as u64 + 1;
        Ok(number)
    }
}
