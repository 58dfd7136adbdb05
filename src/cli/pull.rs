//! `rdvm pull`: its arguments.

use clap::Args;

/// Arguments of `pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
    /// Names of images, as in debian:12, HOST:PORT/NAME:TAG or NAME@sha256:DIGEST
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}
