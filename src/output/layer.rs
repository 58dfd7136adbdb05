//! The entries of one tar archive: a whole tree, or what differs between two, with whiteouts for what is gone.
//!
//! Takes trees, returns entries of theirs; contents are read only to compare files that look alike. Format: OCI image
//! specification, "Image Layer Filesystem Changeset".

use std::collections::{HashMap, HashSet};

use super::Error;
use rdvm_hostfs::path::split;
use rdvm_image::body::{Bodies, Piece};
use rdvm_image::tree::{Content, Entry, FileBody, ImagePath, Kind, LinkId, Tree};
use rdvm_initrd::Epoch;

/// A name that begins so says that the rest of the name is gone from the layers below.
pub(crate) const WHITEOUT: &[u8] = b".wh.";

/// Bytes of two files that are compared at a time.
const PIECE: u64 = 256 << 10;

/// The entries of one archive, in the order of a tree.
#[derive(Debug)]
pub struct Layer<'a> {
    tree: &'a Tree,
    pub(super) entries: Vec<&'a Entry>,
    /// Paths that are gone, by the directory that held them.
    pub(super) gone: HashMap<&'a [u8], Vec<&'a [u8]>>,
}

impl<'a> Layer<'a> {
    /// All of a tree as a plain tar archive, in which names that begin with `.wh.` mean nothing.
    pub(crate) fn plain(tree: &'a Tree) -> Self {
        Self {
            tree,
            entries: tree.entries().iter().collect(),
            gone: HashMap::new(),
        }
    }

    /// All of a tree as the lowest layer of an image.
    ///
    /// # Errors
    /// A name that begins with `.wh.`.
    pub(crate) fn whole(tree: &'a Tree) -> Result<Self, Error> {
        check_names(tree)?;
        Ok(Self::plain(tree))
    }

    /// Returns what turns `base` into `new`: changed and added entries with all directories above them, and what is gone.
    ///
    /// Entries are changed if anything differs that an archive with this epoch would say of them, modification times
    /// included; of the contents only those are read that nothing else tells apart. The names of a hard-linked file are
    /// all there or none.
    ///
    /// # Errors
    /// A name that begins with `.wh.`; a file that cannot be read or was changed meanwhile.
    pub(crate) fn diff(base: &'a Tree, new: &'a Tree, epoch: Epoch) -> Result<Self, Error> {
        check_names(base)?;
        check_names(new)?;
        let (below, above) = (Names::of(base), Names::of(new));
        let mut bodies = (Bodies::default(), Bodies::default());
        let mut changed: HashSet<&[u8]> = HashSet::new();
        for entry in kept(new) {
            if changed.contains(&*entry.path) {
                continue;
            }
            let first = above.is_first(entry);
            let same = match kept_at(base, &entry.path) {
                Some(old) => {
                    looks_same(old, entry, epoch)
                        && (!first || below.of_entry(old) == above.of_entry(entry))
                        && (!first || same_contents(&mut bodies, old, entry)?)
                }
                None => false,
            };
            if !same {
                changed.insert(&entry.path);
                changed.extend(above.of_entry(entry));
            }
        }
        let mut gone: HashMap<&[u8], Vec<&[u8]>> = HashMap::new();
        for old in kept(base) {
            let (parent, name) = split(&old.path);
            let parent_stays = kept_at(new, parent).is_some_and(|now| now.kind == Kind::Directory)
                || parent.is_empty();
            if !old.path.is_empty() && parent_stays && kept_at(new, &old.path).is_none() {
                gone.entry(parent).or_default().push(name);
            }
        }
        let mut wanted: HashSet<&[u8]> = HashSet::new();
        let touched = changed.iter().copied();
        for path in touched.chain(gone.keys().copied()) {
            let mut path = path;
            // The root is there only for its own sake: it is no other entry's parent here.
            while (!path.is_empty() || changed.contains(path)) && wanted.insert(path) {
                path = split(path).0;
            }
        }
        let entries = kept(new).filter(|entry| wanted.contains(&*entry.path));
        Ok(Self {
            tree: new,
            entries: entries.collect(),
            gone,
        })
    }

