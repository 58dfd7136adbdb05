//! An OCI image layout → the one image in it that is meant, with its layers where they are.
//!
//! From `index.json` through nested indexes to a manifest for linux/amd64 and its configuration; all of them are
//! checked against their digests, the layers are checked when they are read. Formats: OCI image specification 1.1,
//! docker's image manifest version 2, schema 2.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::blobs::{Blobs, ParseError, parse};
use super::config;
use super::layers::{self, Layer, LayeredImage};
use super::manifest::{
    self, Descriptor, best_first, blob_path, is_attestation, platform_of_another,
};
use rdvm_hostfs::Digest;

/// The depth to which indexes may be nested; one or two are usual.
const DEPTH: usize = 4;
/// The most documents that are read.
const DOCUMENTS: usize = 1024;

/// Indexes and manifests.
const DOCUMENT_TYPES: [&str; 4] = [
    manifest::INDEX,
    manifest::MANIFEST,
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// Configurations.
const CONFIG_TYPES: [&str; 2] = [
    manifest::CONFIG,
    "application/vnd.docker.container.image.v1+json",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciLayoutFile {
    image_layout_version: String,
}

/// An index or a manifest: which of them shows in what it has.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

/// A manifest with its configuration, both checked.
struct CheckedManifest {
    digest: Digest,
    id: Digest,
    said: config::ParsedConfig,
    layers: Vec<Descriptor>,
}

impl CheckedManifest {
    /// True if all layers are said to be archives. cosign signs with manifests that are images in all but that.
    fn has_layers(&self) -> bool {
        let kinds = self.layers.iter().filter_map(|it| it.media_type.as_deref());
        kinds.into_iter().all(|kind| kind.contains("tar"))
    }
}

/// The image that `spec` names, or the only one; of several in one index that are for this platform, the first.
///
/// # Errors
/// None or several, nothing for this platform, or anything that does not match its digest.
pub(super) fn open(blobs: &Blobs, spec: Option<&str>) -> Result<LayeredImage, ParseError> {
    let layout: OciLayoutFile = parse("oci-layout", &blobs.document("oci-layout")?)?;
    if !layout.image_layout_version.starts_with("1.") {
        return Err(ParseError::Version {
            version: layout.image_layout_version,
        });
    }
    let index: Document = parse("index.json", &blobs.document("index.json")?)?;
    let mut images = index.manifests.unwrap_or_default();
    images.retain(|descriptor| !is_attestation(descriptor));
    if images.is_empty() {
        return Err(ParseError::NoImage);
    }
    let all_names: Vec<String> = images.iter().flat_map(names).collect();
    let named = |spec: &str| {
        let is_meant = |image: &&Descriptor| {
            let names = names(image);
            names.iter().any(|name| means(name, spec)) || is_digest(&image.digest, spec)
        };
        images.iter().filter(is_meant).cloned().collect::<Vec<_>>()
    };
    let chosen = spec.map(named).filter(|chosen| !chosen.is_empty());
    let by_digest = spec.filter(|_| chosen.is_none());
    let mut search = Search {
        blobs,
        documents: 0,
        is_for_all: by_digest.is_some(),
        found: Vec::new(),
        others: BTreeSet::new(),
        passed_over: None,
    };
    for image in chosen.as_ref().unwrap_or(&images) {
        search.look(image, 0)?;
    }
    let Search {
        mut found,
        others,
        passed_over,
        ..
    } = search;
    if found.iter().any(CheckedManifest::has_layers) {
        found.retain(CheckedManifest::has_layers);
    }
    if let Some(spec) = by_digest {
        found.retain(|found| {
            [found.digest, found.id]
                .iter()
                .any(|digest| is_digest(&digest.to_string(), spec))
        });
        if found.is_empty() {
            return Err(ParseError::NoSuchImage {
                spec: spec.to_owned(),
                names: all_names,
            });
        }
    }
    match <[CheckedManifest; 1]>::try_from(found) {
        Ok([found]) => layered(blobs, found),
        Err(found) if found.is_empty() => Err(match passed_over {
            Some(flaw) if others.is_empty() => flaw,
            _ => ParseError::NoPlatform {
                found: others.into_iter().collect(),
            },
        }),
        Err(_) => Err(ParseError::Several { names: all_names }),
    }
}

/// Goes through indexes and manifests.
struct Search<'a> {
    blobs: &'a Blobs<'a>,
    documents: usize,
    /// Everything is looked for, and not only the first that fits in each index.
    is_for_all: bool,
    found: Vec<CheckedManifest>,
    /// Platforms found that are not this one.
    others: BTreeSet<String>,
    /// The first that is no image: indexes hold signatures, charts and lists of contents as well.
    passed_over: Option<ParseError>,
}

impl Search<'_> {
    /// Looks at what a descriptor means and what is below it, and returns whether an image for this platform is there.
    /// Deeper than [`DEPTH`] is an error, so calls are not either.
    fn look(&mut self, descriptor: &Descriptor, depth: usize) -> Result<bool, ParseError> {
        if let Some(other) = platform_of_another(descriptor) {
            self.others.insert(other);
            return Ok(false);
        }
        if !is_known(descriptor.media_type.as_deref(), &DOCUMENT_TYPES) {
            return Ok(self.pass_over(descriptor.digest.clone(), kind(descriptor)));
        }
        self.documents += 1;
        if self.documents > DOCUMENTS {
            return Err(ParseError::TooMany { limit: DOCUMENTS });
        }
        let (digest, bytes) = self.blobs.checked(descriptor)?;
        let name = blob_path(&digest);
        let document: Document = parse(&name, &bytes)?;
        match document {
            Document {
                manifests: Some(manifests),
                config: None,
                layers: None,
            } => {
                if depth == DEPTH {
                    return Err(ParseError::TooDeep { limit: DEPTH });
                }
                let images = manifests.iter().filter(|image| !is_attestation(image));
                let mut is_there = false;
                for image in best_first(images) {
                    is_there |= self.look(image, depth + 1)?;
                    if is_there && !self.is_for_all {
                        break;
                    }
                }
                Ok(is_there)
            }
            Document {
                manifests: None,
                config: Some(config),
                layers,
            } => self.manifest(digest, config, layers.unwrap_or_default()),
            Document {
                manifests: Some(_), ..
            } => Err(ParseError::Ambiguous { name }),
            _ => Ok(self.pass_over(name, kind(descriptor))),
        }
    }

    fn pass_over(&mut self, name: String, kind: String) -> bool {
        let flaw = ParseError::NotAnImage { name, kind };
        self.passed_over.get_or_insert(flaw);
        false
    }

    fn manifest(
        &mut self,
        digest: Digest,
        config: Descriptor,
        layers: Vec<Descriptor>,
    ) -> Result<bool, ParseError> {
        if !is_known(config.media_type.as_deref(), &CONFIG_TYPES) {
            return Ok(self.pass_over(blob_path(&digest), kind(&config)));
        }
        let (id, bytes) = self.blobs.checked(&config)?;
        let said = config::parse(&bytes)?;
        match &said.platform {
            Some(platform) if platform != manifest::PLATFORM => {
                self.others.insert(platform.clone());
                Ok(false)
            }
            _ => {
                let found = CheckedManifest {
                    digest,
                    id,
                    said,
                    layers,
                };
                let has_layers = found.has_layers();
                if self.found.iter().all(|other| other.digest != digest) {
                    self.found.push(found);
                }
                Ok(has_layers)
            }
        }
    }
}

