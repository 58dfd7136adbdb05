//! Memory that we share with the guest for what is too much for a serial port: standard streams, and copied files.
//!
//! Rings of bytes, and nothing but bytes ([`rdvm_proto::Ring`]). What the guest does to the memory meanwhile has no effect:
//! counters are read once and checked, bytes are copied out before they are looked at.

use std::sync::atomic::{Ordering, fence};

use rdvm_proto::{Counter, RING, Ring, filled};
use vm_memory::{Bytes, MmapRegion, VolatileMemory, VolatileSlice};

pub(crate) use rdvm_proto::RINGS;

/// The rings of one machine.
#[derive(Debug)]
pub(crate) struct Rings {
    region: MmapRegion,
    /// PID 1 has them from the beginning: standard input and files go through them.
    pub(super) mapped: bool,
    stdout: Outbound,
    stderr: Outbound,
    net_out: Outbound,
    /// Bytes that were put into the ring of network frames for the guest.
    net_in: u64,
}

/// Our side of a ring that the guest puts bytes into.
#[derive(Debug, Default)]
struct Outbound {
    taken: u64,
    /// The bytes of the stream that came by its port, once the rest comes through the ring.
    after: Option<u64>,
}

impl Rings {
    /// Rings in memory of [`RINGS`] bytes.
    pub(crate) fn new(region: MmapRegion) -> Self {
        Self {
            region,
            mapped: false,
            stdout: Outbound::default(),
            stderr: Outbound::default(),
            net_out: Outbound::default(),
            net_in: 0,
        }
    }

    /// Puts bytes into an inbound ring, `before` having been put there.
    pub(super) fn put(&mut self, ring: Ring, before: u64, bytes: &[u8]) {
        let at = before % RING;
        let (head, tail) = bytes.split_at(bytes.len().min((RING - at) as usize));
        self.copy_in(ring.offset() + at, head);
        self.copy_in(ring.offset(), tail);
    }

    /// Puts frames for the guest into their ring, for which there must be room. Returns true if the guest is to be rung for, since
    /// it sleeps until something comes.
    pub(super) fn put_net(&mut self, bytes: &[u8]) -> bool {
        self.put(Ring::NetIn, self.net_in, bytes);
        self.net_in += bytes.len() as u64;
        self.set(Ring::NetIn, Counter::Produced, self.net_in);
        // Either it sees the new number before it sleeps, or we see that it does.
        fence(Ordering::SeqCst);
        let wakes = self.counter(Ring::NetIn, Counter::ConsumerSleeps) != 0;
        if wakes {
            self.set(Ring::NetIn, Counter::ConsumerSleeps, 0);
        }
        wakes
    }

    /// Returns how many bytes of frames for the guest have room. Where none have, it rings when there is some.
    pub(super) fn net_room(&self) -> u64 {
        let room = || {
            let consumed = self.counter(Ring::NetIn, Counter::Consumed);
            // One that lies about it gets nothing more.
            filled(self.net_in, consumed).map_or(0, |filled| RING - filled)
        };
        if room() == 0 {
            self.set(Ring::NetIn, Counter::ProducerSleeps, 1);
            fence(Ordering::SeqCst);
        }
        room()
    }

    /// Notes that a stream comes through its ring after so many bytes on its port. The first time counts.
    pub(super) fn switch(&mut self, ring: Ring, after: u64) {
        if let Some(outbound) = self.outbound_mut(ring) {
            outbound.after.get_or_insert(after);
        }
    }

    /// True if a stream comes through its ring, and all of it that came by its port is here: that is so many bytes.
    pub(super) fn is_next(&self, ring: Ring, by_port: u64) -> bool {
        let after = self.outbound(ring).and_then(|outbound| outbound.after);
        after.is_some_and(|after| after <= by_port)
    }

    /// Returns how many bytes a ring has for us. Impossible numbers are none.
    pub(super) fn filled(&self, ring: Ring) -> u64 {
        let taken = self.outbound(ring).map(|outbound| outbound.taken);
        taken
            .and_then(|taken| filled(self.counter(ring, Counter::Produced), taken))
            .unwrap_or(0)
    }

