//! The crate's error: one variant per stage, each wrapping that stage's own.

use crate::report::Report;
use crate::{cmdline, copyin, copyout, memory, trust};
use rdvm_hostfs::escape::reason;
use rdvm_hostfs::hostmem;

/// What kept a run from happening. The text is one line: subject, what went wrong, way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// IMAGE → tree.
    #[error(transparent)]
    Image(#[from] rdvm_image::Error),
    /// Another image than agreed.
    #[error(transparent)]
    Trust(#[from] trust::Error),
    /// The user to run the command as.
    #[error(transparent)]
    Account(#[from] rdvm_image::account::Error),
    /// Tree → initrd.
    #[error(transparent)]
    Initrd(#[from] rdvm_initrd::Error),
    /// Where files are to be copied out to.
    #[error(transparent)]
    CopyOut(#[from] copyout::Error),
    /// What is copied in.
    #[error(transparent)]
    CopyIn(#[from] copyin::Error),
    /// The RAM plan.
    #[error(transparent)]
    Memory(#[from] memory::TooLittle),
    /// The host's memory.
    #[error(transparent)]
    HostMemory(#[from] hostmem::Error),
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] rdvm_kernel::Error),
    /// The kernel command line.
    #[error(transparent)]
    Cmdline(#[from] cmdline::Error),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] rdvm_vmm::Error),
    /// The command cannot start, and nothing was booted to find that out. The report says so as if it had been.
    #[error("{}", .0.message.as_deref().unwrap_or_default())]
    NotStarted(Box<Report>),
    /// Something of the host's that no stage owns.
    #[error("{what}: {}", reason(source))]
    Host {
        /// What was being done, and to what.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// What the pipeline gives.
pub type Result<T> = std::result::Result<T, Error>;
