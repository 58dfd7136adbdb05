//! An EROFS file → members, each directory before what is in it, names in their order.
//!
//! Reads inodes, directories, maps and attributes, and no contents: those stay where they are. Strict: places, sizes, names
//! and their order are checked, and a directory has one name, so that every file system ends. What is kept in memory counts
//! against the budget, since a small file can have many inodes whose attributes and maps are the same bytes.

use std::collections::HashSet;

use super::content::{self, Stretch};
use super::directory::DirectoryBlock;
use super::error::{Error, Fault, ParseError};
use super::inode::{self, Inode};
use super::super_block::SuperBlock;
use super::{BLOCK, CHUNKS, attributes};
use crate::buffered_region::BufferedRegion;
use crate::byte_source::{Region, Span};
use crate::limit::{Budget, Counter};
use crate::member::{EntryKind, Extent, FileContent, Member};
use crate::tree::PATH_LIMIT;

/// Reads all of a file system, and hands over each member. All names of one file have the same number.
///
/// # Errors
/// They name the file, the entry and the offset; those of `each` come through.
pub(crate) fn read<E: From<Error>>(
    region: &Region,
    entries: &Counter,
    budget: &Budget,
    each: &mut dyn FnMut(Member) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = ErofsReader {
        region,
        super_block: SuperBlock::read(region)?,
        window: BufferedRegion::new(region),
        shared: BufferedRegion::new(region),
        budget,
        seen: HashSet::new(),
        path: Vec::new(),
    };
    let root = reader.super_block.root;
    let (at, inode) = reader.inode(root, 0)?;
    if inode.mode & TYPE != DIRECTORY {
        return Err(reader.flawed(at)(ParseError::Root).into());
    }
    let member = reader.member(at, root, &inode)?;
    each(member)?;
    let mut above = vec![reader.directory(root, root, at, &inode)?];
    while let Some(directory) = above.last_mut() {
        let Some((number, kind)) = reader.next(directory)? else {
            above.pop();
            continue;
        };
        let parent = directory.number;
        entries
            .count(&reader.path, region.store.shown())
            .map_err(Error::from)?;
        reader.spend(reader.path.len() as u64)?;
        let (at, inode) = reader.inode(number, kind)?;
        let member = reader.member(at, number, &inode)?;
        each(member)?;
        if inode.mode & TYPE == DIRECTORY {
            above.push(reader.directory(number, parent, at, &inode)?);
        }
    }
    Ok(())
}

const TYPE: u16 = 0o170_000;
const DIRECTORY: u16 = 0o040_000;

/// Reads one file system.
struct ErofsReader<'a> {
    region: &'a Region,
    super_block: SuperBlock,
    /// For inodes, what stands behind them, and directories.
    window: BufferedRegion<'a>,
    /// For attributes that inodes share.
    shared: BufferedRegion<'a>,
    budget: &'a Budget,
    /// The numbers of the directories so far.
    seen: HashSet<u64>,
    /// The path of the entry that is being read.
    path: Vec<u8>,
}

/// A directory that is being read.
struct Directory {
    number: u64,
    parent: u64,
    /// Where its inode stands.
    at: u64,
    size: u64,
    stretches: [Stretch; 2],
    /// Length of its path.
    path: usize,
    /// Where the next block is in its contents.
    next: u64,
    block: DirectoryBlock,
    /// The name before.
    last: Vec<u8>,
    /// The number of its names for itself and its parent that were met.
    dots: u8,
}

