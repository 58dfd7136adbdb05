//! The command line: clap's definition of it, and its translation into [`Request`]. The only place that knows flag
//! names; completions and man pages are made from the same definition.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, ValueHint};

use crate::environment;
use crate::escape::{escaped, shown};
use crate::kernel::build::Order;
use crate::output;
use crate::request::{
    Command, ConsoleWish, EngineWish, Id, ImageRef, KernelWish, MemoryWish, Ownership, Request,
    UserWish,
};
use crate::units::{ByteSize, parse_span};

mod pack;

pub use pack::{PackArgs, Packing};

/// Run a root file system as its own hardware-isolated machine, as if it were a local command.
#[derive(Debug, Parser)]
#[command(
    name = "rdvm",
    version,
    propagate_version = true,
    disable_help_subcommand = true
)]
#[command(
    after_help = "Exit codes of run: the command's own; 124 time-out; 125 rdvm or the machine failed; 126 found \
but cannot run; 127 not found; 128+n killed by signal n."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a command in an image, in a machine of its own
    Run(Box<RunArgs>),
    /// Write an image as cpio, tar, docker or OCI archive, the same bytes for the same tree
    Pack(Box<PackArgs>),
    /// Show what is in an image and the RAM it needs
    Inspect(InspectArgs),
    /// The kernels that can boot
    #[command(subcommand)]
    Kernel(KernelVerb),
    /// Check what works here; each problem comes with its remedy
    Doctor(DoctorArgs),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// What can be done with kernels.
#[derive(Debug, Subcommand)]
pub enum KernelVerb {
    /// List the kernels found, and which one would be used and why
    List {
        /// Also look into this image's own /boot
        #[arg(value_hint = ValueHint::DirPath)]
        image: Option<PathBuf>,
    },
    /// Build the small kernel from the distribution's source package, for all later runs
    Build(BuildArgs),
}

/// Arguments of `kernel build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// The kernel's source: an archive or a directory; without it, the newest /usr/src/linux-source-*
    #[arg(long, value_name = "FILE|DIR", value_hint = ValueHint::AnyPath)]
    source: Option<PathBuf>,
    /// Build it also when it is up to date
    #[arg(long)]
    force: bool,
}

/// How an image is read.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// Who owns the files in the guest: root, keep (as on the host), or ranges HOST:GUEST:COUNT[,...]
    #[arg(long, value_name = "root|keep|MAP", default_value = "root")]
    owner: Ownership,
    /// Owners, modes and devices from a save file of fakeroot -s
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    fakeroot: Option<PathBuf>,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(override_usage = "rdvm run [OPTIONS] IMAGE [--] [CMD [ARG]...]")]
pub struct RunArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// RAM of the guest, as in 512m; auto is what the image needs
    #[arg(short, long, alias = "mem", value_name = "SIZE|auto", default_value = "auto", value_parser = parse_memory)]
    memory: Memory,
    /// Number of CPUs, 1 to 16
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    cpus: u8,
    /// Set a variable, or pass on the one of this name; repeatable
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Variables from a file, one NAME[=VALUE] a line; repeatable
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    env_file: Vec<PathBuf>,
    /// Working directory in the guest; made where it is missing
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<OsString>,
    /// Who runs the command: numbers, or names of the image
    #[arg(short, long, value_name = "USER[:GROUP]", value_parser = parse_user)]
    user: Option<UserWish>,
    /// Program to run; CMD and ARGs become its arguments
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<OsString>,
    /// Host name in the guest
    #[arg(long, value_name = "NAME")]
    hostname: Option<OsString>,
    /// Network of the guest: only none so far
    #[arg(long, value_name = "none", default_value = "none", value_parser = ["none"], hide_possible_values = true)]
    network: String,
    /// Accepted for docker's sake; names nothing
    #[arg(long, value_name = "NAME", hide = true)]
    name: Option<String>,
    /// Accepted for docker's sake; a machine never outlives its command
    #[arg(long, hide = true)]
    rm: bool,
    /// Kernel to boot: a file, or a release found in /boot
    #[arg(short, long, value_name = "PATH|NAME", value_hint = ValueHint::FilePath)]
    kernel: Option<OsString>,
    /// Words for the end of the kernel command line
    #[arg(long, value_name = "CMDLINE", allow_hyphen_values = true)]
    append: Option<String>,
    /// What runs the machine
    #[arg(long, value_enum, default_value_t = EngineArg::Auto)]
    engine: EngineArg,
    /// PID 1 of your own instead of rdvm's; it prints the exit code on /dev/ttyS2
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    rdinit: Option<PathBuf>,
    /// Stop the machine after so long (90s, 10m, 2h) and exit with 124
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    timeout: Option<Duration>,
    /// Write what happened to this file, as JSON
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub report: Option<PathBuf>,
    /// Say on stderr where the time went
    #[arg(long)]
    pub timings: bool,
    /// Also write everything on the console to this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    console: Option<PathBuf>,
    /// Let the kernel speak, and show it on stderr
    #[arg(long)]
    show_boot: bool,
    /// Show the plan and boot nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Nothing of rdvm's own on stderr but errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say on stderr what was chosen
    #[arg(long)]
    pub verbose: bool,
    /// A directory, and the command with its arguments; without CMD, /init
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "IMAGE [CMD [ARG]...]"
    )]
    #[arg(value_hint = ValueHint::AnyPath)]
    rest: Vec<OsString>,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Kernel that the RAM is planned for: a file, or a release found in /boot
    #[arg(short, long, value_name = "PATH|NAME", value_hint = ValueHint::FilePath)]
    kernel: Option<OsString>,
    /// Number of CPUs that the RAM is planned for
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub cpus: u8,
    /// The image: a directory
    #[arg(value_hint = ValueHint::AnyPath)]
    path: PathBuf,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
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

