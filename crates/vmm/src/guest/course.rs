//! How a run is brought to its end: what ends it from our side, the order to the command to stop, the time it has for
//! that, and the files that are copied out in between.

use std::time::{Duration, Instant};

use rdvm_proto::{Event, HostRequest};
use signal_hook::consts::{SIGKILL, SIGTERM};

use super::Listener;
use super::ending::Ending;
use crate::watch::Watch;
use rdvm_hostfs::progress;
use rdvm_hostfs::units::{ByteSize, after};

/// How long copying out may take in all is this and a second for each of so many bytes received: a guest that sends
/// nothing, or next to nothing, is not waited for.
const COPY_TIME: Duration = Duration::from_secs(30);
const COPY_RATE: u64 = 64 << 10;
/// Where there is a time-out, copying out may take as long again, and this in any case.
const COPY_LEAST: Duration = Duration::from_secs(60);

/// How often it is tried to write what the copy of the console has not taken.
const COPY_LOOK: Duration = Duration::from_millis(50);

/// What a kernel may say while it boots, however little the command may: with `--show-boot` it says some 20 KiB.
const BOOT_OUTPUT: u64 = 1 << 20;

/// What a run must keep to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long the command has to end when it was told to.
    pub stop_timeout: Duration,
    /// How long it may take before that.
    pub timeout: Option<Duration>,
    /// How much it may print on standard output, and on standard error.
    pub max_output: Option<ByteSize>,
}

/// How far the run has come.
#[derive(Debug, Default)]
pub(super) struct Course {
    limits: Option<Limits>,
    /// Why the command was told to stop, and until when that is waited for.
    stopping: Option<Stopping>,
    /// The output went beyond its limit.
    flooded: bool,
    /// Since when files are received.
    copying: Option<Instant>,
}

#[derive(Debug)]
struct Stopping {
    why: Ending,
    until: Instant,
    killed: bool,
}

impl Course {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits: Some(limits),
            ..Self::default()
        }
    }

    /// Whether the command can be told to stop.
    pub(super) fn takes_requests(&self) -> bool {
        self.limits.is_some()
    }

    /// Whether files are received.
    pub(super) fn copies(&self) -> bool {
        self.copying.is_some()
    }

    /// As much of `bytes` as may still be printed when `before` have been.
    pub(super) fn within<'a>(&mut self, before: u64, bytes: &'a [u8]) -> &'a [u8] {
        self.cut(before, bytes, 0)
    }

    /// The same of what the kernel says before there is a command, or a PID 1 of the user's own.
    pub(super) fn within_boot<'a>(&mut self, before: u64, bytes: &'a [u8]) -> &'a [u8] {
        self.cut(before, bytes, BOOT_OUTPUT)
    }

    fn cut<'a>(&mut self, before: u64, bytes: &'a [u8], at_least: u64) -> &'a [u8] {
        let Some(limit) = self.limits.and_then(|limits| limits.max_output) else {
            return bytes;
        };
        let room = limit.0.max(at_least).saturating_sub(before);
        if (bytes.len() as u64) <= room {
            return bytes;
        }
        self.flooded = true;
        &bytes[..room as usize]
    }
}

impl Listener {
    /// The ending, where our side asks for one: a signal, the deadline, a reader that is gone, a limit. Where the command
    /// can still be told, it is, and the ending follows when it has had its time.
    pub fn steer(&mut self, watch: &Watch) -> Option<Ending> {
        watch.seen();
        self.console.flush_copy();
        self.take_files();
        if let Some(signal) = watch.signal() {
            return Some(Ending::Interrupted(signal));
        }
        if self.input.is_left() {
            return Some(Ending::Left);
        }
        // Asking takes it back: not before there is somebody to tell.
        if self.timestamps.started.is_some()
            && let Some(terminal) = &self.terminal
            && let Some([rows, columns]) = terminal.changed_window()
        {
            self.input.request(HostRequest::Resize { rows, columns });
        }
        match self.stdout.failure() {
            Some(errno) => return Some(Ending::OutputFailed(errno.raw_os_error())),
            None if self.stdout.is_closed() => return Some(Ending::OutputClosed),
            None => {}
        }
        if let Some(errno) = self.input.failure().filter(|_| self.verdict.is_none()) {
            return Some(Ending::InputFailed(errno.raw_os_error()));
        }
        if let Some(panic) = self.console.stays_panicked() {
            return Some(Ending::Died {
                started: false,
                panic: Some(panic),
                how: None,
            });
        }
        let now = Instant::now();
        if self.copy_deadline().is_some_and(|deadline| deadline <= now) {
            return self.outcome();
        }
        if self.course.copies() {
            return None;
        }
        let owed = self.owes_output();
        if let Some(stopping) = &mut self.course.stopping {
            if stopping.until > now {
                return None;
            }
            if owed && !watch.is_over() {
                return None;
            }
            // With a verdict it is our own reader that does not come to an end.
            if stopping.killed || self.copy_out.is_none() || self.verdict.is_some() {
                return Some(stopping.why.clone());
            }
            // The files are wanted: whatever does not end by itself is ended, and PID 1 may still answer.
            stopping.killed = true;
            stopping.until = now + COPY_TIME;
            self.input.request(HostRequest::Signal(SIGKILL as u8));
            return None;
        }
        let why = match self.course.flooded {
            true => Ending::OutputLimit,
            false if watch.time_left().is_some_and(|left| left.is_zero()) => Ending::TimedOut {
                started: self.timestamps.started.is_some(),
            },
            false => return None,
        };
        let limits = self
            .course
            .limits
            .filter(|_| self.timestamps.started.is_some());
        let Some(limits) = limits else {
            return Some(why);
        };
        if self.verdict.is_none() {
            self.input.request(HostRequest::Signal(SIGTERM as u8));
        }
        self.course.stopping = Some(Stopping {
            why,
            until: after(now, limits.stop_timeout),
            killed: false,
        });
        None
    }

