//! The newc record format: a header of 110 hex characters, a name with its NUL, padding to four bytes, the data,
//! padding to four bytes.
//!
//! One header to bytes, and a strict reader over a whole archive. Knows nothing of files on disk, or of what belongs in
//! an initrd. Format: `Documentation/driver-api/early-userspace/buffer-format.rst` of Linux.

use rdvm_hostfs::hex;

/// Length of a header in bytes.
pub const HEADER: usize = 110;
/// The name of the record that ends an archive.
pub const TRAILER: &[u8] = b"TRAILER!!!";
/// The longest name including its NUL that the kernel takes (`PATH_MAX`).
pub const NAME_LIMIT: u32 = 4096;

const MAGIC: &[u8; 6] = b"070701";

/// The fields of one record, in the order they are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// Inode number; records with the same one are names of one file.
    pub ino: u32,
    /// File type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names.
    pub nlink: u32,
    /// Seconds since the epoch.
    pub mtime: u32,
    /// Length of the data in bytes.
    pub filesize: u32,
    /// Device the file was on.
    pub dev: (u32, u32),
    /// Which device the file is.
    pub rdev: (u32, u32),
    /// Length of the name in bytes, with its NUL.
    pub namesize: u32,
}

impl Header {
    /// The header as it stands in the archive; the checksum field is 0, as in every newc archive.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [b'0'; HEADER];
        bytes[..6].copy_from_slice(MAGIC);
        let fields = [
            self.ino,
            self.mode,
            self.uid,
            self.gid,
            self.nlink,
            self.mtime,
            self.filesize,
            self.dev.0,
            self.dev.1,
            self.rdev.0,
            self.rdev.1,
            self.namesize,
        ];
        for (field, digits) in fields.into_iter().zip(bytes[6..].chunks_exact_mut(8)) {
            digits.copy_from_slice(&hex::digits(field));
        }
        bytes
    }

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

/// The next multiple of four.
pub const fn align(length: u64) -> u64 {
    length.next_multiple_of(4)
}

/// One record as it stands in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
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
pub struct ReadError {
    /// Where the bad record starts.
    pub offset: u64,
    /// Its flaw.
    pub what: &'static str,
}

/// Reads all records of one archive; returns them without the trailer, and the number of bytes up to the trailer's end.
///
/// Strict: truncation anywhere, a missing trailer, a name without NUL or with more than one, and anything but hex
/// digits in a header are errors. What follows the trailer is not looked at.
pub fn read(archive: &[u8]) -> Result<(Vec<Record<'_>>, usize), ReadError> {
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
