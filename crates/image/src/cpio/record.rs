//! One record: a header of 110 hexadecimal characters, a name with its NUL, padding to four bytes, the data, padding.

use super::error::{Error, ParseError, unreadable};
use crate::buffered_region::BufferedRegion;
use crate::byte_source::Region;
use rdvm_hostfs::hex::numbers;

/// Length of a header in bytes.
const HEADER: usize = 110;
/// The longest name with its NUL, and the longest link target, that the kernel takes (`PATH_MAX`).
const NAME_LIMIT: u32 = 4096;

/// A record's fields, and where its data are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// Where its header is in the region.
    pub(super) at: u64,
    pub(super) name: Vec<u8>,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) nlink: u32,
    pub(super) mtime: u32,
    /// Records with the same one are names of one file: inode, major and minor number of the device.
    pub(super) inode: [u32; 3],
    pub(super) rdev: (u32, u32),
    /// Where its data are in the region, and how many bytes.
    pub(super) data: u64,
    pub(super) size: u64,
    /// The sum of all bytes of the data, where the format has one.
    pub(super) sum: Option<u32>,
    /// Where the next record is.
    pub(super) next: u64,
}

/// The record at `at`.
pub(super) fn read(
    region: &Region,
    window: &mut BufferedRegion<'_>,
    at: u64,
) -> Result<Record, Error> {
    let here = |flaw: ParseError| flaw.at(region, at);
    let header =
        get(region, window, at, HEADER)?.ok_or_else(|| here(ParseError::Cut("a header")))?;
    let has_sum = match &header[..6] {
        b"070701" => false,
        b"070702" => true,
        b"070707" => return Err(here(ParseError::OldFormat("odc"))),
        _ => return Err(here(ParseError::Magic)),
    };
    let [
        inode,
        mode,
        uid,
        gid,
        nlink,
        mtime,
        size,
        major,
        minor,
        rmajor,
        rminor,
        length,
        sum,
    ] = numbers(&header[6..]).ok_or_else(|| here(ParseError::Digit))?;
    if !(2..=NAME_LIMIT).contains(&length) {
        return Err(here(ParseError::NameLength(length)));
    }
    let from = at + HEADER as u64;
    let name = get(region, window, from, length as usize)?;
    let name = name.ok_or_else(|| here(ParseError::Cut("a name")))?;
    // More than one NUL is how some programs make data begin at a multiple of the page size.
    let name = match (until_nul(name), name.last()) {
        (text @ [_, ..], Some(0)) => text.to_vec(),
        _ => return Err(here(ParseError::Nul)),
    };
    let data = (from + u64::from(length)).next_multiple_of(4);
    let size = u64::from(size);
    // The last record of all may be without its padding.
    if size > 0 && data + size > region.length {
        return Err(ParseError::Cut("its data").of(region, &name, at));
    }
    Ok(Record {
        at,
        name,
        mode,
        uid,
        gid,
        nlink,
        mtime,
        inode: [inode, major, minor],
        rdev: (rmajor, rminor),
        data,
        size,
        sum: has_sum.then_some(sum),
        next: (data + size).next_multiple_of(4),
    })
}

impl Record {
    /// A symbolic link's target.
    pub(super) fn target(
        &self,
        region: &Region,
        window: &mut BufferedRegion<'_>,
    ) -> Result<Vec<u8>, Error> {
        let wrong = |flaw: ParseError| flaw.of(region, &self.name, self.at);
        if self.size > NAME_LIMIT.into() {
            let (what, bytes) = ("link target", self.size);
            return Err(wrong(ParseError::Data { what, bytes }));
        }
        let bytes = get(region, window, self.data, self.size as usize)?.unwrap_or_default();
        // Linux's own gen_init_cpio writes a NUL at the end.
        Ok(until_nul(bytes).to_vec())
    }

    /// Compares the data with their checksum.
    pub(super) fn check(&self, region: &Region) -> Result<(), Error> {
        let Some(promised) = self.sum else {
            return Ok(());
        };
        let mut piece = vec![0; 64 << 10];
        let (mut found, mut at, end) = (0_u32, self.data, self.data + self.size);
        while at < end {
            let count = (end - at).min(piece.len() as u64) as usize;
            let piece = &mut piece[..count];
            let read = region.read_exact(at, piece);
            read.map_err(|errno| unreadable(region, at, errno))?;
            let sum: u32 = piece.iter().map(|&byte| u32::from(byte)).sum();
            found = found.wrapping_add(sum);
            at += count as u64;
        }
        match found == promised {
            true => Ok(()),
            false => Err(ParseError::Checksum { promised, found }.of(region, &self.name, self.at)),
        }
    }
}

/// Returns what stands before the first NUL: to the kernel and to both cpio programs there is no more.
fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn get<'a>(
    region: &Region,
    window: &'a mut BufferedRegion<'_>,
    from: u64,
    count: usize,
) -> Result<Option<&'a [u8]>, Error> {
    let bytes = window.get(from, count);
    bytes.map_err(|errno| unreadable(region, from, errno))
}
