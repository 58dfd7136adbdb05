//! The vocabulary of OCI images: descriptors, platforms and media types, for reading and for writing.
//!
//! Format: OCI image specification 1.1, "Content Descriptors" and "Image Index".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config;
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

/// The platform of all guests.
pub(crate) const PLATFORM: &str = "linux/amd64";

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

/// Returns the manifests of an index that are for this platform, in the order in which they are to be tried, and the
/// platforms of the others.
pub fn for_this_platform(manifests: &[Descriptor]) -> (Vec<&Descriptor>, Vec<String>) {
    let images = manifests.iter().filter(|image| !is_attestation(image));
    let (others, own): (Vec<_>, Vec<_>) = best_first(images)
        .into_iter()
        .partition(|image| platform_of_another(image).is_some());
    let mut names: Vec<String> = others.into_iter().filter_map(platform_of_another).collect();
    names.sort();
    names.dedup();
    (own, names)
}

/// Returns the name of a platform, if it is another than this one; one without a name may be this one.
pub fn other_platform(os: &str, architecture: &str) -> Option<String> {
    let name = config::platform(os, architecture);
    (name != PLATFORM && name != "/").then_some(name)
}

/// The platform that a descriptor is for, if that is not ours.
pub(crate) fn platform_of_another(descriptor: &Descriptor) -> Option<String> {
    let platform = descriptor.platform.as_ref()?;
    other_platform(&platform.os, &platform.architecture)
}

/// The manifests of one index in the order in which they are to be tried: first those that are said to be for our
/// platform, in the index's order, but what needs a newer processor (`v2`, `v3`) or a feature of the system behind what does
/// not.
pub(crate) fn best_first<'a>(images: impl Iterator<Item = &'a Descriptor>) -> Vec<&'a Descriptor> {
    let mut images: Vec<_> = images.collect();
    images.sort_by_key(|image| match &image.platform {
        Some(platform) if platform_of_another(image).is_none() => {
            let variant = platform.variant.as_deref().filter(|&name| name != "v1");
            let features = platform.os_features.as_ref().map_or(0, Vec::len);
            (false, features > 0, variant.unwrap_or_default())
        }
        _ => (true, false, ""),
    });
    images
}

/// True for what BuildKit puts beside images: not for any machine.
pub(crate) fn is_attestation(descriptor: &Descriptor) -> bool {
    let unknown = descriptor
        .platform
        .as_ref()
        .is_some_and(|platform| platform.os == "unknown" && platform.architecture == "unknown");
    unknown || descriptor.annotation("vnd.docker.reference.type") == Some("attestation-manifest")
}
