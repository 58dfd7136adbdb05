//! Trees → the archives that others read: tar, docker and OCI images, and cpio compressed.
//!
//! Takes trees that were read already, returns a file or a stream, the same bytes for the same trees. Knows nothing of
//! the forms that images come in.

pub mod compress;
pub mod config;
pub mod layer;
pub mod tag;

mod cut;
mod docker;
mod gzip;
mod header;
mod oci;
mod tar;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::MemfdFlags;

pub use compress::Compression;
pub use config::Settings;
pub use layer::Layer;
pub use tag::Tag;

use rdvm_hostfs::atomic::AtomicFile;
use rdvm_hostfs::escape::{escaped, reason, shown};
use rdvm_image::config::Config;
use rdvm_image::tree::{ImagePath, Tree};
use rdvm_initrd::{Epoch, Layout, attributes};

/// The archive to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackOptions {
    /// In which form.
    pub form: ArchiveFormat,
    /// The compression of all of a cpio or tar archive, or of every layer of an image.
    pub compression: Compression,
    /// Where to; `-` is standard output.
    pub target: PathBuf,
}

/// The form of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An initrd.
    Cpio,
    /// A tar archive of a tree, or of a layer where there is something below it.
    Tar,
    /// An archive of `docker save`.
    Docker(Label),
    /// An OCI image layout in a tar archive.
    Oci(Label),
    /// An EROFS file system.
    Erofs,
}

/// The settings of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Label {
    /// The program that runs in it, and how.
    pub settings: Settings,
    /// Its names.
    pub tags: Vec<Tag>,
}

impl PackOptions {
    /// The same, with what an image that was read says of itself wherever the order does not say otherwise.
    pub fn over(mut self, image: &Config) -> Self {
        if let ArchiveFormat::Docker(label) | ArchiveFormat::Oci(label) = &mut self.form {
            label.settings = std::mem::take(&mut label.settings).over(image.into());
        }
        self
    }
}

/// Writes what was ordered. `steps` are trees, each of which has one layer more than the one before: an image gets a
/// layer of its own for each of them, a tar archive has what the last one adds to the one before it. cpio is the last
/// one as it is. Gives what was left out, for the user to know.
///
/// # Errors
/// Those of the trees' contents and of the file system; nothing is left at the target then, and what was there
/// stays.
pub fn write(
    steps: &[&Tree],
    options: &PackOptions,
    epoch: Epoch,
) -> Result<Vec<PackWarning>, Error> {
    let Some((last, below)) = steps.split_last() else {
        return Ok(Vec::new());
    };
    match &options.form {
        ArchiveFormat::Cpio => {
            write_cpio(last, options, epoch)?;
            let lost = attributes::left_out(last, "a cpio archive has no place for them");
            Ok(lost.into_iter().map(PackWarning::Attributes).collect())
        }
        ArchiveFormat::Tar => {
            let layer = match below.last() {
                Some(base) => Layer::diff(base, last, epoch)?,
                None => Layer::plain(last),
            };
            to_stream(&options.target, |out| {
                compress::through(options.compression, out, |out| {
                    tar::write(&layer, epoch, out)
                })
            })?;
            Ok(warnings(std::slice::from_ref(&layer)))
        }
        ArchiveFormat::Docker(label) => {
            write_image(steps, oci::OciForm::Docker, label, options, epoch)
        }
        ArchiveFormat::Oci(label) => write_image(steps, oci::OciForm::Oci, label, options, epoch),
        ArchiveFormat::Erofs => {
            let layout = rdvm_erofs::Layout::of(last, epoch)?;
            to_places(&options.target, |file| {
                layout.write(last, &|| false, file)?;
                Ok(layout.size())
            })?;
            Ok(Vec::new())
        }
    }
}

fn write_cpio(tree: &Tree, options: &PackOptions, epoch: Epoch) -> Result<(), Error> {
    if options.compression == Compression::None {
        return Ok(rdvm_initrd::write_archive(tree, epoch, &options.target)?);
    }
    let layout = Layout::of(tree, epoch)?;
    to_stream(&options.target, |out| {
        compress::through(options.compression, out, |mut out| {
            layout.stream(&mut out)?;
            Ok(rdvm_initrd::unchanged(tree)?)
        })
    })
}

