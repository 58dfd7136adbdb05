//! The host's side of files and memory, for rdvm's crates: output files that appear whole, digests, sizes, names made safe to
//! print, the RAM that the host or a control group allows, and a progress bar.

#![forbid(unsafe_code)]

pub mod atomic;
pub mod cache;
pub mod civil;
pub mod escape;
pub mod hex;
pub mod hostmem;
pub mod path;
pub mod progress;
pub mod units;

mod digest;
mod stamp;

pub use digest::{BadDigest, Digest};
pub use stamp::FileStamp;
