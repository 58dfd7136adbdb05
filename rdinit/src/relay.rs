//! From the command's pipes to the serial ports or the rings, while waiting for its end.
//!
//! The command gets pipes and not the ports themselves, so that it does not take its output for a terminal and
//! cannot change how the ports treat bytes. A port that does not take any (the host's reader sleeps) stops its own
//! pipe and nothing else. The same holds for a ring.

use crate::init::send;
use crate::input::{HostRequests, Stdin};
use crate::net::{NET_POLL, Net};
use crate::rings::{Outbound, Rings};
use crate::streams::Child;
use crate::sys::{self, PollFd, Usage};
use rdvm_proto::{Event, HostRequest, Ring};

/// The number of dead processes that are reaped before the ports are served again.
const AT_ONCE: u32 = 256;
const BUFFER: usize = 1 << 16;
/// Bytes: after fewer at a time a stream with a ring is left to gather for [`GATHER_MS`]. Whoever prints ten bytes a million times
/// would wake PID 1 for each.
const LITTLE: usize = 1 << 10;
/// Milliseconds.
const GATHER_MS: i32 = 1;
/// Descriptors that are waited for besides connections.
const OWN: usize = 5;
const NONE: PollFd = PollFd {
    fd: -1,
    events: 0,
    revents: 0,
};
/// Bytes of a stream after which its ring is worth what it costs to map it, which is as much as a few hundred bytes on a port.
const SWITCH: u64 = 1 << 10;

/// The end of the command.
pub(crate) struct End {
    /// Its wait status.
    pub(crate) status: i32,
    /// The resources that it and its children used.
    pub(crate) usage: Usage,
    /// Bytes of standard output sent.
    pub(crate) stdout: u64,
    /// Bytes of standard error sent.
    pub(crate) stderr: u64,
}

/// The ports as PID 1 has them open, and what comes in by them.
pub(crate) struct Ports {
    pub(crate) console: i32,
    pub(crate) stdout: i32,
    pub(crate) status: i32,
    /// Memory for what is too much for a port.
    pub(crate) rings: Rings,
    /// Standard input comes through its ring.
    pub(crate) has_input_ring: bool,
    /// The input of the status port, where the host sends requests.
    pub(crate) requests: Option<HostRequests>,
    /// Connections to and from the host.
    pub(crate) net: Option<Net>,
}

/// Carries output and input and reaps until the command and all that it left behind are gone and everything is sent.
pub(crate) fn until_the_end(child: &Child, children: i32, ports: &mut Ports) -> End {
    let mut forwarders = [
        Forwarder::new(child.stdout, ports.stdout, Ring::Stdout, child.terminal),
        Forwarder::new(child.stderr, ports.console, Ring::Stderr, None),
    ];
    let rings = &mut ports.rings;
    let mut stdin = Stdin::new(
        ports.has_input_ring.then(|| rings.memory()).flatten(),
        ports.stdout,
        child.stdin,
        child.terminal.is_some(),
    );
    let mut reaper = Reaper {
        main: child.pid,
        ended: None,
        alone: false,
        more: false,
    };
    loop {
        if let Some(granted) = stdin.grant() {
            send(ports.status, &granted);
        }
        if reaper.alone {
            forwarders[0].release_terminal();
            if forwarders.iter().all(|forwarder| forwarder.finished()) {
                break;
            }
        }
        let mut set = [NONE; OWN + NET_POLL];
        let (own, connections) = set.split_at_mut(OWN);
        own[0] = PollFd::new(children, sys::POLLIN);
        own[1] = ports.requests.as_ref().map_or(NONE, HostRequests::wants);
        own[2] = stdin.wants();
        own[3] = forwarders[0].wants();
        own[4] = forwarders[1].wants();
        let timeout = ports.net.as_mut().map(|net| net.wants(connections));
        let length = if timeout.is_some() { set.len() } else { OWN };
        let mut timeout = match reaper.more {
            true => 0,
            false => timeout.unwrap_or(-1),
        };
        for forwarder in &mut forwarders {
            if core::mem::take(&mut forwarder.gathers) && timeout != 0 {
                timeout = GATHER_MS;
            }
        }
        let _ = sys::poll(&mut set[..length], timeout);
        if set[0].revents != 0 || reaper.more {
            let mut discard = [0u8; 128];
            let _ = sys::read(children, &mut discard);
            reaper.reap();
        }
        if set[1].revents != 0 {
            while let Some(request) = ports.requests.as_mut().and_then(HostRequests::next) {
                obey(request, child, &mut stdin);
            }
        }
        if set[2].revents != 0 {
            stdin.step();
        }
        if let Some(net) = &mut ports.net {
            net.step(&set[OWN..]);
        }
        for (forwarder, ready) in forwarders.iter_mut().zip(&set[3..]) {
            if ready.revents != 0 {
                let has_rings = ports.requests.is_some() && ports.rings.may_be_had();
                if has_rings {
                    forwarder.switch(ports.status, &mut ports.rings);
                }
                forwarder.step(has_rings);
            }
        }
    }
    for forwarder in &forwarders {
        drain(forwarder.to);
    }
    let (status, usage) = reaper.ended.unwrap_or((0, Usage::default()));
    End {
        status,
        usage,
        stdout: forwarders[0].sent,
        stderr: forwarders[1].sent,
    }
}

