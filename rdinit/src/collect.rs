//! The files of `--copy-out`.

use crate::protocol::{PARCEL_HEAD, Parcel};
use crate::sys::{self, PollFd};

/// Sends what `wishes` name to a port.
pub(crate) fn send(port: i32, wishes: &[u8]) {
    let mut frame = [0u8; PARCEL_HEAD + 16];
    let mut put = |parcel: Parcel<'_>| {
        let length = parcel.encode(&mut frame).unwrap_or(0);
        let mut rest = &frame[..length];
        while !rest.is_empty() {
            match sys::write(port, rest) {
                Ok(count) => rest = &rest[count..],
                Err(sys::EINTR) => {}
                Err(sys::EAGAIN) => {
                    let _ = sys::poll(&mut [PollFd::new(port, sys::POLLOUT)], -1);
                }
                Err(_) => return,
            }
        }
    };
    for (wish, _) in wishes.split_inclusive(|&byte| byte == 0).enumerate() {
        put(Parcel::Missing {
            wish: wish as u32,
            errno: sys::ENOENT.0,
        });
    }
    put(Parcel::End);
}
