//! The course of a run as a state machine without clocks, streams or threads: events and the time go in, the next action
//! comes out.

use std::time::{Duration, Instant};

use rdvm_hostfs::units::after;
use rdvm_proto::HostRequest;
use signal_hook::consts::{SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

use super::ending::Ending;

/// Time for copying out in all: this, and a second for each [`COPY_RATE`] bytes received. A guest that sends nothing, or next
/// to nothing, is not waited for.
const COPY_TIME: Duration = Duration::from_secs(30);
/// Bytes.
const COPY_RATE: u64 = 64 << 10;
/// Where there is a time-out, copying out may take as long again, and this in any case.
const COPY_LEAST: Duration = Duration::from_secs(60);

/// Signals that end a process that has not been started yet, as their default action is.
const DEADLY: [i32; 7] = [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGKILL, SIGUSR1, SIGUSR2];

/// True if the machine ends when this signal is delivered before its command runs.
pub(super) fn is_deadly(signal: i32) -> bool {
    DEADLY.contains(&signal)
}

/// A signal that comes again within this time is the same one: timeout(1) signals its child and then its group, a shell all of a
/// job. Nobody asks twice in so short a time.
const ECHO: Duration = Duration::from_millis(100);

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
    /// The command is started when the caller releases it, and the time of the run begins then.
    pub(super) is_held: bool,
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
    /// PID 1 is ready, and waits with the command.
    Held,
    /// The caller wants the command started.
    Released,
    /// PID 1 has started the command.
    Started,
    /// PID 1 has sent its last event, which says this.
    Ended(Ending),
    /// Everything that the guest has sent is received and written.
    Drained {
        /// The files that are copied out are all here.
        files_are_here: bool,
    },
    /// This signal has come from outside, for the run.
    Signal(i32),
    /// This signal is for the command, whatever it makes of it.
    Delivery(i32),
    /// Time has passed.
    Tick(StreamState),
}

/// The state of the streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StreamState {
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
    /// The last signal from outside, and when it came.
    signal: Option<(i32, Instant)>,
    pub(super) rules: Rules,
    state: State,
    hold: Hold,
}

/// The progress of a command that is held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Hold {
    /// PID 1 waits.
    is_ready: bool,
    /// The caller has released it.
    is_released: bool,
    /// PID 1 was told.
    is_over: bool,
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
    fn owes_output(&self, streams: StreamState) -> bool {
        streams.has_output && self.why == Ending::OutputLimit
    }
}

