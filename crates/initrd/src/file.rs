//! Trees → one initrd: each tree a cpio archive of its own, one behind the other, in memory; or one tree → a file.

use std::fs::File;
use std::path::Path;

use rustix::fs::MemfdFlags;

use super::layout::{Layout, Places};
use super::write::{BLOCK, Stopped};
use super::{Epoch, Error};
use rdvm_hostfs::atomic::AtomicFile;
use rdvm_hostfs::progress::Progress;
use rdvm_image::body;
use rdvm_image::tree::Tree;

/// An initrd that is planned to the byte and not yet made: who boots it says where it is to be.
#[derive(Debug, Default)]
pub struct Initrd {
    /// Each tree and where its records are to stand.
    segments: Vec<(Tree, Places)>,
    size: u64,
    progress: Progress,
}

impl Initrd {
    /// Counts what is made.
    pub fn with_progress(self, progress: Progress) -> Self {
        Self { progress, ..self }
    }

    /// Adds a tree and its layout behind those that are there; of two entries with one path the later tree's stays.
    pub fn push(&mut self, tree: Tree, places: Places) {
        self.size += places.contents().packed_bytes;
        self.segments.push((tree, places));
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes it in `memory`, which has its length and is all zero; ends early once `stopped` says so.
    ///
    /// # Errors
    /// A file that cannot be read or changed meanwhile, by name; [`Error::Stopped`].
    pub fn fill(&self, stopped: Stopped<'_>, mut memory: &mut [u8]) -> Result<(), Error> {
        self.progress.stage("loading", Some(self.size));
        let stopped = &self.counting(stopped);
        for (tree, places) in &self.segments {
            let (piece, rest) = memory.split_at_mut(places.contents().packed_bytes as usize);
            places.of(tree).fill(stopped, piece)?;
            unchanged(tree)?;
            memory = rest;
        }
        Ok(())
    }

    /// Makes it as a file that no name leads to: it is gone when the last process that has it open is. Ends early once
    /// `stopped` says so.
    ///
    /// # Errors
    /// A file that cannot be read or changed meanwhile, by name; no memory; [`Error::Stopped`].
    pub fn to_file(&self, stopped: Stopped<'_>) -> Result<File, Error> {
        self.progress.stage("packing", Some(self.size));
        let stopped = &self.counting(stopped);
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
            places.of(tree).write_unless(stopped, &file, offset)?;
            unchanged(tree)?;
            offset += places.contents().packed_bytes;
        }
        Ok(file)
    }

    /// Counts a block each time that its maker asks whether to stop.
    fn counting<'a>(&'a self, stopped: Stopped<'a>) -> impl Fn() -> bool + Sync + 'a {
        move || {
            self.progress.add(BLOCK);
            stopped()
        }
    }
}

/// Writes a tree as one cpio archive to `target`; `-` is standard output.
///
/// # Errors
/// Those of packing and of the file system; nothing is left at `target` then, and what was there stays.
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
    let draft = AtomicFile::beside(target).map_err(output)?;
    if !draft.is_seekable() {
        layout.stream(&mut draft.file())?;
        return unchanged(tree);
    }
    draft.file().set_len(layout.packed_size()).map_err(output)?;
    layout.write(draft.file(), 0)?;
    unchanged(tree)?;
    draft.put_in_place().map_err(output)
}

/// True if the archives that were read are what they were when the tree was made.
pub fn unchanged(tree: &Tree) -> Result<(), Error> {
    tree.check_unchanged()
        .map_err(|shown| body::Error::Changed { shown }.into())
}
