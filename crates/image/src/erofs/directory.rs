//! One block of a directory: its entries, and their names behind them.

use super::DIRENT;
use super::error::ParseError;
use crate::tree::NAME_LIMIT;

/// A block, and how far it was read.
#[derive(Debug, Default)]
pub(super) struct DirectoryBlock {
    bytes: Vec<u8>,
    next: usize,
    count: usize,
}

/// One name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Name<'a> {
    pub(super) name: &'a [u8],
    /// The number of the inode that it leads to.
    pub(super) inode: u64,
    /// The kind of that as the directory tells it.
    pub(super) kind: u8,
}

impl DirectoryBlock {
    /// Takes the bytes of a block, or of the last part of one.
    ///
    /// # Errors
    /// There is no entry in it.
    pub(super) fn new(bytes: Vec<u8>) -> Result<Self, ParseError> {
        let mut block = Self {
            bytes,
            next: 0,
            count: 1,
        };
        // Names follow the entries, so the first one tells how many there are.
        let first = match block.bytes.len() >= DIRENT {
            true => block.name_at(0),
            false => 0,
        };
        if first < DIRENT || first % DIRENT != 0 || first >= block.bytes.len() {
            return Err(ParseError::Directory("whose first name is out of place"));
        }
        block.count = first / DIRENT;
        Ok(block)
    }

    /// Returns the next name, if there is one.
    ///
    /// # Errors
    /// It is not in the block, or cannot be a name.
    pub(super) fn next(&mut self) -> Result<Option<Name<'_>>, ParseError> {
        let index = self.next;
        if index == self.count {
            return Ok(None);
        }
        self.next += 1;
        let start = self.name_at(index);
        let is_last = self.next == self.count;
        let end = match is_last {
            true => self.bytes.len(),
            false => self.name_at(self.next),
        };
        let Some(name) = self.bytes.get(start..end) else {
            return Err(ParseError::Directory("whose names are out of place"));
        };
        // The last name ends where the zeros begin that fill the block.
        let name = match name.iter().position(|&byte| byte == 0) {
            Some(_) if !is_last => return Err(ParseError::Name("has a NUL byte")),
            Some(end) => &name[..end],
            None => name,
        };
        if name.is_empty() {
            return Err(ParseError::Name("is empty"));
        }
        if name.len() > NAME_LIMIT {
            return Err(ParseError::Name("has more than 255 bytes"));
        }
        if name.contains(&b'/') {
            return Err(ParseError::Name("has a slash"));
        }
        let entry = &self.bytes[index * DIRENT..][..DIRENT];
        let number = entry[..8].iter().rev();
        Ok(Some(Name {
            name,
            inode: number.fold(0, |number, &byte| number << 8 | u64::from(byte)),
            kind: entry[10],
        }))
    }

    /// Where the name of an entry begins, as that says.
    fn name_at(&self, index: usize) -> usize {
        let entry = &self.bytes[index * DIRENT..][..DIRENT];
        u16::from_le_bytes([entry[8], entry[9]]).into()
    }
}
