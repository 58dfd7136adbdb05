//! `rdvm pack`: its arguments, and the images and the archive that they name. Opens nothing.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum, ValueHint};

use super::image::stdin_once;
use super::{Error, ImageArgs};
use crate::environment;
use crate::names::PullPolicy;
use crate::output::{ArchiveFormat, Compression, Label, PackOptions, Settings, Tag};
use crate::request::{Expectation, ImageRef};

/// Arguments of `pack`.
#[derive(Debug, Args)]
pub struct PackArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Format to write (default: by FILE's name, as .tar, .tar.gz, .cpio.zst; else cpio)
    #[arg(long, value_enum, value_name = "FORMAT", help_heading = "Archive")]
    format: Option<FormArg>,
    /// Compression of a cpio or tar archive, or of each layer of a docker or OCI image
    #[arg(long, value_enum, value_name = "HOW", help_heading = "Archive")]
    compress: Option<CompressArg>,
    /// Write only the difference from this image: a tar layer with whiteouts, or a layer on top of it in a docker or OCI
    /// image
    #[arg(long, value_name = "IMAGE", value_hint = ValueHint::AnyPath, help_heading = "Archive")]
    base: Option<PathBuf>,
    /// Add an image on top, in a docker or OCI image as a separate layer; repeatable
    #[arg(long, value_name = "IMAGE", value_hint = ValueHint::AnyPath, help_heading = "Archive")]
    layer: Vec<PathBuf>,
    /// Name of the docker or OCI image; repeatable
    #[arg(long, value_name = "NAME[:TAG]", help_heading = "Image configuration")]
    tag: Vec<Tag>,
    /// Program that the image runs: words, or a JSON array of strings
    #[arg(long, value_name = "WORDS|JSON", value_parser = parse_words, help_heading = "Image configuration")]
    entrypoint: Option<Words>,
    /// Default command, or arguments of the entry point: words, or a JSON array of strings
    #[arg(long, value_name = "WORDS|JSON", value_parser = parse_words, help_heading = "Image configuration")]
    cmd: Option<Words>,
    /// Set a variable in the image, or pass on the variable NAME of the environment; repeatable
    #[arg(
        short,
        long,
        value_name = "NAME[=VALUE]",
        help_heading = "Image configuration"
    )]
    env: Vec<OsString>,
    /// Working directory of the image
    #[arg(short, long, value_name = "DIR", value_parser = parse_workdir, help_heading = "Image configuration")]
    workdir: Option<String>,
    /// User and group of the image's program: numbers, or names of the image
    #[arg(
        short,
        long,
        value_name = "USER[:GROUP]",
        help_heading = "Image configuration"
    )]
    user: Option<String>,
    /// Set a label of the image; repeatable
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = parse_label, help_heading = "Image configuration")]
    label: Vec<(String, String)>,
    /// File to write; - is standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Archive")]
    output: PathBuf,
    /// A directory, an archive, or - for an archive on standard input (default: the first --layer)
    #[arg(required_unless_present = "layer", value_hint = ValueHint::AnyPath, help_heading = None::<&'static str>)]
    path: Option<PathBuf>,
}

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormArg {
    /// initrd
    Cpio,
    /// Root file system, or with --base a layer
    Tar,
    /// Archive for docker load
    Docker,
    /// OCI image layout in a tar archive
    Oci,
    /// Read-only file system, to be mounted without unpacking it
    Erofs,
}

/// `--compress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CompressArg {
    /// No compression
    None,
    /// gzip, cut so that rsync finds unchanged parts
    Gzip,
    /// zstd
    Zstd,
    /// lz4; for cpio the legacy format that kernels read
    Lz4,
}

/// An argument of several words, kept apart from [`Vec`] so that clap takes it for one value.
type Words = Vec<String>;

/// The work of `pack`.
#[derive(Debug)]
pub struct Packing {
    /// The images to read, in order; each has more layers than the one before.
    pub steps: Vec<ImageRef>,
    /// The occasions on which a registry is asked for one of them.
    pub pull: PullPolicy,
    /// The archive to write.
    pub options: PackOptions,
}

