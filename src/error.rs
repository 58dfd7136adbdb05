//! The crate's error: one variant for each stage, wrapping that stage's own.

use crate::report::Report;
use crate::{cmdline, copyin, copyout, memory, trust, way_out};
use rdvm_hostfs::escape::reason;
use rdvm_hostfs::hostmem;

/// A machine that could not run. The text is one line: subject, what went wrong, way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The image cannot be read.
    #[error("{}{}", .0, way_out::of_image(.0))]
    Image(#[from] rdvm_image::Error),
    /// The image is not the expected one.
    #[error(transparent)]
    Trust(#[from] trust::Error),
    /// The command's user is not in the image.
    #[error("--user: {0}")]
    Account(#[from] rdvm_image::account::Error),
    /// The initrd cannot be made.
    #[error(transparent)]
    Initrd(#[from] rdvm_initrd::Error),
    /// The image's file system cannot be made.
    #[error(transparent)]
    Erofs(#[from] rdvm_erofs::Error),
    /// The image has to be a region of memory and cannot be.
    #[error("--root erofs: {reason}; --root auto and --root initrd unpack the image instead")]
    NotInPlace {
        /// The reason.
        reason: String,
    },
    /// A directory has to be a region of memory and cannot be.
    #[error("--volume: {directory}: {reason}; --copy-in copies it instead")]
    NotAVolume {
        /// The directory, escaped.
        directory: String,
        /// The reason.
        reason: String,
    },
    /// A port cannot be listened on.
    #[error("--publish: {0}")]
    Publish(#[from] rdvm_proxy::RuleError),
    /// The process cannot be confined as it asked to be.
    #[error("{}{}", .0, way_out::OF_CONFINEMENT)]
    Confinement(#[from] rdvm_confine::Error),
    /// The network's process does not start.
    #[error(transparent)]
    Network(#[from] rdvm_proxy::ProcessError),
    /// The machine cannot have scratch space.
    #[error("--scratch: {reason}; leave it out, and give the machine more RAM with -m")]
    NoScratch {
        /// The reason.
        reason: String,
    },
    /// The file of the scratch space cannot be made.
    #[error(
        "--scratch: {directory}: {}; set TMPDIR to a directory on a disk",
        reason(source)
    )]
    Scratch {
        /// Its directory, escaped.
        directory: String,
        /// The system's error.
        source: std::io::Error,
    },
    /// The destination of a copy cannot be used.
    #[error(transparent)]
    CopyOut(#[from] copyout::Error),
    /// A file cannot be copied in.
    #[error(transparent)]
    CopyIn(#[from] copyin::Error),
    /// The guest has too little RAM.
    #[error(transparent)]
    Memory(#[from] memory::TooLittle),
    /// The host has too little memory.
    #[error("{}", way_out::with_host_memory(.0))]
    HostMemory(#[from] hostmem::Error),
    /// No kernel can be used.
    #[error(transparent)]
    Kernel(#[from] rdvm_kernel::Error),
    /// The kernel command line cannot be used.
    #[error(transparent)]
    Cmdline(#[from] cmdline::Error),
    /// The engine failed.
    #[error("{}{}", .0, way_out::of_engine(.0))]
    Engine(#[from] rdvm_vmm::Error),
    /// The command cannot start, which showed without booting. The report is that of a booted run.
    #[error("{}", .0.message.as_deref().unwrap_or_default())]
    NotStarted(Box<Report>),
    /// A file or call of the host failed.
    #[error("{what}: {}", reason(source))]
    Host {
        /// The action and its object.
        what: String,
        /// The system's error.
        source: std::io::Error,
    },
}

/// The result of a stage.
pub type Result<T> = std::result::Result<T, Error>;
