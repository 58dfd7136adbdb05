//! The result of a run in three forms: an exit code, one line on stderr, a JSON file.
//!
//! The table of exit codes is [`exit_code`] and nowhere else; it and the messages are in `report/explain.rs`.

mod explain;
mod file;
mod loss;
mod timings;

pub use self::explain::{
    BY_SIGNAL, BY_SIGPIPE, CANNOT_RUN, FAILED, NOT_FOUND, Subjects, TIMED_OUT, exit_code,
};

pub use self::loss::Loss;

pub use self::file::{FileError, ReportFile};

pub use self::timings::{Timeline, Timings};

use rdvm_proto::Totals;
use serde::Serialize;

use crate::copyout::Copied;
use crate::network::NetworkFacts;
use rdvm_vmm::guest::Counts;
use rdvm_vmm::guest::console::Gaps;
use rdvm_vmm::guest::ending::Ending;

/// Version of the report's schema; it changes when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// One run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Version of this schema.
    pub schema: u32,
    /// The outcome, one word of a fixed set.
    pub outcome: Outcome,
    /// rdvm's exit code.
    pub exit_code: u8,
    /// The command's own code, where it exited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// The signal that killed the command, or that stopped rdvm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// The error as on stderr; absent when the command ended by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The command's output and resources, as the guest reports them; a user's own init reports none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<Guest>,
    /// Extended attributes of the image that the guest's kernel would not have, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes_lost: Option<Loss>,
    /// The part of the console that its copy lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_lost: Option<Gaps>,
    /// The copies, one for each `--copy-out` in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub copied: Vec<Copied>,
    /// The network, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkFacts>,
    /// The layers of confinement of a program that asked for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub confinement: Vec<rdvm_confine::Layer>,
    /// The machine, where one was planned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineFacts>,
    /// The time of each phase, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// The times of events, in milliseconds since rdvm started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
}

/// Every kind of outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The command exited by itself.
    Exited,
    /// A signal killed the command.
    Killed,
    /// The command was killed for want of guest memory.
    OutOfMemory,
    /// The command was not found.
    NotFound,
    /// The command was found and cannot be run.
    CannotRun,
    /// PID 1 could not prepare the command's surroundings.
    SetupFailed,
    /// The kernel panicked.
    KernelPanic,
    /// The machine stopped without saying how the command ended.
    MachineDied,
    /// `--timeout` passed.
    TimedOut,
    /// The command printed more than `--max-output`.
    OutputLimit,
    /// rdvm was told to stop by a signal, or the user left the machine's terminal.
    Interrupted,
    /// Standard output has no reader any more.
    OutputClosed,
    /// Standard output could not be written.
    OutputFailed,
    /// rdvm failed before or beside the machine.
    Error,
}

/// The command's output and resources, as the guest reports them.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Guest {
    /// Bytes of standard output.
    pub stdout_bytes: u64,
    /// Bytes of standard error.
    pub stderr_bytes: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u32,
    /// User time in milliseconds.
    pub user_ms: f64,
    /// System time in milliseconds.
    pub system_ms: f64,
    /// Largest resident set of one process, KiB.
    pub max_rss_kib: u64,
    /// Bytes that the root file system may hold.
    pub root_bytes: u64,
    /// Bytes of those that were free at the end.
    pub root_free_bytes: u64,
    /// No file could be written, or none be made, at the end.
    pub root_full: bool,
}

/// The machine.
#[derive(Debug, Clone, Serialize)]
pub struct MachineFacts {
    /// `kvm` or `qemu`.
    pub engine: String,
    /// Path of the kernel.
    pub kernel: String,
    /// Guest RAM in bytes.
    pub memory: u64,
    /// The part of it that the image needed.
    pub memory_needed: u64,
    /// vCPUs.
    pub cpus: u8,
    /// File system objects in the image.
    pub entries: u64,
    /// Size of the initrd in bytes.
    pub initrd: u64,
    /// The engine's counters, if it has any.
    #[serde(flatten)]
    pub counts: Option<Counts>,
}

impl Report {
    /// The report of a machine that ran; `subjects` are for its message.
    pub(crate) fn of(ending: &Ending, subjects: Subjects<'_>) -> Self {
        let (code, signal, totals) = match *ending {
            Ending::Exited { code, totals } => (Some(code), None, Some(totals)),
            Ending::Killed { signal, totals } => (None, Some(i32::from(signal)), Some(totals)),
            Ending::Interrupted(signal) => (None, Some(signal), None),
            _ => (None, None, None),
        };
        let (outcome, message) = explain::explain(ending, subjects);
        let exit_code = exit_code(ending);
        let guest = totals.map(Guest::from);
        Self {
            schema: SCHEMA,
            outcome,
            exit_code,
            code,
            signal,
            message,
            guest,
            attributes_lost: None,
            console_lost: None,
            confinement: Vec::new(),
            copied: Vec::new(),
            network: None,
            machine: None,
            timings: None,
            timeline: None,
        }
    }

