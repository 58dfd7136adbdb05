//! PAX headers: records of `LENGTH KEYWORD=VALUE\n` that say of a member, or of all that follow, what the plain header
//! cannot.
//!
//! Sources: POSIX.1-2017 `pax` ("pax Extended Header"), GNU tar's manual ("Storing Sparse Files"), star's and
//! libarchive's manual pages for `SCHILY.*` and `LIBARCHIVE.*`. Keywords not listed here (times of access, names of
//! users, comments, charsets) are passed over.

use std::collections::{BTreeMap, BTreeSet};

use super::error::ParseError;
use super::sparse::Map;
use crate::acl;
use crate::limit::shortened;

/// The values of one member's records, with those of global headers below them.
#[derive(Debug, Clone, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<i64>,
    /// By name with its namespace.
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse: Sparse,
    /// The attributes of access control lists whose text cannot be used, and why.
    bad_acls: Vec<(&'static [u8], String)>,
    /// A header for all members has set some of these.
    is_for_all: bool,
}

/// The records that GNU tar writes of a sparse file.
#[derive(Debug, Clone, Default)]
pub(super) struct Sparse {
    pub(super) name: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) version: (u64, u64),
    /// Versions 0.0 and 0.1 have the map here.
    pub(super) map: Option<Map>,
    /// The offset of a pair that is not complete.
    offset: Option<u64>,
}

impl Sparse {
    /// True if any of them was there.
    pub(super) fn is_there(&self) -> bool {
        self.map.is_some() || self.version != (0, 0) || self.size.is_some() || self.name.is_some()
    }
}

impl Records {
    /// Adds the records of the header that belongs to one member; a later one of the same keyword counts. POSIX lets
    /// an empty value take back an earlier one; GNU tar refuses it, and so do we.
    pub(super) fn add(&mut self, mut rest: &[u8]) -> Result<(), ParseError> {
        while !rest.is_empty() {
            let (keyword, value) = split(&mut rest)?;
            self.set(keyword, value)?;
        }
        // GNU tar writes names that only its host knows, and where it was asked for attributes the list itself beside them.
        for (name, why) in self.bad_acls.drain(..) {
            if !self.xattrs.contains_key(name) {
                return Err(ParseError::pax(why));
            }
        }
        match self.sparse.offset {
            Some(_) => Err(ParseError::Sparse {
                what: "an offset without a length",
            }),
            None => Ok(()),
        }
    }

    /// Takes over the records of a header for all members that follow.
    ///
    /// GNU tar takes the first of two records of one keyword here, and with a further header it forgets the one
    /// before, neither of which POSIX says: both are refused, unless they are of keywords that do not matter. So is what
    /// no two members have in common, and attributes, which each member would get a copy of.
    pub(super) fn add_for_all(&mut self, mut rest: &[u8]) -> Result<(), ParseError> {
        let mut seen = BTreeSet::new();
        let what = "global PAX header";
        while !rest.is_empty() {
            let (keyword, value) = split(&mut rest)?;
            if is_of_one(keyword) {
                let what = format!("a {} for all members", shortened(keyword));
                return Err(ParseError::pax(what));
            }
            if self.is_for_all || (self.set(keyword, value)? && !seen.insert(keyword)) {
                return Err(ParseError::Twice { what });
            }
        }
        self.is_for_all = !seen.is_empty();
        Ok(())
    }

