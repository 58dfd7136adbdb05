//! Memory that we share with the guest for what is too much for a serial port: standard input, and copied files.
//!
//! Two rings of bytes, and nothing but bytes: how far each side is, it says on the status port in checked frames. What the
//! guest does to the memory meanwhile is its own affair: bytes are copied out before anybody looks at them.

use rdinit::protocol::RING;
use vm_memory::{Bytes, MmapRegion, VolatileMemory, VolatileSlice};

/// The bytes of both rings.
pub const RINGS: u64 = 2 * RING;

/// The rings of one machine.
#[derive(Debug)]
pub struct Rings {
    region: MmapRegion,
    /// PID 1 has them too.
    pub(super) mapped: bool,
    /// How many bytes have been taken out in all.
    taken: u64,
}

impl Rings {
    /// Rings in memory of [`RINGS`] bytes.
    pub fn new(region: MmapRegion) -> Self {
        Self {
            region,
            mapped: false,
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

    /// Takes out what the guest says is there, `total` in all, and hands it on piece by piece; gives how much of that is
    /// new, `None` when it cannot be so much.
    pub(super) fn take(&mut self, total: u64, mut to: impl FnMut(&[u8])) -> Option<u64> {
        let new = total.checked_sub(self.taken)?;
        if new > RING {
            return None;
        }
        let mut buffer = vec![0; RING as usize / 4];
        while self.taken < total {
            let at = self.taken % RING;
            let count = (total - self.taken).min(RING - at).min(buffer.len() as u64);
            let piece = &mut buffer[..count as usize];
            self.slice()?.read_slice(piece, (RING + at) as usize).ok()?;
            to(piece);
            self.taken += count;
        }
        Some(new)
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

        rings.taken = 5 * RING - 10;
        let slice = rings.slice().unwrap();
        slice
            .write_slice(b"0123456789", 2 * RING as usize - 10)
            .unwrap();
        slice.write_slice(b"abc", RING as usize).unwrap();
        let mut out = Vec::new();
        rings
            .take(5 * RING + 3, |piece| out.extend_from_slice(piece))
            .unwrap();
        assert_eq!(out, b"0123456789abc");
        for wrong in [0, 5 * RING + 2, 6 * RING + 4, u64::MAX] {
            assert!(
                rings.take(wrong, |_| panic!("took something")).is_none(),
                "{wrong}"
            );
        }
        let again = rings.take(5 * RING + 3, |_| panic!("took something"));
        assert_eq!(again, Some(0));
    }
}
