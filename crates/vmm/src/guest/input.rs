//! What goes to the guest: standard input, no more of it than PID 1 has granted, and orders.
//!
//! An engine asks what is to be sent on a port and says how much it has sent; it does not know what the bytes mean.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rdvm_proto::{HOST_REQUEST_MAX, HostRequest};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::isatty;

use super::Port;
use super::background::write_all;
use super::reopen::unblocked;
use super::rings::Rings;

/// As much as is read at once.
const READ_MAX: u64 = 64 << 10;
/// As much as a terminal gives at once.
const TYPED_MAX: u64 = 4 << 10;

/// PID 1 reads its orders at once. With so many bytes of them unread nothing is read that would add to them, and with
/// [`REQUESTS_MAX`] the rest is dropped: a guest that does not read them has no use for more.
const REQUESTS_ENOUGH: usize = 4 << 10;
const REQUESTS_MAX: usize = 64 << 10;

/// Our standard input and the orders for PID 1.
#[derive(Debug, Default)]
pub struct Input {
    source: Option<OwnedFd>,
    is_socket: bool,
    /// The error that ended a source whose bytes a thread passes on.
    fed: Arc<OnceLock<Errno>>,
    /// Looked for in what is typed, where it is typed.
    escape: Option<Escape>,
    /// The command runs, so that the terminal is its.
    runs: bool,
    granted: u64,
    taken: u64,
    stdin: Queue,
    requests: Queue,
    failure: Option<Errno>,
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
        let kind = source.as_ref().and_then(|fd| fstat(fd).ok());
        let kind = kind.map_or(FileType::Unknown, |stat| {
            FileType::from_raw_mode(stat.st_mode)
        });
        let fed = Arc::default();
        let source = source.map(|fd| patient(fd, kind, &fed));
        Self {
            is_socket: kind == FileType::Socket,
            source,
            fed,
            escape: typed.then(Escape::default),
            ..Self::default()
        }
    }

    /// To be polled for reading, while there is somebody to read for.
    pub(super) fn wants(&self) -> Option<BorrowedFd<'_>> {
        let hungry = self.stdin.is_empty() && self.room() > 0;
        let wanted = hungry || self.is_listening();
        self.source.as_ref().filter(|_| wanted).map(AsFd::as_fd)
    }

    /// From now on what is typed is the command's.
    pub(super) fn command_runs(&mut self) {
        self.runs = true;
    }

    /// Whether what is typed is read whatever the guest does: it may be what leaves the machine.
    fn is_listening(&self) -> bool {
        self.escape.is_some() && self.runs
    }

    /// How many bytes the guest may be sent.
    fn room(&self) -> u64 {
        match self.requests.rest().len() < REQUESTS_ENOUGH {
            true => self.granted - self.taken,
            false => 0,
        }
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
        let room = self.room();
        let most = if self.is_listening() { TYPED_MAX } else { room };
        let mut buffer = vec![0; most.min(READ_MAX) as usize];
        let result = match read(source, self.is_socket, &mut buffer) {
            Ok(0) => self.fed.get().map_or(Ok(0), |errno| Err(*errno)),
            result => result,
        };
        match result {
            Ok(length @ 1..) => {
                buffer.truncate(length);
                if let Some(escape) = &mut self.escape {
                    escape.look(&buffer, Instant::now());
                    // A terminal drops what it has no room for.
                    buffer.truncate(room.min(READ_MAX) as usize);
                    if buffer.is_empty() {
                        return;
                    }
                }
                let length = buffer.len();
                match rings {
                    Some(rings) => {
                        rings.put(self.taken, &buffer);
                        self.request(HostRequest::Produced(self.taken + length as u64));
                    }
                    None => self.stdin.push(&buffer),
                }
                self.taken += length as u64;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // To the command a terminal that is gone is the end as well.
            Err(Errno::IO) if isatty(source) => self.end(),
            Ok(0) => self.end(),
            // But what merely cannot be read has not ended: the command would take a part for all of it.
            Err(errno) => {
                self.source = None;
                self.failure = Some(errno);
            }
        }
    }

    fn end(&mut self) {
        self.source = None;
        self.request(HostRequest::StdinEnd(self.taken));
    }

    /// Why it could not be read to its end.
    pub(super) fn failure(&self) -> Option<Errno> {
        self.failure
    }

    /// The guest has room for so many bytes in all.
    pub(super) fn granted(&mut self, total: u64) {
        self.granted = self.granted.max(total);
    }

    /// Adds an order.
    pub(super) fn request(&mut self, request: HostRequest) {
        if self.requests.rest().len() > REQUESTS_MAX {
            return;
        }
        let mut frame = [0; HOST_REQUEST_MAX];
        let length = request.encode(&mut frame);
        self.requests.push(&frame[..length]);
    }

    /// What is to be sent on a port.
    pub(super) fn pending(&self, port: Port) -> &[u8] {
        match port {
            Port::Stdout => self.stdin.rest(),
            Port::Status => self.requests.rest(),
            Port::Console => &[],
        }
    }

    /// So much of that has been sent.
    pub(super) fn sent(&mut self, port: Port, count: usize) {
        match port {
            Port::Stdout => self.stdin.forget(count),
            Port::Status => self.requests.forget(count),
            Port::Console => {}
        }
    }

    /// Whether the user has asked to leave the machine.
    pub(super) fn is_left(&self) -> bool {
        self.escape.is_some_and(|escape| escape.seen)
    }
}