    /// Takes one record; returns true if the keyword matters.
    fn set(&mut self, keyword: &[u8], value: &[u8]) -> Result<bool, ParseError> {
        match keyword {
            b"path" => self.path = Some(name(keyword, value)?),
            b"linkpath" => self.link = Some(name(keyword, value)?),
            b"size" => self.size = Some(number(keyword, value)?),
            b"uid" => self.uid = Some(id(value, "uid")?),
            b"gid" => self.gid = Some(id(value, "gid")?),
            b"mtime" => self.mtime = Some(seconds(value)?),
            b"SCHILY.acl.access" => self.acl(b"system.posix_acl_access", value, true),
            b"SCHILY.acl.default" => self.acl(b"system.posix_acl_default", value, false),
            b"RHT.security.selinux" => self.xattr(b"security.selinux".to_vec(), value.to_vec())?,
            b"GNU.volume.filename" | b"GNU.volume.size" | b"GNU.volume.offset" => {
                return Err(ParseError::Volumes);
            }
            _ => {
                if let Some(name) = keyword.strip_prefix(b"SCHILY.xattr.") {
                    self.xattr(unquoted(name), value.to_vec())?;
                } else if let Some(name) = keyword.strip_prefix(b"LIBARCHIVE.xattr.") {
                    // bsdtar writes an attribute both ways; the other one is the plainer.
                    let name = percent(name).ok_or_else(|| malformed(keyword))?;
                    if !self.xattrs.contains_key(&name) {
                        self.xattr(name, base64(value).ok_or_else(|| malformed(keyword))?)?;
                    }
                } else if let Some(field) = keyword.strip_prefix(b"GNU.sparse.") {
                    self.sparse(keyword, field, value)?;
                } else {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn xattr(&mut self, name: Vec<u8>, value: Vec<u8>) -> Result<(), ParseError> {
        if name.is_empty() || name.contains(&0) {
            return Err(ParseError::pax(
                "an extended attribute without a proper name",
            ));
        }
        self.xattrs.insert(name, value);
        Ok(())
    }

    fn acl(&mut self, name: &'static [u8], text: &[u8], of_access: bool) {
        match acl::encode(text, of_access) {
            Ok(Some(value)) => drop(self.xattrs.insert(name.to_vec(), value)),
            Ok(None) => {}
            Err(why) => self.bad_acls.push((name, why)),
        }
    }

    fn sparse(&mut self, keyword: &[u8], field: &[u8], value: &[u8]) -> Result<(), ParseError> {
        let sparse = &mut self.sparse;
        match field {
            b"name" => sparse.name = Some(name(keyword, value)?),
            b"size" | b"realsize" => sparse.size = Some(number(keyword, value)?),
            b"major" => sparse.version.0 = number(keyword, value)?,
            b"minor" => sparse.version.1 = number(keyword, value)?,
            b"offset" => {
                let offset = number(keyword, value)?;
                if sparse.offset.replace(offset).is_some() {
                    return Err(ParseError::Sparse {
                        what: "an offset without a length",
                    });
                }
            }
            b"numbytes" => {
                let length = number(keyword, value)?;
                let offset = sparse.offset.take().ok_or(ParseError::Sparse {
                    what: "a length without an offset",
                })?;
                sparse.map.get_or_insert_default().add(offset, length)?;
            }
            b"map" => {
                let mut map = Map::default();
                let mut numbers = value.split(|&byte| byte == b',');
                while let Some(offset) = numbers.next() {
                    let length = numbers.next().ok_or_else(|| malformed(keyword))?;
                    let offset = number(keyword, offset)?;
                    map.add(offset, number(keyword, length)?)?;
                }
                sparse.map = Some(map);
            }
            // The number of pairs, which are counted by looking at them.
            _ => {}
        }
        Ok(())
    }
}

/// True if it makes no sense for all members at once.
fn is_of_one(keyword: &[u8]) -> bool {
    const STARTS: [&[u8]; 5] = [
        b"GNU.sparse.",
        b"SCHILY.xattr.",
        b"SCHILY.acl.",
        b"LIBARCHIVE.xattr.",
        b"RHT.security.",
    ];
    matches!(keyword, b"path" | b"linkpath" | b"size")
        || STARTS.iter().any(|start| keyword.starts_with(start))
}

/// The first record's keyword and value; `rest` goes on to what comes after it.
fn split<'a>(rest: &mut &'a [u8]) -> Result<(&'a [u8], &'a [u8]), ParseError> {
    let blank = rest.iter().take(20).position(|&byte| byte == b' ');
    let blank = blank.ok_or_else(|| ParseError::pax("a record without a length"))?;
    let length = decimal(&rest[..blank]).ok_or_else(|| ParseError::pax("a length is no number"))?;
    let record = usize::try_from(length)
        .ok()
        .and_then(|length| rest.split_at_checked(length))
        .filter(|(record, _)| record.len() > blank + 1);
    let (record, after) = record.ok_or_else(|| ParseError::pax("a record of a wrong length"))?;
    *rest = after;
    let text = record[blank + 1..].strip_suffix(b"\n");
    let text = text.ok_or_else(|| ParseError::pax("a record does not end with its line"))?;
    match text.iter().position(|&byte| byte == b'=') {
        Some(sign @ 1..) if !text[..sign].contains(&0) => Ok((&text[..sign], &text[sign + 1..])),
        _ => Err(ParseError::pax("a record without a keyword")),
    }
}

fn malformed(keyword: &[u8]) -> ParseError {
    ParseError::pax(format!("the value of {}", shortened(keyword)))
}

fn name(keyword: &[u8], value: &[u8]) -> Result<Vec<u8>, ParseError> {
    match value.is_empty() || value.contains(&0) {
        true => Err(malformed(keyword)),
        false => Ok(value.to_vec()),
    }
}

/// Digits and nothing else.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, &byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

fn number(keyword: &[u8], value: &[u8]) -> Result<u64, ParseError> {
    decimal(value).ok_or_else(|| malformed(keyword))
}

fn id(value: &[u8], what: &'static str) -> Result<u32, ParseError> {
    let (digits, sign) = match value {
        [b'-', digits @ ..] => (digits, -1),
        _ => (value, 1),
    };
    let number = sign * i128::from(number(what.as_bytes(), digits)?);
    u32::try_from(number).map_err(|_| ParseError::out_of_range(what, number))
}

/// Whole seconds, rounded down.
fn seconds(value: &[u8]) -> Result<i64, ParseError> {
    let bad = || malformed(b"mtime");
    let (text, negative) = match value {
        [b'-', text @ ..] => (text, true),
        _ => (value, false),
    };
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let whole = decimal(parts.next().unwrap_or_default()).ok_or_else(bad)?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    let up = negative && fraction.iter().any(|&digit| digit != b'0');
    let whole = i128::from(whole) + i128::from(up);
    let whole = if negative { -whole } else { whole };
    i64::try_from(whole).map_err(|_| ParseError::out_of_range("mtime", whole))
}

/// GNU tar writes `=` and `%` of an attribute's name as %3D and %25, and nothing else.
fn unquoted(name: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let [first, after @ ..] = rest {
        let (byte, after) = match rest {
            [b'%', b'3', b'D', after @ ..] => (b'=', after),
            [b'%', b'2', b'5', after @ ..] => (b'%', after),
            _ => (*first, after),
        };
        plain.push(byte);
        rest = after;
    }
    plain
}

/// libarchive's way to write a name: any byte may be `%` and two hexadecimal digits.
fn percent(name: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let [first, after @ ..] = rest {
        let (byte, after) = match rest {
            [b'%', high, low, after @ ..] => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                ((digit(*high)? * 16 + digit(*low)?) as u8, after)
            }
            [b'%', ..] => return None,
            _ => (*first, after),
        };
        plain.push(byte);
        rest = after;
    }
    Some(plain)
}

/// RFC 4648, with or without padding.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|&&byte| byte == b'=').count();
    let digits = &text[..text.len() - padding];
    if padding > 2 || digits.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    let (mut held, mut bits) = (0_u32, 0);
    for &digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = held << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    Some(bytes)
}
