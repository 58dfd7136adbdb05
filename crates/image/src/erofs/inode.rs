//! One inode: everything of an entry but its name, and where its bytes and attributes are told.

use super::error::{Fault, ParseError};
use super::super_block::SuperBlock;
use super::{
    BLOCK, COMPRESSED, COMPRESSED_COMPACT, INODE, INODE_COMPACT, SLOT, XATTR_ENTRY, XATTR_HEADER,
};
use crate::buffered_region::BufferedRegion;

/// An inode as it stands in the file.
#[derive(Debug, Clone)]
pub(super) struct Inode {
    /// How its bytes are told.
    pub(super) layout: u16,
    /// Its type and permissions.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) size: u64,
    /// The block of its bytes, its device, or the form of its chunks.
    pub(super) union: u32,
    /// Where its attributes begin, and their bytes.
    pub(super) attributes: (u64, u64),
}

/// Returns where an inode stands; `None` beyond all files.
pub(super) fn place(super_block: &SuperBlock, number: u64) -> Option<u64> {
    let from = u64::from(super_block.inodes) * BLOCK;
    from.checked_add(number.checked_mul(SLOT)?)
}

impl Inode {
    /// Reads the inode at `at`.
    pub(super) fn read(
        window: &mut BufferedRegion<'_>,
        super_block: &SuperBlock,
        at: u64,
    ) -> Result<Self, Fault> {
        const OUTSIDE: ParseError = ParseError::Outside("its inode");
        let bytes = window.get(at, INODE_COMPACT as usize)?.ok_or(OUTSIDE)?;
        let format = u16::from_le_bytes([bytes[0], bytes[1]]);
        let is_long = format & 1 == 1;
        let length = if is_long { INODE } else { INODE_COMPACT };
        let bytes = window.get(at, length as usize)?.ok_or(OUTSIDE)?;
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from(half(at)) | u32::from(half(at + 2)) << 16;
        let double = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let layout = format >> 1;
        match layout {
            COMPRESSED | COMPRESSED_COMPACT => return Err(ParseError::Compressed.into()),
            0..=4 => {}
            _ => return Err(ParseError::Format(format).into()),
        }
        // The header counts as one, whatever its length.
        let attributes = match half(2) {
            0 => 0,
            count => (XATTR_HEADER + (usize::from(count) - 1) * XATTR_ENTRY) as u64,
        };
        let (size, uid, gid, mtime) = match is_long {
            true => (double(8), word(24), word(28), double(32) as i64),
            false => (
                word(8).into(),
                half(24).into(),
                half(26).into(),
                super_block.time,
            ),
        };
        Ok(Self {
            layout,
            mode: half(4),
            uid,
            gid,
            mtime,
            size,
            union: word(16),
            attributes: (at + length, attributes),
        })
    }

    /// Where what follows the attributes begins.
    pub(super) fn behind(&self) -> u64 {
        self.attributes.0 + self.attributes.1
    }

    /// The device that it stands for, major and minor (`new_decode_dev`).
    pub(super) fn device(&self) -> (u32, u32) {
        let number = self.union;
        (
            number >> 8 & 0xfff,
            number & 0xff | number >> 12 & 0x000f_ff00,
        )
    }
}
