//! A machine's life, seen from outside: one loop that never blocks on anything but all of its sources at once: the
//! ports, our own output streams, signals, the deadline.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::halt::HaltDetector;
use crate::guest::ending::Ending;
use crate::guest::{Listener, Port};
use crate::watch::Watch;

/// As much as a pipe holds.
const READ_MAX: usize = 1 << 16;

/// QEMU writes byte by byte. Letting some gather before the next look saves most of our wake-ups.
const GATHER: Duration = Duration::from_micros(300);
const FEW: usize = 1024;

/// The read end of one port.
pub(super) struct PortReader {
    port: Port,
    fd: OwnedFd,
    open: bool,
}

impl PortReader {
    /// `fd` does not block.
    pub(super) fn new(port: Port, fd: OwnedFd) -> Self {
        Self {
            port,
            fd,
            open: true,
        }
    }
}

/// The way into one port.
pub(super) struct PortWriter {
    port: Port,
    fd: OwnedFd,
}

impl PortWriter {
    /// `fd` does not block.
    pub(super) fn new(port: Port, fd: OwnedFd) -> Self {
        Self { port, fd }
    }
}

/// Gives the memory of a file back that QEMU has mapped; it may read zeros from it. Where that cannot be done it stays.
fn empty(file: &File) {
    if let Ok(meta) = file.metadata() {
        let whole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let _ = fallocate(file, whole, 0, meta.len());
    }
}

/// One run's loop.
pub(super) struct Session<'a> {
    pub(super) ports: Vec<PortReader>,
    pub(super) writers: Vec<PortWriter>,
    pub(super) listener: &'a mut Listener,
    pub(super) watch: &'a Watch,
    /// A file of ours that QEMU has read, and that nobody needs any more once the guest has unpacked its initrd.
    pub(super) unpacked: Option<&'a File>,
    pub(super) halt_detector: HaltDetector,
}

