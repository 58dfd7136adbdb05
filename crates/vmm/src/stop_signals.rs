//! Requests from outside to start a machine's command, to stop the machine, or to tell its command something, by the number of a
//! signal.
//!
//! [`StopSignals::new`] catches nothing: the caller calls [`StopSignals::stop`]. [`StopSignals::catch`] installs signal
//! handlers, as a program does whose machine is what it runs. Two kinds of signals reach the command: those that stop the
//! machine tell it first, and those that are delivered are its own affair.

#[allow(unsafe_code)]
mod handlers;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};

pub(crate) use self::handlers::Catcher;

/// Signals that end a program, the most urgent first. Of several the first one counts.
const ENDING: [i32; 4] = [SIGQUIT, SIGTERM, SIGINT, SIGHUP];
/// Signals that mean whatever a program likes.
const OTHERS: [i32; 2] = [SIGUSR1, SIGUSR2];

/// Signals that have come for a machine, and a descriptor that becomes readable when one does. Each machine has its own.
#[derive(Debug)]
pub struct StopSignals {
    /// The number that [`Self::stop`] was called with, or zero.
    told: AtomicI32,
    catcher: Option<Catcher>,
    /// Signals that are caught are delivered to the command, and do not stop the machine.
    delivers: bool,
    /// Signals to deliver, in their order.
    deliveries: Mutex<VecDeque<i32>>,
    is_released: AtomicBool,
    wake: UnixStream,
    notify: UnixStream,
}

impl StopSignals {
    /// Catches no signals: only [`Self::stop`] stops the machine.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    pub fn new() -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (wake, notify) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        Ok(Self {
            told: AtomicI32::new(0),
            catcher: None,
            delivers: false,
            deliveries: Mutex::default(),
            is_released: AtomicBool::new(false),
            wake: wake.into(),
            notify: notify.into(),
        })
    }

    /// Catches the signals that end a process (SIGHUP, SIGINT, SIGQUIT, SIGTERM) until this is dropped, which restores what the process did with them before.
    ///
    /// # Errors
    ///
    /// No descriptors left; 1024 others catch signals.
    pub fn catch() -> io::Result<Self> {
        Self::catching(&ENDING)
    }

    /// Catches SIGUSR1 and SIGUSR2 as well, and SIGWINCH, by which a terminal tells that its size has changed: all that a
    /// machine's command may be told.
    ///
    /// # Errors
    ///
    /// As [`Self::catch`].
    pub fn catch_for_command() -> io::Result<Self> {
        Self::catching(&[&ENDING[..], &OTHERS, &[SIGWINCH]].concat())
    }

    fn catching(signals: &[i32]) -> io::Result<Self> {
        let new = Self::new()?;
        let catcher = Catcher::new(signals, Some(new.notify.try_clone()?.into()))?;
        Ok(Self {
            catcher: Some(catcher),
            ..new
        })
    }

    /// Catches the same signals as [`Self::catch_for_command`] and delivers those that come to the command as [`Self::deliver`] does.
    /// As everywhere, a signal that comes twice before it is looked at has come once.
    ///
    /// # Errors
    ///
    /// As [`Self::catch`].
    pub fn catch_for_container() -> io::Result<Self> {
        Ok(Self {
            delivers: true,
            ..Self::catch_for_command()?
        })
    }

    /// Delivers a signal, 1 to 64, to the command and the processes of its group. What it makes of it is its own affair, however
    /// often it comes; none is lost. Before the command runs, SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGKILL, SIGUSR1 and SIGUSR2 end the
    /// machine and others are forgotten, as when a process is sent one whose action is the default. Other numbers are no
    /// signals, and ignored.
    pub fn deliver(&self, signal: i32) {
        if (1..=64).contains(&signal) {
            self.deliveries().push_back(signal);
            wake(&self.notify);
        }
    }

    /// Has a command started that is held.
    pub fn release(&self) {
        self.is_released.store(true, Ordering::SeqCst);
        wake(&self.notify);
    }

    /// Stops the machine as if this signal had come.
    pub fn stop(&self, signal: i32) {
        self.told.store(signal, Ordering::SeqCst);
        wake(&self.notify);
    }

    /// Returns a handle by which another thread makes [`Self::fd`] readable.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    pub fn waker(&self) -> io::Result<Waker> {
        Ok(Waker(self.notify.try_clone()?))
    }

    /// Makes [`Self::fd`] wait for the next signal.
    pub fn seen(&self) {
        // It does not block: what is not there is not waited for.
        let _ = (&self.wake).read(&mut [0; 64]);
    }

    /// Returns the most urgent signal that came and has not been taken, if one did.
    pub fn signal(&self) -> Option<i32> {
        let told = self.told.load(Ordering::SeqCst);
        let catcher = self.catcher.as_ref().filter(|_| !self.delivers);
        let mut all = ENDING.into_iter().chain(OTHERS);
        let came = all.find(|signal| catcher.is_some_and(|catcher| catcher.has(*signal)));
        Some(told).filter(|told| *told != 0).or(came)
    }

    /// Forgets a signal that [`Self::signal`] has returned; the next one of its number counts anew.
    pub(crate) fn take(&self, signal: i32) {
        let told = self
            .told
            .compare_exchange(signal, 0, Ordering::SeqCst, Ordering::SeqCst);
        if let (Err(_), Some(catcher)) = (told, &self.catcher) {
            catcher.take(signal);
        }
    }

    /// True if a command that was held may start.
    pub(crate) fn is_released(&self) -> bool {
        self.is_released.load(Ordering::SeqCst)
    }

    /// Takes the next signal to deliver to the command.
    pub(crate) fn take_delivery(&self) -> Option<i32> {
        let told = self.deliveries().pop_front();
        let catcher = self.catcher.as_ref().filter(|_| self.delivers);
        let mut all = ENDING.into_iter().chain(OTHERS);
        told.or_else(|| catcher.and_then(|catcher| all.find(|signal| catcher.take(*signal))))
    }

    /// True if a signal waits to be delivered that `is_wanted`.
    pub(crate) fn has_delivery(&self, is_wanted: fn(i32) -> bool) -> bool {
        let catcher = self.catcher.as_ref().filter(|_| self.delivers);
        let mut all = ENDING.into_iter().chain(OTHERS);
        let caught = |signal: i32| catcher.is_some_and(|catcher| catcher.has(signal));
        let told = self.deliveries().iter().any(|signal| is_wanted(*signal));
        told || all.any(|signal| caught(signal) && is_wanted(signal))
    }

    fn deliveries(&self) -> MutexGuard<'_, VecDeque<i32>> {
        self.deliveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// True if the terminal's size has changed since this was called last.
    pub(crate) fn take_window_change(&self) -> bool {
        let catcher = self.catcher.as_ref();
        catcher.is_some_and(|catcher| catcher.take(SIGWINCH))
    }

    /// Returns the descriptor to poll for reading.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl AsFd for StopSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

