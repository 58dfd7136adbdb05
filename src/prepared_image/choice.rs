//! The choice between an image in the initrd and one in a region of memory.

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::request::RootSpec;
use rdvm_erofs::Layout;
use rdvm_image::tree::{Kind, Tree};
use rdvm_initrd::Epoch;

/// The least bytes of files for which a region pays: below, unpacking costs little more than what a kernel does for a region
/// (docs/performance.md).
pub const REGION_FROM: u64 = 16 << 20;

/// A file costs as much as so many bytes, read, packed and unpacked.
const PER_ENTRY: u64 = 10 << 10;

/// The conditions under which an image is used in place.
pub struct InPlace<'a> {
    /// The user's choice.
    pub root: RootSpec,
    /// Returns whether kernel and engine can have a region of so many bytes, or why not. It is asked only where all else
    /// allows it.
    pub can: &'a dyn Fn(u64) -> std::result::Result<(), String>,
}

impl InPlace<'_> {
    /// False if no image is.
    pub(super) fn is_possible(&self) -> bool {
        self.root != RootSpec::Initrd
    }

    /// True if a file system of so many bytes and entries is.
    pub(super) fn may_be(&self, size: u64, entries: u64) -> bool {
        self.is_possible() && self.pays(size, entries) && (self.can)(size).is_ok()
    }

    fn pays(&self, bytes: u64, entries: u64) -> bool {
        let weight = bytes.saturating_add(entries.saturating_mul(PER_ENTRY));
        self.root == RootSpec::Erofs || weight >= REGION_FROM
    }

    /// Lays a tree out as a file system; `None` if it is to be an initrd.
    ///
    /// # Errors
    /// It has to be a file system and cannot be one.
    pub(super) fn layout(&self, tree: &Tree, epoch: Epoch) -> Result<Option<Layout>> {
        let entries = tree.entries().len() as u64;
        if !self.is_possible() || !self.pays(bytes(tree), entries) {
            return Ok(None);
        }
        let layout = match hazard(tree) {
            Some(path) => Err(format!(
                "{}: means something else below an overlay",
                rdvm_hostfs::escape::escaped(path)
            )),
            // Before the work of a layout.
            None => match (self.can)(bytes(tree)).map(|()| Layout::of(tree, epoch)) {
                Ok(Ok(layout)) => (self.can)(layout.size()).map(|()| layout),
                // Not the format's fault.
                Ok(Err(error @ rdvm_erofs::Error::Body(_))) => return Err(error.into()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(reason) => Err(reason),
            },
        };
        match (layout, self.root) {
            (Ok(layout), _) => Ok(Some(layout)),
            (Err(reason), RootSpec::Erofs) => Err(Error::NotInPlace { reason }),
            (Err(_), _) => Ok(None),
        }
    }
}

/// Returns the bytes of a tree's files.
fn bytes(tree: &Tree) -> u64 {
    let mut links = HashSet::new();
    let sizes = tree.entries().iter().map(|entry| match &entry.kind {
        Kind::File(file) if file.link.is_none_or(|link| links.insert(link)) => file.size,
        _ => 0,
    });
    sizes.fold(0, u64::saturating_add)
}

/// Returns an entry that overlayfs takes for a mark of its own: of a removed file, or in its attributes.
fn hazard(tree: &Tree) -> Option<&[u8]> {
    let marks = |entry: &&rdvm_image::tree::Entry| {
        let attributes = entry.xattrs.iter().flat_map(|attributes| attributes.keys());
        entry.kind == Kind::CharDevice { major: 0, minor: 0 }
            || attributes
                .into_iter()
                .any(|name| name.starts_with(b"trusted.overlay."))
    };
    let mark = tree.entries().iter().find(marks)?;
    Some(&mark.path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use rdvm_image::tree::{Content, Entry, FileBody};

    use super::*;

    fn tree(size: u64, attribute: &[u8]) -> Tree {
        let attributes = BTreeMap::from([(attribute.to_vec(), b"y".to_vec())]);
        let content = Content::Bytes(vec![1; size as usize].into());
        let entry = Entry {
            path: b"file".to_vec(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: Some(Arc::new(attributes)),
            kind: Kind::File(FileBody {
                size,
                content,
                link: None,
            }),
        };
        Tree::from_entries(vec![entry]).unwrap()
    }

    #[test]
    fn an_image_is_in_place_where_that_pays_and_can_be() {
        let can = |_| Ok(());
        let cannot = |_| Err("of something".to_owned());
        let large = tree(REGION_FROM, b"user.a");
        for (root, tree, can, expected) in [
            (
                RootSpec::Auto,
                &large,
                &can as &dyn Fn(u64) -> _,
                Some(true),
            ),
            (
                RootSpec::Auto,
                &tree(REGION_FROM - PER_ENTRY - 1, b"user.a"),
                &can,
                Some(false),
            ),
            (RootSpec::Erofs, &tree(1, b"user.a"), &can, Some(true)),
            (RootSpec::Initrd, &large, &can, Some(false)),
            (RootSpec::Auto, &large, &cannot, Some(false)),
            (RootSpec::Erofs, &large, &cannot, None),
            // What has no place in the format, and what an overlay takes for its own.
            (
                RootSpec::Auto,
                &tree(REGION_FROM, b"btrfs.a"),
                &can,
                Some(false),
            ),
            (
                RootSpec::Erofs,
                &tree(1, b"trusted.overlay.opaque"),
                &can,
                None,
            ),
        ] {
            let in_place = InPlace { root, can };
            let layout = in_place.layout(tree, Epoch::default()).ok();
            assert_eq!(layout.map(|layout| layout.is_some()), expected, "{root:?}");
        }
    }
}
