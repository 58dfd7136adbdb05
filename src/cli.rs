//! The command line: clap's definition of it, and its translation into [`Request`](crate::request::Request). The only
//! place that knows flag names; completions and man pages are made from the same definition.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint};

use crate::environment;
use crate::kernel::build::BuildOptions;
use crate::names;
use crate::output;
use crate::profile::{self, Profile};
use crate::request::{ImageRef, KernelSpec};
use rdvm_hostfs::escape::{escaped, shown};
use rdvm_hostfs::progress::Progress;
use rdvm_hostfs::units::ByteSize;

mod confinement;
pub mod help;
mod image;
mod images;
mod network;
mod oci;
mod pack;
mod pull;
mod refused;
mod rmi;
mod run;
mod tip;
mod transport;
mod values;

pub use image::{ImageArgs, StackArgs};
pub use images::ImagesArgs;
pub use oci::{ListForm, OciArgs, OciVerb, words};
pub use pack::{PackArgs, Packing};
pub use pull::PullArgs;
pub use refused::report_of;
pub use rmi::RmiArgs;
pub use run::RunArgs;

/// Run a root file system as its own hardware-isolated machine, as if it were a local command.
#[derive(Debug, Parser)]
#[command(name = "rdvm", version, propagate_version = true)]
#[command(
    after_help = "Exit codes of run: the command's own; 124 time-out; 125 rdvm or the machine failed; 126 found \
but cannot run; 127 not found; 128+n killed by signal n."
)]
pub struct Cli {
    /// The verb.
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
    /// Pull images from registries into the local store
    #[command(after_help = help::examples(help::PULL))]
    Pull(PullArgs),
    /// List the images of the local store
    #[command(after_help = help::examples(help::IMAGES))]
    Images(ImagesArgs),
    /// Remove images from the local store
    #[command(after_help = help::examples(help::RMI))]
    Rmi(RmiArgs),
    /// List or remove the packed images that runs have kept
    #[command(subcommand, after_help = help::examples(help::CACHE))]
    Cache(CacheVerb),
    /// List, build and check kernels
    #[command(subcommand, after_help = help::examples(help::KERNEL))]
    Kernel(KernelVerb),
    /// Check what works on this host, and print a remedy for each problem
    #[command(after_help = help::examples(help::DOCTOR))]
    Doctor(DoctorArgs),
    /// Be the runtime of a container engine: podman, containerd, docker, Slurm (docs/oci.md)
    #[command(after_help = help::examples(help::OCI))]
    Oci(Box<OciArgs>),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// The verbs of `kernel`.
#[derive(Debug, Subcommand)]
pub enum KernelVerb {
    /// List the kernels found, and mark the one that a run uses
    List {
        /// Also search this image's /boot
        #[arg(value_hint = ValueHint::DirPath)]
        image: Option<PathBuf>,
    },
    /// Build the small kernel from the distribution's source package; later runs use it
    Build(BuildArgs),
    /// Compare a kernel's options with those that rdvm uses; exit with 1 if images cannot run
    Check(CheckArgs),
}

/// Arguments of `kernel check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Kernel, or its configuration: a .config, /boot/config-RELEASE, config.gz
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
}

/// Arguments of `kernel build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// Kernel source: an archive or a directory (default: the newest /usr/src/linux-source-*)
    #[arg(long, value_name = "FILE|DIR", value_hint = ValueHint::AnyPath)]
    source: Option<PathBuf>,
    /// Build even if the kernel is up to date
    #[arg(long)]
    force: bool,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    image: StackArgs,
    /// Print JSON (docs/images.md lists the fields)
    #[arg(long, help_heading = None::<&'static str>)]
    pub json: bool,
    /// Write the image's digest to the nearest rdvm.lock above, or a new one here
    #[arg(long, help_heading = None::<&'static str>)]
    pub lock: bool,
    /// Kernel to plan the RAM for: a file, or a release found in /boot
    #[arg(short, long, value_name = "PATH|NAME", value_hint = ValueHint::FilePath, help_heading = None::<&'static str>)]
    kernel: Option<OsString>,
    /// Number of CPUs to plan the RAM for
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16), help_heading = None::<&'static str>)]
    pub cpus: u8,
    /// Scratch space to plan the RAM for
    #[arg(long, value_name = "SIZE", value_parser = values::parse_scratch, help_heading = None::<&'static str>)]
    pub scratch: Option<ByteSize>,
    /// A directory, an archive, - for an archive on standard input, or an image's name with its tag
    #[arg(value_hint = ValueHint::AnyPath, help_heading = None::<&'static str>)]
    path: PathBuf,
}

