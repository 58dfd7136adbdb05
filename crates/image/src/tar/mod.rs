//! tar archives → members in the archive's order: v7, ustar, GNU tar's and PAX, with sparse files of all four formats.
//!
//! Headers are read by offset and contents stay where they are. What GNU tar, bsdtar and umoci (Go's reader) take alike is
//! taken; what one of them refuses, or what they take differently, is an error, since a tree must not depend on who
//! reads the archive (`docs/images.md` has the list). What members come to (links, whiteouts, names with `..`) is for others to decide. Knows no
//! compression.

pub mod field;

mod error;
mod header;
mod member;
mod pax;
mod sparse;

#[cfg(test)]
mod tests;

use rustix::io::Errno;

pub use error::{Error, ParseError};
use header::{BLOCK, Header, text};
use pax::Records;
pub(crate) use pax::decimal;

use super::buffered_region::BufferedRegion;
use super::byte_source::Region;
use super::limit::{Counter, shortened};
use super::member::Member;
use super::tree::Warning;

/// The longest PAX header or long name in bytes.
pub(crate) const RECORD_LIMIT: u64 = 1 << 20;

/// The end of an archive. Readers agree on its members in each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With a zero block, and with nothing but zeros behind it.
    Marked,
    /// Behind a whole member: nothing in the archive shows that it was the last one.
    Unmarked,
    /// With two zero blocks, and with something at this offset that no reader looks at.
    Followed(u64),
}

impl End {
    /// The warning for an archive that no digest proves to be whole; `shown` is its name, escaped.
    pub(crate) fn warning(self, shown: &str) -> Option<Warning> {
        let shown = shown.to_owned();
        match self {
            Self::Marked => None,
            Self::Unmarked => Some(Warning::NoEndMarker { shown }),
            Self::Followed(at) => Some(Warning::BehindTheEnd { shown, at }),
        }
    }
}

/// Reads the archive that is the region, hands over each member, and returns how it ends.
///
/// Errors name the archive, the member and the offset of its header; those of `each` come through.
pub(crate) fn read<E: From<Error>>(
    region: &Region,
    entries: &Counter,
    each: &mut dyn FnMut(Member) -> Result<(), E>,
) -> Result<End, E> {
    let mut reader = TarReader {
        region,
        window: BufferedRegion::new(region),
        at: 0,
        end: End::Unmarked,
        globals: Records::default(),
        has_pax: false,
    };
    while let Some(member) = reader.next()? {
        let counted = entries.count(&member.name, region.store.shown());
        counted.map_err(Error::from)?;
        each(member)?;
    }
    Ok(reader.end)
}

struct TarReader<'a> {
    region: &'a Region,
    window: BufferedRegion<'a>,
    /// Where the next header is.
    at: u64,
    end: End,
    /// The values of global PAX headers so far.
    globals: Records,
    /// True if there was any PAX header.
    has_pax: bool,
}

/// The values of the headers in front of a member.
#[derive(Default)]
struct Pending {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Option<Vec<u8>>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.name.is_none() && self.link.is_none() && self.pax.is_none()
    }
}

