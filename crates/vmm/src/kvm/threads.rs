//! The vCPUs' threads: their work, the state that they share, and how they are interrupted and ended.
//!
//! A thread is made to leave the guest by a signal, which does nothing else. The engine's own thread decides how the machine
//! ends (`session.rs`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rdvm_confine::Role;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use vmm_sys_util::signal::{Killable, SIGRTMIN, unblock_signal};

use super::Error;
use super::devices::Devices;
use super::exits::{Exit, Step, handle};
use super::vcpu::{Reason, Vcpu};
use crate::stop_signals::Catcher;

/// Time between a signal and the next where one has come too early.
const RESEND: Duration = Duration::from_millis(2);

/// The state that the threads share.
#[derive(Debug)]
pub(super) struct Shared {
    devices: Mutex<Devices>,
    stop: AtomicBool,
    /// True once the guest may run, false if it never will. No vCPU enters the guest before that is said.
    go: OnceLock<bool>,
    /// A bit for every vCPU that has answered since it was asked whether it lives, and for those that sleep for good.
    answered: AtomicU32,
    asleep: AtomicU32,
    /// An eventfd that wakes the engine's thread.
    wake: OwnedFd,
}

impl Shared {
    /// Shares `devices`.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    pub(super) fn new(devices: Devices) -> Result<Self, Error> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self {
            devices: Mutex::new(devices),
            stop: AtomicBool::new(false),
            go: OnceLock::new(),
            answered: AtomicU32::new(0),
            asleep: AtomicU32::new(0),
            wake: eventfd(0, flags).map_err(Error::host("making an eventfd"))?,
        })
    }

    /// Locks the devices.
    pub(super) fn devices(&self) -> MutexGuard<'_, Devices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the devices, once the threads are gone.
    pub(super) fn into_devices(self) -> Devices {
        let devices = self.devices.into_inner();
        devices.unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the descriptor that the engine's thread polls for reading: it is readable after [`Self::wake`].
    pub(super) fn woken(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Makes the descriptor wait for the next call.
    pub(super) fn unwake(&self) {
        // Empty when something else woke the engine's thread: it does not block.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
    }

    /// Returns a bit for every vCPU that has answered since [`Threads::ask`], and for each of those that sleeps for good.
    pub(super) fn answers(&self) -> (u32, u32) {
        let answered = self.answered.load(Ordering::Acquire);
        (answered, self.asleep.load(Ordering::Relaxed))
    }

    /// Lets the vCPUs enter the guest.
    pub(super) fn let_go(&self) {
        // It is said once, unless the threads are ended first.
        let _ = self.go.set(true);
    }

    /// Wakes the engine's thread.
    pub(super) fn wake(&self) {
        // It fails only when the counter is full, and then the thread is awake.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// The vCPUs' threads, which end at the latest when this is dropped.
#[derive(Debug)]
pub(super) struct Threads {
    list: Vec<Thread>,
    shared: Arc<Shared>,
    /// The signal would kill us if it came uncaught: the catcher is the last to go.
    _signal: Catcher,
}

/// A vCPU's thread.
#[derive(Debug)]
struct Thread {
    handle: JoinHandle<()>,
    /// It is about to end: no signal is needed any more.
    ends: Arc<AtomicBool>,
}

impl Threads {
    /// Starts a thread for every vCPU.
    ///
    /// # Errors
    ///
    /// No threads left; those that were started are gone then.
    pub(super) fn start(shared: &Arc<Shared>, vcpus: Vec<Vcpu>) -> Result<Self, Error> {
        let signal = Catcher::new(&[SIGRTMIN()], None);
        let mut threads = Self {
            list: Vec::new(),
            shared: Arc::clone(shared),
            _signal: signal.map_err(Error::host("catching a signal"))?,
        };
        for (id, vcpu) in vcpus.into_iter().enumerate() {
            let thread = threads.add(id, vcpu);
            thread.map_err(Error::host("starting a thread for a vCPU"))?;
        }
        Ok(threads)
    }

    /// Returns the number of threads.
    pub(super) fn count(&self) -> usize {
        self.list.len()
    }

    /// Makes all of them leave the guest and note whether they sleep for good: see [`Shared::answers`].
    pub(super) fn ask(&self) {
        self.shared.asleep.store(0, Ordering::Relaxed);
        self.shared.answered.store(0, Ordering::Release);
        for thread in &self.list {
            let _ = thread.handle.kill(SIGRTMIN());
        }
    }

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
                // The program may have been started with the signal blocked.
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
        let _ = self.shared.go.set(false);
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

/// Reports that a vCPU's thread ends, also when it panics.
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

/// The work of a vCPU's thread.
fn run(mut vcpu: Vcpu, id: usize, shared: &Shared) {
    if let Err(error) = rdvm_confine::enter(Role::Vcpu) {
        let why = format!("has no vCPU: its thread could not be confined ({error})");
        shared.devices().stop(why);
        return shared.wake();
    }
    if !*shared.go.wait() {
        return;
    }
    while !shared.stop.load(Ordering::Relaxed) {
        let reason = vcpu.run();
        if matches!(reason, Reason::Interrupted) {
            if vcpu.sleeps_for_good() {
                shared.asleep.fetch_or(1 << id, Ordering::Relaxed);
            }
            shared.answered.fetch_or(1 << id, Ordering::Release);
        }
        #[cfg(debug_assertions)]
        rdvm_confine::attack(Role::Vcpu);
        let mut devices = shared.devices();
        // Nothing that it says now belongs to the run.
        if devices.is_done() {
            return;
        }
        let step = serve(&mut vcpu, reason, &mut devices);
        // The thread that is woken takes the lock first thing.
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
            if devices.exits == 0 {
                devices.guest.guest_left();
            }
            devices.exits += 1;
            devices.lacks_page |= exit == Exit::Failed(Errno::FAULT.raw_os_error());
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
