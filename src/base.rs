//! IMAGE as the path after it needs it: its tree laid out for the initrd, or packed on an earlier run; and the little that
//! has to be known of it besides.

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
use rdvm_hostfs::escape::shown;
use rdvm_image::account::Files;
use rdvm_image::config::Config;
use rdvm_image::{Image, Sources, digest};
use rdvm_initrd::{Contents, Epoch, Layout, Places, attributes};

/// The form of what is kept; a change of what an image comes to, or of [`Facts`], needs a new one.
const FORM: u32 = 2;

/// An image, ready to be put into an initrd.
#[derive(Debug)]
pub struct Base {
    /// What is known of it.
    pub facts: Facts,
    /// Its bytes.
    pub body: Body,
}

/// Where the image's bytes come from.
#[derive(Debug)]
pub enum Body {
    /// From the image: what was read, and where it is to stand.
    Read(Box<Image>, Places),
    /// From the cache.
    Kept(Packed),
}

/// What is known of an image besides its packed bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    /// What the archive holds, summed up.
    pub contents: Contents,
    /// The name that PID 1 gets.
    pub init: String,
    /// The table of extended attributes.
    pub attributes: Option<Vec<u8>>,
    /// How it is to be run.
    pub config: Config,
    /// Its users and groups, where they can be needed.
    pub accounts: Files,
    /// Its content digest, where it was asked for.
    pub digest: Option<Digest>,
    /// The sha256 of the packed archive, where that is kept.
    pub packed: Option<Digest>,
    /// What was left out while it was read, one line each.
    pub warnings: Vec<String>,
    /// The absolute path of the image that was packed, escaped, where that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The name of a kept image, from what is kept with it.
pub fn kept_name(facts: &[u8]) -> Option<String> {
    serde_json::from_slice::<Facts>(facts).ok()?.name
}

/// Which packed images are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// None.
    Nothing,
    /// Those of archives, whose state tells that they have not changed: they need not be read again.
    Archives,
    /// All, also those of directories, so that machines can have the same file mapped. What is in a directory has to be
    /// read to know it.
    All,
}

