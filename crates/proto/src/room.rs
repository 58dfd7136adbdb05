//! The part of the RAM free at the start of the command that files may take: the host plans by it, the guest sets limits by it.

/// An inode with its directory entry, measured on Linux 6.1 and 6.12; longer names are paid from what programs get.
pub(crate) const INODE_BYTES: u64 = 1200;

/// As many inodes as the kernel gives a tmpfs by default: one for every two pages of RAM.
const RAM_PER_INODE: u64 = 8192;

/// RAM that stays for processes, their page tables and the kernel's own objects when files have taken all that they may: so
/// much, and this share.
const PROGRAMS: u64 = 4 << 20;
const PROGRAMS_SHARE: u64 = 16;

/// The growth that the root file system is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes of files.
    pub bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
}

impl Room {
    /// The room in `free` bytes of RAM. Both limits can be reached at once and the rest is still there.
    pub fn within(free: u64) -> Self {
        let inodes = free / RAM_PER_INODE;
        let programs = PROGRAMS + free / PROGRAMS_SHARE;
        let bytes = free.saturating_sub(programs + inodes * INODE_BYTES);
        Self { bytes, inodes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_inodes_together_leave_what_programs_need() {
        assert_eq!(Room::within(0).bytes, 0);
        for mebibytes in [1, 8, 23, 64, 512, 1 << 20, 1 << 40] {
            let free = mebibytes << 20;
            let room = Room::within(free);
            let taken = room.bytes + room.inodes * INODE_BYTES;
            assert!(taken + free / PROGRAMS_SHARE <= free, "{mebibytes} MiB");
            assert!(mebibytes < 23 || room.bytes > free / 2, "{mebibytes} MiB");
        }
    }
}