fn write_image(
    steps: &[&Tree],
    form: oci::OciForm,
    label: &Label,
    options: &PackOptions,
    epoch: Epoch,
) -> Result<Vec<PackWarning>, Error> {
    let mut layers = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        layers.push(match index.checked_sub(1) {
            Some(below) => Layer::diff(steps[below], step, epoch)?,
            None => Layer::whole(step)?,
        });
    }
    let plan = oci::Plan {
        form,
        compression: options.compression,
        settings: &label.settings,
        tags: &label.tags,
        epoch,
    };
    to_places(&options.target, |file| oci::write(&layers, &plan, file))?;
    Ok(warnings(&layers))
}

fn warnings(layers: &[Layer<'_>]) -> Vec<PackWarning> {
    let last = layers.last().into_iter();
    let sockets = last.flat_map(Layer::left_out);
    sockets
        .map(|path| PackWarning::Socket { path: path.clone() })
        .collect()
}

/// Has `write` write to the target from start to end.
fn to_stream(
    target: &Path,
    write: impl FnOnce(&mut (dyn Write + Send)) -> Result<(), Error>,
) -> Result<(), Error> {
    if target == Path::new("-") {
        return write(&mut io::stdout());
    }
    let output = output_error(target);
    let draft = AtomicFile::beside(target).map_err(&output)?;
    write(&mut draft.file())?;
    match draft.is_seekable() {
        true => draft.put_in_place().map_err(&output),
        false => Ok(()),
    }
}

/// Has `write` write to the target in any order, and say how long it came to be. A target that is a stream gets it from
/// memory when it is whole.
fn to_places(target: &Path, write: impl FnOnce(&File) -> Result<u64, Error>) -> Result<(), Error> {
    let output = output_error(target);
    let memory = || -> io::Result<File> {
        let file = rustix::fs::memfd_create("rdvm-image", MemfdFlags::CLOEXEC)?;
        Ok(file.into())
    };
    let copy = |file: &File, length: u64, out: &mut dyn Write| {
        let mut file = io::Read::take(file, length);
        let copied = io::copy(&mut file, out).and_then(|_| out.flush());
        copied.map_err(|source| Error::Write { source })
    };
    if target == Path::new("-") {
        let file = memory().map_err(&output)?;
        let length = write(&file)?;
        return copy(&file, length, &mut io::stdout());
    }
    let draft = AtomicFile::beside(target).map_err(&output)?;
    if !draft.is_seekable() {
        let file = memory().map_err(&output)?;
        let length = write(&file)?;
        return copy(&file, length, &mut draft.file());
    }
    let length = write(draft.file())?;
    draft.file().set_len(length).map_err(&output)?;
    draft.put_in_place().map_err(&output)
}

fn output_error(target: &Path) -> impl Fn(io::Error) -> Error {
    move |source| Error::Output {
        path: target.to_owned(),
        source,
    }
}

/// Something left out on purpose, to be shown to the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum PackWarning {
    /// A socket.
    #[error(
        "{}: is a socket, which a tar archive cannot hold; left out",
        escaped(path)
    )]
    Socket { path: ImagePath },
    /// Extended attributes.
    #[error("{0}")]
    Attributes(String),
}

/// Why an archive was not written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// The tree's contents.
    #[error(transparent)]
    Contents(#[from] rdvm_image::body::Error),
    /// A cpio archive.
    #[error(transparent)]
    Initrd(#[from] rdvm_initrd::Error),
    /// An EROFS file system.
    #[error(transparent)]
    Erofs(#[from] rdvm_erofs::Error),
    /// A file that a layer would make a whiteout of.
    #[error(
        "{}: in a layer this name says that another file is gone; rename it, or write it as plain tar or cpio",
        escaped(path)
    )]
    WhiteoutName { path: ImagePath },
    /// A compression that nothing reads layers in.
    #[error("OCI layers cannot be lz4-compressed; use gzip or zstd")]
    Lz4Layer,
    /// The bytes cannot be written.
    #[error(
        "the archive cannot be written: {}; see that there is room for it",
        reason(source)
    )]
    Write { source: io::Error },
    /// The file that the archive is to go to cannot be had.
    #[error(
        "{}: {}; name a file in a directory that you may write to",
        shown(path),
        reason(source)
    )]
    Output { path: PathBuf, source: io::Error },
}

impl Error {
    /// True if the reader of the archive has gone away.
    pub fn is_broken_pipe(&self) -> bool {
        match self {
            Self::Initrd(error) => error.is_broken_pipe(),
            Self::Write { source } => source.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }
}
