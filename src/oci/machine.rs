//! The process of a container: it is the machine, from `create` to the command's end, and its exit code is the command's.
//!
//! `create` starts it as a program of its own, with the engine's streams, and whoever is the parent of the engine's
//! choice waits for it. What it does in between is a conversation with `create` (`control.rs`).

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rdvm_confine::{Access, Role, Wish};
use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};

use super::control::{self, Answer, FromMachine, Line, Order, ToMachine};
use super::error::{Error, Result, at, host};
use super::namespaces::{self, Network};
use super::spec::Spec;
use super::state;
use super::translate::{self, Container, MachineOptions};
use crate::error::Error as RunError;
use crate::pipeline::{self, Ready, StopSignals, Streams};
use crate::report::FAILED;
use crate::request::Request;

/// The word by which rdvm's own program is the process of a container.
pub const MACHINE_VERB: &str = "oci-machine";

/// The first message of `create` to the process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Launch {
    pub(super) bundle: std::path::PathBuf,
    pub(super) options: MachineOptions,
    /// The process is to lead a session, and its standard input is the session's terminal if it is one.
    pub(super) leads_session: bool,
}

/// Runs the process of the container whose directory is `directory`, and returns its exit code.
pub fn machine(directory: &Path) -> u8 {
    if let Err(error) = rdvm_proxy::close_inherited() {
        eprintln!("rdvm: /proc/self/fd: {error}");
        return FAILED;
    }
    let file = directory.join(state::CREATOR);
    let creator = control::call(&file).map_err(at(&file));
    let ended = creator.and_then(|mut creator| match live(directory, &mut creator) {
        Err(error) => {
            let code = error.exit_code();
            let message = error.to_string();
            // Whoever creates the container says it, not this process; unless it has given up already.
            let _ = creator.say(&FromMachine::Failed { message, code });
            Ok(code)
        }
        ended => ended,
    });
    ended.unwrap_or_else(|error| {
        eprintln!("rdvm: {error}");
        error.exit_code()
    })
}

fn live(directory: &Path, creator: &mut Line) -> Result<u8> {
    let gone = || host("create, which has ended");
    let ToMachine::Isolate(launch) = creator.hear().map_err(gone())? else {
        return Err(gone()(io::ErrorKind::InvalidData.into()));
    };
    if launch.leads_session {
        lead_session()?;
    }
    let path = directory.join(state::CONFIG);
    let text = fs::read(&path).map_err(at(&path))?;
    let spec = Spec::parse(&text).map_err(|source| Error::Syntax { path, source })?;
    if let Some(score) = spec
        .process
        .as_ref()
        .and_then(|process| process.oom_score_adj)
    {
        let path = Path::new("/proc/self/oom_score_adj");
        // Lowering it takes an administrator's rights, which a user's runtime has not.
        let _ = fs::write(path, score.to_string());
    }
    if spec.is_pod_sandbox() {
        return sandbox(directory, &spec, creator);
    }
    if let Some(required) = launch.options.confinement {
        let wish = Wish {
            required,
            report: None,
        };
        rdvm_confine::begin(&wish).map_err(|error| Error::Machine(error.to_string()))?;
    }
    let container = translate::container(&spec, &launch.bundle, &launch.options)?;
    isolate(&container.network, creator)?;
    if container.request.network.allow.is_empty() {
        container.network.check(&container.refusals)?;
    }
    let Container { mut request, .. } = container;
    request.stdin.interactive = !is_null(&io::stdin())?;
    if !request.network.allow.is_empty() {
        add_proxy(&mut request.command.env);
    }
    let ready = prepare(&request)?;
    run(directory, &request, ready, creator)
}

/// Enters the network namespace and lets hooks see it.
fn isolate(network: &Network, creator: &mut Line) -> Result<()> {
    network.enter()?;
    let gone = || host("create, which has ended");
    creator.say(&FromMachine::Isolated).map_err(gone())?;
    match creator.hear().map_err(gone())? {
        ToMachine::Prepare => Ok(()),
        _ => Err(gone()(io::ErrorKind::InvalidData.into())),
    }
}

/// Tells the command of its proxy, unless the configuration says something else.
fn add_proxy(env: &mut Vec<OsString>) {
    for entry in crate::network::environment() {
        let name = entry.split_inclusive('=').next().unwrap_or_default();
        if !env
            .iter()
            .any(|own| own.as_bytes().starts_with(name.as_bytes()))
        {
            env.push(entry.into());
        }
    }
}

fn prepare(request: &Request) -> Result<Ready> {
    pipeline::prepare(request).map_err(|error| match error {
        RunError::NotStarted(report) => {
            let program = request.command.argv.first();
            let program = program
                .map(|program| program.to_string_lossy())
                .unwrap_or_default();
            let told = report.message.clone().unwrap_or_default();
            Error::Command {
                message: not_started(&program, report.exit_code, &told),
                code: report.exit_code,
            }
        }
        error => Error::Machine(error.to_string()),
    })
}

