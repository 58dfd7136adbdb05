//! TCP connections of the guest's loopback, carried through two rings to the proxy on the host and back.
//!
//! A connection to [`NET_PORT`] becomes a stream to the proxy, and a stream that the host opens a connection to a port of the
//! guest. Each has a window of its own ([`NetStreams`]), so that one whose reader sleeps stops no other.

use crate::rings::{Inbound, Outbound};
use crate::sys::{self, PollFd};
use rdvm_proto::{
    FrameError, NET_HEAD, NET_MAX, NET_PAYLOAD, NET_PORT, NET_SLOTS, NET_STREAMS, NET_WINDOW,
    NetEvent, NetFrame, NetKind, NetSide, NetStreams,
};

/// Time for which a connection from the host waits for somebody who listens in the guest.
const PATIENCE: u64 = 10_000_000_000;
/// Time between two tries.
const RETRY_MS: i32 = 100;
/// Room for every frame without data that can be due at a time: credit, finish and reset of each stream.
const CONTROL: usize = 3 * (NET_HEAD + 4) * NET_SLOTS;
const WINDOW: usize = NET_WINDOW as usize;

/// An end of a connection; what the host sent and the connection has not taken.
struct End {
    /// Negative before it is connected, and where the slot is free.
    fd: i32,
    /// The port to connect to, and since when, until there is a connection.
    wanted: Option<(u16, u64)>,
    buffer: &'static mut [u8],
    kept: core::ops::Range<usize>,
    /// Nothing more can be read from it.
    has_ended: bool,
    /// The host has no more data, and the connection was told.
    was_finished: bool,
}

impl End {
    /// Room for bytes behind those that are kept, which counts as kept; empty where there is no buffer.
    fn make_room(&mut self, length: usize) -> &mut [u8] {
        // No more than the window is kept, and that is what the buffer holds.
        if self.kept.end + length > self.buffer.len() {
            self.buffer.copy_within(self.kept.clone(), 0);
            self.kept = 0..self.kept.len();
        }
        let place = self.kept.end..self.kept.end + length;
        match self.buffer.get_mut(place.clone()) {
            Some(room) => {
                self.kept.end = place.end;
                room
            }
            None => &mut [],
        }
    }
}

/// All streams of the guest.
pub(crate) struct Net {
    streams: NetStreams,
    ends: [End; NET_SLOTS],
    listener: i32,
    outbound: Outbound,
    inbound: Inbound,
    /// The frame that is being received.
    frame: &'static mut [u8],
    filled: usize,
    /// Bytes read from a connection, behind room for a frame's head.
    read: &'static mut [u8],
    /// Streams that had no slot, to be reset.
    refused: [u32; NET_STREAMS],
    refused_count: usize,
    is_broken: bool,
}

/// Entries in the set of [`Net::wants`].
pub(crate) const NET_POLL: usize = 1 + NET_SLOTS;

impl Net {
    /// Listens if there is a proxy.
    pub(crate) fn new(has_proxy: bool, outbound: Outbound, inbound: Inbound) -> sys::Result<Self> {
        let free = |_| End {
            fd: -1,
            wanted: None,
            buffer: &mut [],
            kept: 0..0,
            has_ended: false,
            was_finished: false,
        };
        Ok(Self {
            streams: NetStreams::new(NetSide::Guest),
            ends: core::array::from_fn(free),
            listener: match has_proxy {
                true => sys::listen(NET_PORT)?,
                false => -1,
            },
            outbound,
            inbound,
            frame: sys::allocate(NET_MAX)?,
            filled: 0,
            read: sys::allocate(NET_MAX)?,
            refused: [0; NET_STREAMS],
            refused_count: 0,
            is_broken: false,
        })
    }

    /// Fills in the entries to wait for, [`NET_POLL`] of them; gives the most milliseconds to wait, negative for ever.
    pub(crate) fn wants(&mut self, set: &mut [PollFd]) -> i32 {
        let (may_read, may_accept) = (self.may_send(), self.may_send() && self.streams.has_room());
        set[0] = PollFd::new(if may_accept { self.listener } else { -1 }, sys::POLLIN);
        let mut timeout = -1;
        for (slot, (end, entry)) in self.ends.iter().zip(&mut set[1..]).enumerate() {
            if end.wanted.is_some() && end.fd < 0 {
                timeout = RETRY_MS;
            }
            let reads =
                may_read && end.wanted.is_none() && !end.has_ended && self.streams.room(slot) > 0;
            let writes = end.wanted.is_some() || !end.kept.is_empty();
            let events =
                if reads { sys::POLLIN } else { 0 } | if writes { sys::POLLOUT } else { 0 };
            *entry = PollFd::new(if events == 0 { -1 } else { end.fd }, events);
        }
        match self.inbound.sleeps() {
            true => timeout,
            false => 0,
        }
    }

