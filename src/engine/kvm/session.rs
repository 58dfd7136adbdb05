//! A machine's life: the vCPUs' threads, and the engine's own that waits for everything else.
//!
//! Everything else is: a reader of ours that sleeps, signals, the deadline, the guest's last word, and a guest that has
//! halted for good, which KVM does not tell.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler, unblock_signal};

use super::Error;
use super::devices::Devices;
use super::exits::{Step, handle};
use super::vcpu::{Reason, Vcpu};
use crate::engine::stop;
use crate::guest::Listener;
use crate::guest::ending::Ending;
use crate::guest::outlet::Outlet;
use crate::watch::Watch;

/// How long a machine may say nothing before it is asked whether it still lives.
const QUIET: Duration = Duration::from_secs(1);
/// Time for a vCPU to answer, and between a signal and the next where one has come too early.
const ANSWER: Duration = Duration::from_millis(20);
const RESEND: Duration = Duration::from_millis(2);
/// How long output without an end is waited for.
const LINGER: Duration = Duration::from_millis(2);

/// What the threads share.
#[derive(Debug)]
struct Shared {
    devices: Mutex<Devices>,
    stop: AtomicBool,
    /// A bit for every vCPU that has answered since it was asked whether it lives, and for those that sleep for good.
    answered: AtomicU32,
    asleep: AtomicU32,
    /// An eventfd that wakes the engine's thread.
    wake: OwnedFd,
}

