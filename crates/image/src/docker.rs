//! An archive of `docker save` → the one image in it that is meant, with its layers where they are.
//!
//! `manifest.json` lists images by the names of members: a configuration and layers, both of which older versions
//! name in other ways and reach through symbolic links. All of them carry the layers' digests in the configuration.
//! Format: docker's image specification 1.2. Archives without this list are for `docker_v1.rs`.

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::blobs::{Blobs, ParseError, check, parse};
use super::layers::{self, Layer, LayeredImage};
use super::manifest::PLATFORM;
use super::oci::{is_digest, means};
use super::{config, docker_v1};
use rdvm_hostfs::Digest;

/// The member that lists the images.
pub(super) const MANIFEST: &str = "manifest.json";

/// One image in it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Listed {
    fn names(&self) -> Vec<String> {
        match &self.repo_tags {
            Some(names) if !names.is_empty() => names.clone(),
            _ => vec![self.config.clone()],
        }
    }
}

/// True if a document is such a list: a file of this name may be anything.
fn is_manifest(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Vec<Listed>>(bytes).is_ok_and(|list| !list.is_empty())
}

/// True if an archive is docker's, by its documents.
pub(super) fn is_here(blobs: &Blobs) -> bool {
    is_manifest(&blobs.document(MANIFEST).unwrap_or_default()) || docker_v1::is_here(blobs)
}

/// The image that `spec` names, or the only one.
///
/// # Errors
/// None or several, one for another platform, or anything that does not match its digest.
pub(super) fn open(blobs: &Blobs, spec: Option<&str>) -> Result<LayeredImage, ParseError> {
    if blobs.region(MANIFEST)?.is_none() && docker_v1::is_meant(blobs) {
        return docker_v1::open(blobs, spec);
    }
    let list: Vec<Listed> = parse(MANIFEST, &blobs.document(MANIFEST)?)?;
    let names: Vec<String> = list.iter().flat_map(Listed::names).collect();
    let is_meant = |listed: &&Listed| {
        spec.is_none_or(|spec| {
            listed.names().iter().any(|name| means(name, spec))
                || digest_in(&listed.config).is_some_and(|id| is_digest(&id.to_string(), spec))
        })
    };
    let mut chosen: Vec<&Listed> = list.iter().filter(is_meant).collect();
    chosen.dedup_by(|a, b| a.config == b.config && a.layers == b.layers);
    match (&chosen[..], spec) {
        ([listed], _) => layered(blobs, listed),
        ([], Some(spec)) => Err(ParseError::NoSuchImage {
            spec: spec.to_owned(),
            names,
        }),
        ([], None) => Err(ParseError::NoImage),
        _ => Err(ParseError::Several { names }),
    }
}

fn layered(blobs: &Blobs, listed: &Listed) -> Result<LayeredImage, ParseError> {
    let bytes = blobs.document(&listed.config)?;
    let id = Digest(Sha256::digest(&bytes).into());
    if let Some(expected) = digest_in(&listed.config) {
        check(&listed.config, expected, id)?;
    }
    let said = config::parse(&bytes)?;
    if let Some(platform) = said.platform.filter(|platform| platform != PLATFORM) {
        return Err(ParseError::NoPlatform {
            found: vec![platform],
        });
    }
    let names = listed.layers.as_deref().unwrap_or_default();
    layers::check_count(names.len(), said.diff_ids.len())?;
    let mut layers = Vec::with_capacity(names.len());
    for (name, diff_id) in names.iter().zip(said.diff_ids) {
        let region = blobs
            .region(name)?
            .ok_or_else(|| ParseError::Missing { name: name.clone() })?;
        layers.push(Layer {
            name: name.clone(),
            region,
            digest: name
                .strip_prefix("blobs/sha256/")
                .and_then(|hex| format!("sha256:{hex}").parse().ok()),
            diff_id: Some(diff_id),
        });
    }
    Ok(LayeredImage {
        config: said.config,
        manifest: None,
        id,
        layers,
    })
}

/// The digest that a configuration is named by: `DIGEST.json`, `sha256:DIGEST`, `blobs/sha256/DIGEST`.
fn digest_in(name: &str) -> Option<Digest> {
    let stem = name.strip_suffix(".json").unwrap_or(name);
    let stem = stem
        .strip_prefix("blobs/sha256/")
        .or(stem.strip_prefix("sha256:"))
        .unwrap_or(stem);
    format!("sha256:{stem}").parse().ok()
}