    /// Carries what can be carried without waiting.
    pub(crate) fn step(&mut self, set: &[PollFd]) {
        self.receive();
        if set[0].revents != 0 {
            self.accept();
        }
        for slot in 0..NET_SLOTS {
            if self.streams.stream(slot).is_none() {
                continue;
            }
            let is_ready = set[1 + slot].revents != 0;
            self.connect(slot, is_ready);
            self.pass_on(slot);
            if is_ready {
                self.read(slot);
            }
            self.settle(slot);
        }
        while self.refused_count > 0 && self.may_send() {
            self.refused_count -= 1;
            self.send(self.refused[self.refused_count], NetKind::Reset);
        }
    }

    /// True if there is room for a frame with data, and for all others that may have to be sent meanwhile.
    fn may_send(&self) -> bool {
        self.outbound.has_room(NET_MAX + CONTROL)
    }

    fn receive(&mut self) {
        while !self.is_broken {
            if self.filled == 0 && self.receive_data() {
                continue;
            }
            let count = self.inbound.take(&mut self.frame[self.filled..]);
            self.filled += count;
            let mut at = 0;
            let is_whole = loop {
                match NetFrame::decode(&self.frame[at..self.filled]) {
                    Ok((frame, length)) => {
                        let event = self.streams.receive(&frame);
                        let payload = at + NET_HEAD..at + length;
                        let stream = frame.stream;
                        at += length;
                        match event {
                            Ok(event) => self.note(event, stream, payload),
                            Err(_) => break false,
                        }
                    }
                    Err(FrameError::Incomplete) => break true,
                    Err(_) => break false,
                }
            };
            // The host does not say such things. What it can mean is not known, so nothing more is taken from it.
            self.is_broken |= !is_whole;
            self.frame.copy_within(at..self.filled, 0);
            self.filled -= at;
            if count == 0 {
                return;
            }
        }
    }

    /// Takes a frame with data, from the ring to where the data is kept. False if the next frame is another, or not all there.
    fn receive_data(&mut self) -> bool {
        let mut head = [0; NET_HEAD];
        if !self.inbound.peek(0, &mut head) {
            return false;
        }
        let Some((stream, length)) = NetFrame::data_of(head) else {
            return false;
        };
        if !self.inbound.has(NET_HEAD + length) {
            return false;
        }
        // Only the length of the data counts there.
        let kind = NetKind::Data(&self.read[..length]);
        match self.streams.receive(&NetFrame { stream, kind }) {
            Ok(NetEvent::Data(slot)) => {
                let place = self.ends[slot].make_room(length);
                self.inbound.peek(NET_HEAD, place);
            }
            Ok(_) => {}
            Err(_) => self.is_broken = true,
        }
        self.inbound.consume(NET_HEAD + length);
        true
    }

    fn note(&mut self, event: NetEvent, stream: u32, payload: core::ops::Range<usize>) {
        match event {
            NetEvent::Opened(slot, port) => {
                self.begin(slot, -1);
                self.ends[slot].wanted = Some((port, sys::boot_clock()));
            }
            NetEvent::Full => {
                if let Some(place) = self.refused.get_mut(self.refused_count) {
                    *place = stream;
                    self.refused_count += 1;
                }
            }
            NetEvent::Data(slot) => {
                let place = self.ends[slot].make_room(payload.len());
                if place.len() == payload.len() {
                    place.copy_from_slice(&self.frame[payload]);
                }
            }
            NetEvent::Reset(slot) => self.close(slot, true),
            NetEvent::Credit(_) | NetEvent::Finished(_) | NetEvent::Late => {}
        }
    }

    fn begin(&mut self, slot: usize, fd: i32) {
        let end = &mut self.ends[slot];
        if end.buffer.is_empty() {
            // Without it nothing is passed on, and the stream stands still.
            end.buffer = sys::allocate(WINDOW).unwrap_or(&mut []);
        }
        (end.fd, end.wanted, end.kept) = (fd, None, 0..0);
        (end.has_ended, end.was_finished) = (false, false);
    }

