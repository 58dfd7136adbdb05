//! Where everything stands, and the bytes of all but the files' contents.
//!
//! First the super block and the inodes, in the order of the tree, each with its extended attributes, its directory or link
//! target if that fits beside it, and its map if it has holes; then the larger directories; then the files. Asks files for
//! their holes and reads no contents.

use std::collections::HashMap;
use std::ops::Range;

use rdvm_hostfs::path::split;
use rdvm_image::body::Bodies;
use rdvm_image::erofs::{
    BLOCK, CHUNKS, COMPAT_MTIME, HOLE, INCOMPAT_CHUNKS, INLINE, INODE, MAGIC, PLAIN, SLOT, SUPER,
    SUPER_AT,
};
use rdvm_image::tree::{Entry, FileBody, Kind, LinkId, Tree};
use rdvm_initrd::Epoch;

use crate::directory::{self, Name};
use crate::inode::{Inode, device, type_of};
use crate::{Error, attributes};

/// The most chunks of a file with holes: their addresses take a page in a thousand of the guest's memory at most.
const CHUNKS_MAX: u64 = 1 << 16;

/// A file system that is planned to the byte.
#[derive(Debug)]
pub struct Layout {
    /// The bytes before the files' contents.
    pub(crate) meta: Vec<u8>,
    /// The files' contents, by where they stand.
    pub(crate) stretches: Vec<Stretch>,
    size: u64,
    inodes: u64,
}

/// A part of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    /// Where it stands; the start of a block.
    pub(crate) at: u64,
    pub(crate) length: u64,
    /// Where it is in the file.
    pub(crate) from: u64,
    /// The file's entry in the tree.
    pub(crate) entry: usize,
}

impl Layout {
    /// Plans the file system of a tree.
    ///
    /// # Errors
    /// An attribute without a place in the format; more than 16 TiB; a file that cannot be asked for its holes.
    pub fn of(tree: &Tree, epoch: Epoch) -> Result<Self, Error> {
        Planner::new(tree.entries())?.plan(epoch)
    }

    /// Length in bytes, a multiple of a block.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes that are written; the rest are holes.
    pub fn bytes(&self) -> u64 {
        let contents = self.stretches.iter().map(|stretch| stretch.length);
        self.meta.len() as u64 + contents.sum::<u64>()
    }

    /// Number of inodes.
    pub fn inodes(&self) -> u64 {
        self.inodes
    }
}

/// A tree on the way to its layout.
struct Planner<'a> {
    entries: &'a [Entry],
    /// The inode of each entry. The root's is the first.
    of: Vec<usize>,
    inodes: Vec<Inode>,
    /// The entry whose kind and attributes an inode has; none for a root that the tree has not.
    entry: Vec<Option<usize>>,
    /// For each directory's inode its names, and the inode above it.
    directories: HashMap<usize, (usize, Vec<usize>)>,
}

impl<'a> Planner<'a> {
    /// Numbers the inodes and sorts names into directories.
    fn new(entries: &'a [Entry]) -> Result<Self, Error> {
        let own_root = entries.first().is_some_and(|entry| entry.path.is_empty());
        let mut planner = Self {
            entries,
            of: Vec::with_capacity(entries.len()),
            inodes: vec![Inode::default()],
            entry: vec![own_root.then_some(0)],
            directories: HashMap::from([(0, (0, Vec::new()))]),
        };
        let mut links: HashMap<LinkId, usize> = HashMap::new();
        let mut above: Vec<(&[u8], usize)> = vec![(b"", 0)];
        for (index, entry) in entries.iter().enumerate() {
            if entry.path.is_empty() {
                planner.of.push(0);
                continue;
            }
            let (parent, _) = split(&entry.path);
            while above.last().is_some_and(|(path, _)| *path != parent) {
                above.pop();
            }
            let directory = above.last().map_or(0, |(_, inode)| *inode);
            let new = planner.inodes.len();
            let inode = match &entry.kind {
                Kind::File(FileBody {
                    link: Some(link), ..
                }) => *links.entry(*link).or_insert(new),
                _ => new,
            };
            if inode == new {
                planner.inodes.push(Inode::default());
                planner.entry.push(Some(index));
            }
            planner.inodes[inode].links += 1;
            if entry.kind == Kind::Directory {
                planner.directories.insert(inode, (directory, Vec::new()));
                above.push((&entry.path, inode));
                // Its own name for itself; its parent's is counted with that.
                planner.inodes[inode].links += 1;
                planner.inodes[directory].links += 1;
            }
            planner.of.push(inode);
            if let Some((_, names)) = planner.directories.get_mut(&directory) {
                names.push(index);
            }
        }
        planner.inodes[0].links += 2;
        Ok(planner)
    }

