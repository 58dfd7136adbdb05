//! The streams of one end of a link, and the outcome of every frame that comes in: a state machine without bytes, sockets or
//! clocks. Both ends use it.
//!
//! Each end numbers the streams that it opens upwards, the guest 2, 4, 6 and the host 1, 3, 5, and has at most [`NET_STREAMS`]
//! of them at once. Numbers are never used again, which is how an old frame is told from a wrong one:
//!
//! | frame | outcome |
//! |---|---|
//! | for a stream that is there | [`NetEvent`], unless it breaks a rule below |
//! | for one that is over | [`NetEvent::Late`]: ignored, as it was sent before the sender knew |
//! | for one that never was; a number that is not higher than the last opened one; a number or port that only the other end may use | [`NetError`]: the link is closed |
//! | data beyond the credit, data or a second finish after a finish, credit beyond [`NET_WINDOW`] | [`NetError`] |
//! | an open beyond [`NET_STREAMS`] | [`NetEvent::Full`]: answered by a reset |
//!
//! An end reads frames whether or not it can write at the time, so that two ends never wait for each other.

use core::fmt;

use crate::{NET_PAYLOAD, NetFrame, NetKind};

/// The credit with which a stream begins, and the most that there is: bytes that the receiver must be able to keep.
pub const NET_WINDOW: u32 = 64 << 10;
/// Streams that one end has open at once, at most.
pub const NET_STREAMS: usize = 64;
/// Streams at once, at most: slots below this number.
pub const NET_SLOTS: usize = 2 * NET_STREAMS;
/// Bytes that are passed on before the sender gets credit for them.
const GRANT: u32 = NET_WINDOW / 4;

/// An end of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetSide {
    /// PID 1, which opens streams with even numbers.
    Guest,
    /// The proxy, which opens streams with odd numbers.
    Host,
}

/// The outcome of a frame. Slots are places below [`NET_SLOTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetEvent {
    /// A stream begins, to this port.
    Opened(usize, u16),
    /// There is no room for another stream; answer with a reset.
    Full,
    /// Keep or pass on the frame's bytes, and say so by [`NetStreams::passed_on`].
    Data(usize),
    /// More may be sent.
    Credit(usize),
    /// No more data comes.
    Finished(usize),
    /// The stream is over; its slot is free already.
    Reset(usize),
    /// The stream is over for this end; nothing is to be done.
    Late,
}

/// A frame that the other end may not send. The link is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetError {
    /// For a stream that was never opened.
    Unknown,
    /// Opens a number that is not higher than the last, or not the sender's to open.
    BadNumber,
    /// Opens a port that the sender may not open.
    BadPort,
    /// More data than there was credit for.
    BeyondCredit,
    /// Data, or a second finish, behind the finish.
    AfterFinish,
    /// More credit than the window.
    BeyondWindow,
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "a frame for a stream that was never opened",
            Self::BadNumber => "a stream opened under a number that is not its sender's next",
            Self::BadPort => "a stream opened to a port that its sender cannot open",
            Self::BeyondCredit => "more data than there was credit for",
            Self::AfterFinish => "data behind the end of a stream",
            Self::BeyondWindow => "more credit than the window",
        })
    }
}

/// A stream; its number is 0 where there is none.
#[derive(Debug, Clone, Copy)]
struct Slot {
    stream: u32,
    /// Bytes that this end may send.
    to_send: u32,
    /// Bytes that the other end may send.
    to_receive: u32,
    /// Bytes that were passed on and not yet granted.
    owed: u32,
    sent_finish: bool,
    received_finish: bool,
}

const FREE: Slot = Slot {
    stream: 0,
    to_send: 0,
    to_receive: 0,
    owed: 0,
    sent_finish: false,
    received_finish: false,
};

/// The streams of one end.
#[derive(Debug)]
pub struct NetStreams {
    side: NetSide,
    slots: [Slot; NET_SLOTS],
    /// The lowest even and odd number that was not opened. Wider than a number, which thereby never begins again.
    next: [u64; 2],
}

