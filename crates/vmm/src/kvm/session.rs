//! The life of a machine: the engine's own thread, which waits for everything that no vCPU does.
//!
//! That is: a reader of the output that sleeps, signals, the deadline, the guest's last event, and a guest that has halted for
//! good, which KVM does not tell (`halt.rs`). What the vCPUs do is in `threads.rs`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rdvm_confine::Role;

use super::Error;
use super::devices::Devices;
use super::halt::HaltDetector;
use super::threads::{Shared, Threads};
use super::vcpu::Vcpu;
use crate::event_loop::{EventLoop, Token, Wanted};
use crate::guest::GuestPorts;
use crate::guest::ending::Ending;
use crate::machine::{Region, Scratch};
use crate::stop_signals::StopSignals;

/// Time that output of a port which does not end is waited for.
const LINGER: Duration = Duration::from_millis(2);

/// A running machine.
#[derive(Debug)]
pub(super) struct Session {
    shared: Arc<Shared>,
    threads: Threads,
    events: EventLoop,
    regions: Vec<Region>,
    scratch: Option<Scratch>,
}

impl Session {
    /// Starts a thread for every vCPU.
    ///
    /// # Errors
    ///
    /// No descriptors or threads left; those that were started have ended then.
    pub(super) fn start(
        devices: Devices,
        vcpus: Vec<Vcpu>,
        regions: Vec<Region>,
        scratch: Option<Scratch>,
    ) -> Result<Self, Error> {
        let events = EventLoop::new(&devices.guest);
        let events = events.map_err(Error::host("duplicating a descriptor"))?;
        let shared = Arc::new(Shared::new(devices)?);
        let threads = Threads::start(&shared, vcpus)?;
        rdvm_confine::enter(Role::EventLoop).map_err(Error::host("confining a thread"))?;
        shared.let_go();
        Ok(Self {
            shared,
            threads,
            events,
            regions,
            scratch,
        })
    }

    /// Waits for the machine's end and stops it; returns the ports.
    ///
    /// # Errors
    ///
    /// poll(2) fails; a vCPU's thread cannot be ended.
    pub(super) fn run(self, signals: &StopSignals) -> Result<(Ending, GuestPorts), Error> {
        let ending = self.wait(signals);
        drop(self.threads);
        let ending = ending.map_err(Error::host("waiting for the machine"))?;
        let shared = Arc::into_inner(self.shared)
            .ok_or_else(|| Error::host("ending the vCPUs")(io::ErrorKind::ResourceBusy))?;
        Ok((ending, shared.into_devices().into_guest()))
    }

    fn wait(&self, signals: &StopSignals) -> rustix::io::Result<Ending> {
        let mut halt_detector = HaltDetector::new(self.threads.count());
        let (mut exits, mut quiet) = (0, 0);
        loop {
            #[cfg(debug_assertions)]
            rdvm_confine::attack(Role::EventLoop);
            let mut devices = self.shared.devices();
            // A guest that needs what is missing stands still: KVM tries again and again to get it.
            quiet = match devices.exits == exits {
                true => quiet + 1,
                false => 0,
            };
            exits = devices.exits;
            if quiet > 0 && self.regions.iter().any(Region::is_cut_off) {
                devices.stop("lost a part of its image: the file was cut off".to_owned());
            }
            if let Some(refusal) = self.lacks_room(&devices, quiet) {
                devices.stop("has no room for its scratch space".to_owned());
                devices.refusal = Some(refusal);
            }
            let lingers = devices.lingers;
            if !lingers || devices.over.is_some() {
                devices.hand_on();
                devices.interrupt();
            }
            if let Some(ending) = devices.guest.steer(signals) {
                return Ok(ending);
            }
            if !devices.has_output() {
                let verdict = devices.guest.conclude();
                if let Some(ending) = verdict.or_else(|| died(&mut devices)) {
                    return Ok(ending);
                }
            }
            // Requests that were made just now.
            devices.feed();
            let left = devices.guest.time_left();
            let wanted = devices.guest.wanted();
            let quiet_since = devices.exits;
            drop(devices);
            let tick = halt_detector.check(quiet_since, &self.shared, &self.threads);
            let tick = if lingers { tick.min(LINGER) } else { tick };
            let tick = left.map_or(tick, |left| left.min(tick));
            if self.poll(signals, wanted, tick)? {
                let mut devices = self.shared.devices();
                devices.guest.take_input();
                devices.feed();
            }
            if lingers {
                self.shared.devices().hand_on();
            }
        }
    }

    /// Returns the answer of a file system that has no room for scratch space. It is asked where the machine stands still, the
    /// `quiet`th time that it is looked at, or KVM gave it up; by writing to it, so the less often the longer nothing happens.
    fn lacks_room(&self, devices: &Devices, quiet: u32) -> Option<io::Error> {
        let scratch = self.scratch.as_ref()?;
        let is_due = quiet.is_power_of_two() || quiet > 0 && quiet.is_multiple_of(64);
        let asks = (is_due || devices.lacks_page) && devices.refusal.is_none();
        asks.then(|| scratch.refusal()).flatten()
    }

    /// Waits; returns true if there is input for a guest that wants it.
    fn poll(
        &self,
        signals: &StopSignals,
        wanted: Wanted,
        tick: Duration,
    ) -> rustix::io::Result<bool> {
        let mut set = self.events.set(wanted, signals);
        set.read(Token::Engine, self.shared.woken());
        set.wait(tick)?;
        if set.is_ready(Token::Engine) {
            self.shared.unwake();
        }
        Ok(set.is_ready(Token::Input))
    }
}

/// Returns the ending of a machine that is over.
fn died(devices: &mut Devices) -> Option<Ending> {
    let how = devices.over.clone()?;
    // It may die while it sends files: how the command ended is known then.
    if let Some(ending) = devices.guest.outcome() {
        return Some(ending);
    }
    let started = devices.guest.timestamps().started.is_some();
    if let Some(refusal) = &devices.refusal {
        return Some(Ending::no_room(started, refusal));
    }
    Some(Ending::Died {
        started,
        panic: devices.guest.console().panic(),
        how: Some(how),
    })
}