/// Returns a source of the same bytes whose reads do not wait: others may read from the same pipe or terminal, and a file
/// may be on a server that does not answer. A pipe or terminal is opened anew for that. Where that is refused, and for files,
/// a thread passes the bytes on.
fn patient(fd: OwnedFd, kind: FileType, error: &Arc<OnceLock<Errno>>) -> OwnedFd {
    let fd = match kind == FileType::Fifo || isatty(&fd) {
        true => match unblocked(fd, OFlags::RDONLY) {
            Ok(fd) => return fd,
            Err(fd) => fd,
        },
        false if kind == FileType::Socket => return fd,
        false => fd,
    };
    passed_on(fd, Arc::clone(error)).unwrap_or_else(|same| same)
}

/// Returns a pipe into which a thread writes what comes from `fd`; `fd` itself where there are no descriptors or threads left.
/// A thread that waits for ever is left behind, as in `background.rs`.
fn passed_on(fd: OwnedFd, error: Arc<OnceLock<Errno>>) -> Result<OwnedFd, OwnedFd> {
    let Ok((ours, theirs)) = pipe_with(PipeFlags::CLOEXEC) else {
        return Err(fd);
    };
    let fd = Arc::new(fd);
    let from = Arc::clone(&fd);
    let thread = std::thread::Builder::new().name("reader".to_owned());
    let started = thread.spawn(move || {
        let mut buffer = vec![0; READ_MAX as usize];
        loop {
            match rustix::io::read(&from, &mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    if write_all(&theirs, &buffer[..length]).is_err() {
                        return;
                    }
                }
                Err(Errno::INTR) => {}
                // Somebody else has set it not to wait.
                Err(Errno::AGAIN) => {
                    let _ = poll(&mut [PollFd::new(&from, PollFlags::IN)], None);
                }
                Err(errno) => {
                    let _ = error.set(errno);
                    return;
                }
            }
        }
    });
    match (started, Arc::into_inner(fd)) {
        (Err(_), Some(fd)) => Err(fd),
        _ => Ok(ours),
    }
}

/// Reads, without waiting where it is a socket, which cannot be opened anew.
fn read(source: BorrowedFd<'_>, is_socket: bool, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    match is_socket {
        true => recv(source, buffer, RecvFlags::DONTWAIT).map(|(length, _)| length),
        false => rustix::io::read(source, buffer),
    }
}

impl Queue {
    fn push(&mut self, bytes: &[u8]) {
        // What was sent goes first: a queue that is never quite empty must not grow for that.
        self.bytes.drain(..self.sent);
        self.sent = 0;
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
    use crate::guest::rings::RINGS;

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
        let end = HostRequest::decode(input.pending(Port::Status)).unwrap().0;
        assert_eq!(
            (end, input.wants().is_none()),
            (HostRequest::StdinEnd(5), true)
        );
    }

