//! `rdvm run`: its options, and the request that they make.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use super::confinement::ConfinementArgs;
use super::image::image_and_command;
use super::network::NetworkArgs;
use super::values::{
    Elsewhere, parse_copy_in, parse_copy_out, parse_memory, parse_scratch, parse_ulimit,
    parse_volume,
};
use super::{Error, StackArgs, kernel_wish};
use crate::environment;
use crate::names::PullPolicy;
use crate::profile::Profile;
use crate::request::{
    Command, ConsoleSpec, Copies, CopyIn, CopyOut, EngineChoice, Links, MemorySpec, Request,
    RootSpec, Stdin, Ulimit, UserSpec, Volume,
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
    /// Read options, and IMAGE and CMD if not given, from [profile.NAME] of the nearest rdvm.toml
    #[arg(long, value_name = "NAME", help_heading = "Profile")]
    pub(super) profile: Option<String>,
    /// Read the profile from this file
    #[arg(long, value_name = "FILE", requires = "profile", value_hint = ValueHint::FilePath, help_heading = "Profile")]
    pub(super) config: Option<PathBuf>,
    /// The confinement of this process.
    #[command(flatten)]
    pub confinement: ConfinementArgs,
    /// The profile's options as words.
    #[arg(skip)]
    pub from_profile: Option<String>,
    /// How the image becomes the root file system
    #[arg(long, value_enum, value_name = "HOW", default_value_t = RootArg::Auto, help_heading = "Image")]
    root: RootArg,
    /// Keep no packed image for later runs (see rdvm cache)
    #[arg(long, help_heading = "Image")]
    no_cache: bool,
    /// The default since large images are used in place.
    #[arg(long, hide = true)]
    cache: bool,
    /// As --root erofs: machines then have one packed image between them.
    #[arg(long, hide = true)]
    share: bool,
    /// Guest RAM, as in 512m; auto is as much as the image needs
    #[arg(short, long, alias = "mem", value_name = "SIZE|auto", default_value = "auto", value_parser = parse_memory, help_heading = "Machine")]
    memory: Memory,
    /// Room for files beyond RAM, in a file without a name in TMPDIR (default: none)
    #[arg(long, value_name = "SIZE", value_parser = parse_scratch, help_heading = "Machine")]
    scratch: Option<ByteSize>,
    /// Number of CPUs, 1 to 16
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16), help_heading = "Machine")]
    cpus: u8,
    /// Set a variable, or pass on the variable NAME of the environment; repeatable
    #[arg(short, long, value_name = "NAME[=VALUE]", help_heading = "Command")]
    env: Vec<OsString>,
    /// Read variables from a file, one NAME[=VALUE] per line; repeatable
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Command")]
    env_file: Vec<PathBuf>,
    /// Working directory in the guest; created if missing
    #[arg(short, long, value_name = "DIR", help_heading = "Command")]
    workdir: Option<OsString>,
    /// User and group of the command: numbers, or names of the image
    #[arg(short, long, value_name = "USER[:GROUP]", value_parser = str::parse::<UserSpec>, help_heading = "Command")]
    user: Option<UserSpec>,
    /// Program to run; CMD and ARGs become its arguments
    #[arg(long, value_name = "PROGRAM", help_heading = "Command")]
    entrypoint: Option<OsString>,
    /// Host name in the guest
    #[arg(long, value_name = "NAME", help_heading = "Command")]
    hostname: Option<OsString>,
    /// Set a resource limit, as in nofile=1024 or core=0:unlimited; repeatable
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", value_parser = parse_ulimit, help_heading = "Command")]
    ulimits: Vec<Ulimit>,
    /// Forward standard input to the command (default: empty)
    #[arg(short, long, help_heading = "Command")]
    interactive: bool,
    /// Allocate a terminal; with -i, attach to it. Press Ctrl-] three times within a second to leave
    #[arg(short, long, help_heading = "Command")]
    tty: bool,
    /// Copy a file or directory into the guest before the command runs; repeatable
    #[arg(long, value_name = "HOST:GUEST", value_parser = parse_copy_in(), help_heading = "Files")]
    copy_in: Vec<CopyIn>,
    /// Exclude files from --copy-in, by a pattern of .gitignore; repeatable, and added to HOST/.rdvmignore
    #[arg(
        long,
        value_name = "PATTERN",
        allow_hyphen_values = true,
        help_heading = "Files"
    )]
    copy_in_exclude: Vec<String>,
    /// Copy a file or directory out of the guest after the command, even if it failed; repeatable
    #[arg(long, value_name = "GUEST:HOST", value_parser = parse_copy_out(), help_heading = "Files")]
    copy_out: Vec<CopyOut>,
    /// Largest total size of --copy-out
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "1g",
        help_heading = "Files"
    )]
    copy_out_limit: ByteSize,
    /// Symbolic links that --copy-out copies
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = LinksArg::Inside)]
    copy_links: LinksArg,
    #[command(flatten)]
    network: NetworkArgs,
    /// Accepted for compatibility with docker; no effect
    #[arg(long, value_name = "NAME", hide = true)]
    name: Option<String>,
    /// Accepted for compatibility with docker; a machine never outlives its command
    #[arg(long, hide = true)]
    rm: bool,
    /// Mount a directory in the guest as it is now, read-only; repeatable
    #[arg(short, long, value_name = "DIR:GUEST[:ro]", value_parser = parse_volume(), help_heading = "Files")]
    volume: Vec<Volume>,
    /// docker's other option for that; rejected.
    #[arg(long, hide = true, value_parser = Elsewhere("--volume DIR:GUEST mounts a directory, read-only"))]
    mount: Option<String>,
    /// docker's options to give a container more or less of the host; rejected.
    #[arg(long, aliases = ["cap-add", "cap-drop", "security-opt", "read-only"], hide = true, num_args = 0..=1, default_missing_value = "", require_equals = true, value_parser = Elsewhere("the command is root in a machine of its own, which has nothing of the host's; leave it out"))]
    privileged: Option<String>,
    /// docker's option to pass a device; rejected.
    #[arg(long, alias = "gpus", hide = true, value_parser = Elsewhere("the machine has none but its serial ports; leave it out"))]
    device: Option<String>,
    /// docker's option for a PID 1 that reaps; rejected, since there always is one.
    #[arg(long, hide = true, num_args = 0, default_missing_value = "", value_parser = Elsewhere("PID 1 is rdvm's own and reaps; leave it out, or name your own with --rdinit FILE"))]
    init: Option<String>,
    /// docker's option to run in the background; rejected.
    #[arg(short, long, hide = true, num_args = 0, default_missing_value = "", value_parser = Elsewhere("a machine runs in the foreground; start it with & or from systemd-run"))]
    detach: Option<String>,
    /// Kernel to boot: a file, or a release found in /boot
    #[arg(short, long, value_name = "PATH|NAME", value_hint = ValueHint::FilePath, help_heading = "Machine")]
    kernel: Option<OsString>,
    /// Append words to the kernel command line
    #[arg(
        long,
        value_name = "CMDLINE",
        allow_hyphen_values = true,
        help_heading = "Machine"
    )]
    append: Option<String>,
    /// Engine that runs the machine
    #[arg(long, value_enum, default_value_t = EngineArg::Auto, help_heading = "Machine")]
    engine: EngineArg,
    /// Way of the streams between command and host
    #[arg(long, value_enum, value_name = "WAY", default_value_t = PortsArg::Auto, help_heading = "Machine")]
    ports: PortsArg,
    /// Custom PID 1 instead of rdvm's; it prints the exit code on /dev/ttyS2
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Machine")]
    rdinit: Option<PathBuf>,
    /// Stop the command after this time (90s, 10m, 2h) and exit with 124
    #[arg(long, value_name = "TIME", value_parser = parse_span, help_heading = "Limits")]
    timeout: Option<Duration>,
    /// Time that the command has to end after SIGTERM or SIGINT, before its machine is stopped
    #[arg(long, value_name = "TIME", value_parser = parse_span, default_value = "2s", help_heading = "Limits")]
    stop_timeout: Duration,
    /// Stop the command if it prints more than this on standard output or standard error
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    max_output: Option<ByteSize>,
    /// Write a JSON report to this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output")]
    pub report: Option<PathBuf>,
    /// Print on stderr how long each phase took
    #[arg(long, help_heading = "Output")]
    pub timings: bool,
    /// Also write the console to this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output")]
    console: Option<PathBuf>,
    /// Show the kernel's messages on stderr
    #[arg(long, help_heading = "Output")]
    show_boot: bool,
    /// Print the plan without booting
    #[arg(long, help_heading = "Output")]
    pub dry_run: bool,
    /// Print only errors on stderr
    #[arg(short, long, overrides_with = "verbose", help_heading = "Output")]
    pub quiet: bool,
    /// Print engine, kernel and RAM on stderr
    #[arg(long, overrides_with = "quiet", help_heading = "Output")]
    pub verbose: bool,
    /// A directory, an archive, - for an archive on standard input, or an image's name with its tag; then the command and its
    /// arguments (default: the image's command, or /init)
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
pub(super) enum EngineArg {
    /// KVM where it works, else QEMU
    Auto,
    /// KVM, in rdvm's process
    Kvm,
    /// QEMU, software emulation
    Qemu,
}

