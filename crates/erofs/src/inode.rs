//! One inode: what is known of it, and its bytes.

use rdvm_image::erofs::{XATTR_ENTRY, XATTR_HEADER};
use rdvm_image::tree::{Entry, Kind};
use rdvm_initrd::Epoch;

/// A directory's mode where the tree does not say it.
const ROOT_MODE: u16 = 0o755;

/// An inode in the making.
#[derive(Debug, Default)]
pub(crate) struct Inode {
    /// Where it stands.
    pub(crate) at: u64,
    /// Length of what follows it.
    pub(crate) xattrs: u64,
    /// How its bytes are told.
    pub(crate) form: u16,
    pub(crate) size: u64,
    /// The block of its bytes, the device, or the size of its chunks.
    pub(crate) union: u32,
    pub(crate) links: u32,
    /// A file's chunks.
    pub(crate) map: Vec<u32>,
}

impl Inode {
    /// Appends it in its longer form. `entry` is none for a root that the tree has not.
    pub(crate) fn append(
        &self,
        number: u32,
        entry: Option<&Entry>,
        epoch: Epoch,
        out: &mut Vec<u8>,
    ) {
        let (mode, uid, gid, mtime) = match entry {
            Some(entry) => (entry.mode, entry.uid, entry.gid, epoch.clamp(entry.mtime)),
            None => (ROOT_MODE, 0, 0, 0),
        };
        let kind = entry.map_or(&Kind::Directory, |entry| &entry.kind);
        // What is not the header counts in units of an entry's alignment, and one for the header.
        let count = match self.xattrs {
            0 => 0,
            bytes => (bytes as usize - XATTR_HEADER) / XATTR_ENTRY + 1,
        };
        out.extend((1 | self.form << 1).to_le_bytes());
        out.extend((count as u16).to_le_bytes());
        out.extend((format_of(kind) | mode).to_le_bytes());
        out.extend([0; 2]);
        out.extend(self.size.to_le_bytes());
        out.extend(self.union.to_le_bytes());
        out.extend(number.to_le_bytes());
        out.extend(uid.to_le_bytes());
        out.extend(gid.to_le_bytes());
        out.extend(u64::from(mtime).to_le_bytes());
        out.extend(0u32.to_le_bytes());
        out.extend(self.links.to_le_bytes());
        out.extend([0; 16]);
    }
}

/// A device as Linux tells it on disk (`new_encode_dev`).
pub(crate) fn device(major: u32, minor: u32) -> u32 {
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

/// The kind of an entry in `st_mode`.
fn format_of(kind: &Kind) -> u16 {
    match kind {
        Kind::Directory => 0o040000,
        Kind::File(_) => 0o100000,
        Kind::Symlink(_) => 0o120000,
        Kind::CharDevice { .. } => 0o020000,
        Kind::BlockDevice { .. } => 0o060000,
        Kind::Fifo => 0o010000,
        Kind::Socket => 0o140000,
    }
}

/// The kind of an entry as a directory tells it.
pub(crate) fn type_of(kind: &Kind) -> u8 {
    match kind {
        Kind::File(_) => 1,
        Kind::Directory => 2,
        Kind::CharDevice { .. } => 3,
        Kind::BlockDevice { .. } => 4,
        Kind::Fifo => 5,
        Kind::Socket => 6,
        Kind::Symlink(_) => 7,
    }
}
