//! One image and the layers on top of it, read into one tree.
//!
//! A directory without layers goes straight to its tree; everything else goes through the in-memory file system.

use std::path::PathBuf;
use std::sync::Arc;

use super::blobs::{Blobs, ParseError};
use super::byte_source::{ByteSource, Region};
use super::config::Config;
use super::fs::{FileSystem, Rules};
use super::host::HostRoot;
use super::layers::{self, LayeredImage};
use super::limit::{Budget, Counter};
use super::recognise::{self, Bundle, Form, Kind};
use super::source::{Kept, Source, Sources};
use super::stream::Compression;
use super::tree::Tree;
use super::{Error, Image, cpio, dir, directory_state, docker, erofs, oci, start_of, tar};
use crate::reference::{Format, ImageRef};
use rdvm_hostfs::escape::shown;

/// Reads the image that `image` names, with its layers on top.
pub(super) fn open(image: &ImageRef, sources: &Sources) -> Result<Image, Error> {
    let mut budget = Budget::new(&image.limits);
    budget.progress = sources.progress.clone();
    let mut paths = std::iter::once(&image.path).chain(&image.layers);
    let is_directory =
        |path: &PathBuf| matches!(sources.open(path, &budget), Ok(Source::Directory(_)));
    if image.fakeroot.is_some() && !paths.any(is_directory) {
        return Err(Error::FakerootOfArchive {
            path: image.path.clone(),
        });
    }
    let mut reading = Reading {
        image,
        sources,
        budget: &budget,
        members: Counter::new(&image.limits),
        system: FileSystem::new(image.limits.entries),
        stores: Vec::new(),
    };
    let base = reading.part(image)?;
    if image.tag.is_some() && base.layered.is_none() {
        return Err(Error::NoTags {
            path: image.path.clone(),
        });
    }
    let mut tree = base.tree;
    if !image.layers.is_empty() {
        if let Some(tree) = tree.take() {
            reading.system.begin_layer(Rules::Tar);
            reading.put_tree(tree, image)?;
        }
        for path in &image.layers {
            reading.layer(&ImageRef {
                path: path.clone(),
                owner: image.owner.clone(),
                fakeroot: image.fakeroot.clone(),
                ..ImageRef::default()
            })?;
        }
    }
    let tree = match tree {
        Some(tree) => tree,
        None => reading.system.into_tree()?.with_stores(reading.stores),
    };
    if let [] | [_] = tree.entries() {
        return Err(match base.form {
            Form::Directory => Error::Empty {
                path: image.path.clone(),
            },
            _ => Error::Nothing {
                shown: shown(&image.path),
            },
        });
    }
    let (config, manifest, id, layers) = match base.layered {
        Some((layered, layers)) => (
            layered.config,
            layered.manifest,
            Some(layered.id),
            layers.into_iter().map(|(facts, _)| facts).collect(),
        ),
        None => (Config::default(), None, None, Vec::new()),
    };
    Ok(Image {
        tree,
        config,
        form: base.form,
        compression: base.compression,
        layers,
        manifest,
        id,
    })
}

/// The image and its budget.
struct Reading<'a> {
    image: &'a ImageRef,
    sources: &'a Sources,
    budget: &'a Budget,
    members: Counter,
    system: FileSystem,
    /// Files on the host that contents are still to be read from.
    stores: Vec<Arc<ByteSource>>,
}

/// The image found at one path.
struct Part {
    form: Form,
    compression: Compression,
    /// A directory's tree, not yet put into the file system.
    tree: Option<Tree>,
    /// The image's own layers.
    layered: Option<(LayeredImage, Vec<(layers::LayerFacts, Region)>)>,
}

impl Part {
    fn new(form: Form) -> Self {
        Self {
            form,
            compression: Compression::None,
            tree: None,
            layered: None,
        }
    }

    fn of_tree(tree: Tree) -> Self {
        Self {
            tree: Some(tree),
            ..Self::new(Form::Directory)
        }
    }
}

impl<'a> Reading<'a> {
    /// Reads the image itself.
    fn part(&mut self, image: &ImageRef) -> Result<Part, Error> {
        let (region, compression, rest) = match self.sources.open(&image.path, self.budget)? {
            Source::Directory(root) => return self.directory(&root, image),
            Source::Archive(region, compression, rest) => (region, compression, rest),
        };
        let wrong = |what| Error::WrongKind {
            path: image.path.clone(),
            what,
        };
        let kind = match image.format {
            Some(Format::Cpio) => Kind::Cpio,
            Some(Format::Erofs) => Kind::Erofs,
            Some(Format::Tar | Format::Docker | Format::Oci) => Kind::Tar,
            Some(Format::Dir) => return Err(not_of(image, "a directory")),
            None => recognise::kind(&first_block(&region)?).map_err(wrong)?,
        };
        let mut part = match kind {
            Kind::Cpio => {
                self.cpio(&region, rest)?;
                Part::new(Form::Cpio)
            }
            Kind::Erofs => {
                self.erofs(&region)?;
                Part::new(Form::Erofs)
            }
            Kind::Tar => self.tar(&region, image)?,
        };
        self.stores.push(region.store);
        part.compression = compression;
        Ok(part)
    }

