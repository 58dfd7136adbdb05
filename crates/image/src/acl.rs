//! Access control lists: the text that archives have ↔ the value of Linux's extended attribute.
//!
//! Sources: acl(5) for the text, with the numeric id behind a name as star and bsdtar write it; Linux's
//! `include/uapi/linux/posix_acl_xattr.h` for the value.

use std::fmt::Write;

use crate::limit::shortened;
use crate::tar::decimal;

/// The attributes whose values are lists: of access, and of what is made in a directory.
pub(crate) const ATTRIBUTES: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
/// The keywords of their PAX records.
pub(crate) const KEYWORDS: [&[u8]; 2] = [b"SCHILY.acl.access", b"SCHILY.acl.default"];

/// `ACL_UNDEFINED_ID`.
const NOBODY: u32 = u32::MAX;
/// `POSIX_ACL_XATTR_VERSION`.
const VERSION: u32 = 2;

const USER_OBJ: u16 = 0x01;
pub(crate) const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
pub(crate) const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Returns the attribute's value; `None` for a list of access (`of_access`) that adds nothing to the mode.
///
/// # Errors
/// The flaw of the text, as part of a sentence. A name without a number is an error: it would have to be looked
/// up, in the image or on the host that wrote the archive.
pub(crate) fn encode(text: &[u8], of_access: bool) -> Result<Option<Vec<u8>>, String> {
    let mut entries = Vec::new();
    for line in text.split(|&byte| byte == b',' || byte == b'\n') {
        let entry = line.split(|&byte| byte == b'#').next().unwrap_or_default();
        match entry.trim_ascii() {
            [] => {}
            entry => entries.push(parse(entry)?),
        }
    }
    // The kernel wants them in this order.
    entries.sort_unstable();
    let count = |wanted| entries.iter().filter(|(tag, ..)| *tag == wanted).count();
    let named = count(USER) + count(GROUP);
    let whole = [USER_OBJ, GROUP_OBJ, OTHER].map(count) == [1; 3];
    if entries.is_empty() || (of_access && whole && entries.len() == 3) {
        return Ok(None);
    }
    if !whole || count(MASK) > 1 || (named > 0 && count(MASK) == 0) {
        return Err("an ACL that is not complete".into());
    }
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, id, permissions) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    Ok(Some(value))
}

/// Returns the keyword of the PAX record for an attribute that is a list, and the list as text with numbers for names;
/// `None` for any other attribute, and for a value that is no list.
pub fn record(name: &[u8], value: &[u8]) -> Option<(&'static [u8], String)> {
    let which = ATTRIBUTES.iter().position(|&list| list == name)?;
    let entries = value.strip_prefix(&VERSION.to_le_bytes())?;
    let mut text = String::new();
    for entry in entries.chunks(8) {
        let &[tag, tag_high, permissions, 0, ref id @ ..] = entry else {
            return None;
        };
        let id = u32::from_le_bytes(id.try_into().ok()?);
        let (tag, named) = match u16::from_le_bytes([tag, tag_high]) {
            USER_OBJ => ("user", false),
            USER => ("user", true),
            GROUP_OBJ => ("group", false),
            GROUP => ("group", true),
            MASK => ("mask", false),
            OTHER => ("other", false),
            _ => return None,
        };
        let bit = |bit, letter| if permissions & bit != 0 { letter } else { '-' };
        let (r, w, x) = (bit(4, 'r'), bit(2, 'w'), bit(1, 'x'));
        let comma = if text.is_empty() { "" } else { "," };
        let id = if named { id.to_string() } else { String::new() };
        // Writing to a String cannot fail.
        let _ = write!(text, "{comma}{tag}:{id}:{r}{w}{x}");
    }
    (!text.is_empty()).then_some((KEYWORDS[which], text))
}

fn parse(entry: &[u8]) -> Result<(u16, u32, u16), String> {
    let bad = || format!("the ACL entry {}", shortened(entry));
    let fields: Vec<&[u8]> = entry.split(|&byte| byte == b':').collect();
    let (tag, name, permissions, number) = match fields[..] {
        [tag, permissions] => (tag, &b""[..], permissions, None),
        [tag, name, permissions] => (tag, name, permissions, None),
        [tag, name, permissions, number] => (tag, name, permissions, Some(number)),
        _ => return Err(bad()),
    };
    let tag = match (tag, name.is_empty()) {
        (b"user" | b"u", true) => USER_OBJ,
        (b"user" | b"u", false) => USER,
        (b"group" | b"g", true) => GROUP_OBJ,
        (b"group" | b"g", false) => GROUP,
        (b"mask" | b"m", true) => MASK,
        (b"other" | b"o", true) => OTHER,
        _ => return Err(bad()),
    };
    let id = match tag {
        USER | GROUP => {
            let id = |text| decimal(text).and_then(|id| u32::try_from(id).ok());
            let known = number.and_then(id).or_else(|| id(name));
            known.ok_or_else(|| {
                let entry = shortened(entry);
                format!("the ACL entry {entry} has no number; write the archive with tar --acls --xattrs --xattrs-include=*, which keeps it")
            })?
        }
        _ => NOBODY,
    };
    let bit = |letter, bit| match permissions.contains(&letter) {
        true => bit,
        false => 0,
    };
    let plain = |byte: &u8| b"rwx-".contains(byte);
    match permissions.len() <= 3 && permissions.iter().all(plain) {
        true => Ok((tag, id, bit(b'r', 4) | bit(b'w', 2) | bit(b'x', 1))),
        false => Err(bad()),
    }
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
