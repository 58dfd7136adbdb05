//! Options for reading images.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

use super::Error;
use super::transport::{self, Named};
use crate::names::PullPolicy;
use crate::request::{Expectation, Format, ImageRef, Limits, Ownership};
use rdvm_hostfs::Digest;
use rdvm_hostfs::units::ByteSize;

/// Options of all verbs that read images.
#[derive(Debug, Args)]
#[command(next_help_heading = "Image")]
pub struct ImageArgs {
    /// Owner of a directory's files in the guest: keep (as on the host), root, ranges HOST:GUEST:COUNT[,...], or auto: keep
    /// if rdvm runs as root, else root
    #[arg(long, value_name = "auto|root|keep|MAP", default_value = "auto")]
    owner: Ownership,
    /// Read owners, modes and devices from a save file of fakeroot -s
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    fakeroot: Option<PathBuf>,
    /// Reject an archive that unpacks to more (default: half of the available memory)
    #[arg(long, value_name = "SIZE")]
    max_size: Option<ByteSize>,
    /// Reject an archive with more members
    #[arg(long, value_name = "N", default_value_t = Limits::default().entries)]
    max_entries: u64,
    /// Reject an image with another content digest (see rdvm inspect)
    #[arg(long, value_name = "DIGEST", value_parser = parse_digest)]
    expect: Option<Digest>,
    /// Accept any digest, ignoring --expect and rdvm.lock
    #[arg(long)]
    no_expect: bool,
    /// Ask the registry for an image that is named, and not a file
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = PullArg::Missing)]
    pull: PullArg,
}

/// `--pull`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum PullArg {
    /// If it is not in the local store
    Missing,
    /// Each time, in case the name has another image now
    Always,
    /// Not at all
    Never,
}

impl From<PullArg> for PullPolicy {
    fn from(pull: PullArg) -> Self {
        match pull {
            PullArg::Missing => Self::Missing,
            PullArg::Always => Self::Always,
            PullArg::Never => Self::Never,
        }
    }
}

fn parse_digest(text: &str) -> Result<Digest, String> {
    text.parse()
        .map_err(|error| format!("{error}; {}", crate::way_out::DIGESTS))
}

/// Options of verbs that read one image as it is.
#[derive(Debug, Args)]
#[command(next_help_heading = "Image")]
pub struct StackArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Format of IMAGE (default: detected)
    #[arg(long, value_enum, value_name = "FORM")]
    format: Option<FormatArg>,
    /// Add another image on top, a directory or an archive, with its whiteouts; repeatable
    #[arg(long = "layer", value_name = "IMAGE", value_hint = ValueHint::AnyPath)]
    layers: Vec<PathBuf>,
    /// Choose an image of an archive that holds several: its name, or its manifest's digest
    #[arg(long, value_name = "NAME")]
    tag: Option<String>,
}

/// `--format` of images that are read.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatArg {
    /// Directory with a root file system
    Dir,
    /// tar archive of a root file system
    Tar,
    /// Archive written by docker save
    Docker,
    /// OCI image layout, as a directory or in a tar archive
    Oci,
    /// newc archive, such as an initrd
    Cpio,
    /// EROFS file system, not compressed
    Erofs,
}

impl ImageArgs {
    /// Returns when a registry is asked.
    pub(super) fn pull(&self) -> PullPolicy {
        self.pull.into()
    }

    /// Returns the image at `path`, without layers.
    ///
    /// # Errors
    /// The name is empty, or that of a store.
    pub(super) fn to_ref(&self, path: PathBuf) -> Result<ImageRef, Error> {
        let Named { path, format, tag } = transport::named(path)?;
        if path.as_os_str().is_empty() {
            return Err(Error::Image);
        }
        Ok(ImageRef {
            path,
            format,
            tag,
            owner: self.owner.clone(),
            fakeroot: self.fakeroot.clone(),
            limits: Limits {
                unpacked: self.max_size,
                entries: self.max_entries,
            },
            expect: match (self.no_expect, self.expect) {
                (true, _) => Expectation::Nothing,
                (false, Some(digest)) => Expectation::Digest(digest),
                (false, None) => Expectation::Lock,
            },
            ..ImageRef::default()
        })
    }
}

impl StackArgs {
    /// Returns when a registry is asked.
    pub(super) fn pull(&self) -> PullPolicy {
        self.image.pull()
    }

    /// Returns the image at `path` with its layers.
    ///
    /// # Errors
    /// A name is empty, or that of a store; standard input is used twice.
    pub(super) fn into_ref(self, path: PathBuf) -> Result<ImageRef, Error> {
        stdin_once(std::iter::once(&path).chain(&self.layers))?;
        transport::check(&self.layers)?;
        let image = self.image.to_ref(path)?;
        Ok(ImageRef {
            format: self.format.map(Format::from).or(image.format),
            layers: self.layers,
            tag: self.tag.or(image.tag),
            ..image
        })
    }
}

impl From<FormatArg> for Format {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Dir => Self::Dir,
            FormatArg::Tar => Self::Tar,
            FormatArg::Docker => Self::Docker,
            FormatArg::Oci => Self::Oci,
            FormatArg::Cpio => Self::Cpio,
            FormatArg::Erofs => Self::Erofs,
        }
    }
}

/// Checks that standard input is one image at most.
///
/// # Errors
/// It is two.
pub(super) fn stdin_once<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Result<(), Error> {
    let stdin = paths.filter(|path| path.as_os_str() == OsStr::new("-"));
    match stdin.count() {
        0 | 1 => Ok(()),
        _ => Err(Error::StdinTwice),
    }
}

/// Splits the last words of `run`'s command line into IMAGE and command, and removes one `--`.
pub(super) fn image_and_command(words: Vec<OsString>) -> (PathBuf, Vec<OsString>) {
    let mut words = words.into_iter();
    // clap has seen to it that there is one.
    let path = PathBuf::from(words.next().unwrap_or_default());
    let mut words = words.peekable();
    words.next_if(|word| word == "--");
    (path, words.collect())
}
