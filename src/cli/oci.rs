//! `rdvm oci`: the command line of runc, which engines know.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use super::confinement::ConfinementArgs;
use super::run::EngineArg;
use crate::oci::{CreateArgs, Log, LogFormat, MachineOptions, Manager, Runtime};

/// Arguments of `oci`.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub struct OciArgs {
    /// Directory with what is known of the containers (default: rdvm below XDG_RUNTIME_DIR, or /run/rdvm)
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    root: Option<PathBuf>,
    /// File that errors and warnings are added to
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    log: Option<PathBuf>,
    /// Form of that file
    #[arg(long, value_enum, value_name = "FORM", default_value_t = LogForm::Text)]
    log_format: LogForm,
    /// Control groups: made as files, by systemd, or not at all
    #[arg(long, value_enum, value_name = "WHO", default_value_t = ManagerArg::Cgroupfs)]
    cgroup_manager: ManagerArg,
    /// The same as --cgroup-manager systemd
    #[arg(long)]
    systemd_cgroup: bool,
    /// Kernel of all machines: a file, or a release found in /boot
    #[arg(short, long, value_name = "PATH|NAME", value_hint = ValueHint::FilePath)]
    kernel: Option<OsString>,
    /// Engine that runs the machines
    #[arg(long, value_enum, default_value_t = EngineArg::Auto)]
    engine: EngineArg,
    /// The confinement of the machines' processes.
    #[command(flatten)]
    confinement: ConfinementArgs,
    /// runc's; without effect
    #[arg(long, hide = true)]
    debug: bool,
    /// runc's; without effect
    #[arg(long, hide = true)]
    rootless: Option<String>,
    /// Print the versions of rdvm and of the specification
    #[arg(short, long)]
    pub version: bool,
    /// The verb.
    #[command(subcommand)]
    pub verb: Option<OciVerb>,
}

/// The verbs of `oci`.
#[derive(Debug, Subcommand)]
pub enum OciVerb {
    /// Create a container: build and boot its machine, and hold its command
    Create(CreateWords),
    /// Start the command of a container
    Start(Id),
    /// Create a container, start it, wait for its end and delete it
    Run(RunWords),
    /// Print a container's state as JSON
    State(Id),
    /// Send a signal to a container's command
    Kill(KillWords),
    /// Remove a container that has ended
    Delete(DeleteWords),
    /// List the containers
    List(ListWords),
    /// List the processes of a container's machine on the host
    Ps(PsWords),
    /// Stop a container's machine in its tracks
    Pause(Id),
    /// Let it go on
    Resume(Id),
    /// Print what the runtime can do, as JSON
    Features,
    /// runc's; rejected.
    #[command(hide = true)]
    Exec(Rest),
    /// runc's; rejected.
    #[command(hide = true)]
    Update(Rest),
    /// runc's; rejected.
    #[command(hide = true)]
    Events(Rest),
    /// runc's; rejected.
    #[command(hide = true, alias = "restore")]
    Checkpoint(Rest),
}

/// A container.
#[derive(Debug, Args)]
pub struct Id {
    /// Name of the container
    pub id: String,
}

/// Arguments of a verb that there is not.
#[derive(Debug, Args)]
pub struct Rest {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<OsString>,
}

/// Arguments of `oci create`.
#[derive(Debug, Args)]
pub struct CreateWords {
    /// Directory with config.json
    #[arg(short, long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    bundle: PathBuf,
    /// Name of the configuration, if it is another
    #[arg(
        short = 'f',
        long,
        value_name = "FILE",
        default_value = "config.json",
        hide = true
    )]
    config: PathBuf,
    /// File for the number of the container's process
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pid_file: Option<PathBuf>,
    /// Socket that the container's terminal is sent to
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    console_socket: Option<PathBuf>,
    /// Descriptors to pass on; only 0 is possible
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=0))]
    preserve_fds: u32,
    /// runc's; without effect, since nothing is pivoted
    #[arg(long, hide = true)]
    no_pivot: bool,
    /// runc's; without effect, since no keyring is made
    #[arg(long, hide = true)]
    no_new_keyring: bool,
    /// Name of the container
    id: String,
}

