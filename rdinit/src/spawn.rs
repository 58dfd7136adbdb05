//! The one command: its user, its place, its limits, and what is said when it cannot be run.

use crate::streams::{Child, Streams};
use crate::sys::{self, Errno};
use crate::{group, mounts, privileges, setup};
use rdvm_proto::{IS_INIT, MAKE_WORKDIR, Stage, Start, Strings};

/// Used when the environment has no PATH, as docker does.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const PATH_MAX: usize = 4096;
/// Bytes by which a child says why it did not become the command: stage, errno, which.
const VERDICT: usize = 9;

/// A step that failed before the command ran.
pub(crate) struct Failure {
    pub(crate) stage: Stage,
    pub(crate) errno: Errno,
    /// The index, where there are several.
    pub(crate) which: u32,
}

/// Turns an errno into a [`Failure`] of `stage`.
pub(crate) fn at(stage: Stage) -> impl Fn(Errno) -> Failure {
    at_one(stage, 0)
}

/// Turns an errno into a [`Failure`] of `stage` with the number of the one that failed.
pub(crate) fn at_one(stage: Stage, which: u32) -> impl Fn(Errno) -> Failure {
    move |errno| Failure {
        stage,
        errno,
        which,
    }
}

/// Starts the command, in the control group that `group` leads to, and waits until it has been executed or has failed to be.
pub(crate) fn spawn(
    start: &Start<'_>,
    strings: &Strings<'static>,
    group: Option<i32>,
) -> Result<Child, Failure> {
    let vectors = Vectors::new(start, strings).map_err(at(Stage::Record))?;
    let (theirs, ours) = Streams::make(start)?;
    let (verdict, child_verdict) = sys::pipe().map_err(at(Stage::Pipes))?;
    let is_init = start.flags & IS_INIT != 0;
    let Some(pid) = sys::fork(is_init).map_err(at(Stage::Fork))? else {
        let failure = become_command(start, strings, &vectors, theirs, group);
        let mut report = [failure.stage as u8; VERDICT];
        report[1..5].copy_from_slice(&failure.errno.0.to_le_bytes());
        report[5..].copy_from_slice(&failure.which.to_le_bytes());
        let _ = sys::write(child_verdict, &report);
        sys::exit(127);
    };
    theirs.close();
    sys::close(child_verdict);
    // The write end closes on exec: nothing to read means that the command runs.
    let mut report = [0u8; VERDICT];
    let length = loop {
        match sys::read(verdict, &mut report) {
            Err(sys::EINTR) => continue,
            result => break result.unwrap_or(0),
        }
    };
    sys::close(verdict);
    if length == report.len() {
        let [stage, a, b, c, d, which @ ..] = report;
        return Err(Failure {
            stage: Stage::from_byte(stage).unwrap_or(Stage::Exec),
            errno: Errno(i32::from_le_bytes([a, b, c, d])),
            which: u32::from_le_bytes(which),
        });
    }
    Ok(Child {
        pid,
        is_init,
        ..ours
    })
}

/// In the child: everything up to exec. Returns only the reason why that did not happen.
fn become_command(
    start: &Start<'_>,
    strings: &Strings<'_>,
    vectors: &Vectors,
    streams: Streams,
    group: Option<i32>,
) -> Failure {
    sys::setsid();
    sys::default_signals();
    let prepared = match group {
        Some(processes) => group::enter(processes).map_err(at(Stage::Pids)),
        None => Ok(()),
    };
    let prepared = prepared
        .and_then(|()| match start.flags & IS_INIT {
            0 => Ok(()),
            _ => {
                mounts::proc_of_this_namespace();
                setup::again_below_proc(start, strings)
            }
        })
        .and_then(|()| streams.connect())
        .and_then(|()| {
            enter(strings.workdir, start.flags & MAKE_WORKDIR != 0).map_err(at(Stage::Workdir))
        })
        .and_then(|()| set_limits(start))
        .and_then(|()| privileges::take_on(start))
        .and_then(|()| sys::unblock_signals().map_err(at(Stage::Exec)));
    match prepared {
        Ok(()) => vectors.execute(),
        Err(failure) => failure,
    }
}

