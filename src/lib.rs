//! rdvm: an image in, a machine of its own, an exit code out.

pub mod units;

pub mod request;

pub mod image;

pub mod initrd;