impl PackArgs {
    /// Returns the images to read and the archive to write.
    ///
    /// # Errors
    /// Options that exclude each other; an image or a variable that cannot be used.
    pub fn into_packing(self) -> Result<Packing, Error> {
        let (named_form, named_compression) = by_name(&self.output);
        let form = self.format.or(named_form).unwrap_or(FormArg::Cpio);
        let is_image = matches!(form, FormArg::Docker | FormArg::Oci);
        if is_image && self.compress.is_none() && named_compression.is_some() {
            return Err(Error::CompressedName { path: self.output });
        }
        let compress = self.compress.or(named_compression);
        let compression = match (compress, form) {
            (None | Some(CompressArg::None), _) => Compression::None,
            (Some(_), FormArg::Erofs) => return Err(Error::CompressedErofs),
            (Some(CompressArg::Gzip), _) => Compression::Gzip,
            (Some(CompressArg::Zstd), _) => Compression::Zstd,
            (Some(CompressArg::Lz4), FormArg::Cpio) => Compression::Lz4Legacy,
            (Some(CompressArg::Lz4), FormArg::Tar) => Compression::Lz4,
            (Some(CompressArg::Lz4), _) => return Err(Error::Lz4Layer),
        };
        if self.base.is_some() && matches!(form, FormArg::Cpio | FormArg::Erofs) {
            return Err(Error::NoLayer);
        }
        if !is_image && let Some(option) = self.image_option() {
            return Err(Error::NoImage { option });
        }
        let steps = self.steps(is_image)?;
        let pull = self.image.pull();
        let target = self.output.clone();
        let form = match form {
            FormArg::Cpio => ArchiveFormat::Cpio,
            FormArg::Tar => ArchiveFormat::Tar,
            FormArg::Docker => ArchiveFormat::Docker(self.into_label()?),
            FormArg::Oci => ArchiveFormat::Oci(self.into_label()?),
            FormArg::Erofs => ArchiveFormat::Erofs,
        };
        let options = PackOptions {
            form,
            compression,
            target,
        };
        Ok(Packing {
            steps,
            pull,
            options,
        })
    }

    /// Returns the first option that applies to images only.
    fn image_option(&self) -> Option<&'static str> {
        let options = [
            ("--tag", self.tag.is_empty()),
            ("--entrypoint", self.entrypoint.is_none()),
            ("--cmd", self.cmd.is_none()),
            ("--env", self.env.is_empty()),
            ("--workdir", self.workdir.is_none()),
            ("--user", self.user.is_none()),
            ("--label", self.label.is_empty()),
        ];
        let given = options.iter().find(|(_, is_absent)| !is_absent);
        given.map(|(option, _)| *option)
    }

    /// Returns the base, then the image; for an image of layers once more with each layer, else with all at once. The digest
    /// of `--expect` is that of the whole stack, and rdvm.lock's that of the base.
    fn steps(&self, is_image: bool) -> Result<Vec<ImageRef>, Error> {
        let mut steps = Vec::new();
        if let Some(base) = &self.base {
            let base = self.image.to_ref(base.clone())?;
            steps.push(ImageRef {
                expect: match base.expect {
                    Expectation::Digest(_) => Expectation::Lock,
                    expect => expect,
                },
                ..base
            });
        }
        // A layer that is the lowest is still read as a layer: its whiteouts say that something is gone.
        let (path, layers, is_layer) = match (&self.path, &self.layer[..]) {
            (Some(path), layers) => (path, layers, false),
            (None, [first, layers @ ..]) => (first, layers, true),
            (None, []) => return Err(Error::Image),
        };
        let fewest = if is_image { 0 } else { layers.len() };
        for count in fewest..=layers.len() {
            let image = self.image.to_ref(path.clone())?;
            steps.push(ImageRef {
                layers: layers[..count].to_vec(),
                is_layer,
                expect: match image.expect {
                    // Its digest is that of an image, which a layer with whiteouts is not.
                    Expectation::Lock if is_layer => Expectation::Nothing,
                    expect if count == layers.len() => expect,
                    _ => Expectation::Nothing,
                },
                ..image
            });
        }
        stdin_once(
            steps
                .iter()
                .flat_map(|step| std::iter::once(&step.path).chain(&step.layers)),
        )?;
        Ok(steps)
    }

    fn into_label(self) -> Result<Label, Error> {
        let text = |entry: OsString| {
            entry
                .into_string()
                .map_err(|entry| Error::EnvText { entry })
        };
        let env = environment::collect(&[], &self.env)?;
        Ok(Label {
            settings: Settings {
                entrypoint: self.entrypoint,
                cmd: self.cmd,
                env: env.into_iter().map(text).collect::<Result<_, _>>()?,
                workdir: self.workdir,
                user: self.user,
                labels: BTreeMap::from_iter(self.label),
            },
            tags: self.tag,
        })
    }
}

/// Returns the form and compression that a file's name implies.
fn by_name(path: &Path) -> (Option<FormArg>, Option<CompressArg>) {
    let name = path.as_os_str().as_bytes();
    let endings: [(&[u8], Option<CompressArg>); 4] = [
        (b"", None),
        (b".gz", Some(CompressArg::Gzip)),
        (b".zst", Some(CompressArg::Zstd)),
        (b".lz4", Some(CompressArg::Lz4)),
    ];
    for (ending, compression) in endings {
        let Some(stem) = name.strip_suffix(ending) else {
            continue;
        };
        for (ending, form) in [(&b".tar"[..], FormArg::Tar), (b".cpio", FormArg::Cpio)] {
            if stem.ends_with(ending) {
                return (Some(form), compression);
            }
        }
    }
    if name.ends_with(b".tgz") {
        return (Some(FormArg::Tar), Some(CompressArg::Gzip));
    }
    (name.ends_with(b".erofs").then_some(FormArg::Erofs), None)
}

