//! The confinement of this process: asked for once by its program, entered by each thread in its role.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

use crate::filter::Filter;
use crate::landlock::{Access, Ruleset};
use crate::layers::{Layer, LayerName, available};
use crate::rules::{Facts, Role};

static PROCESS: OnceLock<Process> = OnceLock::new();

/// A program's request to be confined.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// True if a layer that this host does not have is an error.
    pub required: bool,
    /// The directory in which the program gives an open file its name when the guest has ended.
    pub report: Option<PathBuf>,
}

/// A process that cannot be confined as it was asked to be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A layer is missing on this host.
    #[error("confinement: {0}")]
    Missing(Layer),
    /// The host refuses a layer that it has.
    #[error("confinement: {}", .0.kind())]
    Host(#[from] io::Error),
}

#[derive(Debug)]
struct Process {
    required: bool,
    report: Option<OwnedFd>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    layers: Vec<Layer>,
    children: Vec<u32>,
}

/// Asks for the confinement of this process: from now on [`enter`] does what it says. It is asked for once; a second time changes
/// nothing.
///
/// # Errors
///
/// A layer is required that the host does not have; the directory cannot be opened.
pub fn begin(wish: &Wish) -> Result<(), Error> {
    let layers = available();
    if let Some(layer) = layers.iter().find(|layer| wish.required && !layer.on) {
        return Err(Error::Missing(layer.clone()));
    }
    let report = wish.report.as_deref().map(|directory| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, directory, flags, Mode::empty())
    });
    let process = Process {
        required: wish.required,
        report: report.transpose().map_err(io::Error::from)?,
        state: Mutex::new(State {
            layers,
            children: Vec::new(),
        }),
    };
    // A program asks once.
    let _ = PROCESS.set(process);
    Ok(())
}

/// Returns true if this process has asked for confinement.
pub fn is_asked() -> bool {
    PROCESS.get().is_some()
}

/// Returns the layers of this process, in order; nothing if it has not asked for any.
pub fn layers() -> Vec<Layer> {
    let process = PROCESS.get();
    process.map_or_else(Vec::new, |process| process.state().layers.clone())
}

/// Allows the event loop's thread to end a child of this process, and to wait for it. For use before that has entered its role.
pub fn add_child(id: u32) {
    if let Some(process) = PROCESS.get() {
        process.state().children.push(id);
    }
}

/// Notes that the machine's process is in a network namespace of its own, or why it is not.
///
/// # Errors
///
/// It is not, and all layers are required.
pub fn set_network(missing: Option<String>) -> Result<(), Error> {
    let Some(process) = PROCESS.get() else {
        return Ok(());
    };
    let layer = Layer::new(LayerName::NetworkNamespace, missing);
    if process.required && !layer.on {
        return Err(Error::Missing(layer));
    }
    process.state().layers.push(layer);
    Ok(())
}

/// Confines the calling thread to a role that opens nothing. The first thread, which is the event loop's, also gives up what belongs
/// to the whole process: core dumps, and being looked into by other processes.
///
/// # Errors
///
/// The host refuses it.
pub fn enter(role: Role) -> io::Result<()> {
    enter_with(role, &[])
}

/// Confines the calling thread to a role that uses these directories, and opens nothing else.
///
/// # Errors
///
/// The host refuses it.
pub fn enter_with(role: Role, places: &[(BorrowedFd<'_>, Access)]) -> io::Result<()> {
    let Some(process) = PROCESS.get() else {
        return Ok(());
    };
    let facts = Facts {
        process: std::process::id(),
        children: process.state().children.clone(),
        has_report: process.report.is_some(),
    };
    if role == Role::EventLoop {
        give_up()?;
    }
    rustix::thread::set_no_new_privs(true)?;
    if process.has(LayerName::Landlock) {
        let ruleset = match role {
            Role::Proxy => Ruleset::with_network()?,
            _ => Ruleset::new()?,
        };
        for (place, access) in places {
            ruleset.allow(*place, false, *access)?;
        }
        if let Some(report) = process.report.as_ref().filter(|_| role == Role::EventLoop) {
            ruleset.allow(report.as_fd(), false, Access::Name)?;
        }
        ruleset.enter()?;
    }
    if process.has(LayerName::Seccomp) {
        Filter::of(role, &facts)?.enter()?;
    }
    Ok(())
}

/// Gives up core dumps, and having its memory read by other processes of the user.
fn give_up() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    Ok(setrlimit(Resource::Core, none)?)
}

impl Process {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, name: LayerName) -> bool {
        let state = self.state();
        state
            .layers
            .iter()
            .any(|layer| layer.name == name && layer.on)
    }
}
