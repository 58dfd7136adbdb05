//! `rdvm run`: its options, and the request they come to.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use super::image::image_and_command;
use super::values::{Elsewhere, parse_copy_in, parse_copy_out, parse_memory, parse_ulimit};
use super::{Error, StackArgs, kernel_wish};
use crate::environment;
use crate::profile::Profile;
use crate::request::{
    Command, ConsoleSpec, Copies, CopyIn, CopyOut, EngineChoice, Links, MemorySpec, Request, Stdin,
    Ulimit, UserSpec,
};
use rdvm_hostfs::progress::Progress;
use rdvm_hostfs::units::{ByteSize, parse_span};

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(override_usage = "rdvm run [OPTIONS] IMAGE [--] [CMD [ARG]...]")]
// As docker: of an option that is given twice and has one value, the last counts. Profiles are made of this.
#[command(args_override_self = true)]
pub struct RunArgs {
    #[command(flatten)]
    image: StackArgs,
    /// Take options, and IMAGE and CMD where they are not given, from [profile.NAME] of the nearest rdvm.toml
    #[arg(long, value_name = "NAME", help_heading = "Profile")]
    pub(super) profile: Option<String>,
    /// Take the profile from this file
    #[arg(long, value_name = "FILE", requires = "profile", value_hint = ValueHint::FilePath, help_heading = "Profile")]
    pub(super) config: Option<PathBuf>,
    /// What the profile came to.
    #[arg(skip)]
    pub from_profile: Option<String>,
    /// Keep an archive's packed image for later runs, and take it from there (rdvm cache)
    #[arg(long, help_heading = "Image")]
    cache: bool,
    /// Keep the packed image in one file, which all machines of it have mapped: less memory for each, a later start
    #[arg(long, help_heading = "Image")]
    share: bool,
    /// RAM of the guest, as in 512m; auto is what the image needs
    #[arg(short, long, alias = "mem", value_name = "SIZE|auto", default_value = "auto", value_parser = parse_memory, help_heading = "Machine")]
    memory: Memory,
    /// Number of CPUs, 1 to 16
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16), help_heading = "Machine")]
    cpus: u8,
    /// Set a variable, or pass on the one of this name; repeatable
    #[arg(short, long, value_name = "NAME[=VALUE]", help_heading = "Command")]
    env: Vec<OsString>,
    /// Variables from a file, one NAME[=VALUE] a line; repeatable
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Command")]
    env_file: Vec<PathBuf>,
    /// Working directory in the guest; made where it is missing
    #[arg(short, long, value_name = "DIR", help_heading = "Command")]
    workdir: Option<OsString>,
    /// Who runs the command: numbers, or names of the image
    #[arg(short, long, value_name = "USER[:GROUP]", value_parser = str::parse::<UserSpec>, help_heading = "Command")]
    user: Option<UserSpec>,
    /// Program to run; CMD and ARGs become its arguments
    #[arg(long, value_name = "PROGRAM", help_heading = "Command")]
    entrypoint: Option<OsString>,
    /// Host name in the guest
    #[arg(long, value_name = "NAME", help_heading = "Command")]
    hostname: Option<OsString>,
    /// A resource limit of the command, as in nofile=1024 or core=0:unlimited; repeatable
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", value_parser = parse_ulimit, help_heading = "Command")]
    ulimits: Vec<Ulimit>,
    /// Give the command our standard input, byte by byte to its end; without it it has none
    #[arg(short, long, help_heading = "Command")]
    interactive: bool,
    /// Give the command a terminal; with -i ours is its. Three Ctrl-] within a second leave it
    #[arg(short, long, help_heading = "Command")]
    tty: bool,
    /// Copy a file or directory in before the command runs; repeatable
    #[arg(long, value_name = "HOST:GUEST", value_parser = parse_copy_in(), help_heading = "Files")]
    copy_in: Vec<CopyIn>,
    /// What stays out of --copy-in, as a line of a .gitignore; repeatable, after the lines of HOST/.rdvmignore
    #[arg(
        long,
        value_name = "PATTERN",
        allow_hyphen_values = true,
        help_heading = "Files"
    )]
    copy_in_exclude: Vec<String>,
    /// Copy a file or directory out when the command has ended, also when it failed; repeatable
    #[arg(long, value_name = "GUEST:HOST", value_parser = parse_copy_out(), help_heading = "Files")]
    copy_out: Vec<CopyOut>,
    /// How much --copy-out may bring back in all
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "1g",
        help_heading = "Files"
    )]
    copy_out_limit: ByteSize,
    /// Which symbolic links --copy-out brings back
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = LinksArg::Inside)]
    copy_links: LinksArg,
    /// Network of the guest: only none so far
    #[arg(long, alias = "net", value_name = "none", default_value = "none", value_parser = ["none"], hide_possible_values = true, help_heading = "Machine")]
    network: String,
    /// Accepted for docker's sake; names nothing
    #[arg(long, value_name = "NAME", hide = true)]
    name: Option<String>,
    /// Accepted for docker's sake; a machine never outlives its command
    #[arg(long, hide = true)]
    rm: bool,
    /// Docker's way to share a directory: not here.
    #[arg(short, long, alias = "mount", hide = true, value_parser = Elsewhere("nothing is shared with the guest; --copy-in HOST:GUEST brings files in, --copy-out GUEST:HOST brings them back"))]
    volume: Option<String>,
    /// Docker's way to open a port: not here.
    #[arg(short, long, hide = true, value_parser = Elsewhere("the guest has no network, so no port to open"))]
    publish: Option<String>,
    /// Docker's ways to give a container more or less of the host: not here.
    #[arg(long, aliases = ["cap-add", "cap-drop", "security-opt", "read-only"], hide = true, num_args = 0..=1, default_missing_value = "", require_equals = true, value_parser = Elsewhere("the command is root in a machine of its own, which has nothing of the host's; leave it out"))]
    privileged: Option<String>,
    /// Docker's way to hand on a device: not here.
    #[arg(long, alias = "gpus", hide = true, value_parser = Elsewhere("the machine has none but its serial ports; leave it out"))]
    device: Option<String>,
    /// Docker's way to have a PID 1 that reaps: always here.
    #[arg(long, hide = true, num_args = 0, default_missing_value = "", value_parser = Elsewhere("PID 1 is rdvm's own and reaps; leave it out, or name your own with --rdinit FILE"))]
    init: Option<String>,
    /// Docker's way to fetch an image: not here.
    #[arg(long, hide = true, value_parser = Elsewhere("images are files; skopeo copy docker://NAME docker-archive:NAME.tar makes one"))]
    pull: Option<String>,
    /// Docker's way to run in the background: not here.
    #[arg(short, long, hide = true, num_args = 0, default_missing_value = "", value_parser = Elsewhere("a machine runs in the foreground; start it with & or from systemd-run"))]
    detach: Option<String>,
    /// Kernel to boot: a file, or a release found in /boot
    #[arg(short, long, value_name = "PATH|NAME", value_hint = ValueHint::FilePath, help_heading = "Machine")]
    kernel: Option<OsString>,
    /// Words for the end of the kernel command line
    #[arg(
        long,
        value_name = "CMDLINE",
        allow_hyphen_values = true,
        help_heading = "Machine"
    )]
    append: Option<String>,
    /// What runs the machine
    #[arg(long, value_enum, default_value_t = EngineArg::Auto, help_heading = "Machine")]
    engine: EngineArg,
    /// PID 1 of your own instead of rdvm's; it prints the exit code on /dev/ttyS2
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Machine")]
    rdinit: Option<PathBuf>,
    /// Stop the command after so long (90s, 10m, 2h) and exit with 124
    #[arg(long, value_name = "TIME", value_parser = parse_span, help_heading = "Limits")]
    timeout: Option<Duration>,
    /// How long the command has to end after its SIGTERM, before the machine goes
    #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = "2s", help_heading = "Limits")]
    stop_timeout: Duration,
    /// Stop the command when it has printed more, on standard output or on standard error
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    max_output: Option<ByteSize>,
    /// Write what happened to this file, as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output")]
    pub report: Option<PathBuf>,
    /// Say on stderr where the time went
    #[arg(long, help_heading = "Output")]
    pub timings: bool,
    /// Also write everything on the console to this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output")]
    console: Option<PathBuf>,
    /// Let the kernel speak, and show it on stderr
    #[arg(long, help_heading = "Output")]
    show_boot: bool,
    /// Show the plan and boot nothing
    #[arg(long, help_heading = "Output")]
    pub dry_run: bool,
    /// Nothing of rdvm's own on stderr but errors
    #[arg(short, long, overrides_with = "verbose", help_heading = "Output")]
    pub quiet: bool,
    /// Say on stderr what was chosen
    #[arg(long, overrides_with = "quiet", help_heading = "Output")]
    pub verbose: bool,
    /// A directory, an archive or - for one on standard input; and the command with its arguments. Without CMD, what
    /// the image says, or /init
    #[arg(
        required_unless_present = "profile",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "IMAGE [CMD [ARG]...]"
    )]
    #[arg(value_hint = ValueHint::AnyPath, help_heading = None::<&'static str>)]
    pub(super) rest: Vec<OsString>,
}