impl NetStreams {
    /// Returns an end without streams.
    pub const fn new(side: NetSide) -> Self {
        Self {
            side,
            slots: [FREE; NET_SLOTS],
            next: [2, 1],
        }
    }

    /// Opens a stream: returns its slot and the number for the frame that must be sent next. `None` if there are
    /// [`NET_STREAMS`] of this end's, or no numbers are left.
    pub fn open(&mut self) -> Option<(usize, u32)> {
        let parity = usize::from(self.side == NetSide::Host);
        let stream = u32::try_from(self.next[parity]).ok()?;
        let slot = self.place(stream)?;
        self.next[parity] += 2;
        Some((slot, stream))
    }

    /// Returns true if [`NetStreams::open`] has room.
    pub fn has_room(&self) -> bool {
        let parity = u32::from(self.side == NetSide::Host);
        self.next[parity as usize] <= u64::from(u32::MAX)
            && places(parity).any(|place| self.slots[place].stream == 0)
    }

    /// Takes note of a frame that came in.
    ///
    /// # Errors
    ///
    /// The other end may not send this frame.
    pub fn receive(&mut self, frame: &NetFrame<'_>) -> Result<NetEvent, NetError> {
        if let NetKind::Open(port) = frame.kind {
            return self.opened(frame.stream, port);
        }
        let parity = frame.stream as usize % 2;
        if u64::from(frame.stream) >= self.next[parity] {
            return Err(NetError::Unknown);
        }
        let Some(place) = self.find(frame.stream) else {
            return Ok(NetEvent::Late);
        };
        let slot = &mut self.slots[place];
        match frame.kind {
            NetKind::Data(_) | NetKind::Finish if slot.received_finish => {
                Err(NetError::AfterFinish)
            }
            NetKind::Data(bytes) => {
                let rest = slot.to_receive.checked_sub(bytes.len() as u32);
                slot.to_receive = rest.ok_or(NetError::BeyondCredit)?;
                Ok(NetEvent::Data(place))
            }
            NetKind::Credit(count) => {
                let sum = slot.to_send.checked_add(count);
                let sum = sum.filter(|&sum| sum <= NET_WINDOW);
                slot.to_send = sum.ok_or(NetError::BeyondWindow)?;
                Ok(NetEvent::Credit(place))
            }
            NetKind::Finish => {
                slot.received_finish = true;
                Ok(NetEvent::Finished(place))
            }
            NetKind::Reset => {
                *slot = FREE;
                Ok(NetEvent::Reset(place))
            }
            NetKind::Open(_) => Err(NetError::BadNumber),
        }
    }

    fn opened(&mut self, stream: u32, port: u16) -> Result<NetEvent, NetError> {
        let parity = usize::from(self.side == NetSide::Guest);
        if stream as usize % 2 != parity || u64::from(stream) < self.next[parity] {
            return Err(NetError::BadNumber);
        }
        if (port == 0) != (self.side == NetSide::Host) {
            return Err(NetError::BadPort);
        }
        self.next[parity] = u64::from(stream) + 2;
        let place = self.place(stream);
        Ok(place.map_or(NetEvent::Full, |place| NetEvent::Opened(place, port)))
    }

    fn place(&mut self, stream: u32) -> Option<usize> {
        let place = places(stream).find(|&place| self.slots[place].stream == 0)?;
        self.slots[place] = Slot {
            stream,
            to_send: NET_WINDOW,
            to_receive: NET_WINDOW,
            ..FREE
        };
        Some(place)
    }

    fn find(&self, stream: u32) -> Option<usize> {
        places(stream).find(|&place| self.slots[place].stream == stream)
    }

    /// Returns the number of the stream in this slot; `None` if there is none.
    pub fn stream(&self, slot: usize) -> Option<u32> {
        Some(self.slots[slot].stream).filter(|&stream| stream != 0)
    }

    /// Returns how many bytes the next frame of this stream may have; 0 if none may be sent now.
    pub fn room(&self, slot: usize) -> usize {
        match &self.slots[slot] {
            slot if slot.sent_finish => 0,
            slot => NET_PAYLOAD.min(slot.to_send as usize),
        }
    }

