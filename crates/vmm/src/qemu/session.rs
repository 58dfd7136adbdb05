//! The life of a machine, seen from outside: one loop that waits for all of its sources at once: the ports, the output streams,
//! signals, the deadline.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

#[cfg(debug_assertions)]
use rdvm_confine::Role;

use super::halt::HaltDetector;
use crate::event_loop::{EventLoop, Token};
use crate::guest::ending::Ending;
use crate::guest::{GuestPorts, Port};
use crate::stop_signals::StopSignals;

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
    /// A reader of `fd`, which does not block.
    pub(super) fn new(port: Port, fd: OwnedFd) -> Self {
        Self {
            port,
            fd,
            open: true,
        }
    }
}

/// The write end of one port.
pub(super) struct PortWriter {
    port: Port,
    fd: OwnedFd,
}

impl PortWriter {
    /// A writer to `fd`, which does not block.
    pub(super) fn new(port: Port, fd: OwnedFd) -> Self {
        Self { port, fd }
    }
}

/// Frees the memory of a file that QEMU has mapped; it may read zeros from it. Where that fails it stays.
fn empty(file: &File) {
    if let Ok(meta) = file.metadata() {
        let whole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let _ = fallocate(file, whole, 0, meta.len());
    }
}

/// The loop of one run.
pub(super) struct Session<'a> {
    pub(super) ports: Vec<PortReader>,
    pub(super) writers: Vec<PortWriter>,
    pub(super) guest: &'a mut GuestPorts,
    pub(super) signals: &'a StopSignals,
    /// A file that QEMU has read, and that is not needed any more once the guest has unpacked its initrd.
    pub(super) unpacked: Option<&'a File>,
    pub(super) halt_detector: HaltDetector,
}

impl Session<'_> {
    /// Runs until the guest has told how it ended and all its output is written, or something else ends it. Returns `None`
    /// when the ports closed without that.
    ///
    /// # Errors
    ///
    /// No descriptors left; a port cannot be read; poll(2) fails.
    pub(super) fn run(mut self) -> Result<Option<Ending>, Errno> {
        let events = EventLoop::new(self.guest)?;
        let mut buffers = [(); 3].map(|()| vec![0; READ_MAX]);
        loop {
            let [console, stdout, status] = self.receive(&mut buffers)?;
            let printed = console + stdout;
            let received = printed + status;
            if self.guest.timestamps().ready.is_some()
                && let Some(file) = self.unpacked.take()
            {
                empty(file);
            }
            self.guest.flush();
            if let Some(ending) = self.guest.steer(self.signals) {
                return Ok(Some(ending));
            }
            let flushed = self.guest.is_flushed();
            if received == 0 && flushed {
                // The verdict comes after the last byte of output: with nothing left to read, all of it is here.
                if let Some(ending) = self.guest.conclude() {
                    return Ok(Some(ending));
                }
                if self.ports.iter().all(|port| !port.open) {
                    return Ok(None);
                }
            }
            // A machine whose output is not read waits for that.
            if received > 0 || !flushed {
                self.halt_detector.beats();
            } else if self.halt_detector.has_stopped() {
                return Ok(Some(Ending::Died {
                    started: self.guest.timestamps().started.is_some(),
                    panic: self.guest.console().panic(),
                    how: Some("halted for good".to_owned()),
                }));
            }
            self.send();
            if received == 0 || !flushed {
                self.wait(&events)?;
            } else {
                // The status port's bytes ask for something.
                if (1..FEW).contains(&printed) {
                    std::thread::sleep(GATHER);
                }
                self.take_input(&events);
            }
        }
    }

    /// Reads input that can be read now: output without an end must not keep us from hearing Ctrl-C.
    fn take_input(&mut self, events: &EventLoop) {
        let wanted = self.guest.wanted();
        if !wanted.input {
            return;
        }
        let mut set = events.input(wanted);
        if set.wait(Duration::ZERO).is_ok() && set.is_ready(Token::Input) {
            self.guest.take_input();
        }
    }

    /// Reads once from every port that has something and whose stream has room; returns the number of bytes of each.
    ///
    /// The status port is read last and its events are noted first: the guest reports that the command runs before the
    /// command's first byte, so bytes read before that cannot be mistaken for the kernel's.
    fn receive(&mut self, buffers: &mut [Vec<u8>; 3]) -> Result<[usize; 3], Errno> {
        let mut counts = [0; 3];
        let places = buffers.iter_mut().zip(&mut counts);
        for (reader, (buffer, count)) in self.ports.iter_mut().zip(places) {
            if !reader.open || !self.guest.has_room(reader.port) {
                continue;
            }
            match rustix::io::read(&reader.fd, &mut buffer[..]) {
                // A socket that is closed with something unread in it reports that.
                Ok(0) | Err(Errno::CONNRESET) => reader.open = false,
                Ok(length) => *count = length,
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        for at in [2, 1, 0] {
            let bytes = &buffers[at][..counts[at]];
            #[cfg(debug_assertions)]
            rdvm_confine::attack(Role::EventLoop);
            self.guest.receive(self.ports[at].port, bytes);
        }
        Ok(counts)
    }

    /// Sends what there is to be sent, as far as that is possible without waiting.
    fn send(&mut self) {
        for writer in &self.writers {
            let pending = self.guest.pending(writer.port);
            if !pending.is_empty()
                && let Ok(count) = rustix::io::write(&writer.fd, pending)
            {
                self.guest.sent(writer.port, count);
            }
            // What fails for good fails because QEMU is gone, which the ports tell.
        }
    }

    /// Sleeps until there is something to do, and reads input if that is it.
    fn wait(&mut self, events: &EventLoop) -> Result<(), Errno> {
        let tick = self.halt_detector.time_left();
        let left = self.guest.time_left();
        let mut set = events.set(self.guest.wanted(), self.signals);
        for reader in &self.ports {
            if reader.open && self.guest.has_room(reader.port) {
                set.read(Token::Port(reader.port), reader.fd.as_fd());
            }
        }
        for writer in &self.writers {
            if !self.guest.pending(writer.port).is_empty() {
                set.write(Token::Port(writer.port), writer.fd.as_fd());
            }
        }
        set.wait(left.map_or(tick, |left| left.min(tick)))?;
        if set.is_ready(Token::Input) {
            self.guest.take_input();
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
    use crate::guest::input_pump::InputPump;
    use crate::guest::output_stream::OutputStream;

    /// Where nothing but waiting made it look at its input, it would see the deadline instead.
    #[test]
    fn input_is_read_while_output_pours_out() {
        let open = |path: &str| File::options().read(true).write(true).open(path).unwrap();
        let sink = || OutputStream::new(open("/dev/null").into());
        let console = Console::new(sink(), None, false);
        // Reading it fails, by which we see that it was read.
        let input = InputPump::new(Some(File::open("/").unwrap().into()));
        let mut guest = GuestPorts::new(sink(), console, Control::frames())
            .with_input(input)
            .with_timeout(Some(Duration::from_secs(3)));
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
        let signals = StopSignals::new().unwrap();
        let session = Session {
            ports: vec![
                PortReader::new(Port::Console, silent),
                PortReader::new(Port::Stdout, open("/dev/zero").into()),
                PortReader::new(Port::Status, events),
            ],
            writers: Vec::new(),
            unpacked: None,
            guest: &mut guest,
            signals: &signals,
            halt_detector: HaltDetector::new(std::process::id()).unwrap(),
        };
        let directory = Errno::ISDIR.raw_os_error();
        let ending = session.run().unwrap();
        assert_eq!(ending, Some(Ending::InputFailed(directory)));
    }
}
