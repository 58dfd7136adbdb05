//! Confinement of a program that runs what it does not trust: the calls that each of its threads may still make, and the files
//! that it may still reach.
//!
//! It belongs to a process and cannot be taken back, so it is the program that asks for it ([`begin`]), and never a library. After
//! that each thread calls [`enter`] with its [`Role`], before it sees anything of the guest's. In a process that has not asked, that
//! does nothing.
//!
//! `rules.rs` has the calls of each role, `filter.rs` makes seccomp filters of them, `landlock.rs` bounds what can be opened,
//! `child.rs` is what a child does before it becomes another program, `process.rs` is the state of the process, and `layers.rs` says
//! what is in force.

#![deny(unsafe_code)]

#[cfg(debug_assertions)]
#[allow(unsafe_code)]
mod attack;
mod child;
mod filter;
mod landlock;
mod layers;
mod process;
mod rules;
#[allow(unsafe_code)]
mod sys;

#[cfg(debug_assertions)]
pub use attack::attack;
pub use child::{ChildLayers, close_on_exec, shares_network};
pub use landlock::Access;
pub use layers::{Layer, LayerName, available};
pub use process::{
    Error, Wish, add_child, begin, enter, enter_with, is_asked, layers, set_network,
};
pub use rules::Role;