impl Shared {
    fn devices(&self) -> MutexGuard<'_, Devices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // It fails only when the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// A running machine.
#[derive(Debug)]
pub(super) struct Session {
    shared: Arc<Shared>,
    threads: Threads,
    /// Of stdout and stderr, to be waited for.
    outlets: [OwnedFd; 2],
}

/// The vCPUs' threads, which end at the latest when this is dropped.
#[derive(Debug)]
struct Threads {
    list: Vec<Thread>,
    shared: Arc<Shared>,
}

/// A vCPU's thread.
#[derive(Debug)]
struct Thread {
    handle: JoinHandle<()>,
    /// It is about to end: no signal is needed any more.
    ends: Arc<AtomicBool>,
}

extern "C" fn ignore(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Session {
    /// Starts a thread for every vCPU.
    ///
    /// Errors: the host gives no descriptors or threads; whatever was started is gone then.
    pub(super) fn start(mut devices: Devices, vcpus: Vec<Vcpu>) -> Result<Self, Error> {
        let host = |what| move |source: io::Error| Error::Host { what, source };
        register_signal_handler(SIGRTMIN(), ignore)
            .map_err(|errno| host("catching a signal")(errno.into()))?;
        let [stdout, stderr] = devices.listener.outlets();
        let duplicate = |outlet: &Outlet| {
            let fd = outlet.fd().try_clone_to_owned();
            fd.map_err(host("duplicating a descriptor"))
        };
        let outlets = [duplicate(stdout)?, duplicate(stderr)?];
        let shared = Arc::new(Shared {
            devices: Mutex::new(devices),
            stop: AtomicBool::new(false),
            answered: AtomicU32::new(0),
            asleep: AtomicU32::new(0),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
                .map_err(|errno| host("making an eventfd")(errno.into()))?,
        });
        let mut threads = Threads {
            list: Vec::new(),
            shared: Arc::clone(&shared),
        };
        for (id, vcpu) in vcpus.into_iter().enumerate() {
            let thread = threads.add(id, vcpu);
            thread.map_err(host("starting a thread for a vCPU"))?;
        }
        Ok(Self {
            shared,
            threads,
            outlets,
        })
    }

    /// Waits for the machine's end and stops it; gives the listener back.
    ///
    /// Errors: the host's `poll` fails; a vCPU's thread cannot be ended.
    pub(super) fn run(self, watch: &Watch) -> Result<(Ending, Listener), Error> {
        let ending = self.wait(watch);
        drop(self.threads);
        let host = |what| move |source| Error::Host { what, source };
        let ending = ending.map_err(|errno| host("waiting for the machine")(errno.into()))?;
        let shared = Arc::into_inner(self.shared)
            .ok_or_else(|| host("ending the vCPUs")(io::ErrorKind::ResourceBusy.into()))?;
        let devices = shared.devices.into_inner();
        let mut devices = devices.unwrap_or_else(PoisonError::into_inner);
        let counts = devices.counts();
        devices.listener.counted(counts);
        Ok((ending, devices.listener))
    }

    fn wait(&self, watch: &Watch) -> rustix::io::Result<Ending> {
        let mut pulse = Pulse::new(self.threads.list.len());
        loop {
            let mut devices = self.shared.devices();
            let lingers = devices.lingers;
            if !lingers || devices.over.is_some() {
                devices.hand_on();
                devices.interrupt();
            }
            if let Some(ending) = stop::ended(&mut devices.listener, watch) {
                return Ok(ending);
            }
            if !devices.has_output() {
                let verdict = devices.listener.verdict().and_then(Ending::of);
                if let Some(ending) = verdict.or_else(|| died(&mut devices)) {
                    return Ok(ending);
                }
            }
            let full = devices.listener.outlets().map(|outlet| !outlet.is_empty());
            let quiet_since = devices.exits;
            drop(devices);
            let tick = pulse.check(quiet_since, &self.shared, &self.threads);
            let tick = if lingers { tick.min(LINGER) } else { tick };
            self.poll(watch, full, tick)?;
            if lingers {
                self.shared.devices().hand_on();
            }
        }
    }

    fn poll(&self, watch: &Watch, full: [bool; 2], tick: Duration) -> rustix::io::Result<()> {
        let watched = watch.fd();
        let mut set = vec![
            PollFd::new(&watched, PollFlags::IN),
            PollFd::new(&self.shared.wake, PollFlags::IN),
        ];
        for (outlet, full) in self.outlets.iter().zip(full) {
            if full {
                set.push(PollFd::new(outlet, PollFlags::OUT));
            }
        }
        let left = watch.time_left().map_or(tick, |left| left.min(tick));
        match poll(&mut set, Timespec::try_from(left).ok().as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        // Empty when something else woke us: it does not block.
        let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
        Ok(())
    }
}

impl Threads {
    fn add(&mut self, id: usize, vcpu: Vcpu) -> io::Result<()> {
        let ends = Arc::new(AtomicBool::new(false));
        let last_words = LastWords {
            shared: Arc::clone(&self.shared),
            ends: Arc::clone(&ends),
            engine: std::thread::current(),
        };
        let handle = std::thread::Builder::new()
            .name(format!("vcpu{id}"))
            .spawn(move || {
                // Whoever starts us may have it blocked.
                let _ = unblock_signal(SIGRTMIN());
                run(vcpu, id, &last_words.shared);
            })?;
        self.list.push(Thread { handle, ends });
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.list.drain(..) {
            // A signal that comes just before the vCPU enters the guest is lost; the next one is not. Ever more time
            // between them: they queue, and a slow host must get through the queue.
            let mut patience = RESEND;
            while !thread.ends.load(Ordering::Acquire) && !thread.handle.is_finished() {
                let _ = thread.handle.kill(SIGRTMIN());
                std::thread::park_timeout(patience);
                patience *= 2;
            }
            // It has nothing to say, and a panic has been printed.
            let _ = thread.handle.join();
        }
    }
}

/// Said when a vCPU's thread ends, also when it panics.
struct LastWords {
    shared: Arc<Shared>,
    ends: Arc<AtomicBool>,
    engine: std::thread::Thread,
}

impl Drop for LastWords {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let why = "was given up because of a bug in rdvm, see above";
            self.shared.devices().stop(why.to_owned());
            self.shared.wake();
        }
        self.ends.store(true, Ordering::Release);
        self.engine.unpark();
    }
}

/// What the end of a machine without a verdict is called.
fn died(devices: &mut Devices) -> Option<Ending> {
    let how = devices.over.clone()?;
    Some(Ending::Died {
        started: devices.listener.moments().started.is_some(),
        panic: devices.listener.console().panic(),
        how: Some(how),
    })
}

/// What a vCPU's thread does.
fn run(mut vcpu: Vcpu, id: usize, shared: &Shared) {
    while !shared.stop.load(Ordering::Relaxed) {
        let reason = vcpu.run();
        if matches!(reason, Reason::Interrupted) {
            if vcpu.sleeps_for_good() {
                shared.asleep.fetch_or(1 << id, Ordering::Relaxed);
            }
            shared.answered.fetch_or(1 << id, Ordering::Release);
        }
        let mut devices = shared.devices();
        // Nothing that it says now belongs to the run.
        if devices.is_done() {
            return;
        }
        let step = serve(&mut vcpu, reason, &mut devices);
        // Whoever is woken wants the lock first thing.
        let wake = devices.take_wake();
        drop(devices);
        if wake {
            shared.wake();
        }
        if step != Step::Go {
            return;
        }
    }
}

/// Does what an exit asks for, and what follows from that.
fn serve(vcpu: &mut Vcpu, reason: Reason, devices: &mut Devices) -> Step {
    // What was written before the exit comes before it.
    vcpu.drain(|port, value| {
        devices.bus.write(port, 1, &[value]);
    });
    let step = match vcpu.exit(reason) {
        Some(exit) => {
            devices.exits += 1;
            handle(exit, &mut devices.bus)
        }
        None => Step::Go,
    };
    devices.settle();
    if let Step::Stop(why) = &step {
        devices.stop(why.clone());
    }
    step
}

/// Finds out whether a machine that says nothing has halted for good: asks all vCPUs, and asks again before it believes
/// it, since one that still ran when it was asked could have started another one meanwhile.
struct Pulse {
    everybody: u32,
    exits: u64,
    next: Instant,
    /// How often it has asked in a row, and until when answers are waited for.
    round: u32,
    until: Instant,
}

impl Pulse {
    fn new(cpus: usize) -> Self {
        let now = Instant::now();
        Self {
            everybody: (1 << cpus) - 1,
            exits: 0,
            next: now + QUIET,
            round: 0,
            until: now,
        }
    }

    /// Does what is due; gives the time until something is due again.
    fn check(&mut self, exits: u64, shared: &Shared, threads: &Threads) -> Duration {
        let now = Instant::now();
        if now >= self.next {
            let quiet = exits == self.exits;
            self.exits = exits;
            let answered = shared.answered.load(Ordering::Acquire) == self.everybody;
            let asleep = shared.asleep.load(Ordering::Relaxed) == self.everybody;
            match self.round {
                0 if quiet => {
                    shared.devices().remind();
                    self.ask(now, shared, threads);
                }
                1.. if quiet && !answered && now < self.until => self.next = now + ANSWER,
                1 if quiet && answered && asleep => self.ask(now, shared, threads),
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

    fn ask(&mut self, now: Instant, shared: &Shared, threads: &Threads) {
        shared.asleep.store(0, Ordering::Relaxed);
        shared.answered.store(0, Ordering::Release);
        for thread in &threads.list {
            let _ = thread.handle.kill(SIGRTMIN());
        }
        (self.round, self.next, self.until) = (self.round + 1, now + ANSWER, now + QUIET);
    }
}