    /// Takes note that a frame with so many bytes, at most [`NetStreams::room`], is sent.
    pub fn sent(&mut self, slot: usize, bytes: usize) {
        let slot = &mut self.slots[slot];
        slot.to_send = slot.to_send.saturating_sub(bytes as u32);
    }

    /// Takes note that a finish is sent. Returns true if it is to be sent, that is the first time.
    pub fn finish(&mut self, slot: usize) -> bool {
        let slot = &mut self.slots[slot];
        slot.stream != 0 && !core::mem::replace(&mut slot.sent_finish, true)
    }

    /// Takes note that so many of the received bytes were passed on, and no longer need to be kept.
    pub fn passed_on(&mut self, slot: usize, bytes: usize) {
        let slot = &mut self.slots[slot];
        let kept = NET_WINDOW - slot.to_receive - slot.owed;
        slot.owed += kept.min(bytes as u32);
    }

    /// Returns the credit that is to be sent now, if it is worth a frame.
    pub fn grant(&mut self, slot: usize) -> Option<u32> {
        let slot = &mut self.slots[slot];
        if slot.owed < GRANT || slot.received_finish {
            return None;
        }
        let owed = core::mem::take(&mut slot.owed);
        slot.to_receive += owed;
        Some(owed)
    }

    /// Returns true if the other end has sent a finish.
    pub fn has_received_finish(&self, slot: usize) -> bool {
        self.slots[slot].received_finish
    }

    /// Returns true if both ends have sent a finish: the slot is to be released once its bytes were passed on.
    pub fn is_finished(&self, slot: usize) -> bool {
        self.slots[slot].sent_finish && self.slots[slot].received_finish
    }

    /// Frees a slot, either since the stream [is finished](NetStreams::is_finished) or since a reset for it is sent. Frames that
    /// are still under way are late.
    pub fn release(&mut self, slot: usize) {
        self.slots[slot] = FREE;
    }
}

/// The places of streams with such a number.
fn places(stream: u32) -> core::ops::Range<usize> {
    let first = stream as usize % 2 * NET_STREAMS;
    first..first + NET_STREAMS
}

#[cfg(test)]
mod tests {
    use super::*;
    use NetEvent::*;

    const WINDOW: usize = NET_WINDOW as usize;
    static BYTES: [u8; NET_PAYLOAD] = [b'x'; NET_PAYLOAD];

    fn receive(end: &mut NetStreams, stream: u32, kind: NetKind<'_>) -> Result<NetEvent, NetError> {
        end.receive(&NetFrame { stream, kind })
    }

