//! Packed images in the cache: found by the state of the image's files, kept under a digest of what is in them.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::{CachePolicy, ImageInfo, PreparedImage};
use crate::cache::{Cache, CacheInputs, DEFAULT_LIMIT, Packed};
use crate::error::{Error, Result};
use crate::request::ImageRef;
use rdvm_hostfs::Digest;
use rdvm_hostfs::escape::{reason, shown};
use rdvm_image::Image;
use rdvm_initrd::{Epoch, Places};

/// The form of cache entries; a change of how images are packed, or of [`ImageInfo`], needs a new one.
const FORM: u32 = 2;

/// Looks an image up by the state of its files. Its archive is read and compared with its sum only when `verify` is set.
pub(super) fn find(
    cache: &Cache,
    inputs: &CacheInputs,
    verify: bool,
) -> Option<(Digest, ImageInfo, Packed)> {
    let packed = cache.find(inputs)?;
    let info: ImageInfo = serde_json::from_slice(&packed.facts).ok()?;
    let is_whole = info.contents.packed_bytes == packed.size
        // With --expect, cached bytes are verified too.
        && (!verify || sum(&packed.file, packed.size).ok() == info.packed);
    is_whole.then_some((info.digest?, info, packed))
}

/// The place of one image in the cache.
pub(super) struct Slot<'a> {
    pub(super) cache: &'a Cache,
    pub(super) inputs: Option<CacheInputs>,
    pub(super) key: Digest,
    pub(super) policy: CachePolicy,
    /// The image's path for `rdvm cache list`.
    pub(super) name: String,
}

impl Slot<'_> {
    /// Packs an image into the cache, unless it is there. Where that fails, an image that does not have to be kept is
    /// used as it was read.
    pub(super) fn keep(
        self,
        mut info: ImageInfo,
        image: Image,
        places: Places,
    ) -> Result<PreparedImage> {
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
pub(super) fn inputs(
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

/// Returns a path from the root, escaped.
pub(super) fn shown_absolute(path: &Path) -> String {
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
pub(super) fn key(digest: Digest, info: &ImageInfo, image: &Image, epoch: Epoch) -> Digest {
    let mut key = Sha256::new_with_prefix(digest.0);
    for entry in image.tree.entries() {
        key.update(epoch.clamp(entry.mtime).to_le_bytes());
    }
    // Plain data: serialization cannot fail.
    key.update(serde_json::to_vec(info).unwrap_or_default());
    Digest(key.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_directories_and_fresh_files_have_no_state_to_go_by() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.tar");
        File::create(&path).unwrap();
        let inputs = |path: &Path| {
            let image = ImageRef {
                path: path.to_owned(),
                ..ImageRef::default()
            };
            inputs(&image, Epoch::default(), |path| path.metadata()).is_some()
        };
        assert!(!inputs(Path::new("-")) && !inputs(dir.path()));
        assert!(!inputs(&path), "it was made just now");
        assert!(!inputs(&dir.path().join("none")));
    }

    #[test]
    fn a_sum_is_of_the_first_bytes_and_needs_them_all() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, b"abcdef").unwrap();
        assert_eq!(sum(&file, 3).unwrap().0, *Sha256::digest(b"abc"));
        assert!(sum(&file, 7).is_err());
    }
}
