//! The in-memory file system: members applied one by one, as `tar -xp` in a chroot would, give a [`Tree`].
//!
//! Takes archives' members and whole trees in layers, with the whiteouts of the OCI image specification where asked.
//! Reads no contents and touches nothing on the host. Names and inodes are kept apart (`names.rs`).

mod error;
mod names;
mod walk;
mod whiteout;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::{HashMap, HashSet};

pub(crate) use error::Error;

use super::member::{EntryKind, FileContent, Member};
use super::tree::{
    self, Content, Entry, FileBody, Kind, LinkId, NAME_LIMIT, PATH_LIMIT, Tree, Xattrs,
};
use super::xattr;
use names::{Inode, Names, Node, ROOT};
use whiteout::RESERVED;

/// The meaning of names in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rules {
    /// GNU tar's: every name is what it says.
    Tar,
    /// The OCI image specification's: `.wh.` names hide what lower layers have.
    Layer,
}

/// Everything but the name.
#[derive(Debug, Clone)]
struct Metadata {
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: i64,
    xattrs: Xattrs,
    kind: Kind,
}

impl Metadata {
    /// Of a directory that no member made.
    fn implied() -> Self {
        Self {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: None,
            kind: Kind::Directory,
        }
    }
}

/// A file system under construction.
#[derive(Debug)]
pub(crate) struct FileSystem {
    names: Names,
    inodes: Vec<Metadata>,
    /// The most names besides the root, and the most inodes.
    limit: u64,
    rules: Rules,
    layer: u32,
    /// The inodes of the layer's own link numbers.
    links: HashMap<u64, Inode>,
    /// Names that only this layer sees: those that aufs kept for itself.
    hidden: Vec<Node>,
    /// Directories in which this layer has nothing left to hide.
    cleared: HashSet<Node>,
    /// Bytes of links' targets that were followed so far.
    followed: Cell<u64>,
    /// Warnings about how members were read.
    pub(super) warnings: Vec<tree::Warning>,
}

