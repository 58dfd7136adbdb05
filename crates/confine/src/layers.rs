//! The layers of confinement: which of them are in force, and why one is not.

use std::fmt;

use serde::Serialize;

use crate::{filter, landlock};

/// A layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerName {
    /// The calls that a thread may make.
    Seccomp,
    /// The files that it may open.
    Landlock,
    /// It cannot gain privileges by running another program.
    NoNewPrivs,
    /// The machine's process has no network of the host's. Only for an engine that is a process of its own.
    NetworkNamespace,
}

/// A layer, and its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// The layer.
    pub name: LayerName,
    /// True if it is in force.
    pub on: bool,
    /// The reason why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl Layer {
    pub(crate) fn new(name: LayerName, missing: Option<String>) -> Self {
        Self {
            name,
            on: missing.is_none(),
            why: missing,
        }
    }
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seccomp => "seccomp",
            Self::Landlock => "landlock",
            Self::NoNewPrivs => "no_new_privs",
            Self::NetworkNamespace => "network namespace",
        })
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Some(why) => write!(f, "{} off: {why}", self.name),
            None => write!(f, "{} on", self.name),
        }
    }
}

/// Returns the layers that this host has for any process.
pub fn available() -> Vec<Layer> {
    vec![
        Layer::new(LayerName::Seccomp, filter::missing()),
        Layer::new(LayerName::Landlock, landlock::missing()),
        Layer::new(LayerName::NoNewPrivs, None),
    ]
}