/// `-m`, kept apart from [`MemoryWish`] so that clap can print its default.
type Memory = MemoryWish;

/// What the command line says that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable.
    #[error(transparent)]
    Environment(#[from] environment::Error),
    /// `-` or nothing where an image should be.
    #[error("IMAGE: \"{name}\" cannot be read yet; name a directory")]
    Image {
        /// What was written.
        name: String,
    },
    /// A variable that JSON cannot hold.
    #[error("--env: \"{}\" is no UTF-8, and an image's configuration is; write other text", escaped(entry.as_bytes()))]
    EnvText {
        /// What was written, or is in the environment.
        entry: OsString,
    },
    /// An option for images, and no image is written.
    #[error(
        "{option}: cpio and tar archives have no place for it; add --format docker or --format oci"
    )]
    NoImage {
        /// Its name.
        option: &'static str,
    },
    /// `--base` for cpio.
    #[error("--base: a cpio archive cannot say what is gone; add --format tar")]
    CpioLayer,
    /// A compression that nothing reads layers in.
    #[error("--compress lz4: {}", output::Error::Lz4Layer)]
    Lz4Layer,
    /// An image to be named as if it were compressed as a whole.
    #[error(
        "{}: an image's archive is not compressed as a whole; name it .tar, and compress its layers with --compress",
        shown(path)
    )]
    CompressedName {
        /// As given.
        path: PathBuf,
    },
}

/// Parses the command line.
///
/// `run` takes everything from IMAGE on as it stands, so a mistyped option before IMAGE would be taken for IMAGE: such
/// lines are parsed once more by rules under which clap finds the mistake itself, with its suggestion.
///
/// Errors: clap's, among them `--help` and `--version`.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let words: Vec<OsString> = words.into_iter().collect();
    let cli = Cli::try_parse_from(&words)?;
    match &cli.verb {
        Verb::Run(args) if args.rest.first().is_some_and(|image| is_option(image)) => {
            let strict =
                |run: clap::Command| run.mut_arg("rest", |rest| rest.allow_hyphen_values(false));
            Err(Cli::command()
                .mut_subcommand("run", strict)
                .try_get_matches_from(words)
                .map_or_else(
                    |error| error,
                    |_| {
                        Cli::command().error(
                            clap::error::ErrorKind::UnknownArgument,
                            "an option stands in the place of IMAGE",
                        )
                    },
                ))
        }
        _ => Ok(cli),
    }
}

fn is_option(word: &OsStr) -> bool {
    word.as_bytes().starts_with(b"-") && word != "-"
}

impl RunArgs {
    /// The typed request.
    ///
    /// Errors: [`Error`], for what only shows when files and the environment are looked at.
    pub fn into_request(self) -> Result<Request, Error> {
        let mut rest = self.rest.into_iter();
        // clap has seen to it that there is one.
        let path = PathBuf::from(rest.next().unwrap_or_default());
        let mut argv: Vec<OsString> = self.entrypoint.into_iter().collect();
        let mut rest = rest.peekable();
        if rest.peek().is_some_and(|word| word == "--") {
            rest.next();
        }
        argv.extend(rest);
        let command = Command {
            argv,
            env: environment::collect(&self.env_file, &self.env)?,
            workdir: self.workdir,
            user: self.user,
            hostname: self.hostname,
        };
        Ok(Request {
            image: self.image.to_ref(path)?,
            command,
            memory: self.memory,
            cpus: self.cpus,
            kernel: kernel_wish(self.kernel),
            append: self.append,
            engine: match self.engine {
                EngineArg::Auto => EngineWish::Auto,
                EngineArg::Kvm => EngineWish::Kvm,
                EngineArg::Qemu => EngineWish::Qemu,
            },
            rdinit: self.rdinit,
            timeout: self.timeout,
            console: ConsoleWish {
                show_boot: self.show_boot,
                file: self.console,
            },
            timings: self.timings || self.report.is_some(),
        })
    }
}

