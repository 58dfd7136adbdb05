//! One tar header: a block of 512 bytes with fields at fixed places, its checksum, its numbers, its name.
//!
//! Sources: POSIX.1-2017 `pax` (ustar), GNU tar's manual ("Basic Tar Format", "GNU extensions"). Numbers are read as
//! GNU tar 1.34 does, and what it complains about is an error.

use super::error::ParseError;
pub(super) use super::field::BLOCK;
use super::field::{
    CHECKSUM, GID, LINK, MAGIC, MAJOR, MINOR, MODE, MTIME, NAME, PREFIX, SIZE, TYPE, UID,
};

/// Which dialect a header is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Before POSIX: no magic number, no devices.
    V7,
    /// POSIX, with a prefix for long names.
    Ustar,
    /// GNU tar's own, where the place of the prefix holds other things.
    Gnu,
}

/// A block whose checksum is right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header<'a>(pub(super) &'a [u8]);

impl<'a> Header<'a> {
    /// Takes a whole block that is not all zero.
    ///
    /// # Errors
    /// The checksum is wrong, or the magic number is of no dialect and it matters which one it is.
    pub(super) fn new(block: &'a [u8]) -> Result<Self, ParseError> {
        let header = Self(block);
        if !header.has_its_checksum() {
            return Err(ParseError::Checksum);
        }
        // To GNU tar anything else after "ustar" is v7, to bsdtar it is ustar: that has a prefix and devices besides.
        let is_odd = header.dialect() == Dialect::V7 && block[MAGIC].starts_with(b"ustar");
        let differs = block[PREFIX.start] != 0 || matches!(header.kind(), b'3' | b'4');
        match is_odd && differs {
            true => Err(ParseError::Magic),
            false => Ok(header),
        }
    }

    /// The sum of all bytes with the checksum's own taken for blanks. Some old programs added signed bytes.
    fn has_its_checksum(&self) -> bool {
        let Ok(want) = octal(&self.0[CHECKSUM]) else {
            return false;
        };
        let blanks = 8 * i64::from(b' ');
        let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
        let unsigned = i64::from(sum(self.0) - sum(&self.0[CHECKSUM])) + blanks;
        if want == unsigned {
            return true;
        }
        let high = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte >= 0x80).count() as i64;
        want == unsigned - 256 * (high(self.0) - high(&self.0[CHECKSUM]))
    }

    pub(super) fn dialect(&self) -> Dialect {
        match &self.0[MAGIC] {
            b"ustar  \0" => Dialect::Gnu,
            magic if magic.starts_with(b"ustar\0") => Dialect::Ustar,
            _ => Dialect::V7,
        }
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[TYPE]
    }

    /// The name as far as it fits here.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.0[NAME]);
        let prefix = match self.dialect() {
            Dialect::Ustar => text(&self.0[PREFIX]),
            _ => &[],
        };
        match prefix {
            [] => name.to_vec(),
            _ => [prefix, b"/", name].concat(),
        }
    }

    pub(super) fn link(&self) -> &'a [u8] {
        text(&self.0[LINK])
    }

    /// Permission bits. Some programs put the file's type into the field as well.
    pub(super) fn mode(&self) -> Result<u16, ParseError> {
        let mode = number(&self.0[MODE], "mode")?;
        match u32::try_from(mode) {
            Ok(mode) => Ok((mode & 0o7777) as u16),
            Err(_) => Err(ParseError::out_of_range("mode", mode)),
        }
    }

    pub(super) fn uid(&self) -> Result<u32, ParseError> {
        id(number(&self.0[UID], "uid")?, "uid")
    }

    pub(super) fn gid(&self) -> Result<u32, ParseError> {
        id(number(&self.0[GID], "gid")?, "gid")
    }

    pub(super) fn size(&self) -> Result<u64, ParseError> {
        unsigned(&self.0[SIZE], "size")
    }

    pub(super) fn mtime(&self) -> Result<i64, ParseError> {
        number(&self.0[MTIME], "mtime")
    }

    /// A device's numbers. Before POSIX there was no place for them.
    pub(super) fn device(&self) -> Result<(u32, u32), ParseError> {
        if self.dialect() == Dialect::V7 {
            return Ok((0, 0));
        }
        let major = id(number(&self.0[MAJOR], "devmajor")?, "devmajor")?;
        Ok((major, id(number(&self.0[MINOR], "devminor")?, "devminor")?))
    }
}

/// Up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn id(value: i64, what: &'static str) -> Result<u32, ParseError> {
    u32::try_from(value).map_err(|_| ParseError::out_of_range(what, value))
}

/// A number that cannot be negative.
pub(super) fn unsigned(field: &[u8], what: &'static str) -> Result<u64, ParseError> {
    let value = number(field, what)?;
    u64::try_from(value).map_err(|_| ParseError::out_of_range(what, value))
}

/// A number in octal digits, or, where the first bit is set, in two's complement of all other bits, big end first.
pub(super) fn number(field: &[u8], what: &'static str) -> Result<i64, ParseError> {
    match field {
        [first, rest @ ..] if first & 0x80 != 0 => {
            let sign = if first & 0x40 == 0 { 0 } else { -1 };
            let mut value = (sign << 6) | i64::from(first & 0x3f);
            for byte in rest {
                let more = value
                    .checked_mul(256)
                    .ok_or(ParseError::TooLarge { what })?;
                value = more | i64::from(*byte);
            }
            Ok(value)
        }
        _ => octal(field).map_err(|()| ParseError::Number { what }),
    }
}

/// Octal digits after blanks, ended by a NUL, a blank or the field's end. An empty field is 0; one of the first
/// bytes may be a NUL, as one old program wrote it.
fn octal(field: &[u8]) -> Result<i64, ()> {
    let field = match field {
        [0, rest @ ..] => rest,
        _ => field,
    };
    let digits = field.trim_ascii_start();
    if digits.is_empty() {
        return Err(());
    }
    let mut value = 0_i64;
    for (at, &byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'7' => {
                value = value.checked_mul(8).ok_or(())? | i64::from(byte - b'0');
            }
            0 => return Ok(value),
            _ if byte.is_ascii_whitespace() && at > 0 => return Ok(value),
            _ => return Err(()),
        }
    }
    Ok(value)
}
