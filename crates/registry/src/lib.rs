//! Container images by name: from registries into a local OCI layout.
//!
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod challenge;
mod client;
mod config;
mod docker_hub;
mod document;
mod download;
mod environment;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod puller;
mod reference;
mod session;
mod skopeo;
mod store;
mod url;

#[cfg(test)]
mod tests;

pub use config::registries::Registries;
pub use environment::Environment;
pub use error::{Error, Result};
pub use puller::Puller;
pub use reference::{BadName, ImageName, Reference, TRANSPORT};
pub use store::{ImageInUse, Removed, Store, StoredImage};
