//! The ways in which a run comes to its end.

use std::time::{Duration, Instant};

use rdvm_proto::HostRequest;

use super::GuestPorts;
use crate::guest::ending::Ending;
use crate::guest::lifecycle::{self, Action, StreamState};
use crate::stop_signals::StopSignals;

/// Time between attempts to write what the copy of the console has not taken.
const COPY_LOOK: Duration = Duration::from_millis(50);

impl GuestPorts {
    /// Returns the ending, where one is asked for from outside: by a signal, the deadline, a reader that is gone, a limit.
    /// A command that can still be told is told first, and the ending follows when it has had its time.
    pub(crate) fn steer(&mut self, signals: &StopSignals) -> Option<Ending> {
        signals.seen();
        self.output.console.flush_copy();
        self.take_rings();
        while let Some(signal) = signals.signal() {
            // One that ends the run stays, for who asks what else there is to do.
            if let Some(ending) = self.advance(lifecycle::Event::Signal(signal)) {
                return Some(ending);
            }
            signals.take(signal);
        }
        if signals.is_released() && self.lifecycle.awaits_release() {
            self.advance(lifecycle::Event::Released);
        }
        while let Some(signal) = signals.take_delivery() {
            if let Some(ending) = self.advance(lifecycle::Event::Delivery(signal)) {
                return Some(ending);
            }
        }
        if self.input.is_left() {
            return Some(Ending::Left);
        }
        self.input.resize(signals);
        if let Some(ending) = self.failure() {
            return Some(ending);
        }
        self.advance(lifecycle::Event::Tick(self.streams()))
    }

    /// Returns the ending by a stream that has failed, or by a kernel that has.
    fn failure(&mut self) -> Option<Ending> {
        let stdout = &self.output.stdout;
        match stdout.failure() {
            Some(errno) => return Some(Ending::OutputFailed(errno.raw_os_error())),
            None if stdout.is_closed() => return Some(Ending::OutputClosed),
            None => {}
        }
        if let Some(errno) = self.input.failure().filter(|_| !self.has_verdict()) {
            return Some(Ending::InputFailed(errno.raw_os_error()));
        }
        let lost = self.net.as_ref().filter(|net| net.is_closed());
        if lost.is_some() && !self.has_verdict() {
            return Some(Ending::Died {
                started: self.timestamps.started.is_some(),
                panic: None,
                how: Some("lost its network, since the proxy has ended".to_owned()),
            });
        }
        let panic = self.output.console.stays_panicked()?;
        Some(Ending::Died {
            started: false,
            panic: Some(panic),
            how: None,
        })
    }

    fn streams(&self) -> StreamState {
        let copied = self.copying().map(|copy_out| copy_out.progress());
        StreamState {
            is_flooded: self.output.is_flooded(),
            has_output: !self.output.is_empty(),
            copied: copied.unwrap_or_default(),
        }
    }

    fn files_are_here(&self) -> bool {
        let is_over = self.copy_out.as_ref().map(|copy_out| copy_out.is_over());
        is_over.unwrap_or(true)
    }

    pub(super) fn advance(&mut self, event: lifecycle::Event) -> Option<Ending> {
        match self.lifecycle.on(event, Instant::now())? {
            Action::End(ending) => return Some(ending),
            Action::Send(request) => {
                if request == HostRequest::CopyOut && self.output.has_place_for_bar() {
                    self.output.allow_bar();
                    self.output.progress().stage("copying out", None);
                }
                if request == HostRequest::Start {
                    // It may have been another one when the start record was made.
                    self.input.send_window();
                }
                self.input.request(request);
            }
        }
        None
    }

    /// Returns how long [`Self::steer`] need not be called, if nothing comes.
    pub(crate) fn time_left(&mut self) -> Option<Duration> {
        let rings = self.rings_rest();
        let now = Instant::now();
        let console = &self.output.console;
        let next = self.lifecycle.next_tick(self.streams(), now);
        let silent = console.silent_at().filter(|_| !self.lifecycle.is_copying());
        let left = next.into_iter().chain(silent).min();
        let left = left.map(|time| time.saturating_duration_since(now));
        let look = console.copy_waits().then_some(COPY_LOOK);
        left.into_iter().chain(look).chain(rings).min()
    }

    /// True if a signal came or the time of the run is up. There is no command yet.
    pub(crate) fn is_over(&self, signals: &StopSignals) -> bool {
        signals.signal().is_some()
            || signals.has_delivery(lifecycle::is_deadly)
            || self.lifecycle.rules.is_time_up(Instant::now())
    }

    /// True if nothing that the guest may still send counts.
    pub(crate) fn is_done(&self) -> bool {
        self.has_verdict() && (!self.lifecycle.awaits_files() || self.files_are_here())
    }

    /// Returns the ending by the guest's last event. Call it only when everything that it sent has been received and
    /// written: files that are to be copied out are asked for then, and the ending follows when they are here.
    pub(crate) fn conclude(&mut self) -> Option<Ending> {
        let files_are_here = self.files_are_here();
        self.advance(lifecycle::Event::Drained { files_are_here })
    }

    /// Returns how the run ended, with or without its files, if nothing more can come.
    pub(crate) fn outcome(&self) -> Option<Ending> {
        self.lifecycle.outcome()
    }
}
