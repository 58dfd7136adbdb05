//! `rdvm rmi`: its arguments.

use clap::Args;

use rdvm_hostfs::units::ByteSize;

/// Arguments of `rmi`.
#[derive(Debug, Args)]
pub struct RmiArgs {
    /// Remove the least recently used images until the store has at most this size
    #[arg(long, value_name = "SIZE")]
    pub to: Option<ByteSize>,
    /// Names of images, or their digests, of which twelve digits are enough
    #[arg(required_unless_present = "to", value_name = "NAME|DIGEST")]
    pub names: Vec<String>,
}
