//! Refusals by name of what a machine cannot give. Whoever can do without it says so in an annotation.

use std::collections::BTreeSet;

use super::error::{Error, Result};
use super::spec::Spec;

/// The annotation with the names of what the container may go without, separated by commas.
pub(super) const IGNORE: &str = "org.rdvm.ignore";

/// The names that [`IGNORE`] may have.
pub(super) const NAMES: [&str; 15] = [
    "cgroup",
    "devices",
    "hooks",
    "ipc",
    "mount-options",
    "network",
    "personality",
    "pid",
    "propagation",
    "resources",
    "scheduler",
    "time",
    "tmpcopyup",
    "user",
    "uts",
];

/// The names that this container goes without.
#[derive(Debug, Clone, Default)]
pub(super) struct Refusals(BTreeSet<String>);

impl Refusals {
    /// Reads the annotation.
    ///
    /// # Errors
    /// It has a name that nothing is refused by.
    pub(super) fn of(spec: &Spec) -> Result<Self> {
        let text = spec.annotations.get(IGNORE).map_or("", String::as_str);
        let names = text
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty());
        let names: BTreeSet<String> = names.map(str::to_owned).collect();
        match names.iter().find(|name| !NAMES.contains(&name.as_str())) {
            Some(name) => Err(Error::Refused {
                what: format!("annotations: {IGNORE}: {name}: nothing is refused by that name"),
                way_out: format!("the names are {}", NAMES.join(", ")),
            }),
            None => Ok(Self(names)),
        }
    }

    /// Refuses what the configuration asks for, unless the annotation has `name`.
    pub(super) fn refuse(&self, name: &'static str, what: impl Into<String>) -> Result<()> {
        debug_assert!(NAMES.contains(&name));
        match self.0.contains(name) {
            true => Ok(()),
            false => Err(Error::Refused {
                what: what.into(),
                way_out: format!(
                    "leave it out, or do without it by the annotation {IGNORE}={name}"
                ),
            }),
        }
    }
}

/// Refuses what nobody can do without.
pub(super) fn refuse(what: impl Into<String>, way_out: impl Into<String>) -> Error {
    Error::Refused {
        what: what.into(),
        way_out: way_out.into(),
    }
}