impl ImageArgs {
    fn to_ref(&self, path: PathBuf) -> Result<ImageRef, Error> {
        if path == OsStr::new("-") || path.as_os_str().is_empty() {
            return Err(Error::Image {
                name: path.display().to_string(),
            });
        }
        Ok(ImageRef {
            path,
            owner: self.owner.clone(),
            fakeroot: self.fakeroot.clone(),
            ..ImageRef::default()
        })
    }
}

impl InspectArgs {
    /// The image, the kernel and the number of CPUs.
    ///
    /// Errors: [`Error::Image`].
    pub fn into_parts(self) -> Result<(ImageRef, KernelWish, u8), Error> {
        Ok((
            self.image.to_ref(self.path)?,
            kernel_wish(self.kernel),
            self.cpus,
        ))
    }
}

impl BuildArgs {
    /// What is to be built.
    pub fn into_order(self) -> Order {
        Order {
            source: self.source,
            force: self.force,
        }
    }
}

fn kernel_wish(argument: Option<OsString>) -> KernelWish {
    argument.map_or(KernelWish::Search, KernelWish::Named)
}

fn parse_memory(text: &str) -> Result<MemoryWish, crate::units::ParseError> {
    match text {
        "auto" => Ok(MemoryWish::FromImage),
        size => size.parse::<ByteSize>().map(MemoryWish::Exactly),
    }
}

fn parse_user(text: &str) -> Result<UserWish, String> {
    let id = |text: &str| match text {
        "" => Err("a name or a number is missing; write USER or USER:GROUP".to_owned()),
        text => Ok(text
            .parse()
            .map_or_else(|_| Id::Name(text.to_owned()), Id::Number)),
    };
    match text.split_once(':') {
        Some((user, group)) => Ok(UserWish {
            user: id(user)?,
            group: Some(id(group)?),
        }),
        None => Ok(UserWish {
            user: id(text)?,
            group: None,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Result<RunArgs, clap::Error> {
        let words = ["rdvm", "run"].iter().chain(words);
        match parse(words.map(OsString::from))?.verb {
            Verb::Run(args) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    fn argv(words: &[&str]) -> Vec<OsString> {
        run(words).unwrap().into_request().unwrap().command.argv
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_end_at_the_image() {
        assert_eq!(
            argv(&["-m", "1g", "img", "ls", "-m", "--cpus"]),
            ["ls", "-m", "--cpus"]
        );
        assert_eq!(argv(&["img", "-x"]), ["-x"]);
        assert_eq!(argv(&["img"]), [""; 0]);
    }

    #[test]
    fn one_double_dash_is_dropped_and_a_second_is_the_commands() {
        assert_eq!(argv(&["img", "--", "ls", "--", "-x"]), ["ls", "--", "-x"]);
        assert_eq!(argv(&["img", "--", "--"]), ["--"]);
    }

    #[test]
    fn entrypoint_comes_before_the_command() {
        assert_eq!(
            argv(&["--entrypoint", "sh", "img", "-c", "true"]),
            ["sh", "-c", "true"]
        );
    }

    #[test]
    fn users_are_numbers_or_names() {
        let user = |text| run(&["-u", text, "img"]).unwrap().user.unwrap();
        assert_eq!(
            user("1000:100"),
            UserWish {
                user: Id::Number(1000),
                group: Some(Id::Number(100))
            }
        );
        assert_eq!(
            user("www-data"),
            UserWish {
                user: Id::Name("www-data".into()),
                group: None
            }
        );
        assert!(run(&["-u", "a:", "img"]).is_err());
    }

    #[test]
    fn wrong_values_are_refused_by_name() {
        for words in [
            &["-m", "lots", "img"][..],
            &["--cpus", "0", "img"],
            &["--timeout", "soon", "img"],
            &["--memroy", "1g", "img"],
            &[],
        ] {
            assert!(run(words).is_err(), "{words:?}");
        }
    }
}
