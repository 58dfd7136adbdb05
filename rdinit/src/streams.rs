//! The command's standard streams: pipes or a terminal, its ends and ours.

use crate::mounts;
use crate::spawn::{Failure, at};
use crate::sys;
use rdvm_proto::{HAS_STDIN, HAS_TERMINAL, Stage, Start};

/// A running command.
pub(crate) struct Child {
    pub(crate) pid: i32,
    /// True if it is PID 1 of a namespace of its own.
    pub(crate) is_init: bool,
    /// Write end of its stdin; negative where it has none.
    pub(crate) stdin: i32,
    /// Read end of its stdout, or the master side of its terminal.
    pub(crate) stdout: i32,
    /// Read end of its stderr; negative where that is the terminal.
    pub(crate) stderr: i32,
    /// Slave side of its terminal, where its streams are one.
    pub(crate) terminal: Option<i32>,
}

/// The command's ends of its streams; negative for a stdin that is empty.
#[derive(Clone, Copy)]
pub(crate) struct Streams {
    stdin: i32,
    stdout: i32,
    stderr: i32,
    terminal: bool,
}

impl Streams {
    /// The streams that `start` asks for, and rdinit's ends of them.
    pub(crate) fn make(start: &Start<'_>) -> Result<(Self, Child), Failure> {
        let has_stdin = start.flags & HAS_STDIN != 0;
        if start.flags & HAS_TERMINAL != 0 {
            let (master, slave) = sys::pseudoterminal().map_err(at(Stage::Terminal))?;
            let _ = sys::give_to(slave, start.uid);
            if start.window != [0; 2] {
                let _ = sys::set_window(master, start.window);
            }
            let ours = Child {
                pid: 0,
                is_init: false,
                stdin: if has_stdin { master } else { -1 },
                stdout: master,
                stderr: -1,
                terminal: Some(slave),
            };
            let theirs = Self {
                stdin: slave,
                stdout: slave,
                stderr: slave,
                terminal: true,
            };
            return Ok((theirs, ours));
        }
        let pipe = || sys::pipe().map_err(at(Stage::Pipes));
        let (child_stdin, stdin) = if has_stdin { pipe()? } else { (-1, -1) };
        let (stdout, child_stdout) = pipe()?;
        let (stderr, child_stderr) = pipe()?;
        // Owner and mode of a pipe decide who may open it as /dev/stdout or /proc/self/fd/1. The owner is runc's; the mode
        // is for users that the command changes to, which have the pipe open anyway.
        for (end, mode) in [
            (child_stdin, 0o644),
            (child_stdout, 0o622),
            (child_stderr, 0o622),
        ] {
            let _ = sys::give_to(end, start.uid);
            let _ = sys::set_open_mode(end, mode);
        }
        let ours = Child {
            pid: 0,
            is_init: false,
            stdin,
            stdout,
            stderr,
            terminal: None,
        };
        let theirs = Self {
            stdin: child_stdin,
            stdout: child_stdout,
            stderr: child_stderr,
            terminal: false,
        };
        Ok((theirs, ours))
    }

    /// In PID 1, when the child has its own. A terminal stays open here, see [`Child::terminal`].
    pub(crate) fn close(self) {
        if !self.terminal {
            sys::close(self.stdout);
            sys::close(self.stderr);
            if self.stdin >= 0 {
                sys::close(self.stdin);
            }
        }
    }

    /// In the child: makes them its standard streams.
    pub(crate) fn connect(self) -> Result<(), Failure> {
        if self.terminal {
            sys::take_terminal(self.stdin).map_err(at(Stage::Terminal))?;
        }
        self.take().map_err(at(Stage::Pipes))?;
        if self.terminal {
            mounts::terminal_as_console();
        }
        Ok(())
    }

    fn take(self) -> sys::Result<()> {
        let Self { stdout, stderr, .. } = self;
        // An image without devices still gets an end of file on its standard input: a pipe that nobody writes to.
        let stdin = match self.stdin {
            given @ 0.. => given,
            _ => match sys::open(b"/dev/null\0", sys::O_RDONLY) {
                Ok(fd) => fd,
                Err(_) => {
                    let (read, write) = sys::pipe()?;
                    sys::close(write);
                    read
                }
            },
        };
        // None of the three is below 3 except by chance of a closed descriptor; moving them up first keeps dup2 simple.
        for (from, to) in [(stdin, 100), (stdout, 101), (stderr, 102)] {
            sys::duplicate(from, to)?;
        }
        for (from, to) in [(100, 0), (101, 1), (102, 2)] {
            sys::duplicate(from, to)?;
            sys::close(from);
        }
        if stdin > 2 {
            sys::close(stdin);
        }
        Ok(())
    }
}
