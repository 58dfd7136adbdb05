//! Container engines with rdvm as their runtime: podman, containerd by ctr and by the interface that Kubernetes uses, dockerd,
//! and Slurm, as Debian packages them.
//!
//! `make test-engines` runs this, as root, in the namespaces that `enter.sh` makes; a file is an engine. What rdvm does when it is
//! called as a runtime, clause by clause and without an engine, is tested elsewhere.

mod containerd;
mod cri;
mod docker;
mod grpc;
mod lab;
mod podman;
mod podman_life;
mod slurm;
mod table;
