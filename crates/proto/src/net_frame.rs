//! Both ways, between PID 1 and the host's proxy: frames that carry many TCP streams in one ordered stream of bytes.
//!
//! A frame is eight bytes of head and at most [`NET_PAYLOAD`] bytes: the stream's number in four bytes, the kind, a zero, the
//! length of the payload in two. It has no magic number and no checksum, since memory carries it. What a frame means, and the
//! outcome of each that is out of place, is up to [`NetStreams`](crate::NetStreams).
//!
//! | kind | payload | meaning |
//! |---|---|---|
//! | 1, open | port, two bytes | A connection begins: to the proxy (port 0, sent by the guest), to a port of the guest's loopback (sent by the host) |
//! | 2, data | 1 to 16,384 bytes | The next bytes, at most as many as the receiver has given credit for |
//! | 3, credit | count, four bytes | The receiver has passed on so many bytes; as many more may be sent |
//! | 4, finish | none | No more data follows; the other direction goes on |
//! | 5, reset | none | The stream is over, and what was not passed on is lost |
//!
//! A stream begins with a credit of [`NET_WINDOW`] in each direction. A host's connection may come before anything listens in
//! the guest: the guest's end keeps it, tries again for a few seconds, and then sends a reset. The host sees no difference
//! from a slow server, since the credit bounds what it sends meanwhile.

use crate::Decoder;
use crate::frame::FrameError;

/// The port of the guest's loopback that leads to the proxy: the usual one of an HTTP proxy.
pub const NET_PORT: u16 = 3128;
/// Bytes before the payload.
pub const NET_HEAD: usize = 8;
/// The most payload of one frame.
pub const NET_PAYLOAD: usize = 16 << 10;
/// The longest frame.
pub const NET_MAX: usize = NET_HEAD + NET_PAYLOAD;

const OPEN: u8 = 1;
const DATA: u8 = 2;
const CREDIT: u8 = 3;
const FINISH: u8 = 4;
const RESET: u8 = 5;

/// One frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetFrame<'a> {
    /// The stream's number, not 0: even if the guest opened it, odd if the host did.
    pub stream: u32,
    /// The meaning.
    pub kind: NetKind<'a>,
}

/// The meaning of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetKind<'a> {
    /// The stream begins; 0 is the proxy, anything else a port of the guest's loopback.
    Open(u16),
    /// The next bytes, at least one.
    Data(&'a [u8]),
    /// So many more bytes may be sent, at least one.
    Credit(u32),
    /// The sender has no more data.
    Finish,
    /// The stream is over in both directions.
    Reset,
}

