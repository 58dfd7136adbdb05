//! The endings of a machine, whichever engine ran it.

use rdvm_proto::{Event, Stage, Totals};

use rdvm_hostfs::hostmem::Bound;

/// The errno for a file whose error has none.
const EIO: i32 = 5;

/// The ending of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The command called exit.
    Exited {
        /// Its exit code.
        code: u8,
        /// The bytes that it sent and the resources that it used.
        totals: Totals,
    },
    /// A signal killed the command.
    Killed {
        /// Its number.
        signal: u8,
        /// The bytes that it sent and the resources that it used.
        totals: Totals,
    },
    /// PID 1 could not start the command.
    NotStarted {
        /// The step that failed.
        stage: Stage,
        /// The guest kernel's answer.
        errno: i32,
        /// Which of several: the index of a copy, the number of a limit.
        which: u32,
    },
    /// The machine stopped and no well-formed exit event had come.
    Died {
        /// True if the command ran.
        started: bool,
        /// The kernel's message about its panic.
        panic: Option<String>,
        /// The engine's description, to follow "the machine".
        how: Option<String>,
    },
    /// The host's kernel killed the machine for want of memory.
    Starved {
        /// True if the command ran.
        started: bool,
        /// The limit of its memory, if the host has one.
        bound: Option<Bound>,
    },
    /// The host's file system had no room for what it wrote to its scratch space.
    NoRoom {
        /// True if the command ran.
        started: bool,
        /// The file system's answer.
        errno: i32,
    },
    /// It ran longer than it was allowed to.
    TimedOut {
        /// True if the command ran.
        started: bool,
    },
    /// It printed more than it was allowed to.
    OutputLimit,
    /// The user left the machine's terminal.
    Left,
    /// This signal came.
    Interrupted(i32),
    /// The reader of standard output is gone.
    OutputClosed,
    /// Standard output could not be written: the errno.
    OutputFailed(i32),
    /// Standard input could not be read to its end: the errno.
    InputFailed(i32),
}

impl Ending {
    /// Returns the ending of a machine that the host's file system refused more room.
    pub(crate) fn no_room(started: bool, error: &std::io::Error) -> Self {
        Self::NoRoom {
            started,
            errno: error.raw_os_error().unwrap_or(EIO),
        }
    }

    /// Returns the ending by a guest's last event; `None` for any other event.
    pub(crate) fn of(event: Event) -> Option<Self> {
        match event {
            Event::Exited(code, totals) => Some(Self::Exited { code, totals }),
            Event::Killed(signal, totals) => Some(Self::Killed { signal, totals }),
            Event::Failed {
                stage,
                errno,
                which,
            } => Some(Self::NotStarted {
                stage,
                errno,
                which,
            }),
            Event::Ready { .. }
            | Event::AttributesLost(_)
            | Event::Started(_)
            | Event::Credit(_)
            | Event::Mapped
            | Event::Switched(..)
            | Event::Held
            | Event::Bell => None,
        }
    }
}
