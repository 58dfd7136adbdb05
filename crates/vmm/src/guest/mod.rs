//! Bytes from the three ports → what the guest meant.
//!
//! An engine hands over what arrives and asks whether there is room for more; it does not know what the bytes mean.
//! Nothing is queued beyond one reading per stream: a reader of ours that sleeps makes the engine stop reading, which
//! stops the guest's port, which stops the command. Nothing here waits for the host either: what has to is on a thread of its
//! own.

pub mod console;
pub mod control;
pub mod ending;
pub mod input;
pub mod output_stream;
pub mod rings;

mod background;
mod course;
mod reopen;

#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use rdvm_proto::{AttributesLost, Event, HostRequest, RING};

pub use self::course::Limits;

use self::console::Console;
use self::control::Control;
use self::course::Course;
use self::input::Input;
use self::output_stream::OutputStream;
use self::rings::Rings;
use crate::terminal::Terminal;
use rdvm_hostfs::progress;

/// The guest's ports, in the order in which a host that sees several ready should read them: the status port first,
/// since it says what the bytes on the other two are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// COM3: events.
    Status,
    /// COM2: the command's standard output.
    Stdout,
    /// COM1: the kernel's console and the command's standard error.
    Console,
}

/// When what happened, on the host's clock.
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
    /// The last byte of the command's standard output was written to ours.
    pub last_byte: Option<Instant>,
    /// The command had ended.
    pub ended: Option<Instant>,
    /// What PID 1 said of the time before it.
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

/// What an engine counted that sees every access of the guest's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Times that the guest had to be left for rdvm to do something.
    pub exits: u64,
    /// Bytes that the guest read from or wrote to ports and memory where nothing is.
    pub stray_bytes: u64,
    /// Bytes of output that came while a port was busy for long, and are lost.
    pub lost_bytes: u64,
}

/// The part of the terminal that a bar may be drawn on.
#[derive(Debug, Default)]
struct Bar {
    /// There may be one.
    is_on: bool,
    /// The guest has begun a line that it has not ended: there is no place for a bar.
    in_a_line: bool,
}

impl Bar {
    /// Makes way for bytes of the guest's.
    fn make_way(&mut self, for_bytes: &[u8], outlet: &OutputStream) {
        if let (Some(last), true) = (for_bytes.last(), outlet.is_terminal()) {
            self.in_a_line = *last != b'\n';
            self.take_away();
        }
    }

    fn take_away(&mut self) {
        if std::mem::take(&mut self.is_on) {
            progress::pause();
        }
    }
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

/// One sink per port.
#[derive(Debug)]
pub struct Listener {
    stdout: OutputStream,
    console: Console,
    control: Control,
    input: Input,
    terminal: Option<Terminal>,
    copy_out: Option<Arc<dyn CopySink>>,
    rings: Option<Rings>,
    course: Course,
    bar: Bar,
    timestamps: Timestamps,
    verdict: Option<Event>,
    stdout_bytes: u64,
    stderr_bytes: u64,
    boot_bytes: u64,
    attributes_lost: Option<AttributesLost>,
    counts: Option<Counts>,
}

impl Listener {
    /// A listener that writes the command's output to `stdout` and passes the console on as `console` says. Nothing goes
    /// in, and only the guest's last word ends the run.
    pub fn new(stdout: OutputStream, console: Console, control: Control) -> Self {
        Self {
            stdout,
            console,
            control,
            input: Input::default(),
            terminal: None,
            copy_out: None,
            rings: None,
            course: Course::default(),
            bar: Bar::default(),
            timestamps: Timestamps::default(),
            verdict: None,
            stdout_bytes: 0,
            stderr_bytes: 0,
            boot_bytes: 0,
            attributes_lost: None,
            counts: None,
        }
    }

    /// With standard input for the command, from a terminal that becomes the command's or from elsewhere.
    pub fn with_input(mut self, input: Input, terminal: Option<Terminal>) -> Self {
        (self.input, self.terminal) = (input, terminal);
        self
    }

