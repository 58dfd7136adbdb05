//! The end of a machine, without waiting for the host's kernel to take it apart.
//!
//! Closing a machine's descriptor waits for RCU grace periods of the host (`kvm_destroy_vm` in virt/kvm/kvm_main.c): some
//! 10 ms, in which nothing of ours happens. io_uring(7) keeps references to registered files, and a ring that is closed
//! gives them up on a thread of the kernel's (`io_ring_exit_work` in io_uring/io_uring.c). So the descriptor goes through
//! a ring. Where there is none (`kernel.io_uring_disabled`, a container's seccomp filter) it is closed as any other.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::io_uring::{IoringRegisterOp, io_uring_params, io_uring_register, io_uring_setup};

/// A second reference to a machine, made when it is, as a thread that is confined by then makes no ring. To be dropped after the
/// machine's descriptor; its memory may be unmapped before it is gone.
#[derive(Debug)]
pub(super) struct LastReference {
    _ring: Option<OwnedFd>,
}

impl LastReference {
    /// Refers to `vm`. Where that cannot be, the machine's descriptor is the last reference, and closing it waits.
    pub(super) fn to(vm: &impl AsRawFd) -> Self {
        Self {
            _ring: hand_on(vm.as_raw_fd()).ok(),
        }
    }
}

fn hand_on(fd: RawFd) -> io::Result<OwnedFd> {
    let mut params = io_uring_params::default();
    // SAFETY: of the parameters, all zero, only ATTACH_WQ would need an argument. The ring's memory is never mapped.
    let ring = unsafe { io_uring_setup(1, &mut params) }?;
    let files = [fd];
    // SAFETY: `files` is an array of one descriptor, as the operation and the count say; the kernel has read it when the
    // call returns. What it takes is a reference of its own to the open file, so that `fd` may be closed at any time.
    unsafe {
        io_uring_register(
            &ring,
            IoringRegisterOp::RegisterFiles,
            files.as_ptr().cast(),
            1,
        )
    }?;
    Ok(ring)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_is_given_up_is_closed_though_perhaps_later() {
        let (mut reader, writer) = io::pipe().unwrap();
        let reference = LastReference::to(&writer);
        drop(writer);
        drop(reference);
        // It ends when the last reference to the other end has gone.
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }
}
