//! rdvm runs a root file system as its own machine: an image in, stdout, stderr and an exit code out.
//!
//! The path from the IMAGE argument to the exit code is the order of the modules below; [`run`] is the whole of it on
//! one screen.
//!
//! # Non-goals
//!
//! No shared file systems, no devices beyond three serial ports, no daemon, no unpacking of images on the host.

#![deny(unsafe_code)]

pub mod cli;

pub mod environment;

pub mod request;

pub mod image;

pub mod initrd;

pub mod memory;

pub mod kernel;

pub mod cmdline;

pub mod machine;

pub mod watch;

pub mod engine;

pub mod guest;

pub mod report;

pub mod doctor;

pub mod inspect;

pub mod pipeline;

pub mod error;

pub mod atomic;

pub mod escape;

pub mod units;

pub use pipeline::{Plan, plan, run};
