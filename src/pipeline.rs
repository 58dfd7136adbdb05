//! The whole path on one screen: every stage once, in order, each consuming what the one before gave.
//!
//! `plan.rs` is what can be said without booting, `look.rs` that for an image alone, `prepare.rs` makes the machine, and this boots it.

mod command_line;
mod look;
mod plan;
mod prepare;

use std::borrow::Borrow;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

pub use self::look::look;
pub use self::plan::{Plan, plan};
pub use self::prepare::{Ready, prepare};

use crate::copyout::CopyOut;
use crate::error::{Error, Result};
use crate::network::RunningNetwork;
use crate::report::{Loss, MachineFacts, Report, Subjects, Timeline, Timings};
use crate::request::{ConsoleSpec, Request, Stdin};
use rdvm_hostfs::atomic;
use rdvm_hostfs::escape::shown;
use rdvm_vmm::guest::console::Console;
use rdvm_vmm::guest::control::Control;
use rdvm_vmm::guest::ending::Ending;
use rdvm_vmm::guest::input_pump::InputPump;
use rdvm_vmm::guest::output_stream::OutputStream;
use rdvm_vmm::guest::{GuestPorts, Limits};
pub use rdvm_vmm::stop_signals::StopSignals;
pub use rdvm_vmm::terminal::Terminal;

/// The source of the guest's input, and the destinations of its output.
#[derive(Debug)]
pub struct Streams {
    /// The command's standard input, where it is to have any.
    pub stdin: Option<OwnedFd>,
    /// The command's standard output.
    pub stdout: OwnedFd,
    /// The console: the command's standard error.
    pub stderr: OwnedFd,
}

impl Streams {
    /// This process's own.
    ///
    /// Errors: no descriptors left.
    pub fn inherited() -> io::Result<Self> {
        Ok(Self {
            stdin: Some(io::stdin().as_fd().try_clone_to_owned()?),
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
        })
    }
}

/// The result of a run.
#[derive(Debug)]
pub struct Finished {
    /// The report.
    pub report: Report,
    /// The console's last lines, where the machine died before the command ran and nobody saw them.
    pub last_lines: Vec<String>,
}

impl Finished {
    /// The result of a run for which nothing was booted.
    pub fn unbooted(report: Report) -> Self {
        Self {
            report,
            last_lines: Vec::new(),
        }
    }
}

/// The whole path: packs, sizes, boots, runs, and reports how it ended. Installs no signal handler for that; [`boot`] takes
/// signals that the caller catches.
///
/// # Errors
///
/// The reason that kept the machine from running; how the command ended is no error.
pub fn run(request: &Request, streams: Streams) -> Result<Finished> {
    match prepare(request) {
        Ok(ready) => boot(
            request,
            ready,
            streams,
            terminal(request)?,
            StopSignals::new,
        ),
        // It is the command that failed, as the guest would have said.
        Err(Error::NotStarted(report)) => Ok(Finished::unbooted(*report)),
        Err(error) => Err(error),
    }
}

/// Returns the terminal of this process, if the request gives it to the command.
///
/// # Errors
///
/// No descriptors left.
pub fn terminal(request: &Request) -> Result<Option<Terminal>> {
    let Stdin {
        interactive, tty, ..
    } = request.stdin;
    let terminal = tty.then(|| Terminal::of_process(interactive)).transpose();
    terminal.map_err(host(|| "--tty".to_owned()))
}

