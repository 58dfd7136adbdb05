//! The contract between rdvm and PID 1 of its guests.
//!
#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

#[cfg(not(freestanding))]
extern crate alloc;

/// Version of all formats.
pub(crate) const VERSION: u8 = 8;

mod attributes;
mod copy_frame;
mod event;
mod frame;
mod host_request;
mod modules;
mod net_frame;
mod net_streams;
mod rings;
mod room;
mod start;
mod step;

pub use attributes::*;
pub use copy_frame::*;
pub use event::*;
pub use frame::{FrameError, crc32};
pub use host_request::*;
pub use modules::*;
pub use net_frame::*;
pub use net_streams::*;
pub use rings::*;
pub use room::*;
pub use start::*;
pub use step::*;

/// A frame of one byte, in both directions: look at the rings. No other frame begins like this, and no text has it.
pub(crate) const BELL: u8 = 0xf6;

/// Takes numbers and strings from the front of a slice; `None` where there is too little.
struct Decoder<'a> {
    bytes: &'a [u8],
}

impl<'a> Decoder<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.bytes.split_at_checked(count)?;
        self.bytes = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_le_bytes([b[0], b[1]]))
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from(self.u32()?) | u64::from(self.u32()?) << 32)
    }

    /// A string with its NUL, so that it can be handed to the kernel as it stands.
    fn string(&mut self) -> Option<&'a [u8]> {
        let end = self.bytes.iter().position(|&byte| byte == 0)?;
        self.take(end + 1)
    }
}
