//! The state that the vCPUs share: the bus, the way out for its output, the interrupt lines.
//!
//! Output leaves on the vCPU's own thread while the reader keeps up; the engine's thread (`session.rs`) is woken when
//! that has to wait. Never blocks.

use std::io;

use kvm_ioctls::VmFd;

use super::bus::{Bus, PORTS};
use super::serial::Serial;
use super::teardown::LastReference;
use crate::guest::{Counts, GuestPorts};

/// Order in which output is handed on: what the status port says tells what the bytes of the others are.
const STATUS_FIRST: [usize; 3] = [2, 1, 0];

/// Everything behind the exits.
#[derive(Debug)]
pub(super) struct Devices {
    pub(super) bus: Bus,
    pub(super) guest: GuestPorts,
    /// The reason why the machine is over, once it is.
    pub(super) over: Option<String>,
    /// KVM had no page of the host's for the guest.
    pub(super) lacks_page: bool,
    /// The answer of the file system that has none.
    pub(super) refusal: Option<io::Error>,
    /// Exits so far.
    pub(super) exits: u64,
    /// Output has come that nothing but time will hand on.
    pub(super) lingers: bool,
    vm: VmFd,
    // Dropped after it.
    _reference: LastReference,
    wake: bool,
}

impl Devices {
    pub(super) fn new(vm: VmFd, guest: GuestPorts) -> Self {
        Self {
            bus: Bus::default(),
            guest,
            over: None,
            lacks_page: false,
            refusal: None,
            exits: 0,
            lingers: false,
            _reference: LastReference::to(&vm),
            vm,
            wake: false,
        }
    }

    /// After an exit: hands on the output that is due, raises the interrupts that are.
    pub(super) fn settle(&mut self) {
        let due = self.bus.serial.iter().any(|port| port.wants_flush());
        if due {
            let known = self.known();
            self.hand_on();
            self.wake |= self.guest.has_rung()
                || !self.guest.is_flushed()
                || self.known() != known
                || self.guest.is_done()
                || self.guest.is_output_gone();
        } else if !self.lingers && self.bus.serial.iter().any(|port| !port.output().is_empty()) {
            // A driver that works without interrupts does not say when it is done.
            let polled = |port: &Serial| !port.output().is_empty() && port.is_polled();
            if self.bus.serial.iter().any(polled) {
                self.lingers = true;
                self.wake = true;
            }
        }
        self.feed();
    }

    /// Returns the facts that the engine's thread acts on: there is a verdict, and the guest wants input.
    fn known(&self) -> (bool, bool) {
        (self.guest.has_verdict(), self.guest.wants_input())
    }

    /// Hands the guest what is there for it and interrupts it where that is due.
    pub(super) fn feed(&mut self) {
        for index in STATUS_FIRST {
            let (port, serial) = (PORTS[index].0, &mut self.bus.serial[index]);
            let pending = self.guest.pending(port);
            if !pending.is_empty() {
                let count = serial.receive(pending);
                self.guest.sent(port, count);
                // The engine's thread reads more.
                self.wake |= count > 0 && self.guest.wants_input();
            }
        }
        self.interrupt();
    }

    /// Hands on all output for which there is room, and writes what can be written.
    pub(super) fn hand_on(&mut self) {
        self.lingers = false;
        // What an outlet still holds comes first, and only an empty one takes more: whatever stays in a port then has
        // a full outlet before it, which is waited for.
        self.guest.flush();
        for index in STATUS_FIRST {
            let (port, serial) = (PORTS[index].0, &mut self.bus.serial[index]);
            if !serial.output().is_empty() && self.guest.has_room(port) {
                self.guest.receive(port, serial.output());
                serial.flushed();
            }
        }
        self.guest.flush();
    }

    /// True if nothing counts that the guest may still send: its verdict and its files are here, or the machine is over.
    pub(super) fn is_done(&self) -> bool {
        self.over.is_some() || self.guest.is_done()
    }

    /// Raises the interrupts that the ports ask for. The lines are edge-triggered: up and down is one interrupt.
    pub(super) fn interrupt(&mut self) {
        for (serial, (_, _, line)) in self.bus.serial.iter_mut().zip(PORTS) {
            if serial.take_interrupt() {
                // It fails only for a line or a machine that is not there.
                let _ = self.vm.set_irq_line(line, true);
                let _ = self.vm.set_irq_line(line, false);
            }
        }
    }

    /// Interrupts again where a port has been waiting for its driver all the time.
    pub(super) fn remind(&mut self) {
        self.bus.serial.iter_mut().for_each(Serial::remind);
        self.interrupt();
    }

    /// True if some output has not been written.
    pub(super) fn has_output(&self) -> bool {
        let mut ports = self.bus.serial.iter();
        !self.guest.is_flushed() || ports.any(|port| !port.output().is_empty())
    }

    /// Returns the counts of the run.
    fn counts(&self) -> Counts {
        Counts {
            exits: self.exits,
            stray_bytes: self.bus.strays(),
            lost_bytes: self.bus.serial.iter().map(Serial::lost).sum(),
        }
    }

    /// Ends the machine.
    pub(super) fn stop(&mut self, why: String) {
        self.over.get_or_insert(why);
        self.wake = true;
    }

    /// Ends the machine, when the vCPUs have gone; returns the guest's ports with the counts.
    pub(super) fn into_guest(mut self) -> GuestPorts {
        let counts = self.counts();
        self.guest.counted(counts);
        self.guest
    }

    /// True if the engine's thread is to have a look. Asking takes it back.
    pub(super) fn take_wake(&mut self) -> bool {
        std::mem::take(&mut self.wake)
    }
}