    /// Takes out at most `room` bytes of what is there, and hands them on piece by piece. Returns true if the guest is to be
    /// rung for, since it sleeps until there is room.
    pub(super) fn take(&mut self, ring: Ring, room: u64, mut to: impl FnMut(&[u8])) -> bool {
        let count = self.filled(ring).min(room);
        let Some(mut taken) = self.outbound(ring).map(|outbound| outbound.taken) else {
            return false;
        };
        let total = taken + count;
        let most = count.min(RING / 4);
        let mut buffer = vec![0; most as usize];
        while taken < total {
            let at = taken % RING;
            let count = (total - taken).min(RING - at).min(most);
            let piece = &mut buffer[..count as usize];
            if let Some(slice) = self.slice() {
                // It has room for any offset below RING and what fits behind it.
                let _ = slice.read_slice(piece, (ring.offset() + at) as usize);
            }
            to(piece);
            taken += count;
        }
        if let Some(outbound) = self.outbound_mut(ring) {
            outbound.taken = total;
        }
        self.set(ring, Counter::Consumed, total);
        // Either it sees the new number before it sleeps, or we see that it does.
        fence(Ordering::SeqCst);
        // With the half of it free both sides have something to do.
        let wakes =
            self.counter(ring, Counter::ProducerSleeps) != 0 && self.filled(ring) <= RING / 2;
        if wakes {
            self.set(ring, Counter::ProducerSleeps, 0);
        }
        wakes
    }

    /// Asks the guest to ring when it puts something into one of these rings.
    pub(super) fn sleep(&self, rings: impl IntoIterator<Item = Ring>) {
        for ring in rings {
            self.set(ring, Counter::ConsumerSleeps, 1);
        }
        // Either it sees this when it has put something in, or who calls sees that there is something.
        fence(Ordering::SeqCst);
    }

    fn outbound(&self, ring: Ring) -> Option<&Outbound> {
        match ring {
            Ring::Stdin | Ring::NetIn => None,
            Ring::Stdout => Some(&self.stdout),
            Ring::Stderr => Some(&self.stderr),
            Ring::NetOut => Some(&self.net_out),
        }
    }

    fn outbound_mut(&mut self, ring: Ring) -> Option<&mut Outbound> {
        match ring {
            Ring::Stdin | Ring::NetIn => None,
            Ring::Stdout => Some(&mut self.stdout),
            Ring::Stderr => Some(&mut self.stderr),
            Ring::NetOut => Some(&mut self.net_out),
        }
    }

    fn counter(&self, ring: Ring, counter: Counter) -> u64 {
        let at = ring.counter(counter) as usize;
        let value = self.slice().map(|slice| slice.load(at, Ordering::Acquire));
        // It is aligned, and within the memory.
        u64::from_le(value.and_then(Result::ok).unwrap_or(0))
    }

    fn set(&self, ring: Ring, counter: Counter, value: u64) {
        let at = ring.counter(counter) as usize;
        if let Some(slice) = self.slice() {
            let _ = slice.store(value.to_le(), at, Ordering::Release);
        }
    }

    fn copy_in(&self, at: u64, bytes: &[u8]) {
        // Both lie within a ring.
        if let Some(slice) = self.slice() {
            let _ = slice.write_slice(bytes, at as usize);
        }
    }

    fn slice(&self) -> Option<VolatileSlice<'_>> {
        self.region.get_slice(0, RINGS as usize).ok()
    }
}

/// The guest's side, for tests.
#[cfg(test)]
impl Rings {
    /// Puts bytes into a ring of the guest's, as many as have room; returns true if it would ring.
    pub(super) fn produce(&mut self, ring: Ring, bytes: &[u8]) -> bool {
        let produced = self.counter(ring, Counter::Produced);
        for (at, byte) in (produced..).zip(bytes) {
            let at = (ring.offset() + at % RING) as usize;
            self.slice().unwrap().write_slice(&[*byte], at).unwrap();
        }
        self.lie(ring, Counter::Produced, produced + bytes.len() as u64);
        self.counter(ring, Counter::ConsumerSleeps) != 0
    }

