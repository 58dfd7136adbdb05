//! The directories and links of a tree while it comes, and where links lead.

use std::collections::HashMap;

use rdvm_hostfs::path;

/// Links that Linux follows in one path (`MAXSYMLINKS`).
const FOLLOWED: usize = 40;
/// Bytes of paths that may be looked up to see where all links lead: a second or two. A million plain links need a third.
const WORK: usize = 1 << 30;

/// Permissions and time of a file or directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}

/// The names that have to be known until the end.
#[derive(Debug)]
pub(super) enum Node {
    Directory(Attributes),
    Link {
        target: Box<[u8]>,
        times: Attributes,
    },
}

/// A link that is left out.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) path: Vec<u8>,
    pub(super) target: Vec<u8>,
}

/// Directories and links by their path below the root, which has the empty one.
#[derive(Debug, Default)]
pub(super) struct IncomingTree {
    nodes: HashMap<Box<[u8]>, Node>,
}

impl IncomingTree {
    /// Adds one; says whether the name was free.
    #[must_use]
    pub(super) fn insert(&mut self, path: &[u8], node: Node) -> bool {
        self.nodes.insert(path.into(), node).is_none()
    }

    /// Takes one out again.
    pub(super) fn remove(&mut self, path: &[u8]) {
        self.nodes.remove(path);
    }

    /// True if a name has been added.
    pub(super) fn has(&self, path: &[u8]) -> bool {
        self.nodes.contains_key(path)
    }

    /// True if this is a directory.
    pub(super) fn is_directory(&self, path: &[u8]) -> bool {
        matches!(self.nodes.get(path), Some(Node::Directory(_)))
    }

    /// All links with their targets.
    pub(super) fn links(&self) -> impl Iterator<Item = (&[u8], &[u8], Attributes)> {
        self.nodes.iter().filter_map(|(path, node)| match node {
            Node::Link { target, times } => Some((&**path, &**target, *times)),
            Node::Directory(_) => None,
        })
    }

    /// All directories, what is in one before itself.
    pub(super) fn directories(&self) -> Vec<(&[u8], Attributes)> {
        let directories = self.nodes.iter().filter_map(|(path, node)| match node {
            Node::Directory(attributes) => Some((&**path, *attributes)),
            Node::Link { .. } => None,
        });
        let mut directories: Vec<_> = directories.collect();
        directories.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        directories
    }

    /// The links that lead out of the root, by their paths' order. Each is followed as a kernel would, through others as well.
    /// `is_fine` is asked about each path that a link leads to or through and that is neither directory nor link here. When
    /// to follow them takes too long, the rest count as links that lead out.
    pub(super) fn links_out(&self, mut is_fine: impl FnMut(&[u8]) -> bool) -> Vec<Left> {
        let mut work = 0;
        let mut links: Vec<_> = self.links().collect();
        links.sort_unstable_by_key(|(path, ..)| *path);
        let leads_out = |(path, target, _): &(&[u8], &[u8], _)| {
            !self.stays_inside(path, target, &mut work, &mut is_fine)
        };
        links
            .into_iter()
            .filter(leads_out)
            .map(|(path, target, _)| Left {
                path: path.to_vec(),
                target: target.to_vec(),
            })
            .collect()
    }

    fn stays_inside<'t>(
        &'t self,
        link: &[u8],
        target: &'t [u8],
        work: &mut usize,
        is_fine: &mut impl FnMut(&[u8]) -> bool,
    ) -> bool {
        // `..` behind a name leads up from wherever that name leads, now or when a later run has put something there. In
        // front it leads up from the link's own directory, which is a real one. Every link is looked at for itself, so
        // that with this rule none can lead out through another.
        let mut parts = target.split(|&byte| byte == b'/');
        parts
            .by_ref()
            .find(|part| !matches!(*part, b"" | b"." | b".."));
        if parts.any(|part| part == b"..") {
            return false;
        }
        let mut at = path::split(link).0.to_vec();
        let mut rest: Vec<&[u8]> = Vec::new();
        let mut next = Some(target);
        let mut followed = 0;
        loop {
            if let Some(target) = next.take() {
                followed += 1;
                // Linux gives up here, and so leads nowhere. Every link on the way is looked at for itself too.
                if followed > FOLLOWED {
                    return true;
                }
                if target.first() == Some(&b'/') {
                    return false;
                }
                rest.extend(target.rsplit(|&byte| byte == b'/'));
            }
            let Some(name) = rest.pop() else {
                break;
            };
            *work += at.len() + name.len() + 1;
            if *work > WORK {
                return false;
            }
            match name {
                b"" | b"." => {}
                b".." => {
                    if at.is_empty() || !self.has(&at) && !is_fine(&at) {
                        return false;
                    }
                    at.truncate(path::split(&at).0.len());
                }
                name => {
                    let above = at.len();
                    at = path::join(&at, name);
                    if let Some(Node::Link { target, .. }) = self.nodes.get(&*at) {
                        at.truncate(above);
                        next = Some(target);
                    }
                }
            }
        }
        self.has(&at) || is_fine(&at)
    }
}
