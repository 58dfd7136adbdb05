//! A sign of life: when the host last did what it was asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Set by the thread that works, read by the one that waits.
#[derive(Debug)]
pub(super) struct Beat {
    began: Instant,
    at: AtomicU64,
    /// A host that does nothing of what it is asked.
    #[cfg(test)]
    pub(super) hang: std::sync::Mutex<()>,
}

impl Beat {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            at: AtomicU64::new(0),
            #[cfg(test)]
            hang: std::sync::Mutex::default(),
        }
    }

    /// Something has been done.
    pub(super) fn tick(&self) {
        #[cfg(test)]
        drop(self.hang.lock());
        self.begin();
    }

    /// Something is about to be done after a rest.
    pub(super) fn begin(&self) {
        let at = u64::try_from(self.began.elapsed().as_millis());
        self.at.store(at.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Returns the time since the last tick.
    pub(super) fn quiet(&self) -> Duration {
        let at = Duration::from_millis(self.at.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(at)
    }
}