    /// Sets a counter to anything.
    pub(super) fn lie(&mut self, ring: Ring, counter: Counter, value: u64) {
        self.set(ring, counter, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings() -> Rings {
        Rings::new(MmapRegion::new(RINGS as usize).unwrap())
    }

    #[test]
    fn what_goes_in_goes_round() {
        let mut rings = rings();
        let bytes: Vec<u8> = (0..1000u32).map(|n| n as u8).collect();
        rings.put(Ring::Stdin, RING - 300, &bytes);
        let mut seen = vec![0; 1000];
        let slice = rings.slice().unwrap();
        slice
            .read_slice(&mut seen[..300], RING as usize - 300)
            .unwrap();
        slice.read_slice(&mut seen[300..], 0).unwrap();
        assert_eq!(seen, bytes);
    }

    #[test]
    fn bytes_come_out_as_there_is_room_and_no_more_than_a_ring_is_believed() {
        let mut rings = rings();
        for ring in [Ring::Stdout, Ring::Stderr] {
            let start = 5 * RING - 10;
            rings.outbound_mut(ring).unwrap().taken = start;
            rings.lie(ring, Counter::Produced, start);
            rings.produce(ring, b"0123456789abc");
            let mut out = Vec::new();
            for (room, filled) in [(4, 9), (0, 9), (1 << 40, 0)] {
                assert!(!rings.take(ring, room, |piece| out.extend_from_slice(piece)));
                assert_eq!(rings.filled(ring), filled);
            }
            assert_eq!(out, b"0123456789abc");
            assert_eq!(rings.counter(ring, Counter::Consumed), 5 * RING + 3);
            for wrong in [0, 5 * RING + 2, 5 * RING + 3, 6 * RING + 4, u64::MAX] {
                rings.lie(ring, Counter::Produced, wrong);
                assert_eq!(rings.filled(ring), 0, "{wrong}");
                rings.take(ring, RING, |_| panic!("took something"));
            }
        }
    }

    #[test]
    fn frames_for_the_guest_have_room_as_it_takes_them_and_wake_it() {
        let mut rings = rings();
        assert!(!rings.put_net(&[1; 100]), "it is awake");
        rings.lie(Ring::NetIn, Counter::ConsumerSleeps, 1);
        assert!(
            rings.put_net(&[2; 100]) && !rings.put_net(&[3; 100]),
            "once"
        );
        assert_eq!(rings.net_room(), RING - 300);
        rings.put_net(&vec![4; RING as usize - 300]);
        assert_eq!(rings.counter(Ring::NetIn, Counter::ProducerSleeps), 0);
        assert_eq!(rings.net_room(), 0);
        assert_eq!(rings.counter(Ring::NetIn, Counter::ProducerSleeps), 1);
        rings.lie(Ring::NetIn, Counter::Consumed, 200);
        assert_eq!(rings.net_room(), 200);
        rings.put_net(&[5; 200]);
        let mut seen = [0; 201];
        let at = Ring::NetIn.offset() as usize;
        rings.slice().unwrap().read_slice(&mut seen, at).unwrap();
        assert_eq!((seen[0], seen[199], seen[200]), (5, 5, 3));
        for lie in [0, RING + 201, u64::MAX] {
            rings.lie(Ring::NetIn, Counter::Consumed, lie);
            assert_eq!(rings.net_room(), 0, "{lie}");
        }
    }

    #[test]
    fn who_sleeps_is_woken_and_nobody_else() {
        let mut rings = rings();
        let full = vec![7; RING as usize];
        assert!(!rings.produce(Ring::Stdout, &full), "we are awake");
        rings.sleep([Ring::Stdout]);
        assert!(rings.produce(Ring::Stdout, b""));
        assert!(!rings.produce(Ring::Stderr, b"x"), "not for this one");
        assert!(!rings.take(Ring::Stdout, RING / 2, |_| ()), "it is awake");
        rings.lie(Ring::Stdout, Counter::ProducerSleeps, 1);
        rings.produce(Ring::Stdout, b"xy");
        assert!(!rings.take(Ring::Stdout, 1, |_| ()), "there is little room");
        assert!(rings.take(Ring::Stdout, 1, |_| ()));
        assert!(!rings.take(Ring::Stdout, 1, |_| ()), "once");
    }
}
