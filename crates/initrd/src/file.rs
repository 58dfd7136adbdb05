//! Trees → one initrd: each tree a cpio archive of its own, one behind the other, in memory; or one tree → a file.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::MemfdFlags;

use super::layout::{Layout, Places};
use super::write::{BLOCK, Stopped};
use super::{Epoch, Error};
use rdvm_hostfs::atomic::AtomicFile;
use rdvm_hostfs::progress::Progress;
use rdvm_hostfs::units::PAGE;
use rdvm_image::body;
use rdvm_image::tree::Tree;

/// An initrd that is planned to the byte and not yet made: who boots it says where it is to be.
#[derive(Debug, Default)]
pub struct Initrd {
    segments: Vec<Segment>,
    size: u64,
    progress: Progress,
}

/// An archive of its own in the initrd.
#[derive(Debug)]
enum Segment {
    /// A tree and where its records are to stand.
    Tree(Tree, Places),
    /// One that was made before: the first so many bytes of a file.
    Made(File, u64),
}

impl Initrd {
    /// Counts what is made.
    pub fn with_progress(self, progress: Progress) -> Self {
        Self { progress, ..self }
    }

    /// Adds a tree and its layout behind those that are there; of two entries with one path the later tree's stays.
    pub fn push(&mut self, tree: Tree, places: Places) {
        self.size += places.contents().packed_bytes;
        self.segments.push(Segment::Tree(tree, places));
    }

    /// Adds an archive that was made before: the first `size` bytes of `file`.
    pub fn push_made(&mut self, file: File, size: u64) {
        self.size += size;
        self.segments.push(Segment::Made(file, size));
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The part of it that stands in a file at the same place: the whole pages at the start of an archive that was made before.
    /// Returns the file and how many bytes that is.
    pub fn shared_part(&self) -> Option<(&File, u64)> {
        match self.segments.first() {
            Some(Segment::Made(file, size)) if *size >= PAGE => Some((file, size & !(PAGE - 1))),
            _ => None,
        }
    }

    /// Makes it in `memory`, which has its length and is all zero, without the first `skip` bytes: 0, or as many as [`Self::shared_part`] says.
    /// Ends early once `stopped` says so.
    ///
    /// # Errors
    /// A file that cannot be read or changed meanwhile, by name; [`Error::Stopped`].
    pub fn fill(
        &self,
        mut skip: u64,
        stopped: Stopped<'_>,
        mut memory: &mut [u8],
    ) -> Result<(), Error> {
        self.progress.stage("loading", Some(self.size - skip));
        let stopped = &self.counting(stopped);
        for segment in &self.segments {
            let (piece, rest) = memory.split_at_mut((segment.size() - skip) as usize);
            match segment {
                Segment::Tree(tree, places) => {
                    places.of(tree).fill(stopped, piece)?;
                    unchanged(tree)?;
                }
                Segment::Made(file, _) => read(file, skip, stopped, piece)?,
            }
            memory = rest;
            skip = 0;
        }
        Ok(())
    }

    /// Makes it as a file that no name leads to: it is gone when the last process that has it open is. Ends early once
    /// `stopped` says so.
    /// `skip` bytes at the start are left out: 0, or as many as [`Self::shared_part`] says.
    ///
    /// # Errors
    /// A file that cannot be read or changed meanwhile, by name; no memory; [`Error::Stopped`].
    pub fn to_file(&self, mut skip: u64, stopped: Stopped<'_>) -> Result<File, Error> {
        let length = self.size - skip;
        self.progress.stage("packing", Some(length));
        let stopped = &self.counting(stopped);
        let output = |source: std::io::Error| Error::Output {
            path: "memory".into(),
            source,
        };
        let file = rustix::fs::memfd_create("rdvm-initrd", MemfdFlags::CLOEXEC)
            .map_err(|e| output(e.into()))?;
        let file = File::from(file);
        file.set_len(length).map_err(output)?;
        let mut offset = 0;
        for segment in &self.segments {
            match segment {
                Segment::Tree(tree, places) => {
                    places.of(tree).write_unless(stopped, &file, offset)?;
                    unchanged(tree)?;
                }
                Segment::Made(made, size) => copy(made, skip..*size, stopped, &file, offset)?,
            }
            offset += segment.size() - skip;
            skip = 0;
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

impl Segment {
    fn size(&self) -> u64 {
        match self {
            Self::Tree(_, places) => places.contents().packed_bytes,
            Self::Made(_, size) => *size,
        }
    }
}

/// Fills `memory` from a file that was made before, from `from` on.
fn read(file: &File, from: u64, stopped: Stopped<'_>, memory: &mut [u8]) -> Result<(), Error> {
    let pieces = memory.chunks_mut(BLOCK as usize).enumerate();
    // One thread takes the even pieces, one the odd ones.
    let (even, odd): (Vec<_>, Vec<_>) = pieces.partition(|(index, _)| index % 2 == 0);
    let work = |pieces: Vec<(usize, &mut [u8])>| {
        for (index, piece) in pieces {
            if stopped() {
                return Err(Error::Stopped);
            }
            file.read_exact_at(piece, from + index as u64 * BLOCK)
                .map_err(kept)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| work(odd));
        let own = work(even);
        own.and(
            other
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        )
    })
}

/// Copies a range of a file that was made before to `out`, from `offset` on.
fn copy(
    made: &File,
    range: Range<u64>,
    stopped: Stopped<'_>,
    out: &File,
    offset: u64,
) -> Result<(), Error> {
    let mut block = vec![0; BLOCK as usize];
    let size = range.end;
    for start in range.clone().step_by(BLOCK as usize) {
        if stopped() {
            return Err(Error::Stopped);
        }
        let block = &mut block[..(size - start).min(BLOCK) as usize];
        made.read_exact_at(block, start).map_err(kept)?;
        let written = out.write_all_at(block, offset + (start - range.start));
        written.map_err(|source| Error::Write { size, source })?;
    }
    Ok(())
}

/// The error of reading a packed image that was kept.
fn kept(source: std::io::Error) -> Error {
    let shown = "a packed image in the cache".to_owned();
    body::Error::Unreadable { shown, source }.into()
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
