//! A directory's bytes: blocks of entries, each block with its names behind them, sorted over all.

use rdvm_image::erofs::{BLOCK, DIRENT};

/// One name in a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Name<'a> {
    pub(crate) name: &'a [u8],
    /// The number of the inode that it leads to.
    pub(crate) inode: u64,
    /// The kind of that, as a directory tells it.
    pub(crate) kind: u8,
}

/// Returns how many of the names, by their lengths, fit into the next block, and the bytes that they take.
fn fit(lengths: impl Iterator<Item = usize>) -> (usize, usize) {
    let mut used = 0;
    let mut count = 0;
    for length in lengths {
        if used + DIRENT + length > BLOCK as usize {
            break;
        }
        used += DIRENT + length;
        count += 1;
    }
    (count, used)
}

/// Returns the size of a directory with names of these lengths, in their order.
pub(crate) fn size(lengths: &[usize]) -> u64 {
    let mut rest = lengths;
    let mut full = 0;
    loop {
        let (count, used) = fit(rest.iter().copied());
        rest = &rest[count..];
        if rest.is_empty() {
            return full * BLOCK + used as u64;
        }
        full += 1;
    }
}

/// Appends the directory's bytes to `out`; `names` are sorted and have the size of [`size`].
pub(crate) fn append(names: &[Name<'_>], out: &mut Vec<u8>) {
    let mut rest = names;
    while !rest.is_empty() {
        let (count, used) = fit(rest.iter().map(|name| name.name.len()));
        let (block, behind) = rest.split_at(count);
        let mut name_at = count * DIRENT;
        for name in block {
            out.extend(name.inode.to_le_bytes());
            out.extend((name_at as u16).to_le_bytes());
            out.extend([name.kind, 0]);
            name_at += name.name.len();
        }
        for name in block {
            out.extend(name.name);
        }
        if !behind.is_empty() {
            out.resize(out.len() + BLOCK as usize - used, 0);
        }
        rest = behind;
    }
}
