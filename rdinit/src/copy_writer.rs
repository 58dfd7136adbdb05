//! The way out for copied files: the ring of standard output where that is mapped, else the stdout port.

use crate::input::HostRequests;
use crate::relay;
use crate::rings::Outbound;
use crate::sys::{self, PollFd};

/// Takes bytes, and waits for the host where it must.
pub(crate) enum CopyWriter<'a> {
    /// A serial port.
    Port(i32),
    /// The ring, and the requests among which the host rings when there is room.
    Ring(Outbound, &'a mut HostRequests),
}

impl CopyWriter<'_> {
    /// Sends all of `bytes`.
    ///
    /// Errors: the port is gone.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> sys::Result<()> {
        match self {
            Self::Port(port) => {
                while !bytes.is_empty() {
                    match sys::write(*port, bytes) {
                        Ok(count) => bytes = &bytes[count..],
                        Err(sys::EINTR) => {}
                        Err(sys::EAGAIN) => {
                            let _ = sys::poll(&mut [PollFd::new(*port, sys::POLLOUT)], -1);
                        }
                        Err(errno) => return Err(errno),
                    }
                }
            }
            Self::Ring(ring, requests) => {
                while !bytes.is_empty() {
                    bytes = &bytes[ring.put(bytes)..];
                    while !bytes.is_empty() && !ring.has_room(1) {
                        requests.wait();
                    }
                }
            }
        }
        Ok(())
    }

    /// Sees to it that everything is on its way.
    pub(crate) fn flush(&mut self) {
        if let Self::Port(port) = self {
            relay::drain(*port);
        }
    }
}
