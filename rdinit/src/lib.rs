//! PID 1 of an rdvm guest.
//!
//! `main.rs` turns this library into a freestanding ELF, which rdvm's `build.rs` compiles and embeds: mount what a container
//! expects, start the one command, carry its output to the serial ports, reap, report how it ended, reset the machine. What it
//! and the host agree on is the crate `rdvm-proto`.
//!
//! Two phases: until the command runs any failure ends the machine with a stage and an errno; from then on
//! PID 1 must not die, so it carries on with what still works.
#![no_std]
#![deny(unsafe_code)]

#[cfg(not(freestanding))]
extern crate alloc;

pub mod init;

#[path = "arch/x86_64.rs"]
#[allow(non_upper_case_globals)]
mod arch;

mod attributes;

mod etc;

mod group;

mod mounts;

mod modules;

mod net;

mod place;

mod privileges;

mod spawn;

mod streams;

mod input;

mod copy_writer;

mod relay;

mod regions;

mod rings;

mod root;

mod setup;

pub mod collect;

mod timeline;

#[allow(unsafe_code)]
mod sys;

pub use sys::exit;