/// Changes to the working directory, making it and its parents where they are missing and that is wanted.
fn enter(workdir: &[u8], make: bool) -> sys::Result<()> {
    match sys::chdir(workdir) {
        Err(sys::ENOENT) if make && workdir.len() <= PATH_MAX => {}
        result => return result,
    }
    let mut buffer = [0u8; PATH_MAX];
    for (at, &byte) in workdir.iter().enumerate() {
        if at > 0 && (byte == b'/' || byte == 0) {
            buffer[at] = 0;
            let _ = sys::mkdir(&buffer[..=at], 0o755);
        }
        buffer[at] = byte;
    }
    sys::chdir(workdir)
}

/// Sets the limits that were asked for. Still as root: only that may raise them.
fn set_limits(start: &Start<'_>) -> Result<(), Failure> {
    for limit in start.limits() {
        let at = at_one(Stage::Limit, limit.resource);
        sys::set_limit(limit.resource, limit.soft, limit.hard).map_err(at)?;
    }
    Ok(())
}

/// `argv` and `envp` as the kernel wants them: pointers into the record, which stays mapped.
struct Vectors {
    argv: &'static [usize],
    envp: &'static [usize],
    program: &'static [u8],
    search: &'static [u8],
}

impl Vectors {
    fn new(start: &Start<'_>, strings: &Strings<'static>) -> sys::Result<Self> {
        let pointers = sys::allocate_pointers(start.argc + start.envc + 2)?;
        let (argv, envp) = pointers.split_at_mut(start.argc + 1);
        let mut strings = strings.rest.split_inclusive(|&byte| byte == 0);
        let mut program: &[u8] = b"\0";
        for (at, string) in strings.by_ref().take(start.argc).enumerate() {
            argv[at] = string.as_ptr() as usize;
            if at == 0 {
                program = string;
            }
        }
        let mut search = DEFAULT_PATH;
        for (slot, string) in envp.iter_mut().take(start.envc).zip(strings) {
            *slot = string.as_ptr() as usize;
            if let Some(value) = string.strip_prefix(b"PATH=") {
                search = &value[..value.len() - 1];
            }
        }
        Ok(Self {
            argv,
            envp,
            program,
            search,
        })
    }

    /// Executes the command, looked up in PATH unless its name has a slash. Returns why it could not.
    fn execute(&self) -> Failure {
        if self.program.contains(&b'/') {
            return explain(
                self.program,
                sys::execve(self.program, self.argv, self.envp),
            );
        }
        let mut best = Failure {
            stage: Stage::Exec,
            errno: sys::ENOENT,
            which: 0,
        };
        let name = self.program;
        for directory in self.search.split(|&byte| byte == b':') {
            let mut candidate = [0u8; PATH_MAX];
            let length = directory.len() + 1 + name.len();
            if length > PATH_MAX || name.len() == 1 {
                continue;
            }
            // An empty component means the working directory.
            let directory = if directory.is_empty() {
                &b"."[..]
            } else {
                directory
            };
            candidate[..directory.len()].copy_from_slice(directory);
            candidate[directory.len()] = b'/';
            candidate[directory.len() + 1..][..name.len()].copy_from_slice(name);
            let candidate = &candidate[..directory.len() + 1 + name.len()];
            let failure = explain(candidate, sys::execve(candidate, self.argv, self.envp));
            // "Not there" gives way to any more telling answer of another directory.
            let absent = matches!(failure.stage, Stage::Exec)
                && matches!(failure.errno, sys::ENOENT | sys::ENOTDIR);
            if !absent {
                best = failure;
                if best.errno != sys::EACCES {
                    break;
                }
            }
        }
        best
    }
}

/// `ENOENT` for a file that is there means that its interpreter or loader is not.
fn explain(program: &[u8], errno: Errno) -> Failure {
    let there = errno == sys::ENOENT && sys::lstat_mode(program).is_ok();
    Failure {
        stage: if there {
            Stage::Interpreter
        } else {
            Stage::Exec
        },
        errno,
        which: 0,
    }
}
