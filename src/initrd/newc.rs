//! The newc record format: a header of 110 hex characters, a name with its NUL, padding to four bytes, the data,
//! padding to four bytes.
//!
//! One header to bytes, and a strict reader over a whole archive. Knows nothing of files on disk, or of what belongs in
//! an initrd. Format: `Documentation/driver-api/early-userspace/buffer-format.rst` of Linux.

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
            digits.copy_from_slice(&digits_of(field));
        }
        bytes
    }

    /// The header at the start of `bytes`: nothing but hex digits after the magic, a zero checksum.
    fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let fields = numbers(&bytes[6..])?;
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

/// Every byte the same.
const fn each(byte: u8) -> u64 {
    u64::from_be_bytes([byte; 8])
}

/// Eight hex digits, small letters. All at once: an archive has twelve fields in every record.
fn digits_of(number: u32) -> [u8; 8] {
    let mut x = u64::from(number);
    x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    x = (x | x << 4) & each(0x0f);
    // Where a value is above 9, plus 6 reaches the next bit.
    let letters = ((x + each(6)) >> 4) & each(1);
    (x + each(b'0') + letters * u64::from(b'a' - b'9' - 1)).to_be_bytes()
}

/// What eight hex digits each say; `None` when one of them is none. Bytes that are left over mean nothing.
pub fn numbers<const N: usize>(digits: &[u8]) -> Option<[u32; N]> {
    let mut numbers = [0; N];
    for (number, digits) in numbers.iter_mut().zip(digits.as_chunks().0) {
        *number = number_of(*digits)?;
    }
    Some(numbers)
}

fn number_of(digits: [u8; 8]) -> Option<u32> {
    const HIGH: u64 = each(0x80);
    let mut x = u64::from_be_bytes(digits);
    if x & HIGH != 0 {
        return None;
    }
    // Sets a byte's high bit where it is at least `least`; no byte has it set before.
    let from = |x: u64, least: u8| (x + each(0x80 - least)) & HIGH;
    let small = x | each(0x20);
    let digit = from(x, b'0') & !from(x, b'9' + 1);
    let letter = from(small, b'a') & !from(small, b'f' + 1);
    if digit | letter != HIGH {
        return None;
    }
    x = (x & each(0x0f)) + (letter >> 7) * 9;
    x = (x | x >> 4) & 0x00ff_00ff_00ff_00ff;
    x = (x | x >> 8) & 0x0000_ffff_0000_ffff;
    Some((x | x >> 16) as u32)
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
    /// What is wrong with it.
    pub what: &'static str,
}

/// Reads all records of one archive; gives them without the trailer, and the number of bytes up to the trailer's end.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_the_digits_that_everybody_writes() {
        let mut number = 1_u32;
        for _ in 0..100_000 {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            assert_eq!(digits_of(number), format!("{number:08x}").as_bytes());
            assert_eq!(number_of(digits_of(number)), Some(number));
        }
    }

    #[test]
    fn each_byte_at_each_place_is_a_digit_or_none() {
        for place in 0..8 {
            for byte in 0..=u8::MAX {
                let mut digits = *b"1fA90Fa0";
                digits[place] = byte;
                let each = digits.map(|byte| char::from(byte).to_digit(16));
                let number = each
                    .into_iter()
                    .try_fold(0, |number, digit| Some(number << 4 | digit?));
                assert_eq!(number_of(digits), number, "{digits:?}");
            }
        }
    }
}
