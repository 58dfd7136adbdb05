//! The file system to its file, in blocks, by two threads.

use std::fs::File;
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
        let failed = |source| Error::Write {
            size: self.size(),
            source,
        };
        out.write_all_at(&self.meta, 0).map_err(failed)?;
        let begin = self.meta.len() as u64;
        each_block(self.size() - begin, || {
            let mut bodies = Bodies::default();
            let mut buffer = vec![0; BLOCK as usize];
            move |start| match stopped() {
                true => Err(Error::Stopped),
                false => {
                    let start = begin + start;
                    let end = (start + BLOCK).min(self.size());
                    let buffer = &mut buffer[..(end - start) as usize];
                    match self.make(tree, &mut bodies, start, buffer)? {
                        Piece::Hole => Ok(()),
                        Piece::Bytes => out.write_all_at(buffer, start).map_err(failed),
                    }
                }
            }
        })?;
        let changed = tree.check_unchanged();
        Ok(changed.map_err(|shown| rdvm_image::body::Error::Changed { shown })?)
    }

    /// Makes the block from `start` on in `buffer`, which has its length.
    fn make<'a>(
        &self,
        tree: &'a Tree,
        bodies: &mut Bodies<'a>,
        start: u64,
        buffer: &mut [u8],
    ) -> Result<Piece, Error> {
        let end = start + buffer.len() as u64;
        let first = self
            .stretches
            .partition_point(|stretch| stretch.at + stretch.length <= start);
        let mut made = Piece::Hole;
        let mut done = 0;
        for stretch in &self.stretches[first..] {
            let (from, to) = (
                stretch.at.max(start),
                (stretch.at + stretch.length).min(end),
            );
            if from >= to {
                break;
            }
            let Kind::File(file) = &tree.entries()[stretch.entry].kind else {
                continue;
            };
            let (first, last) = ((from - start) as usize, (to - start) as usize);
            buffer[done..first].fill(0);
            done = last;
            let piece = &mut buffer[first..last];
            let offset = stretch.from + (from - stretch.at);
            match bodies.read(&file.content, offset, piece)? {
                Piece::Bytes => made = Piece::Bytes,
                Piece::Hole => piece.fill(0),
            }
        }
        buffer[done..].fill(0);
        Ok(made)
    }
}