/// `--engine`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum EngineArg {
    /// KVM where it works, else QEMU
    Auto,
    /// KVM, in process
    Kvm,
    /// QEMU, in software
    Qemu,
}

/// `--copy-links`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum LinksArg {
    /// Those that lead to what is copied along; others are left out, and named
    Inside,
    /// All, as they are
    Keep,
}

/// `-m`, kept apart from [`MemorySpec`] so that clap can print its default.
type Memory = MemorySpec;

impl RunArgs {
    /// The typed request.
    ///
    /// Errors: [`Error`], for what only shows when files and the environment are looked at.
    pub fn into_request(self) -> Result<Request, Error> {
        self.check_own_init()?;
        let (path, argv) = image_and_command(self.rest);
        let command = Command {
            entrypoint: self.entrypoint,
            argv,
            env: environment::collect(&self.env_file, &self.env)?,
            workdir: self.workdir,
            user: self.user,
            hostname: self.hostname,
            ulimits: self.ulimits,
        };
        let image = self.image.into_ref(path)?;
        let mut images = std::iter::once(&image.path).chain(&image.layers);
        if self.interactive && images.any(|path| path.as_os_str() == "-") {
            return Err(Error::StdinTaken);
        }
        Ok(Request {
            image,
            command,
            memory: self.memory,
            cpus: self.cpus,
            kernel: kernel_wish(self.kernel),
            append: self.append,
            engine: match self.engine {
                EngineArg::Auto => EngineChoice::Auto,
                EngineArg::Kvm => EngineChoice::Kvm,
                EngineArg::Qemu => EngineChoice::Qemu,
            },
            rdinit: self.rdinit,
            copies: Copies {
                into: self.copy_in,
                exclude: self.copy_in_exclude,
                out: self.copy_out,
                limit: self.copy_out_limit,
                links: match self.copy_links {
                    LinksArg::Inside => Links::Inside,
                    LinksArg::Keep => Links::Keep,
                },
            },
            stdin: Stdin {
                interactive: self.interactive,
                tty: self.tty,
            },
            timeout: self.timeout,
            stop_timeout: self.stop_timeout,
            max_output: self.max_output,
            console: ConsoleSpec {
                show_boot: self.show_boot,
                file: self.console,
            },
            timings: self.timings || self.report.is_some(),
            cache: self.cache,
            share: self.share,
            progress: Progress::default(),
        })
    }

