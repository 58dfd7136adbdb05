//! Whiteouts: names in a layer that hide what lower layers have.
//!
//! A whiteout hides no more than that, whether it comes before or after what its own layer has in the same place. Source:
//! OCI image specification 1.1, "Whiteouts"; where it is silent, what containerd and umoci do.

use super::error::Error;
use super::names::Node;
use super::{FileSystem, Metadata};

/// Files whose name begins so hide others.
const WHITEOUT: &[u8] = b".wh.";
/// Hides all that lower layers have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names that begin so and are not [`OPAQUE`] were aufs's own: hard links may lead there (`.wh..wh.plnk`), but they
/// are no part of the image. containerd and docker do the same at the top.
pub(super) const RESERVED: &[u8] = b".wh..wh.";

impl FileSystem {
    /// Does what `last` says if it is a whiteout; false if it is a name like any other.
    pub(super) fn is_whiteout(
        &mut self,
        name: &[u8],
        parent: Node,
        last: &[u8],
    ) -> Result<bool, Error> {
        let Some(victim) = last.strip_prefix(WHITEOUT) else {
            return Ok(false);
        };
        if last == OPAQUE {
            self.hide_below(parent);
            return Ok(true);
        }
        if last.starts_with(RESERVED) {
            return Ok(false);
        }
        if matches!(victim, b"" | b"." | b"..") {
            return Err(Error::BadWhiteout {
                name: name.to_vec(),
            });
        }
        if let Some(node) = self.names.find(parent, victim) {
            self.hide_lower(node);
        }
        Ok(true)
    }

    /// Removes what lower layers put at and below a name, and leaves what this one did, whether the whiteout came before
    /// it or after.
    fn hide_lower(&mut self, node: Node) {
        if self.names.touched(node) != self.layer {
            self.names.remove(node);
        } else if self.is_directory(node) {
            self.forget_lower(node);
            self.hide_below(node);
        }
    }

    /// The same for what is below a directory. No directory is looked through twice: this layer puts nothing of lower
    /// ones there again.
    fn hide_below(&mut self, top: Node) {
        let mut waiting = vec![top];
        while let Some(dir) = waiting.pop() {
            if !self.cleared.insert(dir) {
                continue;
            }
            let below: Vec<Node> = self.names.children(dir).collect();
            for node in below {
                if self.names.touched(node) != self.layer {
                    self.names.remove(node);
                } else if self.is_directory(node) {
                    self.forget_lower(node);
                    waiting.push(node);
                }
            }
        }
    }

    /// Turns a directory that only lower layers described into one that none did.
    fn forget_lower(&mut self, node: Node) {
        if self.names.layer(node) != self.layer {
            let inode = self.names.inode(node);
            self.inodes[inode as usize] = Metadata::implied();
            self.names.put_in(node, self.layer);
        }
    }
}
