//! IMAGE as the stages after it need it: its tree laid out for the initrd, or packed on an earlier run; and the little
//! that has to be known of it besides.

mod cached;

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use self::cached::{Slot, find, inputs, key, shown_absolute};
use crate::cache::{Cache, Packed};
use crate::error::Result;
use crate::payload;
use crate::request::ImageRef;
use crate::trust;
use crate::way_out;
use rdvm_hostfs::Digest;
use rdvm_hostfs::progress::Progress;
use rdvm_image::account::Files;
use rdvm_image::config::Config;
use rdvm_image::{Image, Sources, digest};
use rdvm_initrd::{Contents, Epoch, Initrd, Layout, Places, attributes};

/// An image, ready to be put into an initrd.
#[derive(Debug)]
pub enum PreparedImage {
    /// Read from the image itself.
    Fresh {
        /// Facts about it.
        info: ImageInfo,
        /// The tree.
        image: Box<Image>,
        /// The place of each entry in the archive.
        places: Places,
    },
    /// Packed in the cache.
    Cached {
        /// Facts about it.
        info: ImageInfo,
        /// The archive.
        packed: Packed,
    },
}

/// Facts about an image besides its packed bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageInfo {
    /// The sizes of the archive and what is in it.
    pub contents: Contents,
    /// The name of PID 1's file.
    pub init: String,
    /// The table of extended attributes.
    pub attributes: Option<Vec<u8>>,
    /// The image's own configuration.
    pub config: Config,
    /// Its users and groups, where they can be needed.
    pub accounts: Files,
    /// Its content digest, where it was computed.
    pub digest: Option<Digest>,
    /// The sha256 of the packed archive, in cache entries.
    pub packed: Option<Digest>,
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

/// The images that are packed into the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CachePolicy {
    /// None.
    Nothing,
    /// Archives, whose file stamps show that they have not changed: they need not be read again.
    Archives,
    /// Directories too, so that machines can map the same file. A directory has to be read to know its contents.
    All,
}

impl PreparedImage {
    /// Reads the image, checks its digest against the expected one, and lays it out; or takes it from the cache.
    /// Without a `cache` nothing is kept.
    ///
    /// # Errors
    /// The image cannot be read, or is another one; with [`CachePolicy::All`] also that it cannot be kept.
    pub(crate) fn open(
        image: &ImageRef,
        epoch: Epoch,
        policy: CachePolicy,
        cache: Option<&Cache>,
        progress: &Progress,
    ) -> Result<Self> {
        let cache = cache.filter(|_| policy != CachePolicy::Nothing);
        let sources = match image.layers.is_empty() {
            true => Sources::default(),
            false => Sources::keeping(),
        }
        .with_progress(progress);
        trust::check_parts(image, &sources)?;
        let wanted = trust::wanted(image)?;
        let check = |digest| match &wanted {
            Some(wanted) => wanted.check(&image.path, digest),
            None => Ok(()),
        };
        // What has been checked counts; nothing else has to be opened to look it up.
        let now = |path: &Path| sources.metadata(path).map_or_else(|| path.metadata(), Ok);
        let found = cache.and_then(|cache| {
            let inputs = inputs(image, epoch, now)?;
            find(cache, &inputs, wanted.is_some())
        });
        if let Some((digest, info, packed)) = found {
            check(digest)?;
            return Ok(Self::Cached { info, packed });
        }
        let read = rdvm_image::open_from(image, &sources)?;
        // The state of what was read, wherever the paths lead by now.
        let read_from = |path: &Path| sources.metadata(path).ok_or(io::ErrorKind::NotFound.into());
        let inputs = cache.and_then(|_| inputs(image, epoch, read_from));
        let cache = cache.filter(|_| policy == CachePolicy::All || inputs.is_some());
        let digest = match wanted.is_some() || cache.is_some() {
            true => Some(digest::of(&read.tree).map_err(trust::Error::from)?),
            false => None,
        };
        digest.map_or(Ok(()), check)?;
        let places = Layout::of(&read.tree, epoch)?.into_places();
        let mut info = ImageInfo::of(&read, places.contents(), digest)?;
        let Some((cache, digest)) = cache.zip(digest) else {
            return Ok(Self::fresh(info, read, places));
        };
        info.accounts = Files::read(&read.tree)?;
        let slot = Slot {
            cache,
            inputs,
            key: key(digest, &info, &read, epoch),
            policy,
            name: shown_absolute(&image.path),
        };
        slot.keep(info, read, places)
    }

    fn fresh(info: ImageInfo, image: Image, places: Places) -> Self {
        let image = Box::new(image);
        Self::Fresh {
            info,
            image,
            places,
        }
    }

    /// Returns the facts about the image.
    pub fn info(&self) -> &ImageInfo {
        match self {
            Self::Fresh { info, .. } | Self::Cached { info, .. } => info,
        }
    }

    /// Returns the image, where it was read.
    pub fn image(&self) -> Option<&Image> {
        match self {
            Self::Fresh { image, .. } => Some(image),
            Self::Cached { .. } => None,
        }
    }

    /// Appends the image to an initrd.
    pub(crate) fn push_to(self, initrd: &mut Initrd) {
        match self {
            Self::Fresh { image, places, .. } => initrd.push(image.tree, places),
            Self::Cached { packed, .. } => initrd.push_made(packed.file, packed.size),
        }
    }
}

impl ImageInfo {
    fn of(image: &Image, contents: Contents, digest: Option<Digest>) -> Result<Self> {
        let warnings = image.tree.warnings().iter();
        Ok(Self {
            contents,
            init: payload::name(&image.tree),
            attributes: attributes::table(&image.tree)?.map(|table| table.to_vec()),
            config: image.config.clone(),
            accounts: Files::default(),
            digest,
            packed: None,
            warnings: warnings.map(way_out::with_warning).collect(),
            name: None,
        })
    }
}
