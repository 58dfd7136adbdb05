//! Input from the host while the command runs: requests on the status port, standard input in the inbound ring or on the
//! stdout port.
//!
//! A serial port drops what nobody reads, so the host sends no more of standard input than was granted, and no more is
//! granted than the kernel keeps for us (`TTYB_DEFAULT_MEM_LIMIT` in `drivers/tty/tty_buffer.c` is 64 KiB).

use crate::sys::{self, PollFd, Shared};
use rdvm_proto::{Event, FrameError, HOST_REQUEST_MAX, HostRequest, RING};

/// The credit of a port beyond what the command has received; of the ring it is all of it.
const WINDOW: u64 = 16 << 10;
const BUFFER: usize = 4 << 10;
/// The end of a terminal's input: `VEOF` of `struct termios`, as every terminal starts out with it. Twice, since behind
/// a line without an end the first one ends that.
const END_OF_TRANSMISSION: [u8; 2] = [4; 2];

/// The orders on the status port.
pub(crate) struct HostRequests {
    port: i32,
    buffer: [u8; 4 * HOST_REQUEST_MAX],
    length: usize,
}

impl HostRequests {
    pub(crate) fn new(port: i32) -> Self {
        let _ = sys::set_nonblocking(port);
        Self {
            port,
            buffer: [0; 4 * HOST_REQUEST_MAX],
            length: 0,
        }
    }

    /// The `poll` entry to wait for.
    pub(crate) fn wants(&self) -> PollFd {
        PollFd::new(self.port, sys::POLLIN)
    }

    /// The next order, if one has come. What is no order is passed over.
    pub(crate) fn next(&mut self) -> Option<HostRequest> {
        loop {
            match HostRequest::decode(&self.buffer[..self.length]) {
                Ok((request, length)) => {
                    self.forget(length);
                    return Some(request);
                }
                Err(FrameError::Incomplete) => {
                    let count = sys::read(self.port, &mut self.buffer[self.length..]);
                    self.length += count.ok().filter(|&count| count > 0)?;
                }
                Err(_) => self.forget(1),
            }
        }
    }

    /// Waits for an order.
    pub(crate) fn wait(&mut self) -> HostRequest {
        loop {
            if let Some(request) = self.next() {
                return request;
            }
            let _ = sys::poll(&mut [self.wants()], -1);
        }
    }

    fn forget(&mut self, count: usize) {
        self.buffer.copy_within(count..self.length, 0);
        self.length -= count;
    }
}

/// The command's standard input.
pub(crate) struct Stdin {
    /// A pipe or the master side of a terminal; negative when it is closed.
    to: i32,
    terminal: bool,
    source: Source,
    /// The bytes received, and those of them that the command was given.
    received: u64,
    given: u64,
    /// The position of the rest in a port's buffer.
    at: usize,
    granted: u64,
    /// The bytes in all, once the host has sent the number.
    total: Option<u64>,
    /// The bytes of [`END_OF_TRANSMISSION`] that were written.
    ended: usize,
}

/// The source of the input.
enum Source {
    /// The inbound ring.
    Ring(Shared),
    /// A port, and what was read of it and not yet given.
    Port(i32, &'static mut [u8]),
}

impl Stdin {
    /// From the ring, or where there is none from a port, to a pipe or the master side of a terminal; negative where the
    /// command gets none.
    pub(crate) fn new(rings: Option<Shared>, port: i32, to: i32, terminal: bool) -> Self {
        if to >= 0 {
            let _ = sys::set_nonblocking(port);
            let _ = sys::set_nonblocking(to);
        }
        Self {
            to,
            terminal,
            source: match rings {
                Some(rings) => Source::Ring(rings),
                // Without a buffer the command sees no end of its input, and may still end by itself.
                None => Source::Port(port, sys::allocate(BUFFER).unwrap_or(&mut [])),
            },
            received: 0,
            given: 0,
            at: 0,
            granted: 0,
            total: None,
            ended: 0,
        }
    }

    /// Returns the host's new credit, when half of the last one is used.
    pub(crate) fn grant(&mut self) -> Option<Event> {
        let window = match self.source {
            Source::Ring(_) => RING,
            Source::Port(..) => WINDOW,
        };
        if self.to < 0 || self.granted > self.given + window / 2 {
            return None;
        }
        self.granted = self.given + window;
        Some(Event::Credit(self.granted))
    }

    /// The host has put so many bytes into the ring in all.
    pub(crate) fn arrived(&mut self, total: u64) {
        if let Source::Ring(_) = self.source {
            self.received = total.clamp(self.received, self.granted);
        }
        self.step();
    }

    /// The host says that there are so many bytes in all.
    pub(crate) fn ends_after(&mut self, total: u64) {
        self.total = Some(total);
        self.close_at_end();
    }

    /// The `poll` entry to wait for.
    pub(crate) fn wants(&self) -> PollFd {
        match self.source {
            _ if self.to < 0 => PollFd::new(-1, 0),
            _ if self.received > self.given || self.total == Some(self.given) => {
                PollFd::new(self.to, sys::POLLOUT)
            }
            Source::Port(port, _) => PollFd::new(port, sys::POLLIN),
            Source::Ring(_) => PollFd::new(-1, 0),
        }
    }

    /// Carries what can be carried without waiting.
    pub(crate) fn step(&mut self) {
        if let Source::Port(port, buffer) = &mut self.source
            && self.received == self.given
        {
            self.received += sys::read(*port, buffer).unwrap_or(0) as u64;
        }
        while self.to >= 0 && self.received > self.given {
            let waiting = (self.received - self.given) as usize;
            let taken = match &self.source {
                Source::Ring(rings) => {
                    let at = (self.given % RING) as usize;
                    rings.write_to(self.to, at, waiting.min(RING as usize - at))
                }
                // What was read stands at the buffer's start, and all of it is given before more is read.
                Source::Port(_, buffer) => sys::write(self.to, &buffer[self.at..][..waiting]),
            };
            match taken {
                Ok(count) => {
                    self.given += count as u64;
                    self.at = if self.given == self.received {
                        0
                    } else {
                        self.at + count
                    };
                }
                Err(sys::EAGAIN) => return,
                Err(sys::EINTR) => {}
                // Nobody reads it any more: the rest is not asked for.
                Err(_) => self.close(),
            }
        }
        self.close_at_end();
    }

    fn close_at_end(&mut self) {
        if self.total != Some(self.given) || self.to < 0 {
            return;
        }
        // A terminal stays open for its output. Who reads lines from it sees the end by a character, for which there may be
        // no room as yet.
        while self.terminal && self.ended < END_OF_TRANSMISSION.len() {
            match sys::write(self.to, &END_OF_TRANSMISSION[self.ended..]) {
                Ok(count) => self.ended += count,
                Err(sys::EAGAIN) => return,
                Err(sys::EINTR) => {}
                Err(_) => break,
            }
        }
        self.close();
    }

    fn close(&mut self) {
        if self.to >= 0 && !self.terminal {
            sys::close(self.to);
        }
        self.to = -1;
    }
}