    /// True if it changes nothing.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.gone.is_empty()
    }

    /// Returns the entries that no tar archive can hold: sockets. They are left out.
    pub(crate) fn left_out(&self) -> impl Iterator<Item = &'a ImagePath> {
        let sockets = self.tree.entries().iter();
        sockets
            .filter(|entry| entry.kind == Kind::Socket)
            .map(|entry| &entry.path)
    }

    /// True if the archives that the contents came from are what they were; to be asked after writing.
    pub(super) fn check_unchanged(&self) -> Result<(), Error> {
        Ok(rdvm_initrd::unchanged(self.tree)?)
    }
}

/// Returns the entries that a tar archive can hold.
fn kept(tree: &Tree) -> impl Iterator<Item = &Entry> {
    let entries = tree.entries().iter();
    entries.filter(|entry| entry.kind != Kind::Socket)
}

fn kept_at<'a>(tree: &'a Tree, path: &[u8]) -> Option<&'a Entry> {
    tree.get(path).filter(|entry| entry.kind != Kind::Socket)
}

fn check_names(tree: &Tree) -> Result<(), Error> {
    let whiteout = |entry: &&Entry| split(&entry.path).1.starts_with(WHITEOUT);
    match tree.entries().iter().find(whiteout) {
        Some(entry) => Err(Error::WhiteoutName {
            path: entry.path.clone(),
        }),
        None => Ok(()),
    }
}

/// The names of every hard-linked file of a tree that has more than one, in order.
struct Names<'a>(HashMap<LinkId, Vec<&'a [u8]>>);

impl<'a> Names<'a> {
    fn of(tree: &'a Tree) -> Self {
        let mut names: HashMap<LinkId, Vec<&[u8]>> = HashMap::new();
        for entry in tree.entries() {
            if let Some(link) = link(entry) {
                names.entry(link).or_default().push(&entry.path);
            }
        }
        names.retain(|_, names| names.len() > 1);
        Self(names)
    }

    /// All names of what this entry is a name of; none where it is the only one.
    fn of_entry(&self, entry: &Entry) -> &[&'a [u8]] {
        let names = link(entry).and_then(|link| self.0.get(&link));
        names.map_or(&[], Vec::as_slice)
    }

    /// True if it is the name under which the contents are looked at.
    fn is_first(&self, entry: &Entry) -> bool {
        let names = self.of_entry(entry);
        names.first().is_none_or(|first| *first == entry.path)
    }
}

pub(super) fn link(entry: &Entry) -> Option<LinkId> {
    match &entry.kind {
        Kind::File(FileBody { link, .. }) => *link,
        _ => None,
    }
}

/// True if all that needs no reading is the same.
fn looks_same(old: &Entry, new: &Entry, epoch: Epoch) -> bool {
    let kinds = match (&old.kind, &new.kind) {
        (Kind::File(old), Kind::File(new)) => old.size == new.size,
        (old, new) => old == new,
    };
    let empty = |entry: &Entry| entry.xattrs.as_ref().is_none_or(|map| map.is_empty());
    kinds
        && (old.mode, old.uid, old.gid) == (new.mode, new.uid, new.gid)
        && epoch.clamp(old.mtime) == epoch.clamp(new.mtime)
        && (old.xattrs == new.xattrs || empty(old) && empty(new))
}

/// True if two files of one length have the same bytes; what is no file has none.
fn same_contents<'a>(
    bodies: &mut (Bodies<'a>, Bodies<'a>),
    old: &'a Entry,
    new: &'a Entry,
) -> Result<bool, Error> {
    let (Kind::File(old), Kind::File(new)) = (&old.kind, &new.kind) else {
        return Ok(true);
    };
    match (&old.content, &new.content) {
        (Content::Host(old), Content::Host(new)) if old.stamp == new.stamp => return Ok(true),
        (old, new) if old == new => return Ok(true),
        _ => {}
    }
    let (mut one, mut other) = (Vec::new(), Vec::new());
    for from in (0..old.size).step_by(PIECE as usize) {
        let length = PIECE.min(old.size - from) as usize;
        let sides = [
            (&mut bodies.0, &old.content, &mut one),
            (&mut bodies.1, &new.content, &mut other),
        ];
        for (bodies, content, buffer) in sides {
            buffer.resize(length, 0);
            if bodies.read(content, from, buffer)? == Piece::Hole {
                buffer.fill(0);
            }
        }
        if one != other {
            return Ok(false);
        }
    }
    Ok(true)
}
