//! A 16550A serial port as a state machine: register accesses in, bytes and interrupts out.
//!
//! Does no I/O and knows no port numbers: its owner moves the bytes and raises the interrupts (`bus.rs`). The line is
//! endlessly fast, so a byte written is a byte sent, as long as there is room for it. Registers: National Semiconductor
//! PC16550D data sheet, whose names are used.
//!
//! The cost is exits, and a driver needs several for every interrupt. So an interrupt is raised only when the
//! driver is not already at work: having read in IIR that there is a reason, it goes on until it reads that there is
//! none, and finds whatever comes up meanwhile without being interrupted again.

use std::collections::VecDeque;

/// Bytes in the receiver's FIFO.
const FIFO: usize = 16;
/// Output that is kept until it is taken: from then on the transmitter is busy and the guest's driver waits.
const ROOM: usize = 8 << 10;
/// Bytes that a guest which writes to a busy transmitter can add to that; the rest is lost, as on a real line.
const OVERRUN: usize = 4 << 10;
/// Output worth handing on while more is coming.
const ENOUGH: usize = 4 << 10;
/// Reasons found in a row after which the driver is told that there is none, and interrupted anew: Linux leaves its
/// loop by itself after 512 (`PASS_LIMIT`) and would never be back.
const IN_A_ROW: u32 = 256;

// Offsets from the base port, and bits.
const DATA: u16 = 0;
const IER: u16 = 1;
const IIR: u16 = 2;
const LCR: u16 = 3;
const MCR: u16 = 4;
const LSR: u16 = 5;
const MSR: u16 = 6;
const SCR: u16 = 7;
const IER_RECEIVED: u8 = 1;
const IER_EMPTY: u8 = 2;
const IER_ALL: u8 = 0xf;
const IIR_NONE: u8 = 1;
const IIR_EMPTY: u8 = 2;
const IIR_RECEIVED: u8 = 4;
const IIR_FIFO_ON: u8 = 0xc0;
const FCR_ON: u8 = 1;
const FCR_CLEAR_RECEIVER: u8 = 2;
const LCR_DIVISOR: u8 = 0x80;
const MCR_LOOP: u8 = 0x10;
const LSR_READY: u8 = 1;
const LSR_EMPTY: u8 = 0x60; // holding register and shift register
/// Carrier, other side ready, clear to send: the other side listens.
const MSR_CONNECTED: u8 = 0xb0;

/// One port.
#[derive(Debug, Default)]
pub(super) struct Serial {
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scratch: u8,
    divisor: [u8; 2],
    /// The transmitter has become empty since IIR last said so.
    emptied: bool,
    /// Reasons given by IIR since it last said that there is none.
    in_a_row: u32,
    interrupt: bool,
    input: VecDeque<u8>,
    output: Vec<u8>,
    hand_on: bool,
    lost: u64,
}

impl Serial {
    /// Takes a byte for the register at `offset`.
    pub(super) fn write(&mut self, offset: u16, value: u8) {
        match offset {
            DATA | IER if self.lcr & LCR_DIVISOR != 0 => self.divisor[usize::from(offset)] = value,
            DATA if self.mcr & MCR_LOOP != 0 => {
                self.receive(&[value]);
                self.sent();
            }
            DATA => {
                match self.output.len() < ROOM + OVERRUN {
                    true => self.output.push(value),
                    false => self.lost += 1,
                }
                // Without interrupts there is no end to be seen but the end of the line.
                self.hand_on |=
                    self.output.len() >= ENOUGH || (value == b'\n' && self.ier & IER_EMPTY == 0);
                self.sent();
            }
            IER => {
                let before = std::mem::replace(&mut self.ier, value & IER_ALL);
                // Asking for the interrupt while the transmitter is empty raises it; ending that says "that was all".
                self.emptied |= !before & self.ier & IER_EMPTY != 0 && self.has_room();
                self.hand_on |= before & !self.ier & IER_EMPTY != 0 && !self.output.is_empty();
                self.in_a_row = 0;
                self.interrupt |= self.reason() != IIR_NONE;
            }
            IIR => {
                // FCR when written.
                self.fcr = value;
                if value & FCR_CLEAR_RECEIVER != 0 {
                    self.input.clear();
                }
            }
            LCR => self.lcr = value,
            MCR => self.mcr = value & 0x1f,
            SCR => self.scratch = value,
            _ => {}
        }
    }

    /// Returns the register at `offset`.
    pub(super) fn read(&mut self, offset: u16) -> u8 {
        match offset {
            DATA | IER if self.lcr & LCR_DIVISOR != 0 => self.divisor[usize::from(offset)],
            DATA => self.input.pop_front().unwrap_or(0),
            IER => self.ier,
            IIR => self.identify(),
            LCR => self.lcr,
            MCR => self.mcr,
            LSR => {
                let ready = if self.input.is_empty() { 0 } else { LSR_READY };
                ready | if self.has_room() { LSR_EMPTY } else { 0 }
            }
            // In a loop the four outputs are the four inputs.
            MSR if self.mcr & MCR_LOOP != 0 => {
                let mcr = self.mcr;
                (mcr & 0xc) << 4 | (mcr & 2) << 3 | (mcr & 1) << 5
            }
            MSR => MSR_CONNECTED,
            SCR => self.scratch,
            _ => 0xff,
        }
    }

