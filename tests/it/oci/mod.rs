//! `rdvm oci` without an engine. docs/oci.md names the test of each clause of the specification.

mod bundle;
mod crashes;
mod hooks;
mod lifecycle;
mod mounts;
mod process;
mod refusals;
mod resources;
mod terminal;
