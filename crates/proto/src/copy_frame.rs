//! Guest to host: the files to copy out, once the host has asked for them, in checked frames: through the outbound
//! ring where it is mapped, else on the stdout port.
//!
//! For every copy in its order either [`CopyFrame::Missing`] or [`CopyFrame::Begin`], then the entries: first the thing itself
//! with an empty path, then what is in it, every directory before what it holds. A file's [`CopyFrame::Entry`] is followed by
//! its [`CopyFrame::Data`] and [`CopyFrame::FileEnd`]. [`CopyFrame::Unread`] says what could not be read; unless something is only
//! mounted there, it is the last of its copy. [`CopyFrame::End`] comes last.

use crate::Decoder;
use crate::frame::{self, FrameError, HEAD, TAIL};

/// First bytes of a parcel's frame.
pub(crate) const COPY_MAGIC: [u8; 4] = [0xf5, 0x9d, 0xa7, 0xfd];
/// The most payload of one frame.
pub const COPY_PAYLOAD: usize = 64 << 10;
/// Where a payload starts in its frame.
pub const COPY_HEAD: usize = HEAD;
/// The longest frame.
pub const COPY_MAX: usize = HEAD + COPY_PAYLOAD + TAIL;
/// The longest path below a copy in bytes: `PATH_MAX`, less what the host needs for names in front of it.
pub const COPY_PATH: usize = 4000;
/// The longest target of a link in bytes: `PATH_MAX` with its NUL.
pub const COPY_TARGET: usize = 4095;
/// The most components that a path below a copy has: PID 1 keeps each directory on the way open, and may have 1024
/// descriptors.
pub const COPY_DEPTH: usize = 900;
/// The errno in a [`CopyFrame::Unread`] that says that something is mounted on the directory: `EXDEV`.
pub const MOUNTED: i32 = 18;

/// A piece of what is copied out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyFrame<'a> {
    /// The frames of this copy follow.
    Begin(u32),
    /// This copy cannot be met: the errno of looking for it.
    Missing {
        /// Which copy.
        copy: u32,
        /// The guest kernel's answer.
        errno: i32,
    },
    /// Something in the file tree.
    Entry(Sent<'a>),
    /// The next bytes of the file, at least one.
    Data(&'a [u8]),
    /// The file is complete, or (not zero) cannot be read any further because of this errno.
    FileEnd(i32),
    /// This is not sent, and if it is a directory neither is what it holds: the errno of looking at it, or [`MOUNTED`].
    Unread {
        /// The guest kernel's answer.
        errno: i32,
        /// Path below what was wished for; empty for that itself.
        path: &'a [u8],
    },
    /// Everything has been sent.
    End,
}

/// One file, directory, link or other thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent<'a> {
    /// `st_mode`: type and permissions.
    pub mode: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds on top.
    pub mtime_ns: u32,
    /// Length of a file in bytes; zero for everything else.
    pub size: u64,
    /// Path below what was wished for; empty for that itself.
    pub path: &'a [u8],
    /// Where a symbolic link leads; empty for everything else.
    pub target: &'a [u8],
}

/// The kind of [`CopyFrame::Data`].
const DATA: u8 = 4;

fn seal(out: &mut [u8], kind: u8, length: usize) -> Option<usize> {
    let fits = length <= COPY_PAYLOAD && out.len() >= HEAD + length + TAIL;
    fits.then(|| frame::seal(out, COPY_MAGIC, kind, length))
}

