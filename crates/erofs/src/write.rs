//! The file system to its file, in blocks, by two threads.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rdvm_image::body::{Bodies, Piece};
use rdvm_image::tree::{Kind, Tree};
use rdvm_initrd::{BLOCK, Stopped, each_block};

use crate::{Error, Layout};

impl Layout {
    /// Writes the file system to `out`, from its start on, in no particular order.
    ///
    /// `tree` is the one that it was planned for. `out` holds nothing but zeros: holes are left out. Asks before every block
    /// whether it is to stop.
    ///
    /// # Errors
    /// A file that cannot be read or has changed, by name; no room; it was stopped. What was written is worthless then.
    pub fn write(&self, tree: &Tree, stopped: Stopped<'_>, out: &File) -> Result<(), Error> {
        let written = out.write_all_at(&self.meta, 0);
        written.map_err(|source| self.failed(source))?;
        let begin = self.meta.len() as u64;
        each_block(self.size() - begin, || {
            let mut bodies = Bodies::default();
            let mut buffer = vec![0; BLOCK as usize];
            move |start| match stopped() {
                true => Err(Error::Stopped),
                false => {
                    let start = begin + start;
                    let end = (start + BLOCK).min(self.size());
                    let mut block = Block {
                        start,
                        buffer: &mut buffer,
                        made: start..start,
                        out,
                    };
                    self.write_block(tree, &mut bodies, &mut block, end)
                }
            }
        })?;
        let changed = tree.check_unchanged();
        Ok(changed.map_err(|shown| rdvm_image::body::Error::Changed { shown })?)
    }

    /// Writes a block: its small files by one call through the buffer, each large one by one of its own.
    fn write_block<'a>(
        &self,
        tree: &'a Tree,
        bodies: &mut Bodies<'a>,
        block: &mut Block<'_>,
        end: u64,
    ) -> Result<(), Error> {
        let first = self
            .stretches
            .partition_point(|stretch| stretch.at + stretch.length <= block.start);
        for stretch in &self.stretches[first..] {
            let from = stretch.at.max(block.start);
            let to = (stretch.at + stretch.length).min(end);
            if from >= to {
                break;
            }
            let Kind::File(file) = &tree.entries()[stretch.entry].kind else {
                continue;
            };
            let offset = stretch.from + (from - stretch.at);
            if bodies.copy(&file.content, offset, to - from, block.out, from)? {
                block.flush().map_err(|source| self.failed(source))?;
            } else if bodies.read(&file.content, offset, block.piece(from..to))? == Piece::Bytes {
                block.add(from..to);
            }
        }
        block.flush().map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Write {
            size: self.size(),
            source,
        }
    }
}

/// A block on its way to the file.
struct Block<'a> {
    start: u64,
    buffer: &'a mut [u8],
    /// The part that is in the buffer and not yet in the file.
    made: Range<u64>,
    out: &'a File,
}

impl Block<'_> {
    /// The place of a part in the buffer.
    fn piece(&mut self, part: Range<u64>) -> &mut [u8] {
        &mut self.buffer[(part.start - self.start) as usize..(part.end - self.start) as usize]
    }

    /// Adds a part that was read to its place; what is between it and the last one is zero.
    fn add(&mut self, part: Range<u64>) {
        match self.made.is_empty() {
            true => self.made = part,
            false => {
                self.piece(self.made.end..part.start).fill(0);
                self.made.end = part.end;
            }
        }
    }

    /// Writes what is in the buffer.
    fn flush(&mut self) -> io::Result<()> {
        let made = std::mem::take(&mut self.made);
        let (out, at) = (self.out, made.start);
        match made.is_empty() {
            true => Ok(()),
            false => out.write_all_at(self.piece(made), at),
        }
    }
}
