//! The whole path on one screen: every stage once, in order, each consuming what the one before gave.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::base::{self, Base, Body};
use crate::cache::Cache;
use crate::cmdline;
use crate::command;
use crate::copyin::{self, Gathered};
use crate::copyout::Receiver;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::escape::{escaped, shown};
use crate::guest::console::Console;
use crate::guest::control::Control;
use crate::guest::ending::Ending;
use crate::guest::input::Input;
use crate::guest::outlet::Outlet;
use crate::guest::{Limits, Listener, Moments};
use crate::initrd::account::{self, Account};
use crate::initrd::attributes::Loss;
use crate::initrd::layout::Layout;
use crate::initrd::payload::{self, Surroundings};
use crate::initrd::{self, Epoch, Initrd, attributes};
use crate::kernel::{self, Kernel, Search};
use crate::machine::Machine;
use crate::memory::{self, MemoryPlan, Needs};
use crate::report::{MachineFacts, Report, Timings, milliseconds, rounded};
use crate::request::{Command, ImageRef, KernelWish, MemoryWish, Request, Stdin};
use crate::terminal::{self, Terminal};
use crate::units::ByteSize;
use crate::watch::Watch;

/// What an image needs, before anything is written or booted.
#[derive(Debug)]
pub struct Plan {
    /// The image, laid out.
    pub base: Base,
    /// The kernel.
    pub kernel: Kernel,
    /// RAM.
    pub memory: MemoryPlan,
}

/// Reads the image and finds the kernel, both at once, and plans the RAM.
///
/// Errors: the image or the kernel cannot be used, the image is not the one agreed on, or the memory wished for is too
/// little.
pub fn plan(image: &ImageRef, kernel: &KernelWish, cpus: u8, wish: MemoryWish) -> Result<Plan> {
    let (base, kernel) = read(image, kernel, false)?;
    let memory = memory::plan(&needs(&base, &kernel, cpus), wish)?;
    Ok(Plan {
        base,
        kernel,
        memory,
    })
}

/// The image and the kernel, both at once.
fn read(image: &ImageRef, kernel: &KernelWish, keep: bool) -> Result<(Base, Kernel)> {
    let search = Search::from_env();
    let cache = search.cache.as_deref().filter(|_| keep).map(Cache::below);
    let epoch = Epoch::from_env_or_last()?;
    let image_boot = image.path.join("boot");
    let (kernel, base) = thread::scope(|scope| {
        let kernel = scope.spawn(|| kernel::open(kernel, Some(&image_boot), &search));
        let base = base::open(image, epoch, cache.as_ref());
        (kernel.join(), base)
    });
    // The image's faults first: it is what the user named.
    let base = base?;
    let kernel = kernel.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok((base, kernel))
}

fn needs(base: &Base, kernel: &Kernel, cpus: u8) -> Needs {
    Needs {
        contents: base.facts.contents,
        kernel: ByteSize(kernel.memory_bytes()),
        cpus,
        attributes: base.facts.attributes.is_some(),
    }
}

/// Reads the image, and plans a run of it as far as there is a kernel for one.
///
/// Errors: the image cannot be used, or is not the one agreed on; the second result's is why there is no plan.
pub fn look(
    image: &ImageRef,
    kernel: &KernelWish,
    cpus: u8,
) -> Result<(Base, Result<(Kernel, MemoryPlan)>)> {
    let base = base::open(image, Epoch::from_env_or_last()?, None)?;
    let kernel = kernel::open(kernel, Some(&image.path.join("boot")), &Search::from_env());
    let machine = kernel.map_err(Error::from).and_then(|kernel| {
        let memory = memory::plan(&needs(&base, &kernel, cpus), MemoryWish::FromImage)?;
        Ok((kernel, memory))
    });
    Ok((base, machine))
}

impl Plan {
    /// What went less well than it should and is no reason to stop, one line each.
    pub fn warnings(&self) -> Vec<String> {
        let image = self.base.facts.warnings.iter();
        image.chain(&self.kernel.warnings).cloned().collect()
    }
}

/// A machine about to run, and what is known of it.
#[derive(Debug)]
pub struct Ready {
    /// What boots.
    pub machine: Machine,
    /// The RAM plan it was made by.
    pub memory: MemoryPlan,
    /// What went less well than it should, one line each.
    pub warnings: Vec<String>,
    /// The table of extended attributes that the guest gets.
    attributes: Option<Arc<[u8]>>,
    /// What runs, as the user knows it.
    command_name: String,
    engine: Engine,
    receiver: Option<Receiver>,
    facts: MachineFacts,
    began: Instant,
}

