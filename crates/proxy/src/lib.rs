//! The network of a guest that has no network card, on the host.
//!
#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod address;
mod body;
mod connection;
mod descriptors;
mod exchange;
mod fields;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gateway;
mod head;
mod host;
mod input;
mod link;
mod local;
mod mux;
mod origin;
mod policy;
mod process;
mod record;
mod record_file;
mod refusal;
mod rules;
mod serve;
mod upstream;

#[cfg(test)]
#[path = "../../../tests/it/support/skips.rs"]
mod skips;
#[cfg(test)]
mod tests;

pub use descriptors::close_inherited;
pub use gateway::Settings;
pub use process::{ProcessError, Proxy, main};
pub use record::{Reached, Record, Refused};
pub use rules::{AllowRule, PublishRule, Published, RuleError};
pub use upstream::{UpstreamError, UpstreamProxy};
