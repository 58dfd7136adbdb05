//! Jobs for several threads, each of which may find more of them.

use std::sync::{Condvar, Mutex, PoisonError};

/// The jobs that wait, and how many are being done.
pub(super) struct WorkList<T> {
    list: Mutex<List<T>>,
    more: Condvar,
}

struct List<T> {
    waiting: Vec<T>,
    /// The number being done: more may come of them.
    running: usize,
    /// True if a job failed; the rest is not needed.
    stopped: bool,
}

impl<T> WorkList<T> {
    /// Returns a list with these jobs.
    pub(super) fn new(waiting: Vec<T>) -> Self {
        Self {
            list: Mutex::new(List {
                waiting,
                running: 0,
                stopped: false,
            }),
            more: Condvar::new(),
        }
    }

    /// Does jobs until none is left, here and on other threads; `work` returns the jobs that it found.
    ///
    /// # Errors
    /// That of `work`; no thread begins another job then.
    pub(super) fn each<E>(&self, mut work: impl FnMut(T) -> Result<Vec<T>, E>) -> Result<(), E> {
        while let Some(job) = self.next() {
            let done = work(job);
            let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
            list.running -= 1;
            list.stopped |= done.is_err();
            let done = done.map(|found| list.waiting.extend(found));
            drop(list);
            self.more.notify_all();
            done?;
        }
        Ok(())
    }

    /// The next job; waits while others may still find some.
    fn next(&self) -> Option<T> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if list.stopped {
                return None;
            }
            if let Some(job) = list.waiting.pop() {
                list.running += 1;
                return Some(job);
            }
            if list.running == 0 {
                return None;
            }
            list = self.more.wait(list).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
