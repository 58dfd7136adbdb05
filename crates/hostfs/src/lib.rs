//! The host's side of files and memory, for rdvm's crates: output files that appear complete or not at all
//! ([`atomic::AtomicFile`]), a cache of files by content ([`cache::ContentCache`]), stamps that tell a file's states apart
//! ([`FileStamp`]), digests, dates, sizes, names made safe to print, the RAM that the host or a control group allows, and a
//! progress bar.

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