impl FileSystem {
    /// An empty root directory, and room for `limit` names, counting directories that no member made and names that
    /// are replaced later. Names are taken as [`Rules::Tar`] does until [`Self::begin_layer`].
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            names: Names::new(0),
            inodes: vec![Metadata::implied()],
            limit,
            rules: Rules::Tar,
            layer: 0,
            links: HashMap::new(),
            hidden: Vec::new(),
            cleared: HashSet::new(),
            followed: Cell::new(0),
            warnings: Vec::new(),
        }
    }

    /// Begins a new layer on top.
    pub(crate) fn begin_layer(&mut self, rules: Rules) {
        self.end_layer();
        self.rules = rules;
        self.layer += 1;
    }

    fn end_layer(&mut self) {
        self.links.clear();
        self.cleared.clear();
        for node in std::mem::take(&mut self.hidden) {
            if self.names.is_there(node) {
                self.names.remove(node);
            }
        }
    }

    /// Applies one member.
    ///
    /// Errors name the member as the archive has it; the file system is of no use after one.
    pub(crate) fn put(&mut self, member: Member) -> Result<(), Error> {
        let Member {
            name,
            mode,
            uid,
            gid,
            mtime,
            xattrs,
            what,
        } = member;
        let (kind, link) = match what {
            EntryKind::HardLink(target) => return self.put_link(&name, &target),
            EntryKind::Directory => (Kind::Directory, 0),
            EntryKind::File {
                size,
                content,
                link,
            } => {
                let content = match content {
                    _ if size == 0 => Content::Bytes([].into()),
                    FileContent::Span(span) => Content::Span(span),
                    FileContent::Sparse(extents) => Content::Sparse(extents.into()),
                };
                let body = FileBody {
                    size,
                    content,
                    link: None,
                };
                (Kind::File(body), link)
            }
            EntryKind::Symlink(target) => (Kind::Symlink(target), 0),
            EntryKind::CharDevice { major, minor } => (Kind::CharDevice { major, minor }, 0),
            EntryKind::BlockDevice { major, minor } => (Kind::BlockDevice { major, minor }, 0),
            EntryKind::Fifo => (Kind::Fifo, 0),
            EntryKind::Socket => (Kind::Socket, 0),
        };
        let metadata = Metadata {
            // Linux has no other for links, and archives say this or that.
            mode: if matches!(kind, Kind::Symlink(_)) {
                0o777
            } else {
                mode
            },
            uid,
            gid,
            mtime,
            xattrs: xattr::of_member(xattrs),
            kind,
        };
        self.put_facts(&name, metadata, link)
    }

    /// Applies all entries of a tree, as one layer has them.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(crate) fn put_tree(&mut self, tree: Tree) -> Result<(), Error> {
        self.warnings.extend_from_slice(tree.warnings());
        for entry in tree.into_entries() {
            let Entry {
                path,
                mode,
                uid,
                gid,
                mtime,
                xattrs,
                mut kind,
            } = entry;
            let link = match &mut kind {
                Kind::File(FileBody { link, .. }) => link.take().map_or(0, |LinkId(number)| number),
                _ => 0,
            };
            let metadata = Metadata {
                mode,
                uid,
                gid,
                mtime,
                xattrs,
                kind,
            };
            self.put_facts(&path, metadata, link)?;
        }
        Ok(())
    }

    fn put_facts(&mut self, name: &[u8], metadata: Metadata, link: u64) -> Result<(), Error> {
        let Some((parent, last)) = self.place(name)? else {
            if metadata.kind != Kind::Directory {
                return Err(Error::Root {
                    name: name.to_vec(),
                });
            }
            let root = self.names.inode(ROOT);
            self.inodes[root as usize] = metadata;
            self.names.put_in(ROOT, self.layer);
            return Ok(());
        };
        if self.rules == Rules::Layer && self.is_whiteout(name, parent, last)? {
            return Ok(());
        }
        let there = self.names.find(parent, last);
        if metadata.kind == Kind::Directory
            && let Some(there) = there
            && self.is_directory(there)
        {
            let inode = self.names.inode(there);
            self.inodes[inode as usize] = metadata;
            self.names.put_in(there, self.layer);
            return Ok(());
        }
        let inode = match self.links.get(&link) {
            Some(&first) if link != 0 => {
                self.refresh(first, metadata);
                first
            }
            _ => {
                let inode = self.new_inode(name, metadata)?;
                if link != 0 {
                    self.links.insert(link, inode);
                }
                inode
            }
        };
        self.set(name, parent, last, there, inode)
    }

    /// Another name of a file has come: its attributes are the file's, and so are its bytes if it brings any. cpio keeps
    /// a file's bytes with one of its names only.
    fn refresh(&mut self, inode: Inode, mut metadata: Metadata) {
        let old = &mut self.inodes[inode as usize];
        if matches!(metadata.kind, Kind::File(FileBody { size: 0, .. })) {
            std::mem::swap(&mut metadata.kind, &mut old.kind);
        }
        *old = metadata;
    }

    fn put_link(&mut self, name: &[u8], target: &[u8]) -> Result<(), Error> {
        let Some((parent, last)) = self.place(name)? else {
            return Err(Error::Root {
                name: name.to_vec(),
            });
        };
        if self.rules == Rules::Layer && self.is_whiteout(name, parent, last)? {
            return Ok(());
        }
        let missing = || Error::LinkMissing {
            name: name.to_vec(),
            target: target.to_vec(),
        };
        let other = self.find(target, name)?.ok_or_else(missing)?;
        let there = self.names.find(parent, last);
        if there == Some(other) {
            self.names.put_in(other, self.layer);
            return Ok(());
        }
        if self.is_directory(other) {
            return Err(Error::LinkToDirectory {
                name: name.to_vec(),
                target: target.to_vec(),
            });
        }
        let inode = self.names.inode(other);
        self.set(name, parent, last, there, inode)?;
        // It may be gone with the directory that the link replaces, or have been found through a link in that place.
        match there.is_none() || self.find(target, name)? == Some(other) {
            true => Ok(()),
            false => Err(missing()),
        }
    }

    /// Makes `last` in `parent` a name of `inode`; what was `there` goes, with all below it.
    fn set(
        &mut self,
        name: &[u8],
        parent: Node,
        last: &[u8],
        there: Option<Node>,
        inode: Inode,
    ) -> Result<(), Error> {
        match there {
            Some(there) => {
                self.names.remove_children(there);
                self.names.set_inode(there, inode);
                self.names.put_in(there, self.layer);
            }
            None => {
                self.make(name, parent, last, inode)?;
            }
        }
        Ok(())
    }

    /// Makes a new name, if there may be one. `name` is the member's, for errors.
    fn make(
        &mut self,
        name: &[u8],
        parent: Node,
        last: &[u8],
        inode: Inode,
    ) -> Result<Node, Error> {
        let bytes = self.names.path_length(parent, last);
        if bytes > PATH_LIMIT || last.len() > NAME_LIMIT {
            let path = self.names.path_in(parent, last);
            return Err(match bytes > PATH_LIMIT {
                true => tree::Error::too_long(&path),
                false => tree::Error::NameTooLong {
                    path,
                    bytes: last.len(),
                },
            }
            .into());
        }
        let made = match self.names.made() <= self.limit {
            true => self.names.make(parent, last, inode, self.layer),
            false => None,
        };
        let node = made.ok_or_else(|| self.too_many(name))?;
        self.names.put_in(node, self.layer);
        if self.rules == Rules::Layer && last.starts_with(RESERVED) {
            self.hidden.push(node);
        }
        Ok(node)
    }

    /// A new inode, if there may be one: those that lost their names stay, and count. `name` is for errors.
    fn new_inode(&mut self, name: &[u8], metadata: Metadata) -> Result<Inode, Error> {
        let inode = Inode::try_from(self.inodes.len()).ok();
        let Some(inode) = inode.filter(|&inode| u64::from(inode) <= self.limit) else {
            return Err(self.too_many(name));
        };
        self.inodes.push(metadata);
        Ok(inode)
    }

    fn too_many(&self, name: &[u8]) -> Error {
        Error::TooMany {
            name: name.to_vec(),
            limit: self.limit,
        }
    }

    fn is_directory(&self, node: Node) -> bool {
        self.kind(node) == &Kind::Directory
    }

    fn kind(&self, node: Node) -> &Kind {
        &self.inodes[self.names.inode(node) as usize].kind
    }

    /// All that is left, as a tree: its root described even where no member did.
    ///
    /// # Errors
    /// A name or link target that Linux cannot hold.
    pub(crate) fn into_tree(mut self) -> Result<Tree, tree::Error> {
        self.end_layer();
        let Self {
            names,
            mut inodes,
            warnings,
            ..
        } = self;
        let order = names.in_order();
        let mut uses = vec![0u32; inodes.len()];
        for &(node, _) in &order {
            uses[names.inode(node) as usize] += 1;
        }
        let mut numbers: HashMap<Inode, LinkId> = HashMap::new();
        let mut entries = Vec::with_capacity(order.len());
        for (node, path) in order {
            let inode = names.inode(node);
            let metadata = &mut inodes[inode as usize];
            let Metadata {
                mode,
                uid,
                gid,
                mtime,
                xattrs,
                mut kind,
            } = match uses[inode as usize] {
                1 => std::mem::replace(metadata, Metadata::implied()),
                _ => metadata.clone(),
            };
            if let Kind::File(body) = &mut kind
                && uses[inode as usize] > 1
            {
                let next = LinkId(numbers.len() as u64 + 1);
                body.link = Some(*numbers.entry(inode).or_insert(next));
            }
            entries.push(Entry {
                path,
                mode,
                uid,
                gid,
                mtime,
                xattrs,
                kind,
            });
        }
        Ok(Tree::from_entries(entries)?.with_warnings(warnings))
    }
}