    /// The report of a run that rdvm itself could not carry out.
    pub fn of_error(message: String) -> Self {
        let message = Some(message);
        Self {
            schema: SCHEMA,
            outcome: Outcome::Error,
            exit_code: FAILED,
            code: None,
            signal: None,
            message,
            guest: None,
            attributes_lost: None,
            console_lost: None,
            confinement: Vec::new(),
            copied: Vec::new(),
            network: None,
            machine: None,
            timings: None,
            timeline: None,
        }
    }

    /// Adds what was copied out. A wish that was not met, or not all of it, makes a run fail that did not fail otherwise.
    pub(crate) fn add_copies(&mut self, copied: Vec<Copied>) {
        let failed = !copied.iter().all(Copied::is_complete);
        if failed && self.exit_code == 0 {
            self.exit_code = FAILED;
        }
        self.copied = copied;
    }

    /// The JSON text, ending in a newline.
    pub(crate) fn to_json(&self) -> String {
        // Numbers, strings and options only: nothing in it can fail to serialize.
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

impl From<Totals> for Guest {
    fn from(totals: Totals) -> Self {
        Self {
            stdout_bytes: totals.stdout,
            stderr_bytes: totals.stderr,
            oom_kills: totals.oom_kills,
            user_ms: totals.user_us as f64 / 1000.0,
            system_ms: totals.system_us as f64 / 1000.0,
            max_rss_kib: totals.max_rss_kib,
            root_bytes: totals.root.bytes,
            root_free_bytes: totals.root.free_bytes,
            root_full: totals.root.is_full(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::explain::ENOENT;
    use super::*;
    use crate::request::SetupStep;
    use rdvm_proto::{RootUse, Stage};

    fn code(ending: Ending) -> u8 {
        exit_code(&ending)
    }

    #[test]
    fn the_exit_codes_are_those_of_the_table() {
        let totals = Totals::default();
        for value in 0..=255 {
            assert_eq!(
                code(Ending::Exited {
                    code: value,
                    totals
                }),
                value
            );
        }
        assert_eq!(code(Ending::Killed { signal: 9, totals }), 137);
        assert_eq!(code(Ending::Killed { signal: 64, totals }), 192);
        assert_eq!(
            code(Ending::NotStarted {
                stage: Stage::Exec,
                errno: ENOENT,
                which: 0
            }),
            127
        );
        assert_eq!(
            code(Ending::NotStarted {
                stage: Stage::Exec,
                errno: 13,
                which: 0
            }),
            126
        );
        assert_eq!(
            code(Ending::NotStarted {
                stage: Stage::Interpreter,
                errno: ENOENT,
                which: 0
            }),
            126
        );
        assert_eq!(
            code(Ending::NotStarted {
                stage: Stage::User,
                errno: ENOENT,
                which: 0
            }),
            125
        );
        assert_eq!(
            code(Ending::Died {
                started: true,
                panic: None,
                how: None,
            }),
            125
        );
        assert_eq!(code(Ending::TimedOut { started: true }), 124);
        assert_eq!(code(Ending::Interrupted(15)), 143);
        assert_eq!(code(Ending::OutputClosed), 141);
        assert_eq!(code(Ending::OutputFailed(28)), 125);
        assert_eq!(code(Ending::InputFailed(5)), 125);
    }

    #[test]
    fn only_a_command_that_exited_with_zero_gives_zero() {
        let endings = [
            Ending::Died {
                started: true,
                panic: None,
                how: None,
            },
            Ending::Died {
                started: false,
                panic: Some("x".into()),
                how: Some("was reset".into()),
            },
            Ending::TimedOut { started: false },
            Ending::Interrupted(0),
            Ending::NotStarted {
                stage: Stage::Fork,
                errno: 0,
                which: 0,
            },
            Ending::Killed {
                signal: 0,
                totals: Totals::default(),
            },
        ];
        assert!(endings.into_iter().all(|ending| code(ending) != 0));
    }

    #[test]
    fn an_init_without_pid_namespaces_is_told_what_is_missing() {
        let subjects = Subjects {
            command: "/sbin/init",
            memory: "64 MiB",
            copies: &[],
            modules: &[],
            scratch: "/var/tmp",
            steps: &[],
        };
        let ending = Ending::NotStarted {
            stage: Stage::Fork,
            errno: 22,
            which: 0,
        };
        let line = Report::of(&ending, subjects).message.unwrap();
        assert!(line.starts_with("/sbin/init: has to be PID 1"), "{line}");
    }

    #[test]
    fn a_step_that_fails_is_named_in_its_own_words_and_a_made_up_one_by_its_number() {
        let steps = [SetupStep::Write {
            path: "/proc/sys/net/x".into(),
            value: "1".into(),
        }];
        let subjects = Subjects {
            command: "sh",
            memory: "64 MiB",
            copies: &[],
            modules: &[],
            scratch: "",
            steps: &steps,
        };
        let message = |which| {
            let (stage, errno) = (Stage::Setup, ENOENT);
            let ending = Ending::NotStarted {
                stage,
                errno,
                which,
            };
            Report::of(&ending, subjects).message.unwrap()
        };
        let refused = "the guest's kernel refused it: No such file or directory";
        assert_eq!(message(0), format!("sysctl net.x: {refused}"));
        assert_eq!(message(7), format!("step 7: {refused}"));
    }

    #[test]
    fn a_command_that_fails_on_a_full_root_is_told_the_way_out() {
        let subjects = Subjects {
            command: "cc",
            memory: "64 MiB",
            copies: &[],
            modules: &[],
            scratch: "/var/tmp",
            steps: &[],
        };
        let ending = |code, free_bytes, free_inodes| {
            let root = RootUse {
                bytes: 18 << 20,
                free_bytes,
                free_inodes,
            };
            let totals = Totals {
                root,
                ..Totals::default()
            };
            match code {
                0..=127 => Ending::Exited { code, totals },
                _ => Ending::Killed {
                    signal: code - 128,
                    totals,
                },
            }
        };
        let message = |ending| Report::of(&ending, subjects).message;
        let full = "the root file system is full (18 MiB); give the machine room on a disk with --scratch, or more RAM with -m";
        assert_eq!(
            message(ending(2, 4096, 99)).unwrap(),
            format!("cc: exited with 2, and {full}")
        );
        // Scratch space has no room for inodes.
        assert_eq!(
            message(ending(1, 9 << 20, 0)).unwrap(),
            "cc: exited with 1, and the root file system is full (18 MiB); give the machine more RAM with -m"
        );
        assert_eq!(
            message(ending(135, 0, 99)).unwrap(),
            format!("cc: killed by signal 7, and {full}")
        );
        assert_eq!(message(ending(0, 0, 0)), None);
        assert_eq!(message(ending(2, 1 << 20, 99)), None);
        let report = Report::of(&ending(0, 0, 99), subjects);
        assert!(report.guest.unwrap().root_full);
    }

    #[test]
    fn a_host_without_room_is_told_with_the_directory() {
        let subjects = Subjects {
            command: "cc",
            memory: "64 MiB",
            copies: &[],
            modules: &[],
            scratch: "/var/tmp",
            steps: &[],
        };
        for (started, errno, line) in [
            (
                true,
                28,
                "no space left on /var/tmp's file system, so the machine was stopped while cc ran",
            ),
            (
                false,
                122,
                "/var/tmp: Disk quota exceeded, so the machine was stopped before cc ran",
            ),
        ] {
            let report = Report::of(&Ending::NoRoom { started, errno }, subjects);
            assert_eq!(
                (report.outcome, report.exit_code),
                (Outcome::MachineDied, 125)
            );
            let message = report.message.unwrap();
            assert!(message.contains(line), "{message}");
        }
    }

    #[test]
    fn a_death_for_want_of_memory_is_told_apart_from_a_kill() {
        let totals = Totals {
            oom_kills: 1,
            ..Totals::default()
        };
        let subjects = Subjects {
            command: "cc",
            memory: "64 MiB",
            copies: &[],
            modules: &[],
            scratch: "/var/tmp",
            steps: &[],
        };
        let report = Report::of(&Ending::Killed { signal: 9, totals }, subjects);
        assert_eq!(report.outcome, Outcome::OutOfMemory);
        let json = report.to_json();
        assert!(
            json.contains("\"outcome\": \"out-of-memory\"") && json.contains("\"exit_code\": 137"),
            "{json}"
        );
        let report = Report::of(
            &Ending::Killed {
                signal: 9,
                totals: Totals::default(),
            },
            subjects,
        );
        assert_eq!((report.outcome, report.message), (Outcome::Killed, None));
    }
}