/// Returns the message that podman, docker and containerd know, with rdvm's own behind it.
fn not_started(program: &str, code: u8, told: &str) -> String {
    const NOT_FOUND: u8 = 127;
    let known = match code {
        NOT_FOUND if program.contains('/') => format!("stat {program}: no such file or directory"),
        NOT_FOUND => "executable file not found in $PATH".to_owned(),
        _ => "permission denied".to_owned(),
    };
    format!("exec: {program:?}: {known} ({told})")
}

/// Boots the machine and returns the command's exit code.
fn run(directory: &Path, request: &Request, ready: Ready, creator: &mut Line) -> Result<u8> {
    let streams = Streams::inherited().map_err(host("the standard streams"))?;
    let terminal =
        pipeline::terminal(request).map_err(|error| Error::Machine(error.to_string()))?;
    let signals = Arc::new(StopSignals::catch_for_container().map_err(host("catching signals"))?);
    be_reachable(directory, &signals, StopSignals::deliver, creator)?;
    let finished = pipeline::boot(request, ready, streams, terminal, || Ok(&*signals));
    let finished = match finished {
        Ok(finished) => finished,
        Err(error) => {
            // Too late for `create` to say it.
            eprintln!("rdvm: {error}");
            return Ok(FAILED);
        }
    };
    let report = &finished.report;
    let lines = finished
        .last_lines
        .iter()
        .map(|line| format!("console: {line}"));
    let copied = report
        .copied
        .iter()
        .filter_map(crate::copyout::Copied::message);
    for line in lines.chain(report.message.clone()).chain(copied) {
        eprintln!("rdvm: {line}");
    }
    Ok(report.exit_code)
}

/// Takes orders from now on, says so to `create`, and ends the process if that ends too early.
fn be_reachable(
    directory: &Path,
    signals: &Arc<StopSignals>,
    tell: fn(&StopSignals, i32),
    creator: &mut Line,
) -> Result<()> {
    let file = directory.join(state::MACHINE);
    let listener = control::listen(&file).map_err(at(&file))?;
    let started = directory.join(state::STARTED);
    let home = File::open(directory).map_err(at(directory))?;
    let orders = Arc::clone(signals);
    thread::spawn(move || {
        confine(&[(home.as_fd(), Access::Mark)]);
        for caller in listener.incoming().flatten() {
            // Who says nothing sensible is not answered.
            let _ = take_order(caller, &orders, tell, &started);
        }
    });
    creator
        .say(&FromMachine::Ready)
        .map_err(host("create, which has ended"))?;
    let mut creator = creator.again().map_err(host("create"))?;
    thread::spawn(move || {
        confine(&[]);
        if !matches!(creator.hear(), Ok(ToMachine::Stay)) {
            // What the engine has started goes with this process.
            std::process::exit(i32::from(FAILED));
        }
    });
    Ok(())
}

/// Confines a thread that takes orders, or ends the process.
fn confine(places: &[(BorrowedFd<'_>, Access)]) {
    if let Err(error) = rdvm_confine::enter_with(Role::Control, places) {
        eprintln!("rdvm: confining a thread: {error}");
        std::process::exit(i32::from(FAILED));
    }
}

fn take_order(
    caller: UnixStream,
    signals: &StopSignals,
    tell: fn(&StopSignals, i32),
    started: &Path,
) -> io::Result<()> {
    let mut line = Line::over(caller)?;
    let answer = match line.hear()? {
        Order::Start if started.exists() => Answer::Started,
        Order::Start => {
            // A directory, as it is made without being opened.
            fs::create_dir(started)?;
            signals.release();
            Answer::Done
        }
        Order::Signal(signal) => {
            tell(signals, signal);
            Answer::Done
        }
    };
    line.say(&answer)
}

/// The process of a pod's sandbox: nothing runs in it, so it has no machine. It is there for its namespaces.
fn sandbox(directory: &Path, spec: &Spec, creator: &mut Line) -> Result<u8> {
    isolate(&namespaces::network(&spec.linux), creator)?;
    let signals = Arc::new(StopSignals::catch().map_err(host("catching signals"))?);
    be_reachable(directory, &signals, StopSignals::stop, creator)?;
    while signals.signal().is_none() {
        let _ = poll(&mut [PollFd::new(&*signals, PollFlags::IN)], None);
        signals.seen();
    }
    // As the program does that engines put there.
    Ok(0)
}

fn lead_session() -> Result<()> {
    rustix::process::setsid().map_err(|error| host("setsid")(error.into()))?;
    let stdin = io::stdin();
    if rustix::termios::isatty(&stdin) {
        let taken = rustix::process::ioctl_tiocsctty(&stdin);
        taken.map_err(|error| host("the terminal")(error.into()))?;
    }
    Ok(())
}

/// True if a stream is /dev/null.
fn is_null(stream: &impl std::os::fd::AsFd) -> Result<bool> {
    let stat = rustix::fs::fstat(stream).map_err(|error| host("standard input")(error.into()))?;
    let null = fs::metadata("/dev/null").map_err(at(Path::new("/dev/null")))?;
    Ok(stat.st_rdev == std::os::unix::fs::MetadataExt::rdev(&null) && stat.st_rdev != 0)
}
