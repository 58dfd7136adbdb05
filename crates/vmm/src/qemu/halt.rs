//! A machine that has stopped for good, which QEMU does not tell: it looks like one that waits.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rdvm_confine::{Access, Role};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use vmm_sys_util::signal::block_signal;

/// Time without output before the first look, and between looks.
const TICK: Duration = Duration::from_secs(1);
/// Looks in a row that find a machine as it was.
const LOOKS: u32 = 4;

/// Looks now and then at a machine that prints nothing.
///
/// A guest that lives wakes up: its timer cannot be set to more than 27 ms (`PIT`), whatever it waits for. The thread of a
/// CPU that has halted and gets no interrupt does not: it sleeps, and the number of times that it went to sleep stays as it
/// is. A thread that waits for the host's CPU, or that was stopped by a signal, does not sleep.
#[derive(Debug)]
pub(super) struct HaltDetector {
    watcher: Watcher,
    next: Instant,
    last: Option<Naps>,
    still: u32,
}

/// A thread's number, and how often it went to sleep.
type Naps = (u32, u64);

impl HaltDetector {
    /// A detector for a QEMU with this process number, whose CPUs have one thread.
    ///
    /// # Errors
    ///
    /// The process is gone; no threads left.
    pub(super) fn new(process: u32) -> io::Result<Self> {
        Ok(Self {
            watcher: Watcher::start(process)?,
            next: Instant::now() + TICK,
            last: None,
            still: 0,
        })
    }

    /// Notes that the machine lives.
    pub(super) fn beats(&mut self) {
        (self.last, self.still) = (None, 0);
        self.next = Instant::now() + TICK;
    }

    /// Returns the time until the next look.
    pub(super) fn time_left(&self) -> Duration {
        self.next.saturating_duration_since(Instant::now())
    }

    /// Looks at the machine if it is time; returns true once the machine has stopped for good.
    pub(super) fn has_stopped(&mut self) -> bool {
        if !self.time_left().is_zero() {
            return false;
        }
        self.next = Instant::now() + TICK;
        let seen = self.watcher.look();
        let same = seen.is_some() && seen == self.last;
        self.still = if same { self.still + 1 } else { 0 };
        self.last = seen;
        self.still >= LOOKS
    }
}

/// A thread that looks, as the threads of a machine come and go and the event loop opens no files. Ends when this is dropped.
#[derive(Debug)]
struct Watcher {
    ask: Sender<()>,
    answers: Receiver<Option<Naps>>,
}

impl Watcher {
    fn start(process: u32) -> io::Result<Self> {
        let tasks = PathBuf::from(format!("/proc/{process}/task"));
        // Open as long as the thread runs: a rule for a directory of /proc holds as long as that is the same one.
        let directory = File::open(&tasks)?;
        let (ask, asked) = channel();
        let (answer, answers) = channel();
        let thread = std::thread::Builder::new().name("watcher".to_owned());
        thread.spawn(move || {
            // Two signals at once are one for the event loop, unless they interrupt two threads.
            for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH] {
                let _ = block_signal(signal);
            }
            let places = [(directory.as_fd(), Access::Read)];
            if rdvm_confine::enter_with(Role::Watcher, &places).is_err() {
                return;
            }
            for () in asked {
                if answer.send(look(process, &tasks)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { ask, answers })
    }

    /// Returns the CPUs' thread if it sleeps; `None` also if nothing can be seen.
    fn look(&self) -> Option<Naps> {
        self.ask.send(()).ok()?;
        self.answers.recv().ok()?
    }
}

/// Returns the CPUs' thread, if it and QEMU's first thread, which makes its interrupts, sleep.
fn look(process: u32, tasks: &Path) -> Option<Naps> {
    let mut cpus = None;
    for task in fs::read_dir(tasks).ok()? {
        let task = task.ok()?;
        let number: u32 = task.file_name().to_str()?.parse().ok()?;
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let thread = Thread::read(&status)?;
        if (thread.is_cpu || number == process) && !thread.sleeps {
            return None;
        }
        if thread.is_cpu {
            cpus = Some((number, thread.naps));
        }
    }
    cpus
}

/// A thread's state, from proc(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Thread {
    is_cpu: bool,
    sleeps: bool,
    naps: u64,
}

impl Thread {
    /// From `/proc/PID/task/TID/status`.
    fn read(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = status.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value.map(str::trim)
        };
        let name = field("Name")?;
        Some(Self {
            // "CPU 0/TCG", or "ALL CPUs/TCG" where there are several; QEMU names them so on request.
            is_cpu: name.ends_with("/TCG"),
            sleeps: field("State")?.starts_with('S'),
            naps: field("voluntary_ctxt_switches")?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(name: &str, state: &str, naps: u64) -> String {
        format!(
            "Name:\t{name}\nUmask:\t0022\nState:\t{state}\nvoluntary_ctxt_switches:\t{naps}\n\
             nonvoluntary_ctxt_switches:\t7\n"
        )
    }

    #[test]
    fn a_cpus_thread_is_known_by_its_name_and_asleep_in_one_state_only() {
        let read = |name, state| Thread::read(&status(name, state, 12)).unwrap();
        let halted = read("CPU 0/TCG", "S (sleeping)");
        let expected = Thread {
            is_cpu: true,
            sleeps: true,
            naps: 12,
        };
        assert_eq!(halted, expected);
        assert!(read("ALL CPUs/TCG", "S (sleeping)").is_cpu);
        assert!(!read("qemu-system-x86", "S (sleeping)").is_cpu);
        for awake in [
            "R (running)",
            "T (stopped)",
            "t (tracing stop)",
            "D (disk sleep)",
        ] {
            assert!(!read("CPU 11/TCG", awake).sleeps, "{awake}");
        }
        assert_eq!(Thread::read("Name:\tCPU 0/TCG\n"), None);
    }

    /// This process has no thread with such a name.
    #[test]
    fn a_process_without_the_threads_that_are_expected_is_never_taken_for_stopped() {
        let mut halt_detector = HaltDetector::new(std::process::id()).unwrap();
        assert_eq!(halt_detector.watcher.look(), None);
        for _ in 0..2 * LOOKS {
            halt_detector.next = Instant::now();
            assert!(!halt_detector.has_stopped());
        }
    }
}
