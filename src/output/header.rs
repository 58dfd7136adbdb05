//! The tar header: a block of 512 bytes, and before it a PAX header for what does not fit in one.
//!
//! Takes plain numbers and bytes, returns bytes. Format: POSIX.1-2017 `pax`, sections "ustar" and "pax Header Block";
//! numbers that a field cannot hold in octal stand in it in base 256, as GNU tar writes them, so that the readers that
//! know no PAX records find them too.

use std::collections::BTreeMap;

use rdvm_image::acl;
pub(super) use rdvm_image::tar::field::BLOCK;
use rdvm_image::tar::field::{
    CHECKSUM, GID, LINK, MAGIC, MAJOR, MINOR, MODE, MTIME, NAME, PREFIX, SIZE, TYPE, UID,
};

/// The `typeflag` field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Type {
    File = b'0',
    HardLink = b'1',
    Symlink = b'2',
    CharDevice = b'3',
    BlockDevice = b'4',
    Directory = b'5',
    Fifo = b'6',
    Pax = b'x',
}

/// The values of one header.
#[derive(Debug, Clone)]
pub(super) struct Header<'a> {
    /// The name; a directory's ends with a slash.
    pub(super) name: &'a [u8],
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds since the epoch.
    pub(super) mtime: i64,
    /// Length of the contents that follow.
    pub(super) size: u64,
    pub(super) kind: Type,
    /// The target of a link.
    pub(super) target: &'a [u8],
    /// Major and minor number of a device.
    pub(super) device: (u32, u32),
    /// Extended attributes by name.
    pub(super) xattrs: Option<&'a BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl<'a> Header<'a> {
    /// A regular file of ours: root's, from 1970.
    pub(super) fn of_file(name: &'a [u8], size: u64) -> Self {
        Self {
            name,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 0,
            size,
            kind: Type::File,
            target: b"",
            device: (0, 0),
            xattrs: None,
        }
    }

    /// Appends the header to `out`, with a PAX header before it where it needs one; whole blocks.
    pub(super) fn append(&self, out: &mut Vec<u8>) {
        let records = self.records();
        if !records.is_empty() {
            let own = Self::of_file(b"PaxHeaders/next", records.len() as u64);
            out.extend_from_slice(
                &Self {
                    kind: Type::Pax,
                    ..own
                }
                .block(),
            );
            out.extend_from_slice(&records);
            pad(out);
        }
        out.extend_from_slice(&self.block());
    }

    /// The block alone. What does not fit is cut short or in base 256.
    pub(super) fn block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let (prefix, name) = split(self.name).unwrap_or((b"", self.name));
        text(&mut block[NAME], name);
        number(&mut block[MODE], self.mode.into());
        number(&mut block[UID], self.uid.into());
        number(&mut block[GID], self.gid.into());
        number(&mut block[SIZE], self.size.into());
        number(&mut block[MTIME], self.mtime.into());
        block[TYPE] = self.kind as u8;
        text(&mut block[LINK], self.target);
        block[MAGIC].copy_from_slice(b"ustar\x0000");
        number(&mut block[MAJOR], self.device.0.into());
        number(&mut block[MINOR], self.device.1.into());
        text(&mut block[PREFIX], prefix);
        // The sum counts its own field as eight blanks.
        block[CHECKSUM].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        number(&mut block[148..155], sum.into());
        block
    }

    /// The PAX records for what the block cannot say.
    fn records(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if split(self.name).is_none() || is_foreign(self.name) {
            record(&mut out, b"path", self.name);
        }
        if self.target.len() > 100 || is_foreign(self.target) {
            record(&mut out, b"linkpath", self.target);
        }
        let numbers: [(&[u8], i128, usize); 4] = [
            (b"gid", self.gid.into(), 8),
            (b"mtime", self.mtime.into(), 12),
            (b"size", self.size.into(), 12),
            (b"uid", self.uid.into(), 8),
        ];
        for (keyword, value, width) in numbers {
            if !fits_octal(value, width) {
                record(&mut out, keyword, value.to_string().as_bytes());
            }
        }
        for (name, value) in self.xattrs.into_iter().flatten() {
            // Lists go twice: other tars put back the text, and only some of them the attribute.
            if let Some((keyword, text)) = acl::record(name, value) {
                record(&mut out, keyword, text.as_bytes());
            }
            record(&mut out, &xattr_keyword(name), value);
        }
        out
    }
}

/// Fills up to a whole block.
pub(super) fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

/// Where a name fits in the block: what goes to `prefix`, and what to `name`. They are joined by a slash.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    // The first slash that leaves few enough behind it; the one at a directory's end parts nothing.
    let first = name.len() - 101;
    let slash = first
        + name[first..name.len() - 1]
            .iter()
            .position(|&b| b == b'/')?;
    (1..=155)
        .contains(&slash)
        .then(|| (&name[..slash], &name[slash + 1..]))
}