/// Reads the image, checks that it is the one agreed on, and lays it out; or takes it from the cache, when it is there.
/// Without a `cache` nothing is kept.
///
/// Errors: the image cannot be read, or is another one; with [`Keep::All`] also that it cannot be kept.
pub fn open(image: &ImageRef, epoch: Epoch, keep: Keep, cache: Option<&Cache>) -> Result<Base> {
    let cache = cache.filter(|_| keep != Keep::Nothing);
    let sources = match image.layers.is_empty() {
        true => Sources::default(),
        false => Sources::keeping(),
    };
    trust::check_parts(image, &sources)?;
    // What has been checked counts; nothing else has to be opened to look it up.
    let now = |path: &Path| sources.metadata(path).map_or_else(|| path.metadata(), Ok);
    let inputs = cache.and_then(|_| inputs(image, epoch, now));
    let wanted = trust::wanted(image)?;
    if let Some((cache, inputs)) = cache.zip(inputs.as_ref())
        && let Some(packed) = cache.find(inputs)
        && let Ok(facts) = serde_json::from_slice::<Facts>(&packed.facts)
        && let Some(digest) = facts.digest
        && facts.contents.packed_bytes == packed.size
        // Who asks for a certain image gets no bytes that nobody looked at.
        && (wanted.is_none() || sum(&packed.file, packed.size).ok() == facts.packed)
    {
        if let Some(wanted) = &wanted {
            wanted.check(&image.path, digest)?;
        }
        return Ok(Base {
            facts,
            body: Body::Kept(packed),
        });
    }
    let read = rdvm_image::open_from(image, &sources)?;
    // The state of what was read, wherever the paths lead by now.
    let read_from = |path: &Path| sources.metadata(path).ok_or(io::ErrorKind::NotFound.into());
    let inputs = cache.and_then(|_| self::inputs(image, epoch, read_from));
    let cache = cache.filter(|_| keep == Keep::All || inputs.is_some());
    let digest = match wanted.is_some() || cache.is_some() {
        true => Some(digest::of(&read.tree).map_err(trust::Error::from)?),
        false => None,
    };
    if let Some((wanted, digest)) = wanted.zip(digest) {
        wanted.check(&image.path, digest)?;
    }
    let places = Layout::of(&read.tree, epoch)?.into_places();
    let mut facts = Facts {
        contents: places.contents(),
        init: payload::name(&read.tree),
        attributes: attributes::table(&read.tree)?.map(|table| table.to_vec()),
        config: read.config.clone(),
        accounts: Files::default(),
        digest,
        packed: None,
        warnings: read
            .tree
            .warnings()
            .iter()
            .map(ToString::to_string)
            .collect(),
        name: None,
    };
    if let Some((cache, digest)) = cache.zip(digest) {
        facts.accounts = Files::read(&read.tree)?;
        let key = key(digest, &facts, &read, epoch);
        let there = cache.get(&key).filter(|_| keep == Keep::All);
        let packed = match there {
            Some(packed) => Ok(packed),
            None => {
                // Not part of the key: one image may have several names.
                let kept = Facts {
                    name: Some(name(&image.path)),
                    ..facts.clone()
                };
                pack(cache, inputs.as_ref(), &key, &kept, &read, &places)
            }
        };
        match packed {
            Ok(packed) => {
                return Ok(Base {
                    facts,
                    body: Body::Kept(packed),
                });
            }
            Err(Failed::Cache(source)) if keep == Keep::All => {
                return Err(Error::Host {
                    what: format!("--share: {}", cache.directory().display()),
                    source,
                });
            }
            Err(Failed::Cache(error)) => facts.warnings.push(format!(
                "--cache: {}: {error}; the packed image is not kept",
                cache.directory().display()
            )),
            Err(Failed::Contents(error)) => return Err(error.into()),
        }
    }
    Ok(Base {
        facts,
        body: Body::Read(Box::new(read), places),
    })
}

/// Returns what the packed image depends on, each file in the state that `state` gives; `None` for what that does not tell:
/// directories and pipes. Of directories alone a fakeroot's save file speaks.
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
        // What was kept under wide limits is no answer under narrow ones.
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
    // What was made just now is read again, and kept the next time.
    inputs.is_settled().then_some(inputs)
}

/// The image's path from the root, escaped.
fn name(path: &Path) -> String {
    shown(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
}

/// The sha256 of a file's first `size` bytes.
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

/// Why an image was not kept.
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

/// What an entry is kept under. The content digest has neither times nor what runs, the entry has both.
fn key(digest: Digest, facts: &Facts, image: &Image, epoch: Epoch) -> Digest {
    let mut key = Sha256::new_with_prefix(digest.0);
    for entry in image.tree.entries() {
        key.update(epoch.clamp(entry.mtime).to_le_bytes());
    }
    // The facts are plain data: there is nothing that could not be written.
    key.update(serde_json::to_vec(facts).unwrap_or_default());
    Digest(key.finalize().into())
}

/// Packs the image into the cache.
fn pack(
    cache: &Cache,
    inputs: Option<&CacheInputs>,
    key: &Digest,
    facts: &Facts,
    image: &Image,
    places: &Places,
) -> std::result::Result<Packed, Failed> {
    let size = places.contents().packed_bytes;
    cache.insert(inputs, key, size, DEFAULT_LIMIT, |file: &File| {
        places.of(&image.tree).write(file, 0)?;
        rdvm_initrd::unchanged(&image.tree)?;
        let facts = Facts {
            packed: Some(sum(file, size)?),
            ..facts.clone()
        };
        Ok(serde_json::to_vec(&facts).map_err(io::Error::other)?)
    })
}