    /// PID 1 of the user's own is told nothing, so nothing that PID 1 does can be asked for.
    fn check_own_init(&self) -> Result<(), Error> {
        let asked = [
            ("--share", self.share),
            ("--interactive", self.interactive),
            ("--tty", self.tty),
            ("--copy-in", !self.copy_in.is_empty()),
            ("--copy-out", !self.copy_out.is_empty()),
            ("--ulimit", !self.ulimits.is_empty()),
        ];
        let mut asked = asked.into_iter().filter(|(_, is_asked)| *is_asked);
        match (&self.rdinit, asked.next()) {
            (Some(_), Some((option, _))) => Err(Error::OwnInit { option }),
            _ => Ok(()),
        }
    }

    /// Puts a profile's IMAGE and command where none are given. `dashed`: what is given stands behind `--`, so that it is a
    /// command if the profile has an image.
    ///
    /// Errors: there is no IMAGE.
    pub(super) fn complete(&mut self, profile: Profile, dashed: bool) -> Result<(), Error> {
        let is_command = dashed && profile.image.is_some();
        let given = std::mem::take(&mut self.rest);
        let (image, command) = match given.is_empty() || is_command {
            true => (profile.image.ok_or(Error::NoImageInProfile)?, given),
            false => {
                let (image, command) = image_and_command(given);
                (image.into(), command)
            }
        };
        let command = match command.is_empty() {
            true => profile.command,
            false => command,
        };
        self.rest = [image, "--".into()].into_iter().chain(command).collect();
        Ok(())
    }
}
