//! PID 1 of an rdvm guest, and the contract between it and the host.
//!
//! The host imports [`protocol`] alone. The other modules are what `main.rs` turns into a freestanding ELF
//! (`build.rs` of rdvm compiles and embeds it): mount what a container expects, start the one command, carry
//! its output to the serial ports, reap, say how it ended, reset the machine. It refuses to grow beyond that.
//!
//! Two phases: until the command runs any failure ends the machine with a stage and an errno; from then on
//! PID 1 must not die, so it carries on with what still works.
#![no_std]
#![deny(unsafe_code)]

#[cfg(not(freestanding))]
extern crate alloc;

pub mod protocol;

pub mod init;

mod attributes;

mod etc;

mod mounts;

mod place;

mod spawn;

mod streams;

mod input;

mod outlet;

mod relay;

mod root;

pub mod collect;

mod timeline;

#[allow(unsafe_code)]
pub mod sys;
