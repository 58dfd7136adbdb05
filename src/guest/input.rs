//! What goes to the guest: standard input, no more of it than PID 1 has granted, and orders.
//!
//! An engine asks what is to be sent on a port and says how much it has sent; it does not know what the bytes mean.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rdinit::protocol::{ORDER_MAX, Order};
use rustix::io::Errno;

use super::Port;
use super::rings::Rings;

/// As much as is read at once.
const READ_MAX: u64 = 64 << 10;

/// Our standard input and the orders for PID 1.
#[derive(Debug, Default)]
pub struct Input {
    source: Option<OwnedFd>,
    /// Looked for in what is typed, where it is typed.
    escape: Option<Escape>,
    granted: u64,
    taken: u64,
    stdin: Queue,
    orders: Queue,
}

/// Bytes on their way.
#[derive(Debug, Default)]
struct Queue {
    bytes: Vec<u8>,
    sent: usize,
}

impl Input {
    /// Input from `source`, where the command is to have any. With `typed` three Ctrl-] leave the machine.
    pub fn new(source: Option<OwnedFd>, typed: bool) -> Self {
        Self {
            source,
            escape: typed.then(Escape::default),
            ..Self::default()
        }
    }

    /// To be polled for reading, while there is somebody to read for.
    pub(super) fn wants(&self) -> Option<BorrowedFd<'_>> {
        let wanted = self.stdin.is_empty() && self.taken < self.granted;
        self.source.as_ref().filter(|_| wanted).map(AsFd::as_fd)
    }

    /// Where it comes from, until its end.
    pub(super) fn source(&self) -> Option<BorrowedFd<'_>> {
        self.source.as_ref().map(AsFd::as_fd)
    }

    /// Reads once, into the ring where there is one.
    pub(super) fn take(&mut self, rings: Option<&mut Rings>) {
        let Some(source) = self.wants() else {
            return;
        };
        let mut buffer = vec![0; READ_MAX.min(self.granted - self.taken) as usize];
        match rustix::io::read(source, &mut buffer[..]) {
            Ok(length @ 1..) => {
                buffer.truncate(length);
                if let Some(escape) = &mut self.escape {
                    escape.look(&buffer, Instant::now());
                }
                match rings {
                    Some(rings) => {
                        rings.put(self.taken, &buffer);
                        self.order(Order::Put(self.taken + length as u64));
                    }
                    None => self.stdin.push(&buffer),
                }
                self.taken += length as u64;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal that is gone says EIO: to the command that is the end as well.
            Ok(0) | Err(_) => {
                self.source = None;
                self.order(Order::StdinEnd(self.taken));
            }
        }
    }

    /// The guest has room for so many bytes in all.
    pub(super) fn granted(&mut self, total: u64) {
        self.granted = self.granted.max(total);
    }

    /// Adds an order.
    pub(super) fn order(&mut self, order: Order) {
        let mut frame = [0; ORDER_MAX];
        let length = order.encode(&mut frame);
        self.orders.push(&frame[..length]);
    }

    /// What is to be sent on a port.
    pub(super) fn pending(&self, port: Port) -> &[u8] {
        match port {
            Port::Stdout => self.stdin.rest(),
            Port::Status => self.orders.rest(),
            Port::Console => &[],
        }
    }

    /// So much of that has been sent.
    pub(super) fn sent(&mut self, port: Port, count: usize) {
        match port {
            Port::Stdout => self.stdin.forget(count),
            Port::Status => self.orders.forget(count),
            Port::Console => {}
        }
    }

    /// Whether the user has asked to leave the machine.
    pub(super) fn is_left(&self) -> bool {
        self.escape.is_some_and(|escape| escape.seen)
    }
}

impl Queue {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    fn forget(&mut self, count: usize) {
        self.sent += count;
        if self.is_empty() {
            self.bytes.clear();
            self.sent = 0;
        }
    }
}

/// Looks for three Ctrl-] within a second, as machinectl(1) and systemd-nspawn(1) have it.
#[derive(Debug, Default, Clone, Copy)]
struct Escape {
    began: Option<Instant>,
    count: u32,
    seen: bool,
}

const ESCAPE: u8 = 0x1d;
const ESCAPES: u32 = 3;
const ESCAPE_TIME: Duration = Duration::from_secs(1);

impl Escape {
    fn look(&mut self, typed: &[u8], now: Instant) {
        for &byte in typed {
            if byte != ESCAPE {
                self.count = 0;
                continue;
            }
            let fresh = self
                .began
                .is_some_and(|began| now.duration_since(began) <= ESCAPE_TIME);
            if self.count == 0 || !fresh {
                (self.began, self.count) = (Some(now), 0);
            }
            self.count += 1;
            self.seen |= self.count == ESCAPES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_was_granted_and_the_end_is_an_order() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&write, b"hello").unwrap();
        drop(write);
        let mut input = Input::new(Some(read), false);
        assert!(input.wants().is_none(), "nothing is granted yet");
        input.granted(3);
        input.take(None);
        assert_eq!(input.pending(Port::Stdout), b"hel");
        assert!(input.wants().is_none());
        input.sent(Port::Stdout, 2);
        assert_eq!(input.pending(Port::Stdout), b"l");
        input.sent(Port::Stdout, 1);
        input.granted(2);
        assert!(input.wants().is_none(), "a grant is never taken back");
        input.granted(u64::MAX);
        input.take(None);
        assert_eq!(input.pending(Port::Stdout), b"lo");
        input.sent(Port::Stdout, 2);
        assert_eq!(input.pending(Port::Status), b"");
        input.take(None);
        let end = Order::decode(input.pending(Port::Status)).unwrap().0;
        assert_eq!((end, input.wants().is_none()), (Order::StdinEnd(5), true));
    }

    #[test]
    fn three_escapes_within_a_second_leave() {
        let at = Instant::now();
        let seen = |typed: &[(&[u8], u64)]| {
            let mut escape = Escape::default();
            for (bytes, ms) in typed {
                escape.look(bytes, at + Duration::from_millis(*ms));
            }
            escape.seen
        };
        assert!(seen(&[(b"\x1d\x1d\x1d", 0)]));
        assert!(seen(&[(b"a\x1d", 0), (b"\x1d", 500), (b"\x1db", 1000)]));
        assert!(!seen(&[(b"\x1d\x1da\x1d", 0)]));
        assert!(!seen(&[(b"\x1d\x1d", 0), (b"\x1d", 1001)]));
        assert!(seen(&[(b"\x1d\x1d", 0), (b"\x1d\x1d\x1d", 2000)]));
    }
}