/// Where the layers are, each with the digests it has to have.
fn layered(blobs: &Blobs, found: CheckedManifest) -> Result<LayeredImage, ParseError> {
    layers::check_count(found.layers.len(), found.said.diff_ids.len())?;
    let mut layers = Vec::with_capacity(found.layers.len());
    for (descriptor, diff_id) in found.layers.iter().zip(found.said.diff_ids) {
        let (digest, region) = blobs.blob(descriptor)?;
        layers.push(Layer {
            name: blob_path(&digest),
            region,
            digest: Some(digest),
            diff_id: Some(diff_id),
        });
    }
    Ok(LayeredImage {
        config: found.said.config,
        manifest: Some(found.digest),
        id: found.id,
        layers,
    })
}

/// True if a document may be one of these; one without a type may be any.
fn is_known(kind: Option<&str>, types: &[&str]) -> bool {
    kind.is_none_or(|kind| kind.is_empty() || types.contains(&kind))
}

fn kind(descriptor: &Descriptor) -> String {
    let kind = descriptor.media_type.as_deref();
    kind.unwrap_or("of no known kind").to_owned()
}

/// Returns the names of an image in `index.json`; its digest if it has none.
fn names(descriptor: &Descriptor) -> Vec<String> {
    let names = manifest::NAMES.iter();
    let names = names.filter_map(|key| descriptor.annotation(key));
    let names: Vec<String> = names.map(str::to_owned).collect();
    match names.is_empty() {
        true => vec![descriptor.digest.clone()],
        false => names,
    }
}

/// True if `spec` is a short form of an image's name: without registry and directories, without `:latest`.
pub(super) fn means(name: &str, spec: &str) -> bool {
    let is_same = |name: &str| {
        name == spec
            || name
                .strip_suffix(spec)
                .is_some_and(|above| above.ends_with('/') && !spec.is_empty())
    };
    is_same(name) || name.strip_suffix(":latest").is_some_and(is_same)
}

/// True if `spec` is this digest, with or without `sha256:`.
pub(super) fn is_digest(digest: &str, spec: &str) -> bool {
    digest == spec || digest.strip_prefix("sha256:") == Some(spec)
}