    fn data(length: usize) -> NetKind<'static> {
        NetKind::Data(&BYTES[..length])
    }

    /// An end of the host with the guest's streams 2 (slot 0) and 4 (slot 1).
    fn host() -> NetStreams {
        let mut end = NetStreams::new(NetSide::Host);
        for (slot, stream) in [(0, 2), (1, 4)] {
            let opened = receive(&mut end, stream, NetKind::Open(0));
            assert_eq!(opened, Ok(Opened(slot, 0)));
        }
        end
    }

    #[test]
    fn each_frame_that_may_not_be_sent_has_its_error() {
        let cases: [(u32, NetKind<'_>, NetError); 14] = [
            // Never opened, by the guest and by the host.
            (6, data(1), NetError::Unknown),
            (1, data(1), NetError::Unknown),
            (6, NetKind::Credit(1), NetError::Unknown),
            (6, NetKind::Finish, NetError::Unknown),
            (u32::MAX, NetKind::Reset, NetError::Unknown),
            // Open, over, or the host's to open.
            (4, NetKind::Open(0), NetError::BadNumber),
            (2, NetKind::Open(0), NetError::BadNumber),
            (1, NetKind::Open(0), NetError::BadNumber),
            (u32::MAX, NetKind::Open(0), NetError::BadNumber),
            (6, NetKind::Open(80), NetError::BadPort),
            (2, NetKind::Credit(1), NetError::BeyondWindow),
            (2, NetKind::Credit(u32::MAX), NetError::BeyondWindow),
            (4, data(1), NetError::AfterFinish),
            (4, NetKind::Finish, NetError::AfterFinish),
        ];
        for (stream, kind, error) in cases {
            let mut end = host();
            assert_eq!(receive(&mut end, 4, NetKind::Finish), Ok(Finished(1)));
            let received = receive(&mut end, stream, kind);
            assert_eq!(received, Err(error), "{stream} {kind:?}");
        }
        let mut guest = NetStreams::new(NetSide::Guest);
        let mut opened = |stream, port| receive(&mut guest, stream, NetKind::Open(port));
        assert_eq!(opened(1, 0), Err(NetError::BadPort));
        assert_eq!(opened(2, 80), Err(NetError::BadNumber));
        assert_eq!(opened(1, 80), Ok(Opened(NET_STREAMS, 80)));
    }

    #[test]
    fn data_is_received_as_far_as_there_is_credit_and_not_a_byte_beyond() {
        let mut end = host();
        for _ in 0..WINDOW / NET_PAYLOAD {
            assert_eq!(receive(&mut end, 2, data(NET_PAYLOAD)), Ok(Data(0)));
        }
        assert_eq!(
            receive(&mut end, 2, data(1)),
            Err(NetError::BeyondCredit),
            "the window is full"
        );
        // A little is not worth a frame; what was granted may be sent.
        end.passed_on(0, GRANT as usize - 1);
        assert_eq!(end.grant(0), None);
        end.passed_on(0, 1);
        assert_eq!(end.grant(0), Some(GRANT));
        assert_eq!(end.grant(0), None);
        assert_eq!(receive(&mut end, 2, data(NET_PAYLOAD)), Ok(Data(0)));
        assert_eq!(receive(&mut end, 2, data(1)), Err(NetError::BeyondCredit));
        // More than was received cannot be passed on, so that the window does not grow.
        end.passed_on(0, 2 * WINDOW);
        assert_eq!(end.grant(0), Some(NET_WINDOW));
        // The other stream has its own window, and no credit is sent behind its end.
        assert_eq!(receive(&mut end, 4, data(NET_PAYLOAD)), Ok(Data(1)));
        assert_eq!(receive(&mut end, 4, NetKind::Finish), Ok(Finished(1)));
        end.passed_on(1, NET_PAYLOAD);
        assert_eq!(end.grant(1), None);
    }

    #[test]
    fn data_is_sent_as_far_as_there_is_credit() {
        let mut end = host();
        for sent in 0..WINDOW / NET_PAYLOAD {
            assert_eq!(end.room(0), NET_PAYLOAD, "after {sent}");
            end.sent(0, NET_PAYLOAD);
        }
        assert_eq!(end.room(0), 0);
        assert_eq!(receive(&mut end, 2, NetKind::Credit(5)), Ok(Credit(0)));
        assert_eq!(end.room(0), 5);
        assert!(end.finish(0) && !end.finish(0), "a finish is sent once");
        assert_eq!(end.room(0), 0, "nothing is sent behind a finish");
    }

    #[test]
    fn frames_for_a_stream_that_is_over_are_late() {
        let late = [
            data(1),
            NetKind::Credit(NET_WINDOW),
            NetKind::Finish,
            NetKind::Reset,
        ];
        // Reset by this end, reset by the other, finished by both.
        for way in 0..3 {
            let mut end = host();
            match way {
                0 => end.release(0),
                1 => assert_eq!(receive(&mut end, 2, NetKind::Reset), Ok(Reset(0))),
                _ => {
                    assert_eq!(receive(&mut end, 2, NetKind::Finish), Ok(Finished(0)));
                    assert!(!end.is_finished(0));
                    assert!(end.finish(0) && end.is_finished(0));
                    end.release(0);
                }
            }
            assert_eq!(end.stream(0), None);
            for kind in late {
                assert_eq!(receive(&mut end, 2, kind), Ok(Late));
            }
            let again = receive(&mut end, 2, NetKind::Open(0));
            assert_eq!(again, Err(NetError::BadNumber));
            // The slot is used again, by a higher number; numbers may be left out.
            let next = receive(&mut end, 1000, NetKind::Open(0));
            assert_eq!(next, Ok(Opened(0, 0)));
            assert_eq!(receive(&mut end, 998, data(1)), Ok(Late));
        }
    }

    #[test]
    fn streams_are_limited_for_each_end_and_one_too_many_is_not_an_error() {
        let mut end = NetStreams::new(NetSide::Host);
        for at in 0..NET_STREAMS {
            let stream = 2 * at as u32 + 2;
            let opened = receive(&mut end, stream, NetKind::Open(0));
            assert_eq!(opened, Ok(Opened(at, 0)));
        }
        assert_eq!(receive(&mut end, 200, NetKind::Open(0)), Ok(Full));
        assert_eq!(receive(&mut end, 200, data(1)), Ok(Late));
        for at in 0..NET_STREAMS {
            let stream = 2 * at as u32 + 1;
            assert_eq!(end.open(), Some((NET_STREAMS + at, stream)));
            assert_eq!(end.stream(NET_STREAMS + at), Some(stream));
        }
        assert!(!end.has_room());
        assert_eq!(end.open(), None);
        end.release(NET_STREAMS + 7);
        assert!(end.has_room());
        assert_eq!(end.open(), Some((NET_STREAMS + 7, 129)));
    }

    #[test]
    fn numbers_end_and_do_not_begin_again() {
        let mut end = NetStreams::new(NetSide::Host);
        let last = receive(&mut end, u32::MAX - 1, NetKind::Open(0));
        assert_eq!(last, Ok(Opened(0, 0)));
        end.release(0);
        for stream in [2, u32::MAX - 1] {
            let opened = receive(&mut end, stream, NetKind::Open(0));
            assert_eq!(opened, Err(NetError::BadNumber));
        }
        end.next[1] = u64::from(u32::MAX);
        assert_eq!(end.open(), Some((NET_STREAMS, u32::MAX)));
        assert_eq!(end.open(), None);
    }

    /// Two ends with random work: what one may send, the other may receive, and no stream stays behind.
    #[test]
    fn two_ends_agree_whatever_order_frames_come_in() {
        let mut seed = 1u64;
        let mut random = |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % below as u64) as usize
        };
        let mut ends = [
            NetStreams::new(NetSide::Guest),
            NetStreams::new(NetSide::Host),
        ];
        let mut wires: [alloc::collections::VecDeque<(u32, NetKind<'static>)>; 2] =
            Default::default();
        let mut opened = [0; 2];
        for step in 0..200_000 {
            let me = random(2);
            let slot = random(NET_SLOTS);
            let stream = ends[me].stream(slot);
            let end = &mut ends[me];
            let frame = match (random(8), stream) {
                (0, _) => end.open().map(|(_, stream)| {
                    opened[me] += 1;
                    (stream, NetKind::Open(if me == 0 { 0 } else { 80 }))
                }),
                (1, Some(stream)) => end.finish(slot).then_some((stream, NetKind::Finish)),
                (2, Some(stream)) if random(10) == 0 => {
                    end.release(slot);
                    Some((stream, NetKind::Reset))
                }
                (3..=5, Some(stream)) if end.room(slot) > 0 => {
                    let length = 1 + random(end.room(slot));
                    end.sent(slot, length);
                    Some((stream, data(length)))
                }
                (6, Some(stream)) => {
                    end.passed_on(slot, random(WINDOW));
                    end.grant(slot)
                        .map(|count| (stream, NetKind::Credit(count)))
                }
                _ => None,
            };
            wires[me].extend(frame);
            if let Some(slot) = stream.map(|_| slot).filter(|&slot| end.is_finished(slot)) {
                end.release(slot);
            }
            // The other end reads some of what is under way.
            for _ in 0..random(3) {
                let Some((stream, kind)) = wires[1 - me].pop_front() else {
                    break;
                };
                let event = ends[me].receive(&NetFrame { stream, kind });
                let event = event.unwrap_or_else(|error| panic!("{step}: {kind:?}: {error}"));
                if event == Full {
                    wires[me].push_back((stream, NetKind::Reset));
                }
            }
        }
        assert!(opened.iter().all(|&count| count > 1000), "{opened:?}");
    }
}
