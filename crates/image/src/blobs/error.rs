//! Flaws of image archives and OCI layouts.

use std::io;

use crate::config;
use crate::error::Remedy;
use rdvm_hostfs::Digest;
use rdvm_hostfs::escape::{escaped, reason};

/// A flaw, without its place; each message ends with the way out.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ParseError {
    /// The host cannot read a part.
    #[error("{}: cannot be read: {}; try again when nothing writes to it", escaped(name.as_bytes()), reason(source))]
    Unreadable { name: String, source: io::Error },
    /// A part is not there.
    #[error("{} is not in it; export the image again, with all its layers", escaped(name.as_bytes()))]
    Missing { name: String },
    /// A layer that is to be had elsewhere only.
    #[error(
        "{digest} is a layer that may not be passed on and is not in it; export the image with all its layers"
    )]
    Foreign { digest: Digest },
    /// More links from name to name than there can be a reason for.
    #[error("{}: too many links to it; export the image again", escaped(name.as_bytes()))]
    Links { name: String },
    /// A digest that is none. It is never used as a name.
    #[error("\"{}\" is not a digest of sha256: and 64 hexadecimal digits; export the image again", escaped(digest.as_bytes()))]
    BadDigest { digest: String },
    /// A digest that cannot be checked.
    #[error("\"{}\": only sha256 digests are checked; export the image with those", escaped(digest.as_bytes()))]
    Algorithm { digest: String },
    /// The ID of a layer that is none. It is never used as a name.
    #[error("\"{}\" is not a layer's ID of 64 hexadecimal digits; export the image again", escaped(id.as_bytes()))]
    BadLayerId { id: String },
    /// A layer that is above itself.
    #[error("the layer {} is its own ancestor by the parents that the layers name; export the image again", escaped(id.as_bytes()))]
    LayerLoop { id: String },
    /// JSON that is longer than it can have a reason for.
    #[error("{}: has {size} bytes, and {limit} is the limit for JSON; export the image again", escaped(name.as_bytes()))]
    TooLarge { name: String, size: u64, limit: u64 },
    /// JSON that is none, or not what it should say.
    #[error("{}: is not what it should be: {source}; export the image again", escaped(name.as_bytes()))]
    Json {
        name: String,
        source: serde_json::Error,
    },
    /// Other bytes than the digest says.
    #[error("{}: its contents have the digest {found} and not {expected}; get it again from somebody you trust", escaped(name.as_bytes()))]
    Contents {
        name: String,
        expected: Digest,
        found: Digest,
    },
    /// More or fewer bytes than the descriptor says.
    #[error("{}: has {found} bytes and not {expected}; get it again from somebody you trust", escaped(name.as_bytes()))]
    Size {
        name: String,
        expected: u64,
        found: u64,
    },
    /// A layer unpacks to other bytes than the configuration says.
    #[error(
        "{}: it unpacks to the digest {found} and not {expected}; get it again from somebody you trust",
        escaped(name.as_bytes())
    )]
    DiffId {
        name: String,
        expected: Digest,
        found: Digest,
    },
    /// Layers and their digests do not match up.
    #[error(
        "the manifest has {layers} layers and the configuration {diff_ids} (rootfs.diff_ids); export the image again"
    )]
    LayerCount { layers: usize, diff_ids: usize },
    /// More layers than any image has.
    #[error("it has {layers} layers, and {limit} is the limit; squash some of them")]
    TooManyLayers { layers: usize, limit: usize },
    /// Compressed twice.
    #[error("{}: is compressed twice; compress it once", escaped(name.as_bytes()))]
    Nested { name: String },
    /// Indexes in indexes in indexes.
    #[error("its indexes are nested more than {limit} deep; export the image again")]
    TooDeep { limit: usize },
    /// More indexes and manifests than are read.
    #[error("it has more than {limit} indexes and manifests to look through")]
    TooMany { limit: usize },
    /// One document that can be read in two ways.
    #[error("{}: is an index and a manifest at once; export the image again", escaped(name.as_bytes()))]
    Ambiguous { name: String },
    /// Something else that is kept in the same form: a chart, a signature.
    #[error("{}: is not a container image but {}", escaped(name.as_bytes()), escaped(kind.as_bytes()))]
    NotAnImage { name: String, kind: String },
    /// A version of the layout that is not known.
    #[error("oci-layout: version \"{}\" is not known, 1.0.0 is; export the image again", escaped(version.as_bytes()))]
    Version { version: String },
    /// No image that can run here.
    #[error(
        "there is no image for linux/amd64 in it, only for {}; export that platform",
        list(found)
    )]
    NoPlatform { found: Vec<String> },
    /// It is not said which image.
    #[error("there are several images in it: {}", list(names))]
    Several { names: Vec<String> },
    /// No image of that name.
    #[error("there is no image \"{}\" in it, only {}", escaped(spec.as_bytes()), list(names))]
    NoSuchImage { spec: String, names: Vec<String> },
    /// No image at all.
    #[error("there is no image in it; export the image again")]
    NoImage,
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] config::Error),
}

/// The most names that a message shows.
const SHOWN: usize = 12;

fn list(names: &[String]) -> String {
    let mut shown: Vec<String> = names
        .iter()
        .take(SHOWN)
        .map(|name| escaped(name.as_bytes()))
        .collect();
    match names.len() {
        0 => shown.push("nothing".to_owned()),
        all if all > SHOWN => shown.push(format!("{} more", all - SHOWN)),
        _ => {}
    }
    shown.join(", ")
}

impl ParseError {
    pub(crate) fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::TooMany { .. } | Self::Several { .. } => Some(Remedy::NameImage),
            Self::NoSuchImage { .. } => Some(Remedy::NameOneOfThose),
            Self::NotAnImage { .. } => Some(Remedy::NameAnother),
            Self::Config(config::Error::User { .. }) => Some(Remedy::NameUser),
            _ => None,
        }
    }

    /// True if it means that something is not there, rather than that it is wrong.
    pub(crate) fn is_gap(&self) -> bool {
        matches!(
            self,
            Self::Missing { .. }
                | Self::NoPlatform { .. }
                | Self::NotAnImage { .. }
                | Self::NoSuchImage { .. }
                | Self::NoImage
        )
    }
}
