//! What ends a run from outside: a deadline, and the signals that ask us to stop.

#[allow(unsafe_code)]
mod handlers;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

pub(crate) use self::handlers::Catcher;

use rdvm_hostfs::units::after;

/// Signals that stop the machine.
pub const SIGNALS: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];

/// A deadline, and a descriptor that becomes readable when a signal came. What the process did with the signals before, it
/// does again when this is dropped.
#[derive(Debug)]
pub struct Watch {
    deadline: Option<Instant>,
    catcher: Catcher,
    wake: UnixStream,
    notify: UnixStream,
}

impl Watch {
    /// Starts to count, and catches [`SIGNALS`] from now on.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    pub fn start(timeout: Option<Duration>) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (wake, notify) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let (wake, notify) = (UnixStream::from(wake), UnixStream::from(notify));
        Ok(Self {
            deadline: timeout.map(|span| after(Instant::now(), span)),
            catcher: Catcher::new(&SIGNALS, Some(notify.try_clone()?.into()))?,
            wake,
            notify,
        })
    }

    /// Notices when this signal comes, which also makes [`Self::fd`] readable. It ends nothing.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    pub(crate) fn notice(&self, signal: i32) -> io::Result<Catcher> {
        Catcher::new(&[signal], Some(self.notify.try_clone()?.into()))
    }

    /// Lets another thread make [`Self::fd`] readable.
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

    /// The signal that came, if one did.
    pub fn signal(&self) -> Option<i32> {
        self.catcher.last()
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

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

/// Wakes whoever polls a [`Watch`], from another thread.
#[derive(Debug)]
pub struct Waker(UnixStream);

impl Waker {
    /// Makes the descriptor readable.
    pub fn wake(&self) {
        // Where it is full it is readable, and where the other end is gone nobody waits.
        let _ = (&self.0).write(b"!");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use rustix::fs::fstat;

    use super::*;

    #[test]
    fn a_span_that_no_clock_can_hold_is_no_deadline_that_comes() {
        for span in [
            Duration::MAX,
            Duration::from_secs(10_000_000_000_000_000_000),
        ] {
            let watch = Watch::start(Some(span)).unwrap();
            assert!(watch.time_left() > Some(Duration::from_secs(1 << 30)));
            assert!(!watch.is_over());
        }
    }

    #[test]
    fn nothing_stays_open_when_a_watch_is_over() {
        let watch = Watch::start(None).unwrap();
        let noticed = watch.notice(signal_hook::consts::SIGWINCH).unwrap();
        let waker = watch.waker().unwrap();
        waker.wake();
        let ours = [fstat(&watch.wake), fstat(&watch.notify)];
        let ours = ours.map(|stat| format!("socket:[{}]", stat.unwrap().st_ino));
        let open = || {
            let links = fs::read_dir("/proc/self/fd").unwrap();
            let links = links.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
            let is_ours =
                |link: &PathBuf| ours.iter().any(|name| link.as_os_str() == name.as_str());
            links.filter(is_ours).count()
        };
        assert_eq!(open(), 5);
        drop((noticed, waker, watch));
        assert_eq!(open(), 0);
    }
}