impl<'a> CopyFrame<'a> {
    /// Writes the frame; gives the number of bytes used. `None` for what does not fit into a frame.
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let mut at = HEAD;
        let mut put = |bytes: &[u8]| {
            let place = out.get_mut(at..at + bytes.len())?;
            place.copy_from_slice(bytes);
            at += bytes.len();
            Some(())
        };
        let kind = match *self {
            Self::Begin(copy) => {
                put(&copy.to_le_bytes())?;
                1
            }
            Self::Missing { copy, errno } => {
                put(&copy.to_le_bytes())?;
                put(&errno.to_le_bytes())?;
                2
            }
            Self::Entry(entry) => {
                put(&entry.mode.to_le_bytes())?;
                put(&entry.mtime.to_le_bytes())?;
                put(&entry.mtime_ns.to_le_bytes())?;
                put(&entry.size.to_le_bytes())?;
                put(&(entry.path.len() as u32).to_le_bytes())?;
                put(entry.path)?;
                put(entry.target)?;
                3
            }
            Self::Data(bytes) => {
                put(bytes)?;
                DATA
            }
            Self::FileEnd(errno) => {
                put(&errno.to_le_bytes())?;
                5
            }
            Self::End => 6,
            Self::Unread { errno, path } => {
                put(&errno.to_le_bytes())?;
                put(path)?;
                7
            }
        };
        seal(out, kind, at - HEAD)
    }

    /// Writes the frame of a [`CopyFrame::Data`] whose `length` bytes already stand at [`COPY_HEAD`] of `out`; gives the
    /// number of bytes used. `None` for what does not fit into a frame.
    pub fn encode_data(out: &mut [u8], length: usize) -> Option<usize> {
        seal(out, DATA, length)
    }

    /// Reads one frame from the start of `bytes`; gives it and its length.
    ///
    /// Errors: [`FrameError`]; only `Incomplete` may turn into a frame when more bytes follow.
    pub fn decode(bytes: &'a [u8]) -> Result<(Self, usize), FrameError> {
        let (kind, payload, length) = frame::open(bytes, COPY_MAGIC, COPY_PAYLOAD)?;
        let parcel = Self::from_payload(kind, payload).ok_or(FrameError::Malformed)?;
        Ok((parcel, length))
    }

    fn from_payload(kind: u8, payload: &'a [u8]) -> Option<Self> {
        let mut r = Decoder { bytes: payload };
        let parcel = match kind {
            1 => Self::Begin(r.u32()?),
            2 => Self::Missing {
                copy: r.u32()?,
                errno: r.u32()? as i32,
            },
            3 => {
                let (mode, mtime) = (r.u32()?, r.u64()? as i64);
                let (mtime_ns, size, length) = (r.u32()?, r.u64()?, r.u32()?);
                Self::Entry(Sent {
                    mode,
                    mtime,
                    mtime_ns,
                    size,
                    path: r.take(length as usize)?,
                    target: r.take(r.bytes.len())?,
                })
            }
            DATA if !payload.is_empty() => Self::Data(r.take(payload.len())?),
            5 => Self::FileEnd(r.u32()? as i32),
            6 => Self::End,
            7 => Self::Unread {
                errno: r.u32()? as i32,
                path: r.take(r.bytes.len())?,
            },
            _ => return None,
        };
        r.bytes.is_empty().then_some(parcel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn every_parcel_survives_the_wire_and_no_damaged_one_does() {
        for parcel in [
            CopyFrame::Begin(7),
            CopyFrame::Missing { copy: 1, errno: 2 },
            CopyFrame::Entry(Sent {
                mode: 0o120777,
                mtime: -1,
                mtime_ns: 999_999_999,
                size: u64::MAX,
                path: b"a/\xff",
                target: b"../b",
            }),
            CopyFrame::Data(b"bytes"),
            CopyFrame::FileEnd(-5),
            CopyFrame::Unread {
                errno: MOUNTED,
                path: b"proc",
            },
            CopyFrame::End,
        ] {
            let mut frame = vec![0; 200];
            let length = parcel.encode(&mut frame).unwrap();
            assert_eq!(CopyFrame::decode(&frame[..length]), Ok((parcel, length)));
            for cut in 0..length {
                assert_eq!(
                    CopyFrame::decode(&frame[..cut]),
                    Err(FrameError::Incomplete)
                );
            }
            for byte in 0..length {
                let mut damaged = frame.clone();
                damaged[byte] ^= 0x10;
                assert!(
                    CopyFrame::decode(&damaged[..length]).is_err(),
                    "byte {byte}"
                );
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_not_sent() {
        let long = vec![b'x'; COPY_PAYLOAD];
        let entry = Sent {
            mode: 0,
            mtime: 0,
            mtime_ns: 0,
            size: 0,
            path: &long,
            target: b"",
        };
        let mut frame = vec![0; COPY_MAX];
        assert_eq!(CopyFrame::Entry(entry).encode(&mut frame), None);
        let data = CopyFrame::Data(&long);
        assert_eq!(data.encode(&mut frame), Some(COPY_MAX));
        // The bytes are there already: the same frame.
        let mut again = vec![0; COPY_MAX];
        again[COPY_HEAD..][..long.len()].copy_from_slice(&long);
        assert_eq!(
            CopyFrame::encode_data(&mut again, long.len()),
            Some(COPY_MAX)
        );
        assert!(frame == again, "the same frame");
        assert_eq!(data.encode(&mut frame[1..]), None);
        assert_eq!(CopyFrame::encode_data(&mut again, long.len() + 1), None);
    }
}
