//! A descriptor that the command's standard input is read from, without waiting.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use rdvm_confine::Role;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::isatty;

use super::background::write_all;
use super::reopen::unblocked;

/// Bytes that are read at once.
pub(super) const READ_MAX: u64 = 64 << 10;

/// A source of bytes whose reads do not wait.
#[derive(Debug)]
pub(super) struct InputSource {
    fd: OwnedFd,
    is_socket: bool,
    /// The error that ended a source whose bytes a thread passes on.
    error: Arc<OnceLock<Errno>>,
}

impl InputSource {
    /// Others may read from the same pipe or terminal, and a file may be on a server that does not answer. A pipe or terminal
    /// is opened anew. Where that is refused, and for files, a thread passes the bytes on.
    pub(super) fn new(fd: OwnedFd) -> Self {
        let kind = fstat(&fd).map_or(FileType::Unknown, |stat| {
            FileType::from_raw_mode(stat.st_mode)
        });
        let fd = match kind {
            FileType::Socket => Ok(fd),
            FileType::Fifo => unblocked(fd, OFlags::RDONLY),
            _ if isatty(&fd) => unblocked(fd, OFlags::RDONLY),
            _ => Err(fd),
        };
        let is_socket = kind == FileType::Socket;
        match fd {
            Ok(fd) => Self {
                fd,
                is_socket,
                error: Arc::default(),
            },
            Err(fd) => Self::passed_on(fd),
        }
    }

    /// A pipe into which a thread writes what comes from `fd`; `fd` itself where there are no descriptors or threads left. A
    /// thread that waits forever is left behind, as in `background.rs`.
    pub(super) fn passed_on(fd: OwnedFd) -> Self {
        let error = Arc::default();
        let fd = start_reader(fd, Arc::clone(&error)).unwrap_or_else(|same| same);
        Self {
            fd,
            is_socket: false,
            error,
        }
    }

    /// Reads once. Zero bytes are the end.
    ///
    /// # Errors
    ///
    /// `AGAIN` and `INTR` where nothing can be read now; any other error ends the source.
    pub(super) fn read(&self, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        let length = match self.is_socket {
            // It cannot be opened anew.
            true => recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT)?.0,
            false => rustix::io::read(&self.fd, &mut *buffer)?,
        };
        match self.error.get().filter(|_| length == 0) {
            Some(errno) => Err(*errno),
            None => Ok(length),
        }
    }

    /// True if it is a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        isatty(&self.fd)
    }
}

impl AsFd for InputSource {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Starts a thread that writes what comes from `fd` into the pipe that is returned.
fn start_reader(fd: OwnedFd, error: Arc<OnceLock<Errno>>) -> Result<OwnedFd, OwnedFd> {
    let Ok((ours, theirs)) = pipe_with(PipeFlags::CLOEXEC) else {
        return Err(fd);
    };
    let fd = Arc::new(fd);
    let from = Arc::clone(&fd);
    let thread = std::thread::Builder::new().name("reader".to_owned());
    let started = thread.spawn(move || {
        let confined = rdvm_confine::enter(Role::Stream).map_err(|_| Errno::PERM);
        if let Err(errno) = confined.and_then(|()| pass_on(&from, &theirs)) {
            let _ = error.set(errno);
        }
    });
    match (started, Arc::into_inner(fd)) {
        (Err(_), Some(fd)) => Err(fd),
        _ => Ok(ours),
    }
}

/// Copies bytes until `from` ends or `to` has no reader any more.
fn pass_on(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let mut buffer = vec![0; READ_MAX as usize];
    loop {
        match rustix::io::read(from, &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                if write_all(to, &buffer[..length]).is_err() {
                    return Ok(());
                }
            }
            Err(Errno::INTR) => {}
            // Another process has set it not to wait.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(from, PollFlags::IN)], None);
            }
            Err(errno) => return Err(errno),
        }
    }
}