fn obey(request: HostRequest, child: &Child, stdin: &mut Stdin) {
    match request {
        HostRequest::Signal(signal) if usize::from(signal) == sys::SIGKILL => {
            sys::kill_all_others(sys::SIGKILL);
        }
        HostRequest::Signal(signal) => {
            // To systemd, SIGTERM means to start anew. podman stops it and other inits by this one too.
            const SIGTERM: u8 = 15;
            const SIGRTMIN_3: u8 = 37;
            let signal = match signal {
                SIGTERM if child.is_init => SIGRTMIN_3,
                _ => signal,
            };
            let _ = sys::kill_group(child.pid, signal.into());
        }
        HostRequest::Resize { rows, columns } if child.terminal.is_some() => {
            let _ = sys::set_window(child.stdout, [rows, columns]);
        }
        HostRequest::Produced(total) => stdin.arrived(total),
        HostRequest::StdinEnd(total) => stdin.ends_after(total),
        // The output is not all there yet: the host asks for the files when it is.
        HostRequest::Resize { .. } | HostRequest::CopyOut => {}
        // It runs.
        HostRequest::Start => {}
        // Rings are looked at each time around.
        HostRequest::Bell => {}
    }
}

/// Waits until a port has sent everything. The kernel's own way to wait sleeps in ticks; this looks first.
pub(crate) fn drain(port: i32) {
    while !sys::has_drained(port) {
        sys::pause_ms(1);
    }
}

/// One direction: a pipe, a port and what was read but not yet written; or a pipe and a ring.
struct Forwarder {
    from: i32,
    to: i32,
    stream: Ring,
    ring: Option<Outbound>,
    /// It is not read until the next time around.
    gathers: bool,
    buffer: &'static mut [u8],
    pending: core::ops::Range<usize>,
    ended: bool,
    sent: u64,
    /// Slave side of the terminal whose master is read. As long as it is open, the master has no end: programs close their
    /// terminal and open it again, and init systems hang it up.
    terminal: Option<i32>,
}

impl Forwarder {
    fn new(from: i32, to: i32, stream: Ring, terminal: Option<i32>) -> Self {
        let _ = sys::set_nonblocking(to);
        if from >= 0 {
            let _ = sys::set_nonblocking(from);
        }
        // Without a buffer nothing can be carried; the command then blocks or ends, which is still an end.
        let buffer = sys::allocate(BUFFER).unwrap_or(&mut []);
        Self {
            from,
            to,
            stream,
            ring: None,
            gathers: false,
            buffer,
            pending: 0..0,
            // With a terminal there is one stream only.
            ended: from < 0,
            sent: 0,
            terminal,
        }
    }

