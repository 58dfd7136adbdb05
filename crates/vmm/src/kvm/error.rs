//! Errors of the KVM engine, each with its way out.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::Remedy;
use crate::probe::KvmState;
use rdvm_hostfs::escape::{reason, shown};
use rdvm_hostfs::units::ByteSize;

/// An error of the KVM engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// /dev/kvm is not, or not any more, what it was found to be.
    #[error("{0}")]
    Unusable(KvmState),
    /// This KVM lacks something.
    #[error("/dev/kvm: offers no {what}; boot a newer host kernel")]
    Unsupported {
        /// The thing that is missing.
        what: &'static str,
    },
    /// A call to KVM failed.
    #[error("kvm engine: {what}: {}{}", reason(source), limit_to_raise(source))]
    Call {
        /// The operation.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// The host refused something else.
    #[error("kvm engine: {what}: {}{}", reason(source), limit_to_raise(source))]
    Host {
        /// The operation.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// The host has no address space for the guest's RAM.
    #[error(
        "kvm engine: {memory} of guest RAM cannot be mapped: {}; raise ulimit -v",
        reason(source)
    )]
    Memory {
        /// The size.
        memory: ByteSize,
        /// The reason.
        source: io::Error,
    },
    /// The kernel does not fit.
    #[error(
        "{}: reaches up to {end:#x}, the guest's RAM ends at {ram_end:#x}",
        shown(kernel)
    )]
    KernelPlace {
        /// Its file.
        kernel: PathBuf,
        /// First address above it.
        end: u64,
        /// First address above the RAM below 4 GiB.
        ram_end: u64,
    },
    /// The kernel's file could be checked but not loaded.
    #[error("{}: cannot be loaded: {source}", shown(kernel))]
    Kernel {
        /// Its file.
        kernel: PathBuf,
        /// The reason.
        source: linux_loader::loader::Error,
    },
    /// There is no place for the initrd.
    #[error("initrd: its {} do not fit between the kernel's end {kernel_end:#x} and {} in {memory} of RAM; give the guest more, or use a kernel that takes an initrd anywhere (Linux 3.8 or later)", ByteSize(*size), limit_name(*limit))]
    InitrdPlace {
        /// Its length in bytes.
        size: u64,
        /// First address above the kernel.
        kernel_end: u64,
        /// First address that the kernel does not take.
        limit: u64,
        /// The guest's RAM.
        memory: ByteSize,
    },
    /// The initrd cannot be made.
    #[error(transparent)]
    Initrd(#[from] rdvm_initrd::Error),
    /// A part lies outside of the guest's RAM.
    #[error("kvm engine: the guest's RAM has no room for its tables")]
    Place,
}

impl Error {
    pub(crate) fn remedy(&self) -> Option<Remedy> {
        Some(match self {
            Self::Unusable(_) | Self::Unsupported { .. } => Remedy::OtherEngine,
            Self::Call { source, .. } | Self::Host { source, .. } => {
                match Errno::from_io_error(source) {
                    Some(Errno::MFILE | Errno::AGAIN) => Remedy::FewerCpus,
                    Some(Errno::NOMEM) => Remedy::LessMemory,
                    _ => Remedy::ExamineOrOtherEngine,
                }
            }
            Self::Memory { .. } => Remedy::LessMemory,
            Self::KernelPlace { .. } | Self::Place => Remedy::MoreMemory,
            Self::Kernel { .. } => Remedy::OtherKernel,
            Self::InitrdPlace { .. } | Self::Initrd(_) => return None,
        })
    }

    /// Wraps an error of the host with the operation.
    pub(super) fn host<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Host {
            what,
            source: source.into(),
        }
    }
}

/// Returns the way out of an error of the host, as far as it is not the caller's.
fn limit_to_raise(source: &io::Error) -> &'static str {
    match Errno::from_io_error(source) {
        Some(Errno::MFILE) => "; raise ulimit -n",
        Some(Errno::AGAIN) => "; raise ulimit -u",
        Some(Errno::NOMEM) => "; free some memory",
        _ => "",
    }
}

fn limit_name(limit: u64) -> String {
    match limit {
        u64::MAX => "the end".to_owned(),
        limit => format!("{limit:#x}, its limit"),
    }
}
