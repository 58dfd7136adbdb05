//! A machine as data: all that an engine needs to know to run it.

use crate::initrd::Initrd;
use crate::kernel::Kernel;
use crate::units::ByteSize;

/// What boots. Knows neither images nor flags.
#[derive(Debug)]
pub struct Machine {
    /// The kernel, checked.
    pub kernel: Kernel,
    /// The initrd, yet to be made: an engine knows best where it belongs.
    pub initrd: Initrd,
    /// The kernel command line, checked.
    pub cmdline: String,
    /// Guest RAM, a multiple of a page.
    pub memory: ByteSize,
    /// Number of vCPUs, 1 to 16.
    pub cpus: u8,
    /// Whether memory is shared with the guest (`guest::rings`), at the place that the engine says.
    pub rings: bool,
    /// Whether what of the initrd can be shared with other machines ([`Initrd::shared_part`]) is mapped and not copied.
    pub share: bool,
}