    /// With what takes the files that are copied out.
    pub fn with_copy_out(mut self, copy_out: Arc<dyn CopySink>) -> Self {
        self.copy_out = Some(copy_out);
        self
    }

    /// With limits of the run. The command is told to stop where PID 1 has said that it runs; else the machine goes at once.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.course = Course::new(limits);
        self
    }

    /// Takes the memory that the engine shares with the guest.
    pub fn attach(&mut self, rings: Rings) {
        self.rings = Some(rings);
    }

    /// Takes bytes that arrived on a port. Call it only while [`Self::has_room`] says so.
    pub fn receive(&mut self, port: Port, bytes: &[u8]) {
        match port {
            Port::Status => self.control.feed(bytes),
            Port::Stdout => match &self.copy_out {
                Some(copy_out) if self.course.copies() => {
                    // With rings nothing of the files comes this way.
                    if !self.rings.as_ref().is_some_and(|rings| rings.mapped) {
                        copy_out.push(bytes);
                        progress::add(bytes.len() as u64);
                    }
                }
                _ => {
                    let printed = self.course.within(self.stdout_bytes, bytes);
                    self.stdout_bytes += bytes.len() as u64;
                    self.bar.make_way(printed, &self.stdout);
                    self.stdout.push(printed);
                }
            },
            Port::Console if self.timestamps.started.is_some() => {
                let printed = self.course.within(self.stderr_bytes, bytes);
                self.stderr_bytes += bytes.len() as u64;
                self.bar.make_way(printed, self.console.outlet_ref());
                self.console.push(printed);
            }
            Port::Console => {
                let printed = self.course.within_boot(self.boot_bytes, bytes);
                self.boot_bytes += bytes.len() as u64;
                if self.console.is_shown() {
                    self.bar.make_way(printed, self.console.outlet_ref());
                }
                self.console.push(printed);
            }
        }
        while let Some(event) = self.control.next_event() {
            self.note(event);
        }
    }

    /// Whether bytes of this port can be taken now.
    pub fn has_room(&self, port: Port) -> bool {
        match port {
            Port::Status => true,
            Port::Stdout => match &self.copy_out {
                Some(copy_out) if self.course.copies() => copy_out.room(1) > 0,
                _ => self.stdout.is_empty(),
            },
            Port::Console => self.console.is_empty(),
        }
    }

    /// The streams of ours that still have something to write.
    pub fn outlets(&mut self) -> [&mut OutputStream; 2] {
        [&mut self.stdout, self.console.outlet()]
    }