impl<'a> NetFrame<'a> {
    /// Writes the frame; returns the number of bytes used. `None` for what does not fit, or is no frame.
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let (port, count);
        let (kind, payload): (u8, &[u8]) = match self.kind {
            NetKind::Open(number) => {
                port = number.to_le_bytes();
                (OPEN, &port)
            }
            NetKind::Data(bytes) => (DATA, bytes),
            NetKind::Credit(number) => {
                count = number.to_le_bytes();
                (CREDIT, &count)
            }
            NetKind::Finish => (FINISH, &[]),
            NetKind::Reset => (RESET, &[]),
        };
        let is_frame = self.stream != 0 && NetFrame::from_payload(kind, payload).is_some();
        let length = NET_HEAD + payload.len();
        let out = out.get_mut(..length).filter(|_| is_frame)?;
        out[..NET_HEAD].copy_from_slice(&head(self.stream, kind, payload.len()));
        out[NET_HEAD..].copy_from_slice(payload);
        Some(length)
    }

    /// Returns the head of a [`NetKind::Data`] whose `length` bytes, 1 to [`NET_PAYLOAD`], are already behind it.
    pub fn data_head(stream: u32, length: usize) -> [u8; NET_HEAD] {
        debug_assert!(stream != 0 && (1..=NET_PAYLOAD).contains(&length));
        head(stream, DATA, length)
    }

    /// Returns stream and length of a [`NetKind::Data`] with this head; `None` for any other head.
    pub fn data_of(head: [u8; NET_HEAD]) -> Option<(u32, usize)> {
        let [a, b, c, d, kind, zero, low, high] = head;
        let length = usize::from(u16::from_le_bytes([low, high]));
        let is_data = kind == DATA && zero == 0 && (1..=NET_PAYLOAD).contains(&length);
        let stream = u32::from_le_bytes([a, b, c, d]);
        (is_data && stream != 0).then_some((stream, length))
    }

    /// Reads one frame from the start of `bytes`; returns it and its length.
    ///
    /// # Errors
    ///
    /// `Incomplete` if it may become one with more bytes; `Malformed` if it cannot, which eight bytes are enough to tell except
    /// for a count of 0.
    pub fn decode(bytes: &'a [u8]) -> Result<(Self, usize), FrameError> {
        let mut r = Decoder { bytes };
        let head = (|| Some((r.u32()?, r.u8()?, r.u8()?, r.u16()?)))();
        let (stream, kind, zero, length) = head.ok_or(FrameError::Incomplete)?;
        let length = usize::from(length);
        let is_length = match kind {
            OPEN => length == 2,
            DATA => (1..=NET_PAYLOAD).contains(&length),
            CREDIT => length == 4,
            FINISH | RESET => length == 0,
            _ => false,
        };
        if stream == 0 || zero != 0 || !is_length {
            return Err(FrameError::Malformed);
        }
        let payload = r.take(length).ok_or(FrameError::Incomplete)?;
        let kind = Self::from_payload(kind, payload).ok_or(FrameError::Malformed)?;
        Ok((Self { stream, kind }, NET_HEAD + length))
    }

    fn from_payload(kind: u8, payload: &'a [u8]) -> Option<NetKind<'a>> {
        let mut r = Decoder { bytes: payload };
        let kind = match kind {
            OPEN => NetKind::Open(r.u16()?),
            DATA if (1..=NET_PAYLOAD).contains(&payload.len()) => {
                NetKind::Data(r.take(payload.len())?)
            }
            CREDIT => NetKind::Credit(r.u32().filter(|&count| count > 0)?),
            FINISH => NetKind::Finish,
            RESET => NetKind::Reset,
            _ => return None,
        };
        r.bytes.is_empty().then_some(kind)
    }
}

