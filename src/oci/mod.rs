//! An OCI runtime: containers as engines ask for them, each a machine.
//!
//! An engine gives a bundle, which is a root file system and `config.json`. `translate` makes a
//! [`Request`](crate::request::Request) of it, or refuses by name what a machine cannot give. `create` starts a process
//! that builds and boots the machine (`machine`) and holds its command; `start` lets it go. That process is the container:
//! the engine waits for it, and its exit code is the command's. What is known of a container between calls is in a directory
//! (`state`); nothing of it is believed that the kernel does not confirm.

mod cgroup;
mod console;
mod control;
mod create;
mod devices;
mod error;
mod features;
mod hooks;
mod log;
mod machine;
mod mounts;
mod namespaces;
mod options;
mod proc;
mod process;
mod refusals;
mod resources;
mod signal;
mod spec;
mod state;
mod translate;
mod verbs;

use std::path::PathBuf;

pub use self::cgroup::Manager;
pub use self::create::{CreateArgs, Created};
pub use self::error::{Error, Result};
pub use self::features::features;
pub use self::log::{Log, LogFormat};
pub use self::machine::{MACHINE_VERB, machine};
pub use self::signal::parse_signal;
pub use self::translate::MachineOptions;
pub use self::verbs::Listed;

/// The runtime, as it is called by an engine.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// The directory with what is known of the containers.
    pub root: PathBuf,
    /// The log.
    pub log: Log,
    /// The maker of control groups.
    pub manager: Manager,
    /// Options of every machine.
    pub machine: MachineOptions,
}
