//! The QEMU engine: a child `qemu-system-x86_64` with software emulation and the same three ports.
//!
//! Started, watched and stopped from one loop that never blocks on anything but all of its sources at once: the
//! ports, our own output streams, signals, the deadline.

mod args;
#[allow(unsafe_code)]
mod child;
#[allow(unsafe_code)]
mod tsc;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use self::args::{Fds, Settings};
use self::child::Process;
use crate::engine::{probe, stop};
use crate::guest::ending::Ending;
use crate::guest::{Listener, Port};
use crate::initrd;
use crate::kernel::{self, Boot};
use crate::machine::Machine;
use crate::watch::Watch;

/// `microvm` has no PCI bus, and a kernel that looks for one complains. Emulation has nothing to speculate with, so
/// guarding against it only costs. On one CPU a kernel removes its 9,000 lock prefixes one by one, each with two changes
/// of page tables; emulation of one CPU ignores the prefixes anyway (`noreplace-smp`; 10 % of a small run). Pages are not
/// cleared before they are overwritten, as most of a large image's are (`init_on_alloc=0`; 3 % of a Debian, nothing of
/// a small run). Emulated `cmpxchg16b` now and then leaves garbage in the flags, which Linux 6.12 takes to heart: one
/// boot in fifteen died of it on a busy machine, none with the kernel told that there is no such instruction
/// (`clearcpuid=141`, CX16); programs still see it.
const CMDLINE: &str = "pci=off mitigations=off noreplace-smp init_on_alloc=0 clearcpuid=141";

/// As much as a pipe holds.
const READ_MAX: usize = 1 << 16;

/// QEMU writes byte by byte. Letting some gather before the next look saves most of our wake-ups.
const GATHER: Duration = Duration::from_micros(300);
const FEW: usize = 1024;

/// A QEMU that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    program: PathBuf,
    clock: tsc::Sample,
}

/// Why QEMU could not run the machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error(transparent)]
    Missing(#[from] probe::Error),
    /// The initrd cannot be made.
    #[error(transparent)]
    Initrd(#[from] initrd::Error),
    /// The kernel cannot be started by QEMU.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// It could not be started.
    #[error("{}: cannot be started: {source}; see rdvm doctor", program.display())]
    Start {
        /// Which program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The host refused something.
    #[error("qemu engine: {what}: {source}; see rdvm doctor")]
    Host {
        /// What was being done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It ended before the guest said anything.
    #[error("{}: ended before the machine ran: {said}; try it with another kernel (-k), or see rdvm doctor", program.display())]
    Refused {
        /// Which program.
        program: PathBuf,
        /// What it said.
        said: String,
    },
}

impl Qemu {
    /// Looks for `qemu-system-x86_64`.
    ///
    /// Errors: there is none, with the remedy.
    pub fn find() -> Result<Self, Error> {
        Ok(Self {
            program: probe::qemu_path()?,
            clock: tsc::Sample::take(),
        })
    }

    /// What this machine's kernel must be told.
    pub(super) fn cmdline(&self) -> String {
        match self.clock.khz() {
            Some(khz) => format!("{CMDLINE} tsc_early_khz={khz}"),
            None => CMDLINE.to_owned(),
        }
    }

    /// Runs the machine to its end; the child is gone when this returns.
    pub(super) fn boot(
        &self,
        machine: Machine,
        mut listener: Listener,
        watch: &Watch,
    ) -> Result<(Ending, Listener), Error> {
        let initrd = machine.initrd.to_file()?;
        listener.machine_starts();
        // QEMU has no 64-bit entry: an uncompressed kernel starts by its PVH entry, any other unpacks itself.
        let kernel = match machine.kernel.into_boot()? {
            Boot::Pvh(file, _) | Boot::BzImage(file, _) => file,
        };
        let settings = Settings {
            cmdline: &machine.cmdline,
            memory: machine.memory,
            cpus: machine.cpus,
        };
        let host = |what| {
            move |errno: Errno| Error::Host {
                what,
                source: errno.into(),
            }
        };
        let mut ports = Vec::new();
        let mut theirs = Vec::new();
        for port in [Port::Console, Port::Stdout, Port::Status] {
            let (read, write) =
                rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(host("making a pipe"))?;
            rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK).map_err(host("setting up a pipe"))?;
            ports.push(Inlet {
                port,
                fd: read,
                open: true,
            });
            theirs.push(write);
        }
        let fds = Fds {
            kernel: kernel.as_raw_fd(),
            initrd: initrd.as_raw_fd(),
            ports: [
                theirs[0].as_raw_fd(),
                theirs[1].as_raw_fd(),
                theirs[2].as_raw_fd(),
            ],
        };
        let inherit = [fds.kernel, fds.initrd]
            .into_iter()
            .chain(fds.ports)
            .collect();
        let start = |source| Error::Start {
            program: self.program.clone(),
            source,
        };
        let mut process =
            Process::start(&self.program, &args::args(&settings, &fds), inherit).map_err(start)?;
        drop(theirs);
        let ending = Session {
            ports,
            listener: &mut listener,
            watch,
        }
        .run()
        .map_err(host("waiting for the machine"))?;
        let ending = self
            .conclude(ending, &mut process, &mut listener)
            .map_or_else(|| self.refused(process), Ok)?;
        Ok((ending, listener))
    }

    /// What the end of the ports means; `None` when QEMU itself gave up.
    fn conclude(
        &self,
        ending: Option<Ending>,
        process: &mut Process,
        listener: &mut Listener,
    ) -> Option<Ending> {
        if ending.is_some() {
            return ending;
        }
        process.wait();
        let moments = listener.moments();
        let spoke = moments.ready.is_some() || !listener.console().last_lines(1).is_empty();
        let panic = listener.console().panic();
        spoke.then_some(Ending::Died {
            started: moments.started.is_some(),
            panic,
            how: None,
        })
    }

    fn refused(&self, process: Process) -> Result<Ending, Error> {
        match process.finish() {
            (Some(status), said) if status.success() && said.is_empty() => Ok(Ending::Died {
                started: false,
                panic: None,
                how: None,
            }),
            (status, said) => {
                let status = status.map_or_else(String::new, |status| status.to_string());
                let said = if said.is_empty() { status } else { said };
                let said = crate::escape::escaped(said.as_bytes());
                Err(Error::Refused {
                    program: self.program.clone(),
                    said,
                })
            }
        }
    }
}

/// The read end of one port.
struct Inlet {
    port: Port,
    fd: OwnedFd,
    open: bool,
}

/// One run's loop.
struct Session<'a> {
    ports: Vec<Inlet>,
    listener: &'a mut Listener,
    watch: &'a Watch,
}

impl Session<'_> {
    /// Runs until the guest has said how it ended and all its output is out, or something else ends it. `None` when
    /// the ports closed without that.
    fn run(mut self) -> Result<Option<Ending>, Errno> {
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
