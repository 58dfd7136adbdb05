//! The command line: clap's definition of it, and its translation into [`Request`](crate::request::Request). The only
//! place that knows flag names; completions and man pages are made from the same definition.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint};

use crate::environment;
use crate::kernel::build::BuildOptions;
use crate::output;
use crate::profile::{self, Profile};
use crate::request::{ImageRef, KernelSpec};
use rdvm_hostfs::escape::{escaped, shown};
use rdvm_hostfs::progress::Progress;
use rdvm_hostfs::units::ByteSize;

pub mod help;
mod image;
mod pack;
mod refused;
mod run;
mod transport;
mod values;

pub use image::{ImageArgs, StackArgs};
pub use pack::{PackArgs, Packing};
pub use refused::report_of;
pub use run::RunArgs;

/// Run a root file system as its own hardware-isolated machine, as if it were a local command.
#[derive(Debug, Parser)]
#[command(name = "rdvm", version, propagate_version = true)]
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
    #[command(after_help = help::examples(help::RUN))]
    Run(Box<RunArgs>),
    /// Write an image as cpio, tar, docker or OCI archive, the same bytes for the same tree
    #[command(after_help = help::examples(help::PACK))]
    Pack(Box<PackArgs>),
    /// Show what is in an image and the RAM it needs
    #[command(after_help = help::examples(help::INSPECT))]
    Inspect(InspectArgs),
    /// The packed images that --cache keeps
    #[command(subcommand, after_help = help::examples(help::CACHE))]
    Cache(CacheVerb),
    /// The kernels that can boot
    #[command(subcommand, after_help = help::examples(help::KERNEL))]
    Kernel(KernelVerb),
    /// Check what works here; each problem comes with its remedy
    #[command(after_help = help::examples(help::DOCTOR))]
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
    /// Check a kernel's options against what rdvm makes use of; exit code 1 when images cannot run
    Check(CheckArgs),
}

/// Arguments of `kernel check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// A kernel, or its configuration: a .config, /boot/config-RELEASE, config.gz
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
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

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    image: StackArgs,
    /// As JSON, for programs (docs/images.md lists the fields)
    #[arg(long, help_heading = None::<&'static str>)]
    pub json: bool,
    /// Write the image's digest into rdvm.lock, the nearest above or a new one here
    #[arg(long, help_heading = None::<&'static str>)]
    pub lock: bool,
    /// Kernel that the RAM is planned for: a file, or a release found in /boot
    #[arg(short, long, value_name = "PATH|NAME", value_hint = ValueHint::FilePath, help_heading = None::<&'static str>)]
    kernel: Option<OsString>,
    /// Number of CPUs that the RAM is planned for
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16), help_heading = None::<&'static str>)]
    pub cpus: u8,
    /// A directory, an archive, or - for one on standard input
    #[arg(value_hint = ValueHint::AnyPath, help_heading = None::<&'static str>)]
    path: PathBuf,
}

/// What can be done with the packed images that are kept.
#[derive(Debug, Subcommand)]
pub enum CacheVerb {
    /// List them, the one used last first
    List,
    /// Remove those that have not been used for longest
    Prune {
        /// Until no more than so much is kept; everything goes when not given
        #[arg(long, value_name = "SIZE", default_value = "0")]
        to: ByteSize,
    },
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// What the command line says that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A variable.
    #[error(transparent)]
    Environment(#[from] environment::Error),
    /// Nothing where an image should be.
    #[error("IMAGE: is empty; name a directory or an archive")]
    Image,
    /// An image that is in no file.
    #[error(
        "{}: rdvm reads files and directories; {command} makes a file of it, then name {file}",
        shown(word)
    )]
    Transport {
        /// As given.
        word: PathBuf,
        /// The command that fetches it.
        command: String,
        /// The result of that.
        file: String,
    },
    /// `-` for an image and the command.
    #[error("--interactive: standard input is the image already; write that to a file")]
    StdinTaken,
    /// Options that rdinit carries out.
    #[error(
        "{option}: goes not with --rdinit, whose program is told nothing; leave one of them out"
    )]
    OwnInit {
        /// Its name.
        option: &'static str,
    },
    /// A profile.
    #[error(transparent)]
    Profile(#[from] profile::Error),
    /// No image anywhere.
    #[error(
        "IMAGE: neither the profile nor the command line names one; add image = \"PATH\" to the profile"
    )]
    NoImageInProfile,
    /// `-` for two images.
    #[error("-: standard input can be one image only; write the other to a file")]
    StdinTwice,
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

/// What is to be said of a command line that is none.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// By clap, among them `--help` and `--version`.
    #[error(transparent)]
    Line(Box<clap::Error>),
    /// What it refers to.
    #[error(transparent)]
    Cannot(#[from] Error),
}

impl From<clap::Error> for UsageError {
    fn from(error: clap::Error) -> Self {
        Self::Line(Box::new(error))
    }
}

/// Parses the command line, with the options of the profile that it names before its own.
///
/// Errors: [`UsageError`].
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, UsageError> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    let mut cli = Cli::try_parse_from(&words).map_err(|error| with_tip(error, &words))?;
    let Verb::Run(args) = &mut cli.verb else {
        return Ok(cli);
    };
    // What is left for IMAGE and the command are the last words, whatever they are.
    let first = words.len().saturating_sub(args.rest.len());
    let dashed = words[..first].last().is_some_and(|word| word == "--");
    let Some(name) = args.profile.as_ref() else {
        check_image(args, words)?;
        return Ok(cli);
    };
    let profile = profile(name, args.config.as_deref())?;
    if !dashed {
        check_image(args, words.clone())?;
    }
    let shown = shown_words(&profile.options);
    // Behind "rdvm run".
    words.splice(2..2, profile.options.iter().cloned());
    cli = Cli::try_parse_from(&words)?;
    if let Verb::Run(args) = &mut cli.verb {
        args.complete(profile, dashed)?;
        args.from_profile = Some(shown);
    }
    Ok(cli)
}

