//! An inode's extended attributes: those that stand behind it, and those that several inodes share.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::{Fault, ParseError, Spend};
use super::inode::Inode;
use super::super_block::SuperBlock;
use super::{BLOCK, NAMESPACES, XATTR_ENTRY, XATTR_HEADER};
use crate::buffered_region::BufferedRegion;
use crate::tree::Xattrs;

const OUTSIDE: ParseError = ParseError::Outside("an extended attribute");
/// Bytes that an attribute takes in memory besides its name and value.
const OVERHEAD: u64 = 64;

/// Name and value.
type Attribute = (Vec<u8>, Vec<u8>);

/// Reads the attributes of an inode. `shared` is a window for those that stand elsewhere.
///
/// `spend` is asked with the bytes in memory of each, since inodes may share them.
pub(super) fn read(
    inode: &Inode,
    super_block: &SuperBlock,
    window: &mut BufferedRegion<'_>,
    shared: &mut BufferedRegion<'_>,
    spend: Spend<'_>,
) -> Result<Xattrs, Fault> {
    let (at, length) = inode.attributes;
    if length == 0 {
        return Ok(None);
    }
    let bytes = window.get(at, length as usize)?.ok_or(OUTSIDE)?;
    let (header, rest) = bytes.split_at(XATTR_HEADER);
    let numbers = usize::from(header[4]) * XATTR_ENTRY;
    let (numbers, mut rest) = rest.split_at_checked(numbers).ok_or(OUTSIDE)?;
    let mut all = BTreeMap::new();
    let mut put = |(name, value): Attribute| -> Result<(), Fault> {
        spend(OVERHEAD + (name.len() + value.len()) as u64)?;
        match all.insert(name, value) {
            None => Ok(()),
            Some(_) => Err(ParseError::Attribute("is there twice").into()),
        }
    };
    while !rest.is_empty() {
        let (attribute, length) = take(rest)?;
        rest = rest
            .get(length.next_multiple_of(XATTR_ENTRY)..)
            .ok_or(OUTSIDE)?;
        put(attribute)?;
    }
    let from = u64::from(super_block.attributes) * BLOCK;
    for number in numbers.chunks_exact(XATTR_ENTRY) {
        let number = number.iter().rev();
        let number = number.fold(0, |number, &byte| number << 8 | u64::from(byte));
        put(read_shared(shared, from + number * XATTR_ENTRY as u64)?)?;
    }
    Ok((!all.is_empty()).then(|| Arc::new(all)))
}

fn read_shared(window: &mut BufferedRegion<'_>, at: u64) -> Result<Attribute, Fault> {
    let head = window.get(at, XATTR_ENTRY)?.ok_or(OUTSIDE)?;
    let length = entry_length(head);
    let bytes = window.get(at, length)?.ok_or(OUTSIDE)?;
    Ok(take(bytes)?.0)
}

/// Returns the length of an attribute that begins with these bytes.
fn entry_length(head: &[u8]) -> usize {
    let value = usize::from(u16::from_le_bytes([head[2], head[3]]));
    XATTR_ENTRY + usize::from(head[0]) + value
}

/// Takes the first attribute of `bytes`, and returns how many of them it has.
fn take(bytes: &[u8]) -> Result<(Attribute, usize), ParseError> {
    let head = bytes.get(..XATTR_ENTRY).ok_or(OUTSIDE)?;
    let length = entry_length(head);
    let rest = bytes.get(XATTR_ENTRY..length).ok_or(OUTSIDE)?;
    let (suffix, value) = rest.split_at(head[0].into());
    let known = NAMESPACES.iter().find(|(number, _)| *number == head[1]);
    let (_, namespace) = known.ok_or(ParseError::Attribute("is in an unknown namespace"))?;
    // A namespace that ends with a dot wants a name, the others are names.
    if suffix.is_empty() == namespace.ends_with(b".") || suffix.contains(&0) {
        return Err(ParseError::Attribute("has a name that cannot be"));
    }
    let name = [namespace, suffix].concat();
    Ok(((name, value.to_vec()), length))
}
