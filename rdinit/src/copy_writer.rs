//! The way out for copied files: the outbound ring where it is mapped, else the stdout port.

use crate::init::send;
use crate::input::HostRequests;
use crate::relay;
use crate::sys::{self, PollFd, Shared};
use rdvm_proto::{Event, HostRequest, RING};

/// Takes bytes, and waits for the host where it must.
pub(crate) enum CopyWriter<'a> {
    /// A serial port.
    Port(i32),
    /// The ring, and the status port on which both sides say how far they are.
    Ring {
        rings: &'a Shared,
        status: i32,
        requests: &'a mut HostRequests,
        put: u64,
        told: u64,
        taken: u64,
    },
}

impl<'a> CopyWriter<'a> {
    pub(crate) fn new(
        rings: Option<&'a Shared>,
        stdout: i32,
        status: i32,
        requests: &'a mut HostRequests,
    ) -> Self {
        match rings {
            Some(rings) => Self::Ring {
                rings,
                status,
                requests,
                put: 0,
                told: 0,
                taken: 0,
            },
            None => Self::Port(stdout),
        }
    }

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
            Self::Ring {
                rings,
                status,
                requests,
                put,
                told,
                taken,
            } => {
                while !bytes.is_empty() {
                    let room = RING - (*put - *taken);
                    let count = bytes
                        .len()
                        .min(room as usize)
                        .min((RING - *put % RING) as usize);
                    rings.put((RING + *put % RING) as usize, &bytes[..count]);
                    bytes = &bytes[count..];
                    *put += count as u64;
                    if *put - *told >= RING / 4 {
                        send(*status, &Event::Produced(*put));
                        *told = *put;
                    }
                    if room == count as u64 {
                        // At least the half of it, so that both sides have something to do.
                        while *put - *taken > RING / 2 {
                            if let HostRequest::Consumed(total) = requests.wait() {
                                *taken = total.clamp(*taken, *put);
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Sees to it that everything is on its way.
    pub(crate) fn flush(&mut self) {
        match self {
            Self::Port(port) => relay::drain(*port),
            Self::Ring { status, put, .. } => send(*status, &Event::Produced(*put)),
        }
    }
}
