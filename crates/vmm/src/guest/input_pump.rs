//! Input of the guest: standard input, no more of it than PID 1 has granted, changes of the terminal's size, and requests.
//!
//! An engine asks for the bytes to send on a port and reports how many it has sent; it does not interpret them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rdvm_proto::{HOST_REQUEST_MAX, HostRequest, Ring};
use rustix::io::Errno;

use super::Port;
use super::escape::Escape;
use super::input_source::{InputSource, READ_MAX};
use super::rings::Rings;
use crate::stop_signals::StopSignals;
use crate::terminal::Terminal;

/// Bytes that a terminal delivers at once.
const TYPED_MAX: u64 = 4 << 10;

/// PID 1 reads its requests at once. With so many bytes of them unread nothing is read that would add to them, and with
/// [`REQUESTS_MAX`] the rest is dropped: a guest that does not read them has no use for more.
const REQUESTS_ENOUGH: usize = 4 << 10;
const REQUESTS_MAX: usize = 64 << 10;

/// Standard input of the command, and the requests for PID 1.
#[derive(Debug, Default)]
pub struct InputPump {
    source: Option<InputSource>,
    /// Looked for in what is typed, where it is typed.
    escape: Option<Escape>,
    terminal: Option<Terminal>,
    /// The command runs, so that the terminal is its own.
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

impl InputPump {
    /// Reads input from `source`, if the command is to have any.
    pub fn new(source: Option<OwnedFd>) -> Self {
        Self {
            source: source.map(InputSource::new),
            ..Self::default()
        }
    }

    /// Makes this terminal the command's. If it is typed at, three Ctrl-] leave the machine.
    pub fn with_terminal(self, terminal: Terminal) -> Self {
        let typed = match terminal.is_typed() {
            true => self.typed(),
            false => self,
        };
        Self {
            terminal: Some(terminal),
            ..typed
        }
    }

    /// Leaves every key to the command: none of them leaves the terminal.
    pub fn without_escape(self) -> Self {
        Self {
            escape: None,
            ..self
        }
    }

    fn typed(self) -> Self {
        Self {
            escape: Some(Escape::default()),
            ..self
        }
    }

    /// Returns the descriptor to poll for reading, while there is a reader in the guest.
    pub(super) fn wants(&self) -> Option<BorrowedFd<'_>> {
        let hungry = self.stdin.is_empty() && self.room() > 0;
        let wanted = hungry || self.is_listening();
        self.source().filter(|_| wanted)
    }

    /// Notes that the command runs: what is typed from now on is its own.
    pub(super) fn command_runs(&mut self) {
        self.runs = true;
        if let Some(terminal) = &self.terminal {
            terminal.hand_over();
        }
    }

    /// Tells the size of the terminal, where there is one, to a guest that is about to start its command.
    pub(super) fn send_window(&mut self) {
        let window = self.terminal.as_mut().and_then(Terminal::window);
        if let Some([rows, columns]) = window {
            self.request(HostRequest::Resize { rows, columns });
        }
    }

    /// Requests the terminal's size in the guest, when the command starts and once after every change.
    pub(super) fn resize(&mut self, signals: &StopSignals) {
        // Asking takes the change back: not before there is a command to tell.
        if self.runs
            && let Some(terminal) = &mut self.terminal
            && let Some([rows, columns]) = terminal.changed_window(signals)
        {
            self.request(HostRequest::Resize { rows, columns });
        }
    }

    /// True if what is typed is read whatever the guest does: it may be what leaves the machine.
    fn is_listening(&self) -> bool {
        self.escape.is_some() && self.runs
    }

    /// Returns how many bytes the guest may be sent.
    fn room(&self) -> u64 {
        match self.requests.rest().len() < REQUESTS_ENOUGH {
            true => self.granted - self.taken,
            false => 0,
        }
    }

