//! What ends a run from outside: a deadline, and the signals that ask us to stop.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

/// Signals that stop the machine.
pub const SIGNALS: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];

/// A deadline, and a descriptor that becomes readable when a signal came.
#[derive(Debug)]
pub struct Watch {
    deadline: Option<Instant>,
    wake: UnixStream,
    notify: UnixStream,
    signal: Arc<AtomicUsize>,
}

impl Watch {
    /// Starts to count, and catches [`SIGNALS`] from now on.
    ///
    /// Errors: no descriptors left.
    pub fn start(timeout: Option<Duration>) -> io::Result<Self> {
        let (wake, notify) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let signal = Arc::new(AtomicUsize::new(0));
        for number in SIGNALS {
            // The flag first: it says which signal it was by the time the descriptor becomes readable.
            signal_hook::flag::register_usize(number, Arc::clone(&signal), number as usize)?;
            signal_hook::low_level::pipe::register(number, notify.try_clone()?)?;
        }
        Ok(Self {
            deadline: timeout.map(|span| Instant::now() + span),
            wake,
            notify,
            signal,
        })
    }

    /// A flag that is set when this signal comes, which also makes [`Self::fd`] readable. It ends nothing.
    ///
    /// Errors: no descriptors left.
    pub fn notice(&self, signal: i32) -> io::Result<Arc<AtomicBool>> {
        let flag = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
        signal_hook::low_level::pipe::register(signal, self.notify.try_clone()?)?;
        Ok(flag)
    }

    /// Makes [`Self::fd`] wait for the next signal.
    pub fn seen(&self) {
        // It does not block: what is not there is not waited for.
        let _ = (&self.wake).read(&mut [0; 64]);
    }

    /// The signal that came, if one did.
    pub fn signal(&self) -> Option<i32> {
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            number => i32::try_from(number).ok(),
        }
    }

    /// How long there still is; `None` for ever, zero when time is up.
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether a signal came or time is up.
    pub fn is_over(&self) -> bool {
        self.signal().is_some() || self.time_left().is_some_and(|left| left.is_zero())
    }

    /// To be polled for reading.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
