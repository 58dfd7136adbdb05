//! The descriptors that a program which starts another has left open.

use std::fs;
use std::io;
use std::os::fd::RawFd;

/// Closes all descriptors but the standard streams. For the start of a program, while it has one thread.
///
/// # Errors
///
/// /proc cannot be read.
#[allow(unsafe_code)]
pub fn close_inherited() -> io::Result<()> {
    let names = fs::read_dir("/proc/self/fd")?;
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    // The directory's own descriptor is among them, and closed once the numbers are collected.
    let open: Vec<RawFd> = names.flatten().filter_map(number).collect();
    for descriptor in open {
        if descriptor > 2 && fs::exists(format!("/proc/self/fd/{descriptor}"))? {
            // SAFETY: the program has just started and has one thread. It has opened nothing but the directory, which is closed
            // again; so nothing owns any of these descriptors, and nothing opens one of these numbers meanwhile.
            unsafe { rustix::io::close(descriptor) };
        }
    }
    Ok(())
}
