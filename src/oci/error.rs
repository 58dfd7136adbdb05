//! Errors of a container, for people and for engines: some of them look for words in the text.

use std::io;
use std::path::PathBuf;

use rdvm_hostfs::escape::{reason, shown};

/// A container that cannot be created, found or told something.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// The configuration asks for what a machine cannot give.
    #[error("config.json: {what}; {way_out}")]
    Refused { what: String, way_out: String },
    /// The configuration cannot be read.
    #[error(
        "{}: {}; name the bundle's directory with --bundle",
        shown(path),
        reason(source)
    )]
    Config { path: PathBuf, source: io::Error },
    /// The configuration is no JSON of that kind.
    #[error(
        "{}: {source}; write it by the OCI runtime specification, version 1.0 to 1.2",
        shown(path)
    )]
    Syntax {
        path: PathBuf,
        source: serde_json::Error,
    },
    /// The name of a container cannot be one.
    #[error("container {id:?}: the name is not usable; take letters, digits and _+-. for it")]
    Name { id: String },
    /// There is no such container.
    #[error("container {id}: does not exist; rdvm oci list shows those that do")]
    Unknown { id: String },
    /// There is one already.
    #[error("container {id}: exists already; delete it, or take another name")]
    Exists { id: String },
    /// It is not in the state for that.
    // "container not running" is what containerd's CRI looks for.
    #[error("container {id}: is {status}, not {wanted}{}", if *.is_over { ": container not running" } else { "" })]
    Status {
        id: String,
        status: &'static str,
        wanted: &'static str,
        is_over: bool,
    },
    /// A signal that is none.
    #[error("{signal}: no signal; write a number from 1 to 64, or a name as in TERM")]
    Signal { signal: String },
    /// A hook failed.
    #[error("hooks.{kind}: {path}: {reason}")]
    Hook {
        kind: &'static str,
        path: String,
        reason: String,
    },
    /// The command cannot start; the text is what engines expect.
    #[error("{message}")]
    Command { message: String, code: u8 },
    /// The machine cannot be built.
    #[error("{0}")]
    Machine(String),
    /// rdvm has not this verb.
    #[error("{0}")]
    Verb(&'static str),
    /// A file or call of the host failed.
    #[error("{what}: {}", reason(source))]
    Host { what: String, source: io::Error },
}

impl Error {
    /// Returns the exit code of `rdvm oci run` after this error; that of every other verb is 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Command { code, .. } => *code,
            _ => crate::report::FAILED,
        }
    }
}

/// The result of a verb.
pub type Result<T> = std::result::Result<T, Error>;

/// Wraps an error of the host's with what was being done.
pub(super) fn host(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Host { what, source }
}

/// Wraps an error about a file.
pub(super) fn at(path: &std::path::Path) -> impl FnOnce(io::Error) -> Error {
    host(shown(path))
}