    /// Puts bytes into the receiver; returns how many it had room for.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(FIFO - self.input.len());
        self.input.extend(&bytes[..count]);
        self.raise();
        count
    }

    /// True if an interrupt is to be raised. Asking takes it back.
    pub(super) fn take_interrupt(&mut self) -> bool {
        std::mem::take(&mut self.interrupt)
    }

    /// Raises the interrupt anew if there still is reason to: one that came while it was masked is lost on an
    /// edge-triggered line, and so is a driver that looked once and went away.
    pub(super) fn remind(&mut self) {
        self.in_a_row = 0;
        self.raise();
    }

    /// True if the output should be handed on now.
    pub(super) fn wants_flush(&self) -> bool {
        self.hand_on
    }

    /// True if the driver works without interrupts from the transmitter.
    pub(super) fn is_polled(&self) -> bool {
        self.ier & IER_EMPTY == 0
    }

    /// Returns the output that has not been handed on yet.
    pub(super) fn output(&self) -> &[u8] {
        &self.output
    }

    /// Notes that the output was handed on.
    pub(super) fn flushed(&mut self) {
        let was_busy = !self.has_room();
        self.output.clear();
        self.hand_on = false;
        if was_busy {
            self.sent();
        }
    }

    /// Returns the number of bytes that came while the transmitter was busy for too long.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    fn has_room(&self) -> bool {
        self.output.len() < ROOM
    }

    /// The transmitter has taken a byte and, unless there is no room, is empty again.
    fn sent(&mut self) {
        self.emptied = self.has_room();
        self.raise();
    }

    /// Interrupts, if there is reason to and the driver does not look anyway.
    fn raise(&mut self) {
        self.interrupt |= self.in_a_row == 0 && self.reason() != IIR_NONE;
    }

    /// Returns the reason for an interrupt, the most urgent one.
    fn reason(&self) -> u8 {
        if self.ier & IER_RECEIVED != 0 && !self.input.is_empty() {
            IIR_RECEIVED
        } else if self.ier & IER_EMPTY != 0 && self.emptied {
            IIR_EMPTY
        } else {
            IIR_NONE
        }
    }

    /// Returns what reading IIR gives, and does what it does.
    fn identify(&mut self) -> u8 {
        let mut reason = self.reason();
        if reason == IIR_NONE {
            self.in_a_row = 0;
        } else if self.in_a_row == IN_A_ROW {
            self.in_a_row = 0;
            self.interrupt = true;
            reason = IIR_NONE;
        } else {
            self.in_a_row += 1;
        }
        if reason == IIR_EMPTY {
            self.emptied = false;
        }
        reason
            | if self.fcr & FCR_ON != 0 {
                IIR_FIFO_ON
            } else {
                0
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the reason as a driver does.
    fn reason(port: &mut Serial) -> u8 {
        port.read(IIR) & 0xf
    }

    #[test]
    fn what_is_written_comes_out_and_the_transmitter_is_empty_at_once() {
        let mut port = Serial::default();
        b"hi\n".iter().for_each(|&byte| port.write(DATA, byte));
        assert_eq!((port.output(), port.wants_flush()), (&b"hi\n"[..], true));
        assert_eq!(port.read(LSR), LSR_EMPTY);
        port.flushed();
        assert_eq!((port.output(), port.wants_flush()), (&b""[..], false));
        assert!(!port.take_interrupt(), "nobody asked for one");
    }

    /// As Linux does it: one interrupt for a whole run of FIFO loads, none for the last.
    #[test]
    fn a_driver_at_work_is_interrupted_once() {
        let mut port = Serial::default();
        port.write(IIR, FCR_ON);
        port.write(IER, IER_EMPTY);
        assert!(port.take_interrupt());
        for _ in 0..100 {
            assert_eq!(port.read(IIR), IIR_FIFO_ON | IIR_EMPTY);
            (0..16).for_each(|byte| port.write(DATA, byte));
            assert!(!port.take_interrupt());
        }
        port.write(IER, 0);
        assert!(port.wants_flush(), "that was all");
        assert_eq!(
            (reason(&mut port), port.take_interrupt()),
            (IIR_NONE, false)
        );
    }

    #[test]
    fn a_driver_that_leaves_after_one_load_is_interrupted_for_the_next() {
        let mut port = Serial::default();
        port.write(IER, IER_EMPTY);
        for _ in 0..10 {
            assert!(port.take_interrupt());
            assert_eq!(
                (reason(&mut port), reason(&mut port)),
                (IIR_EMPTY, IIR_NONE)
            );
            port.write(DATA, b'x');
        }
    }

    #[test]
    fn a_driver_that_finds_reason_after_reason_is_let_go_and_called_back() {
        let mut port = Serial::default();
        port.write(IER, IER_EMPTY);
        assert!(port.take_interrupt());
        for _ in 0..IN_A_ROW {
            assert_eq!(reason(&mut port), IIR_EMPTY);
            port.write(DATA, b'x');
        }
        assert_eq!((reason(&mut port), port.take_interrupt()), (IIR_NONE, true));
        assert_eq!(reason(&mut port), IIR_EMPTY);
    }

    #[test]
    fn a_driver_that_missed_its_interrupt_is_reminded_while_there_is_reason() {
        let mut port = Serial::default();
        port.write(IER, IER_EMPTY);
        assert!(port.take_interrupt());
        port.remind();
        assert!(port.take_interrupt());
        // It looks once, writes, and never looks again.
        assert_eq!(reason(&mut port), IIR_EMPTY);
        port.write(DATA, b'x');
        assert!(!port.take_interrupt());
        port.remind();
        assert!(port.take_interrupt());
        port.write(IER, 0);
        port.remind();
        assert!(!port.take_interrupt(), "it wants none");
    }

    #[test]
    fn asking_for_interrupts_anew_makes_up_for_a_reason_that_was_read_and_dropped() {
        let mut port = Serial::default();
        port.write(IER, IER_EMPTY);
        assert_eq!(
            (port.take_interrupt(), reason(&mut port)),
            (true, IIR_EMPTY)
        );
        port.write(IER, 0);
        port.write(IER, IER_EMPTY);
        assert!(port.take_interrupt());
    }

    #[test]
    fn a_reader_that_sleeps_makes_the_transmitter_busy_until_it_wakes() {
        let mut port = Serial::default();
        port.write(IER, IER_EMPTY);
        (0..ROOM).for_each(|_| port.write(DATA, 0));
        assert_eq!(port.read(LSR) & LSR_EMPTY, 0);
        assert_eq!(reason(&mut port), IIR_NONE);
        port.take_interrupt();
        assert!(port.wants_flush());
        port.flushed();
        assert_eq!((port.read(LSR), port.take_interrupt()), (LSR_EMPTY, true));
        assert_eq!(reason(&mut port), IIR_EMPTY);
    }

    #[test]
    fn a_guest_that_ignores_a_busy_transmitter_cannot_make_us_grow() {
        let mut port = Serial::default();
        (0..1 << 20).for_each(|_| port.write(DATA, b'x'));
        assert_eq!(port.output().len(), ROOM + OVERRUN);
        assert_eq!(port.lost(), (1 << 20) - (ROOM + OVERRUN) as u64);
    }

    #[test]
    fn the_receiver_holds_sixteen_bytes_and_says_so() {
        let mut port = Serial::default();
        port.write(IER, IER_RECEIVED);
        assert_eq!(port.receive(&[7; 20]), 16);
        assert_eq!((port.take_interrupt(), port.receive(b"x")), (true, 0));
        assert_eq!(
            (reason(&mut port), port.read(LSR) & LSR_READY),
            (IIR_RECEIVED, 1)
        );
        (0..16).for_each(|_| assert_eq!(port.read(DATA), 7));
        assert_eq!(
            (reason(&mut port), port.read(LSR) & LSR_READY),
            (IIR_NONE, 0)
        );
        assert_eq!(port.receive(b"ab"), 2);
        assert!(port.take_interrupt());
        port.write(IIR, FCR_ON | FCR_CLEAR_RECEIVER);
        assert_eq!((port.read(LSR) & LSR_READY, port.read(DATA)), (0, 0));
    }

    #[test]
    fn registers_that_only_remember_do_so() {
        let mut port = Serial::default();
        for (offset, value, read) in [
            (LCR, 0x1b, 0x1b),
            (MCR, 0xff, 0x1f),
            (SCR, 0x5a, 0x5a),
            (IER, 0xff, 0xf),
        ] {
            port.write(offset, value);
            assert_eq!(port.read(offset), read);
        }
        port.write(LCR, LCR_DIVISOR);
        port.write(DATA, 0x12);
        port.write(IER, 0x34);
        assert_eq!((port.read(DATA), port.read(IER)), (0x12, 0x34));
        port.write(LCR, 3);
        assert_eq!((port.read(IER), port.output()), (0xf, &b""[..]));
    }

    #[test]
    fn in_a_loop_outputs_are_inputs_and_nothing_leaves() {
        let mut port = Serial::default();
        port.write(MCR, MCR_LOOP | 0xa);
        // The test by which Linux tells a port from none.
        assert_eq!(port.read(MSR) & 0xf0, 0x90);
        (0..20).for_each(|byte| port.write(DATA, byte));
        assert_eq!((port.read(DATA), port.output()), (0, &b""[..]));
        port.write(MCR, 0);
        assert_eq!(port.read(MSR), MSR_CONNECTED);
    }

    #[test]
    fn without_a_fifo_it_says_so() {
        let mut port = Serial::default();
        assert_eq!(port.read(IIR), IIR_NONE);
        port.write(IIR, FCR_ON);
        assert_eq!(port.read(IIR), IIR_FIFO_ON | IIR_NONE);
    }
}
