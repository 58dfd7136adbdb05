//! One stream's socket on this side of the link: never waited for, with what it does not take yet.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt};

use crate::gateway::Session;

/// The outcome of reading from a socket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// So many bytes.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The end.
    End,
    /// A reset.
    Reset,
}

/// A stream's socket.
#[derive(Debug)]
pub(crate) struct Local {
    socket: OwnedFd,
    /// Bytes of the link's that the socket has not taken; the stream's window bounds them.
    pending: VecDeque<u8>,
    /// The other end has no more data: the socket's sending direction ends behind what is pending.
    is_last: bool,
    /// No more bytes come from the socket.
    has_ended: bool,
    /// The thread at the other end of the socket; none for a connection from outside.
    session: Option<Arc<Session>>,
}

impl Local {
    pub(crate) fn new(socket: OwnedFd, session: Option<Arc<Session>>) -> Self {
        Self {
            socket,
            pending: VecDeque::new(),
            is_last: false,
            has_ended: false,
            session,
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Returns true if bytes may still come from the socket.
    pub(crate) fn is_readable(&self) -> bool {
        !self.has_ended
    }

    /// Returns true if bytes wait for the socket.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Reads into `buffer`, which is not empty.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Received {
        match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((_, count)) if count > 0 => Received::Bytes(count),
            Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
            ended => {
                self.has_ended = true;
                let is_reset = match &self.session {
                    // An error says only that the thread did not read everything.
                    Some(session) => session.is_cut(),
                    None => ended.is_err(),
                };
                match is_reset {
                    true => Received::Reset,
                    false => Received::End,
                }
            }
        }
    }

    /// Passes the bytes on as far as the socket takes them, and keeps the rest. Returns how many it took.
    ///
    /// # Errors
    ///
    /// The socket is closed.
    pub(crate) fn pass_on(&mut self, bytes: &[u8]) -> Result<usize, Errno> {
        let taken = match self.pending.is_empty() {
            true => self.send(bytes)?,
            false => 0,
        };
        self.pending.extend(&bytes[taken..]);
        Ok(taken)
    }

    /// Passes on what is pending. Returns how many bytes the socket took.
    ///
    /// # Errors
    ///
    /// The socket is closed.
    pub(crate) fn flush(&mut self) -> Result<usize, Errno> {
        let mut sum = 0;
        loop {
            let taken = self.send(self.pending.as_slices().0)?;
            self.pending.drain(..taken);
            sum += taken;
            if taken == 0 || self.pending.is_empty() {
                break;
            }
        }
        self.end_if_due();
        Ok(sum)
    }

    /// Ends the socket's sending direction behind what is pending.
    pub(crate) fn finish(&mut self) {
        self.is_last = true;
        self.end_if_due();
    }

    fn end_if_due(&self) {
        if self.is_last && self.pending.is_empty() {
            // It fails if the socket is closed already.
            let _ = shutdown(&self.socket, Shutdown::Write);
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<usize, Errno> {
        if bytes.is_empty() {
            return Ok(0);
        }
        match send(
            &self.socket,
            bytes,
            SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
        ) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            sent => sent,
        }
    }

    /// Closes the socket of a stream that both ends have finished. The thread still passes on what is on its way.
    pub(crate) fn close(mut self) {
        self.session = None;
    }

    /// Closes the socket at once: a connection from outside gets a reset, a thread finds both directions ended.
    pub(crate) fn abort(self) {
        if self.session.is_none() {
            // It fails for a socket that is not TCP's, in tests.
            let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            session.end();
        }
    }
}
