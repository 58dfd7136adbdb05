//! The newc record format: a header of 110 hex characters, a name with its NUL, padding to four bytes, the data,
//! padding to four bytes.
//!
//! One header to bytes. Knows nothing of files on disk, or of what belongs in
//! an initrd. Format: `Documentation/driver-api/early-userspace/buffer-format.rst` of Linux.

use rdvm_hostfs::hex;

/// Length of a header in bytes.
pub(crate) const HEADER: usize = 110;
/// The name of the record that ends an archive.
pub(crate) const TRAILER: &[u8] = b"TRAILER!!!";

const MAGIC: &[u8; 6] = b"070701";

/// The fields of one record, in the order they are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// Inode number; records with the same one are names of one file.
    pub ino: u32,
    /// File type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names.
    pub nlink: u32,
    /// Seconds since the epoch.
    pub mtime: u32,
    /// Length of the data in bytes.
    pub filesize: u32,
    /// Device the file was on.
    pub dev: (u32, u32),
    /// Which device the file is.
    pub rdev: (u32, u32),
    /// Length of the name in bytes, with its NUL.
    pub namesize: u32,
}

impl Header {
    /// The header as it stands in the archive; the checksum field is 0, as in every newc archive.
    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [b'0'; HEADER];
        bytes[..6].copy_from_slice(MAGIC);
        let fields = [
            self.ino,
            self.mode,
            self.uid,
            self.gid,
            self.nlink,
            self.mtime,
            self.filesize,
            self.dev.0,
            self.dev.1,
            self.rdev.0,
            self.rdev.1,
            self.namesize,
        ];
        for (field, digits) in fields.into_iter().zip(bytes[6..].chunks_exact_mut(8)) {
            digits.copy_from_slice(&hex::digits(field));
        }
        bytes
    }
}

/// The next multiple of four.
pub(crate) const fn align(length: u64) -> u64 {
    length.next_multiple_of(4)
}
