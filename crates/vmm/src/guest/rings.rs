//! Memory that we share with the guest for what is too much for a serial port: standard input, and copied files.
//!
//! Two rings of bytes, and nothing but bytes: each side reports its position on the status port in checked frames. What the
//! guest does to the memory meanwhile has no effect: bytes are copied out before they are looked at.

use rdvm_proto::RING;
use vm_memory::{Bytes, MmapRegion, VolatileMemory, VolatileSlice};

/// The bytes of both rings.
pub(crate) const RINGS: u64 = 2 * RING;

/// The rings of one machine.
#[derive(Debug)]
pub(crate) struct Rings {
    region: MmapRegion,
    /// PID 1 has them too.
    pub(super) mapped: bool,
    /// Bytes that the guest has put in, and bytes that have been taken out, in all.
    announced: u64,
    taken: u64,
}

impl Rings {
    /// Rings in memory of [`RINGS`] bytes.
    pub(crate) fn new(region: MmapRegion) -> Self {
        Self {
            region,
            mapped: false,
            announced: 0,
            taken: 0,
        }
    }

    /// Puts bytes into the inbound ring, `before` having been put there.
    pub(super) fn put(&mut self, before: u64, bytes: &[u8]) {
        let at = before % RING;
        let (head, tail) = bytes.split_at(bytes.len().min((RING - at) as usize));
        self.copy_in(at, head);
        self.copy_in(0, tail);
    }

    /// Notes that the guest has put in `total` bytes. Impossible numbers are ignored.
    pub(super) fn announce(&mut self, total: u64) {
        if total > self.announced && total - self.taken <= RING {
            self.announced = total;
        }
    }

    /// True if some of what was put in has not been taken out.
    pub(super) fn has_more(&self) -> bool {
        self.taken < self.announced
    }

    /// Takes out at most `room` bytes of what is there, and hands them on piece by piece; returns how many have been taken
    /// out in all, `None` where there were no more.
    pub(super) fn take(&mut self, room: u64, mut to: impl FnMut(&[u8])) -> Option<u64> {
        let before = self.taken;
        let total = self.announced.min(self.taken.saturating_add(room));
        let most = (total - self.taken).min(RING / 4);
        let mut buffer = vec![0; most as usize];
        while self.taken < total {
            let at = self.taken % RING;
            let count = (total - self.taken).min(RING - at).min(most);
            let piece = &mut buffer[..count as usize];
            self.slice()?.read_slice(piece, (RING + at) as usize).ok()?;
            to(piece);
            self.taken += count;
        }
        (self.taken > before).then_some(self.taken)
    }

    fn copy_in(&self, at: u64, bytes: &[u8]) {
        // It has room for any offset below RING and what fits behind it.
        if let Some(slice) = self.slice() {
            let _ = slice.write_slice(bytes, at as usize);
        }
    }

    fn slice(&self) -> Option<VolatileSlice<'_>> {
        self.region.get_slice(0, RINGS as usize).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_round_and_no_more_than_a_ring_is_believed() {
        let mut rings = Rings::new(MmapRegion::new(RINGS as usize).unwrap());
        let bytes: Vec<u8> = (0..1000u32).map(|n| n as u8).collect();
        rings.put(RING - 300, &bytes);
        let mut seen = vec![0; 1000];
        let slice = rings.slice().unwrap();
        slice
            .read_slice(&mut seen[..300], RING as usize - 300)
            .unwrap();
        slice.read_slice(&mut seen[300..], 0).unwrap();
        assert_eq!(seen, bytes);

        (rings.announced, rings.taken) = (5 * RING - 10, 5 * RING - 10);
        let slice = rings.slice().unwrap();
        slice
            .write_slice(b"0123456789", 2 * RING as usize - 10)
            .unwrap();
        slice.write_slice(b"abc", RING as usize).unwrap();
        let mut out = Vec::new();
        rings.announce(5 * RING + 3);
        // As much as there is room for, and the rest later.
        for (room, total) in [(4, 5 * RING - 6), (0, 0), (1 << 40, 5 * RING + 3)] {
            let taken = rings.take(room, |piece| out.extend_from_slice(piece));
            assert_eq!(taken, Some(total).filter(|_| room > 0));
        }
        assert_eq!(out, b"0123456789abc");
        for wrong in [0, 5 * RING + 2, 5 * RING + 3, 6 * RING + 4, u64::MAX] {
            rings.announce(wrong);
            assert!(!rings.has_more(), "{wrong}");
            let taken = rings.take(RING, |_| panic!("took something"));
            assert_eq!(taken, None, "{wrong}");
        }
    }
}