impl From<EngineArg> for EngineChoice {
    fn from(engine: EngineArg) -> Self {
        match engine {
            EngineArg::Auto => Self::Auto,
            EngineArg::Kvm => Self::Kvm,
            EngineArg::Qemu => Self::Qemu,
        }
    }
}

/// `--root`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RootArg {
    /// In place where that is quicker and the kernel can, else unpacked
    Auto,
    /// Unpacked into memory
    Initrd,
    /// In place: a read-only file system, with a layer on top for what is written
    Erofs,
}

/// `--ports`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PortsArg {
    /// Much of them through shared memory, where the guest's kernel has /dev/mem
    Auto,
    /// Every byte over the serial ports
    Uart,
}

/// `--copy-links`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum LinksArg {
    /// Links to copied files; others are skipped and reported
    Inside,
    /// All links, unchanged
    Keep,
}

/// `-m`, kept apart from [`MemorySpec`] so that clap can print its default.
type Memory = MemorySpec;

impl RunArgs {
    /// Returns when a registry is asked for the image.
    pub fn pull(&self) -> PullPolicy {
        self.image.pull()
    }

    /// Returns the typed request.
    ///
    /// # Errors
    /// Options that exclude each other; an environment file or an image name that cannot be used.
    pub fn into_request(self) -> Result<Request, Error> {
        self.check_own_init()?;
        let network = self.network.to_network(self.ports == PortsArg::Uart)?;
        let (path, argv) = image_and_command(self.rest);
        let command = Command {
            entrypoint: self.entrypoint,
            argv,
            env: environment::collect(&self.env_file, &self.env)?,
            workdir: self.workdir,
            user: self.user,
            hostname: self.hostname,
            ulimits: self.ulimits,
            ..Command::default()
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
            engine: self.engine.into(),
            rdinit: self.rdinit,
            copies: Copies {
                into: self.copy_in,
                keep_owners: false,
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
                escape: true,
            },
            timeout: self.timeout,
            stop_timeout: self.stop_timeout,
            max_output: self.max_output,
            console: ConsoleSpec {
                show_boot: self.show_boot,
                file: self.console,
            },
            timings: self.timings || self.report.is_some(),
            root: match self.root {
                RootArg::Auto if self.share => RootSpec::Erofs,
                RootArg::Auto => RootSpec::Auto,
                RootArg::Initrd => RootSpec::Initrd,
                RootArg::Erofs => RootSpec::Erofs,
            },
            volumes: self.volume,
            network,
            rings: self.ports == PortsArg::Auto,
            scratch: self.scratch,
            steps: Vec::new(),
            read_only_root: false,
            pids: None,
            held: false,
            cache: !self.no_cache,
            progress: Progress::default(),
        })
    }

    /// Rejects options that rdinit carries out, with another PID 1.
    fn check_own_init(&self) -> Result<(), Error> {
        let asked = [
            ("--root erofs", self.share || self.root == RootArg::Erofs),
            ("--volume", !self.volume.is_empty()),
            ("--scratch", self.scratch.is_some()),
            ("--interactive", self.interactive),
            ("--tty", self.tty),
            ("--copy-in", !self.copy_in.is_empty()),
            ("--copy-out", !self.copy_out.is_empty()),
            ("--ulimit", !self.ulimits.is_empty()),
            ("--allow", !self.network.allow.is_empty()),
            ("--publish", !self.network.publish.is_empty()),
        ];
        let mut asked = asked.into_iter().filter(|(_, is_asked)| *is_asked);
        match (&self.rdinit, asked.next()) {
            (Some(_), Some((option, _))) => Err(Error::OwnInit { option }),
            _ => Ok(()),
        }
    }

    /// Fills in a profile's IMAGE and command where none are given. With `dashed` the words follow a `--`, and are a command
    /// if the profile has an image.
    ///
    /// # Errors
    /// There is no IMAGE.
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
