//! The super block: what the file system has, and where its inodes and shared attributes begin.

use super::error::{Error, ParseError, unreadable};
use super::{BLOCK, COMPAT_CHECKSUM, INCOMPAT_CHUNKS, MAGIC, SUPER, SUPER_AT};
use crate::byte_source::Region;

/// Features that only compressed contents have, which are found and refused by name, and files in chunks.
const KNOWN: u32 = ZERO_PADDING | COMPRESSION_SETTINGS | INCOMPAT_CHUNKS | SECOND_HEAD | TAILS;
const ZERO_PADDING: u32 = 1;
const COMPRESSION_SETTINGS: u32 = 2;
/// A second compression, or further devices, as the number of devices tells.
const SECOND_HEAD: u32 = 8;
const TAILS: u32 = 0x10;
/// Features that have a name.
const NAMES: [(u32, &str); 4] = [
    (0x20, "fragments or shared compressed data"),
    (0x40, "prefixes for the names of extended attributes"),
    (0x80, "48-bit block addresses"),
    (0x100, "compressed metadata"),
];

/// The part of the super block that a reader needs.
#[derive(Debug)]
pub(super) struct SuperBlock {
    /// The number of the root's inode.
    pub(super) root: u64,
    /// The block that inodes are numbered from.
    pub(super) inodes: u32,
    /// The block that shared attributes are numbered from.
    pub(super) attributes: u32,
    /// The time of inodes without one, in seconds since the epoch.
    pub(super) time: i64,
}

impl SuperBlock {
    /// Reads it.
    ///
    /// # Errors
    /// The file has none, or is cut off; the file system has something that this reader does not know.
    pub(super) fn read(region: &Region) -> Result<Self, Error> {
        let mut bytes = [0; SUPER];
        let failed = |errno| unreadable(region, SUPER_AT, errno);
        if region.length < SUPER_AT + SUPER as u64 {
            return Err(ParseError::Nothing.at(region));
        }
        region.read_exact(SUPER_AT, &mut bytes).map_err(failed)?;
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
        if word(0) != MAGIC {
            return Err(ParseError::Nothing.at(region));
        }
        if u64::from(bytes[12]) != u64::from(BLOCK.trailing_zeros()) {
            return Err(ParseError::BlockSize(bytes[12]).at(region));
        }
        if let Some(what) = unknown(word(80), half(86), bytes[90]) {
            return Err(ParseError::Feature(what).at(region));
        }
        let promised = u64::from(word(36)) * BLOCK;
        if region.length < promised {
            let found = region.length;
            return Err(ParseError::Short { found, promised }.at(region));
        }
        if word(8) & COMPAT_CHECKSUM != 0 {
            let mut block = vec![0; (BLOCK - SUPER_AT).min(region.length - SUPER_AT) as usize];
            region.read_exact(SUPER_AT, &mut block).map_err(failed)?;
            block[4..8].fill(0);
            let (promised, found) = (word(4), checksum(&block));
            if promised != found {
                return Err(ParseError::Checksum { promised, found }.at(region));
            }
        }
        Ok(Self {
            root: half(14).into(),
            inodes: word(40),
            attributes: word(44),
            time: (u64::from(word(24)) | u64::from(word(28)) << 32) as i64,
        })
    }
}

/// Returns what the file system has that this reader does not know.
fn unknown(features: u32, devices: u16, directory_blocks: u8) -> Option<String> {
    if features & SECOND_HEAD != 0 && devices > 0 {
        return Some(format!("{devices} further devices"));
    }
    if directory_blocks != 0 {
        return Some("directory blocks of another size".to_owned());
    }
    let unknown = features & !KNOWN;
    let name = NAMES.iter().find(|(bit, _)| unknown & bit != 0);
    match (unknown, name) {
        (0, _) => None,
        (_, Some((_, name))) => Some((*name).to_owned()),
        (bits, None) => Some(format!("the unknown features {bits:#x}")),
    }
}

/// CRC-32C as Linux computes it, without the inversion at the end.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    /// Castagnoli's polynomial, lowest bit first.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            sum >> 1 ^ if sum & 1 == 1 { POLYNOMIAL } else { 0 }
        })
    })
}