    fn directory(&mut self, root: &Arc<HostRoot>, image: &ImageRef) -> Result<Part, Error> {
        match self.sources.kept(image) {
            Some(Kept::LayeredImage(layered)) => return self.layout(layered, image),
            Some(Kept::Tree(tree)) => return Ok(Part::of_tree(tree)),
            None => {}
        }
        let layout = match image.format {
            Some(Format::Dir) => None,
            _ => Blobs::of_directory(root).map_err(|source| Error::Image {
                path: image.path.clone(),
                source,
            })?,
        };
        match (layout, image.format) {
            (Some(blobs), None | Some(Format::Oci)) => {
                // Before anything in it is read.
                if self.sources.notes_states
                    && let Ok(state) = directory_state::of(root)
                {
                    self.sources.note_state(&image.path, state);
                }
                let layered = oci::open(&blobs, image.tag.as_deref());
                let layered = layered.map_err(flawed(image))?;
                self.sources
                    .keep(image, || Kept::LayeredImage(layered.clone()));
                self.layout(layered, image)
            }
            (_, Some(Format::Tar)) => Err(not_of(image, "a tar archive")),
            (_, Some(Format::Docker)) => Err(not_of(image, "a docker archive")),
            (_, Some(Format::Cpio)) => Err(not_of(image, "a cpio archive")),
            (_, Some(Format::Erofs)) => Err(not_of(image, "an EROFS file system")),
            (None, Some(Format::Oci)) => Err(not_of(image, "an OCI layout")),
            _ => {
                let (tree, state) = dir::read(root.clone(), image, self.sources.notes_states)?;
                self.sources.note_state(&image.path, state);
                self.sources.keep(image, || Kept::Tree(tree.clone()));
                Ok(Part::of_tree(tree))
            }
        }
    }

    fn layout(&mut self, layered: LayeredImage, image: &ImageRef) -> Result<Part, Error> {
        let mut part = self.layered(layered, image)?;
        part.form = Form::OciDirectory;
        Ok(part)
    }

    /// A tar archive: a root file system, or one that holds images. It is read as the first until the end, since only then
    /// it is known to be none of the others; the file system then is their index of members.
    fn tar(&mut self, region: &Region, image: &ImageRef) -> Result<Part, Error> {
        let mut system = FileSystem::new(self.image.limits.entries);
        if image.is_layer {
            system.begin_layer(Rules::Layer);
        }
        let end = read_tar(region, &mut system, &self.members)?;
        if image.format == Some(Format::Tar) {
            self.system = system;
            self.ended(region, end);
            return Ok(Part::new(Form::Tar));
        }
        let blobs = Blobs::Archive {
            system: Box::new(system),
            budget: self.budget,
        };
        let bundle = match (recognise::bundle(&blobs), image.format) {
            (_, Some(Format::Docker)) => Some(Bundle::Docker),
            (_, Some(Format::Oci)) => Some(Bundle::Oci),
            (bundle, _) => bundle,
        };
        match (bundle, blobs) {
            (Some(bundle), blobs) => self.bundle(bundle, &blobs, image),
            (None, Blobs::Archive { system, .. }) => {
                self.system = *system;
                self.ended(region, end);
                Ok(Part::new(Form::Tar))
            }
            (None, Blobs::Directory { .. }) => Ok(Part::new(Form::Tar)),
        }
    }

    fn bundle(&mut self, bundle: Bundle, blobs: &Blobs, image: &ImageRef) -> Result<Part, Error> {
        let spec = image.tag.as_deref();
        let (layered, form) = match bundle {
            Bundle::Docker => (docker::open(blobs, spec), Form::DockerArchive),
            Bundle::Oci => (oci::open(blobs, spec), Form::OciArchive),
            // OCI's list has the manifest's digest as well, so it is taken first. docker lists more in it than it saves
            // where an image has several platforms, and tags without names; then its own list is the better one. A wrong
            // digest is no reason to look at the other.
            Bundle::Both => match oci::open(blobs, spec) {
                Err(flaw) if flaw.is_gap() => (
                    docker::open(blobs, spec).map_err(|_| flaw),
                    Form::DockerArchive,
                ),
                layered => (layered, Form::DockerArchive),
            },
        };
        let mut part = self.layered(layered.map_err(flawed(image))?, image)?;
        part.form = form;
        Ok(part)
    }

