//! `index.json`: the images by name.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use rdvm_hostfs::Digest;
use rdvm_hostfs::atomic::AtomicFile;
use rdvm_hostfs::escape::escaped;
use rdvm_hostfs::units::ByteSize;
use rdvm_image::manifest::{self, Descriptor};

use super::{ImageInUse, Store};
use crate::document::{Document, LIMIT, Manifest};
use crate::environment;
use crate::error::{Error, Result};
use crate::reference::{Reference, Version};

/// The annotation with an image's full name.
const NAME: &str = manifest::NAMES[1];
/// The annotation with the digest that the name had at the registry: that of an index, where there is one.
const SOURCE: &str = "org.rdvm.source";
/// The annotation with the time when it was pulled, in seconds since 1970.
const PULLED: &str = "org.rdvm.pulled";
const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// Its full name; its digest if it has none.
    pub name: String,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// The digest that its name had at the registry: the manifest's, or that of an index.
    pub source: Digest,
    /// The bytes of its manifest, configuration and layers.
    pub size: ByteSize,
    /// The number of its layers.
    pub layers: usize,
    /// The time when it was pulled, if that is known.
    pub pulled: Option<SystemTime>,
    /// The time of its last use.
    pub used: Option<SystemTime>,
}

impl StoredImage {
    /// True if a name means this image. A digest may be that of the manifest or of the index that it was in.
    pub(crate) fn is(&self, reference: &Reference) -> bool {
        let name = match self.name.parse::<Reference>() {
            Ok(name) => name,
            Err(_) => return false,
        };
        match reference.version {
            Version::Tag(_) => name == *reference,
            Version::Digest(digest) => {
                name.name() == reference.name() && [self.manifest, self.source].contains(&digest)
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    #[serde(default)]
    pub(super) manifests: Vec<Descriptor>,
}

impl Store {
    /// Returns the images, the one used last first.
    ///
    /// # Errors
    /// The list cannot be read or understood.
    pub fn images(&self) -> Result<Vec<StoredImage>> {
        let index = self.index()?;
        let images = index
            .manifests
            .iter()
            .filter_map(|descriptor| self.stored(descriptor));
        let mut images: Vec<StoredImage> = images.collect();
        images.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.name.cmp(&b.name)));
        Ok(images)
    }

    /// Adds an image whose blobs are here, in the place of one of the same name, and keeps it from being removed.
    pub(crate) fn add(
        &self,
        reference: &Reference,
        manifest: Digest,
        source: Digest,
        kind: &str,
    ) -> Result<ImageInUse> {
        let size = std::fs::metadata(self.blob(&manifest))
            .map_err(|error| self.failed(error))?
            .len();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let annotations = BTreeMap::from([
            (NAME.to_owned(), reference.to_string()),
            (SOURCE.to_owned(), source.to_string()),
            (PULLED.to_owned(), now.as_secs().to_string()),
        ]);
        let added = Descriptor {
            media_type: Some(kind.to_owned()),
            digest: manifest.to_string(),
            size,
            annotations: Some(annotations),
            platform: None,
        };
        self.change_index(|manifests| {
            manifests.retain(|old| name_of(old) != reference.to_string());
            manifests.push(added.clone());
        })?;
        let image = self.stored(&added);
        let used = image.as_ref().map(|image| self.use_of(image)).transpose()?;
        match (image, used.flatten()) {
            (Some(image), Some(lock)) => Ok(ImageInUse { image, lock }),
            _ => Err(self.failed(std::io::ErrorKind::NotFound.into())),
        }
    }

    /// Rewrites the list under its lock.
    pub(super) fn change_index(&self, change: impl FnOnce(&mut Vec<Descriptor>)) -> Result<()> {
        let _lock = self.lock_index()?;
        let mut index = self.index()?;
        change(&mut index.manifests);
        let bytes = serde_json::to_vec_pretty(&index).map_err(|error| self.failed(error.into()))?;
        self.write("index.json", &bytes)
    }

    /// Writes what makes a directory a layout, where it is not there.
    pub(super) fn write_layout(&self) -> Result<()> {
        if !self.path.join("oci-layout").exists() {
            self.write("oci-layout", LAYOUT.as_bytes())?;
        }
        match self.path.join("index.json").exists() {
            true => Ok(()),
            // Another process may have written one since.
            false => self.change_index(|_| {}),
        }
    }

    pub(super) fn index(&self) -> Result<Index> {
        let path = self.path.join("index.json");
        let Some(text) = environment::read(&path)? else {
            return Ok(Index {
                schema_version: 2,
                media_type: Some(manifest::INDEX.to_owned()),
                manifests: Vec::new(),
            });
        };
        serde_json::from_str(&text).map_err(|error| Error::StoreIndex {
            path,
            why: escaped(error.to_string().as_bytes()),
        })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let write = || {
            let file = AtomicFile::beside(&self.path.join(name))?;
            file.file().write_all(bytes)?;
            file.put_in_place()
        };
        write().map_err(|error| self.failed(error))
    }

    /// Reads the manifest in the store; `None` if it is not there, or none.
    pub(super) fn manifest(&self, digest: &Digest) -> Option<Manifest> {
        let path = self.blob(digest);
        if std::fs::metadata(&path).ok()?.len() > LIMIT {
            return None;
        }
        match Document::parse(&std::fs::read(path).ok()?) {
            Ok(Document::Manifest(manifest)) => Some(manifest),
            _ => None,
        }
    }

    fn stored(&self, descriptor: &Descriptor) -> Option<StoredImage> {
        let manifest: Digest = descriptor.digest.parse().ok()?;
        let annotation = |name: &str| descriptor.annotations.as_ref()?.get(name);
        let found = self.manifest(&manifest);
        let parts = found.as_ref().map(Manifest::parts).unwrap_or_default();
        let sizes = parts.iter().map(|part| part.size);
        let seconds = annotation(PULLED).and_then(|text| text.parse().ok());
        let pulled = seconds
            .map(Duration::from_secs)
            .and_then(|since| UNIX_EPOCH.checked_add(since));
        Some(StoredImage {
            name: name_of(descriptor).to_owned(),
            manifest,
            source: annotation(SOURCE)
                .and_then(|text| text.parse().ok())
                .unwrap_or(manifest),
            size: ByteSize(sizes.fold(descriptor.size, u64::saturating_add)),
            layers: found.map_or(0, |found| found.layers.len()),
            pulled,
            used: std::fs::metadata(self.blob(&manifest))
                .and_then(|meta| meta.modified())
                .ok(),
        })
    }

    /// True if all blobs of an image are here, as long as they have to be.
    pub(crate) fn is_whole(&self, image: &StoredImage) -> bool {
        let parts = self
            .manifest(&image.manifest)
            .map(|manifest| manifest.parts());
        parts.is_some_and(|parts| parts.iter().all(|part| self.has_blob(part)))
    }
}

/// The name of an image in the list, else its digest.
pub(super) fn name_of(descriptor: &Descriptor) -> &str {
    let name = descriptor
        .annotations
        .as_ref()
        .and_then(|all| all.get(NAME));
    name.unwrap_or(&descriptor.digest)
}
