//! A machine's life, seen from outside: one loop that never blocks on anything but all of its sources at once: the
//! ports, our own output streams, signals, the deadline.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::engine::stop;
use crate::guest::ending::Ending;
use crate::guest::{Listener, Port};
use crate::watch::Watch;

/// As much as a pipe holds.
const READ_MAX: usize = 1 << 16;

/// QEMU writes byte by byte. Letting some gather before the next look saves most of our wake-ups.
const GATHER: Duration = Duration::from_micros(300);
const FEW: usize = 1024;

/// The read end of one port.
pub(super) struct Inlet {
    port: Port,
    fd: OwnedFd,
    open: bool,
}

impl Inlet {
    /// `fd` does not block.
    pub(super) fn new(port: Port, fd: OwnedFd) -> Self {
        Self {
            port,
            fd,
            open: true,
        }
    }
}

/// One run's loop.
pub(super) struct Session<'a> {
    pub(super) ports: Vec<Inlet>,
    pub(super) listener: &'a mut Listener,
    pub(super) watch: &'a Watch,
}

impl Session<'_> {
    /// Runs until the guest has said how it ended and all its output is out, or something else ends it. `None` when
    /// the ports closed without that.
    pub(super) fn run(mut self) -> Result<Option<Ending>, Errno> {
        let mut buffers = [(); 3].map(|()| vec![0; READ_MAX]);
        loop {
            let received = self.receive(&mut buffers)?;
            self.listener
                .outlets()
                .into_iter()
                .for_each(|outlet| outlet.flush());
            if let Some(ending) = stop::ended(self.listener, self.watch) {
                return Ok(Some(ending));
            }
            let flushed = self
                .listener
                .outlets()
                .iter()
                .all(|outlet| outlet.is_empty());
            if received == 0 && flushed {
                // The verdict comes after the last byte of output: with nothing left to read, all of it is here.
                if let Some(verdict) = self.listener.verdict() {
                    return Ok(Ending::of(verdict));
                }
                if self.ports.iter().all(|inlet| !inlet.open) {
                    return Ok(None);
                }
            }
            if received == 0 || !flushed {
                self.wait()?;
            } else if received < FEW {
                std::thread::sleep(GATHER);
            }
        }
    }

    /// Reads once from every port that has something and whose stream has room; gives the number of bytes.
    ///
    /// The status port is read last and its events are taken note of first: the guest says that the command runs
    /// before the command's first byte, so bytes read before that cannot be mistaken for the kernel's.
    fn receive(&mut self, buffers: &mut [Vec<u8>; 3]) -> Result<usize, Errno> {
        let mut counts = [0; 3];
        for ((inlet, buffer), count) in self
            .ports
            .iter_mut()
            .zip(buffers.iter_mut())
            .zip(&mut counts)
        {
            if !inlet.open || !self.listener.has_room(inlet.port) {
                continue;
            }
            match rustix::io::read(&inlet.fd, &mut buffer[..]) {
                Ok(0) => inlet.open = false,
                Ok(length) => *count = length,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        for at in [2, 1, 0] {
            self.listener
                .receive(self.ports[at].port, &buffers[at][..counts[at]]);
        }
        Ok(counts.iter().sum())
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self) -> Result<(), Errno> {
        let rooms: Vec<bool> = self
            .ports
            .iter()
            .map(|inlet| self.listener.has_room(inlet.port))
            .collect();
        let watch = self.watch.fd();
        let mut set = vec![PollFd::new(&watch, PollFlags::IN)];
        for (inlet, room) in self.ports.iter().zip(rooms) {
            if inlet.open && room {
                set.push(PollFd::new(&inlet.fd, PollFlags::IN));
            }
        }
        let outlets = self.listener.outlets();
        let full: Vec<_> = outlets
            .iter()
            .filter(|outlet| !outlet.is_empty())
            .map(|outlet| outlet.fd())
            .collect();
        set.extend(full.iter().map(|fd| PollFd::new(fd, PollFlags::OUT)));
        let left = self
            .watch
            .time_left()
            .and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut set, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}