impl TarReader<'_> {
    /// The next member; `None` at the end.
    fn next(&mut self) -> Result<Option<Member>, Error> {
        let mut pending = Pending::default();
        loop {
            let offset = self.at;
            let Some(block) = self.block(offset)? else {
                if offset == self.region.length && pending.is_empty() {
                    return Ok(None);
                }
                return Err(self.error(offset, self.no_header(offset)));
            };
            if block.iter().all(|&byte| byte == 0) {
                if !pending.is_empty() {
                    return Err(self.error(offset, ParseError::NoMember));
                }
                return self.end(offset).map(|()| None);
            }
            let header = Header::new(&block).map_err(|flaw| self.error(offset, flaw))?;
            match header.kind() {
                b'L' => {
                    let name = self.record(header, offset, "long name")?;
                    pending.name = Some(text(&name).to_vec());
                }
                b'K' => {
                    let link = self.record(header, offset, "long link target")?;
                    pending.link = Some(text(&link).to_vec());
                }
                b'x' | b'X' => {
                    let records = self.record(header, offset, "PAX header")?;
                    if pending.pax.replace(records).is_some() {
                        let what = "PAX header";
                        return Err(self.error(offset, ParseError::Twice { what }));
                    }
                    self.has_pax = true;
                }
                b'g' => {
                    let records = self.record(header, offset, "PAX header")?;
                    let added = self.globals.add_for_all(&records);
                    added.map_err(|flaw| self.error(offset, flaw))?;
                    self.has_pax = true;
                }
                // A name for the archive itself.
                b'V' if pending.is_empty() => {
                    let size = header.size();
                    let empty = size.and_then(|size| no_data(size, "volume label"));
                    empty.map_err(|flaw| self.named(offset, &header.name(), flaw))?;
                    self.at += BLOCK as u64;
                }
                b'V' => return Err(self.error(offset, ParseError::NoMember)),
                _ => return self.member(header, offset, pending).map(Some),
            }
        }
    }

    fn block(&mut self, offset: u64) -> Result<Option<[u8; BLOCK]>, Error> {
        let block = self.window.get(offset, BLOCK);
        let block = block.map_err(|errno| read_error(self.region, offset, errno))?;
        Ok(block.and_then(|bytes| bytes.try_into().ok()))
    }

    fn no_header(&self, offset: u64) -> ParseError {
        match offset == self.region.length {
            true => ParseError::NoMember,
            false => ParseError::Cut {
                what: "a block of 512 bytes",
            },
        }
    }

    /// After the first zero block: another one ends the archive, and so does the end of the file, for which GNU tar has
    /// a warning. What follows a single one is another matter: GNU tar and bsdtar stop there, Go's reader refuses it.
    fn end(&mut self, offset: u64) -> Result<(), Error> {
        let more = self.window.skip_zeros(offset + BLOCK as u64);
        match more.map_err(|errno| read_error(self.region, offset, errno))? {
            None => self.end = End::Marked,
            Some(at) if at - offset < 2 * BLOCK as u64 => {
                return Err(self.error(at, ParseError::LoneZeroBlock));
            }
            Some(at) => self.end = End::Followed(at),
        }
        Ok(())
    }

    /// The data of a header that is about the next member.
    fn record(
        &mut self,
        header: Header<'_>,
        offset: u64,
        what: &'static str,
    ) -> Result<Vec<u8>, Error> {
        let bytes = header.size().map_err(|flaw| self.error(offset, flaw))?;
        if bytes > RECORD_LIMIT {
            let limit = RECORD_LIMIT;
            let flaw = ParseError::Record { what, bytes, limit };
            return Err(self.error(offset, flaw));
        }
        let data = offset + BLOCK as u64;
        self.at = data + bytes.next_multiple_of(BLOCK as u64);
        let record = self.window.get(data, bytes as usize);
        let record = record.map_err(|errno| read_error(self.region, data, errno))?;
        let record = record.map(<[u8]>::to_vec);
        record.ok_or_else(|| self.error(offset, ParseError::Cut { what }))
    }

    fn error(&self, offset: u64, flaw: ParseError) -> Error {
        Error::Archive {
            shown: self.region.store.shown().to_owned(),
            offset,
            flaw,
        }
    }

    fn named(&self, offset: u64, name: &[u8], flaw: ParseError) -> Error {
        Error::Member {
            shown: self.region.store.shown().to_owned(),
            name: shortened(name),
            offset,
            flaw,
        }
    }
}

fn read_error(region: &Region, offset: u64, errno: Errno) -> Error {
    Error::Read {
        shown: region.store.shown().to_owned(),
        offset,
        errno,
    }
}

/// For what has no data.
fn no_data(size: u64, what: &'static str) -> Result<(), ParseError> {
    match size {
        0 => Ok(()),
        bytes => Err(ParseError::Data { what, bytes }),
    }
}
