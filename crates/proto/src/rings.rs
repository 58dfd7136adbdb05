//! Memory that host and guest share for what is too much for a serial port: rings of bytes, one for each stream.
//!
//! The byte with number N of a stream stands at N modulo [`RING`] of its ring. How far each side is stands behind the rings,
//! in [`Counter`]s. Whoever goes to sleep says so there, looks once more, and is woken by a bell, a single byte on
//! the status port; whoever is awake is not rung for. Nothing that stands here is believed without a check.

/// Bytes of a ring.
pub const RING: u64 = 1 << 20;
/// Bytes of all rings and of the counters behind them.
pub const RINGS: u64 = COUNT * RING + COUNTERS;

const COUNT: u64 = 5;
/// Far more than they take: sizes of memory are rounded, by 8 KiB in QEMU.
const COUNTERS: u64 = 64 << 10;
/// Each counter has a line of the processor's caches to itself.
const LINE: u64 = 64;

/// A stream that has a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Ring {
    /// Host to guest: standard input. Its counters are not used: each side says on the status port how far it is.
    Stdin = 0,
    /// Guest to host: standard output; then the frames of copied files.
    Stdout = 1,
    /// Guest to host: standard error.
    Stderr = 2,
    /// Host to guest: frames of network streams ([`NetFrame`](crate::NetFrame)).
    NetIn = 3,
    /// Guest to host: the same.
    NetOut = 4,
}

/// A number of a ring, in eight bytes, least significant first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Counter {
    /// Bytes that have been put in, in all.
    Produced = 0,
    /// Bytes that have been taken out, in all.
    Consumed = 1,
    /// Not zero while the side that takes out sleeps. Who rings clears it.
    ConsumerSleeps = 2,
    /// Not zero while the side that puts in sleeps, since there is no room.
    ProducerSleeps = 3,
}

impl Ring {
    /// The ring of this number.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Stdin,
            Self::Stdout,
            Self::Stderr,
            Self::NetIn,
            Self::NetOut,
        ]
        .into_iter()
        .find(|ring| *ring as u8 == byte)
    }

    /// Where the ring begins in the shared memory.
    pub fn offset(self) -> u64 {
        self as u64 * RING
    }

    /// Where one of its counters stands.
    pub fn counter(self, counter: Counter) -> u64 {
        COUNT * RING + (self as u64 * 4 + counter as u64) * LINE
    }
}

/// Returns the bytes that may be taken out when `produced` have been put in and `consumed` taken out; `None` where that cannot be.
pub fn filled(produced: u64, consumed: u64) -> Option<u64> {
    produced
        .checked_sub(consumed)
        .filter(|&count| count <= RING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stands_where_something_else_does() {
        let mut places = alloc::vec::Vec::new();
        for ring in (0..5).filter_map(Ring::from_byte) {
            places.push(ring.offset()..ring.offset() + RING);
            for counter in [
                Counter::Produced,
                Counter::Consumed,
                Counter::ConsumerSleeps,
                Counter::ProducerSleeps,
            ] {
                let at = ring.counter(counter);
                assert_eq!(at % LINE, 0);
                places.push(at..at + LINE);
            }
        }
        places.sort_by_key(|place| place.start);
        assert!(places.windows(2).all(|pair| pair[0].end <= pair[1].start));
        assert!(places.iter().all(|place| place.end <= RINGS));
        assert_eq!((places.len(), Ring::from_byte(5)), (25, None));
    }

    #[test]
    fn more_than_a_ring_holds_and_less_than_nothing_is_a_lie() {
        assert_eq!(filled(5, 5), Some(0));
        assert_eq!(filled(RING + 5, 5), Some(RING));
        assert_eq!(filled(RING + 6, 5), None);
        assert_eq!(filled(4, 5), None);
        assert_eq!(filled(u64::MAX, 0), None);
    }
}