    /// How long [`Self::steer`] need not be asked, if nothing comes.
    pub fn time_left(&self, watch: &Watch) -> Option<Duration> {
        let left = self.time_to_next(watch);
        match self.console.copy_waits() {
            true => Some(left.map_or(COPY_LOOK, |left| left.min(COPY_LOOK))),
            false => left,
        }
    }

    fn time_to_next(&self, watch: &Watch) -> Option<Duration> {
        let until = |at: Instant| at.saturating_duration_since(Instant::now());
        if let Some(deadline) = self.copy_deadline() {
            return Some(until(deadline));
        }
        let left = match &self.course.stopping {
            Some(stopping) if stopping.until > Instant::now() || !self.owes_output() => {
                Some(until(stopping.until))
            }
            _ => watch.time_left(),
        };
        let silent = self.console.silent_at().map(until);
        left.into_iter().chain(silent).min()
    }

    /// Whether a reader of ours, who may be slow, has not got all yet that is below the limit.
    fn owes_output(&self) -> bool {
        let written = self.stdout.is_empty() && self.console.is_empty();
        let stopping = self.course.stopping.as_ref();
        !written && stopping.is_some_and(|stopping| stopping.why == Ending::OutputLimit)
    }

    /// The guest has nothing more to say that counts.
    pub fn is_done(&self) -> bool {
        self.verdict.is_some() && !self.awaits_files()
    }

    /// The ending by the guest's last word. Ask only when everything that it sent has been received and written: where
    /// files are to be copied out, they are asked for then, and the ending follows when they are here.
    pub fn conclude(&mut self) -> Option<Ending> {
        let verdict = self.verdict?;
        if self.awaits_files() {
            if self.course.copying.is_none() {
                self.course.copying = Some(Instant::now());
                if !self.bar.in_a_line && !self.stdout.has_reader() {
                    self.bar.is_on = true;
                    progress::stage("copying out", None);
                }
                self.input.request(HostRequest::CopyOut);
            }
            return None;
        }
        self.course
            .stopping
            .take()
            .map_or_else(|| Ending::of(verdict), |stopping| Some(stopping.why))
    }

    /// What the run has come to, with or without its files, when nothing more can come.
    pub fn outcome(&mut self) -> Option<Ending> {
        let stopped = self.course.stopping.take().map(|stopping| stopping.why);
        stopped.or_else(|| self.verdict.and_then(Ending::of))
    }

    /// Whether files are to come that are not all here. A command that did not start has made none.
    fn awaits_files(&self) -> bool {
        let ran = matches!(self.verdict, Some(Event::Exited(..) | Event::Killed(..)));
        ran && self
            .copy_out
            .as_ref()
            .is_some_and(|copy_out| !copy_out.is_over())
    }

    fn copy_deadline(&self) -> Option<Instant> {
        let (began, copy_out) = self.course.copying.zip(self.copy_out.as_ref())?;
        let earned = Duration::from_secs(copy_out.progress() / COPY_RATE);
        let earned = after(began, COPY_TIME + earned);
        let timeout = self.course.limits.and_then(|limits| limits.timeout);
        let latest = timeout.map(|timeout| after(began, timeout.max(COPY_LEAST)));
        Some(latest.map_or(earned, |latest| earned.min(latest)))
    }
}