    /// Returns the source, until its end.
    pub(super) fn source(&self) -> Option<BorrowedFd<'_>> {
        self.source.as_ref().map(AsFd::as_fd)
    }

    /// Reads once, into the ring where there is one.
    pub(super) fn take(&mut self, rings: Option<&mut Rings>) {
        let Some(source) = self.source.as_ref().filter(|_| self.wants().is_some()) else {
            return;
        };
        let room = self.room();
        let most = if self.is_listening() { TYPED_MAX } else { room };
        let mut buffer = vec![0; most.min(READ_MAX) as usize];
        match source.read(&mut buffer) {
            Ok(length @ 1..) => {
                buffer.truncate(length);
                self.taken(buffer, rings);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // To the command a terminal that is gone is the end as well.
            Err(Errno::IO) if source.is_terminal() => self.end(),
            Ok(0) => self.end(),
            // But what merely cannot be read has not ended: the command would take a part for all of it.
            Err(errno) => {
                self.source = None;
                self.failure = Some(errno);
            }
        }
    }

    fn taken(&mut self, mut bytes: Vec<u8>, rings: Option<&mut Rings>) {
        let room = self.room();
        if let Some(escape) = &mut self.escape {
            escape.look(&bytes, Instant::now());
            // A terminal drops what it has no room for.
            bytes.truncate(room.min(READ_MAX) as usize);
            if bytes.is_empty() {
                return;
            }
        }
        let before = self.taken;
        self.taken += bytes.len() as u64;
        match rings {
            Some(rings) => {
                rings.put(Ring::Stdin, before, &bytes);
                self.request(HostRequest::Produced(self.taken));
            }
            None => self.stdin.push(&bytes),
        }
    }

    fn end(&mut self) {
        self.source = None;
        self.request(HostRequest::StdinEnd(self.taken));
    }

    /// Returns the error that kept the source from being read to its end.
    pub(super) fn failure(&self) -> Option<Errno> {
        self.failure
    }

    /// Notes that the guest has room for so many bytes in all.
    pub(super) fn granted(&mut self, total: u64) {
        self.granted = self.granted.max(total);
    }

    /// Adds a request.
    pub(super) fn request(&mut self, request: HostRequest) {
        if self.requests.rest().len() > REQUESTS_MAX {
            return;
        }
        let mut frame = [0; HOST_REQUEST_MAX];
        let length = request.encode(&mut frame);
        self.requests.push(&frame[..length]);
    }

    /// Returns the bytes to send on a port.
    pub(super) fn pending(&self, port: Port) -> &[u8] {
        match port {
            Port::Stdout => self.stdin.rest(),
            Port::Status => self.requests.rest(),
            Port::Console => &[],
        }
    }

    /// Notes that so many of those bytes have been sent.
    pub(super) fn sent(&mut self, port: Port, count: usize) {
        match port {
            Port::Stdout => self.stdin.forget(count),
            Port::Status => self.requests.forget(count),
            Port::Console => {}
        }
    }

    /// True if the user has left the machine.
    pub(super) fn is_left(&self) -> bool {
        self.escape.is_some_and(|escape| escape.is_seen())
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

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;
    use crate::guest::escape::ESCAPE;
    use crate::guest::rings::RINGS;

    #[test]
    fn no_more_is_read_than_was_granted_and_the_end_is_an_order() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&write, b"hello").unwrap();
        drop(write);
        let mut input = InputPump::new(Some(read));
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
        let mut input = InputPump::new(Some(ours.into()));
        input.granted(10);
        input.take(None);
        assert_eq!(input.pending(Port::Stdout), b"");
        std::io::Write::write_all(&mut &theirs, b"x").unwrap();
        input.take(None);
        assert_eq!(input.pending(Port::Stdout), b"x");
    }

    /// Waits for the thread that passes a source on, and takes what came.
    #[test]
    fn keys_leave_no_terminal_whose_every_key_is_the_commands() {
        for (leaves, is_left) in [(true, true), (false, false)] {
            let (read, write) = rustix::pipe::pipe().unwrap();
            rustix::io::write(&write, &[ESCAPE; 3]).unwrap();
            let mut input = InputPump::new(Some(read)).typed();
            if !leaves {
                input = input.without_escape();
            }
            input.command_runs();
            input.granted(3);
            input.take(None);
            assert_eq!(input.is_left(), is_left);
            assert_eq!(input.pending(Port::Stdout), [ESCAPE; 3]);
        }
    }

    fn take_when_ready(input: &mut InputPump) {
        let source = input.wants().unwrap();
        poll(&mut [PollFd::new(&source, PollFlags::IN)], None).unwrap();
        input.take(None);
    }

    #[test]
    fn a_source_that_makes_readers_wait_is_passed_on_to_its_end() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut input = InputPump {
            source: Some(InputSource::passed_on(read)),
            ..InputPump::default()
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
        let mut input = InputPump::new(Some(directory.into()));
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
        let mut input = InputPump::new(Some(read));
        // More than any ring holds, and forever.
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
        (0..REQUESTS_MAX).for_each(|_| input.request(HostRequest::StdinEnd(7)));
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
        let mut input = InputPump::new(Some(read)).typed();
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
}
