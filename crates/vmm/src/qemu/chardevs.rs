//! The three ports' ways out of QEMU, and into it where something is to be sent.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};

use super::args::Line;
use super::session::{PortReader, PortWriter};
use crate::guest::Port;

/// Both ends of everything.
pub(super) struct Chardevs {
    /// Ours to read.
    pub(super) ports: Vec<PortReader>,
    /// Ours to write.
    pub(super) writers: Vec<PortWriter>,
    /// QEMU's, which inherits them.
    pub(super) theirs: Vec<OwnedFd>,
    /// QEMU's standard input and output, where a port has these.
    pub(super) stdio: Option<(OwnedFd, OwnedFd)>,
}

impl Chardevs {
    /// Makes pipes from the ports; with `both_ways` also into those of stdout and status.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    pub(super) fn new(both_ways: bool) -> rustix::io::Result<Self> {
        let mut chardevs = Self {
            ports: Vec::new(),
            writers: Vec::new(),
            theirs: Vec::new(),
            stdio: None,
        };
        chardevs.out(Port::Console)?;
        if !both_ways {
            chardevs.out(Port::Stdout)?;
            chardevs.out(Port::Status)?;
            return Ok(chardevs);
        }
        let (read, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stdin, write) = pipe_with(PipeFlags::CLOEXEC)?;
        chardevs
            .ports
            .push(PortReader::new(Port::Stdout, no_wait(read)?));
        chardevs
            .writers
            .push(PortWriter::new(Port::Stdout, no_wait(write)?));
        chardevs.stdio = Some((stdin, stdout));
        let kind = (
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
        );
        let (ours, theirs) = socketpair(kind.0, kind.1, kind.2, None)?;
        let again = rustix::io::fcntl_dupfd_cloexec(&ours, 0)?;
        chardevs
            .ports
            .push(PortReader::new(Port::Status, no_wait(ours)?));
        chardevs.writers.push(PortWriter::new(Port::Status, again));
        chardevs.theirs.push(theirs);
        Ok(chardevs)
    }

    /// Returns the ports for QEMU's arguments.
    pub(super) fn lines(&self) -> [Line; 3] {
        let raw = |index: usize| -> RawFd { self.theirs[index].as_raw_fd() };
        match self.stdio {
            None => [Line::Out(raw(0)), Line::Out(raw(1)), Line::Out(raw(2))],
            Some(_) => [Line::Out(raw(0)), Line::Stdio, Line::Socket(raw(1))],
        }
    }

    fn out(&mut self, port: Port) -> rustix::io::Result<()> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        self.ports.push(PortReader::new(port, no_wait(read)?));
        self.theirs.push(write);
        Ok(())
    }
}

/// Sets a flag of the open file, which all copies of the descriptor have.
fn no_wait(fd: OwnedFd) -> rustix::io::Result<OwnedFd> {
    rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK)?;
    Ok(fd)
}
