//! `create`: from a bundle to a machine that has booted and waits for `start`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::cgroup::{self, Groups};
use super::control::{self, FromMachine, Line, ToMachine};
use super::error::{Error, Result, at, host};
use super::machine::{Launch, MACHINE_VERB};
use super::proc::ProcessId;
use super::refusals::refuse;
use super::spec::{Process, Spec};
use super::state::{self, Record, StateDir, Status};
use super::translate;
use super::{Runtime, console, hooks};
use rdvm_hostfs::atomic;

/// Arguments of `create` and `run`.
#[derive(Debug, Clone)]
pub struct CreateArgs {
    /// The container's name.
    pub id: String,
    /// The directory with `config.json`.
    pub bundle: PathBuf,
    /// Another name for that file.
    pub config: PathBuf,
    /// The file that the number of the container's process is written to.
    pub pid_file: Option<PathBuf>,
    /// The socket that the terminal is sent to.
    pub console_socket: Option<PathBuf>,
    /// The container has the terminal of who calls, and ends with it.
    pub is_in_foreground: bool,
}

/// A container that has been created.
#[derive(Debug)]
pub struct Created {
    pub(super) dir: StateDir,
    /// The container's process, a child of this one.
    pub(super) process: Child,
}

/// Engines that build images call their containers so.
const BUILDERS: [&str; 2] = ["buildah-", "buildkit"];

impl Runtime {
    /// Creates a container.
    ///
    /// # Errors
    /// It exists, cannot be read, asks for what a machine cannot give, or the machine cannot be built. Nothing is left of it
    /// then.
    pub fn create(&self, args: &CreateArgs) -> Result<Created> {
        let dir = StateDir::of(&self.root, &args.id)?;
        let bundle = fs::canonicalize(&args.bundle).map_err(at(&args.bundle))?;
        let path = bundle.join(&args.config);
        let text = fs::read(&path).map_err(|source| Error::Config {
            path: path.clone(),
            source,
        })?;
        let spec = Spec::parse(&text).map_err(|source| Error::Syntax { path, source })?;
        let rootfs = self.check(&spec, &bundle, args)?;
        let lock = dir.make()?;
        let mut making = Making {
            runtime: self,
            record: Record {
                id: args.id.clone(),
                bundle,
                rootfs,
                created: state::now(),
                annotations: spec.annotations.clone(),
                hooks: spec.hooks.clone(),
                ..Record::default()
            },
            dir: &dir,
            process: None,
        };
        let made = making.make(&spec, &text, args);
        drop(lock);
        match (made, making.process) {
            (Ok(()), Some(process)) => Ok(Created { dir, process }),
            (Err(error), _) => Err(error),
            (Ok(()), None) => Err(dir.unknown()),
        }
    }

    /// Checks what shows without a machine, and returns the root file system.
    fn check(&self, spec: &Spec, bundle: &Path, args: &CreateArgs) -> Result<PathBuf> {
        if BUILDERS.iter().any(|name| args.id.starts_with(name)) {
            return Err(refuse(
                "this is a step of an image's build, and what a machine writes to its root is gone with it",
                "build with another runtime (podman build --isolation chroot, or --runtime runc), and run the image with rdvm",
            ));
        }
        if spec.is_pod_sandbox() {
            let root = spec.root.as_ref().map(|root| bundle.join(&root.path));
            return Ok(root.unwrap_or_default());
        }
        let has_terminal = spec
            .process
            .as_ref()
            .is_some_and(|process| process.terminal);
        let has_socket = args.console_socket.is_some();
        match (has_terminal, has_socket) {
            (true, false) if !args.is_in_foreground => {
                let what = "process.terminal: there is nobody to give the terminal to";
                return Err(refuse(what, "name a socket with --console-socket"));
            }
            (false, true) => {
                let what =
                    "process.terminal: is not set, but --console-socket waits for a terminal";
                return Err(refuse(what, "set one, or leave out the other"));
            }
            _ => {}
        }
        let container = translate::container(spec, bundle, &self.machine)?;
        container
            .warnings
            .iter()
            .for_each(|warning| self.log.warning(warning));
        Ok(container.root)
    }
}

/// A container in the making. It is undone unless it is finished.
struct Making<'a> {
    runtime: &'a Runtime,
    dir: &'a StateDir,
    record: Record,
    process: Option<Child>,
}