    /// Applies the layers of an image that keeps them apart.
    fn layered(&mut self, layered: LayeredImage, image: &ImageRef) -> Result<Part, Error> {
        let applied = layers::apply(
            &layered.layers,
            &mut self.system,
            &shown(&image.path),
            self.budget,
            &self.members,
        )?;
        for (_, region) in &applied {
            self.stores.push(region.store.clone());
        }
        let mut part = Part::new(Form::OciArchive);
        part.layered = Some((layered, applied));
        Ok(part)
    }

    fn cpio(&mut self, region: &Region, rest: Option<cpio::Rest>) -> Result<(), Error> {
        let system = &mut self.system;
        let (members, budget) = (&self.members, self.budget);
        cpio::read(region, rest.as_ref(), members, budget, &mut |member| {
            system.put(member).map_err(in_archive(region))
        })?;
        self.stores.extend(rest.map(|rest| rest.region.store));
        Ok(())
    }

    fn erofs(&mut self, region: &Region) -> Result<(), Error> {
        let system = &mut self.system;
        erofs::read(region, &self.members, self.budget, &mut |member| {
            system.put(member).map_err(in_archive(region))
        })
    }

    /// Puts a directory or an archive on top of what there is.
    fn layer(&mut self, layer: &ImageRef) -> Result<(), Error> {
        let (region, rest) = match self.sources.open(&layer.path, self.budget)? {
            Source::Directory(root) => {
                let part = self.directory(&root, layer)?;
                if let Some(tree) = part.tree {
                    self.system.begin_layer(Rules::Layer);
                    self.put_tree(tree, layer)?;
                }
                return Ok(());
            }
            Source::Archive(region, _, rest) => (region, rest),
        };
        let kind = recognise::kind(&first_block(&region)?).map_err(|what| Error::WrongKind {
            path: layer.path.clone(),
            what,
        })?;
        match kind {
            Kind::Cpio => {
                self.system.begin_layer(Rules::Layer);
                self.cpio(&region, rest)?;
            }
            Kind::Erofs => {
                self.system.begin_layer(Rules::Layer);
                self.erofs(&region)?;
            }
            Kind::Tar => match self.held(&region)? {
                Some((bundle, blobs)) => {
                    self.bundle(bundle, &blobs, layer)?;
                }
                None => {
                    self.system.begin_layer(Rules::Layer);
                    let end = read_tar(&region, &mut self.system, &self.members)?;
                    self.ended(&region, end);
                }
            },
        }
        self.stores.push(region.store);
        Ok(())
    }

    /// The images that a tar archive holds. Whether it does must be known before the first member of a layer is put into
    /// the file system, so the headers are read once more.
    fn held(&self, region: &Region) -> Result<Option<(Bundle, Blobs<'a>)>, Error> {
        let limits = &self.image.limits;
        let mut listed = false;
        tar::read(region, &Counter::new(limits), &mut |member| {
            let name = member.name.strip_prefix(b"./").unwrap_or(&member.name);
            listed |= matches!(name, b"manifest.json" | b"index.json" | b"oci-layout")
                || name.ends_with(b"/layer.tar")
                || name.starts_with(b"blobs/sha256/");
            Ok::<(), Error>(())
        })?;
        if !listed {
            return Ok(None);
        }
        let mut system = FileSystem::new(limits.entries);
        read_tar(region, &mut system, &Counter::new(limits))?;
        let blobs = Blobs::Archive {
            system: Box::new(system),
            budget: self.budget,
        };
        Ok(recognise::bundle(&blobs).map(|bundle| (bundle, blobs)))
    }

    /// Warns of a root file system's archive that may not be whole. Archives of images are proven by digests.
    fn ended(&mut self, region: &Region, end: tar::End) {
        let warning = end.warning(region.store.shown());
        self.system.warnings.extend(warning);
    }

    fn put_tree(&mut self, tree: Tree, image: &ImageRef) -> Result<(), Error> {
        let put = self.system.put_tree(tree);
        put.map_err(|source| Error::Member {
            shown: shown(&image.path),
            source,
        })
    }
}

fn read_tar(
    region: &Region,
    system: &mut FileSystem,
    members: &Counter,
) -> Result<tar::End, Error> {
    tar::read(region, members, &mut |member| {
        system.put(member).map_err(in_archive(region))
    })
}

fn first_block(region: &Region) -> Result<Vec<u8>, Error> {
    start_of(region).map_err(|errno| Error::read(region.store.shown())(errno.into()))
}

fn in_archive(region: &Region) -> impl Fn(super::fs::Error) -> Error {
    |source| Error::Member {
        shown: region.store.shown().to_owned(),
        source,
    }
}

fn flawed(image: &ImageRef) -> impl FnOnce(ParseError) -> Error {
    let shown = shown(&image.path);
    move |flaw| Error::Bundle {
        shown,
        flaw: Box::new(flaw),
    }
}

fn not_of(image: &ImageRef, wanted: &'static str) -> Error {
    Error::NotOfFormat {
        path: image.path.clone(),
        wanted,
    }
}
