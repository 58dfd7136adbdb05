//! The link's buffers: bytes that came and are no whole frame yet, and frames that it has not taken.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rdvm_hostfs::escape::reason;
use rdvm_proto::{NET_HEAD, NetError, NetFrame, NetKind};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::local::Received;

/// Bytes for the link above which nothing more is read from sockets.
const OUTGOING: usize = 256 << 10;
/// Bytes for the link above which nothing more is read from it either: answers to frames that no end sends that keeps the rules.
const FULL: usize = 512 << 10;
/// Bytes that are read from the link at a time.
const INCOMING: usize = 64 << 10;

/// Why a link ended before its time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The other end broke a rule.
    #[error("network: the guest sent {0}")]
    Rule(NetError),
    /// The other end sent bytes that are no frame.
    #[error("network: the guest sent bytes that are no frame")]
    Frame,
    /// The other end closed the link within a frame.
    #[error("network: the link ended within a frame")]
    Cut,
    /// The link failed.
    #[error("network: the link failed: {}", reason(.0))]
    Link(io::Error),
}

/// A link with its buffers.
#[derive(Debug)]
pub(crate) struct Link {
    stream: UnixStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

impl Link {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            incoming: Vec::new(),
            outgoing: Vec::new(),
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Returns what to wait for.
    pub(crate) fn wanted(&self) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, self.outgoing.len() < FULL);
        flags.set(PollFlags::OUT, !self.outgoing.is_empty());
        flags
    }

    /// Returns true if data may be added to what is to be sent.
    pub(crate) fn has_room(&self) -> bool {
        self.outgoing.len() < OUTGOING
    }

    /// Reads what has come, and returns it with the part of a frame from before. `None` at the link's end.
    ///
    /// # Errors
    ///
    /// The link fails, or ends within a frame.
    pub(crate) fn receive(&mut self) -> Result<Option<Vec<u8>>, LinkError> {
        let mut bytes = std::mem::take(&mut self.incoming);
        if self.outgoing.len() >= FULL {
            return Ok(Some(bytes));
        }
        let before = bytes.len();
        bytes.resize(before + INCOMING, 0);
        let count = match recv(&self.stream, &mut bytes[before..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) | Err(Errno::CONNRESET) if before > 0 => return Err(LinkError::Cut),
            Ok((_, 0)) | Err(Errno::CONNRESET) => return Ok(None),
            Ok((_, count)) => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(errno) => return Err(LinkError::Link(errno.into())),
        };
        bytes.truncate(before + count);
        Ok(Some(bytes))
    }

    /// Keeps the part of a frame that is left of what was received.
    pub(crate) fn keep(&mut self, mut bytes: Vec<u8>, from: usize) {
        bytes.drain(..from);
        self.incoming = bytes;
    }

    /// Adds a frame without data.
    pub(crate) fn put(&mut self, stream: u32, kind: NetKind<'_>) {
        let mut bytes = [0; NET_HEAD + 4];
        let frame = NetFrame { stream, kind };
        if let Some(length) = frame.encode(&mut bytes) {
            self.outgoing.extend(&bytes[..length]);
        }
    }

    /// Adds a frame with at most `room` bytes, which `read` puts straight behind its head.
    pub(crate) fn put_data(
        &mut self,
        stream: u32,
        room: usize,
        read: impl FnOnce(&mut [u8]) -> Received,
    ) -> Received {
        let at = self.outgoing.len();
        let data = at + NET_HEAD;
        self.outgoing.resize(data + room, 0);
        let received = read(&mut self.outgoing[data..]);
        match received {
            Received::Bytes(count) => {
                self.outgoing.truncate(data + count);
                self.outgoing[at..data].copy_from_slice(&NetFrame::data_head(stream, count));
            }
            _ => self.outgoing.truncate(at),
        }
        received
    }

    /// Writes what the link takes.
    ///
    /// # Errors
    ///
    /// The link fails.
    pub(crate) fn send(&mut self) -> Result<(), LinkError> {
        let mut sent = 0;
        while sent < self.outgoing.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match send(&self.stream, &self.outgoing[sent..], flags) {
                Ok(count) => sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                // The next read finds the end.
                Err(Errno::PIPE | Errno::CONNRESET) => sent = self.outgoing.len(),
                Err(errno) => return Err(LinkError::Link(errno.into())),
            }
        }
        self.outgoing.drain(..sent);
        Ok(())
    }
}
