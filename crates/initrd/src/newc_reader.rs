//! A strict reader of newc archives, to check the bytes that are written against.

use rdvm_hostfs::hex;

use super::newc::{HEADER, Header, TRAILER, align};

/// The longest name including its NUL that the kernel takes (`PATH_MAX`).
const NAME_LIMIT: u32 = 4096;
const MAGIC: &[u8; 6] = b"070701";

impl Header {
    /// The header at the start of `bytes`: nothing but hex digits after the magic, a zero checksum.
    fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let fields = hex::numbers(&bytes[6..])?;
        let [
            ino,
            mode,
            uid,
            gid,
            nlink,
            mtime,
            filesize,
            dev_major,
            dev_minor,
            rdev_major,
            rdev_minor,
            namesize,
            check,
        ] = fields;
        let (dev, rdev) = ((dev_major, dev_minor), (rdev_major, rdev_minor));
        let header = Self {
            ino,
            mode,
            uid,
            gid,
            nlink,
            mtime,
            filesize,
            dev,
            rdev,
            namesize,
        };
        (&bytes[..6] == MAGIC && check == 0).then_some(header)
    }
}

/// One record as it stands in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    /// Its fields.
    pub header: Header,
    /// Its name, without the NUL.
    pub name: &'a [u8],
    /// Its data.
    pub data: &'a [u8],
}

/// Why an archive was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a newc cpio archive at byte {offset}: {what}; it is damaged or of another format")]
pub(crate) struct ReadError {
    /// Where the bad record starts.
    pub offset: u64,
    /// Its flaw.
    pub what: &'static str,
}

/// Reads all records of one archive; returns them without the trailer, and the number of bytes up to the trailer's end.
///
/// Strict: truncation anywhere, a missing trailer, a name without NUL or with more than one, and anything but hex
/// digits in a header are errors. What follows the trailer is not looked at.
pub(crate) fn read(archive: &[u8]) -> Result<(Vec<Record<'_>>, usize), ReadError> {
    let mut records = Vec::new();
    let mut at = 0;
    loop {
        let (record, length) = read_one(&archive[at..]).map_err(|what| ReadError {
            offset: at as u64,
            what,
        })?;
        at += length;
        if record.name == TRAILER {
            return Ok((records, at));
        }
        records.push(record);
    }
}

/// The record at the start of `bytes` and its length with all padding.
fn read_one(bytes: &[u8]) -> Result<(Record<'_>, usize), &'static str> {
    let header = bytes.first_chunk().ok_or("ends within a header")?;
    let header = Header::decode(header).ok_or("bad header")?;
    if !(2..=NAME_LIMIT).contains(&header.namesize) {
        return Err("the length of the name is out of bounds");
    }
    let name_end = HEADER + header.namesize as usize;
    let name = bytes.get(HEADER..name_end).ok_or("ends within a name")?;
    if name.iter().position(|&byte| byte == 0) != Some(name.len() - 1) {
        return Err("the name has no NUL, or one before its end");
    }
    let data_at = align(name_end as u64) as usize;
    let data_end = data_at + header.filesize as usize;
    let data = bytes.get(data_at..data_end).ok_or("ends within a file")?;
    let end = align(data_end as u64) as usize;
    if bytes.len() < end {
        return Err("ends within padding");
    }
    Ok((
        Record {
            header,
            name: &name[..name.len() - 1],
            data,
        },
        end,
    ))
}
