//! IMAGE as the stages after it need it: a tree that is laid out as an initrd or as a file system, or a file system of an
//! earlier run; and the little that has to be known of it besides.

mod cached;
mod choice;

use std::io;

use serde::{Deserialize, Serialize};

use self::cached::{Packing, find, inputs, inputs_of_what_was_read, shown_absolute};
pub use self::choice::{InPlace, REGION_FROM};
use crate::cache::Cache;
use crate::error::Result;
use crate::payload;
use crate::request::ImageRef;
use crate::trust;
use crate::way_out;
use rdvm_erofs::Structure;
use rdvm_hostfs::Digest;
use rdvm_hostfs::progress::Progress;
use rdvm_image::account::Files;
use rdvm_image::config::Config;
use rdvm_image::{Image, Sources, digest};
use rdvm_initrd::{Contents, Epoch, Initrd, Layout, Places, attributes};
use rdvm_vmm::machine::Region;

/// An image, ready to be the root of a machine.
#[derive(Debug)]
pub enum PreparedImage {
    /// Read from the image itself.
    Read {
        /// Facts about it.
        info: ImageInfo,
        /// The tree.
        image: Box<Image>,
        /// The place of everything.
        layout: ImageLayout,
    },
    /// A file system in the cache.
    Kept {
        /// Facts about it.
        info: ImageInfo,
        /// The file system.
        region: Region,
    },
}

/// The layout of an image that was read.
#[derive(Debug)]
pub enum ImageLayout {
    /// An archive in the initrd.
    Archive(Places),
    /// A file system in a region of memory, with the state of what it was made from where that is known.
    FileSystem(Box<rdvm_erofs::Layout>, Option<crate::cache::CacheInputs>),
}

/// Facts about an image besides its bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageInfo {
    /// The sizes of its archive and what is in it; only numbers of entries where no archive can hold it.
    pub contents: Contents,
    /// The size of its file system, where that is what it is used as.
    pub region: Option<u64>,
    /// The structure of that file system.
    pub structure: Option<Structure>,
    /// The name of PID 1's file.
    pub init: String,
    /// The table of extended attributes, which an archive cannot hold.
    pub attributes: Option<Vec<u8>>,
    /// The image's own configuration.
    pub config: Config,
    /// Its users and groups, where they can be needed.
    pub accounts: Files,
    /// Its content digest, where it was computed.
    pub digest: Option<Digest>,
    /// The entries that were left out while it was read, one line each.
    pub warnings: Vec<String>,
    /// The absolute path of the image that was packed, escaped, in cache entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Returns the name of a cached image, from the facts that are kept with it.
pub fn cached_name(facts: &[u8]) -> Option<String> {
    serde_json::from_slice::<ImageInfo>(facts).ok()?.name
}

