//! From the command's pipes to the serial ports, while waiting for its end.
//!
//! The command gets pipes and not the ports themselves, so that it does not take its output for a terminal and
//! cannot change how the ports treat bytes. A port that does not take any (the host's reader sleeps) stops its own
//! pipe and nothing else.

use crate::spawn::Child;
use crate::sys::{self, PollFd, Usage};

const BUFFER: usize = 1 << 16;

/// How the command ended.
pub(crate) struct End {
    /// Its wait status.
    pub(crate) status: i32,
    /// What it and its children used.
    pub(crate) usage: Usage,
    /// Bytes sent to the stdout port.
    pub(crate) stdout: u64,
    /// Bytes sent to the console.
    pub(crate) stderr: u64,
}

/// Carries output and reaps until the command and all that it left behind are gone and everything is sent.
pub(crate) fn until_the_end(
    child: &Child,
    children: i32,
    stdout_port: i32,
    console_port: i32,
) -> End {
    let mut lanes = [
        Lane::new(child.stdout, stdout_port),
        Lane::new(child.stderr, console_port),
    ];
    let mut reaper = Reaper {
        main: child.pid,
        ended: None,
        alone: false,
    };
    loop {
        let idle = lanes.iter().all(|lane| lane.finished());
        if reaper.alone && idle {
            break;
        }
        let mut set = [
            PollFd {
                fd: children,
                events: sys::POLLIN,
                revents: 0,
            },
            lanes[0].wants(),
            lanes[1].wants(),
        ];
        let _ = sys::poll(&mut set, -1);
        if set[0].revents != 0 {
            let mut discard = [0u8; 128];
            let _ = sys::read(children, &mut discard);
            reaper.reap();
        }
        for (lane, ready) in lanes.iter_mut().zip(&set[1..]) {
            if ready.revents != 0 {
                lane.step();
            }
        }
    }
    for lane in &lanes {
        drain(lane.to);
    }
    let (status, usage) = reaper.ended.unwrap_or((0, Usage::default()));
    End {
        status,
        usage,
        stdout: lanes[0].sent,
        stderr: lanes[1].sent,
    }
}

/// Waits until a port has sent everything. The kernel's own way to wait sleeps in ticks; this looks first.
pub(crate) fn drain(port: i32) {
    while !sys::has_drained(port) {
        sys::pause_ms(1);
    }
}

/// One direction: a pipe, a port, and what was read but not yet written.
struct Lane {
    from: i32,
    to: i32,
    buffer: &'static mut [u8],
    pending: core::ops::Range<usize>,
    ended: bool,
    sent: u64,
}

impl Lane {
    fn new(from: i32, to: i32) -> Self {
        let _ = sys::set_nonblocking(from);
        let _ = sys::set_nonblocking(to);
        // Without a buffer nothing can be carried; the command then blocks or ends, which is still an end.
        let buffer = sys::allocate(BUFFER).unwrap_or(&mut []);
        Self {
            from,
            to,
            buffer,
            pending: 0..0,
            ended: false,
            sent: 0,
        }
    }

    fn finished(&self) -> bool {
        self.ended && self.pending.is_empty()
    }

    fn wants(&self) -> PollFd {
        let (fd, events) = match (self.pending.is_empty(), self.ended) {
            (false, _) => (self.to, sys::POLLOUT),
            (true, false) => (self.from, sys::POLLIN),
            (true, true) => (-1, 0),
        };
        PollFd {
            fd,
            events,
            revents: 0,
        }
    }

    fn step(&mut self) {
        if self.pending.is_empty() {
            match sys::read(self.from, self.buffer) {
                Ok(0) => self.ended = true,
                Ok(length) => self.pending = 0..length,
                Err(sys::EAGAIN | sys::EINTR) => return,
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
}

impl Reaper {
    fn reap(&mut self) {
        loop {
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
    }
}
