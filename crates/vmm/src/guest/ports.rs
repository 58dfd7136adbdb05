//! The dispatcher between the ports and what is behind them.

mod events;
mod steer;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdvm_hostfs::progress::Progress;
use rdvm_hostfs::units::after;
use rdvm_proto::AttributesLost;

use super::console::Console;
use super::control::Control;
use super::input_pump::InputPump;
use super::lifecycle::Lifecycle;
use super::net_link::NetLink;
use super::output_pump::OutputPump;
use super::output_stream::OutputStream;
use super::rings::Rings;
use super::{CopySink, Counts, Limits, Port, Timestamps};
use crate::event_loop::Wanted;

/// Everything behind the three ports of one machine.
#[derive(Debug)]
pub struct GuestPorts {
    control: Control,
    output: OutputPump,
    input: InputPump,
    copy_out: Option<Arc<dyn CopySink>>,
    rings: Option<Rings>,
    net: Option<NetLink>,
    /// Bytes that came by each port while the command ran.
    by_port: [u64; 3],
    /// Something came through a ring since it was last slept for.
    gathers: bool,
    /// The guest has rung, or has begun to use a ring.
    has_rung: bool,
    lifecycle: Lifecycle,
    timestamps: Timestamps,
    attributes_lost: Option<AttributesLost>,
    counts: Option<Counts>,
}

impl GuestPorts {
    /// Writes the command's output to `stdout` and passes the console on as `console` has it. Nothing goes in, and only the
    /// guest's last event ends the run.
    pub fn new(stdout: OutputStream, console: Console, control: Control) -> Self {
        Self {
            control,
            output: OutputPump::new(stdout, console),
            input: InputPump::default(),
            copy_out: None,
            rings: None,
            net: None,
            by_port: [0; 3],
            gathers: false,
            has_rung: false,
            lifecycle: Lifecycle::default(),
            timestamps: Timestamps::default(),
            attributes_lost: None,
            counts: None,
        }
    }

    /// Adds standard input of the command.
    pub fn with_input(self, input: InputPump) -> Self {
        Self { input, ..self }
    }

    /// Adds the sink for the files that are copied out.
    pub fn with_copy_out(mut self, copy_out: Arc<dyn CopySink>) -> Self {
        self.copy_out = Some(copy_out);
        self.lifecycle.rules.copies_out = true;
        self
    }

    /// Carries connections to and from the guest by this link.
    pub fn with_network(self, link: NetLink) -> Self {
        Self {
            net: Some(link),
            ..self
        }
    }

    /// Closes the link of the network.
    pub fn close_network(&mut self) {
        self.net = None;
    }