/// Everything up to the boot: the image read and laid out, the RAM planned, the kernel opened, the engine chosen.
///
/// Errors: whatever keeps the machine from being built; nothing was booted then.
pub fn prepare(request: &Request) -> Result<Ready> {
    let began = Instant::now();
    let (engine, why) = Engine::choose(request.engine)?;
    // What would fail at the end of a long run fails now.
    let receiver = match request.copies.out.is_empty() {
        true => None,
        false => Some(Receiver::open(&request.copies)?),
    };
    // PID 1 of the user's own is told of nothing that is kept besides the archive.
    let keep = request.cache && request.rdinit.is_none();
    let (base, kernel) = read(&request.image, &request.kernel, keep)?;
    let command = command::over(&request.command, &base.facts.config);
    let account = account_of(&base, &command, request)?;
    let below = payload::copy_in_directory(&base.facts.init);
    let copied = copyin::read(&request.copies, &below, account.uid, account.gid)?;
    let copied = match copied {
        Some(Gathered { tree, warnings }) => {
            let places = Layout::of(&tree, Epoch::from_env_or_last()?)?.into_places();
            Some((tree, places, warnings))
        }
        None => None,
    };
    let mut needs = needs(&base, &kernel, request.cpus);
    if let Some((_, places, _)) = &copied {
        needs.contents = needs.contents.and(places.contents());
    }
    let memory = memory::plan(&needs, request.memory)?;
    let plan = Plan {
        base,
        kernel,
        memory,
    };
    let mut warnings: Vec<String> = why.into_iter().chain(plan.warnings()).collect();
    let Base { facts: base, body } = plan.base;
    let name = base.init;
    let command_name = command_name(&command);
    let rings = request
        .wants_rings()
        .then(|| engine.rings_at(plan.memory.total));
    let cmdline = cmdline::build(&cmdline::Parts {
        init: &format!("/{name}"),
        root: plan.memory.root,
        show_boot: request.console.show_boot,
        engine: &engine.cmdline(rings),
        append: request.append.as_deref(),
    })?;
    let table: Option<Arc<[u8]>> = base.attributes.map(Into::into);
    let own = match &request.rdinit {
        Some(path) => {
            if let Body::Read(image, _) = &body {
                warnings.extend(attributes::left_out(&image.tree, OWN_INIT_SETS_NONE));
            }
            payload::own_init(&name, own_init(path)?)
        }
        None => {
            let surroundings = Surroundings {
                command: &command,
                account: &account,
                root: plan.memory.root,
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
        kernel: plan.kernel.path.display().to_string(),
        memory: plan.memory.total.0,
        memory_needed: plan.memory.need.0,
        cpus: request.cpus,
        entries: needs.contents.entries,
        initrd: needs.contents.packed_bytes + own_places.contents().packed_bytes,
        counts: None,
    };
    let mut initrd = Initrd::default();
    match body {
        Body::Read(image, places) => initrd.push(image.tree, places),
        Body::Kept(packed) => initrd.push_made(packed.file, packed.size),
    }
    if let Some((tree, places, left_out)) = copied {
        warnings.extend(left_out);
        initrd.push(tree, places);
    }
    initrd.push(own, own_places);
    let machine = Machine {
        kernel: plan.kernel,
        initrd,
        cmdline,
        memory: plan.memory.total,
        cpus: request.cpus,
        rings: rings.is_some(),
    };
    Ok(Ready {
        machine,
        memory: plan.memory,
        warnings,
        attributes: table,
        command_name,
        engine,
        receiver,
        facts,
        began,
    })
}

/// Who runs the command; PID 1 of the user's own is not told.
fn account_of(base: &Base, command: &Command, request: &Request) -> Result<Account> {
    let user = command.user.as_ref().filter(|_| request.rdinit.is_none());
    let files = match (&base.body, user) {
        (Body::Read(image, _), Some(_)) => account::Files::read(&image.tree),
        _ => Ok(base.facts.accounts.clone()),
    };
    let account = files.and_then(|files| account::account(&files, user));
    Ok(account.map_err(initrd::Error::from)?)
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

/// Where the guest's input comes from, and where its output goes.
#[derive(Debug)]
pub struct Streams {
    /// The command's standard input, where it is to have any.
    pub stdin: Option<OwnedFd>,
    /// The command's standard output.
    pub stdout: OwnedFd,
    /// The console: the command's standard error.
    pub stderr: OwnedFd,
}

impl Streams {
    /// This process's own.
    ///
    /// Errors: no descriptors left.
    pub fn inherited() -> io::Result<Self> {
        Ok(Self {
            stdin: Some(io::stdin().as_fd().try_clone_to_owned()?),
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
        })
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Finished {
    /// What happened.
    pub report: Report,
    /// The console's last lines, where the machine died before the command ran and nobody saw them.
    pub last_lines: Vec<String>,
}

/// The whole path: packs, sizes, boots, runs, and says how it ended.
///
/// Errors: whatever kept the machine from running; how the command ended is no error.
pub fn run(request: &Request, streams: Streams) -> Result<Finished> {
    boot(request, prepare(request)?, streams)
}

/// The second half of [`run`]: boots what [`prepare`] made.
///
/// Errors: whatever kept the machine from running.
pub fn boot(request: &Request, ready: Ready, streams: Streams) -> Result<Finished> {
    let copy = match &request.console.file {
        Some(path) => {
            let file = File::create(path);
            let file = file.map_err(host(|| format!("--console: {}", path.display())))?;
            // A pipe or terminal that nobody reads must not hold up the machine: what it does not take is lost.
            let _ = rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::NONBLOCK);
            Some(file)
        }
        None => None,
    };
    let console = Console::new(Outlet::new(streams.stderr), copy, request.console.show_boot);
    let control = if request.rdinit.is_some() {
        Control::text()
    } else {
        Control::frames()
    };
    let watch = Watch::start(request.timeout).map_err(host(|| "catching signals".to_owned()))?;
    let mut listener = Listener::new(Outlet::new(streams.stdout), console, control);
    if request.takes_orders() {
        listener = listener.with_limits(Limits {
            stop_timeout: request.stop_timeout,
            max_output: request.max_output,
        });
    }
    let Stdin { interactive, tty } = request.stdin;
    let terminal = tty
        .then(|| Terminal::of_process(interactive, &watch))
        .transpose();
    let terminal = terminal.map_err(host(|| "--tty".to_owned()))?;
    let typed = terminal.as_ref().is_some_and(Terminal::is_typed);
    let input = Input::new(streams.stdin.filter(|_| interactive), typed);
    listener = listener.with_input(input, terminal);
    if let Some(receiver) = ready.receiver {
        listener = listener.with_receiver(receiver);
    }
    let memory = ready.machine.memory.to_string();
    let (table, root) = (ready.attributes, ready.memory.root);
    let (ending, mut listener) = ready.engine.boot(ready.machine, listener, &watch)?;
    let timings = timings(ready.began, listener.moments());
    let name = ready.command_name;
    let mut report = Report::of(&ending, &name, &memory);
    // A user's own init sends a code and nothing else.
    report.guest = report.guest.filter(|_| request.rdinit.is_none());
    report.machine = Some(MachineFacts {
        counts: listener.counts(),
        ..ready.facts
    });
    report.timings = Some(timings);
    let lost = table.zip(listener.attributes_lost());
    report.attributes_lost = lost.map(|(table, lost)| Loss::of(&table, &lost, root));
    let unseen = matches!(
        ending,
        Ending::Died { .. } | Ending::TimedOut { started: false } | Ending::NotStarted { .. }
    );
    let last_lines =
        match unseen && listener.moments().started.is_none() && !listener.console().was_shown() {
            true => listener.console().last_lines(LAST_LINES),
            false => Vec::new(),
        };
    if let Some(receiver) = listener.into_receiver() {
        let unanswered = report.message.clone();
        report.add_copies(receiver.finish(unanswered.as_deref()));
    }
    Ok(Finished { report, last_lines })
}

/// The user's own init. What the kernel could not execute is refused: it would silently try others.
fn own_init(path: &Path) -> Result<Vec<u8>> {
    let what = || format!("--rdinit: {}", shown(path));
    let init = std::fs::read(path).map_err(host(what))?;
    match init.starts_with(b"#!") || init.starts_with(b"\x7fELF") {
        true => Ok(init),
        false => Err(host(what)(io::Error::other(
            "is neither a script nor a program; start it with #! and its interpreter",
        ))),
    }
}

/// What becomes of extended attributes without rdinit.
const OWN_INIT_SETS_NONE: &str = "with --rdinit nobody sets them";

/// How many of the console's last lines are shown when a machine dies.
const LAST_LINES: usize = 20;

/// The command as the user knows it.
fn command_name(command: &Command) -> String {
    match command.argv.first() {
        Some(name) if name.is_empty() => "\"\"".to_owned(),
        Some(name) => escaped(name.as_encoded_bytes()),
        None => payload::DEFAULT_COMMAND.to_owned(),
    }
}

/// The phases, as far as the guest has told.
fn timings(began: Instant, moments: Moments) -> Timings {
    let now = Instant::now();
    let between = |from: Option<Instant>, to: Option<Instant>| {
        from.zip(to)
            .map(|(from, to)| milliseconds(to.saturating_duration_since(from)))
    };
    let boot = moments.boot.unwrap_or_default();
    let nanoseconds =
        |from: u64, to: u64| (from > 0 && to >= from).then(|| rounded((to - from) as f64 / 1e6));
    let unpack = nanoseconds(boot.unpack_begin, boot.unpack_end);
    let in_kernel = (boot.init > 0).then_some(boot.init as f64 / 1e6);
    let loaded = moments.loaded.unwrap_or(now);
    let until_ready = between(Some(loaded), moments.ready);
    Timings {
        pack: milliseconds(loaded - began),
        start: until_ready
            .zip(in_kernel)
            .map(|(all, kernel)| rounded((all - kernel).max(0.0))),
        kernel: in_kernel.map(|all| rounded(all - unpack.unwrap_or(0.0))),
        unpack,
        init: between(moments.ready, moments.started),
        command: between(moments.started, moments.ended),
        stop: between(moments.ended, Some(now)),
        total: milliseconds(now - began),
    }
}

/// Wraps an error of the host's with what was being done.
fn host(what: impl FnOnce() -> String) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Host {
        what: what(),
        source,
    }
}
