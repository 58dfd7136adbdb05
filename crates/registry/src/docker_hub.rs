//! docker's own registry, which names without a registry mean: facts of docker's protocol, and the only host that rdvm knows.
//!
//! Nothing is fetched from it unless a user names an image of it; registries.conf puts others in its place.

/// The registry in names.
pub(crate) const REGISTRY: &str = "docker.io";
/// Another spelling of it in names.
pub(crate) const OLD_REGISTRY: &str = "index.docker.io";
/// The host that serves it.
pub(crate) const HOST: &str = "registry-1.docker.io";
/// Its key in docker's files of credentials.
pub(crate) const CREDENTIALS: &str = "https://index.docker.io/v1/";
/// The directory of names that have none.
pub(crate) const LIBRARY: &str = "library";
