//! The verbs for a container that exists.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::Signals;

use super::Runtime;
use super::cgroup;
use super::control::{self, Answer, Order};
use super::create::{CreateArgs, Created};
use super::error::{Error, Result, at, host};
use super::hooks;
use super::proc::ProcessId;
use super::spec::Hook;
use super::state::{self, Lock, Record, StateDir, Status};

/// The looks at a killed process, and the time between two.
const PATIENCE: (u32, Duration) = (1000, Duration::from_millis(10));

/// A container in a list.
#[derive(Debug)]
pub struct Listed {
    /// Its name.
    pub id: String,
    /// The number of its process; 0 where there is none.
    pub pid: i32,
    /// The specification's word.
    pub status: &'static str,
    /// Its bundle.
    pub bundle: std::path::PathBuf,
    /// RFC 3339.
    pub created: String,
    /// Its state as JSON.
    pub json: String,
}

impl Runtime {
    /// Lets the command of a container run that has been created.
    ///
    /// # Errors
    /// There is no such container, it was started before, or its machine has ended.
    pub fn start(&self, id: &str) -> Result<()> {
        let (dir, _lock, record) = self.open(id)?;
        expect(&dir, &record, &[Status::Created])?;
        let file = dir.file(state::MACHINE);
        let answer = control::call(&file).and_then(|mut line| {
            line.say(&Order::Start)?;
            line.hear::<Answer>()
        });
        match answer.map_err(at(&file)) {
            Ok(Answer::Done) => {}
            Ok(Answer::Started) => return Err(status_error(&dir, Status::Running, "created")),
            Err(error) => {
                expect(&dir, &record, &[Status::Created])?;
                return Err(error);
            }
        }
        let shown = dir.show(&record, Status::Running);
        self.call_all("poststart", &record.hooks.poststart, &shown);
        Ok(())
    }