impl Making<'_> {
    fn make(&mut self, spec: &Spec, config: &[u8], args: &CreateArgs) -> Result<()> {
        let made = self.steps(spec, config, args);
        if made.is_err() {
            self.undo();
        }
        made
    }

    fn steps(&mut self, spec: &Spec, config: &[u8], args: &CreateArgs) -> Result<()> {
        let file = self.dir.file(state::CONFIG);
        fs::write(&file, config).map_err(at(&file))?;
        let groups = Groups::plan(&spec.linux, self.runtime.manager)?;
        // First what is to be removed, then what is to be removed.
        self.record.cgroups = groups.directories();
        self.dir.write(&self.record)?;
        let file = self.dir.file(state::CREATOR);
        let listener = control::listen(&file).map_err(at(&file))?;
        let terminal = args
            .console_socket
            .as_ref()
            .map(|_| console::open(size(spec)))
            .transpose()?;
        let child = self.spawn(terminal.as_ref().map(|terminal| terminal.slave.as_fd()))?;
        let process = ProcessId::of(child.id());
        let mut line = accept(&listener, &child).map_err(host("the machine's process"))?;
        self.process = Some(child);
        atomic::remove_if_there(&file).map_err(at(&file))?;
        let process = process.ok_or_else(ended)?;
        self.record.process = Some(process);
        for pity in groups.join(process.pid)? {
            self.runtime.log.warning(&pity);
        }
        self.dir.write(&self.record)?;
        let launch = Launch {
            bundle: self.record.bundle.clone(),
            options: self.runtime.machine.clone(),
            leads_session: !args.is_in_foreground || args.console_socket.is_some(),
        };
        say(&mut line, ToMachine::Isolate(launch))?;
        hear(&mut line, FromMachine::Isolated)?;
        let shown = self.dir.show(&self.record, Status::Creating);
        hooks::call("prestart", &self.record.hooks.prestart, &shown)?;
        hooks::call("createRuntime", &self.record.hooks.create_runtime, &shown)?;
        say(&mut line, ToMachine::Prepare)?;
        if let (Some(socket), Some(terminal)) = (&args.console_socket, terminal) {
            console::send(socket, terminal)?;
        }
        hear(&mut line, FromMachine::Ready)?;
        self.record.is_complete = true;
        self.dir.write(&self.record)?;
        if let Some(path) = &args.pid_file {
            write_pid(path, process.pid).map_err(at(path))?;
        }
        say(&mut line, ToMachine::Stay)
    }

    /// Starts the process, with the streams of this one or a terminal.
    fn spawn(&self, terminal: Option<impl AsFd>) -> Result<Child> {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("rdvm")
            .arg(MACHINE_VERB)
            .arg(self.dir.path())
            .current_dir("/");
        if let Some(terminal) = terminal {
            let stream = || {
                terminal
                    .as_fd()
                    .try_clone_to_owned()
                    .map_err(host("the terminal"))
            };
            command.stdin(stream()?).stdout(stream()?).stderr(stream()?);
        } else {
            command.stdin(Stdio::inherit());
        }
        command.spawn().map_err(host("the machine's process"))
    }

    /// Leaves nothing of it.
    fn undo(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
            let shown = self.dir.show(&self.record, Status::Stopped);
            self.runtime
                .call_all("poststop", &self.record.hooks.poststop, &shown);
        }
        cgroup::remove(&self.record.cgroups);
        if let Err(error) = self.dir.remove() {
            self.runtime.log.warning(&error.to_string());
        }
    }
}

/// Returns the rows and columns of the container's terminal; zero where the configuration does not say.
fn size(spec: &Spec) -> [u16; 2] {
    let size = spec
        .process
        .as_ref()
        .and_then(|Process { console_size, .. }| *console_size);
    size.map_or([0; 2], |size| [size.height, size.width])
}

/// Waits until the process calls.
fn accept(listener: &UnixListener, child: &Child) -> io::Result<Line> {
    let pid = Pid::from_child(child);
    let process: OwnedFd = pidfd_open(pid, PidfdFlags::empty())?;
    let mut fds = [
        PollFd::new(listener, PollFlags::IN),
        PollFd::new(&process, PollFlags::IN),
    ];
    while let Err(rustix::io::Errno::INTR) = poll(&mut fds, None) {}
    match fds[0].revents().contains(PollFlags::IN) {
        true => Line::over(listener.accept()?.0),
        false => Err(io::Error::other("ended at once")),
    }
}

fn say(line: &mut Line, what: ToMachine) -> Result<()> {
    line.say(&what).map_err(|_| ended())
}

fn hear(line: &mut Line, wanted: FromMachine) -> Result<()> {
    match line.hear() {
        Ok(said) if said == wanted => Ok(()),
        Ok(FromMachine::Failed { message, code }) => Err(Error::Command { message, code }),
        _ => Err(ended()),
    }
}

fn ended() -> Error {
    let what = "the machine's process ended before the container was created; its standard error may say why";
    Error::Machine(what.to_owned())
}

/// Writes a number without a line's end, as engines read it.
fn write_pid(path: &Path, pid: i32) -> io::Result<()> {
    let file = atomic::AtomicFile::beside(path)?;
    io::Write::write_all(&mut file.file(), pid.to_string().as_bytes())?;
    file.put_in_place()
}
