//! A machine's life: the engine's own thread, which waits for everything that no vCPU does.
//!
//! That is: a reader of ours that sleeps, signals, the deadline, the guest's last word, and a guest that has halted for
//! good, which KVM does not tell (`halt.rs`). What the vCPUs do is in `threads.rs`.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Error;
use super::devices::Devices;
use super::halt::HaltDetector;
use super::threads::{Shared, Threads};
use super::vcpu::Vcpu;
use crate::guest::Listener;
use crate::guest::ending::Ending;
use crate::guest::output_stream::OutputStream;
use crate::watch::Watch;

/// How long output without an end is waited for.
const LINGER: Duration = Duration::from_millis(2);

/// A running machine.
#[derive(Debug)]
pub(super) struct Session {
    shared: Arc<Shared>,
    threads: Threads,
    /// Of stdout and stderr, to be waited for.
    outlets: [OwnedFd; 2],
    /// Where the guest's input comes from, if it has any.
    input: Option<OwnedFd>,
}

impl Session {
    /// Starts a thread for every vCPU.
    ///
    /// Errors: the host gives no descriptors or threads; whatever was started is gone then.
    pub(super) fn start(mut devices: Devices, vcpus: Vec<Vcpu>) -> Result<Self, Error> {
        let [stdout, stderr] = devices.listener.outlets();
        let duplicate = |outlet: &OutputStream| {
            let fd = outlet.fd().try_clone_to_owned();
            fd.map_err(Error::host("duplicating a descriptor"))
        };
        let outlets = [duplicate(stdout)?, duplicate(stderr)?];
        let input = devices.listener.input_source();
        let input = input.map(|fd| fd.try_clone_to_owned()).transpose();
        let input = input.map_err(Error::host("duplicating a descriptor"))?;
        let shared = Arc::new(Shared::new(devices)?);
        let threads = Threads::start(&shared, vcpus)?;
        Ok(Self {
            shared,
            threads,
            outlets,
            input,
        })
    }

    /// Waits for the machine's end and stops it; gives the listener back.
    ///
    /// Errors: the host's `poll` fails; a vCPU's thread cannot be ended.
    pub(super) fn run(self, watch: &Watch) -> Result<(Ending, Listener), Error> {
        let ending = self.wait(watch);
        drop(self.threads);
        let ending = ending.map_err(Error::host("waiting for the machine"))?;
        let shared = Arc::into_inner(self.shared)
            .ok_or_else(|| Error::host("ending the vCPUs")(io::ErrorKind::ResourceBusy))?;
        Ok((ending, shared.into_devices().into_listener()))
    }

    fn wait(&self, watch: &Watch) -> rustix::io::Result<Ending> {
        let mut halt_detector = HaltDetector::new(self.threads.count());
        loop {
            let mut devices = self.shared.devices();
            let lingers = devices.lingers;
            if !lingers || devices.over.is_some() {
                devices.hand_on();
                devices.interrupt();
            }
            if let Some(ending) = devices.listener.steer(watch) {
                return Ok(ending);
            }
            if !devices.has_output() {
                let verdict = devices.listener.conclude();
                if let Some(ending) = verdict.or_else(|| died(&mut devices)) {
                    return Ok(ending);
                }
            }
            // Orders that were given just now.
            devices.feed();
            let left = devices.listener.time_left(watch);
            let hungry = devices.listener.input().is_some();
            let full = devices.listener.outlets().map(|outlet| !outlet.is_empty());
            let quiet_since = devices.exits;
            drop(devices);
            let tick = halt_detector.check(quiet_since, &self.shared, &self.threads);
            let tick = if lingers { tick.min(LINGER) } else { tick };
            let tick = left.map_or(tick, |left| left.min(tick));
            let readable = self.poll(watch, full, hungry, tick)?;
            if readable {
                let mut devices = self.shared.devices();
                devices.listener.take_input();
                devices.feed();
            }
            if lingers {
                self.shared.devices().hand_on();
            }
        }
    }

    /// Waits; tells whether there is input for a guest that is hungry for it.
    fn poll(
        &self,
        watch: &Watch,
        full: [bool; 2],
        hungry: bool,
        tick: Duration,
    ) -> rustix::io::Result<bool> {
        let (watched, woken) = (watch.fd(), self.shared.woken());
        let mut set = vec![
            PollFd::new(&watched, PollFlags::IN),
            PollFd::new(&woken, PollFlags::IN),
        ];
        for (outlet, full) in self.outlets.iter().zip(full) {
            if full {
                set.push(PollFd::new(outlet, PollFlags::OUT));
            }
        }
        let input = self.input.as_ref().filter(|_| hungry);
        set.extend(input.map(|input| PollFd::new(input, PollFlags::IN)));
        match poll(&mut set, Timespec::try_from(tick).ok().as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        let last = set.last().map_or(PollFlags::empty(), PollFd::revents);
        self.shared.unwake();
        Ok(input.is_some() && !last.is_empty())
    }
}

/// What the end of a machine without a verdict is called.
fn died(devices: &mut Devices) -> Option<Ending> {
    let how = devices.over.clone()?;
    // It may die while it sends files: how the command ended is known then.
    if let Some(ending) = devices.listener.outcome() {
        return Some(ending);
    }
    Some(Ending::Died {
        started: devices.listener.timestamps().started.is_some(),
        panic: devices.listener.console().panic(),
        how: Some(how),
    })
}