/// The verbs of `cache`.
#[derive(Debug, Subcommand)]
pub enum CacheVerb {
    /// List packed images, the last used one first
    List,
    /// Remove the least recently used packed images
    Prune {
        /// Size to keep (default: nothing)
        #[arg(long, value_name = "SIZE", default_value = "0")]
        to: ByteSize,
    },
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A command line that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A variable cannot be used.
    #[error(transparent)]
    Environment(#[from] environment::Error),
    /// IMAGE is empty.
    #[error("IMAGE: is empty; name a directory or an archive")]
    Image,
    /// The image is in a registry or another store.
    #[error(
        "{}: rdvm reads files and directories; {command} makes a file of it, then name {file}",
        shown(word)
    )]
    Transport {
        /// The argument.
        word: PathBuf,
        /// The command that fetches it.
        command: String,
        /// The file that it makes.
        file: String,
    },
    /// The image's name cannot be used.
    #[error(transparent)]
    Name(#[from] names::Error),
    /// Standard input is both an image and the command's input.
    #[error("--interactive: standard input is the image already; write that to a file")]
    StdinTaken,
    /// The option is carried out by rdinit.
    #[error(
        "{option}: cannot be used with --rdinit: a custom init receives no instructions; leave one of them out"
    )]
    OwnInit {
        /// The option.
        option: &'static str,
    },
    /// Options for the network.
    #[error(transparent)]
    Network(#[from] network::NetworkError),
    /// The profile cannot be used.
    #[error(transparent)]
    Profile(#[from] profile::Error),
    /// Neither the command line nor the profile names an image.
    #[error(
        "IMAGE: neither the profile nor the command line names one; add image = \"PATH\" to the profile"
    )]
    NoImageInProfile,
    /// Standard input is two images.
    #[error("-: standard input can be one image only; write the other to a file")]
    StdinTwice,
    /// JSON cannot hold the variable.
    #[error("--env: \"{}\" is not UTF-8, as an image's configuration must be; write other text", escaped(entry.as_bytes()))]
    EnvText {
        /// The variable.
        entry: OsString,
    },
    /// The option applies to images only.
    #[error("{option}: cpio and tar archives cannot hold it; add --format docker or --format oci")]
    NoImage {
        /// The option.
        option: &'static str,
    },
    /// `--base` with a form that has no layers.
    #[error("--base: only tar, docker and OCI archives record removed files; add --format tar")]
    NoLayer,
    /// `--compress` with EROFS.
    #[error(
        "--compress: an EROFS file system is used where it lies, and written uncompressed; leave it out, or pack another format"
    )]
    CompressedErofs,
    /// Layers cannot be compressed so.
    #[error("--compress lz4: {}", output::Error::Lz4Layer)]
    Lz4Layer,
    /// The file's name promises compression of the whole image.
    #[error(
        "{}: an image archive is not compressed as a whole; name it .tar, and compress its layers with --compress",
        shown(path)
    )]
    CompressedName {
        /// The argument.
        path: PathBuf,
    },
}

/// A command line that was rejected.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// clap rejected it, or printed `--help` or `--version`.
    #[error(transparent)]
    Line(Box<clap::Error>),
    /// A file, variable or image that it names cannot be used.
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
/// # Errors
/// The command line or the profile cannot be used.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, UsageError> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    let mut cli = parse_words(&words).map_err(|error| tip::with_tip(error, words.get(1)))?;
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
    cli = parse_words(&words)?;
    if let Verb::Run(args) = &mut cli.verb {
        args.complete(profile, dashed)?;
        args.from_profile = Some(shown);
    }
    Ok(cli)
}

/// Parses words. Defining the options of every verb takes a fiftieth of a quick run on KVM, so that the verbs that machines and
/// scripts call do with their own; what is wrong, or wants help, is a matter of the whole command line.
fn parse_words(words: &[OsString]) -> Result<Cli, clap::Error> {
    let verb = match words.get(1).and_then(|word| word.to_str()) {
        Some("run") => alone(words).map(Verb::Run),
        Some("pack") => alone(words).map(Verb::Pack),
        _ => None,
    };
    verb.map_or_else(|| Cli::try_parse_from(words), |verb| Ok(Cli { verb }))
}

/// Parses the words behind a verb, if there is nothing wrong with them.
fn alone<A: Args>(words: &[OsString]) -> Option<Box<A>> {
    let command = A::augment_args(clap::Command::new("rdvm"));
    let matches = command.try_get_matches_from(&words[1..]).ok()?;
    A::from_arg_matches(&matches).map(Box::new).ok()
}

/// Reads the profile of `file`, or of the nearest rdvm.toml.
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
    /// Returns when a registry is asked for the image.
    pub fn pull(&self) -> names::PullPolicy {
        self.image.pull()
    }

    /// Returns the image, the kernel and the number of CPUs.
    ///
    /// # Errors
    /// The image's name cannot be used.
    pub fn into_parts(self) -> Result<(ImageRef, KernelSpec, u8), Error> {
        Ok((
            self.image.into_ref(self.path)?,
            kernel_wish(self.kernel),
            self.cpus,
        ))
    }
}

impl BuildArgs {
    /// Returns the options of the build.
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
