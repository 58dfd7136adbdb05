//! Reasons why an image cannot be had by its name. Messages name their subject, what went wrong and a way out.

use std::io;
use std::path::PathBuf;

use rdvm_hostfs::Digest;
use rdvm_hostfs::escape::{escaped, reason, shown};
use rdvm_hostfs::units::ByteSize;

use crate::reference::BadName;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure. Text of servers and programs in it is escaped and shortened.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
#[non_exhaustive]
pub enum Error {
    /// Not the name of an image.
    #[error("{}: {source}", escaped(name.as_bytes()))]
    Name { name: String, source: BadName },
    /// A name without a registry that could mean several.
    #[error("{name}: could be any of {}; name one of them", candidates.join(", "))]
    Ambiguous {
        name: String,
        candidates: Vec<String>,
    },
    /// A configuration file cannot be used.
    #[error("{}: {why}; correct it", shown(path))]
    Config { path: PathBuf, why: String },
    /// A configuration file cannot be read.
    #[error("{}: {}; see that it can be read", shown(path), reason(source))]
    ConfigFile { path: PathBuf, source: io::Error },
    /// The environment has a proxy that cannot be used.
    #[error("{variable}: \"{}\" is not the URL of a proxy; write http://HOST:PORT", escaped(value.as_bytes()))]
    Proxy { variable: String, value: String },
    /// registries.conf forbids it.
    #[error("{name}: {} blocks this registry; name another", shown(path))]
    Blocked { name: String, path: PathBuf },
    /// policy.json forbids it.
    #[error(
        "{name}: {} rejects images of this registry; name another",
        shown(path)
    )]
    Rejected { name: String, path: PathBuf },
    /// policy.json demands signatures.
    #[error(
        "{name}: {} demands a signature ({kind}), which skopeo checks; install skopeo",
        shown(path)
    )]
    Signature {
        name: String,
        path: PathBuf,
        kind: String,
    },
    /// skopeo fetched nothing.
    #[error("{name}: skopeo: {text}")]
    Skopeo { name: String, text: String },
    /// A program for credentials failed.
    #[error("{program}: {why}; correct it, or log in again")]
    Helper { program: String, why: String },
    /// The host cannot be reached, or broke off.
    #[error("{host}: {why}; try again later")]
    Connection { host: String, why: String },
    /// The host's certificate is not one to trust.
    #[error(
        "{host}: its certificate is not trusted: {why}; put its CA into certs.d/{host}/ca.crt below /etc/containers or \
         ~/.config/containers"
    )]
    Certificate { host: String, why: String },
    /// The host speaks no TLS.
    #[error(
        "{host}: does not speak TLS, or broke off ({why}); only a registry with insecure = true in registries.conf may do without"
    )]
    NoTls { host: String, why: String },
    /// A redirect that is not followed.
    #[error("{host}: redirects to {}, {why}; nothing was sent there", escaped(to.as_bytes()))]
    Redirect {
        host: String,
        to: String,
        why: &'static str,
    },
    /// The registry wants a user, or another one.
    #[error(
        "{name}: {host} grants no access{text}; check the name, or log in with podman login or docker login"
    )]
    Denied {
        name: String,
        host: String,
        text: String,
    },
    /// A way to log in that is not known, or not allowed.
    #[error("{host}: asks for a login {why}; use another registry")]
    Login { host: String, why: String },
    /// The registry has no such image.
    #[error("{name}: {host} has no such image{text}; check the name")]
    NotFound {
        name: String,
        host: String,
        text: String,
    },
    /// Another answer than was asked for.
    #[error("{host}: answers {what} with {status}{text}; try again later")]
    Status {
        host: String,
        what: String,
        status: u16,
        text: String,
    },
    /// An answer that is longer than it can have a reason for.
    #[error("{host}: {what} has more than {limit}; use another registry")]
    TooLong {
        host: String,
        what: String,
        limit: ByteSize,
    },
    /// An answer that makes no sense.
    #[error("{host}: {what}: {why}; use another registry")]
    Answer {
        host: String,
        what: String,
        why: String,
    },
    /// Other bytes than the digest says.
    #[error("{host}: {expected} has the digest {found}; use another registry")]
    Contents {
        host: String,
        expected: Digest,
        found: Digest,
    },
    /// More or fewer bytes than were announced.
    #[error("{host}: {digest} has {found} bytes and not {expected}; use another registry")]
    Size {
        host: String,
        digest: Digest,
        expected: u64,
        found: u64,
    },
    /// The image cannot run here, or is none.
    #[error("{name}: {why}")]
    Unusable { name: String, why: String },
    /// The file system has no room for the image.
    #[error(
        "{}: {available} are free, and {name} needs {needed}; make room, or use another directory",
        shown(path)
    )]
    Full {
        path: PathBuf,
        name: String,
        needed: ByteSize,
        available: ByteSize,
    },
    /// The store cannot be used.
    #[error(
        "{}: {}; see that it can be written to, or remove it",
        shown(path),
        reason(source)
    )]
    Store { path: PathBuf, source: io::Error },
    /// The store's list of images cannot be used.
    #[error(
        "{}: {why}; remove the directory, and pull the images again",
        shown(path)
    )]
    StoreIndex { path: PathBuf, why: String },
    /// The store's directory could have been written by others.
    #[error(
        "{}: belongs to another user, or others can write to it; use another directory",
        shown(path)
    )]
    StoreOwner { path: PathBuf },
    /// Another thread failed.
    #[error("stopped")]
    Stopped,
}

impl Error {
    /// True if another endpoint or registry may have what this one has not.
    pub(crate) fn is_of_server(&self) -> bool {
        !matches!(
            self,
            Self::Store { .. }
                | Self::StoreIndex { .. }
                | Self::StoreOwner { .. }
                | Self::Full { .. }
                | Self::Stopped
        )
    }
}

/// The longest text of a server or a program in a message, in characters.
const TEXT_LIMIT: usize = 200;

/// Returns a server's words for a message.
pub(crate) fn quoted(text: &str) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty());
    let short: String = line
        .unwrap_or_default()
        .trim()
        .chars()
        .take(TEXT_LIMIT)
        .collect();
    escaped(short.as_bytes())
}
