//! Regions of memory: file systems, which are the root's lower half and volumes, and swap space.
//!
//! The kernel shows them as persistent memory, `/dev/pmem0` and so on, and reads files where they lie. What is written to the
//! root goes into the tmpfs that the initrd was unpacked into, by an overlay. That file system stays out of sight, with all
//! that was in it: the overlay is the only root that a process has.

use crate::{place, root, sys};
use rdvm_proto::{COPY_IN_SUFFIX, SWAP};

const READ_ONLY: usize = 1;
const MOVE: usize = 8192;

const ROOT: &[u8] = b"/\0";
const LOWER: &[u8] = b"/lower\0";
const UPPER: &[u8] = b"/upper\0";
const SHM: &[u8] = b"/shm\0";
const MERGED: &[u8] = b"/merged\0";
const DIRECTORIES: [&[u8]; 5] = [LOWER, UPPER, b"/work\0", SHM, MERGED];

/// Directories can be renamed, names of one file stay names of one file, and all files are of one device: what programs
/// expect of a root.
const LIKE_ONE: &[u8] =
    b"lowerdir=/lower,upperdir=/upper,workdir=/work,redirect_dir=on,index=on,xino=on\0";
/// The same for kernels that do not know one of the words.
const PLAIN: &[u8] = b"lowerdir=/lower,upperdir=/upper,workdir=/work\0";

/// The times that a device is looked for, a millisecond apart: drivers that are modules come up while we run.
const PATIENCE: u32 = 10_000;

/// Bytes of a device's name with two digits and its NUL.
const NAME: usize = 12;

/// True if the first of `targets` is the root.
pub(crate) fn have_root(targets: &[u8]) -> bool {
    targets.starts_with(ROOT)
}

/// Enters the root whose lower half is the first region, where its device can be found; `name` is rdinit's own path without a NUL.
/// The working directory is then the one that is to be `/dev/shm`.
///
/// # Errors
/// The kernel has no such device, or does not mount it.
pub(crate) fn enter_root(name: &[u8]) -> sys::Result<()> {
    for directory in DIRECTORIES {
        sys::mkdir(directory, 0o755)?;
    }
    sys::set_mode(SHM, 0o1777)?;
    root::set_limits();
    mount(0, LOWER)?;
    // What was copied in is moved to its place below the overlay: it must have come from there.
    let mut buffer = [0u8; 256];
    let from = beside(b"", name, COPY_IN_SUFFIX, &mut buffer)?;
    let mut buffer = [0u8; 256];
    let to = beside(b"/upper", name, COPY_IN_SUFFIX, &mut buffer)?;
    let _ = sys::rename(from, to);
    let lower = sys::stat(LOWER)?;
    sys::set_owner(UPPER, lower.uid, lower.gid)?;
    sys::set_mode(UPPER, lower.mode)?;
    sys::mount(b"overlay\0", MERGED, 0, LIKE_ONE)
        .or_else(|_| sys::mount(b"overlay\0", MERGED, 0, PLAIN))?;
    let shm = sys::open(SHM, sys::O_RDONLY | sys::O_CLOEXEC)?;
    sys::chdir(MERGED)?;
    sys::mount_from(b".\0", ROOT, b"\0", MOVE, b"\0")?;
    sys::chroot(b".\0")?;
    sys::chdir_to(shm)?;
    sys::close(shm);
    Ok(())
}

/// Lets the kernel swap to the region among `targets` that is for that, if there is one.
///
/// # Errors
/// The kernel has no such device, or does not swap to it.
pub(crate) fn swap_on(targets: &[u8]) -> sys::Result<()> {
    for (index, target) in each(targets) {
        if is_swap(target) {
            let mut name = [0; NAME];
            let device = device(index, &mut name);
            once_open(|| sys::swap_on(device))?;
        }
    }
    Ok(())
}

/// Mounts the volumes: the regions whose `targets` are neither the root nor swap space.
///
/// # Errors
/// Which region, from 0 on, and why.
pub(crate) fn mount_volumes(targets: &[u8]) -> Result<(), (u32, sys::Errno)> {
    for (index, target) in each(targets) {
        if target != ROOT && !is_swap(target) {
            let mounted = place::make_directory(target).and_then(|()| mount(index, target));
            mounted.map_err(|errno| (index, errno))?;
        }
    }
    Ok(())
}

/// The targets with their numbers and NULs.
fn each(targets: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    (0..).zip(targets.split_inclusive(|&byte| byte == 0))
}

fn is_swap(target: &[u8]) -> bool {
    target.strip_suffix(b"\0") == Some(SWAP)
}

/// Mounts the region of this number.
fn mount(index: u32, target: &[u8]) -> sys::Result<()> {
    let mut name = [0; NAME];
    let device = device(index, &mut name);
    once_open(|| sys::mount_from(device, target, b"erofs\0", READ_ONLY, b"dax=always\0"))
}

/// Tries again as long as the device cannot be opened: a disk's name is there a moment before the disk is (`device_add_disk` in
/// `block/genhd.c`), and where the processor is taken away in between that moment is long.
fn once_open(mut action: impl FnMut() -> sys::Result<()>) -> sys::Result<()> {
    for _ in 0..PATIENCE {
        match action() {
            Err(sys::ENXIO) => sys::pause_ms(1),
            result => return result,
        }
    }
    action()
}

/// The device of the region of this number, which is waited for.
fn device(index: u32, name: &mut [u8; NAME]) -> &[u8] {
    *name = *b"/dev/pmem00\0";
    let length = match index {
        0..10 => {
            name[9] += index as u8;
            name[10] = 0;
            NAME - 1
        }
        _ => {
            name[9] += (index / 10) as u8;
            name[10] += (index % 10) as u8;
            NAME
        }
    };
    let name = &name[..length];
    for _ in 0..PATIENCE {
        if sys::lstat_mode(name).is_ok() {
            break;
        }
        sys::pause_ms(1);
    }
    name
}

/// `name` between two others, with a NUL.
fn beside<'a>(
    before: &[u8],
    name: &[u8],
    after: &str,
    buffer: &'a mut [u8; 256],
) -> sys::Result<&'a [u8]> {
    let parts = [before, name, after.as_bytes(), b"\0"];
    let length = parts.iter().map(|part| part.len()).sum();
    let place = buffer.get_mut(..length).ok_or(sys::EINVAL)?;
    let bytes = parts.into_iter().flatten();
    place
        .iter_mut()
        .zip(bytes)
        .for_each(|(slot, byte)| *slot = *byte);
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_not_there_yet_is_tried_again_and_other_errors_count() {
        let mut tries = 0;
        let opened = once_open(|| {
            tries += 1;
            if tries < 4 { Err(sys::ENXIO) } else { Ok(()) }
        });
        assert_eq!((opened, tries), (Ok(()), 4));
        let mut tries = 0;
        let refused = once_open(|| {
            tries += 1;
            Err(sys::EINVAL)
        });
        assert_eq!((refused, tries), (Err(sys::EINVAL), 1));
    }
}
