//! How a machine's life ended, whichever engine ran it.

use rdvm_proto::{Event, Stage, Totals};

use rdvm_hostfs::hostmem::Bound;

/// Every way there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// The command called exit.
    Exited {
        /// Its code.
        code: u8,
        /// What it sent and used.
        totals: Totals,
    },
    /// A signal killed the command.
    Killed {
        /// Its number.
        signal: u8,
        /// What it sent and used.
        totals: Totals,
    },
    /// PID 1 could not start the command.
    NotStarted {
        /// What it was doing.
        stage: Stage,
        /// The guest kernel's answer.
        errno: i32,
        /// Which of several: the index of a copy, the number of a limit.
        which: u32,
    },
    /// The machine stopped and no well-formed exit event had come.
    Died {
        /// Whether the command ran.
        started: bool,
        /// What the kernel said of its panic.
        panic: Option<String>,
        /// What the engine knows of it, to follow "the machine".
        how: Option<String>,
    },
    /// The host's kernel killed the machine for want of memory.
    Starved {
        /// True if the command ran.
        started: bool,
        /// The limit of its memory, where the host tells one.
        bound: Option<Bound>,
    },
    /// It ran longer than it was allowed to.
    TimedOut {
        /// Whether the command ran.
        started: bool,
    },
    /// It printed more than it was allowed to.
    OutputLimit,
    /// The user left the machine's terminal.
    Left,
    /// We were told to stop by this signal.
    Interrupted(i32),
    /// Nobody reads our standard output any more.
    OutputClosed,
    /// Our standard output could not be written: the errno.
    OutputFailed(i32),
    /// Our standard input could not be read to its end: the errno.
    InputFailed(i32),
}

impl Ending {
    /// What a guest's last event says; `None` for an event that is none.
    pub fn of(event: Event) -> Option<Self> {
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
            | Event::Produced(_) => None,
        }
    }
}
