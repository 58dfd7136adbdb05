//! Request → a machine about to run.

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::command_line::name_of;
use super::host;
use super::plan::{Plan, cache_of, make};
use crate::cmdline;
use crate::copyout::Receiver;
use crate::error::{Error, Result};
use crate::memory::MemoryPlan;
use crate::network::PreparedNetwork;
use crate::payload::{self, Surroundings};
use crate::report::MachineFacts;
use crate::request::Request;
use crate::scratch::ScratchPlan;
use rdvm_hostfs::escape::{escaped, shown};
use rdvm_image::tree::{Kind, Tree};
use rdvm_initrd::layout::{Layout, Places};
use rdvm_initrd::{Epoch, Initrd, attributes};
use rdvm_vmm::Engine;
use rdvm_vmm::machine::{Machine, Region, Sizes};
use rdvm_vmm::terminal;

/// A machine about to run, and what is known of it.
#[derive(Debug)]
pub struct Ready {
    /// The machine.
    pub machine: Machine,
    /// The RAM plan it was made by.
    pub memory: MemoryPlan,
    /// The reason why the machine does not run on KVM, where it could have been expected to.
    pub slower: Option<String>,
    /// Problems that do not keep the machine from running, one line each.
    pub warnings: Vec<String>,
    /// The reason why a large image is not used in place.
    pub not_in_place: Option<String>,
    /// The start of the report's timeline: when [`prepare`] was called, unless the caller sets an earlier moment.
    pub began: Instant,
    /// The start of the report's timings.
    pub(super) prepared_since: Instant,
    /// The table of extended attributes that the guest gets.
    pub(super) attributes: Option<Arc<[u8]>>,
    pub(super) command_name: String,
    /// The names of the modules that the guest gets.
    pub(super) modules: Vec<String>,
    /// The scratch space, if there is any.
    pub scratch: Option<ScratchPlan>,
    pub(super) engine: Engine,
    pub(super) receiver: Option<Receiver>,
    pub(super) network: Option<PreparedNetwork>,
    pub(super) facts: MachineFacts,
}

/// Does everything up to the boot: reads and lays out the image, plans the RAM, opens the kernel, chooses the engine.
///
/// # Errors
/// Whatever keeps the machine from being built; nothing was booted then.
pub fn prepare(request: &Request) -> Result<Ready> {
    let began = Instant::now();
    let (engine, slower) = Engine::choose(request.engine)?;
    // A destination that cannot be written to is an error now, and not at the end of a long run.
    let receiver = match request.copies.out.is_empty() {
        true => None,
        false => Some(Receiver::open(&request.copies)?),
    };
    let mut plan = match make(request, &engine) {
        // Copies are reported as after any other end.
        Err(Error::NotStarted(mut report)) => {
            if let Some(receiver) = receiver {
                let why = report.message.clone();
                report.add_copies(receiver.finish(why.as_deref()));
            }
            return Err(Error::NotStarted(report));
        }
        plan => plan?,
    };
    let network = PreparedNetwork::listen(&request.network, &plan.command)?;
    let rings = request.wants_rings().then(|| engine.rings_at());
    let info = plan.image.info();
    let attributes: Option<Arc<[u8]>> = info.attributes.as_deref().map(Into::into);
    let targets = targets(&plan);
    let own = match &request.rdinit {
        Some(path) => own_init(&mut plan, path)?,
        None => {
            let surroundings = Surroundings {
                command: &plan.command,
                account: &plan.account,
                window: match request.stdin.tty {
                    true => terminal::window().unwrap_or_default(),
                    false => [0; 2],
                },
                rings,
                regions: &targets.iter().map(Vec::as_slice).collect::<Vec<_>>(),
                modules: plan.modules.as_ref().map(|modules| &modules.bytes),
            };
            payload::segment(&info.init, request, surroundings, attributes.clone())
        }
    };
    let own_places = Layout::of(&own, Epoch::from_env()?)?.into_places();
    let facts = facts(&engine, &plan, &own_places, request.cpus);
    let cmdline = cmdline(request, &engine, &plan, facts.initrd)?;
    let mut initrd = Initrd::default().with_progress(request.progress.clone());
    let (cache, warnings) = (cache_of(request), &mut plan.warnings);
    let root = plan
        .image
        .into_root(&mut initrd, cache.as_ref(), &request.progress, warnings)?;
    let mut regions: Vec<Region> = root.into_iter().collect();
    for (volume, _) in plan.volumes {
        let mut none = Initrd::default();
        regions.extend(volume.into_root(&mut none, cache.as_ref(), &request.progress, warnings)?);
    }
    if let Some((tree, places)) = plan.copied {
        initrd.push(tree, places);
    }
    initrd.push(own, own_places);
    let scratch = plan.scratch.as_ref();
    let scratch = scratch.map(|scratch| scratch.make(&mut plan.warnings));
    let machine = Machine {
        kernel: plan.kernel,
        initrd,
        cmdline,
        memory: plan.memory.total,
        cpus: request.cpus,
        rings: rings.is_some(),
        regions,
        scratch: scratch.transpose()?,
    };
    Ok(Ready {
        machine,
        memory: plan.memory,
        slower,
        warnings: plan.warnings,
        not_in_place: plan.not_in_place,
        began,
        prepared_since: began,
        attributes,
        command_name: name_of(&plan.command),
        modules: plan.modules.map_or_else(Vec::new, |modules| modules.names),
        scratch: plan.scratch,
        engine,
        receiver,
        network,
        facts,
    })
}

