//! Request → a machine about to run.

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::host;
use super::plan::{Plan, command_name, plan_and_keep};
use crate::base::{Base, Body};
use crate::cmdline;
use crate::copyout::Receiver;
use crate::error::{Error, Result};
use crate::memory::MemoryPlan;
use crate::payload::{self, Surroundings};
use crate::report::MachineFacts;
use crate::request::Request;
use rdvm_hostfs::escape::{escaped, shown};
use rdvm_image::tree::{Kind, Tree};
use rdvm_initrd::layout::Layout;
use rdvm_initrd::{Epoch, Initrd, attributes};
use rdvm_vmm::Engine;
use rdvm_vmm::machine::Machine;
use rdvm_vmm::terminal;

/// A machine about to run, and what is known of it.
#[derive(Debug)]
pub struct Ready {
    /// What boots.
    pub machine: Machine,
    /// The RAM plan it was made by.
    pub memory: MemoryPlan,
    /// Why the machine does not run on KVM, where it could have been expected to.
    pub slower: Option<String>,
    /// What went less well than it should, one line each.
    pub warnings: Vec<String>,
    /// The table of extended attributes that the guest gets.
    pub(super) attributes: Option<Arc<[u8]>>,
    /// What runs, as the user knows it.
    pub(super) command_name: String,
    pub(super) engine: Engine,
    pub(super) receiver: Option<Receiver>,
    pub(super) facts: MachineFacts,
    pub(super) began: Instant,
}

/// Everything up to the boot: the image read and laid out, the RAM planned, the kernel opened, the engine chosen.
///
/// Errors: whatever keeps the machine from being built; nothing was booted then.
pub fn prepare(request: &Request) -> Result<Ready> {
    let began = Instant::now();
    let (engine, slower) = Engine::choose(request.engine)?;
    // What would fail at the end of a long run fails now.
    let receiver = match request.copies.out.is_empty() {
        true => None,
        false => Some(Receiver::open(&request.copies)?),
    };
    let Plan {
        base: Base { facts: base, body },
        kernel,
        memory,
        mut warnings,
        command,
        account,
        copied,
        contents,
        share,
    } = match plan_and_keep(request) {
        // What was to be copied out is answered as after any other end.
        Err(Error::NotStarted(mut report)) => {
            if let Some(receiver) = receiver {
                let why = report.message.clone();
                report.add_copies(receiver.finish(why.as_deref()));
            }
            return Err(Error::NotStarted(report));
        }
        plan => plan?,
    };
    let name = base.init;
    let command_name = command_name(&command);
    let rings = request.wants_rings().then(|| engine.rings_at());
    let cmdline = cmdline::build(&cmdline::Parts {
        init: &format!("/{name}"),
        show_boot: request.console.show_boot,
        engine: &engine.cmdline(request.cpus, rings, share),
        append: request.append.as_deref(),
    })?;
    let table: Option<Arc<[u8]>> = base.attributes.map(Into::into);
    let own = match &request.rdinit {
        Some(path) => {
            let mut own = None;
            if let Body::Read(image, _) = &body {
                warnings.extend(attributes::left_out(&image.tree, OWN_INIT_SETS_NONE));
                own = own_init_of(&image.tree, path)?;
            }
            if own.is_some() && path.exists() {
                let line = "taken from the image; the host's file of that name is left alone";
                warnings.push(format!("--rdinit: {}: {line}", shown(path)));
            }
            let init = own.map_or_else(|| own_init(path), Ok)?;
            payload::own_init(&name, checked_init(path, init)?)
        }
        None => {
            let surroundings = Surroundings {
                command: &command,
                account: &account,
                window: match request.stdin.tty {
                    true => terminal::window().unwrap_or_default(),
                    false => [0; 2],
                },
                rings,
            };
            payload::segment(&name, request, surroundings, table.clone())
        }
    };
    let own_places = Layout::of(&own, Epoch::from_env()?)?.into_places();
    let facts = MachineFacts {
        engine: engine.to_string(),
        kernel: kernel.path.display().to_string(),
        memory: memory.total.0,
        memory_needed: memory.need.0,
        cpus: request.cpus,
        entries: contents.entries,
        initrd: contents.packed_bytes + own_places.contents().packed_bytes,
        counts: None,
    };
    let mut initrd = Initrd::default();
    match body {
        Body::Read(image, places) => initrd.push(image.tree, places),
        Body::Kept(packed) => initrd.push_made(packed.file, packed.size),
    }
    if let Some((tree, places)) = copied {
        initrd.push(tree, places);
    }
    initrd.push(own, own_places);
    let machine = Machine {
        kernel,
        initrd,
        cmdline,
        memory: memory.total,
        cpus: request.cpus,
        rings: rings.is_some(),
        share,
    };
    Ok(Ready {
        machine,
        memory,
        slower,
        warnings,
        attributes: table,
        command_name,
        engine,
        receiver,
        facts,
        began,
    })
}

impl fmt::Display for Ready {
    /// What was chosen, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kernel = &self.machine.kernel;
        write!(
            f,
            "engine {}, kernel {} ({})",
            self.engine,
            shown(&kernel.path),
            kernel.origin
        )
    }
}

/// The image's own init, where `path` leads to a file of the image from its root.
fn own_init_of(tree: &Tree, path: &Path) -> Result<Option<Vec<u8>>> {
    let path = path.as_os_str().as_bytes();
    match tree.find(path).map(|entry| &entry.kind) {
        Some(Kind::File(file)) if path.starts_with(b"/") => {
            let what = || format!("--rdinit: {} in the image", escaped(path));
            let init = file.content.read(file.size);
            Ok(Some(init.map_err(host(what))?))
        }
        _ => Ok(None),
    }
}

/// The user's own init, from the host.
fn own_init(path: &Path) -> Result<Vec<u8>> {
    let what = || format!("--rdinit: {}", shown(path));
    std::fs::read(path).map_err(host(what))
}

/// Refuses what the kernel could not execute: it would silently try others.
fn checked_init(path: &Path, init: Vec<u8>) -> Result<Vec<u8>> {
    match init.starts_with(b"#!") || init.starts_with(b"\x7fELF") {
        true => Ok(init),
        false => Err(host(|| format!("--rdinit: {}", shown(path)))(
            io::Error::other(
                "is neither a script nor a program; start it with #! and its interpreter",
            ),
        )),
    }
}

/// What becomes of extended attributes without rdinit.
const OWN_INIT_SETS_NONE: &str = "with --rdinit nobody sets them";
