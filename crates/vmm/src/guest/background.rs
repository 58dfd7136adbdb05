//! A descriptor that a thread of its own writes to, since its writes may wait.
//!
//! One piece at a time is on its way. A thread that waits forever is left behind: it holds no lock, and a process that ends
//! does not ask it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rdvm_confine::Role;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// The most that the counter of an eventfd holds, with which it cannot be written to (eventfd(2)).
const FULL: u64 = u64::MAX - 1;

/// A thread that writes. Ends when this is dropped, as soon as what it was given is written.
#[derive(Debug)]
pub(super) struct Background {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    work: Mutex<Work>,
    changed: Condvar,
    /// An eventfd that can be written to while nothing is on its way.
    idle: OwnedFd,
}

#[derive(Debug, Default)]
struct Work {
    /// The bytes to write next.
    piece: Option<Vec<u8>>,
    /// The result of the previous write.
    result: Option<Result<(), Errno>>,
    over: bool,
}

impl Background {
    /// Starts a thread that writes to `fd`.
    ///
    /// # Errors
    ///
    /// No descriptors or threads left; `fd` comes back with the error.
    pub(super) fn start(fd: OwnedFd) -> Result<Self, (OwnedFd, io::Error)> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let idle = match eventfd(0, flags) {
            Ok(idle) => idle,
            Err(errno) => return Err((fd, errno.into())),
        };
        let shared = Arc::new(Shared {
            work: Mutex::default(),
            changed: Condvar::new(),
            idle,
        });
        // Here as well until the thread is known to run.
        let fd = Arc::new(fd);
        let (theirs, target) = (Arc::clone(&shared), Arc::clone(&fd));
        let thread = std::thread::Builder::new().name("writer".to_owned());
        match thread.spawn(move || theirs.write_all(&target)) {
            Ok(_) => Ok(Self { shared }),
            Err(error) => match Arc::into_inner(fd) {
                Some(fd) => Err((fd, error)),
                None => Ok(Self { shared }),
            },
        }
    }

    /// Writes a piece. Call it only when the one before has its result.
    pub(super) fn put(&self, piece: Vec<u8>) {
        let _ = rustix::io::write(&self.shared.idle, &FULL.to_ne_bytes());
        self.shared.work().piece = Some(piece);
        self.shared.changed.notify_one();
    }

    /// Returns the result of the last write, once.
    pub(super) fn result(&self) -> Option<Result<(), Errno>> {
        self.shared.work().result.take()
    }

    /// Can be written to, as poll(2) has it, when the last piece has its result.
    pub(super) fn idle(&self) -> BorrowedFd<'_> {
        self.shared.idle.as_fd()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.shared.work().over = true;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, fd: &OwnedFd) {
        let confined = rdvm_confine::enter(Role::Stream);
        let mut work = self.work();
        loop {
            if let Some(piece) = work.piece.take() {
                drop(work);
                let result = match confined {
                    Ok(()) => write_all(fd, &piece),
                    Err(_) => Err(Errno::PERM),
                };
                work = self.work();
                work.result = Some(result);
                let _ = rustix::io::read(&self.idle, &mut [0; 8]);
            } else if work.over {
                return;
            } else {
                let waited = self.changed.wait(work);
                work = waited.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

/// Writes all of `piece`, however long that takes.
pub(super) fn write_all(fd: &OwnedFd, mut piece: &[u8]) -> Result<(), Errno> {
    while !piece.is_empty() {
        match rustix::io::write(fd, piece) {
            Ok(count) => piece = &piece[count..],
            Err(Errno::INTR) => {}
            // Another process has set it not to wait.
            Err(Errno::AGAIN) => {
                let mut set = [rustix::event::PollFd::new(
                    fd,
                    rustix::event::PollFlags::OUT,
                )];
                let _ = rustix::event::poll(&mut set, None);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