    /// Adds limits. The command is told to stop once PID 1 has reported that it runs; before that the machine is stopped at
    /// once.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.lifecycle.rules.stop_timeout = Some(limits.stop_timeout);
        self.output.limit = limits.max_output;
        self
    }

    /// Shows the boot and what is copied out on the bar of `progress`.
    pub fn with_progress(mut self, progress: Progress) -> Self {
        self.output.set_progress(progress);
        self
    }

    /// Ends the run when it has taken this long, counted from now.
    pub fn with_timeout(mut self, timeout: Option<Duration>) -> Self {
        let rules = &mut self.lifecycle.rules;
        rules.timeout = timeout;
        rules.deadline = timeout.map(|timeout| after(Instant::now(), timeout));
        self
    }

    /// Holds the command until it is released ([`StopSignals::release`](crate::stop_signals::StopSignals::release)); the time of
    /// the run is counted from then on.
    pub fn with_hold(mut self) -> Self {
        let rules = &mut self.lifecycle.rules;
        (rules.is_held, rules.deadline) = (true, None);
        self
    }

    /// Takes the memory that the engine shares with the guest.
    pub(crate) fn attach(&mut self, rings: Rings) {
        self.rings = Some(rings);
    }

    #[cfg(test)]
    pub(super) fn rings_mut(&mut self) -> Option<&mut Rings> {
        self.rings.as_mut()
    }

    /// Takes bytes that arrived on a port. Call it only while [`Self::has_room`] is true.
    pub(crate) fn receive(&mut self, port: Port, bytes: &[u8]) {
        if self.timestamps.started.is_some() {
            self.by_port[port as usize] += bytes.len() as u64;
        }
        match port {
            Port::Status => self.control.feed(bytes),
            Port::Stdout => match self.copying() {
                // With rings nothing of the files comes this way.
                Some(_) if self.has_mapped_rings() => {}
                Some(copy_out) => push(copy_out.as_ref(), self.output.progress(), bytes),
                None => self.output.print(bytes),
            },
            Port::Console if self.timestamps.started.is_some() => self.output.print_error(bytes),
            Port::Console => self.output.print_boot(bytes),
        }
        while let Some(event) = self.control.next_event() {
            self.note(event);
        }
    }

    /// True if bytes of this port can be taken now.
    pub(crate) fn has_room(&self, port: Port) -> bool {
        match port {
            Port::Status => true,
            Port::Stdout => match self.copying() {
                Some(copy_out) => copy_out.room(1) > 0,
                None => self.output.stdout.is_empty(),
            },
            Port::Console => self.output.console.is_empty(),
        }
    }

    /// Returns the sink while files are received.
    fn copying(&self) -> Option<&Arc<dyn CopySink>> {
        self.copy_out
            .as_ref()
            .filter(|_| self.lifecycle.is_copying())
    }

    fn has_mapped_rings(&self) -> bool {
        self.rings.as_ref().is_some_and(|rings| rings.mapped)
    }

    /// Writes as much of the output as is possible without waiting.
    pub(crate) fn flush(&mut self) {
        self.output.flush();
    }

    /// True if all output that is here has been written.
    pub(crate) fn is_flushed(&self) -> bool {
        self.output.is_empty() && !self.has_ringed_output()
    }

    /// True if the guest has rung since [`Self::steer`] was called last, which looks at the rings.
    pub(crate) fn has_rung(&self) -> bool {
        self.has_rung
    }

    /// True if nothing more can be printed on standard output.
    pub(crate) fn is_output_gone(&self) -> bool {
        let stdout = &self.output.stdout;
        stdout.is_closed() || stdout.failure().is_some()
    }

    /// Returns standard output and standard error.
    pub(crate) fn outputs(&self) -> [&OutputStream; 2] {
        [&self.output.stdout, self.output.console.stderr_ref()]
    }

    /// Returns the descriptor that input comes from, until its end.
    pub(crate) fn input_source(&self) -> Option<BorrowedFd<'_>> {
        self.input.source()
    }

    /// Returns the streams to wait for.
    pub(crate) fn wanted(&self) -> Wanted {
        Wanted {
            outputs: self.outputs().map(|stream| !stream.is_empty()),
            input: self.wants_input(),
            net: self.net_wanted(),
        }
    }

    /// Returns the socket of the network's link.
    pub(crate) fn net_socket(&self) -> Option<BorrowedFd<'_>> {
        self.net.as_ref().map(NetLink::socket)
    }

    /// True while the guest has room for input. [`Self::take_input`] reads it.
    pub(crate) fn wants_input(&self) -> bool {
        self.input.wants().is_some()
    }

    /// Reads input once. Call it when the source is readable.
    pub(crate) fn take_input(&mut self) {
        let mapped = |rings: &&mut Rings| rings.mapped;
        self.input.take(self.rings.as_mut().filter(mapped));
    }

    /// True if anything may be sent to the guest at all.
    pub(crate) fn speaks(&self) -> bool {
        let rules = &self.lifecycle.rules;
        rules.stop_timeout.is_some() || rules.copies_out || self.input.source().is_some()
    }

    /// Returns the bytes to send to the guest on a port.
    pub(crate) fn pending(&self, port: Port) -> &[u8] {
        self.input.pending(port)
    }

    /// Notes that the guest has taken so many of them.
    pub(crate) fn sent(&mut self, port: Port, count: usize) {
        self.input.sent(port, count);
    }

    /// True if the guest has sent its last event: how the command ended, or why it did not start.
    pub(crate) fn has_verdict(&self) -> bool {
        self.lifecycle.has_ended()
    }

    /// Notes that kernel and initrd are where the machine finds them.
    pub(crate) fn machine_loaded(&mut self) {
        self.timestamps.loaded = Some(Instant::now());
    }

    /// Notes that the guest was left; the first time counts.
    pub(crate) fn guest_left(&mut self) {
        self.timestamps.first_exit.get_or_insert_with(Instant::now);
    }

    /// Notes that the machine starts.
    pub(crate) fn machine_starts(&mut self) {
        self.timestamps.machine_start = Some(Instant::now());
        // The terminal is the guest's as soon as it prints something.
        self.output.progress().stage_of_time("booting");
        self.output.allow_bar();
    }

    /// Returns the times of the run's events.
    pub fn timestamps(&self) -> Timestamps {
        Timestamps {
            last_byte: self.output.stdout.last_write(),
            ..self.timestamps
        }
    }

    /// Takes the counts of the engine, when the machine is over.
    pub(crate) fn counted(&mut self, counts: Counts) {
        self.counts = Some(counts);
    }

    /// Returns the counts of the engine, if it has any.
    pub fn counts(&self) -> Option<Counts> {
        self.counts
    }

    /// Returns the image's extended attributes that could not be set, if PID 1 reported any.
    pub fn attributes_lost(&self) -> Option<AttributesLost> {
        self.attributes_lost
    }

    /// Returns the console, for what it has kept.
    pub fn console(&mut self) -> &mut Console {
        &mut self.output.console
    }
}

fn push(copy_out: &dyn CopySink, progress: &Progress, bytes: &[u8]) {
    copy_out.push(bytes);
    progress.add(bytes.len() as u64);
}
