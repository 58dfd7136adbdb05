//! The part of the memory free at the start of the command that files may take: the host plans by it, the guest sets limits by it.

/// An inode with its directory entry, measured on Linux 6.1 and 6.12; longer names are paid from what programs get.
pub(crate) const INODE_BYTES: u64 = 1200;

/// As many inodes as the kernel gives a tmpfs by default: one for every two pages of RAM.
const RAM_PER_INODE: u64 = 8192;

/// RAM that stays for processes, their page tables and the kernel's own objects when files have taken all that they may: so
/// much, and this share.
const PROGRAMS: u64 = 4 << 20;
const PROGRAMS_SHARE: u64 = 16;

/// The share of swap space that takes RAM when files are in it: of a page that is out, the file's tree keeps nine bytes, a node
/// of 576 for 64 of them.
const TREE_SHARE: u64 = 448;

/// Swap space that stays for programs when files have taken all that they may: so much, since each CPU keeps some pages of it for
/// itself, and this share.
const SWAP_KEPT: u64 = 2 << 20;
const SWAP_KEPT_SHARE: u64 = 64;

/// The growth that the root file system is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes of files.
    pub bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
}

impl Room {
    /// The room in `free` bytes of RAM and `swap` bytes of swap space. Both limits can be reached at once and the rest is
    /// still there.
    pub fn within(free: u64, swap: u64) -> Self {
        let free = free.saturating_sub(swap / TREE_SHARE);
        let inodes = free / RAM_PER_INODE;
        let programs = PROGRAMS + free / PROGRAMS_SHARE;
        let bytes = free.saturating_sub(programs + inodes * INODE_BYTES);
        let swapped = swap.saturating_sub(SWAP_KEPT + swap / SWAP_KEPT_SHARE);
        let bytes = bytes.saturating_add(swapped);
        Self { bytes, inodes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_inodes_together_leave_what_programs_need() {
        assert_eq!(Room::within(0, 0).bytes, 0);
        for mebibytes in [1, 8, 23, 64, 512, 1 << 20, 1 << 40] {
            let free = mebibytes << 20;
            let room = Room::within(free, 0);
            let taken = room.bytes + room.inodes * INODE_BYTES;
            assert!(taken + free / PROGRAMS_SHARE <= free, "{mebibytes} MiB");
            assert!(mebibytes < 23 || room.bytes > free / 2, "{mebibytes} MiB");
        }
    }

    #[test]
    fn files_in_swap_space_leave_some_of_it_and_the_ram_for_their_trees() {
        for (mebibytes, swap) in [(23, 64), (96, 300), (128, 3 << 10), (512, 1 << 20)] {
            let (free, swap) = (mebibytes << 20, swap << 20);
            let (without, with) = (Room::within(free, 0), Room::within(free, swap));
            assert!(
                with.bytes < without.bytes + swap * 63 / 64,
                "{mebibytes} MiB"
            );
            assert!(with.bytes > swap * 9 / 10, "{mebibytes} MiB");
            assert!(with.inodes < without.inodes, "{mebibytes} MiB");
        }
    }
}