impl Session<'_> {
    /// Runs until the guest has said how it ended and all its output is out, or something else ends it. `None` when
    /// the ports closed without that.
    pub(super) fn run(mut self) -> Result<Option<Ending>, Errno> {
        let mut buffers = [(); 3].map(|()| vec![0; READ_MAX]);
        loop {
            let received = self.receive(&mut buffers)?;
            if self.listener.timestamps().ready.is_some()
                && let Some(file) = self.unpacked.take()
            {
                empty(file);
            }
            self.listener
                .outlets()
                .into_iter()
                .for_each(|outlet| outlet.flush());
            if let Some(ending) = self.listener.steer(self.watch) {
                return Ok(Some(ending));
            }
            let flushed = self
                .listener
                .outlets()
                .iter()
                .all(|outlet| outlet.is_empty());
            if received == 0 && flushed {
                // The verdict comes after the last byte of output: with nothing left to read, all of it is here.
                if let Some(ending) = self.listener.conclude() {
                    return Ok(Some(ending));
                }
                if self.ports.iter().all(|inlet| !inlet.open) {
                    return Ok(None);
                }
            }
            // A machine whose output nobody takes waits for that.
            if received > 0 || !flushed {
                self.halt_detector.beats();
            } else if self.halt_detector.has_stopped() {
                return Ok(Some(Ending::Died {
                    started: self.listener.timestamps().started.is_some(),
                    panic: self.listener.console().panic(),
                    how: Some("halted for good".to_owned()),
                }));
            }
            self.send();
            if received == 0 || !flushed {
                self.wait()?;
            } else {
                if received < FEW {
                    std::thread::sleep(GATHER);
                }
                self.take_what_is_there();
            }
        }
    }

    /// Reads input that can be read now: output without an end must not keep us from hearing Ctrl-C.
    fn take_what_is_there(&mut self) {
        let at_once = Timespec::default();
        if let Some(input) = self.listener.input()
            && poll(&mut [PollFd::new(&input, PollFlags::IN)], Some(&at_once)) == Ok(1)
        {
            self.listener.take_input();
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
                // A socket that is closed with something unread in it says that.
                Ok(0) | Err(Errno::CONNRESET) => inlet.open = false,
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

    /// Sends what there is to be sent, as far as that is possible without waiting.
    fn send(&mut self) {
        for mouth in &self.writers {
            let pending = self.listener.pending(mouth.port);
            if !pending.is_empty()
                && let Ok(count) = rustix::io::write(&mouth.fd, pending)
            {
                self.listener.sent(mouth.port, count);
            }
            // What fails for good fails because QEMU is gone, which the ports tell.
        }
    }

    /// Sleeps until there is something to do, and reads input if that is it.
    fn wait(&mut self) -> Result<(), Errno> {
        let rooms: Vec<bool> = self
            .ports
            .iter()
            .map(|inlet| self.listener.has_room(inlet.port))
            .collect();
        let tick = self.halt_detector.time_left();
        let left = self.listener.time_left(self.watch);
        let left = Timespec::try_from(left.map_or(tick, |left| left.min(tick))).ok();
        let watch = self.watch.fd();
        let mut set = vec![PollFd::new(&watch, PollFlags::IN)];
        let input = self.listener.input();
        // First, so that its place is known.
        set.extend(input.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        for (inlet, room) in self.ports.iter().zip(rooms) {
            if inlet.open && room {
                set.push(PollFd::new(&inlet.fd, PollFlags::IN));
            }
        }
        for mouth in &self.writers {
            if !self.listener.pending(mouth.port).is_empty() {
                set.push(PollFd::new(&mouth.fd, PollFlags::OUT));
            }
        }
        let outlets = self.listener.outlet_fds();
        set.extend(
            outlets
                .iter()
                .flatten()
                .map(|fd| PollFd::new(fd, PollFlags::OUT)),
        );
        match poll(&mut set, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let readable = input.is_some() && !set[1].revents().is_empty();
        if readable {
            self.listener.take_input();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use rdvm_proto::{Event, FRAME_MAX};
    use rustix::pipe::pipe;

    use super::*;
    use crate::guest::console::Console;
    use crate::guest::control::Control;
    use crate::guest::input::Input;
    use crate::guest::output_stream::OutputStream;

    /// Where nothing but waiting made it look at its input, it would see the deadline instead.
    #[test]
    fn input_is_read_while_output_pours_out() {
        let open = |path: &str| File::options().read(true).write(true).open(path).unwrap();
        let sink = || OutputStream::new(open("/dev/null").into());
        let console = Console::new(sink(), None, false);
        // Reading it fails, by which we see that it was read.
        let input = Input::new(Some(File::open("/").unwrap().into()), false);
        let mut listener =
            Listener::new(sink(), console, Control::frames()).with_input(input, None);
        let (silent, _stays_open) = pipe().unwrap();
        let (events, status) = pipe().unwrap();
        for event in [Event::Started(1), Event::Credit(1000)] {
            let mut frame = [0; FRAME_MAX];
            let length = event.encode(&mut frame);
            rustix::io::write(&status, &frame[..length]).unwrap();
        }
        for fd in [&silent, &events] {
            rustix::fs::fcntl_setfl(fd, rustix::fs::OFlags::NONBLOCK).unwrap();
        }
        let watch = Watch::start(Some(Duration::from_secs(3))).unwrap();
        let session = Session {
            ports: vec![
                PortReader::new(Port::Console, silent),
                PortReader::new(Port::Stdout, open("/dev/zero").into()),
                PortReader::new(Port::Status, events),
            ],
            writers: Vec::new(),
            unpacked: None,
            listener: &mut listener,
            watch: &watch,
            halt_detector: HaltDetector::new(std::process::id(), 1),
        };
        let directory = Errno::ISDIR.raw_os_error();
        let ending = session.run().unwrap();
        assert_eq!(ending, Some(Ending::InputFailed(directory)));
    }
}