impl Lifecycle {
    /// True if the caller has still to say that the command is to be started.
    pub(super) fn awaits_release(&self) -> bool {
        self.rules.is_held && !self.hold.is_released
    }

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
            Event::Held => {
                self.hold.is_ready = true;
                self.start()
            }
            Event::Released => {
                if self.awaits_release() {
                    self.hold.is_released = true;
                    let timeout = self.rules.timeout;
                    self.rules.deadline = timeout.map(|timeout| after(now, timeout));
                }
                self.start()
            }
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
            Event::Signal(signal) => self.signalled(signal, now),
            Event::Delivery(signal) => self.delivered(signal),
            Event::Tick(streams) => match self.state {
                State::Copying { .. } => self.tick_copying(streams, now),
                State::Stopping(_) | State::Ended { stop: Some(_), .. } => {
                    self.tick_stopping(streams, now)
                }
                _ => self.tick_running(streams, now),
            },
        }
    }

    /// Has the command started, once PID 1 waits with it and the caller wants it, whichever comes first.
    fn start(&mut self) -> Option<Action> {
        let is_due = self.hold.is_ready && self.hold.is_released && !self.hold.is_over;
        if !is_due || self.state != State::Booting {
            return None;
        }
        self.hold.is_over = true;
        Some(Action::Send(HostRequest::Start))
    }

    fn ended(&mut self, said: Ending) {
        let (ran, stop) = match std::mem::take(&mut self.state) {
            State::Booting => (false, None),
            State::Running => (true, None),
            // Who was sent a signal from outside ends as it likes.
            State::Stopping(stop) => {
                let stop = Some(stop).filter(|stop| !matches!(stop.why, Ending::Interrupted(_)));
                (true, stop)
            }
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

    /// A running command is told, and what it makes of the signal is its own affair. After the first signal that asks it to end it
    /// has its time, and the second one ends the machine.
    fn signalled(&mut self, signal: i32, now: Instant) -> Option<Action> {
        let last = self.signal.replace((signal, now));
        if last.is_some_and(|(last, at)| last == signal && after(at, ECHO) > now) {
            return None;
        }
        let end = Some(Action::End(Ending::Interrupted(signal)));
        let tell = Some(Action::Send(HostRequest::Signal(signal as u8)));
        let Some(stop_timeout) = self.rules.stop_timeout else {
            return end;
        };
        match (&self.state, signal) {
            (State::Running | State::Stopping(_), SIGHUP | SIGUSR1 | SIGUSR2) => tell,
            (State::Running, SIGTERM | SIGINT) => {
                // The run as a whole has no more time for that than without the signal.
                let until = after(now, stop_timeout);
                let latest = self
                    .rules
                    .deadline
                    .map(|deadline| after(deadline, stop_timeout));
                self.state = State::Stopping(Stop {
                    why: Ending::Interrupted(signal),
                    until: latest.map_or(until, |latest| until.min(latest)),
                    killed: false,
                });
                tell
            }
            // There is nobody any more whom it could mean anything to.
            (State::Ended { .. } | State::Copying { .. }, SIGUSR1 | SIGUSR2) => None,
            _ => end,
        }
    }

    /// A running command gets the signal, and that is all. What would end a process ends a machine without a command.
    fn delivered(&mut self, signal: i32) -> Option<Action> {
        match self.state {
            State::Running | State::Stopping(_) => {
                Some(Action::Send(HostRequest::Signal(signal as u8)))
            }
            State::Booting if is_deadly(signal) => Some(Action::End(Ending::Interrupted(signal))),
            State::Booting | State::Ended { .. } | State::Copying { .. } => None,
        }
    }

    fn tick_running(&mut self, streams: StreamState, now: Instant) -> Option<Action> {
        let started = self.has_started();
        let why = match streams.is_flooded {
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

    fn tick_stopping(&mut self, streams: StreamState, now: Instant) -> Option<Action> {
        let (copies_out, has_ended) = (self.rules.copies_out, self.has_ended());
        let is_time_up = self.rules.is_time_up(now);
        let stop = self.stop_mut()?;
        if stop.until > now || (stop.owes_output(streams) && !is_time_up) {
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

    fn tick_copying(&mut self, streams: StreamState, now: Instant) -> Option<Action> {
        let is_over = self.next_tick(streams, now).is_some_and(|time| time <= now);
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
    pub(super) fn next_tick(&self, streams: StreamState, now: Instant) -> Option<Instant> {
        match &self.state {
            State::Copying { since, .. } => {
                let earned = Duration::from_secs(streams.copied / COPY_RATE);
                let earned = after(*since, COPY_TIME + earned);
                let latest = self.rules.timeout.map(|timeout| timeout.max(COPY_LEAST));
                Some(latest.map_or(earned, |latest| earned.min(after(*since, latest))))
            }
            State::Stopping(stop)
            | State::Ended {
                stop: Some(stop), ..
            } if stop.until > now || !stop.owes_output(streams) => Some(stop.until),
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rdvm_proto::{Stage, Totals};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const STOP: Duration = Duration::from_secs(10);

    fn exited() -> Ending {
        Ending::Exited {
            code: 3,
            totals: Totals::default(),
        }
    }

    fn not_started() -> Ending {
        Ending::NotStarted {
            stage: Stage::Fork,
            errno: 12,
            which: 0,
        }
    }

    fn term() -> Option<Action> {
        Some(Action::Send(HostRequest::Signal(SIGTERM as u8)))
    }

    fn kill() -> Option<Action> {
        Some(Action::Send(HostRequest::Signal(SIGKILL as u8)))
    }

    fn end(ending: Ending) -> Option<Action> {
        Some(Action::End(ending))
    }

    /// A run of 100 seconds from `began` on, whose command has ten to stop.
    fn limited(began: Instant, copies_out: bool) -> Lifecycle {
        Lifecycle {
            rules: Rules {
                stop_timeout: Some(STOP),
                timeout: Some(100 * SECOND),
                deadline: Some(began + 100 * SECOND),
                copies_out,
                is_held: false,
            },
            ..Lifecycle::default()
        }
    }

    /// The same, held.
    fn held(began: Instant) -> Lifecycle {
        let mut run = limited(began, false);
        (run.rules.is_held, run.rules.deadline) = (true, None);
        run
    }

    fn start() -> Option<Action> {
        Some(Action::Send(HostRequest::Start))
    }

    fn quiet() -> Event {
        Event::Tick(StreamState::default())
    }

    fn flooded(has_output: bool) -> Event {
        Event::Tick(StreamState {
            is_flooded: true,
            has_output,
            copied: 0,
        })
    }

    fn drained(files_are_here: bool) -> Event {
        Event::Drained { files_are_here }
    }

    /// The outcome of events, each a number of seconds after the beginning.
    #[track_caller]
    fn steps(lifecycle: &mut Lifecycle, began: Instant, steps: &[(u32, Event, Option<Action>)]) {
        for (at, event, action) in steps {
            let done = lifecycle.on(event.clone(), began + *at * SECOND);
            assert_eq!(done, *action, "{event:?} at {at}: {lifecycle:?}");
        }
    }

    #[test]
    fn a_command_that_ends_by_itself_ends_the_run_when_its_output_is_written() {
        let began = Instant::now();
        for mut run in [Lifecycle::default(), limited(began, false)] {
            let plan = [
                (0, drained(true), None),
                (1, Event::Started, None),
                (2, drained(true), None),
                (3, quiet(), None),
                (4, Event::Ended(exited()), None),
                // The first one stands.
                (5, Event::Ended(not_started()), None),
                (6, quiet(), None),
                (7, drained(true), end(exited())),
            ];
            steps(&mut run, began, &plan);
        }
    }

    #[test]
    fn before_a_command_runs_there_is_nothing_to_tell_and_the_machine_goes_at_once() {
        let began = Instant::now();
        let up = end(Ending::TimedOut { started: false });
        steps(
            &mut limited(began, true),
            began,
            &[(99, quiet(), None), (100, quiet(), up)],
        );
        let flood = end(Ending::OutputLimit);
        steps(
            &mut limited(began, true),
            began,
            &[(1, flooded(true), flood.clone())],
        );
        // Nor where nothing can be told.
        let mut untold = limited(began, false);
        untold.rules.stop_timeout = None;
        let up = end(Ending::TimedOut { started: true });
        let plan = [(1, Event::Started, None), (100, quiet(), up)];
        steps(&mut untold, began, &plan);
    }

    #[test]
    fn a_command_whose_time_is_up_is_told_and_has_its_time_to_stop() {
        let began = Instant::now();
        let why = Ending::TimedOut { started: true };
        let mut run = limited(began, false);
        let plan = [
            (1, Event::Started, None),
            (100, quiet(), term()),
            (101, quiet(), None),
            (109, flooded(true), None),
            // Output is owed only where it was too much of it.
            (110, flooded(true), end(why.clone())),
        ];
        steps(&mut run, began, &plan);
        assert_eq!(run.outcome(), Some(why.clone()));
        // A verdict that comes meanwhile changes nothing of why.
        let mut run = limited(began, false);
        let plan = [
            (1, Event::Started, None),
            (100, quiet(), term()),
            (105, Event::Ended(exited()), None),
            (106, quiet(), None),
            (106, drained(true), end(why)),
        ];
        steps(&mut run, began, &plan);
    }

    fn tell(signal: i32) -> Option<Action> {
        Some(Action::Send(HostRequest::Signal(signal as u8)))
    }

    #[test]
    fn a_command_that_is_sent_a_signal_ends_as_it_likes_and_in_time() {
        let began = Instant::now();
        for signal in [SIGTERM, SIGINT] {
            let told = [
                (1, Event::Started, None),
                (2, Event::Signal(SIGHUP), tell(SIGHUP)),
                (50, quiet(), None),
                (50, Event::Signal(signal), tell(signal)),
                (51, Event::Signal(SIGUSR1), tell(SIGUSR1)),
                (59, quiet(), None),
            ];
            let mut run = limited(began, false);
            steps(&mut run, began, &told);
            let plan = [
                (59, Event::Ended(exited()), None),
                (70, quiet(), None),
                (71, Event::Signal(SIGUSR2), None),
                (71, drained(true), end(exited())),
            ];
            steps(&mut run, began, &plan);
            // It does not end; or the user does not wait for it; or its files are wanted.
            let over = end(Ending::Interrupted(signal));
            for (copies_out, event, at, action) in [
                (false, quiet(), 60, over.clone()),
                (true, quiet(), 60, kill()),
                (true, Event::Signal(signal), 59, over),
            ] {
                let mut run = limited(began, copies_out);
                steps(&mut run, began, &told);
                steps(&mut run, began, &[(at, event, action)]);
            }
        }
    }

    #[test]
    fn a_signal_ends_a_machine_that_has_nobody_to_be_told() {
        let began = Instant::now();
        let over = |signal| end(Ending::Interrupted(signal));
        let mut untold = limited(began, false);
        untold.rules.stop_timeout = None;
        for mut run in [limited(began, false), untold] {
            if run.rules.stop_timeout.is_none() {
                steps(&mut run, began, &[(1, Event::Started, None)]);
            }
            let plan = [(2, Event::Signal(SIGUSR1), over(SIGUSR1))];
            steps(&mut run, began, &plan);
        }
        let mut run = limited(began, false);
        let plan = [
            (1, Event::Started, None),
            (2, Event::Ended(exited()), None),
            (3, Event::Signal(SIGTERM), over(SIGTERM)),
        ];
        steps(&mut run, began, &plan);
    }

    #[test]
    fn a_signal_gives_no_more_time_than_there_was() {
        let began = Instant::now();
        let mut run = limited(began, false);
        run.rules.stop_timeout = Some(1000 * SECOND);
        run.rules.deadline = Some(began + 100 * SECOND);
        let plan = [
            (1, Event::Started, None),
            (99, Event::Signal(SIGTERM), tell(SIGTERM)),
            (1100, quiet(), end(Ending::Interrupted(SIGTERM))),
        ];
        steps(&mut run, began, &plan);
    }

    #[test]
    fn files_that_are_wanted_are_asked_for_after_the_command_was_killed() {
        let began = Instant::now();
        let why = Ending::TimedOut { started: true };
        let stopped = [
            (1, Event::Started, None),
            (100, quiet(), term()),
            (110, quiet(), kill()),
            (139, quiet(), None),
        ];
        let mut run = limited(began, true);
        steps(&mut run, began, &stopped);
        steps(&mut run, began, &[(140, quiet(), end(why.clone()))]);
        let mut run = limited(began, true);
        steps(&mut run, began, &stopped);
        let plan = [
            (139, Event::Ended(exited()), None),
            (
                139,
                drained(false),
                Some(Action::Send(HostRequest::CopyOut)),
            ),
            (139, drained(false), None),
            (140, flooded(true), None),
            (168, quiet(), None),
            (169, quiet(), end(why)),
        ];
        steps(&mut run, began, &plan);
    }

    #[test]
    fn only_a_command_that_ran_has_files() {
        let began = Instant::now();
        for (ending, files) in [(exited(), true), (not_started(), false)] {
            let mut run = limited(began, true);
            steps(&mut run, began, &[(1, Event::Ended(ending.clone()), None)]);
            assert_eq!(run.awaits_files(), files);
            let action = match files {
                true => Some(Action::Send(HostRequest::CopyOut)),
                false => end(ending),
            };
            steps(&mut run, began, &[(2, drained(false), action)]);
        }
        // Where they are here before they were asked for, there are none to come.
        let mut run = limited(began, true);
        let plan = [
            (1, Event::Ended(exited()), None),
            (2, drained(true), end(exited())),
        ];
        steps(&mut run, began, &plan);
    }

    #[test]
    fn files_have_time_as_long_as_they_come_and_no_longer_than_the_run() {
        let began = Instant::now();
        let tick = |copied| {
            Event::Tick(StreamState {
                copied,
                ..StreamState::default()
            })
        };
        let copying = |timeout: Option<Duration>| {
            let mut run = limited(began, true);
            run.rules.timeout = timeout;
            let plan = [
                (1, Event::Started, None),
                (2, Event::Ended(exited()), None),
                (10, drained(false), Some(Action::Send(HostRequest::CopyOut))),
            ];
            steps(&mut run, began, &plan);
            assert!(run.is_copying());
            run
        };
        let mut run = copying(Some(100 * SECOND));
        steps(
            &mut run,
            began,
            &[(39, tick(0), None), (40, tick(COPY_RATE), None)],
        );
        steps(&mut run, began, &[(41, tick(COPY_RATE), end(exited()))]);
        for (timeout, last) in [(Some(SECOND), 70), (Some(100 * SECOND), 110), (None, 5000)] {
            let mut run = copying(timeout);
            let plan = [(last - 1, tick(1 << 40), None)];
            steps(&mut run, began, &plan);
            let action = timeout.and_then(|_| end(exited()));
            steps(&mut run, began, &[(last, tick(1 << 40), action)]);
            steps(&mut run, began, &[(last, drained(true), end(exited()))]);
        }
    }

    #[test]
    fn output_below_the_limit_is_owed_until_the_time_of_the_run_is_up() {
        let began = Instant::now();
        let flood = || end(Ending::OutputLimit);
        let told = [(1, Event::Started, None), (2, flooded(true), term())];
        let mut run = limited(began, false);
        steps(&mut run, began, &told);
        steps(
            &mut run,
            began,
            &[(13, flooded(true), None), (13, flooded(false), flood())],
        );
        let mut run = limited(began, false);
        steps(&mut run, began, &told);
        steps(
            &mut run,
            began,
            &[(99, flooded(true), None), (100, flooded(true), flood())],
        );
        // What is waited for meanwhile is the end of that time, since nothing else comes by itself.
        let streams = StreamState {
            is_flooded: true,
            has_output: true,
            copied: 0,
        };
        let next = |at: u32| run.next_tick(streams, began + at * SECOND);
        assert_eq!(next(11), Some(began + 12 * SECOND));
        assert_eq!(next(12), Some(began + 100 * SECOND));
    }

    #[test]
    fn a_reader_that_is_slow_after_the_verdict_has_the_time_to_stop_and_nobody_is_told() {
        let began = Instant::now();
        let mut run = limited(began, true);
        let plan = [
            (1, Event::Started, None),
            (99, Event::Ended(exited()), None),
            (100, quiet(), None),
            (109, quiet(), None),
            (110, quiet(), end(Ending::TimedOut { started: true })),
        ];
        steps(&mut run, began, &plan);
    }

    #[test]
    fn a_held_command_starts_once_when_pid_1_and_the_caller_are_ready_and_its_time_begins_then() {
        let began = Instant::now();
        let up = end(Ending::TimedOut { started: true });
        for [first, second] in [
            [Event::Held, Event::Released],
            [Event::Released, Event::Held],
        ] {
            let mut run = held(began);
            assert!(run.awaits_release());
            let released = if first == Event::Released { 500 } else { 1000 };
            let plan = [
                (499, quiet(), None),
                (500, first, None),
                (501, quiet(), None),
                (1000, second, start()),
                (1001, Event::Held, None),
                (1001, Event::Released, None),
                (1002, Event::Started, None),
                (1003, Event::Held, None),
                (1003, Event::Released, None),
                (released + 99, Event::Delivery(SIGTERM), tell(SIGTERM)),
            ];
            // A time of its own: what is released long before PID 1 is there may be late.
            run.rules.timeout = Some(1000 * SECOND);
            steps(&mut run, began, &plan[..7]);
            assert!(!run.awaits_release());
            let late = [
                (released + 999, quiet(), None),
                (released + 1000, quiet(), term()),
                (released + 1010, quiet(), up.clone()),
            ];
            steps(&mut run, began, &plan[7..9]);
            steps(&mut run, began, &late);
        }
    }

    #[test]
    fn a_held_machine_that_ends_before_the_start_is_not_told_to_start() {
        let began = Instant::now();
        let mut run = held(began);
        let plan = [
            (1, Event::Ended(not_started()), None),
            (2, Event::Held, None),
            (3, Event::Released, None),
            (4, drained(true), end(not_started())),
        ];
        steps(&mut run, began, &plan);
        // Nor one that nobody holds, whatever its guest says.
        let plan = [(1, Event::Held, None), (2, Event::Released, None)];
        steps(&mut limited(began, false), began, &plan);
    }

    #[test]
    fn a_time_out_before_the_start_ends_a_released_machine() {
        let began = Instant::now();
        let plan = [
            (900, Event::Released, None),
            (999, quiet(), None),
            (1000, quiet(), end(Ending::TimedOut { started: false })),
        ];
        steps(&mut held(began), began, &plan);
    }

    #[test]
    fn a_delivered_signal_ends_a_machine_before_the_start_and_means_nothing_else_to_it_afterwards()
    {
        let began = Instant::now();
        const SIGWINCH: i32 = 28;
        for signal in DEADLY {
            let over = end(Ending::Interrupted(signal));
            let ready = [(1, Event::Held, None), (2, Event::Delivery(SIGWINCH), None)];
            for ready in [&ready[..0], &ready] {
                let mut run = held(began);
                steps(&mut run, began, ready);
                steps(
                    &mut run,
                    began,
                    &[(3, Event::Delivery(signal), over.clone())],
                );
            }
        }
        let mut run = held(began);
        run.rules.timeout = None;
        let begin = [
            (1, Event::Held, None),
            (2, Event::Released, start()),
            (3, Event::Started, None),
        ];
        steps(&mut run, began, &begin);
        for signal in [SIGTERM, SIGTERM, 1, 64, SIGKILL, SIGINT] {
            steps(
                &mut run,
                began,
                &[(4, Event::Delivery(signal), tell(signal))],
            );
        }
        let rest = [
            (10_000, quiet(), None),
            (10_001, Event::Ended(exited()), None),
            (10_002, Event::Delivery(SIGTERM), None),
            (10_003, drained(true), end(exited())),
        ];
        steps(&mut run, began, &rest);
    }

    /// The alphabet of all events that differ.
    fn events() -> Vec<Event> {
        let mut events = vec![
            Event::Held,
            Event::Released,
            Event::Started,
            Event::Ended(exited()),
            Event::Ended(not_started()),
            drained(false),
            drained(true),
            Event::Signal(SIGTERM),
            Event::Signal(SIGUSR1),
            Event::Delivery(SIGTERM),
        ];
        for bits in 0..8 {
            events.push(Event::Tick(StreamState {
                is_flooded: bits & 1 != 0,
                has_output: bits & 2 != 0,
                copied: if bits & 4 != 0 { 5 * COPY_RATE } else { 0 },
            }));
        }
        events
    }

    /// All rules that differ.
    fn rules(began: Instant) -> Vec<Rules> {
        let mut all = Vec::new();
        for bits in 0..16 {
            let is_held = bits & 8 != 0;
            all.push(Rules {
                stop_timeout: (bits & 1 != 0).then_some(STOP),
                timeout: (bits & 2 != 0).then_some(20 * SECOND),
                deadline: (bits & 2 != 0 && !is_held).then_some(began + 20 * SECOND),
                copies_out: bits & 4 != 0,
                is_held,
            });
        }
        all
    }

    #[test]
    fn the_echo_of_a_signal_is_no_second_one() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        for (pause, second) in [(0, None), (99, None), (100, Some(SIGTERM))] {
            let mut run = limited(began, false);
            assert_eq!(run.on(Event::Started, at(0)), None);
            let first = run.on(Event::Signal(SIGTERM), at(10));
            assert_eq!(
                first,
                Some(Action::Send(HostRequest::Signal(SIGTERM as u8)))
            );
            let action = run.on(Event::Signal(SIGTERM), at(10 + pause));
            let end = |signal| Action::End(Ending::Interrupted(signal));
            assert_eq!(action, second.map(end), "{pause}");
        }
        let mut run = limited(began, false);
        run.on(Event::Started, at(0));
        run.on(Event::Signal(SIGTERM), at(10));
        let other = run.on(Event::Signal(SIGINT), at(11));
        assert_eq!(other, Some(Action::End(Ending::Interrupted(SIGINT))));
    }

    /// Every state that can be reached within five events, whatever time passes between them.
    #[test]
    fn in_every_state_every_event_keeps_what_holds_for_all() {
        let began = Instant::now();
        let events = events();
        let mut count = 0;
        for rules in rules(began) {
            let first = Lifecycle {
                rules,
                ..Lifecycle::default()
            };
            let mut seen = HashSet::new();
            let mut reached = vec![(first, 0)];
            for _ in 0..5 {
                let mut next = Vec::new();
                for (before, at) in reached {
                    for pause in [0, 10, 30, 60] {
                        for event in &events {
                            let now = began + (at + pause) * SECOND;
                            let mut after = before.clone();
                            let action = after.on(event.clone(), now);
                            count += 1;
                            holds(&before, event, action.as_ref(), &after, now);
                            // An older one has no echo any more.
                            after.signal = after.signal.filter(|(_, came)| *came == now);
                            if seen.insert(format!("{after:?} {}", at + pause)) {
                                next.push((after, at + pause));
                            }
                        }
                    }
                }
                reached = next;
            }
        }
        assert!(count > 10_000, "{count}");
    }

    fn stop(lifecycle: &Lifecycle) -> Option<&Stop> {
        match &lifecycle.state {
            State::Stopping(stop) => Some(stop),
            State::Ended { stop, .. } => stop.as_ref(),
            _ => None,
        }
    }

    fn holds(
        before: &Lifecycle,
        event: &Event,
        action: Option<&Action>,
        after: &Lifecycle,
        now: Instant,
    ) {
        let context = || format!("{before:?} {event:?} {action:?} {after:?}");
        // The last event stands, and what is known does not become unknown.
        assert!(!before.has_ended() || after.has_ended(), "{}", context());
        let (mut same, hold) = (after.clone(), before.hold);
        (same.hold, same.rules) = (hold, before.rules);
        same.signal = before.signal;
        assert!(!before.is_copying() || same == *before, "{}", context());
        if let Some(known) = before.outcome() {
            // Who was sent a signal from outside ends as it likes.
            let is_own_end = matches!(known, Ending::Interrupted(_)) && after.has_ended();
            let is_late_stop = is_own_end || stop(after).is_some() && stop(before).is_none();
            assert!(
                after.outcome() == Some(known) || is_late_stop,
                "{}",
                context()
            );
        }
        match action {
            Some(Action::Send(HostRequest::Signal(told)))
                if matches!(event, Event::Signal(_) | Event::Delivery(_)) =>
            {
                let told = i32::from(*told);
                let is_it = [Event::Signal(told), Event::Delivery(told)].contains(event);
                assert!(is_it, "{}", context());
                assert!(before.has_started() && !before.has_ended(), "{}", context());
                let is_delivery = matches!(event, Event::Delivery(_));
                assert!(!is_delivery || before == after, "{}", context());
            }
            Some(Action::Send(HostRequest::Start)) => {
                assert!(before.rules.is_held && !before.hold.is_over);
                assert!(
                    !before.has_started() && !before.has_ended(),
                    "{}",
                    context()
                );
            }
            Some(Action::Send(HostRequest::Signal(signal))) => {
                assert!(before.has_started() && !before.has_ended(), "{}", context());
                assert!(before.rules.stop_timeout.is_some());
                let killed = i32::from(*signal) == SIGKILL;
                assert_eq!(killed, stop(before).is_some(), "{}", context());
                assert!(!killed || before.rules.copies_out, "{}", context());
            }
            Some(Action::Send(HostRequest::CopyOut)) => {
                assert!(!before.is_copying() && after.is_copying(), "{}", context());
                assert!(before.rules.copies_out && before.has_ended());
            }
            Some(Action::Send(other)) => panic!("{other:?}"),
            // Nothing ends a run but its verdict, its time and its limit.
            Some(Action::End(ending)) => match ending {
                Ending::OutputLimit | Ending::TimedOut { .. } => {}
                Ending::Interrupted(signal) if *event == Event::Signal(*signal) => {}
                Ending::Interrupted(signal) if *event == Event::Delivery(*signal) => {
                    assert!(!before.has_started(), "{}", context());
                }
                said => assert_eq!(before.outcome().as_ref(), Some(said), "{}", context()),
            },
            None => {}
        }
        // A tick that is due does something, or what it waits for is not the time.
        if let Event::Tick(streams) = event
            && action.is_none()
            && after.next_tick(*streams, now).is_some_and(|at| at <= now)
        {
            assert_eq!(stop(before), None, "{}", context());
            assert!(stop(after).is_some(), "{}", context());
        }
    }
}