    fn accept(&mut self) {
        while self.may_send() && self.streams.has_room() {
            let Ok(fd) = sys::accept(self.listener) else {
                return;
            };
            match self.streams.open() {
                Some((slot, stream)) => {
                    self.begin(slot, fd);
                    self.send(stream, NetKind::Open(0));
                }
                None => sys::abort(fd),
            }
        }
    }

    /// Connects to the port that the host wants, now or later. A connection that was begun is there, or has failed, when it is
    /// ready to be written.
    fn connect(&mut self, slot: usize, is_ready: bool) {
        let end = &mut self.ends[slot];
        let Some((port, since)) = end.wanted else {
            return;
        };
        let tried = match end.fd {
            0.. if is_ready => sys::connection(end.fd).map(|()| end.wanted = None),
            0.. => return,
            _ => sys::connect(port).map(|fd| end.fd = fd),
        };
        if tried.is_err() {
            if end.fd >= 0 {
                sys::close(end.fd);
                end.fd = -1;
            }
            if sys::boot_clock() - since > PATIENCE {
                self.reset(slot);
            }
        }
    }

    /// Passes on what the host sent.
    fn pass_on(&mut self, slot: usize) {
        let end = &mut self.ends[slot];
        if end.fd < 0 || end.wanted.is_some() {
            return;
        }
        while !end.kept.is_empty() {
            match sys::send(end.fd, &end.buffer[end.kept.clone()]) {
                Ok(count) => {
                    end.kept.start += count;
                    self.streams.passed_on(slot, count);
                }
                Err(sys::EAGAIN) => return,
                Err(sys::EINTR) => {}
                Err(_) => return self.reset(slot),
            }
        }
        if self.streams.has_received_finish(slot) && !end.was_finished {
            end.was_finished = true;
            sys::finish(end.fd);
        }
    }

    /// Reads from a connection, as much as the host has given credit for and the ring has room for.
    fn read(&mut self, slot: usize) {
        let end = &self.ends[slot];
        let Some(stream) = self.streams.stream(slot) else {
            return;
        };
        let room = self.streams.room(slot).min(NET_PAYLOAD);
        if end.fd < 0 || end.wanted.is_some() || end.has_ended || room == 0 || !self.may_send() {
            return;
        }
        match sys::read(end.fd, &mut self.read[NET_HEAD..][..room]) {
            Ok(0) => self.ends[slot].has_ended = true,
            Ok(count) => {
                self.read[..NET_HEAD].copy_from_slice(&NetFrame::data_head(stream, count));
                self.outbound.put_all(&self.read[..NET_HEAD + count]);
                self.streams.sent(slot, count);
            }
            Err(sys::EAGAIN | sys::EINTR) => {}
            Err(_) => self.reset(slot),
        }
    }

    /// Sends what a stream has to say besides its data, and lets it go when it is over.
    fn settle(&mut self, slot: usize) {
        let Some(stream) = self.streams.stream(slot) else {
            return;
        };
        if !self.outbound.has_room(CONTROL) {
            return;
        }
        if let Some(count) = self.streams.grant(slot) {
            self.send(stream, NetKind::Credit(count));
        }
        let end = &self.ends[slot];
        if end.has_ended && self.streams.finish(slot) {
            self.send(stream, NetKind::Finish);
        }
        let end = &self.ends[slot];
        if self.streams.is_finished(slot) && end.was_finished {
            self.close(slot, false);
            self.streams.release(slot);
        }
    }

    fn reset(&mut self, slot: usize) {
        if let Some(stream) = self.streams.stream(slot) {
            self.send(stream, NetKind::Reset);
        }
        self.streams.release(slot);
        self.close(slot, true);
    }

    fn close(&mut self, slot: usize, is_error: bool) {
        let end = &mut self.ends[slot];
        match end.fd {
            fd @ 0.. if is_error => sys::abort(fd),
            fd @ 0.. => sys::close(fd),
            _ => {}
        }
        (end.fd, end.wanted, end.kept) = (-1, None, 0..0);
    }

    /// Sends a frame without data.
    fn send(&mut self, stream: u32, kind: NetKind<'_>) {
        let mut frame = [0; NET_HEAD + 4];
        if let Some(length) = (NetFrame { stream, kind }).encode(&mut frame) {
            self.outbound.put_all(&frame[..length]);
        }
    }
}