/// Arguments of `oci run`.
#[derive(Debug, Args)]
pub struct RunWords {
    #[command(flatten)]
    create: CreateWords,
    /// Return as soon as it has started
    #[arg(short, long)]
    detach: bool,
    /// Keep the container when it has ended
    #[arg(long)]
    pub keep: bool,
    /// runc's; without effect
    #[arg(long, hide = true)]
    no_subreaper: bool,
}

/// Arguments of `oci kill`.
#[derive(Debug, Args)]
pub struct KillWords {
    /// runc's; the machine has only one command
    #[arg(short, long, hide = true)]
    all: bool,
    /// Name of the container
    pub id: String,
    /// Signal, by number or name
    #[arg(default_value = "TERM")]
    pub signal: String,
}

/// Arguments of `oci delete`.
#[derive(Debug, Args)]
pub struct DeleteWords {
    /// Kill it first; it may be gone already
    #[arg(short, long)]
    pub force: bool,
    /// Name of the container
    pub id: String,
}

/// Arguments of `oci list`.
#[derive(Debug, Args)]
pub struct ListWords {
    /// Form of the list
    #[arg(short, long, value_enum, default_value_t = ListForm::Table)]
    pub format: ListForm,
    /// Print names only
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `oci ps`.
#[derive(Debug, Args)]
pub struct PsWords {
    /// Form of the list
    #[arg(short, long, value_enum, default_value_t = ListForm::Table)]
    pub format: ListForm,
    /// Name of the container
    pub id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<OsString>,
}

/// The form of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListForm {
    /// Lines for people
    Table,
    /// JSON
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogForm {
    /// Text
    Text,
    /// JSON
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ManagerArg {
    /// Made below /sys/fs/cgroup
    Cgroupfs,
    /// Made by systemd
    Systemd,
    /// Not made
    Disabled,
}

/// Names by which rdvm is called as a runtime.
const RUNTIMES: [&str; 2] = ["rdvm-oci", "runc"];

/// Returns the words of a command line; where the program is called by the name of a runtime, those of `rdvm oci`.
pub fn words(mut words: Vec<OsString>) -> Vec<OsString> {
    let name = words.first().and_then(|word| Path::new(word).file_name());
    if name.is_some_and(|name| RUNTIMES.iter().any(|runtime| name == *runtime)) {
        words.insert(1, "oci".into());
    }
    words
}

impl OciArgs {
    /// Returns the log that the options ask for.
    pub fn log(&self) -> Log {
        Log {
            path: self.log.clone(),
            format: match self.log_format {
                LogForm::Text => LogFormat::Text,
                LogForm::Json => LogFormat::Json,
            },
        }
    }

    /// Returns the runtime that the options ask for.
    pub fn runtime(&self) -> Runtime {
        let usual = || match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(directory) if !directory.is_empty() => Path::new(&directory).join("rdvm"),
            _ => "/run/rdvm".into(),
        };
        Runtime {
            root: self.root.clone().unwrap_or_else(usual),
            log: self.log(),
            manager: match self.cgroup_manager {
                ManagerArg::Cgroupfs if self.systemd_cgroup => Manager::Systemd,
                ManagerArg::Cgroupfs => Manager::Files,
                ManagerArg::Systemd => Manager::Systemd,
                ManagerArg::Disabled => Manager::Nobody,
            },
            machine: MachineOptions {
                kernel: self.kernel.clone(),
                engine: self.engine.into(),
                confinement: self.confinement.required(),
            },
        }
    }
}

impl CreateWords {
    /// Returns the typed arguments.
    pub fn args(self, is_in_foreground: bool) -> CreateArgs {
        CreateArgs {
            id: self.id,
            bundle: self.bundle,
            config: self.config,
            pid_file: self.pid_file,
            console_socket: self.console_socket,
            is_in_foreground,
        }
    }
}

impl RunWords {
    /// Returns the typed arguments.
    pub fn args(self) -> CreateArgs {
        self.create.args(!self.detach)
    }
}