/// Text that is no ASCII has a record, which is UTF-8 by definition. Names that are not even UTF-8 stay in the block as
/// long as they fit, because a record of them has bsdtar complain.
fn is_foreign(name: &[u8]) -> bool {
    !name.is_ascii() && str::from_utf8(name).is_ok()
}

/// Copies what fits.
fn text(field: &mut [u8], bytes: &[u8]) {
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
}

/// True if a field of this width, its NUL included, holds the number in octal.
fn fits_octal(value: i128, width: usize) -> bool {
    (0..1 << (3 * (width - 1))).contains(&value)
}

fn number(field: &mut [u8], value: i128) {
    let width = field.len();
    if fits_octal(value, width) {
        let digits = format!("{value:0width$o}", width = width - 1);
        field[..width - 1].copy_from_slice(digits.as_bytes());
        return;
    }
    let bytes = value.to_be_bytes();
    field.copy_from_slice(&bytes[bytes.len() - width..]);
    field[0] |= 0x80;
}

/// Appends `LENGTH KEYWORD=VALUE\n`, where LENGTH counts its own digits.
fn record(out: &mut Vec<u8>, keyword: &[u8], value: &[u8]) {
    let rest = keyword.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(keyword);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// The keyword of an extended attribute. A keyword ends at the first `=`, so GNU tar writes that one, and `%`, in hex.
fn xattr_keyword(name: &[u8]) -> Vec<u8> {
    let mut keyword = b"SCHILY.xattr.".to_vec();
    for &byte in name {
        match byte {
            b'%' | b'=' => keyword.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            _ => keyword.push(byte),
        }
    }
    keyword
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(header: &Header<'_>) -> String {
        String::from_utf8_lossy(&header.records()).into_owned()
    }

    #[test]
    fn a_length_counts_its_own_digits() {
        for (value, length) in [
            (1, 6),
            (3, 8),
            (4, 9),
            (5, 11),
            (93, 99),
            (94, 101),
            (993, 1001),
        ] {
            let mut out = Vec::new();
            record(&mut out, b"a", &vec![b'v'; value]);
            assert_eq!(out.len(), length, "{value}");
            assert!(out.starts_with(format!("{length} a=v").as_bytes()));
        }
    }

    #[test]
    fn what_fits_needs_no_record_and_the_next_larger_does() {
        let fits = Header {
            uid: 0o7_777_777,
            gid: 0o7_777_777,
            mtime: 0o77_777_777_777,
            ..Header::of_file(b"f", 0o77_777_777_777)
        };
        assert_eq!(records(&fits), "");
        let over = Header {
            uid: 0o10_000_000,
            gid: u32::MAX,
            mtime: -1,
            ..Header::of_file(b"f", 1 << 33)
        };
        assert_eq!(
            records(&over),
            "18 gid=4294967295\n12 mtime=-1\n19 size=8589934592\n15 uid=2097152\n"
        );
        let block = over.block();
        assert_eq!(block[124..136], [0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(block[136..148], [0xff; 12]);
    }

    #[test]
    fn long_names_are_parted_at_a_slash_where_one_is_right() {
        let name = |front: usize, back: usize| [vec![b'p'; front], vec![b'n'; back]].join(&b'/');
        for (front, back, parted) in [
            (1, 99, true),
            (155, 100, true),
            (156, 100, false),
            (155, 101, false),
        ] {
            let name = name(front, back);
            let header = Header::of_file(&name, 0);
            assert_eq!(records(&header).is_empty(), parted, "{front} {back}");
        }
        let directory = [vec![b'd'; 101], Vec::new()].join(&b'/');
        assert!(records(&Header::of_file(&directory, 0)).contains("path=ddd"));
        let only_root = [Vec::new(), vec![b'd'; 100]].join(&b'/');
        assert!(split(&only_root).is_none(), "an empty prefix would be lost");
    }

    #[test]
    fn utf8_has_a_record_and_raw_bytes_stay_raw() {
        assert!(records(&Header::of_file("é".as_bytes(), 0)).contains("path=é\n"));
        let raw = Header::of_file(b"\xff", 0);
        assert_eq!(records(&raw), "");
        assert_eq!(raw.block()[..2], [0xff, 0]);
    }

    #[test]
    fn attributes_carry_any_bytes_and_their_names_no_equals_sign() {
        let map = BTreeMap::from([(b"user.a=%".to_vec(), b"\0\n=\xff".to_vec())]);
        let header = Header {
            xattrs: Some(&map),
            ..Header::of_file(b"f", 0)
        };
        assert_eq!(
            header.records(),
            b"34 SCHILY.xattr.user.a%3D%25=\0\n=\xff\n"
        );
    }
}
