//! The descriptors that an engine waits for, each by a name.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use crate::guest::{GuestPorts, Port};
use crate::stop_signals::StopSignals;

/// The name of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// A signal came.
    Signals,
    /// Standard input can be read.
    Input,
    /// Standard output or standard error can be written.
    Output,
    /// The network's socket has something, or room for something.
    Net,
    /// A thread of the engine wakes it.
    Engine,
    /// A port has bytes, or room for some.
    Port(Port),
}

/// Descriptors to wait for.
#[derive(Default)]
pub(crate) struct PollSet<'a> {
    tokens: Vec<Token>,
    fds: Vec<PollFd<'a>>,
}

impl<'a> PollSet<'a> {
    /// Adds a descriptor to be read.
    pub(crate) fn read(&mut self, token: Token, fd: BorrowedFd<'a>) {
        self.add(token, fd, PollFlags::IN);
    }

    /// Adds a descriptor to be written.
    pub(crate) fn write(&mut self, token: Token, fd: BorrowedFd<'a>) {
        self.add(token, fd, PollFlags::OUT);
    }

    fn add(&mut self, token: Token, fd: BorrowedFd<'a>, flags: PollFlags) {
        self.tokens.push(token);
        self.fds.push(PollFd::from_borrowed_fd(fd, flags));
    }

    /// Waits until one of them is ready, an error, or closed, a signal comes, or the time is up.
    ///
    /// # Errors
    ///
    /// poll(2) fails.
    pub(crate) fn wait(&mut self, timeout: Duration) -> rustix::io::Result<()> {
        match poll(&mut self.fds, Timespec::try_from(timeout).ok().as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// True if a descriptor of this name was ready.
    pub(crate) fn is_ready(&self, token: Token) -> bool {
        let mut all = self.tokens.iter().zip(&self.fds);
        all.any(|(each, fd)| *each == token && !fd.revents().is_empty())
    }
}

/// The streams of a run that both engines wait for. They have duplicates of the descriptors, so that nothing of the guest's
/// ports is locked meanwhile.
#[derive(Debug)]
pub(crate) struct EventLoop {
    outputs: [OwnedFd; 2],
    input: Option<OwnedFd>,
    net: Option<OwnedFd>,
}

/// The streams that are waited for now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Standard output and standard error.
    pub(crate) outputs: [bool; 2],
    /// Standard input.
    pub(crate) input: bool,
    /// The network's socket, to be read and to be written.
    pub(crate) net: [bool; 2],
}

impl EventLoop {
    /// The loop for the streams of `guest`.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    pub(crate) fn new(guest: &GuestPorts) -> rustix::io::Result<Self> {
        let duplicate = |fd| fcntl_dupfd_cloexec(fd, 0);
        let [stdout, stderr] = guest.outputs();
        Ok(Self {
            outputs: [duplicate(stdout.fd())?, duplicate(stderr.fd())?],
            input: guest.input_source().map(duplicate).transpose()?,
            net: guest.net_socket().map(duplicate).transpose()?,
        })
    }

    /// Returns the set of the streams that are wanted, and of `signals`.
    pub(crate) fn set<'a>(&'a self, wanted: Wanted, signals: &'a StopSignals) -> PollSet<'a> {
        let mut set = self.input(wanted);
        set.read(Token::Signals, signals.fd());
        for (output, wanted) in self.outputs.iter().zip(wanted.outputs) {
            if wanted {
                set.write(Token::Output, output.as_fd());
            }
        }
        if let Some(net) = &self.net {
            let [reads, writes] = wanted.net;
            if reads {
                set.read(Token::Net, net.as_fd());
            }
            if writes {
                set.write(Token::Net, net.as_fd());
            }
        }
        set
    }

    /// Returns the set of standard input alone, if it is wanted.
    pub(crate) fn input(&self, wanted: Wanted) -> PollSet<'_> {
        let mut set = PollSet::default();
        if let Some(input) = self.input.as_ref().filter(|_| wanted.input) {
            set.read(Token::Input, input.as_fd());
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use rustix::pipe::pipe;

    use super::*;

    #[test]
    fn what_is_ready_is_known_by_its_name_wherever_it_stands() {
        let ((read, write), (silent, _open)) = (pipe().unwrap(), pipe().unwrap());
        rustix::io::write(&write, b"x").unwrap();
        for turn in [false, true] {
            let mut set = PollSet::default();
            let mut order = [(Token::Input, &read), (Token::Engine, &silent)];
            if turn {
                order.reverse();
            }
            for (token, fd) in order {
                set.read(token, fd.as_fd());
            }
            set.wait(Duration::from_secs(60)).unwrap();
            assert!(set.is_ready(Token::Input));
            assert!(!set.is_ready(Token::Engine) && !set.is_ready(Token::Output));
        }
        let mut set = PollSet::default();
        set.read(Token::Engine, silent.as_fd());
        set.wait(Duration::ZERO).unwrap();
        assert!(!set.is_ready(Token::Engine));
    }
}
