//! PID 1's side of the rings that counters belong to.

use crate::init::send;
use crate::sys::{self, Shared};
use rdvm_proto::{Counter, Event, RING, RINGS, Ring, filled};

/// The shared memory: mapped when it is needed first.
pub(crate) struct Rings {
    /// Physical address; zero where there are none.
    at: u64,
    memory: Option<Shared>,
}

impl Rings {
    pub(crate) fn new(at: u64) -> Self {
        Self { at, memory: None }
    }

    /// False once it is known that there are none.
    pub(crate) fn may_be_had(&self) -> bool {
        self.at > 0 || self.memory.is_some()
    }

    /// The memory; `None` where there is none, or the kernel does not give it out.
    pub(crate) fn memory(&mut self) -> Option<Shared> {
        if self.at > 0 && self.memory.is_none() {
            self.memory = Shared::map(self.at, RINGS).ok();
            // One try is enough.
            self.at = 0;
        }
        self.memory
    }
}

/// A ring that bytes are put into, and the status port.
pub(crate) struct Outbound {
    memory: Shared,
    ring: Ring,
    status: i32,
    produced: u64,
}

impl Outbound {
    pub(crate) fn new(memory: Shared, ring: Ring, status: i32) -> Self {
        let produced = memory.load(ring.counter(Counter::Produced) as usize);
        Self {
            memory,
            ring,
            status,
            produced,
        }
    }

    /// True if so many bytes have room. If not the host will ring when half of the ring has; it lets output gather meanwhile, so
    /// it is told that there is no more to wait for.
    pub(crate) fn has_room(&self, count: usize) -> bool {
        if self.room() >= count {
            return true;
        }
        let was_asleep = self.memory.load(self.counter(Counter::ProducerSleeps)) != 0;
        self.set(Counter::ProducerSleeps, 1);
        // Either the host sees that we sleep, or we see what it has taken.
        Shared::settle();
        let has_room = self.room() >= count;
        if !has_room && !was_asleep {
            send(self.status, &Event::Bell);
        }
        has_room
    }

    fn room(&self) -> usize {
        let consumed = self.memory.load(self.counter(Counter::Consumed));
        // A host that lies about it gets nothing more.
        filled(self.produced, consumed).map_or(0, |filled| (RING - filled) as usize)
    }

    /// Reads from a descriptor into the ring, at most what has room in one piece; gives how many bytes came, zero at the end.
    /// `EAGAIN` where there is no room.
    pub(crate) fn read_from(&mut self, fd: i32) -> sys::Result<usize> {
        let (at, room) = self.place();
        if room == 0 {
            return Err(sys::EAGAIN);
        }
        let count = self.memory.read_from(fd, at, room)?;
        self.produce(count);
        Ok(count)
    }

    /// Copies as many of `bytes` as have room in one piece; gives how many.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> usize {
        let (at, room) = self.place();
        let count = room.min(bytes.len());
        self.memory.put(at, &bytes[..count]);
        self.produce(count);
        count
    }

    /// Copies all of `bytes`; nothing where not all of them have room, since a part of a frame is worse than none.
    pub(crate) fn put_all(&mut self, bytes: &[u8]) {
        if self.room() >= bytes.len() {
            let count = self.put(bytes);
            self.put(&bytes[count..]);
        }
    }

    fn place(&self) -> (usize, usize) {
        let at = (self.produced % RING) as usize;
        let offset = self.ring.offset() as usize + at;
        (offset, self.room().min(RING as usize - at))
    }

    /// Tells the host of `count` bytes more, and rings if it sleeps.
    fn produce(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        self.produced += count as u64;
        self.set(Counter::Produced, self.produced);
        // Either the host sees the new number before it sleeps, or we see that it does.
        Shared::settle();
        if self.memory.load(self.counter(Counter::ConsumerSleeps)) != 0 {
            self.set(Counter::ConsumerSleeps, 0);
            send(self.status, &Event::Bell);
        }
    }

    fn counter(&self, counter: Counter) -> usize {
        self.ring.counter(counter) as usize
    }

    fn set(&self, counter: Counter, value: u64) {
        self.memory.store(self.counter(counter), value);
    }
}
/// A ring that bytes are taken from, and the status port.
pub(crate) struct Inbound {
    memory: Shared,
    ring: Ring,
    status: i32,
    consumed: u64,
}

impl Inbound {
    pub(crate) fn new(memory: Shared, ring: Ring, status: i32) -> Self {
        Self {
            memory,
            ring,
            status,
            consumed: 0,
        }
    }

    fn filled(&self) -> u64 {
        let produced = self
            .memory
            .load(self.ring.counter(Counter::Produced) as usize);
        // A host that lies about it is not believed.
        filled(produced, self.consumed).unwrap_or(0)
    }

    /// Copies bytes from `skip` behind the next one on, and takes none out. False if there are not so many.
    pub(crate) fn peek(&self, skip: usize, to: &mut [u8]) -> bool {
        if (self.filled() as usize) < skip + to.len() {
            return false;
        }
        let at = ((self.consumed + skip as u64) % RING) as usize;
        let (head, tail) = to.split_at_mut(to.len().min(RING as usize - at));
        let offset = self.ring.offset() as usize;
        self.memory.get(offset + at, head);
        self.memory.get(offset, tail);
        true
    }

    /// True if there are so many bytes.
    pub(crate) fn has(&self, count: usize) -> bool {
        self.filled() as usize >= count
    }

    /// Takes as many bytes as there are and have room; gives how many.
    pub(crate) fn take(&mut self, to: &mut [u8]) -> usize {
        let count = to.len().min(self.filled() as usize);
        self.peek(0, &mut to[..count]);
        self.consume(count);
        count
    }

    /// Takes out bytes that are there.
    pub(crate) fn consume(&mut self, count: usize) {
        if count > 0 {
            self.consumed += count as u64;
            self.set(Counter::Consumed, self.consumed);
            // Either the host sees the new number before it sleeps, or we see that it does.
            Shared::settle();
            let sleeps = self.ring.counter(Counter::ProducerSleeps) as usize;
            if self.memory.load(sleeps) != 0 && self.filled() <= RING / 2 {
                self.memory.store(sleeps, 0);
                send(self.status, &Event::Bell);
            }
        }
    }

    /// Asks the host to ring when it puts something in. False if there is something already.
    pub(crate) fn sleeps(&self) -> bool {
        self.set(Counter::ConsumerSleeps, 1);
        // Either the host sees this when it has put something in, or we see what it put in.
        Shared::settle();
        self.filled() == 0
    }

    fn set(&self, counter: Counter, value: u64) {
        self.memory
            .store(self.ring.counter(counter) as usize, value);
    }
}
