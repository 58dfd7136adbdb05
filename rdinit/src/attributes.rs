//! The image's extended attributes: set by the host's table, and counted where the kernel will not have them.

use crate::sys;
use rdvm_proto::{Attributes, AttributesLost};

/// Sets all attributes of the table in the file `table`; gives what could not be set.
///
/// Paths are from the working directory, which must be the root: one more byte in front would be one too many for the
/// longest. Errors: the table cannot be read, or is none; nothing was set then.
pub(crate) fn set(table: &[u8]) -> sys::Result<AttributesLost> {
    let fd = sys::open(table, sys::O_RDONLY | sys::O_CLOEXEC)?;
    let lost = sys::with_mapped_file(fd, |bytes| Attributes::decode(bytes).map(set_all));
    sys::close(fd);
    lost?.ok_or(sys::EINVAL)
}

fn set_all(table: Attributes<'_>) -> AttributesLost {
    let mut lost = AttributesLost::default();
    let mut counted = false;
    for (at, attribute) in table.iter().enumerate() {
        counted &= !attribute.first;
        // Owners are set already, by the kernel that unpacked the image; afterwards they would take capabilities away.
        let Err(errno) = sys::set_attribute(attribute.path, attribute.name, attribute.value) else {
            continue;
        };
        if lost.attributes == 0 {
            (lost.first, lost.errno) = (at as u32, errno.0);
        }
        lost.attributes += 1;
        lost.capabilities += u32::from(attribute.name == b"security.capability\0");
        lost.files += u32::from(!counted);
        counted = true;
    }
    lost
}
