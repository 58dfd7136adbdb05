//! Errors of the QEMU engine.

use std::io;
use std::path::PathBuf;

use crate::{Remedy, probe};
use rdvm_hostfs::escape::reason;

/// An error of the QEMU engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// QEMU is not installed.
    #[error(transparent)]
    Missing(#[from] probe::Error),
    /// The initrd cannot be made.
    #[error(transparent)]
    Initrd(#[from] rdvm_initrd::Error),
    /// The kernel cannot be started by QEMU.
    #[error(transparent)]
    Kernel(#[from] rdvm_kernel::Error),
    /// QEMU could not be started.
    #[error("{}: cannot be started: {}", program.display(), reason(source))]
    Start {
        /// The program.
        program: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// This process cannot be confined as it asked to be.
    #[error(transparent)]
    Confinement(#[from] rdvm_confine::Error),
    /// The host failed.
    #[error("qemu engine: {what}: {}", reason(source))]
    Host {
        /// The operation.
        what: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// QEMU ended before the guest printed anything.
    #[error("{}: ended before the machine ran: {said}", program.display())]
    Refused {
        /// The program.
        program: PathBuf,
        /// Its words on standard error.
        said: String,
    },
}

impl Error {
    pub(crate) fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Missing(error) => error.remedy(),
            Self::Start { .. } | Self::Host { .. } => Some(Remedy::Examine),
            Self::Refused { .. } => Some(Remedy::OtherKernelOrExamine),
            Self::Initrd(_) | Self::Kernel(_) | Self::Confinement(_) => None,
        }
    }

    /// Wraps an error of the host with the operation.
    pub(super) fn host<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Host {
            what,
            source: source.into(),
        }
    }
}