    /// Creates a container, starts it and, in the foreground, waits for its end, passes signals on, and deletes it. Returns the
    /// command's exit code.
    ///
    /// # Errors
    /// Those of `create` and `start`.
    pub fn run(&self, args: &CreateArgs, keeps: bool) -> Result<u8> {
        let Created { dir, mut process } = self.create(args)?;
        if let Err(error) = self.start(&args.id) {
            let _ = self.delete(&args.id, true);
            return Err(error);
        }
        if !args.is_in_foreground {
            return Ok(0);
        }
        let passed_on = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];
        let mut signals = Signals::new(passed_on).map_err(host("catching signals"))?;
        let pid = Pid::from_child(&process);
        let handle = signals.handle();
        let passing = thread::spawn(move || {
            for signal in signals.forever().filter_map(Signal::from_named_raw) {
                let _ = kill_process(pid, signal);
            }
        });
        let ended = process.wait().map_err(host("waiting for the machine"))?;
        handle.close();
        let _ = passing.join();
        if !keeps {
            self.delete(dir.id(), true)?;
        }
        Ok(code(ended))
    }

    /// Returns a container's state as JSON.
    ///
    /// # Errors
    /// There is no such container.
    pub fn state(&self, id: &str) -> Result<String> {
        let dir = StateDir::of(&self.root, id)?;
        let record = dir.record()?;
        Ok(dir.show(&record, dir.status_now(&record)))
    }

    /// Returns all containers, by name.
    ///
    /// # Errors
    /// The runtime's directory cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let containers = state::all(&self.root)?.into_iter();
        // Some may be removed while they are read.
        let read = containers.filter_map(|dir| Some((dir.record().ok()?, dir)));
        let listed = read.map(|(record, dir)| {
            let status = dir.status_now(&record);
            let process = record.process.filter(|_| status != Status::Stopped);
            Listed {
                json: dir.show(&record, status),
                status: status.as_str(),
                pid: process.map_or(0, |process| process.pid),
                id: record.id,
                bundle: record.bundle,
                created: record.created,
            }
        });
        Ok(listed.collect())
    }

    /// Returns the numbers of a container's processes on the host; those in the guest have none there.
    ///
    /// # Errors
    /// There is no such container.
    pub fn ps(&self, id: &str) -> Result<Vec<i32>> {
        let record = StateDir::of(&self.root, id)?.record()?;
        let alive = record.process.filter(|process| process.is_alive());
        let tree = alive.map(ProcessId::tree).unwrap_or_default();
        Ok(tree.iter().map(|process| process.pid).collect())
    }

    /// Sends a signal to a container's command. SIGKILL ends the machine.
    ///
    /// # Errors
    /// There is no such container, or it is not running.
    pub fn kill(&self, id: &str, signal: i32) -> Result<()> {
        let dir = StateDir::of(&self.root, id)?;
        let record = dir.record()?;
        let status = expect(
            &dir,
            &record,
            &[Status::Running, Status::Created, Status::Paused],
        )?;
        let Some(process) = record.process else {
            return Err(dir.unknown());
        };
        if signal == SIGKILL {
            process.signal(Signal::KILL);
            return Ok(());
        }
        let file = dir.file(state::MACHINE);
        let told = control::call(&file).and_then(|mut line| {
            line.say(&Order::Signal(signal))?;
            match status {
                // It answers when it is resumed.
                Status::Paused => Ok(Answer::Done),
                _ => line.hear(),
            }
        });
        if let Err(error) = told {
            // It may have ended meanwhile.
            expect(&dir, &record, &[Status::Running, Status::Created])?;
            return Err(at(&file)(error));
        }
        Ok(())
    }

    /// Stops a container's machine in its tracks.
    ///
    /// # Errors
    /// There is no such container, or it is not running.
    pub fn pause(&self, id: &str) -> Result<()> {
        let (dir, _lock, record) = self.open(id)?;
        expect(&dir, &record, &[Status::Running])?;
        self.signal_tree(&record, Signal::STOP, |process| process.is_stopped());
        Ok(())
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// There is no such container, or it is not paused.
    pub fn resume(&self, id: &str) -> Result<()> {
        let (dir, _lock, record) = self.open(id)?;
        expect(&dir, &record, &[Status::Paused])?;
        self.signal_tree(&record, Signal::CONT, |process| !process.is_stopped());
        Ok(())
    }

    /// Sends a signal to the machine's process and those below it, and waits until it shows.
    fn signal_tree(&self, record: &Record, signal: Signal, has_worked: fn(ProcessId) -> bool) {
        for process in record.process.map(ProcessId::tree).unwrap_or_default() {
            process.signal(signal);
            wait_until(|| has_worked(process) || !process.is_alive());
        }
    }

    /// Removes what is kept of a container. With `force` it is killed first, and may have gone already.
    ///
    /// # Errors
    /// There is no such container; it has not ended.
    pub fn delete(&self, id: &str, force: bool) -> Result<()> {
        let dir = StateDir::of(&self.root, id)?;
        let lock = match dir.lock() {
            Err(Error::Unknown { .. }) if force => return Ok(()),
            lock => lock?,
        };
        let record = match dir.record() {
            // Left by a `create` that was killed at once.
            Err(Error::Unknown { .. }) => return dir.remove(),
            record => record?,
        };
        let status = dir.status(&record);
        if !force && matches!(status, Status::Running | Status::Paused) {
            return Err(status_error(&dir, status, "stopped"));
        }
        if let Some(process) = record.process {
            process.signal(Signal::KILL);
            wait_until(|| !process.is_alive());
            if process.is_alive() {
                return Err(status_error(
                    &dir,
                    status,
                    "stopped, although it was killed",
                ));
            }
        }
        let shown = dir.show(&record, Status::Stopped);
        self.call_all("poststop", &record.hooks.poststop, &shown);
        cgroup::remove(&record.cgroups);
        dir.remove()?;
        drop(lock);
        Ok(())
    }

    /// Calls hooks whose failure changes nothing.
    pub(super) fn call_all(&self, kind: &'static str, hooks: &[Hook], shown: &str) {
        for hook in hooks {
            if let Err(error) = hooks::call(kind, std::slice::from_ref(hook), shown) {
                self.log.warning(&error.to_string());
            }
        }
    }

    /// Locks a container and reads its record.
    fn open(&self, id: &str) -> Result<(StateDir, Lock, Record)> {
        let dir = StateDir::of(&self.root, id)?;
        let lock = dir.lock()?;
        let record = dir.record()?;
        Ok((dir, lock, record))
    }
}

fn wait_until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..PATIENCE.0 {
        if is_so() {
            return;
        }
        thread::sleep(PATIENCE.1);
    }
}

/// Returns a container's status, if it is one of these.
fn expect(dir: &StateDir, record: &Record, wanted: &[Status]) -> Result<Status> {
    let status = dir.status(record);
    match wanted.contains(&status) {
        true => Ok(status),
        false => Err(status_error(dir, status, wanted[0].as_str())),
    }
}

fn status_error(dir: &StateDir, status: Status, wanted: &'static str) -> Error {
    Error::Status {
        id: dir.id().to_owned(),
        status: status.as_str(),
        wanted,
        is_over: status == Status::Stopped,
    }
}

/// Returns the exit code that a shell makes of a process's end.
fn code(ended: ExitStatus) -> u8 {
    let signal = ended.signal().map(|signal| 128 + signal);
    ended.code().or(signal).unwrap_or(0) as u8
}