/// Returns where the guest's regions are mounted, in their order.
fn targets(plan: &Plan) -> Vec<Vec<u8>> {
    let root = plan.image.info().region.map(|_| b"/".to_vec());
    let volumes = plan.volumes.iter().map(|(_, target)| target.clone());
    let scratch = plan.scratch.as_ref().map(|_| rdvm_proto::SWAP.to_vec());
    root.into_iter().chain(volumes).chain(scratch).collect()
}

/// Writes the kernel's command line, for an initrd of so many bytes.
fn cmdline(request: &Request, engine: &Engine, plan: &Plan, initrd: u64) -> Result<String> {
    let rings = request.wants_rings().then(|| engine.rings_at());
    let sizes = Sizes {
        memory: plan.memory.total,
        initrd,
        regions: &plan.regions,
        scratch: plan.scratch.as_ref().map(|scratch| scratch.size.0),
    };
    Ok(cmdline::build(&cmdline::Parts {
        init: &format!("/{}", plan.image.info().init),
        show_boot: request.console.show_boot,
        engine: &engine.cmdline(request.cpus, rings, &sizes),
        append: request.append.as_deref(),
    })?)
}

fn facts(engine: &Engine, plan: &Plan, own: &Places, cpus: u8) -> MachineFacts {
    MachineFacts {
        engine: engine.to_string(),
        kernel: plan.kernel.path.display().to_string(),
        memory: plan.memory.total.0,
        memory_needed: plan.memory.need.0,
        cpus,
        entries: plan.image.info().contents.entries,
        initrd: plan.contents.packed_bytes + own.contents().packed_bytes,
        counts: None,
    }
}

impl Ready {
    /// Returns a line for each published port, only for those with `any` free number if that is set.
    pub fn published_ports(&self, any: bool) -> Vec<String> {
        let network = self.network.iter();
        network.flat_map(|network| network.lines(any)).collect()
    }
}

impl fmt::Display for Ready {
    /// Engine and kernel on one line.
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

/// Makes the segment of the user's own init: a file of the image, where `path` leads to one from its root, else of the
/// host.
fn own_init(plan: &mut Plan, path: &Path) -> Result<Tree> {
    let mut own = None;
    if let Some(image) = plan.image.image() {
        let warning = attributes::left_out(&image.tree, OWN_INIT_SETS_NONE);
        plan.warnings.extend(warning);
        own = init_of_image(&image.tree, path)?;
    }
    if own.is_some() && path.exists() {
        let line = "taken from the image; the host's file of that name is left alone";
        plan.warnings
            .push(format!("--rdinit: {}: {line}", shown(path)));
    }
    let init = own.map_or_else(|| init_of_host(path), Ok)?;
    let name = &plan.image.info().init;
    Ok(payload::own_init(name, checked_init(path, init)?))
}

fn init_of_image(tree: &Tree, path: &Path) -> Result<Option<Vec<u8>>> {
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

fn init_of_host(path: &Path) -> Result<Vec<u8>> {
    let what = || format!("--rdinit: {}", shown(path));
    std::fs::read(path).map_err(host(what))
}

/// Rejects files that the kernel could not execute: it would silently try others.
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

/// The reason why extended attributes are lost without rdinit.
const OWN_INIT_SETS_NONE: &str = "with --rdinit nobody sets them";
