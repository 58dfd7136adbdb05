//! The course of a run as a state machine without clocks, streams or threads: events and the time go in, the next action
//! comes out.

use std::time::{Duration, Instant};

use rdvm_hostfs::units::after;
use rdvm_proto::HostRequest;
use signal_hook::consts::{SIGKILL, SIGTERM};

use super::ending::Ending;

/// Time for copying out in all: this, and a second for each [`COPY_RATE`] bytes received. A guest that sends nothing, or next
/// to nothing, is not waited for.
const COPY_TIME: Duration = Duration::from_secs(30);
/// Bytes.
const COPY_RATE: u64 = 64 << 10;
/// Where there is a time-out, copying out may take as long again, and this in any case.
const COPY_LEAST: Duration = Duration::from_secs(60);

/// The rules of a run. The default has no limits, and only the guest's last event ends the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rules {
    /// Time that the command has to end once it was told to; `None` if it cannot be told anything.
    pub(super) stop_timeout: Option<Duration>,
    /// Time of the run.
    pub(super) timeout: Option<Duration>,
    /// The end of that time.
    pub(super) deadline: Option<Instant>,
    /// Files are copied out at the end.
    pub(super) copies_out: bool,
}

impl Rules {
    /// True if the time of the run is up.
    pub(super) fn is_time_up(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// An event of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// PID 1 has started the command.
    Started,
    /// PID 1 has sent its last event, which says this.
    Ended(Ending),
    /// Everything that the guest has sent is received and written.
    Drained {
        /// The files that are copied out are all here.
        files_are_here: bool,
    },
    /// Time has passed.
    Tick(Progress),
}

/// The state of the streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// More was printed than is allowed.
    pub(super) is_flooded: bool,
    /// Some of the output that is allowed is not written yet.
    pub(super) has_output: bool,
    /// Bytes received of the files that are copied out.
    pub(super) copied: u64,
}

/// The next thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Send this to PID 1.
    Send(HostRequest),
    /// Stop the machine: the run ended like this.
    End(Ending),
}

/// The state of a run, and its rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lifecycle {
    pub(super) rules: Rules,
    state: State,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum State {
    /// There is no command yet.
    #[default]
    Booting,
    /// The command runs.
    Running,
    /// The command was told to stop.
    Stopping(Stop),
    /// PID 1 has sent its last event; the output is being written.
    Ended {
        ran: bool,
        said: Ending,
        stop: Option<Stop>,
    },
    /// Files are received; the ending is known.
    Copying { since: Instant, ending: Ending },
}

/// The reason to stop, and the time given for it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stop {
    why: Ending,
    until: Instant,
    killed: bool,
}

impl Stop {
    /// True while output that is allowed waits for its reader, who may be slow. Nothing else is owed to them.
    fn owes_output(&self, progress: Progress) -> bool {
        progress.has_output && self.why == Ending::OutputLimit
    }
}

impl Lifecycle {
    /// True while files are received.
    pub(super) fn is_copying(&self) -> bool {
        matches!(self.state, State::Copying { .. })
    }

