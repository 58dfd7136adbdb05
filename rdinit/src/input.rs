//! What the host sends while the command runs: orders on the status port, standard input on the stdout port.
//!
//! A serial port drops what nobody reads, so the host sends no more of standard input than was granted, and no more is
//! granted than the kernel keeps for us (`TTYB_DEFAULT_MEM_LIMIT` in `drivers/tty/tty_buffer.c` is 64 KiB).

use crate::protocol::{Event, FrameError, ORDER_MAX, Order};
use crate::sys::{self, PollFd};

/// What is granted beyond what the command has been given.
const WINDOW: u64 = 16 << 10;
/// How much of a grant is used before there is a new one.
const STEP: u64 = WINDOW / 2;
const BUFFER: usize = 4 << 10;
/// What ends the input of a terminal: `VEOF` of `struct termios`, as every terminal starts out with it.
const END_OF_TRANSMISSION: u8 = 4;

/// The orders on the status port.
pub(crate) struct Orders {
    port: i32,
    buffer: [u8; 4 * ORDER_MAX],
    length: usize,
}

impl Orders {
    pub(crate) fn new(port: i32) -> Self {
        let _ = sys::set_nonblocking(port);
        Self {
            port,
            buffer: [0; 4 * ORDER_MAX],
            length: 0,
        }
    }

    /// What to wait for.
    pub(crate) fn wants(&self) -> PollFd {
        PollFd::new(self.port, sys::POLLIN)
    }

    /// The next order, if one has come. What is no order is passed over.
    pub(crate) fn next(&mut self) -> Option<Order> {
        loop {
            match Order::decode(&self.buffer[..self.length]) {
                Ok((order, length)) => {
                    self.forget(length);
                    return Some(order);
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
    pub(crate) fn wait(&mut self) -> Order {
        loop {
            if let Some(order) = self.next() {
                return order;
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
    from: i32,
    /// A pipe or the master side of a terminal; negative when it is closed.
    to: i32,
    terminal: bool,
    buffer: [u8; BUFFER],
    pending: core::ops::Range<usize>,
    received: u64,
    given: u64,
    granted: u64,
    /// How many bytes there are in all, once the host has said so.
    total: Option<u64>,
}

impl Stdin {
    /// From a port to a pipe or the master side of a terminal; negative where the command gets none.
    pub(crate) fn new(from: i32, to: i32, terminal: bool) -> Self {
        if to >= 0 {
            let _ = sys::set_nonblocking(from);
            let _ = sys::set_nonblocking(to);
        }
        Self {
            from,
            to,
            terminal,
            buffer: [0; BUFFER],
            pending: 0..0,
            received: 0,
            given: 0,
            granted: 0,
            total: None,
        }
    }

    /// What the host is to be told it may send, where that is news.
    pub(crate) fn grant(&mut self) -> Option<Event> {
        if self.to < 0 || self.granted >= self.given + STEP {
            return None;
        }
        self.granted = self.given + WINDOW;
        Some(Event::Granted(self.granted))
    }

    /// The host says that there are so many bytes in all.
    pub(crate) fn ends_after(&mut self, total: u64) {
        self.total = Some(total);
        self.close_at_end();
    }

    /// What to wait for.
    pub(crate) fn wants(&self) -> PollFd {
        match (self.to < 0, self.pending.is_empty()) {
            (true, _) => PollFd::new(-1, 0),
            (false, true) => PollFd::new(self.from, sys::POLLIN),
            (false, false) => PollFd::new(self.to, sys::POLLOUT),
        }
    }

    /// Carries what can be carried without waiting.
    pub(crate) fn step(&mut self) {
        if self.pending.is_empty() {
            match sys::read(self.from, &mut self.buffer) {
                Ok(length) => {
                    self.pending = 0..length;
                    self.received += length as u64;
                }
                Err(_) => return,
            }
        }
        while self.to >= 0 && !self.pending.is_empty() {
            match sys::write(self.to, &self.buffer[self.pending.clone()]) {
                Ok(length) => {
                    self.pending.start += length;
                    self.given += length as u64;
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
        if self.total != Some(self.received) || !self.pending.is_empty() {
            return;
        }
        // A terminal stays open for its output. Who reads lines from it sees the end by this character.
        match self.terminal {
            true => {
                let _ = sys::write(self.to, &[END_OF_TRANSMISSION]);
                self.to = -1;
            }
            false => self.close(),
        }
    }

    fn close(&mut self) {
        if self.to >= 0 && !self.terminal {
            sys::close(self.to);
        }
        self.to = -1;
    }
}