/// Splits words at blanks, or reads a JSON array. Rejects a shell's quotes.
fn parse_words(text: &str) -> Result<Words, String> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text)
            .map_err(|error| format!("no JSON array of strings: {error}"));
    }
    if text.contains(['"', '\'', '\\']) {
        let way_out = r#"write a JSON array, as in '["sh", "-c", "echo hello"]'"#;
        return Err(format!(
            "words are parted at blanks, and quotes do not keep them together; {way_out}"
        ));
    }
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

fn parse_workdir(text: &str) -> Result<String, String> {
    match text.starts_with('/') {
        true => Ok(text.to_owned()),
        false => Err("write it from the root on, as in /work".to_owned()),
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    match name {
        "" => Err("has no name before the \"=\"; write NAME=VALUE".to_owned()),
        name => Ok((name.to_owned(), value.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Verb, parse};

    fn pack(words: &[&str]) -> Result<Packing, String> {
        let words = ["rdvm", "pack"].iter().chain(words);
        match parse(words.map(OsString::from))
            .map_err(|e| e.to_string())?
            .verb
        {
            Verb::Pack(args) => args.into_packing().map_err(|e| e.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_name_says_the_form_where_it_can_mean_nothing_else() {
        use Compression::{Gzip, Lz4, Lz4Legacy, None, Zstd};
        for (words, form, compression) in [
            (&["-o", "x"][..], ArchiveFormat::Cpio, None),
            (&["-o", "-"], ArchiveFormat::Cpio, None),
            (&["-o", "x.gz"], ArchiveFormat::Cpio, None),
            (&["-o", "d.tar/x"], ArchiveFormat::Cpio, None),
            (&["-o", "x.tar"], ArchiveFormat::Tar, None),
            (&["-o", "x.tgz"], ArchiveFormat::Tar, Gzip),
            (&["-o", "x.erofs"], ArchiveFormat::Erofs, None),
            (&["-o", "x.tar.zst"], ArchiveFormat::Tar, Zstd),
            (&["-o", "x.tar.lz4"], ArchiveFormat::Tar, Lz4),
            (&["-o", "x.cpio.lz4"], ArchiveFormat::Cpio, Lz4Legacy),
            (
                &["-o", "x.tar.gz", "--format", "cpio"],
                ArchiveFormat::Cpio,
                Gzip,
            ),
            (
                &["-o", "x.tar.gz", "--compress", "none"],
                ArchiveFormat::Tar,
                None,
            ),
            (
                &["-o", "x.tar", "--format", "oci"],
                ArchiveFormat::Oci(Label::default()),
                None,
            ),
        ] {
            let options = pack(&[words, &["img"]].concat()).unwrap().options;
            assert_eq!(
                (options.form, options.compression),
                (form, compression),
                "{words:?}"
            );
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_a_way_out() {
        for (words, way_out) in [
            (&["-o", "x.tar", "--tag", "a"][..], "--format docker"),
            (&["-o", "x", "--cmd", "a"], "--format docker"),
            (&["-o", "x", "--base", "b"], "--format tar"),
            (
                &["-o", "x", "--format", "docker", "--compress", "lz4"],
                "gzip or zstd",
            ),
            (&["-o", "x.tar.gz", "--format", "docker"], "--compress"),
            (
                &["-o", "x", "--format", "oci", "--cmd", "sh -c 'a b'"],
                "JSON",
            ),
            (&["-o", "x", "--format", "oci", "--cmd", "[1]"], "JSON"),
            (&["-o", "x", "--format", "oci", "--workdir", "tmp"], "/work"),
            (
                &["-o", "x", "--format", "oci", "--label", "=x"],
                "NAME=VALUE",
            ),
            (&["-o", "x", "--format", "oci", "--tag", "A"], "lower case"),
            (&["-o", "x", "--format", "oci", "--env", "=x"], "NAME=VALUE"),
        ] {
            let error = pack(&[words, &["img"]].concat()).expect_err(way_out);
            assert!(error.contains(way_out), "{words:?}: {error}");
        }
    }

    #[test]
    fn every_layer_of_an_image_is_a_step_and_anything_else_has_them_at_once() {
        let steps = |words: &[&str]| -> Vec<Vec<PathBuf>> {
            let packing = pack(words).unwrap();
            let paths = |step: ImageRef| [vec![step.path], step.layers].concat();
            packing.steps.into_iter().map(paths).collect()
        };
        let words = [
            "--layer", "m", "--layer", "n", "--base", "b", "-o", "x", "i", "--format",
        ];
        let list = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(
            steps(&[&words[..], &["oci"]].concat()),
            [
                list(&["b"]),
                list(&["i"]),
                list(&["i", "m"]),
                list(&["i", "m", "n"])
            ]
        );
        assert_eq!(
            steps(&[&words[..], &["tar"]].concat()),
            [list(&["b"]), list(&["i", "m", "n"])]
        );
    }

    #[test]
    fn words_are_parted_at_blanks_and_arrays_are_taken_as_they_are() {
        let words = |text| parse_words(text).unwrap();
        assert_eq!(words("  a  b\tc "), ["a", "b", "c"]);
        assert_eq!(words(r#" ["a b", "", "\"c\""]"#), ["a b", "", "\"c\""]);
        assert_eq!(words(""), [""; 0]);
    }
}
