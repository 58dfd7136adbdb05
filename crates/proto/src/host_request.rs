//! Host to guest while the command runs: what rdvm asks of PID 1 on the status port, in checked frames.

use crate::frame::{self, FrameError, HEAD, TAIL};
use crate::{BELL, Decoder};

/// First bytes of an order's frame.
pub(crate) const ORDER_MAGIC: [u8; 4] = [0xf5, 0x9d, 0xa7, 0xfc];
/// The longest frame of an order.
pub const HOST_REQUEST_MAX: usize = HEAD + PAYLOAD_MAX + TAIL;
const PAYLOAD_MAX: usize = 8;

/// A request of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostRequest {
    /// Send this signal to the command and what it started; `SIGKILL` to everything.
    Signal(u8),
    /// The terminal has so many rows and columns now.
    Resize {
        /// Rows of characters.
        rows: u16,
        /// Columns of characters.
        columns: u16,
    },
    /// Standard input has ended after so many bytes.
    StdinEnd(u64),
    /// Everything that the command printed has been read; send what is to be copied out.
    CopyOut,
    /// So many bytes of standard input have been put into the inbound ring in all.
    Produced(u64),
    /// Start the command that was held.
    Start,
    /// There is room in a ring again.
    Bell,
}

impl HostRequest {
    /// Writes the frame; gives the number of bytes used, at most [`HOST_REQUEST_MAX`].
    pub fn encode(&self, out: &mut [u8; HOST_REQUEST_MAX]) -> usize {
        let mut payload = [0; PAYLOAD_MAX];
        let (kind, length) = match *self {
            Self::Signal(signal) => {
                payload[0] = signal;
                (1, 1)
            }
            Self::Resize { rows, columns } => {
                payload[..2].copy_from_slice(&rows.to_le_bytes());
                payload[2..4].copy_from_slice(&columns.to_le_bytes());
                (2, 4)
            }
            Self::CopyOut => (4, 0),
            Self::Start => (6, 0),
            Self::StdinEnd(total) | Self::Produced(total) => {
                payload = total.to_le_bytes();
                (
                    if matches!(self, Self::StdinEnd(_)) {
                        3
                    } else {
                        5
                    },
                    8,
                )
            }
            Self::Bell => {
                out[0] = BELL;
                return 1;
            }
        };
        out[HEAD..HEAD + length].copy_from_slice(&payload[..length]);
        frame::seal(out, ORDER_MAGIC, kind, length)
    }

    /// Reads one frame from the start of `bytes`; gives it and its length.
    ///
    /// Errors: [`FrameError`]; only `Incomplete` may turn into a frame when more bytes follow.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), FrameError> {
        if bytes.first() == Some(&BELL) {
            return Ok((Self::Bell, 1));
        }
        let (kind, payload, length) = frame::open(bytes, ORDER_MAGIC, PAYLOAD_MAX)?;
        let mut r = Decoder { bytes: payload };
        let request = match kind {
            1 => r.u8().map(Self::Signal),
            2 => r
                .u16()
                .zip(r.u16())
                .map(|(rows, columns)| Self::Resize { rows, columns }),
            3 => r.u64().map(Self::StdinEnd),
            4 => Some(Self::CopyOut),
            5 => r.u64().map(Self::Produced),
            6 => Some(Self::Start),
            _ => None,
        };
        match request {
            Some(request) if r.bytes.is_empty() => Ok((request, length)),
            _ => Err(FrameError::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_survives_the_wire_and_no_damaged_one_does() {
        for request in [
            HostRequest::Signal(15),
            HostRequest::Resize {
                rows: 24,
                columns: 500,
            },
            HostRequest::StdinEnd(1 << 40),
            HostRequest::CopyOut,
            HostRequest::Produced(7),
            HostRequest::Start,
            HostRequest::Bell,
        ] {
            let mut frame = [0; HOST_REQUEST_MAX];
            let length = request.encode(&mut frame);
            assert_eq!(HostRequest::decode(&frame[..length]), Ok((request, length)));
            for cut in 0..length {
                assert_eq!(
                    HostRequest::decode(&frame[..cut]),
                    Err(FrameError::Incomplete)
                );
            }
            for byte in 0..length {
                let mut damaged = frame;
                damaged[byte] ^= 0x10;
                assert!(
                    HostRequest::decode(&damaged[..length]).is_err(),
                    "byte {byte}"
                );
            }
        }
    }
}