    /// Lets the terminal come to its end, when no process is left to write to it.
    fn release_terminal(&mut self) {
        if let Some(slave) = self.terminal.take() {
            sys::close(slave);
        }
    }

    /// Opens a terminal again that was hung up. Returns false if there is none, or it cannot be.
    fn reopen_terminal(&mut self) -> bool {
        let Some(slave) = self.terminal.take() else {
            return false;
        };
        sys::close(slave);
        self.terminal = sys::open_slave(self.from).ok();
        self.terminal.is_some()
    }

    fn finished(&self) -> bool {
        self.ended && self.pending.is_empty()
    }

    fn wants(&self) -> PollFd {
        if self.gathers {
            return NONE;
        }
        match (self.pending.is_empty(), self.ended) {
            (false, _) => PollFd::new(self.to, sys::POLLOUT),
            // The host rings when there is room.
            (true, false) if self.ring.as_ref().is_some_and(|ring| !ring.has_room(1)) => NONE,
            (true, false) => PollFd::new(self.from, sys::POLLIN),
            (true, true) => NONE,
        }
    }

    /// Goes over to the ring once there has been much to send.
    fn switch(&mut self, status: i32, rings: &mut Rings) {
        if self.ring.is_none()
            && self.sent >= SWITCH
            && self.pending.is_empty()
            && let Some(memory) = rings.memory()
        {
            send(status, &Event::Switched(self.stream, self.sent));
            self.ring = Some(Outbound::new(memory, self.stream, status));
        }
    }

    fn step(&mut self, has_rings: bool) {
        if self.pending.is_empty() {
            let read = match &mut self.ring {
                Some(ring) => ring.read_from(self.from),
                // No more by the port than belongs there, where the rest has a ring.
                None if has_rings => {
                    let room = SWITCH.saturating_sub(self.sent).clamp(1, SWITCH) as usize;
                    let room = room.min(self.buffer.len());
                    sys::read(self.from, &mut self.buffer[..room])
                }
                None => sys::read(self.from, self.buffer),
            };
            match read {
                Ok(0) => self.ended = true,
                Ok(length) if self.ring.is_some() => {
                    self.sent += length as u64;
                    self.gathers = length < LITTLE;
                }
                Ok(length) => self.pending = 0..length,
                Err(sys::EAGAIN | sys::EINTR) => return,
                Err(sys::EIO) if self.reopen_terminal() => return,
                Err(_) => self.ended = true,
            }
        }
        while !self.pending.is_empty() {
            match sys::write(self.to, &self.buffer[self.pending.clone()]) {
                Ok(length) => {
                    self.pending.start += length;
                    self.sent += length as u64;
                }
                Err(sys::EAGAIN) => return,
                Err(sys::EINTR) => {}
                // The port is gone for good: the rest of the output has nowhere to go, and the command must not block.
                Err(_) => self.pending = 0..0,
            }
        }
    }
}

/// Collects the dead. When the command itself is among them, everything else is killed too.
struct Reaper {
    main: i32,
    ended: Option<(i32, Usage)>,
    alone: bool,
    /// There may be more dead than were collected.
    more: bool,
}

impl Reaper {
    /// Not all at once: whoever forks without end must not keep us from everything else.
    fn reap(&mut self) {
        self.more = false;
        for _ in 0..AT_ONCE {
            match sys::reap() {
                Ok(Some((pid, status, usage))) if pid == self.main => {
                    self.ended = Some((status, usage));
                    sys::kill_all_others(sys::SIGKILL);
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    // A process forked while the others were being killed.
                    if self.ended.is_some() {
                        sys::kill_all_others(sys::SIGKILL);
                    }
                    return;
                }
                Err(sys::EINTR) => {}
                Err(_) => {
                    self.alone = true;
                    return;
                }
            }
        }
        if self.ended.is_some() {
            sys::kill_all_others(sys::SIGKILL);
        }
        self.more = true;
    }
}
