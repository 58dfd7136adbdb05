//! `rdvm images`: its arguments.

use clap::Args;

/// Arguments of `images`.
#[derive(Debug, Args)]
pub struct ImagesArgs {
    /// Print JSON (docs/registry.md lists the fields)
    #[arg(long)]
    pub json: bool,
}
