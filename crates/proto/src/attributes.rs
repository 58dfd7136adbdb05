//! Host to guest: extended attributes, which the archive format cannot hold, in a file of the last cpio segment.
//!
//! Magic, version, number of files; then for each file its path, the number of its attributes, and for each of these
//! its name, the length of its value and the value. Paths and names end in NUL, numbers have four bytes.

use crate::{Decoder, VERSION};

/// The suffix of rdinit's own path that gives the path of the table. It is there only when a start record's flags have
/// [`HAS_ATTRIBUTES`](crate::HAS_ATTRIBUTES).
pub const ATTRIBUTES_SUFFIX: &str = ".xattrs";

/// First bytes of a table.
pub(crate) const ATTRIBUTES_MAGIC: [u8; 8] = *b"rdvmxa\0\x01";

/// A whole table: a view of its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    files: &'a [u8],
}

/// One attribute of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// The file's path from the root directory, with its NUL; `.` is the root itself.
    pub path: &'a [u8],
    /// The attribute's name with its NUL: `user.a`.
    pub name: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
    /// True if it is the file's first one.
    pub first: bool,
}

impl<'a> Attributes<'a> {
    /// Reads a table; `None` when it is not exactly one table of this version. All of it is looked at, so that a table
    /// cut short is found before anything is done by it.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut r = Decoder { bytes };
        if r.take(8)? != ATTRIBUTES_MAGIC || r.u32()? != u32::from(VERSION) {
            return None;
        }
        let count = r.u32()?;
        let files = r.bytes;
        for _ in 0..count {
            let path = r.string()?;
            let attributes = r.u32()?;
            if path.len() < 2 || attributes == 0 {
                return None;
            }
            for _ in 0..attributes {
                r.attribute()?;
            }
        }
        r.bytes.is_empty().then_some(Self { files })
    }

    /// All attributes, those of one file one after the other.
    pub fn iter(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        let mut r = Decoder { bytes: self.files };
        let (mut path, mut left): (&[u8], u32) = (&[], 0);
        core::iter::from_fn(move || {
            let first = left == 0;
            if first {
                (path, left) = (r.string()?, r.u32()?);
            }
            left = left.checked_sub(1)?;
            let (name, value) = r.attribute()?;
            Some(Attribute {
                path,
                name,
                value,
                first,
            })
        })
    }
}

impl<'a> Decoder<'a> {
    fn attribute(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let name = self.string().filter(|name| name.len() > 1)?;
        let length = self.u32()?;
        Some((name, self.take(length as usize)?))
    }
}

/// A table in the making.
#[cfg(not(freestanding))]
#[derive(Debug, Default)]
pub struct AttributesTable {
    count: u32,
    files: alloc::vec::Vec<u8>,
}