/// The second half of [`run`]: boots what `prepare` made. `catch` returns the signals that stop the machine
/// ([`StopSignals::catch`], or a reference to signals of the caller's own). It is called when everything that may wait is open,
/// so that a signal that comes before ends a program as it does by default.
///
/// # Errors
///
/// The reason that kept the machine from running.
pub fn boot<S: Borrow<StopSignals>>(
    request: &Request,
    ready: Ready,
    streams: Streams,
    terminal: Option<Terminal>,
    catch: impl FnOnce() -> io::Result<S>,
) -> Result<Finished> {
    let console = console(&request.console, streams.stderr)?;
    let control = if request.rdinit.is_some() {
        Control::text()
    } else {
        Control::frames()
    };
    let signals = catch().map_err(host(|| "catching signals".to_owned()))?;
    let signals = signals.borrow();
    let mut guest = GuestPorts::new(OutputStream::new(streams.stdout), console, control)
        .with_progress(request.progress.clone())
        .with_timeout(request.timeout);
    // A PID 1 of the user's own cannot be told anything, but its machine can go.
    if request.takes_requests() || request.max_output.is_some() {
        guest = guest.with_limits(Limits {
            stop_timeout: request.stop_timeout,
            max_output: request.max_output,
        });
    }
    if request.held && request.takes_requests() {
        guest = guest.with_hold();
    }
    let mut input = InputPump::new(streams.stdin.filter(|_| request.stdin.interactive));
    if let Some(terminal) = terminal {
        input = input.with_terminal(terminal);
    }
    if !request.stdin.escape {
        input = input.without_escape();
    }
    guest = guest.with_input(input);
    let copy_out = ready.receiver.map(|receiver| {
        let copy_out = CopyOut::start(receiver, signals.waker()?);
        copy_out.map(Arc::new)
    });
    let copy_out = copy_out.transpose();
    let copy_out = copy_out.map_err(host(|| "starting a thread for --copy-out".to_owned()))?;
    if let Some(copy_out) = &copy_out {
        guest = guest.with_copy_out(Arc::clone(copy_out) as Arc<_>);
    }
    let mut network = None;
    if let Some(prepared) = ready.network {
        let (running, link) = prepared.start()?;
        network = Some(running);
        guest = guest.with_network(link);
    }
    let memory = ready.machine.memory.to_string();
    let scratch = ready.scratch.as_ref();
    let scratch = scratch.map_or_else(String::new, |scratch| shown(&scratch.directory));
    let table = ready.attributes;
    let (ending, mut guest) = ready.engine.boot(ready.machine, guest, signals)?;
    let (timestamps, now) = (guest.timestamps(), Instant::now());
    let subjects = Subjects {
        command: &ready.command_name,
        memory: &memory,
        copies: &request.copies.into,
        modules: &ready.modules,
        scratch: &scratch,
        steps: &request.steps,
    };
    let console_lost = guest.console().finish_copy(signals);
    let last_lines = last_lines(&ending, &mut guest);
    let mut report = match copy_out {
        Some(copy_out) => report_copies(&ending, subjects, &copy_out, signals),
        None => Report::of(&ending, subjects),
    };
    // A user's own init sends a code and nothing else.
    report.guest = report.guest.filter(|_| request.rdinit.is_none());
    report.machine = Some(MachineFacts {
        counts: guest.counts(),
        ..ready.facts
    });
    report.timings = Some(Timings::of(ready.prepared_since, &timestamps, now));
    report.timeline = Some(Timeline::of(ready.began, &timestamps, now));
    report.console_lost = console_lost;
    report.confinement = rdvm_confine::layers();
    guest.close_network();
    report.network = network.map(RunningNetwork::finish);
    let lost = table.zip(guest.attributes_lost());
    report.attributes_lost = lost.map(|(table, lost)| Loss::of(&table, &lost));
    Ok(Finished { report, last_lines })
}

/// Makes the console, and opens the file of its copy.
fn console(spec: &ConsoleSpec, stderr: OwnedFd) -> Result<Console> {
    let copy = match &spec.file {
        Some(path) => {
            let file = atomic::special(path).and_then(|special| match special {
                Some(stream) => Ok(stream),
                None => File::create(path),
            });
            let file = file.map_err(host(|| format!("--console: {}", path.display())))?;
            Some((
                OutputStream::new(file.into()),
                format!("--console: {}", shown(path)),
            ))
        }
        None => None,
    };
    Ok(Console::new(
        OutputStream::new(stderr),
        copy,
        spec.show_boot,
    ))
}

/// Returns the console's last lines, where the machine ended before the command ran and they were not shown.
fn last_lines(ending: &Ending, guest: &mut GuestPorts) -> Vec<String> {
    let is_early = matches!(
        ending,
        Ending::Died { .. }
            | Ending::Starved { .. }
            | Ending::TimedOut { started: false }
            | Ending::NotStarted { .. }
    ) && guest.timestamps().started.is_none();
    match is_early && !guest.console().was_shown() {
        true => guest.console().last_lines(LAST_LINES),
        false => Vec::new(),
    }
}

/// Finishes what is copied out, and returns the report with it; a signal meanwhile is how the run ended.
fn report_copies(
    ending: &Ending,
    subjects: Subjects<'_>,
    copy_out: &CopyOut,
    signals: &StopSignals,
) -> Report {
    let mut report = Report::of(ending, subjects);
    let message = report.message.clone();
    let copied = match ending {
        // The user has ended the run, and waits for nothing.
        Ending::Interrupted(_) | Ending::Left => {
            copy_out.give_up(message.as_deref().unwrap_or("interrupted"), signals)
        }
        _ => {
            let (copied, signal) = copy_out.finish(message.as_deref(), signals);
            if let Some(signal) = signal {
                report = Report::of(&Ending::Interrupted(signal), subjects);
            }
            copied
        }
    };
    report.add_copies(copied);
    report
}

/// The number of the console's last lines that are shown when a machine dies.
const LAST_LINES: usize = 20;

/// Wraps an error of the host's with what was being done.
fn host(what: impl FnOnce() -> String) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Host {
        what: what(),
        source,
    }
}