    fn plan(mut self, epoch: Epoch) -> Result<Layout, Error> {
        let mut at = SUPER_AT + SUPER as u64;
        let mut large = Vec::new();
        let mut files = Vec::new();
        for inode in 0..self.inodes.len() {
            let attributes = attributes::bytes(self.entry_of(inode))?;
            self.inodes[inode].xattrs = attributes.len() as u64;
            let fixed = INODE + attributes.len() as u64;
            let mut length = fixed;
            match self.kind(inode) {
                Kind::Directory => {
                    let lengths: Vec<usize> = self
                        .names(inode)
                        .iter()
                        .map(|name| name.name.len())
                        .collect();
                    let size = directory::size(&lengths);
                    self.inodes[inode].size = size;
                    match fixed + size <= BLOCK {
                        true => {
                            self.inodes[inode].form = INLINE;
                            length += size;
                        }
                        false => large.push(inode),
                    }
                }
                Kind::Symlink(target) => {
                    self.inodes[inode].size = target.len() as u64;
                    match fixed + target.len() as u64 <= BLOCK {
                        true => {
                            self.inodes[inode].form = INLINE;
                            length += target.len() as u64;
                        }
                        false => large.push(inode),
                    }
                }
                Kind::File(file) => {
                    let data = Bodies::default().data(&file.content, file.size)?;
                    self.inodes[inode].size = file.size;
                    length += 4 * self.map(inode, &data);
                    files.push((inode, data));
                }
                Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                    self.inodes[inode].union = device(*major, *minor);
                }
                Kind::Fifo | Kind::Socket => {}
            }
            // What is inline lies in one block with its inode.
            let is_inline = self.inodes[inode].form == INLINE;
            if is_inline && at / BLOCK != (at + length - 1) / BLOCK {
                at = at.next_multiple_of(BLOCK);
            }
            self.inodes[inode].at = at;
            at = (at + length).next_multiple_of(SLOT);
        }
        let mut block = at.div_ceil(BLOCK);
        for &inode in &large {
            self.inodes[inode].union = number(block)?;
            block += self.inodes[inode].size.div_ceil(BLOCK);
        }
        let meta_end = block * BLOCK;
        let stretches = self.place(files, &mut block)?;
        let size = block * BLOCK;
        number(block)?;
        let mut layout = Layout {
            meta: Vec::with_capacity(meta_end as usize),
            stretches,
            size,
            inodes: self.inodes.len() as u64,
        };
        self.write(
            &layout.super_block(self.inodes[0].at),
            epoch,
            &mut layout.meta,
        )?;
        for &inode in &large {
            layout
                .meta
                .resize(self.inodes[inode].union as usize * BLOCK as usize, 0);
            self.append_body(inode, &mut layout.meta);
        }
        layout.meta.resize(meta_end as usize, 0);
        Ok(layout)
    }

    /// Decides how a file's bytes are told, and returns the number of addresses that takes.
    fn map(&mut self, inode: usize, data: &[Range<u64>]) -> u64 {
        let file = &mut self.inodes[inode];
        let held: u64 = data.iter().map(|part| part.end - part.start).sum();
        if held + BLOCK > file.size {
            return 0;
        }
        let chunk = file
            .size
            .div_ceil(CHUNKS_MAX)
            .next_power_of_two()
            .max(BLOCK);
        file.form = CHUNKS;
        file.union = chunk.trailing_zeros() - BLOCK.trailing_zeros();
        file.map = vec![HOLE; file.size.div_ceil(chunk) as usize];
        file.map.len() as u64
    }

    /// Gives each file its blocks, from `block` on.
    fn place(
        &mut self,
        files: Vec<(usize, Vec<Range<u64>>)>,
        block: &mut u64,
    ) -> Result<Vec<Stretch>, Error> {
        let mut stretches: Vec<Stretch> = Vec::with_capacity(files.len());
        for (inode, data) in files {
            let Some(entry) = self.entry[inode] else {
                continue;
            };
            let file = &mut self.inodes[inode];
            let size = file.size;
            if file.form == PLAIN {
                if size > 0 {
                    file.union = number(*block)?;
                    let at = *block * BLOCK;
                    stretches.push(Stretch {
                        at,
                        length: size,
                        from: 0,
                        entry,
                    });
                    *block += size.div_ceil(BLOCK);
                }
                continue;
            }
            let chunk = BLOCK << file.union;
            for part in data {
                for index in part.start / chunk..part.end.div_ceil(chunk) {
                    let slot = &mut file.map[index as usize];
                    if *slot != HOLE {
                        continue;
                    }
                    *slot = number(*block)?;
                    let from = index * chunk;
                    let length = chunk.min(size - from);
                    let at = *block * BLOCK;
                    *block += length.div_ceil(BLOCK);
                    match stretches.last_mut() {
                        Some(last)
                            if last.entry == entry
                                && last.from + last.length == from
                                && last.at + last.length == at =>
                        {
                            last.length += length;
                        }
                        _ => stretches.push(Stretch {
                            at,
                            length,
                            from,
                            entry,
                        }),
                    }
                }
            }
        }
        Ok(stretches)
    }

    /// The entry of an inode; none for a root that the tree has not.
    fn entry_of(&self, inode: usize) -> Option<&'a Entry> {
        self.entry[inode].map(|entry| &self.entries[entry])
    }

    fn kind(&self, inode: usize) -> &'a Kind {
        self.entry_of(inode)
            .map_or(&Kind::Directory, |entry| &entry.kind)
    }

    fn number_of(&self, inode: usize) -> u64 {
        self.inodes[inode].at / SLOT
    }

    /// A directory's names, sorted, with those of itself and of its parent.
    fn names(&self, inode: usize) -> Vec<Name<'a>> {
        let Some((parent, entries)) = self.directories.get(&inode) else {
            return Vec::new();
        };
        let kind = type_of(&Kind::Directory);
        let name = |name, inode| Name {
            name,
            inode: self.number_of(inode),
            kind,
        };
        let mut names = vec![name(&b"."[..], inode), name(b"..", *parent)];
        names.extend(entries.iter().map(|&index| {
            let entry = &self.entries[index];
            Name {
                name: split(&entry.path).1,
                inode: self.number_of(self.of[index]),
                kind: type_of(&entry.kind),
            }
        }));
        names.sort_unstable_by_key(|name| name.name);
        names
    }

    /// Appends the super block and every inode with what follows it.
    fn write(
        &self,
        super_block: &[u8; SUPER],
        epoch: Epoch,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        out.resize(SUPER_AT as usize, 0);
        out.extend(super_block);
        for (index, inode) in self.inodes.iter().enumerate() {
            out.resize(inode.at as usize, 0);
            let entry = self.entry_of(index);
            inode.append(index as u32 + 1, entry, epoch, out);
            out.extend(attributes::bytes(entry)?);
            if inode.form == INLINE {
                self.append_body(index, out);
            }
            out.extend(inode.map.iter().flat_map(|block| block.to_le_bytes()));
        }
        Ok(())
    }

    /// Appends a directory's or a link's bytes.
    fn append_body(&self, inode: usize, out: &mut Vec<u8>) {
        match self.kind(inode) {
            Kind::Symlink(target) => out.extend(target),
            _ => directory::append(&self.names(inode), out),
        }
    }
}

impl Layout {
    fn super_block(&self, root_at: u64) -> [u8; SUPER] {
        let mut block = [0; SUPER];
        let mut set = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        set(0, &MAGIC.to_le_bytes());
        set(8, &COMPAT_MTIME.to_le_bytes());
        set(12, &[BLOCK.trailing_zeros() as u8]);
        set(14, &((root_at / SLOT) as u16).to_le_bytes());
        set(16, &self.inodes.to_le_bytes());
        set(36, &((self.size / BLOCK) as u32).to_le_bytes());
        set(80, &INCOMPAT_CHUNKS.to_le_bytes());
        block
    }
}

/// A block's number, which has 32 bits; the last one means a hole.
fn number(block: u64) -> Result<u32, Error> {
    let number = u32::try_from(block).ok().filter(|number| *number != HOLE);
    number.ok_or(Error::TooLarge)
}
