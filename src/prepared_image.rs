//! IMAGE as the stages after it need it: its tree laid out for the initrd, or packed on an earlier run; and the little
//! that has to be known of it besides.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::cache::{Cache, CacheInputs, DEFAULT_LIMIT, Packed};
use crate::error::{Error, Result};
use crate::payload;
use crate::request::ImageRef;
use crate::trust;
use rdvm_hostfs::Digest;
use rdvm_hostfs::escape::{reason, shown};
use rdvm_hostfs::progress::Progress;
use rdvm_image::account::Files;
use rdvm_image::config::Config;
use rdvm_image::{Image, Sources, digest};
use rdvm_initrd::{Contents, Epoch, Initrd, Layout, Places, attributes};

/// The form of cache entries; a change of how images are packed, or of [`ImageInfo`], needs a new one.
const FORM: u32 = 2;

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
pub enum CachePolicy {
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
    pub fn open(
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
    pub fn push_to(self, initrd: &mut Initrd) {
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
            warnings: warnings.map(ToString::to_string).collect(),
            name: None,
        })
    }
}

/// Looks an image up by the state of its files. Its archive is read and compared with its sum only when `verify` is set.
fn find(cache: &Cache, inputs: &CacheInputs, verify: bool) -> Option<(Digest, ImageInfo, Packed)> {
    let packed = cache.find(inputs)?;
    let info: ImageInfo = serde_json::from_slice(&packed.facts).ok()?;
    let is_whole = info.contents.packed_bytes == packed.size
        // With --expect, cached bytes are verified too.
        && (!verify || sum(&packed.file, packed.size).ok() == info.packed);
    is_whole.then_some((info.digest?, info, packed))
}

/// The place of one image in the cache.
struct Slot<'a> {
    cache: &'a Cache,
    inputs: Option<CacheInputs>,
    key: Digest,
    policy: CachePolicy,
    /// The image's path for `rdvm cache list`.
    name: String,
}

impl Slot<'_> {
    /// Packs an image into the cache, unless it is there. Where that fails, an image that does not have to be kept is
    /// used as it was read.
    fn keep(self, mut info: ImageInfo, image: Image, places: Places) -> Result<PreparedImage> {
        let there = self.cache.get(&self.key);
        let packed = match there.filter(|_| self.policy == CachePolicy::All) {
            Some(packed) => Ok(packed),
            None => self.pack(&info, &image, &places),
        };
        match packed {
            Ok(packed) => Ok(PreparedImage::Cached { info, packed }),
            Err(Failed::Cache(source)) if self.policy == CachePolicy::All => Err(Error::Host {
                what: format!("--share: {}", self.cache.directory().display()),
                source,
            }),
            Err(Failed::Cache(error)) => {
                info.warnings.push(format!(
                    "--cache: {}: {}; the packed image is not kept",
                    self.cache.directory().display(),
                    reason(&error)
                ));
                Ok(PreparedImage::fresh(info, image, places))
            }
            Err(Failed::Contents(error)) => Err(error.into()),
        }
    }

    fn pack(
        &self,
        info: &ImageInfo,
        image: &Image,
        places: &Places,
    ) -> std::result::Result<Packed, Failed> {
        let size = places.contents().packed_bytes;
        let inputs = self.inputs.as_ref();
        self.cache
            .insert(inputs, &self.key, size, DEFAULT_LIMIT, |file: &File| {
                places.of(&image.tree).write(file, 0)?;
                rdvm_initrd::unchanged(&image.tree)?;
                let info = ImageInfo {
                    packed: Some(sum(file, size)?),
                    name: Some(self.name.clone()),
                    ..info.clone()
                };
                Ok(serde_json::to_vec(&info).map_err(io::Error::other)?)
            })
    }
}

/// Returns what the packed image depends on, with the state of each file from `state`; `None` where stamps do not show
/// changes: directories and pipes. A fakeroot save file matters for directories alone.
fn inputs(
    image: &ImageRef,
    epoch: Epoch,
    state: impl Fn(&Path) -> io::Result<Metadata>,
) -> Option<CacheInputs> {
    let options = format!(
        "{FORM} {} {:?} {:?} {} {:?} {:?} {epoch:?}",
        env!("CARGO_PKG_VERSION"),
        image.format,
        image.owner.resolved(),
        image.is_layer,
        image.tag,
        // An entry that was made under wide limits is no answer under narrow ones.
        image.limits,
    );
    let mut inputs = CacheInputs::new(&options);
    let layers = image.layers.iter().map(|path| ("layer", path));
    for (role, path) in std::iter::once(("image", &image.path)).chain(layers) {
        // Standard input, and not a file of that name.
        if path == Path::new("-") {
            return None;
        }
        inputs.file(role, &state(path).ok()?).ok()?;
    }
    // A file that was changed a moment ago is read again, and kept the next time.
    inputs.is_settled().then_some(inputs)
}

fn shown_absolute(path: &Path) -> String {
    shown(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
}

/// Returns the sha256 of a file's first `size` bytes.
fn sum(file: &File, size: u64) -> io::Result<Digest> {
    let mut sum = Sha256::new();
    let mut piece = vec![0; 256 << 10];
    let mut at = 0;
    while at < size {
        let piece = &mut piece[..(size - at).min(256 << 10) as usize];
        file.read_exact_at(piece, at)?;
        sum.update(&*piece);
        at += piece.len() as u64;
    }
    Ok(Digest(sum.finalize().into()))
}

/// The reason why an image was not kept.
#[derive(Debug)]
enum Failed {
    Cache(io::Error),
    Contents(rdvm_initrd::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Cache(error)
    }
}

impl From<rdvm_initrd::Error> for Failed {
    fn from(error: rdvm_initrd::Error) -> Self {
        match error {
            // The cache's file system is full, or the like.
            rdvm_initrd::Error::Write { source, .. } => Self::Cache(source),
            error => Self::Contents(error),
        }
    }
}

/// Returns the key of an image's entry. The content digest covers neither times nor what runs; the key covers both.
fn key(digest: Digest, info: &ImageInfo, image: &Image, epoch: Epoch) -> Digest {
    let mut key = Sha256::new_with_prefix(digest.0);
    for entry in image.tree.entries() {
        key.update(epoch.clamp(entry.mtime).to_le_bytes());
    }
    // Plain data: serialization cannot fail.
    key.update(serde_json::to_vec(info).unwrap_or_default());
    Digest(key.finalize().into())
}
