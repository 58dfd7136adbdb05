//! The files of docker and podman that say where images come from and who may have them.

pub(crate) mod certificates;
pub(crate) mod credentials;
pub(crate) mod policy;
pub(crate) mod proxies;
pub(crate) mod registries;
