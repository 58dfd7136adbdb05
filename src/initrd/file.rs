//! Trees → one initrd: each tree a cpio archive of its own, one behind the other, in memory; or one tree → a file.

use std::fs::File;
use std::path::Path;

use rustix::fs::MemfdFlags;

use super::layout::{Layout, Places};
use super::{Epoch, Error};
use crate::atomic::Draft;
use crate::image::tree::Tree;

/// An initrd that is planned to the byte and not yet made: who boots it says where it is to be.
#[derive(Debug, Default)]
pub struct Initrd {
    segments: Vec<(Tree, Places)>,
    size: u64,
}

impl Initrd {
    /// Adds a tree and its layout behind those that are there; of two entries with one path the later tree's stays.
    pub fn push(&mut self, tree: Tree, places: Places) {
        self.size += places.contents().packed_bytes;
        self.segments.push((tree, places));
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes it in `memory`, which has its length and is all zero.
    ///
    /// Errors: a file that cannot be read or changed meanwhile, by name.
    pub fn fill(&self, mut memory: &mut [u8]) -> Result<(), Error> {
        for (tree, places) in &self.segments {
            let (segment, rest) = memory.split_at_mut(places.contents().packed_bytes as usize);
            places.of(tree).fill(segment)?;
            unchanged(tree)?;
            memory = rest;
        }
        Ok(())
    }

    /// Makes it as a file that no name leads to: it is gone when the last process that has it open is.
    ///
    /// Errors: a file that cannot be read or changed meanwhile, by name; no memory.
    pub fn to_file(&self) -> Result<File, Error> {
        let output = |source: std::io::Error| Error::Output {
            path: "memory".into(),
            source,
        };
        let file = rustix::fs::memfd_create("rdvm-initrd", MemfdFlags::CLOEXEC)
            .map_err(|e| output(e.into()))?;
        let file = File::from(file);
        file.set_len(self.size).map_err(output)?;
        let mut offset = 0;
        for (tree, places) in &self.segments {
            places.of(tree).write(&file, offset)?;
            unchanged(tree)?;
            offset += places.contents().packed_bytes;
        }
        Ok(file)
    }
}

/// Writes a tree as one cpio archive to `target`; `-` is standard output.
///
/// Errors: those of packing and of the file system; nothing is left at `target` then, and what was there stays.
pub fn write_archive(tree: &Tree, epoch: Epoch, target: &Path) -> Result<(), Error> {
    let layout = Layout::of(tree, epoch)?;
    let output = |source| Error::Output {
        path: target.to_owned(),
        source,
    };
    if target == Path::new("-") {
        layout.stream(&mut std::io::stdout().lock())?;
        return unchanged(tree);
    }
    let draft = Draft::beside(target).map_err(output)?;
    if !draft.is_seekable() {
        layout.stream(&mut draft.file())?;
        return unchanged(tree);
    }
    draft.file().set_len(layout.packed_size()).map_err(output)?;
    layout.write(draft.file(), 0)?;
    unchanged(tree)?;
    draft.put_in_place().map_err(output)
}

/// Whether the archives that were read are what they were when the tree was made.
pub(crate) fn unchanged(tree: &Tree) -> Result<(), Error> {
    tree.check_unchanged()
        .map_err(|shown| Error::Changed { shown })
}
