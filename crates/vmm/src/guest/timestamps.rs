//! Times and counts of a run.

use std::time::Instant;

/// The times of a run's events, on the host's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timestamps {
    /// Kernel and initrd were where the machine finds them.
    pub loaded: Option<Instant>,
    /// The kernel was entered, or the program was started that does.
    pub machine_start: Option<Instant>,
    /// The guest was left for the first time, where the engine sees that.
    pub first_exit: Option<Instant>,
    /// PID 1 reported.
    pub ready: Option<Instant>,
    /// The command ran.
    pub started: Option<Instant>,
    /// The last byte of the command's standard output was written.
    pub last_byte: Option<Instant>,
    /// The command had ended.
    pub ended: Option<Instant>,
    /// The times that PID 1 reported of the boot before it.
    pub boot: Option<BootClock>,
}

/// Times of the guest's own boot clock in nanoseconds, zero where not known.
#[derive(Debug, Clone, Copy, Default)]
pub struct BootClock {
    /// PID 1 started.
    pub init: u64,
    /// The kernel began to unpack the initrd.
    pub unpack_begin: u64,
    /// The kernel had unpacked it.
    pub unpack_end: u64,
    /// The command ran.
    pub started: u64,
}

/// Counts of an engine that sees every access of the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Exits: times that the guest was left for the engine to do something.
    pub exits: u64,
    /// Bytes that the guest read from or wrote to ports and memory where nothing is.
    pub stray_bytes: u64,
    /// Bytes of output that came while a port was busy for long, and are lost.
    pub lost_bytes: u64,
}
