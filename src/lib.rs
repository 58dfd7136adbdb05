//! rdvm runs a root file system as its own machine: an image in, stdout, stderr and an exit code out.
//!
//! The path from the IMAGE argument to the exit code is the order of the modules below; [`run`] is the whole of it on
//! one screen.
//!
//! # A machine from Rust
//!
//! ```no_run
//! use rdvm::{Request, Streams};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let request = Request::new("/srv/images/debian", ["dpkg", "-l"]);
//! let finished = rdvm::run(&request, Streams::inherited()?)?;
//! println!("{:?}, exit code {}", finished.report.outcome, finished.report.exit_code);
//! # Ok(())
//! # }
//! ```
//!
//! A [`Request`] is plain data with public fields: RAM, CPUs, kernel, engine, environment. Whatever keeps the machine
//! from running is an [`Error`](error::Error) with what to do about it; how the command ended is no error but the
//! [`Report`](report::Report). [`pipeline::prepare`] and [`pipeline::boot`] are the two halves of [`run`], for those
//! who want to see the plan first; the crate `rdvm-vmm` is the layer below, without images.
//! No signal handler is installed for a run, and several machines run in one process: a program that wants SIGINT, SIGTERM,
//! SIGHUP and SIGQUIT to stop a machine, or that stops it by itself, hands a [`StopSignals`](pipeline::StopSignals) to
//! [`pipeline::boot`]. While machines run on KVM the process catches SIGRTMIN, which makes a vCPU leave the guest.
//!
//! # Non-goals
//!
//! No shared file systems, no devices beyond three serial ports, no daemon, no unpacking of images on the host.

#![deny(unsafe_code)]

pub mod cli;

pub mod environment;

pub mod profile;

pub mod request;

pub mod trust;

pub mod base;

pub mod command;

pub mod output;

pub mod copyin;

pub mod copyout;

pub mod memory;

pub mod payload;

pub mod kernel;

pub mod cmdline;

pub mod report;

pub mod level;

pub mod doctor;

pub mod inspect;

pub mod notice;

pub mod pipeline;

#[cfg(test)]
#[path = "../tests/it/support/skips.rs"]
mod skips;

pub mod error;

pub mod cache;

pub use pipeline::{Plan, Streams, plan, run};

pub use request::Request;