impl PreparedImage {
    /// Reads the image, checks its digest against the expected one, and lays it out as `in_place` says; or takes its file
    /// system from the `cache`.
    ///
    /// # Errors
    /// The image cannot be read, or is another one; it has to be a file system and cannot be one.
    pub(crate) fn open(
        image: &ImageRef,
        epoch: Epoch,
        in_place: &InPlace<'_>,
        cache: Option<&Cache>,
        progress: &Progress,
    ) -> Result<Self> {
        let sources = match image.layers.is_empty() {
            true => Sources::default(),
            false => Sources::keeping(),
        }
        .with_progress(progress)
        .with_states(cache.is_some() && in_place.is_possible());
        trust::check_parts(image, &sources)?;
        let wanted = trust::wanted(image)?;
        // An expected digest is that of what is read now.
        let cache = cache.filter(|_| in_place.is_possible() && wanted.is_none());
        let before = cache.and_then(|_| inputs(image, epoch, &sources));
        if let Some((info, region)) = cache
            .zip(before.as_ref())
            .and_then(|(cache, inputs)| find(cache, inputs, &sources))
            && in_place.may_be(region.size, info.contents.entries)
        {
            return Ok(Self::Kept { info, region });
        }
        let read = rdvm_image::open_from(image, &sources)?;
        let digest = match &wanted {
            Some(wanted) => {
                let digest = digest::of(&read.tree).map_err(trust::Error::from)?;
                wanted.check(image.name(), digest)?;
                Some(digest)
            }
            None => None,
        };
        let mut info = ImageInfo::of(&read, digest);
        if let Some(layout) = in_place.layout(&read.tree, epoch)? {
            info.accounts = Files::read(&read.tree).unwrap_or_default();
            // An archive may not hold it: then there is no more to say.
            info.contents = Layout::of(&read.tree, epoch).map_or(
                Contents {
                    entries: read.tree.entries().len() as u64,
                    inodes: layout.inodes(),
                    ..Contents::default()
                },
                |archive| archive.contents(),
            );
            info.region = Some(layout.size());
            info.structure = Some(layout.structure());
            info.name = Some(match &image.stored {
                Some(stored) => stored.name.clone(),
                None => shown_absolute(&image.path),
            });
            let inputs =
                before.and_then(|before| inputs_of_what_was_read(image, epoch, &sources, &before));
            return Ok(Self::Read {
                info,
                image: Box::new(read),
                layout: ImageLayout::FileSystem(Box::new(layout), inputs),
            });
        }
        info.attributes = attributes::table(&read.tree)?.map(|table| table.to_vec());
        let places = Layout::of(&read.tree, epoch)?.into_places();
        info.contents = places.contents();
        Ok(Self::Read {
            info,
            image: Box::new(read),
            layout: ImageLayout::Archive(places),
        })
    }

    /// Returns the facts about the image.
    pub fn info(&self) -> &ImageInfo {
        match self {
            Self::Read { info, .. } | Self::Kept { info, .. } => info,
        }
    }

    /// Returns the image, where it was read.
    pub fn image(&self) -> Option<&Image> {
        match self {
            Self::Read { image, .. } => Some(image),
            Self::Kept { .. } => None,
        }
    }

    /// Returns the bytes of memory that the image takes of the host beside the machine's RAM: without a `cache` there is no
    /// other place for its file system.
    pub(crate) fn in_memory(&self, cache: Option<&Cache>) -> u64 {
        match self {
            Self::Read {
                layout: ImageLayout::FileSystem(layout, _),
                ..
            } if cache.is_none() => layout.bytes(),
            _ => 0,
        }
    }

    /// Appends the image to an initrd, or returns it as a region, which is written to the `cache`: under a name where it can be
    /// found again, else without one. Without a cache, and where that fails, it is written to memory; the failure becomes a line
    /// of `warnings`.
    ///
    /// # Errors
    /// A file of the image cannot be read or has changed; no memory.
    pub(crate) fn into_root(
        self,
        initrd: &mut Initrd,
        cache: Option<&Cache>,
        progress: &Progress,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Region>> {
        match self {
            Self::Kept { region, .. } => Ok(Some(region)),
            Self::Read {
                image,
                layout: ImageLayout::Archive(places),
                ..
            } => {
                initrd.push(image.tree, places);
                Ok(None)
            }
            Self::Read {
                info,
                image,
                layout: ImageLayout::FileSystem(layout, inputs),
            } => {
                progress.stage("packing", Some(layout.size()));
                let packing = Packing {
                    layout: &layout,
                    tree: &image.tree,
                    progress,
                };
                packing
                    .write(&info, cache, inputs.as_ref(), warnings)
                    .map(Some)
            }
        }
    }
}

impl ImageInfo {
    fn of(image: &Image, digest: Option<Digest>) -> Self {
        let warnings = image.tree.warnings().iter();
        Self {
            contents: Contents::default(),
            region: None,
            structure: None,
            init: payload::name(&image.tree),
            attributes: None,
            config: image.config.clone(),
            accounts: Files::default(),
            digest,
            warnings: warnings.map(way_out::with_warning).collect(),
            name: None,
        }
    }
}

/// The reason why a region cannot be had from a file.
fn short(source: io::Error) -> crate::error::Error {
    crate::error::Error::Host {
        what: "the image in memory".to_owned(),
        source,
    }
}