/// Wakes a thread that polls [`StopSignals`].
#[derive(Debug)]
pub struct Waker(UnixStream);

impl Waker {
    /// Makes the descriptor readable.
    pub fn wake(&self) {
        wake(&self.0);
    }
}

fn wake(mut notify: &UnixStream) {
    // Where it is full it is readable, and where the other end is gone nothing waits.
    let _ = notify.write(b"!");
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use rustix::fs::fstat;

    use super::*;

    #[test]
    fn without_a_handler_only_the_caller_stops() {
        let signals = StopSignals::new().unwrap();
        assert_eq!(signals.signal(), None);
        assert!(!signals.take_window_change());
        signals.stop(SIGTERM);
        assert_eq!(signals.signal(), Some(SIGTERM));
        signals.take(SIGINT);
        assert_eq!(signals.signal(), Some(SIGTERM), "another one was taken");
        signals.take(SIGTERM);
        assert_eq!(signals.signal(), None);
        assert_eq!((&signals.wake).read(&mut [0; 9]).unwrap(), 1);
    }

    #[test]
    fn deliveries_keep_their_order_and_number_and_stop_nothing() {
        let signals = StopSignals::new().unwrap();
        assert!(!signals.is_released());
        for signal in [SIGTERM, 28, SIGTERM, 0, 65, -1, 64] {
            signals.deliver(signal);
        }
        assert_eq!(signals.signal(), None);
        assert!(signals.has_delivery(|signal| signal == 64));
        assert!(!signals.has_delivery(|signal| signal == SIGINT));
        let taken: Vec<i32> = std::iter::from_fn(|| signals.take_delivery()).collect();
        assert_eq!(taken, [SIGTERM, 28, SIGTERM, 64]);
        assert!(!signals.has_delivery(|_| true));
        signals.release();
        assert!(signals.is_released());
        assert_eq!((&signals.wake).read(&mut [0; 9]).unwrap(), 5);
    }

    #[test]
    fn what_a_container_catches_is_delivered_and_stops_nothing() {
        let signals = StopSignals::catch_for_container().unwrap();
        for signal in [SIGUSR1, SIGTERM, SIGHUP] {
            signal_hook::low_level::raise(signal).unwrap();
        }
        assert_eq!(signals.signal(), None);
        assert!(signals.has_delivery(|signal| signal == SIGUSR1));
        let taken: Vec<i32> = std::iter::from_fn(|| signals.take_delivery()).collect();
        assert_eq!(taken, [SIGTERM, SIGHUP, SIGUSR1]);
        // The caller can still stop the machine.
        signals.stop(SIGTERM);
        assert_eq!(signals.signal(), Some(SIGTERM));
    }

    #[test]
    fn nothing_stays_open_when_signals_are_caught_no_more() {
        let signals = StopSignals::catch_for_command().unwrap();
        let waker = signals.waker().unwrap();
        waker.wake();
        let ours = [fstat(&signals.wake), fstat(&signals.notify)];
        let ours = ours.map(|stat| format!("socket:[{}]", stat.unwrap().st_ino));
        let open = || {
            let links = fs::read_dir("/proc/self/fd").unwrap();
            let links = links.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
            let is_ours =
                |link: &PathBuf| ours.iter().any(|name| link.as_os_str() == name.as_str());
            links.filter(is_ours).count()
        };
        assert_eq!(open(), 4);
        drop((waker, signals));
        assert_eq!(open(), 0);
    }
}
