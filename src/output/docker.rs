//! The `manifest.json` of `docker save`: which blobs make which image, and its names.
//!
//! Docker from version 25 on writes it into an OCI layout; older ones, podman and skopeo read it there just as well,
//! since it says by path where everything is.

use serde::Serialize;

use super::tag::Tag;
use rdvm_hostfs::Digest;
use rdvm_image::manifest::blob_path;

#[derive(Serialize)]
struct Image {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags")]
    tags: Vec<String>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

/// Returns the file for an image of these blobs: its configuration and its layers, lowest first.
///
/// # Errors
/// None that these types can have.
pub(super) fn manifest(
    config: &Digest,
    tags: &[Tag],
    layers: &[Digest],
) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&[Image {
        config: blob_path(config),
        tags: tags.iter().map(Tag::familiar).collect(),
        layers: layers.iter().map(blob_path).collect(),
    }])
}
