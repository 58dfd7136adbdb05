//! The link between the guest's connections and the process that makes them on the host: bytes of frames, which are not looked
//! at here.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rdvm_proto::Ring;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::rings::Rings;

/// Bytes that are passed on at a time.
const PIECE: u64 = 64 << 10;

/// Our end of a socket whose other end has the process.
#[derive(Debug)]
pub struct NetLink {
    socket: OwnedFd,
    /// Bytes that the guest sent and the socket has not taken.
    pending: Vec<u8>,
    sent: usize,
    is_closed: bool,
}

impl NetLink {
    /// A link by this socket, a stream.
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            pending: Vec::new(),
            sent: 0,
            is_closed: false,
        }
    }

    /// Passes on what can be passed on without waiting. Returns true if the guest is to be rung for.
    pub(super) fn pump(&mut self, rings: &mut Rings) -> bool {
        let out = self.carry_out(rings);
        let back = self.carry_in(rings);
        out | back
    }

    fn carry_out(&mut self, rings: &mut Rings) -> bool {
        let mut wakes = false;
        while !self.is_closed {
            if self.sent == self.pending.len() {
                self.pending.clear();
                self.sent = 0;
                wakes |= rings.take(Ring::NetOut, PIECE, |bytes| {
                    self.pending.extend_from_slice(bytes)
                });
                if self.pending.is_empty() {
                    break;
                }
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match send(&self.socket, &self.pending[self.sent..], flags) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.is_closed = true,
            }
        }
        wakes
    }

    fn carry_in(&mut self, rings: &mut Rings) -> bool {
        let mut wakes = false;
        let mut buffer = vec![0; PIECE as usize];
        while !self.is_closed {
            let room = rings.net_room().min(PIECE) as usize;
            if room == 0 {
                break;
            }
            match recv(&self.socket, &mut buffer[..room], RecvFlags::DONTWAIT) {
                Ok((_, 0)) => self.is_closed = true,
                Ok((_, count)) => wakes |= rings.put_net(&buffer[..count]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.is_closed = true,
            }
        }
        wakes
    }

    /// Returns the socket to poll.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// True if some of what the guest sent waits for the socket.
    pub(super) fn waits(&self) -> bool {
        self.sent < self.pending.len()
    }

    /// True if the process is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }
}
