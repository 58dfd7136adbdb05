//! Access control lists: the text that archives have → the value of Linux's extended attribute.
//!
//! Sources: acl(5) for the text, with the numeric id behind a name as star and bsdtar write it; Linux's
//! `include/uapi/linux/posix_acl_xattr.h` for the value.

use super::pax::decimal;
use crate::limit::shortened;

/// `ACL_UNDEFINED_ID`.
const NOBODY: u32 = u32::MAX;
/// `POSIX_ACL_XATTR_VERSION`.
const VERSION: u32 = 2;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The attribute's value; `None` for a list of access (`of_access`) that says no more than the mode does.
///
/// Errors: what is wrong with the text, as part of a sentence. A name without a number is such a thing: whose name it
/// is would have to be looked up, in the image or on the host that wrote the archive.
pub(super) fn encode(text: &[u8], of_access: bool) -> Result<Option<Vec<u8>>, String> {
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
