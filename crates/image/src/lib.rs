//! Root file systems, read without unpacking them.
//!
#![doc = include_str!("../README.md")]

pub mod account;
pub mod acl;
pub mod body;
pub(crate) mod byte_source;
pub mod config;
pub(crate) mod cpio;
pub mod digest;
pub mod erofs;
mod error;
mod fakeroot;
pub mod files;
mod fs;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod host;
mod layers;
pub(crate) mod limit;
pub mod manifest;
pub(crate) mod member;
mod owner;
mod recognise;
pub mod reference;
pub mod stream;
pub mod tar;
pub mod tree;

mod blobs;
mod buffered_region;
mod dir;
mod directory_state;
mod docker;
mod docker_v1;
mod entry;
mod loader;
mod oci;
mod override_stat;
mod rules;
mod source;
mod work_list;
mod xattr;

#[cfg(test)]
mod samples;
#[cfg(test)]
#[path = "../../../tests/it/support/skips.rs"]
mod skips;
#[cfg(test)]
mod tests;

use rustix::io::Errno;

pub use blobs::ParseError;
pub use error::{Error, Remedy};
pub use layers::LayerFacts;
pub use recognise::Form;
pub use source::Sources;

use crate::reference::ImageRef;
use byte_source::Region;
use config::Config;
use rdvm_hostfs::Digest;
use stream::Compression;
use tree::Tree;

/// An image that was read: its tree, and what is known of it besides.
#[derive(Debug)]
pub struct Image {
    /// Its entries, with the layers on top; file contents stay where they are until they are written.
    pub tree: Tree,
    /// The configuration that it is run with; layers on top have none.
    pub config: Config,
    /// The form that it came in.
    pub form: Form,
    /// The compression of the whole.
    pub compression: Compression,
    /// Its own layers, if it keeps them apart; not those on top.
    pub layers: Vec<LayerFacts>,
    /// The digest of its manifest, as registries know it, if it has one.
    pub manifest: Option<Digest>,
    /// The digest of its configuration, docker's image ID, if it has one.
    pub id: Option<Digest>,
}

/// Reads the image and the layers on top of it.
///
/// # Errors
/// Anything that keeps it from being read; the message names the image or the file in it, and a way out.
pub fn open(image: &ImageRef) -> Result<Image, Error> {
    open_from(image, &Sources::default())
}

/// The same from what `sources` has opened already, to which it adds what it opens.
///
/// # Errors
/// As above.
pub fn open_from(image: &ImageRef, sources: &Sources) -> Result<Image, Error> {
    loader::open(image, sources)
}

/// The first bytes of a region, as many as there are of those that tell its kind.
fn start_of(region: &Region) -> Result<Vec<u8>, Errno> {
    let mut start = vec![0; region.length.min(recognise::START) as usize];
    region.read_exact(0, &mut start)?;
    Ok(start)
}
