//! The time at which the kernel unpacked the initrd, read from the time stamps of its own log.
//!
//! The messages are those of `init/initramfs.c` and `mm/page_alloc.c`; a kernel that words them differently, keeps
//! no log or prints no times gives zero, which means "not known".

use crate::sys;

/// Begin and end of unpacking in nanoseconds since boot, zero where not known.
pub(crate) fn unpacking() -> (u64, u64) {
    let Ok(buffer) = sys::allocate(1 << 18) else {
        return (0, 0);
    };
    let Ok(length) = sys::kernel_log(buffer) else {
        return (0, 0);
    };
    let log = &buffer[..length];
    // The second is what a kernel without RAM disks says.
    let begins: [&[u8]; 2] = [b"Trying to unpack rootfs", b"Unpacking initramfs"];
    let begin = begins.into_iter().map(|text| stamp_before(log, text)).max();
    (
        begin.unwrap_or_default(),
        stamp_before(log, b"Freeing initrd memory"),
    )
}

/// The time at the start of the line that has `text` in it: `[    0.605850] `.
fn stamp_before(log: &[u8], text: &[u8]) -> u64 {
    let Some(at) = log.windows(text.len()).position(|window| window == text) else {
        return 0;
    };
    let line = log[..at]
        .rsplit(|&byte| byte == b'\n')
        .next()
        .unwrap_or_default();
    let Some(open) = line.iter().position(|&byte| byte == b'[') else {
        return 0;
    };
    let digits = line[open..]
        .iter()
        .take_while(|&&byte| byte != b']')
        .filter(|b| b.is_ascii_digit());
    // Six digits follow the point, so the digits alone are microseconds.
    digits
        .fold(0u64, |sum, digit| {
            sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))
        })
        .wrapping_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_from_the_line_of_the_message() {
        let log = b"<6>[    0.100000] x\n<6>[    1.605850] Trying to unpack rootfs image\n<6>[    2.000001] Freeing initrd memory: 1K\n";
        assert_eq!(stamp_before(log, b"Trying to unpack rootfs"), 1_605_850_000);
        assert_eq!(stamp_before(log, b"Freeing initrd memory"), 2_000_001_000);
        assert_eq!(
            stamp_before(
                b"<6>no time Freeing initrd memory",
                b"Freeing initrd memory"
            ),
            0
        );
        assert_eq!(stamp_before(log, b"something else"), 0);
    }
}