/// Verbs of docker's and podman's, and what takes their place.
const ELSEWHERE: [(&[&str], &str); 4] = [
    (
        &["build", "commit", "save", "export", "push", "tag"],
        "rdvm pack writes an image of a directory, an archive or several",
    ),
    (
        &["images", "load", "import", "rmi", "history"],
        "an image is a file or directory that is named at each run; rdvm inspect shows what is in one",
    ),
    (
        &[
            "ps", "exec", "stop", "kill", "logs", "attach", "start", "restart", "rm", "wait", "top",
        ],
        "a machine runs in the foreground and is gone when its command ends; rdvm run -it IMAGE sh opens a shell in one",
    ),
    (
        &["cp", "create"],
        "rdvm run takes --copy-in HOST:GUEST and --copy-out GUEST:HOST",
    ),
];

/// The first mistake of many is an image, or a verb of docker's, in the place of the verb: says what to type.
fn with_tip(mut error: clap::Error, words: &[OsString]) -> clap::Error {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else {
        return error;
    };
    let tip = match ELSEWHERE.iter().find(|(verbs, _)| verbs.contains(&&**word)) {
        Some((_, tip)) => (*tip).to_owned(),
        None if word == "pull" => {
            let name = words
                .iter()
                .skip_while(|known| *known != word.as_str())
                .nth(1);
            let name = name.map_or(&b"NAME"[..], |name| name.as_bytes());
            let name = name.strip_prefix(b"docker://").unwrap_or(name);
            let (command, file) = transport::fetch(&[b"docker://", name].concat());
            format!("to make a file of an image: {command}, then: rdvm run {file}")
        }
        None if error.get(ContextKind::SuggestedSubcommand).is_some() => return error,
        None => {
            let image = escaped(word.as_bytes());
            format!("to run a command in an image: rdvm run {image}")
        }
    };
    error.remove(ContextKind::SuggestedSubcommand);
    error.insert(
        ContextKind::Suggested,
        ContextValue::StyledStrs(vec![tip.into()]),
    );
    error
}

/// The profile of a file, or of the nearest.
fn profile(name: &str, file: Option<&Path>) -> Result<Profile, Error> {
    let path = match file {
        Some(path) => path.to_owned(),
        None => std::env::current_dir()
            .ok()
            .and_then(|here| profile::find(&here))
            .ok_or(profile::Error::NoFile)?,
    };
    let mut cli = Cli::command();
    cli.build();
    let run = cli.find_subcommand("run").cloned().unwrap_or_default();
    Ok(profile::read(&path, name, &run)?)
}

fn shown_words(words: &[OsString]) -> String {
    let words = words.iter().map(|word| escaped(word.as_bytes()));
    words.collect::<Vec<_>>().join(" ")
}

/// `run` takes everything from IMAGE on as it stands, so a mistyped option before IMAGE would be taken for IMAGE: such
/// lines are parsed once more by rules under which clap finds the mistake itself, with its suggestion.
fn check_image(args: &RunArgs, words: Vec<OsString>) -> Result<(), clap::Error> {
    if !args.rest.first().is_some_and(|image| is_option(image)) {
        return Ok(());
    }
    let strict = |run: clap::Command| run.mut_arg("rest", |rest| rest.allow_hyphen_values(false));
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

fn is_option(word: &OsStr) -> bool {
    word.as_bytes().starts_with(b"-") && word != "-"
}

impl InspectArgs {
    /// The image, the kernel and the number of CPUs.
    ///
    /// Errors: [`Error::Image`].
    pub fn into_parts(self) -> Result<(ImageRef, KernelSpec, u8), Error> {
        Ok((
            self.image.into_ref(self.path)?,
            kernel_wish(self.kernel),
            self.cpus,
        ))
    }
}

impl BuildArgs {
    /// What is to be built.
    pub fn into_options(self) -> BuildOptions {
        BuildOptions {
            source: self.source,
            force: self.force,
            progress: Progress::default(),
        }
    }
}

fn kernel_wish(argument: Option<OsString>) -> KernelSpec {
    argument.map_or(KernelSpec::Search, KernelSpec::Named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Id, Request, UserSpec};

    fn run(words: &[&str]) -> Result<RunArgs, UsageError> {
        let words = ["rdvm", "run"].iter().chain(words);
        match parse(words.map(OsString::from))?.verb {
            Verb::Run(args) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    fn argv(words: &[&str]) -> Vec<OsString> {
        let command = run(words).unwrap().into_request().unwrap().command;
        command.entrypoint.into_iter().chain(command.argv).collect()
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_a_request() {
        let (typed, made) = (run(&["img"]).unwrap(), Request::new("img", [""; 0]));
        let typed = typed.into_request().unwrap();
        assert_eq!(format!("{typed:?}"), format!("{made:?}"));
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
        let user = |text| {
            run(&["-u", text, "img"])
                .unwrap()
                .into_request()
                .unwrap()
                .command
                .user
                .unwrap()
        };
        assert_eq!(
            user("1000:100"),
            UserSpec {
                user: Id::Number(1000),
                group: Some(Id::Number(100))
            }
        );
        assert_eq!(
            user("www-data"),
            UserSpec {
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
