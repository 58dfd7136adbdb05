//! rdvm: an image in, a machine of its own, an exit code out.

pub mod units;

pub mod request;

pub mod image;

/// What runs the machine.
pub mod engine {
    pub mod probe;
}

pub mod doctor;
