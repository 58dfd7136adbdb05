//! The files of `--copy-out`.

use crate::outlet::Outlet;
use crate::protocol::{PARCEL_HEAD, Parcel};
use crate::sys;

/// Sends what `wishes` name to a port.
pub(crate) fn send(outlet: &mut Outlet<'_>, wishes: &[u8]) {
    let mut frame = [0u8; PARCEL_HEAD + 16];
    let mut put = |parcel: Parcel<'_>| {
        let length = parcel.encode(&mut frame).unwrap_or(0);
        outlet.write(&frame[..length]);
    };
    for (wish, _) in wishes.split_inclusive(|&byte| byte == 0).enumerate() {
        put(Parcel::Missing {
            wish: wish as u32,
            errno: sys::ENOENT.0,
        });
    }
    put(Parcel::End);
}
