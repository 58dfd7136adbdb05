//! Trees → one initrd file: each tree a cpio archive of its own, one behind the other, in memory.

use std::fs::File;
use std::path::Path;

use rustix::fs::MemfdFlags;

use super::{Epoch, Error, layout::Layout};
use crate::atomic::Draft;
use crate::image::tree::Tree;

/// An initrd that no name leads to: it is gone when the last process that has it open is.
#[derive(Debug)]
pub struct Initrd {
    /// The archives, from the first byte on.
    pub file: File,
    /// Length in bytes.
    pub size: u64,
}

impl Initrd {
    /// Packs the trees in their order; of two entries with one path the later tree's stays.
    ///
    /// Errors: a file that cannot be read or changed meanwhile, by name; no memory.
    pub fn pack(trees: &[&Tree], epoch: Epoch) -> Result<Self, Error> {
        let layouts: Vec<_> = trees
            .iter()
            .map(|tree| Layout::of(tree, epoch))
            .collect::<Result<_, _>>()?;
        let output = |source: std::io::Error| Error::Output {
            path: "memory".into(),
            source,
        };
        let file = rustix::fs::memfd_create("rdvm-initrd", MemfdFlags::CLOEXEC)
            .map_err(|e| output(e.into()))?;
        let file = File::from(file);
        let size = layouts.iter().map(|layout| layout.packed_size()).sum();
        file.set_len(size).map_err(output)?;
        let mut offset = 0;
        for layout in &layouts {
            layout.write(&file, offset)?;
            offset += layout.packed_size();
        }
        Ok(Self { file, size })
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
        return layout.stream(&mut std::io::stdout().lock());
    }
    let draft = Draft::beside(target).map_err(output)?;
    if !draft.is_seekable() {
        return layout.stream(&mut draft.file());
    }
    draft.file().set_len(layout.packed_size()).map_err(output)?;
    layout.write(draft.file(), 0)?;
    draft.put_in_place().map_err(output)
}
