//! The vocabulary of OCI images: descriptors, platforms and media types, for reading and for writing.
//!
//! Format: OCI image specification 1.1, "Content Descriptors" and "Image Index".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use rdvm_hostfs::Digest;

/// The media type of an index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of a configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The media type of a layer that is not compressed.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// The annotations with an image's full name and its tag, by which containerd finds it in a layout.
pub const NAMES: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// The processor that images are for.
pub const ARCHITECTURE: &str = "amd64";
/// The system that images are for.
pub const OS: &str = "linux";

/// A reference to a blob, in indexes and manifests.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The blob's media type.
    #[serde(default)]
    pub media_type: Option<String>,
    /// The blob's digest as the document has it, of any algorithm.
    pub digest: String,
    /// The blob's length in bytes.
    pub size: u64,
    /// Names, and whatever else was noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// The machine that a manifest in an index is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// The machine that a manifest in an index is for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Platform {
    /// The processor.
    #[serde(default)]
    pub architecture: String,
    /// The system.
    #[serde(default)]
    pub os: String,
    /// The processor's variant, `v3` for example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Features that the system needs.
    #[serde(
        default,
        rename = "os.features",
        skip_serializing_if = "Option::is_none"
    )]
    pub os_features: Option<Vec<String>>,
}

impl Descriptor {
    /// Returns the value of an annotation.
    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// Returns the place of a blob in a layout.
pub fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}", digest.to_string().replacen(':', "/", 1))
}