fn head(stream: u32, kind: u8, length: usize) -> [u8; NET_HEAD] {
    let [a, b, c, d] = stream.to_le_bytes();
    let [low, high] = (length as u16).to_le_bytes();
    [a, b, c, d, kind, 0, low, high]
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const KINDS: [NetKind<'static>; 7] = [
        NetKind::Open(0),
        NetKind::Open(u16::MAX),
        NetKind::Data(b"bytes"),
        NetKind::Credit(1),
        NetKind::Credit(u32::MAX),
        NetKind::Finish,
        NetKind::Reset,
    ];

    #[test]
    fn the_head_of_data_is_known_without_the_data() {
        for length in [1, 300, NET_PAYLOAD] {
            let head = NetFrame::data_head(7, length);
            assert_eq!(NetFrame::data_of(head), Some((7, length)));
        }
        let mut frame = [0; NET_MAX];
        for kind in [
            NetKind::Open(1),
            NetKind::Credit(1),
            NetKind::Finish,
            NetKind::Reset,
        ] {
            NetFrame { stream: 7, kind }.encode(&mut frame).unwrap();
            let head = *frame.first_chunk().unwrap();
            assert_eq!(NetFrame::data_of(head), None, "{kind:?}");
        }
        for (at, value) in [(0, 0), (5, 1), (6, 0), (7, 0xff)] {
            let mut head = NetFrame::data_head(7, 1);
            head[at] = value;
            assert_eq!(NetFrame::data_of(head), None, "{at}");
        }
    }

    #[test]
    fn every_frame_survives_the_wire_and_no_part_of_it_is_one() {
        for stream in [1, 2, 0x0102_0304, u32::MAX] {
            for kind in KINDS {
                let frame = NetFrame { stream, kind };
                let mut bytes = [0xaa; 40];
                let length = frame.encode(&mut bytes).unwrap();
                assert_eq!(NetFrame::decode(&bytes), Ok((frame, length)));
                for cut in 0..length {
                    let part = NetFrame::decode(&bytes[..cut]);
                    assert_eq!(part, Err(FrameError::Incomplete));
                    assert_eq!(frame.encode(&mut bytes[..cut]), None);
                }
            }
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_documentation() {
        let mut bytes = [0; 40];
        let mut encoded = |stream, kind| {
            let length = NetFrame { stream, kind }.encode(&mut bytes).unwrap();
            bytes[..length].to_vec()
        };
        assert_eq!(
            encoded(0x0403_0201, NetKind::Open(0x1f90)),
            [1, 2, 3, 4, 1, 0, 2, 0, 0x90, 0x1f]
        );
        assert_eq!(
            encoded(2, NetKind::Data(b"ab")),
            [2, 0, 0, 0, 2, 0, 2, 0, b'a', b'b']
        );
        assert_eq!(
            encoded(2, NetKind::Credit(0x0102)),
            [2, 0, 0, 0, 3, 0, 4, 0, 2, 1, 0, 0]
        );
        assert_eq!(encoded(2, NetKind::Finish), [2, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(encoded(2, NetKind::Reset), [2, 0, 0, 0, 5, 0, 0, 0]);
    }

    /// All kinds and lengths that eight bytes can have.
    #[test]
    fn any_other_head_is_malformed_as_soon_as_it_is_whole() {
        let mut known = 0;
        for kind in 0..=u8::MAX {
            for length in 0..=u16::MAX {
                let [low, high] = length.to_le_bytes();
                let head = [7, 0, 0, 0, kind, 0, low, high];
                let is_frame = match (kind, usize::from(length)) {
                    (OPEN, 2) | (CREDIT, 4) | (FINISH | RESET, 0) => true,
                    (DATA, length) => (1..=NET_PAYLOAD).contains(&length),
                    _ => false,
                };
                let decoded = NetFrame::decode(&head);
                let is_refused = decoded == Err(FrameError::Malformed);
                assert_eq!(is_refused, !is_frame, "{kind} {length}: {decoded:?}");
                known += u32::from(is_frame);
            }
        }
        assert_eq!(known, 4 + NET_PAYLOAD as u32);
        let no_stream = [0, 0, 0, 0, FINISH, 0, 0, 0];
        assert_eq!(NetFrame::decode(&no_stream), Err(FrameError::Malformed));
        for zero in 1..=u8::MAX {
            let head = [7, 0, 0, 0, FINISH, zero, 0, 0];
            assert_eq!(NetFrame::decode(&head), Err(FrameError::Malformed));
        }
        let no_credit = [7, 0, 0, 0, CREDIT, 0, 4, 0, 0, 0, 0, 0];
        assert_eq!(NetFrame::decode(&no_credit), Err(FrameError::Malformed));
    }

    #[test]
    fn what_is_no_frame_is_not_written() {
        let long = vec![b'x'; NET_PAYLOAD + 1];
        let mut out = vec![0; NET_MAX + 1];
        let mut encode = |stream, kind| NetFrame { stream, kind }.encode(&mut out);
        assert_eq!(encode(0, NetKind::Finish), None);
        assert_eq!(encode(1, NetKind::Credit(0)), None);
        assert_eq!(encode(1, NetKind::Data(b"")), None);
        assert_eq!(encode(1, NetKind::Data(&long)), None);
        assert_eq!(encode(1, NetKind::Data(&long[1..])), Some(NET_MAX));
        assert_eq!(NetFrame::data_head(1, NET_PAYLOAD), out[..NET_HEAD]);
    }
}