    /// True if the guest has sent its last event.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended { .. } | State::Copying { .. })
    }

    /// True if files are to come that have not been asked for, or are on their way.
    pub(super) fn awaits_files(&self) -> bool {
        match &self.state {
            State::Copying { .. } => true,
            // A command that did not start has made no files.
            State::Ended { said, .. } => {
                let ran = matches!(said, Ending::Exited { .. } | Ending::Killed { .. });
                ran && self.rules.copies_out
            }
            _ => false,
        }
    }

    /// Returns the next thing to do after `event`, which came at `now`; `None` if that is to go on.
    pub(super) fn on(&mut self, event: Event, now: Instant) -> Option<Action> {
        match event {
            Event::Started => {
                if self.state == State::Booting {
                    self.state = State::Running;
                }
                None
            }
            Event::Ended(said) => {
                self.ended(said);
                None
            }
            Event::Drained { files_are_here } => self.drained(files_are_here, now),
            Event::Tick(progress) => match self.state {
                State::Copying { .. } => self.tick_copying(progress, now),
                State::Stopping(_) | State::Ended { stop: Some(_), .. } => {
                    self.tick_stopping(progress, now)
                }
                _ => self.tick_running(progress, now),
            },
        }
    }

    fn ended(&mut self, said: Ending) {
        let (ran, stop) = match std::mem::take(&mut self.state) {
            State::Booting => (false, None),
            State::Running => (true, None),
            State::Stopping(stop) => (true, Some(stop)),
            // The first one stands.
            state => {
                self.state = state;
                return;
            }
        };
        self.state = State::Ended { ran, said, stop };
    }

    fn drained(&mut self, files_are_here: bool, now: Instant) -> Option<Action> {
        if !self.has_ended() {
            return None;
        }
        let ending = self.outcome()?;
        if files_are_here || !self.awaits_files() {
            return Some(Action::End(ending));
        }
        if self.is_copying() {
            return None;
        }
        self.state = State::Copying { since: now, ending };
        Some(Action::Send(HostRequest::CopyOut))
    }

    fn tick_running(&mut self, progress: Progress, now: Instant) -> Option<Action> {
        let started = self.has_started();
        let why = match progress.is_flooded {
            true => Ending::OutputLimit,
            false if self.rules.is_time_up(now) => Ending::TimedOut { started },
            false => return None,
        };
        let Some(stop_timeout) = self.rules.stop_timeout.filter(|_| started) else {
            return Some(Action::End(why));
        };
        let new = Stop {
            why,
            until: after(now, stop_timeout),
            killed: false,
        };
        match &mut self.state {
            // There is no command any more that could be told.
            State::Ended { stop, .. } => {
                *stop = Some(new);
                None
            }
            state => {
                *state = State::Stopping(new);
                Some(Action::Send(HostRequest::Signal(SIGTERM as u8)))
            }
        }
    }

    fn tick_stopping(&mut self, progress: Progress, now: Instant) -> Option<Action> {
        let (copies_out, has_ended) = (self.rules.copies_out, self.has_ended());
        let is_time_up = self.rules.is_time_up(now);
        let stop = self.stop_mut()?;
        if stop.until > now || (stop.owes_output(progress) && !is_time_up) {
            return None;
        }
        // After the guest's last event it is the reader of the output that is waited for.
        if stop.killed || !copies_out || has_ended {
            return Some(Action::End(stop.why.clone()));
        }
        // The files are wanted: a command that does not end by itself is killed, and PID 1 may still answer.
        (stop.killed, stop.until) = (true, now + COPY_TIME);
        Some(Action::Send(HostRequest::Signal(SIGKILL as u8)))
    }

    fn tick_copying(&mut self, progress: Progress, now: Instant) -> Option<Action> {
        let is_over = self
            .next_tick(progress, now)
            .is_some_and(|time| time <= now);
        self.outcome().filter(|_| is_over).map(Action::End)
    }

    /// Returns how the run ended if nothing more can come: the reason to stop, else what the guest's last event says.
    pub(super) fn outcome(&self) -> Option<Ending> {
        match &self.state {
            State::Booting | State::Running => None,
            State::Stopping(stop)
            | State::Ended {
                stop: Some(stop), ..
            } => Some(stop.why.clone()),
            State::Ended { said, .. } => Some(said.clone()),
            State::Copying { ending, .. } => Some(ending.clone()),
        }
    }

    /// Returns the time of the next [`Event::Tick`] that can change anything; `None` if none can.
    pub(super) fn next_tick(&self, progress: Progress, now: Instant) -> Option<Instant> {
        match &self.state {
            State::Copying { since, .. } => {
                let earned = Duration::from_secs(progress.copied / COPY_RATE);
                let earned = after(*since, COPY_TIME + earned);
                let latest = self.rules.timeout.map(|timeout| timeout.max(COPY_LEAST));
                Some(latest.map_or(earned, |latest| earned.min(after(*since, latest))))
            }
            State::Stopping(stop)
            | State::Ended {
                stop: Some(stop), ..
            } if stop.until > now || !stop.owes_output(progress) => Some(stop.until),
            _ => self.rules.deadline,
        }
    }

    fn stop_mut(&mut self) -> Option<&mut Stop> {
        match &mut self.state {
            State::Stopping(stop)
            | State::Ended {
                stop: Some(stop), ..
            } => Some(stop),
            _ => None,
        }
    }

    fn has_started(&self) -> bool {
        match self.state {
            State::Booting => false,
            State::Running | State::Stopping(_) => true,
            State::Ended { ran, .. } => ran,
            State::Copying { .. } => true,
        }
    }
}
