//! Access control lists: the value of Linux's extended attribute → the text that GNU tar and bsdtar put back.
//!
//! Sources: Linux's `include/uapi/linux/posix_acl_xattr.h` for the value, acl(5) for the text.

use std::fmt::Write;

/// `POSIX_ACL_XATTR_VERSION`.
const VERSION: [u8; 4] = 2u32.to_le_bytes();

/// The keyword of the PAX record for an extended attribute that is a list, and the list as text with numbers for names;
/// `None` for any other attribute, and for a value that is no list.
pub(super) fn record(name: &[u8], value: &[u8]) -> Option<(&'static [u8], String)> {
    let keyword: &[u8] = match name {
        b"system.posix_acl_access" => b"SCHILY.acl.access",
        b"system.posix_acl_default" => b"SCHILY.acl.default",
        _ => return None,
    };
    let entries = value.strip_prefix(&VERSION)?;
    let mut text = String::new();
    for entry in entries.chunks(8) {
        let [tag, tag_high, permissions, 0, id @ ..] = entry else {
            return None;
        };
        let id = u32::from_le_bytes(id.try_into().ok()?);
        let (tag, named) = match u16::from_le_bytes([*tag, *tag_high]) {
            0x01 => ("user", false),
            0x02 => ("user", true),
            0x04 => ("group", false),
            0x08 => ("group", true),
            0x10 => ("mask", false),
            0x20 => ("other", false),
            _ => return None,
        };
        let bit = |bit, letter| if permissions & bit != 0 { letter } else { '-' };
        let (r, w, x) = (bit(4, 'r'), bit(2, 'w'), bit(1, 'x'));
        let comma = if text.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = match named {
            true => write!(text, "{comma}{tag}:{id}:{r}{w}{x}"),
            false => write!(text, "{comma}{tag}::{r}{w}{x}"),
        };
    }
    (!text.is_empty()).then_some((keyword, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = b"\x02\0\0\0\
        \x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\
        \x10\0\x05\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";

    #[test]
    fn a_list_becomes_its_text_and_what_is_none_stays_away() {
        let text = "user::rw-,user:1000:r--,group::r--,mask::r-x,other::---";
        assert_eq!(
            record(b"system.posix_acl_access", LIST),
            Some((&b"SCHILY.acl.access"[..], text.to_owned()))
        );
        let default = record(b"system.posix_acl_default", LIST).unwrap();
        assert_eq!(default.0, b"SCHILY.acl.default");
        assert_eq!(record(b"user.x", LIST), None);
        for bad in [
            &b""[..],
            b"\x02\0\0\0",
            &LIST[..LIST.len() - 1],
            b"\x01\0\0\0\x01\0\x06\0\xff\xff\xff\xff",
            b"\x02\0\0\0\x03\0\x06\0\xff\xff\xff\xff",
        ] {
            assert_eq!(record(b"system.posix_acl_access", bad), None, "{bad:?}");
        }
    }
}
