//! The names of the in-memory file system: a tree of directories' children, found by (directory, name).
//!
//! Every name is a node that points to an inode, so that two names can be one file and replacing one leaves the other.
//! Nodes are never given back: how many are made is limited, and their numbers stay true. Knows no rules.

use std::hash::{BuildHasher, Hasher, RandomState};

use hashbrown::HashTable;

/// Number of a node.
pub(super) type Node = u32;
/// Number of an inode.
pub(super) type Inode = u32;

/// The root directory's node.
pub(super) const ROOT: Node = 0;
/// No node.
const NONE: Node = Node::MAX;

/// One name.
#[derive(Debug)]
struct Slot {
    /// The directory it is in; [`NONE`] when the name is gone. The root is in itself.
    parent: Node,
    inode: Inode,
    first_child: Node,
    next: Node,
    previous: Node,
    /// Where its bytes begin.
    at: u32,
    /// The layer that this name was put in last.
    layer: u32,
    /// The last layer that put anything here or below.
    touched: u32,
    /// Length of the path from the root.
    path: u16,
    length: u8,
}

/// All names.
#[derive(Debug)]
pub(super) struct Names {
    slots: Vec<Slot>,
    index: HashTable<Node>,
    bytes: Vec<u8>,
    hasher: RandomState,
}

impl Names {
    /// The root alone.
    pub(super) fn new(root: Inode) -> Self {
        Self {
            slots: vec![Slot {
                parent: ROOT,
                inode: root,
                first_child: NONE,
                next: NONE,
                previous: NONE,
                at: 0,
                layer: 0,
                touched: 0,
                path: 0,
                length: 0,
            }],
            index: HashTable::new(),
            bytes: Vec::new(),
            hasher: RandomState::new(),
        }
    }

    /// The number of names ever made.
    pub(super) fn made(&self) -> u64 {
        self.slots.len() as u64
    }

    /// Length in bytes that the path of `name` in `parent` would have.
    pub(super) fn path_length(&self, parent: Node, name: &[u8]) -> usize {
        let above = usize::from(self.slot(parent).path);
        above + usize::from(above > 0) + name.len()
    }

    /// Makes a name that is not there yet. `None` when there is no room for its bytes, or its length or its path's does
    /// not fit the fields: the caller checks those first.
    pub(super) fn make(
        &mut self,
        parent: Node,
        name: &[u8],
        inode: Inode,
        layer: u32,
    ) -> Option<Node> {
        let node = Node::try_from(self.slots.len())
            .ok()
            .filter(|&node| node != NONE)?;
        let (path, length) = (
            self.path_length(parent, name).try_into().ok()?,
            name.len().try_into().ok()?,
        );
        let at = u32::try_from(self.bytes.len()).ok()?;
        self.bytes.extend_from_slice(name);
        let next = std::mem::replace(&mut self.slots[parent as usize].first_child, node);
        if let Some(next) = self.slots.get_mut(next as usize) {
            next.previous = node;
        }
        self.slots.push(Slot {
            parent,
            inode,
            first_child: NONE,
            next,
            previous: NONE,
            at,
            layer,
            touched: layer,
            path,
            length,
        });
        let Self {
            slots,
            index,
            bytes,
            hasher,
        } = self;
        index.insert_unique(hash(hasher, parent, name), node, |&other| {
            let slot = &slots[other as usize];
            hash(hasher, slot.parent, name_of(slot, bytes))
        });
        Some(node)
    }

    /// The node of `name` in the directory `parent`.
    pub(super) fn find(&self, parent: Node, name: &[u8]) -> Option<Node> {
        let same = |&node: &Node| {
            let slot = self.slot(node);
            slot.parent == parent && name_of(slot, &self.bytes) == name
        };
        self.index
            .find(hash(&self.hasher, parent, name), same)
            .copied()
    }

    /// Removes a name and all below it. The root stays, without children.
    pub(super) fn remove(&mut self, node: Node) {
        self.remove_children(node);
        if node == ROOT {
            return;
        }
        let Slot {
            parent,
            next,
            previous,
            ..
        } = *self.slot(node);
        match self.slots.get_mut(previous as usize) {
            Some(previous) => previous.next = next,
            None => self.slots[parent as usize].first_child = next,
        }
        if let Some(next) = self.slots.get_mut(next as usize) {
            next.previous = previous;
        }
        self.forget(node);
    }