#[cfg(not(freestanding))]
impl AttributesTable {
    /// Adds a file with its attributes, name and value, of which there must be at least one. Paths and names must not be
    /// empty, nor contain NUL; values have less than 4 GiB.
    pub fn push<'a>(
        &mut self,
        path: &[u8],
        attributes: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])>,
    ) {
        let string = |out: &mut alloc::vec::Vec<u8>, text: &[u8]| {
            debug_assert!(!text.is_empty() && !text.contains(&0));
            out.extend(text);
            out.push(0);
        };
        self.count += 1;
        string(&mut self.files, path);
        self.files.extend((attributes.len() as u32).to_le_bytes());
        for (name, value) in attributes {
            string(&mut self.files, name);
            self.files.extend((value.len() as u32).to_le_bytes());
            self.files.extend(value);
        }
    }

    /// The table's bytes; `None` where no file was added.
    pub fn finish(self) -> Option<alloc::vec::Vec<u8>> {
        let mut out = ATTRIBUTES_MAGIC.to_vec();
        out.extend(u32::from(VERSION).to_le_bytes());
        out.extend(self.count.to_le_bytes());
        out.extend(self.files);
        (self.count > 0).then_some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    type Files<'a> = &'a [(&'a [u8], &'a [(&'a [u8], &'a [u8])])];

    const FILES: Files<'static> = &[
        (b".", &[(b"user.root", b"")]),
        (
            b"bin/ping",
            &[
                (b"security.capability", b"\x01\0\0\x02"),
                (b"user.\xff", b"\0\0"),
            ],
        ),
        (b"\n", &[(b"trusted.x", &[7; 300])]),
    ];

    fn encoded(files: Files<'_>) -> Vec<u8> {
        let mut table = AttributesTable::default();
        for (path, attributes) in files {
            table.push(path, attributes.iter().copied());
        }
        table.finish().unwrap()
    }

    #[test]
    fn a_table_gives_back_what_was_put_in_and_no_prefix_of_it_is_one() {
        let bytes = encoded(FILES);
        let seen: Vec<_> = Attributes::decode(&bytes).unwrap().iter().collect();
        let mut expected = Vec::new();
        for (path, attributes) in FILES {
            for (at, (name, value)) in attributes.iter().enumerate() {
                expected.push((
                    [*path, b"\0"].concat(),
                    [*name, b"\0"].concat(),
                    *value,
                    at == 0,
                ));
            }
        }
        let seen: Vec<_> = seen
            .iter()
            .map(|a| (a.path.to_vec(), a.name.to_vec(), a.value, a.first))
            .collect();
        assert_eq!(seen, expected);
        for cut in 0..bytes.len() {
            assert!(Attributes::decode(&bytes[..cut]).is_none(), "cut at {cut}");
        }
        assert!(Attributes::decode(&[&bytes[..], b"\0"].concat()).is_none());
    }

    #[test]
    fn what_no_table_may_have_is_refused() {
        let head = |count: u32| [&encoded(FILES)[..12], &count.to_le_bytes()].concat();
        for (count, files) in [
            (u32::MAX, &b""[..]),
            (1, b"\0\x01\0\0\0a\0\0\0\0\0"),
            (1, b"f\0\0\0\0\0"),
            (1, b"f\0\x01\0\0\0\0\0\0\0\0"),
            (1, b"f\0\x01\0\0\0a\0\xff\xff\xff\xff"),
            (1, b"f\0\xff\xff\xff\xffa\0\0\0\0\0"),
        ] {
            assert!(
                Attributes::decode(&[&head(count), files].concat()).is_none(),
                "{count} {files:?}"
            );
        }
        let good = [&head(1)[..], b"f\0\x01\0\0\0a\0\0\0\0\0"].concat();
        assert!(Attributes::decode(&good).is_some());
        for at in 0..12 {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Attributes::decode(&bad).is_none(), "byte {at}");
        }
        assert!(AttributesTable::default().finish().is_none());
    }

    /// A walk through all tables that are near a good one: whatever decodes can be read to its end, and encodes again to
    /// the same bytes.
    #[test]
    fn a_damaged_table_is_refused_or_read_within_its_bounds() {
        let good = encoded(FILES);
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let mut decoded = 0;
        for _ in 0..200_000 {
            let mut bytes = good.clone();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                match random(4) {
                    0 => bytes[at] = [0, 1, 2, 0x7f, 0xff][random(5)],
                    1 => bytes[at] ^= 1 << random(8),
                    2 => drop(bytes.drain(at..(at + 1 + random(8)).min(bytes.len()))),
                    _ => bytes
                        .splice(at..at, vec![random(256) as u8; random(6)])
                        .for_each(drop),
                }
                if bytes.is_empty() {
                    break;
                }
            }
            let Some(table) = Attributes::decode(&bytes) else {
                continue;
            };
            decoded += 1;
            let all: Vec<_> = table.iter().collect();
            let mut again = AttributesTable::default();
            for file in all.chunk_by(|_, next| !next.first) {
                again.push(
                    &file[0].path[..file[0].path.len() - 1],
                    file.iter().map(|a| (&a.name[..a.name.len() - 1], a.value)),
                );
            }
            assert_eq!(again.finish().unwrap(), bytes);
        }
        assert!(decoded > 1000, "only {decoded} tables were good");
    }
}
