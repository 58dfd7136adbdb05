//! The detection of a machine that has halted for good, which KVM does not tell.

use std::time::{Duration, Instant};

use super::threads::{Shared, Threads};

/// Time without an exit before a machine is asked whether it still lives.
const QUIET: Duration = Duration::from_secs(1);
/// Time for a vCPU to answer.
const ANSWER: Duration = Duration::from_millis(20);

/// Finds out whether a machine that says nothing has halted for good: asks all vCPUs, and asks again before it believes
/// it, since one that still ran when it was asked could have started another one meanwhile.
pub(super) struct HaltDetector {
    all_cpus: u32,
    exits: u64,
    next: Instant,
    /// The number of times that it has asked in a row, and the end of the time for answers.
    round: u32,
    until: Instant,
}

impl HaltDetector {
    /// A detector for a machine with this many CPUs, from now on.
    pub(super) fn new(cpus: usize) -> Self {
        let now = Instant::now();
        Self {
            all_cpus: (1 << cpus) - 1,
            exits: 0,
            next: now + QUIET,
            round: 0,
            until: now,
        }
    }

    /// Does what is due; returns the time until something is due again.
    pub(super) fn check(&mut self, exits: u64, shared: &Shared, threads: &Threads) -> Duration {
        let now = Instant::now();
        if now >= self.next {
            let quiet = exits == self.exits;
            self.exits = exits;
            let (answered, asleep) = shared.answers();
            let (answered, asleep) = (answered == self.all_cpus, asleep == self.all_cpus);
            match self.round {
                0 if quiet => {
                    shared.devices().remind();
                    self.ask(now, threads);
                }
                1.. if quiet && !answered && now < self.until => self.next = now + ANSWER,
                1 if quiet && answered && asleep => self.ask(now, threads),
                2.. if quiet && answered && asleep => {
                    let mut devices = shared.devices();
                    devices.stop("halted for good".to_owned());
                    drop(devices);
                    shared.wake();
                    self.next = now + QUIET;
                }
                _ => (self.round, self.next) = (0, now + QUIET),
            }
        }
        self.next.saturating_duration_since(now)
    }

    fn ask(&mut self, now: Instant, threads: &Threads) {
        threads.ask();
        (self.round, self.next, self.until) = (self.round + 1, now + ANSWER, now + QUIET);
    }
}
