//! One output stream of ours: a descriptor, and what was taken but not yet written.
//!
//! Never blocks: a write follows only on a poll that said there is room, and is no larger than what a pipe then takes
//! (`PIPE_BUF`, pipe(7)). The descriptor's flags are left alone, since it is shared with whoever started us.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::termios::isatty;

use super::reopen::unblocked;

const PIPE_BUF: usize = 4096;

/// A stream to write to.
#[derive(Debug)]
pub struct Outlet {
    fd: OwnedFd,
    pending: Vec<u8>,
    written: usize,
    state: State,
    last_write: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The reader is gone: what comes is thrown away.
    Closed,
    Failed(Errno),
}

impl Outlet {
    /// A stream to this descriptor.
    pub fn new(fd: OwnedFd) -> Self {
        Self {
            fd: patient(fd),
            pending: Vec::new(),
            written: 0,
            state: State::Open,
            last_write: None,
        }
    }

    /// Takes bytes to be written.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.state == State::Open {
            self.pending.extend_from_slice(bytes);
        }
    }

    /// Whether everything taken was written (or the stream is closed).
    pub fn is_empty(&self) -> bool {
        self.written == self.pending.len()
    }

    /// The descriptor, to be polled for writing while the outlet is not empty.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether the reader has gone away.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// When something was written last.
    pub fn last_write(&self) -> Option<Instant> {
        self.last_write
    }

    /// Why writing failed, other than by the reader going away.
    pub fn failure(&self) -> Option<Errno> {
        match self.state {
            State::Failed(errno) => Some(errno),
            _ => None,
        }
    }

    /// Writes as much as is possible without waiting.
    pub fn flush(&mut self) {
        while !self.is_empty() && self.is_writable() {
            let end = self.pending.len().min(self.written + PIPE_BUF);
            match rustix::io::write(&self.fd, &self.pending[self.written..end]) {
                Ok(count) => {
                    self.written += count;
                    self.last_write = Some(Instant::now());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(errno) => {
                    self.state = if errno == Errno::PIPE {
                        State::Closed
                    } else {
                        State::Failed(errno)
                    };
                    self.written = self.pending.len();
                }
            }
        }
        if self.is_empty() {
            self.pending.clear();
            self.written = 0;
        }
    }

    fn is_writable(&self) -> bool {
        let mut set = [PollFd::new(&self.fd, PollFlags::OUT)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // An error of poll is found again by write, which says more.
        poll(&mut set, Some(&at_once)).map_or(true, |ready| ready > 0)
    }
}

/// A terminal says that there is room as soon as there is some, and a write of more would wait.
fn patient(fd: OwnedFd) -> OwnedFd {
    match isatty(&fd) {
        true => unblocked(fd, OFlags::WRONLY),
        false => fd,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_pipe_keeps_the_rest_and_a_closed_one_drops_it() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut outlet = Outlet::new(write);
        outlet.push(&vec![7; 1 << 20]);
        outlet.flush();
        assert!(!outlet.is_empty(), "a pipe holds less than a mebibyte");
        let mut buffer = vec![0; 1 << 16];
        let mut seen = 0;
        while seen < 1 << 20 {
            seen += rustix::io::read(&read, &mut buffer[..]).unwrap();
            outlet.flush();
        }
        assert!(outlet.is_empty() && !outlet.is_closed());
        drop(read);
        outlet.push(b"more");
        outlet.flush();
        assert!(outlet.is_empty() && outlet.is_closed());
    }
}
