//! The form that `docker save` wrote before docker 1.10, and some build scripts still do → the image in it that is meant, with its
//! layers where they are.
//!
//! `repositories` names the topmost layer of each image. Each layer is a directory ID/ with `json` (its configuration, and
//! `parent` for all but the lowest) and `layer.tar`. Without `repositories`, which docker left out where images had no
//! names, the topmost layers are those that are no other's parent. There are no digests: IDs prove nothing. Format: docker's
//! image specification 1.0.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::blobs::{Blobs, ParseError, parse};
use super::config;
use super::layers::{LIMIT, Layer, LayeredImage};
use super::manifest::PLATFORM;
use super::oci::{is_digest, means};
use rdvm_hostfs::Digest;

/// The member that names images.
const REPOSITORIES: &str = "repositories";

/// Repository, tag, and the topmost layer's ID.
type Repositories = BTreeMap<String, BTreeMap<String, String>>;

#[derive(Deserialize)]
struct Json {
    #[serde(default)]
    parent: Option<String>,
}

/// True if an archive without the later form's list is read as this one.
pub(super) fn is_meant(blobs: &Blobs) -> bool {
    is_here(blobs) || matches!(blobs.region(REPOSITORIES), Ok(Some(_)))
}

/// True if bytes are a layer's ID.
pub(super) fn is_id(name: &[u8]) -> bool {
    name.len() == 64 && name.iter().all(u8::is_ascii_hexdigit)
}

/// True if an archive is of this form: a file called `repositories` may be anything, so one of its layers has to be there.
/// Without it nothing but layers may be there.
pub(super) fn is_here(blobs: &Blobs) -> bool {
    let is_layer = |id: &str| has(blobs, id, "json") || has(blobs, id, "layer.tar");
    match repositories(blobs) {
        Ok(Some(repositories)) => tops_of(&repositories)
            .iter()
            .any(|(id, _)| is_id(id.as_bytes()) && is_layer(id)),
        Ok(None) => {
            let ids = blobs.top();
            !ids.is_empty() && ids.iter().all(|id| is_id(id.as_bytes()) && is_layer(id))
        }
        Err(_) => false,
    }
}

/// The image that `spec` names, or the only one.
///
/// # Errors
/// None or several, one for another platform, or layers that are missing or go round in a circle.
pub(super) fn open(blobs: &Blobs, spec: Option<&str>) -> Result<LayeredImage, ParseError> {
    let tops = match repositories(blobs)? {
        Some(repositories) => tops_of(&repositories),
        None => tops_without_names(blobs)?,
    };
    let is_meant = |id: &str, names: &[String]| {
        spec.is_none_or(|spec| {
            names.iter().any(|name| means(name, spec)) || is_digest(&format!("sha256:{id}"), spec)
        })
    };
    let chosen: Vec<&String> = tops
        .iter()
        .filter(|(id, names)| is_meant(id, names))
        .map(|(id, _)| id)
        .collect();
    let names = || tops.values().flatten().cloned().collect();
    match (&chosen[..], spec) {
        ([top], _) => layered(blobs, top),
        ([], Some(spec)) => Err(ParseError::NoSuchImage {
            spec: spec.to_owned(),
            names: names(),
        }),
        ([], None) => Err(ParseError::NoImage),
        _ => Err(ParseError::Several { names: names() }),
    }
}

/// The contents of `repositories`; `None` where it is not there.
fn repositories(blobs: &Blobs) -> Result<Option<Repositories>, ParseError> {
    match blobs.region(REPOSITORIES)? {
        Some(_) => parse(REPOSITORIES, &blobs.document(REPOSITORIES)?).map(Some),
        None => Ok(None),
    }
}

/// The names of each topmost layer, by its ID.
fn tops_of(repositories: &Repositories) -> BTreeMap<String, Vec<String>> {
    let mut tops: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (repository, tags) in repositories {
        for (tag, id) in tags {
            let names = tops.entry(id.clone()).or_default();
            names.push(format!("{repository}:{tag}"));
        }
    }
    tops
}

/// Returns the layers that are no other's parent, which have no names but their IDs.
fn tops_without_names(blobs: &Blobs) -> Result<BTreeMap<String, Vec<String>>, ParseError> {
    let ids = blobs.top();
    if ids.len() > LIMIT {
        return Err(ParseError::TooManyLayers {
            layers: ids.len(),
            limit: LIMIT,
        });
    }
    let mut parents = BTreeSet::new();
    for id in &ids {
        parents.extend(json(blobs, id)?.1);
    }
    // In a circle all are: any of them tells of it.
    let is_circle = ids.iter().all(|id| parents.contains(id));
    let ids = ids.into_iter();
    let tops = ids.filter(|id| is_circle || !parents.contains(id));
    let tops = tops.take(if is_circle { 1 } else { usize::MAX });
    Ok(tops.map(|id| (id.clone(), vec![id])).collect())
}

fn has(blobs: &Blobs, id: &str, name: &str) -> bool {
    matches!(blobs.region(&format!("{id}/{name}")), Ok(Some(_)))
}

/// A layer's `json`, and the ID of its parent.
fn json(blobs: &Blobs, id: &str) -> Result<(Vec<u8>, Option<String>), ParseError> {
    if !is_id(id.as_bytes()) {
        return Err(ParseError::BadLayerId { id: id.to_owned() });
    }
    let name = format!("{id}/json");
    let bytes = blobs.document(&name)?;
    let json: Json = parse(&name, &bytes)?;
    Ok((bytes, json.parent.filter(|parent| !parent.is_empty())))
}

/// The chain of layers below `top`, with its configuration.
fn layered(blobs: &Blobs, top: &str) -> Result<LayeredImage, ParseError> {
    let (bytes, mut below) = json(blobs, top)?;
    let id = Digest(Sha256::digest(&bytes).into());
    let said = config::parse(&bytes)?;
    if let Some(platform) = said.platform.filter(|platform| platform != PLATFORM) {
        return Err(ParseError::NoPlatform {
            found: vec![platform],
        });
    }
    let mut seen = BTreeSet::from([top.to_owned()]);
    let mut layers = vec![layer(blobs, top)?];
    while let Some(parent) = below {
        if !seen.insert(parent.clone()) {
            return Err(ParseError::LayerLoop { id: parent });
        }
        if layers.len() == LIMIT {
            return Err(ParseError::TooManyLayers {
                layers: LIMIT + 1,
                limit: LIMIT,
            });
        }
        (_, below) = json(blobs, &parent)?;
        layers.push(layer(blobs, &parent)?);
    }
    layers.reverse();
    Ok(LayeredImage {
        config: said.config,
        manifest: None,
        id,
        layers,
    })
}

fn layer(blobs: &Blobs, id: &str) -> Result<Layer, ParseError> {
    let name = format!("{id}/layer.tar");
    let region = blobs.region(&name)?;
    Ok(Layer {
        region: region.ok_or_else(|| ParseError::Missing { name: name.clone() })?,
        name,
        digest: None,
        diff_id: None,
    })
}