impl ErofsReader<'_> {
    /// The inode of the entry whose path this is, and its place. `kind` is its type as its directory tells it.
    fn inode(&mut self, number: u64, kind: u8) -> Result<(u64, Inode), Error> {
        let at = inode::place(&self.super_block, number).unwrap_or(u64::MAX);
        let inode = Inode::read(&mut self.window, &self.super_block, at);
        let inode = inode.map_err(self.flawed(at))?;
        if kind != 0 && type_of(inode.mode) != Some(kind) {
            return Err(self.flawed(at)(ParseError::OtherType(kind)));
        }
        Ok((at, inode))
    }

    fn member(&mut self, at: u64, number: u64, inode: &Inode) -> Result<Member, Error> {
        let (major, minor) = inode.device();
        let what = match inode.mode & TYPE {
            DIRECTORY => EntryKind::Directory,
            0o100_000 => self.file(at, number, inode)?,
            0o120_000 => EntryKind::Symlink(self.target(at, inode)?),
            0o020_000 => EntryKind::CharDevice { major, minor },
            0o060_000 => EntryKind::BlockDevice { major, minor },
            0o010_000 => EntryKind::Fifo,
            0o140_000 => EntryKind::Socket,
            other => return Err(self.flawed(at)(ParseError::Type(other))),
        };
        let (budget, shown) = (self.budget, self.region.store.shown());
        let xattrs = attributes::read(
            inode,
            &self.super_block,
            &mut self.window,
            &mut self.shared,
            &mut |bytes| budget.spend(bytes, shown),
        );
        Ok(Member {
            // The root is a name as well.
            name: match &*self.path {
                [] => b".".to_vec(),
                path => path.to_vec(),
            },
            mode: inode.mode & 0o7777,
            uid: inode.uid,
            gid: inode.gid,
            mtime: inode.mtime,
            xattrs: xattrs.map_err(self.flawed(at))?,
            what,
        })
    }

    fn file(&mut self, at: u64, number: u64, inode: &Inode) -> Result<EntryKind, Error> {
        let end = self.region.length;
        let size = inode.size;
        if i64::try_from(size).is_err() {
            let (what, bytes) = ("file", size);
            return Err(self.flawed(at)(ParseError::Size { what, bytes }));
        }
        let stretches = if inode.layout == CHUNKS {
            let (budget, shown) = (self.budget, self.region.store.shown());
            let spend = &mut |bytes| budget.spend(bytes, shown);
            let chunks = content::chunks(inode, &mut self.window, end, spend);
            chunks.map_err(self.flawed(at))?
        } else {
            let flat = content::flat(inode, end).map_err(self.flawed(at))?;
            flat.into_iter().filter(|part| part.length > 0).collect()
        };
        let span = |offset: u64| Span {
            store: self.region.store.clone(),
            offset: self.region.offset + offset,
        };
        let content = match &*stretches {
            [all] if all.length == size => FileContent::Span(span(all.offset)),
            parts => {
                let extents = parts.iter().map(|part| Extent {
                    at: part.at,
                    length: part.length,
                    bytes: span(part.offset),
                });
                FileContent::Sparse(extents.collect())
            }
        };
        Ok(EntryKind::File {
            size,
            content,
            // Places are less than the file's length, and so is this.
            link: number + 1,
        })
    }

    fn target(&mut self, at: u64, inode: &Inode) -> Result<Vec<u8>, Error> {
        let (what, bytes) = ("symbolic link", inode.size);
        if bytes == 0 || bytes > PATH_LIMIT as u64 {
            return Err(self.flawed(at)(ParseError::Size { what, bytes }));
        }
        let stretches = self.flat(at, inode, what)?;
        let target = self.bytes(&stretches, 0, bytes as usize)?;
        self.spend(bytes)?;
        match target.contains(&0) {
            true => Err(self.flawed(at)(ParseError::Target)),
            false => Ok(target),
        }
    }

    /// Begins to read a directory.
    fn directory(
        &mut self,
        number: u64,
        parent: u64,
        at: u64,
        inode: &Inode,
    ) -> Result<Directory, Error> {
        if !self.seen.insert(number) {
            return Err(self.flawed(at)(ParseError::Twice));
        }
        Ok(Directory {
            number,
            parent,
            at,
            size: inode.size,
            stretches: self.flat(at, inode, "directory")?,
            path: self.path.len(),
            next: 0,
            block: DirectoryBlock::default(),
            last: Vec::new(),
            dots: 0,
        })
    }

    /// Puts the next entry's name into the path, and returns its inode's number and its type.
    fn next(&mut self, directory: &mut Directory) -> Result<Option<(u64, u8)>, Error> {
        loop {
            self.path.truncate(directory.path);
            let at = directory.at;
            let next = directory.block.next();
            let Some(name) = next.map_err(self.flawed(at))? else {
                if directory.next >= directory.size {
                    return match directory.dots {
                        2 => Ok(None),
                        _ => Err(self.flawed(at)(ParseError::Directory("without . or .."))),
                    };
                }
                let length = BLOCK.min(directory.size - directory.next);
                let bytes = self.bytes(&directory.stretches, directory.next, length as usize)?;
                directory.next += length;
                directory.block = DirectoryBlock::new(bytes).map_err(self.flawed(at))?;
                continue;
            };
            if name.name <= &*directory.last {
                return Err(self.flawed(at)(ParseError::Directory(
                    "whose names are not in order",
                )));
            }
            name.name.clone_into(&mut directory.last);
            let itself = match name.name {
                b"." => directory.number,
                b".." => directory.parent,
                name_of => {
                    if !self.path.is_empty() {
                        self.path.push(b'/');
                    }
                    self.path.extend(name_of);
                    return match self.path.len() {
                        ..=PATH_LIMIT => Ok(Some((name.inode, name.kind))),
                        bytes => Err(self.flawed(at)(ParseError::Path(bytes))),
                    };
                }
            };
            if name.inode != itself {
                return Err(self.flawed(at)(ParseError::Directory(
                    "whose . or .. leads elsewhere",
                )));
            }
            directory.dots += 1;
        }
    }

    fn flat(&self, at: u64, inode: &Inode, what: &'static str) -> Result<[Stretch; 2], Error> {
        match inode.layout {
            CHUNKS => Err(self.flawed(at)(ParseError::Chunks(what))),
            _ => content::flat(inode, self.region.length).map_err(self.flawed(at)),
        }
    }

    /// Bytes of a directory or a link, no more than a block and of one stretch unless they are all.
    fn bytes(
        &mut self,
        stretches: &[Stretch; 2],
        from: u64,
        length: usize,
    ) -> Result<Vec<u8>, Error> {
        let stretch = match from >= stretches[0].length {
            true => &stretches[1],
            false => &stretches[0],
        };
        let at = stretch.offset + (from - stretch.at);
        let bytes = match self.window.get(at, length) {
            Ok(Some(bytes)) => Ok(bytes.to_vec()),
            Ok(None) => Err(Fault::Flaw(ParseError::Outside("a part of its contents"))),
            Err(errno) => Err(Fault::Read(errno)),
        };
        bytes.map_err(self.flawed(at))
    }

    fn spend(&self, bytes: u64) -> Result<(), Error> {
        Ok(self.budget.spend(bytes, self.region.store.shown())?)
    }

    /// The error for the entry whose path this is.
    fn flawed<F: Into<Fault>>(&self, at: u64) -> impl Fn(F) -> Error {
        move |fault| fault.into().of(self.region, &self.path, at)
    }
}

/// Returns the type of an entry as a directory tells it.
fn type_of(mode: u16) -> Option<u8> {
    Some(match mode & TYPE {
        0o100_000 => 1,
        DIRECTORY => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        0o140_000 => 6,
        0o120_000 => 7,
        _ => return None,
    })
}