    #[test]
    fn a_socket_that_somebody_else_has_emptied_does_not_make_us_wait() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut input = Input::new(Some(ours.into()), false);
        input.granted(10);
        input.take(None);
        assert_eq!(input.pending(Port::Stdout), b"");
        std::io::Write::write_all(&mut &theirs, b"x").unwrap();
        input.take(None);
        assert_eq!(input.pending(Port::Stdout), b"x");
    }

    /// Waits for the thread that passes a source on, and takes what came.
    fn take_when_ready(input: &mut Input) {
        let source = input.wants().unwrap();
        poll(&mut [PollFd::new(&source, PollFlags::IN)], None).unwrap();
        input.take(None);
    }

    #[test]
    fn a_source_that_makes_readers_wait_is_passed_on_to_its_end() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut input = Input {
            source: Some(passed_on(read, Arc::default()).unwrap()),
            ..Input::default()
        };
        input.granted(10);
        let source = input.wants().unwrap();
        let nothing = Some(&rustix::event::Timespec::default());
        let ready = poll(&mut [PollFd::new(&source, PollFlags::IN)], nothing);
        assert_eq!(ready, Ok(0), "there is something to read, or an end");
        rustix::io::write(&write, b"hello").unwrap();
        take_when_ready(&mut input);
        assert_eq!(input.pending(Port::Stdout), b"hello");
        input.sent(Port::Stdout, 5);
        drop(write);
        take_when_ready(&mut input);
        let end = HostRequest::decode(input.pending(Port::Status)).unwrap().0;
        assert_eq!(end, HostRequest::StdinEnd(5));
    }

    #[test]
    fn input_that_cannot_be_read_has_failed_and_not_ended() {
        let directory = std::fs::File::open("/").unwrap();
        let mut input = Input::new(Some(directory.into()), false);
        input.granted(10);
        take_when_ready(&mut input);
        assert_eq!(input.failure(), Some(Errno::ISDIR));
        assert!(input.wants().is_none());
        assert_eq!(input.pending(Port::Status), b"", "that was the end");
    }

    #[test]
    fn a_guest_that_reads_no_orders_makes_nothing_grow() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut rings = Rings::new(vm_memory::MmapRegion::new(RINGS as usize).unwrap());
        let mut input = Input::new(Some(read), false);
        // More than any ring holds, and for ever.
        input.granted(u64::MAX);
        let mut taken = 0;
        for _ in 0..REQUESTS_ENOUGH {
            rustix::io::write(&write, b"x").unwrap();
            match input.wants() {
                Some(_) => input.take(Some(&mut rings)),
                None => break,
            }
            taken += 1;
        }
        assert!(taken < REQUESTS_ENOUGH, "it goes on for ever");
        (0..REQUESTS_MAX).for_each(|_| input.request(HostRequest::Consumed(7)));
        assert!(input.pending(Port::Status).len() < REQUESTS_MAX + 2 * HOST_REQUEST_MAX);
        // One that reads them late still gets those that matter.
        input.sent(Port::Status, input.pending(Port::Status).len());
        assert!(input.wants().is_some());
    }

    #[test]
    fn what_was_sent_is_forgotten_also_when_something_is_always_left() {
        let mut queue = Queue::default();
        queue.push(b"x");
        for _ in 0..10_000 {
            queue.push(b"more");
            queue.forget(4);
        }
        assert_eq!(queue.rest().len(), 1);
        assert!(queue.bytes.len() < 100, "{}", queue.bytes.len());
    }

    #[test]
    fn what_is_typed_is_looked_at_also_when_the_guest_wants_none_of_it() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut input = Input::new(Some(read), true);
        assert!(input.wants().is_none(), "no command runs yet");
        input.command_runs();
        for _ in 0..3 {
            assert!(input.wants().is_some());
            rustix::io::write(&write, &[ESCAPE]).unwrap();
            input.take(None);
        }
        assert!(input.is_left());
        assert_eq!(input.pending(Port::Stdout), b"", "it was not granted");
        // With room it is sent, as far as that goes.
        input.granted(2);
        rustix::io::write(&write, b"abc").unwrap();
        input.take(None);
        assert_eq!(input.pending(Port::Stdout), b"ab");
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
