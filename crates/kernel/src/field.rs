//! Numbers out of file headers, and the name of the one that is wrong.
//!
//! Owns `ParseError`, the reason why bytes are not a kernel; takes slices; knows no format and opens nothing.

use std::fmt::Display;

/// Why the bytes of a file are not a kernel that can be booted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ParseError {
    /// A header field has a value that it must not have.
    #[error("{field} is {got}, must be {want}")]
    Field {
        field: &'static str,
        got: String,
        want: String,
    },
    /// The file ends before a field.
    #[error("cut short: {field} ends at byte {end}, the header has {have} bytes")]
    Short {
        field: &'static str,
        end: u64,
        have: u64,
    },
    /// Not a kernel at all, or none for this machine.
    #[error("not an x86-64 Linux kernel but {what}")]
    Other { what: &'static str },
    /// The compressed kernel inside a bzImage cannot be unpacked.
    #[error("the {compression} payload is damaged: {what}")]
    Payload {
        compression: &'static str,
        what: String,
    },
}

/// The little-endian number of `width` bytes (at most 8) at offset `at`, or the flaw that names `field`.
pub(super) fn number(
    bytes: &[u8],
    at: usize,
    width: usize,
    field: &'static str,
) -> Result<u64, ParseError> {
    let end = at.saturating_add(width);
    let raw = bytes.get(at..end).ok_or(ParseError::Short {
        field,
        end: end as u64,
        have: bytes.len() as u64,
    })?;
    Ok(raw
        .iter()
        .rev()
        .fold(0, |sum, &byte| sum << 8 | u64::from(byte)))
}

/// Nothing when `ok`, else the flaw with both values.
pub(super) fn ensure(
    ok: bool,
    field: &'static str,
    got: impl Display,
    want: impl Display,
) -> Result<(), ParseError> {
    if ok {
        return Ok(());
    }
    Err(ParseError::Field {
        field,
        got: got.to_string(),
        want: want.to_string(),
    })
}

/// `ensure` for numbers that are read in hexadecimal: addresses, flags, magic numbers.
pub(super) fn ensure_hex(
    ok: bool,
    field: &'static str,
    got: u64,
    want: impl Display,
) -> Result<(), ParseError> {
    ensure(ok, field, format_args!("{got:#x}"), want)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_from_the_low_byte_up_and_never_past_the_end() {
        let bytes = [0x01, 0x02, 0x03];
        assert_eq!(number(&bytes, 1, 2, "f"), Ok(0x0302));
        let short = ParseError::Short {
            field: "f",
            end: 4,
            have: 3,
        };
        assert_eq!(number(&bytes, 2, 2, "f"), Err(short));
        assert!(number(&bytes, usize::MAX, 8, "f").is_err());
    }

    #[test]
    fn a_flaw_names_the_field_and_both_values() {
        let flaw = ensure_hex(false, "e_machine", 0xb7, "0x3e").unwrap_err();
        assert_eq!(flaw.to_string(), "e_machine is 0xb7, must be 0x3e");
    }
}
