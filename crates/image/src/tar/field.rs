//! The places of a tar header's fields, for reading and for writing. Source: POSIX.1-2017 `pax`, "ustar".

use std::ops::Range;

/// The length of the blocks that headers and contents fill.
pub const BLOCK: usize = 512;

/// A field's place in the block.
type Field = Range<usize>;

/// The name, or what of it does not go to the prefix.
pub const NAME: Field = 0..100;
/// Permission bits.
pub const MODE: Field = 100..108;
/// The owner.
pub const UID: Field = 108..116;
/// The group.
pub const GID: Field = 116..124;
/// The length of the contents.
pub const SIZE: Field = 124..136;
/// The time of modification.
pub const MTIME: Field = 136..148;
/// The sum of all bytes.
pub const CHECKSUM: Field = 148..156;
/// The kind of entry, one byte.
pub const TYPE: usize = 156;
/// A link's target.
pub const LINK: Field = 157..257;
/// The dialect, with its version.
pub const MAGIC: Field = 257..265;
/// A device's first number.
pub const MAJOR: Field = 329..337;
/// A device's second number.
pub const MINOR: Field = 337..345;
/// The directories in front of the name.
pub const PREFIX: Field = 345..500;
