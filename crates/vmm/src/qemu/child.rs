//! The QEMU process: started with exactly the descriptors it is meant to have, dead when we are.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};

use rdvm_confine::ChildLayers;
use rustix::io::FdFlags;
use rustix::process::{Pid, Signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use vmm_sys_util::signal::block_signal;

/// Bytes that are kept of QEMU's standard error.
const SAID_MAX: u64 = 16 << 10;

/// A running QEMU. Killed and reaped on drop.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    stderr: Option<ChildStderr>,
}

impl Process {
    /// Starts `program`, handing it `inherit` under their own numbers, `stdio` as its standard input and output, and
    /// nothing else.
    ///
    /// # Errors
    ///
    /// Those of fork and exec.
    pub(super) fn start(
        program: &Path,
        args: &[OsString],
        inherit: Vec<RawFd>,
        stdio: Option<(OwnedFd, OwnedFd)>,
        layers: Option<ChildLayers>,
    ) -> io::Result<Self> {
        let parent = rustix::process::getpid();
        let (stdin, stdout) = match stdio {
            Some((stdin, stdout)) => (stdin.into(), stdout.into()),
            None => (Stdio::null(), Stdio::null()),
        };
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(Stdio::piped());
        // A group of its own, and no signals: Ctrl-C on the terminal, and what a service manager sends to all processes of a
        // service, is for us to handle.
        command.process_group(0);
        // SAFETY: the closure runs between fork and exec, where only async-signal-safe calls are allowed: it makes
        // prctl, getppid, sigprocmask, fcntl, setrlimit, unshare and
        // landlock_restrict_self calls, allocates nothing and takes no lock.
        unsafe { command.pre_exec(move || prepare(parent, &inherit, layers.as_ref())) };
        let mut child = command.spawn()?;
        let stderr = child.stderr.take();
        Ok(Self { child, stderr })
    }

    /// Returns its process number.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it now, if it has not ended; returns its status and its standard error.
    pub(super) fn finish(mut self) -> (Option<ExitStatus>, String) {
        let ended = self.child.try_wait().ok().flatten();
        self.stop();
        let mut said = Vec::new();
        if let Some(stderr) = self.stderr.take() {
            // An error here only shortens the message.
            let _ = stderr.take(SAID_MAX).read_to_end(&mut said);
        }
        (ended, String::from_utf8_lossy(&said).trim().to_owned())
    }

    /// Waits for it to end by itself, now that its ports are closed; returns the signal that killed it, if one did.
    pub(super) fn wait(&mut self) -> Option<i32> {
        self.child.wait().ok().and_then(|status| status.signal())
    }

    fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// In the child, before exec.
fn prepare(parent: Pid, inherit: &[RawFd], layers: Option<&ChildLayers>) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before that call; then no signal would ever come.
    if rustix::process::getppid() != Some(parent) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2] {
        // It fails for one that is blocked already.
        let _ = block_signal(signal);
    }
    // What the program that started us has left open is not QEMU's.
    rdvm_confine::close_on_exec();
    for &fd in inherit {
        // SAFETY: the parent keeps these descriptors open over the whole start, and a fork has copies of them all.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        rustix::io::fcntl_setfd(fd.as_fd(), FdFlags::empty())?;
    }
    layers.map_or(Ok(()), ChildLayers::put_on)
}
