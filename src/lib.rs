//! rdvm runs a root file system as its own machine: an image in, stdout, stderr and an exit code out.
//!
//! # A machine from Rust
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use rdvm::{Request, Streams};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let request = Request::new("/srv/images/debian", ["dpkg", "-l"]).timeout(Duration::from_secs(60));
//! let finished = rdvm::run(&request, Streams::inherited()?)?;
//! println!("{:?}, exit code {}", finished.report.outcome, finished.report.exit_code);
//! # Ok(())
//! # }
//! ```
//!
//! A [`Request`] describes a run; [`plan`] computes what the run needs without booting, and [`run`] boots it. An [`Error`]
//! means that the machine could not run, and names the way out. A command that fails is not an error: the [`Report`] tells
//! how it ended. The crate `rdvm-vmm` is the layer below, without images.
//!
//! No signal handler is installed for a run, and several machines run in one process. A
//! [`Sandbox`] is a machine that the program can stop. While machines run on KVM the process catches SIGRTMIN, which makes
//! a vCPU leave the guest.
//!
//! # Non-goals
//!
//! No shared file systems, no devices beyond three serial ports, no daemon, no unpacking of images on the host.

#![deny(unsafe_code)]

// Hidden modules are for the program and the tests; their order is that of the data path.
#[doc(hidden)]
pub mod cli;

mod environment;

mod profile;

#[doc(hidden)]
pub mod request;

#[doc(hidden)]
pub mod trust;

#[doc(hidden)]
pub mod names;

#[doc(hidden)]
pub mod prepared_image;

#[doc(hidden)]
pub mod cache;

mod command;

#[doc(hidden)]
pub mod network;

#[doc(hidden)]
pub mod output;

#[doc(hidden)]
pub(crate) mod copyin;

#[doc(hidden)]
pub mod copyout;

#[doc(hidden)]
pub mod memory;

#[doc(hidden)]
pub mod scratch;

#[doc(hidden)]
pub mod payload;

#[doc(hidden)]
pub mod kernel;

mod cmdline;

#[doc(hidden)]
pub mod report;

#[doc(hidden)]
pub mod level;

#[doc(hidden)]
pub mod pipeline;

mod sandbox;

#[doc(hidden)]
pub mod oci;

#[doc(hidden)]
pub mod way_out;

#[doc(hidden)]
pub mod error;

#[cfg(test)]
#[path = "../tests/it/support/skips.rs"]
mod skips;

pub use error::Error;

pub use pipeline::{Finished, Plan, Streams, plan, run};

pub use report::{Outcome, Report};

pub use request::{EngineChoice, Request};

pub use sandbox::Sandbox;