    /// Where input comes from, for those who want a descriptor of their own of it.
    pub fn input_source(&self) -> Option<BorrowedFd<'_>> {
        self.input.source()
    }

    /// Those of our streams that have something to write, to be polled for writing.
    pub fn outlet_fds(&self) -> [Option<BorrowedFd<'_>>; 2] {
        let full = |outlet: &OutputStream| !outlet.is_empty();
        let (stdout, stderr) = (&self.stdout, self.console.outlet_ref());
        [stdout, stderr].map(|outlet| full(outlet).then(|| outlet.fd()))
    }

    /// To be polled for reading while the guest has room for input; [`Self::take_input`] reads it.
    pub fn input(&self) -> Option<BorrowedFd<'_>> {
        self.input.wants()
    }

    /// Reads input once. Call it when [`Self::input`] is readable.
    pub fn take_input(&mut self) {
        let mapped = |rings: &&mut Rings| rings.mapped;
        self.input.take(self.rings.as_mut().filter(mapped));
    }

    /// Whether anything may be sent to the guest at all.
    pub fn speaks(&self) -> bool {
        self.course.takes_requests() || self.copy_out.is_some() || self.input.source().is_some()
    }

    /// What is to be sent to the guest on a port.
    pub fn pending(&self, port: Port) -> &[u8] {
        self.input.pending(port)
    }

    /// The guest has taken so much of it.
    pub fn sent(&mut self, port: Port, count: usize) {
        self.input.sent(port, count);
    }

    /// The last event a guest may send, once it has sent it: how the command ended, or why it did not start.
    pub fn verdict(&self) -> Option<Event> {
        self.verdict
    }

    /// Takes note that kernel and initrd are where the machine finds them.
    pub fn machine_loaded(&mut self) {
        self.timestamps.loaded = Some(Instant::now());
    }

    /// Takes note that the guest had to be left; the first time counts.
    pub fn guest_left(&mut self) {
        self.timestamps.first_exit.get_or_insert_with(Instant::now);
    }

    /// Takes note that the machine starts.
    pub fn machine_starts(&mut self) {
        self.timestamps.machine_start = Some(Instant::now());
        // The terminal is the guest's as soon as it says something.
        progress::stage_of_time("booting");
        self.bar.is_on = true;
    }

    /// When what happened.
    pub fn timestamps(&self) -> Timestamps {
        Timestamps {
            last_byte: self.stdout.last_write(),
            ..self.timestamps
        }
    }

    /// Takes what the engine has counted, when the machine is over.
    pub fn counted(&mut self, counts: Counts) {
        self.counts = Some(counts);
    }

    /// What the engine has counted, if it does.
    pub fn counts(&self) -> Option<Counts> {
        self.counts
    }

    /// Which of the image's extended attributes could not be set, if PID 1 said so.
    pub fn attributes_lost(&self) -> Option<AttributesLost> {
        self.attributes_lost
    }

    /// What has arrived on the stdout port so far, in bytes.
    pub fn stdout_bytes(&self) -> u64 {
        self.stdout_bytes
    }

    /// The console, for what it has kept.
    pub fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    fn note(&mut self, event: Event) {
        if let (Event::Produced(total), true) = (event, self.course.copies())
            && let Some(rings) = &mut self.rings
        {
            rings.announce(total);
            self.take_files();
        }
        // The first verdict stands: whatever a guest says after that is not believed.
        if self.verdict.is_some() {
            return;
        }
        let now = Some(Instant::now());
        match event {
            Event::Ready {
                init,
                unpack_begin,
                unpack_end,
            } => {
                self.timestamps.ready = now;
                self.timestamps.boot = Some(BootClock {
                    init,
                    unpack_begin,
                    unpack_end,
                    started: 0,
                });
            }
            // Later they are no news, and earlier nothing can have been sent by the port instead.
            Event::Mapped => {
                if let Some(rings) = &mut self.rings {
                    rings.mapped |= self.timestamps.started.is_none();
                }
            }
            Event::Produced(_) => {}
            Event::Credit(total) => self.input.granted(total),
            Event::AttributesLost(lost) => self.attributes_lost = Some(lost),
            // Once: whoever says it again is not PID 1.
            Event::Started(_) if self.timestamps.started.is_some() => {}
            Event::Started(clock) => {
                self.bar.take_away();
                self.timestamps.started = now;
                if let Some(boot) = &mut self.timestamps.boot {
                    boot.started = clock;
                }
                self.input.command_runs();
                self.console.command_runs();
                if let Some(terminal) = &self.terminal {
                    terminal.hand_over();
                }
            }
            Event::Exited(..) | Event::Killed(..) | Event::Failed { .. } => {
                self.bar.take_away();
                self.timestamps.ended = now;
                self.verdict = Some(event);
            }
        }
    }

    /// Takes of what PID 1 has put into the ring what there is room for, while it is asked for files. The rest stays there,
    /// which stops PID 1.
    fn take_files(&mut self) {
        if let (true, Some(copy_out), Some(rings)) =
            (self.course.copies(), &self.copy_out, &mut self.rings)
            && rings.mapped
            && rings.has_more()
        {
            let take = |bytes: &[u8]| {
                copy_out.push(bytes);
                progress::add(bytes.len() as u64);
            };
            if let Some(total) = rings.take(copy_out.room(RING as usize) as u64, take) {
                self.input.request(HostRequest::Consumed(total));
            }
        }
    }
}
