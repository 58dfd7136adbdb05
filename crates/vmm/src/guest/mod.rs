//! Guest input and output: bytes on the three ports, and what they mean.
//!
//! An engine hands over the bytes that arrive and asks whether there is room for more; it does not interpret them.
//! [`GuestPorts`] dispatches them: output to `OutputPump`, events to `Lifecycle`, the state machine of the run, files to a
//! [`CopySink`], and what goes in comes from [`InputPump`](input_pump::InputPump).
//!
//! Nothing is queued beyond one reading per stream: a reader that sleeps makes the engine stop reading, which stops the
//! guest's port, which stops the command. Nothing here waits for the host either: what has to is on a thread of its own.

pub mod console;
pub mod control;
pub mod ending;
pub mod input_pump;
pub mod net_link;
pub mod output_stream;
pub(crate) mod rings;

mod background;
mod escape;
mod input_source;
mod lifecycle;
mod output_pump;
mod ports;
mod reopen;
mod timestamps;

#[cfg(test)]
mod tests;

use std::time::Duration;

use rdvm_hostfs::units::ByteSize;

pub use self::ports::GuestPorts;
pub use self::timestamps::{BootClock, Counts, Timestamps};

/// The guest's ports, in the order in which a host that sees several ready should read them: the status port first,
/// since it tells what the bytes on the other two are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Port {
    /// COM3: events.
    Status,
    /// COM2: the command's standard output.
    Stdout,
    /// COM1: the kernel's console and the command's standard error.
    Console,
}

/// The limits of a run whose command can be told to stop.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Time that the command has to end once it was told to.
    pub stop_timeout: Duration,
    /// Bytes that it may print on standard output, and on standard error.
    pub max_output: Option<ByteSize>,
}

/// Takes the frames of the files that are copied out ([`rdvm_proto::CopyFrame`]). Nothing of it may block.
pub trait CopySink: std::fmt::Debug + Send + Sync {
    /// Takes bytes, no more than there is room for.
    fn push(&self, bytes: &[u8]);
    /// Returns how many bytes can be taken now. Where there are fewer than `wanted`, the run is woken when there are more.
    fn room(&self, wanted: usize) -> usize;
    /// True when nothing more has to come.
    fn is_over(&self) -> bool;
    /// Returns the bytes that count as progress.
    fn progress(&self) -> u64;
}