    /// Removes everything below a name; goes down and up by the links between nodes, whatever the depth.
    pub(super) fn remove_children(&mut self, top: Node) {
        let mut at = top;
        loop {
            let below = self.slot(at).first_child;
            if below != NONE {
                self.slots[at as usize].first_child = NONE;
                at = below;
                continue;
            }
            if at == top {
                return;
            }
            let Slot { parent, next, .. } = *self.slot(at);
            self.forget(at);
            at = if next == NONE { parent } else { next };
        }
    }

    /// Takes a name out of the index; its neighbours are the caller's business.
    fn forget(&mut self, node: Node) {
        let slot = self.slot(node);
        let key = hash(&self.hasher, slot.parent, name_of(slot, &self.bytes));
        if let Ok(found) = self.index.find_entry(key, |&other| other == node) {
            found.remove();
        }
        self.slots[node as usize].parent = NONE;
    }

    /// True if the name is still there.
    pub(super) fn is_there(&self, node: Node) -> bool {
        self.slot(node).parent != NONE
    }

    /// The directory that it is in; the root is in itself.
    pub(super) fn parent(&self, node: Node) -> Node {
        self.slot(node).parent
    }

    /// Returns the inode that it names.
    pub(super) fn inode(&self, node: Node) -> Inode {
        self.slot(node).inode
    }

    /// Makes it a name of something else.
    pub(super) fn set_inode(&mut self, node: Node, inode: Inode) {
        self.slots[node as usize].inode = inode;
    }

    /// The name alone.
    pub(super) fn name(&self, node: Node) -> &[u8] {
        name_of(self.slot(node), &self.bytes)
    }

    /// The path from the root.
    pub(super) fn path(&self, mut node: Node) -> Vec<u8> {
        let mut names = Vec::new();
        while node != ROOT && self.is_there(node) {
            names.push(self.name(node));
            node = self.parent(node);
        }
        names.reverse();
        names.join(&b'/')
    }

    /// The path that `name` in `parent` has.
    pub(super) fn path_in(&self, parent: Node, name: &[u8]) -> Vec<u8> {
        let mut path = self.path(parent);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// All names with their paths, in the order of a tree.
    pub(super) fn in_order(&self) -> Vec<(Node, Vec<u8>)> {
        let sorted = |node: Node| {
            let mut children: Vec<Node> = self.children(node).collect();
            // The last is taken first.
            children.sort_unstable_by(|&a, &b| self.name(b).cmp(self.name(a)));
            children
        };
        let mut order = Vec::with_capacity(self.index.len() + 1);
        order.push((ROOT, Vec::new()));
        // Directories that are open, each with the length of its path and the names in it still to come.
        let mut open = vec![(0, sorted(ROOT))];
        let mut path: Vec<u8> = Vec::new();
        while let Some((length, children)) = open.last_mut() {
            path.truncate(*length);
            let Some(node) = children.pop() else {
                open.pop();
                continue;
            };
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(self.name(node));
            order.push((node, path.clone()));
            if self.slot(node).first_child != NONE {
                open.push((path.len(), sorted(node)));
            }
        }
        order
    }

    /// The names in a directory, newest first.
    pub(super) fn children(&self, node: Node) -> impl Iterator<Item = Node> {
        let some = |node: Node| (node != NONE).then_some(node);
        std::iter::successors(some(self.slot(node).first_child), move |&child| {
            some(self.slot(child).next)
        })
    }

    /// The layer that this name was put in last.
    pub(super) fn layer(&self, node: Node) -> u32 {
        self.slot(node).layer
    }

    /// The last layer that put anything here or below.
    pub(super) fn touched(&self, node: Node) -> u32 {
        self.slot(node).touched
    }

    /// Notes that `layer` put this name; all directories above know it then.
    pub(super) fn put_in(&mut self, node: Node, layer: u32) {
        self.slots[node as usize].layer = layer;
        self.slots[node as usize].touched = layer;
        let mut above = self.parent(node);
        while self.touched(above) != layer {
            self.slots[above as usize].touched = layer;
            above = self.parent(above);
        }
    }

    fn slot(&self, node: Node) -> &Slot {
        &self.slots[node as usize]
    }
}

fn name_of<'a>(slot: &Slot, bytes: &'a [u8]) -> &'a [u8] {
    &bytes[slot.at as usize..][..usize::from(slot.length)]
}

/// Keyed anew in every process: so no archive can have names that all collide.
fn hash(hasher: &RandomState, parent: Node, name: &[u8]) -> u64 {
    let mut state = hasher.build_hasher();
    state.write_u32(parent);
    state.write(name);
    state.finish()
}
