//! Why there is no small kernel: the texts.

use rdvm_hostfs::escape::reason;
use std::io;

use rdvm_hostfs::units::ByteSize;
use rdvm_kernel::FileError;

/// The small kernel was not built.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// There is no place to put it.
    #[error("kernel build: there is no cache directory; set HOME or RDVM_CACHE")]
    NoCache,
    /// The source package is not installed.
    #[error(
        "kernel source: no {place}/linux-source-*.tar.* is there; sudo apt install linux-source, or name one with \
         --source"
    )]
    NoSource { place: String },
    /// `--source` names something that cannot be used.
    #[error(
        "--source: {path}: {what}; name a kernel's source, a .tar.xz, .tar.bz2, .tar.gz or .tar.zst or its directory"
    )]
    Source { path: String, what: String },
    /// Programs or headers that a kernel is built with.
    #[error("kernel build: {what} missing; sudo apt install {packages}")]
    Tools { what: String, packages: String },
    /// Not enough room for what is only needed while it is built.
    #[error(
        "{place}: a kernel build needs {need} and {free} are free; make room, or set TMPDIR to another place"
    )]
    Space {
        place: String,
        need: ByteSize,
        free: ByteSize,
    },
    /// The host refused something.
    #[error(
        "kernel build: {what}: {}; set RDVM_CACHE or TMPDIR to a place that can be written to",
        reason(source)
    )]
    Host { what: String, source: io::Error },
    /// A program failed.
    #[error("kernel build: {what} failed ({how}); the whole log is {log}, it ends with{end}")]
    Step {
        what: &'static str,
        how: String,
        log: String,
        end: String,
    },
    /// The source does not know some of our options.
    #[error(
        "kernel build: options that did not take effect in this source: {names}; name another with --source"
    )]
    Options { names: String },
    /// The result is no kernel that can be booted.
    #[error(
        "kernel build: what came out cannot be booted: {problem}; name another source with --source"
    )]
    Unusable { problem: FileError },
    /// A signal came.
    #[error("kernel build: stopped by signal {0}; nothing has changed")]
    Interrupted(i32),
}
