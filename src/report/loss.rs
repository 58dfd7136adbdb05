//! Extended attributes of the image that are missing in the guest.

use std::io;

use rdvm_proto::{Attribute, Attributes, AttributesLost};
use serde::Serialize;

use rdvm_hostfs::escape::{escaped, reason};
use rdvm_initrd::attributes::{counted, shown};

const EOPNOTSUPP: i32 = 95;

/// Extended attributes of the image that the guest could not set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// Number of attributes.
    pub attributes: u32,
    /// Number of files.
    pub files: u32,
    /// Number of file capabilities among them.
    pub capabilities: u32,
    /// The line for stderr: the first of them, why, and what to do.
    pub message: String,
}

impl Loss {
    /// Puts the guest's numbers into words. `table` is the one that the guest received.
    pub(crate) fn of(table: &[u8], lost: &AttributesLost) -> Self {
        Self {
            attributes: lost.attributes,
            files: lost.files,
            capabilities: lost.capabilities,
            message: lost_in_guest(table, lost),
        }
    }
}

fn lost_in_guest(table: &[u8], lost: &AttributesLost) -> String {
    let table = Attributes::decode(table);
    // The guest's number is not trusted: there may be no such attribute.
    let first = table.and_then(|table| table.iter().nth(lost.first as usize));
    let bare = |text: &'_ [u8]| text.strip_suffix(b"\0").unwrap_or(text).to_vec();
    let which = first.map_or(String::new(), |Attribute { path, name, .. }| {
        format!(
            ", the first {} of {}",
            escaped(&bare(name)),
            shown(&bare(path))
        )
    });
    let name = first.map_or(&b""[..], |attribute| attribute.name);
    let (why, way_out) = match lost.errno {
        EOPNOTSUPP if name.starts_with(b"user.") => (
            "this kernel's tmpfs has none of that kind".to_owned(),
            "use Linux 6.6 or newer",
        ),
        EOPNOTSUPP => (
            "this kernel's tmpfs has none of that kind".to_owned(),
            "use a kernel with CONFIG_TMPFS_XATTR and CONFIG_TMPFS_POSIX_ACL",
        ),
        errno => (
            reason(&io::Error::from_raw_os_error(errno)),
            "remove them from the image if they are not needed",
        ),
    };
    let count = counted(
        lost.attributes.into(),
        lost.files.into(),
        lost.capabilities.into(),
    );
    format!("{count} could not be set in the guest{which}: {why}; {way_out}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdvm_proto::AttributesTable;

    #[test]
    fn a_loss_is_told_with_its_reason_and_a_way_out() {
        let mut table = AttributesTable::default();
        table.push(b".", [(&b"trusted.r"[..], &b"r"[..])].into_iter());
        let capability = (&b"security.capability"[..], &b"c"[..]);
        table.push(b"a", [capability, (b"user.\x1b", b"")].into_iter());
        let table = table.finish().unwrap();
        let lost = |first, errno| {
            let lost = AttributesLost {
                attributes: 2,
                files: 1,
                capabilities: 1,
                first,
                errno,
            };
            Loss::of(&table, &lost).message
        };
        assert_eq!(
            lost(1, EOPNOTSUPP),
            "2 extended attributes of 1 file (1 a file capability) could not be set in the guest, \
             the first security.capability of /a: this kernel's tmpfs has none of that kind; \
             use a kernel with CONFIG_TMPFS_XATTR and CONFIG_TMPFS_POSIX_ACL"
        );
        for (first, errno, words) in [
            (
                0,
                EOPNOTSUPP,
                "the first trusted.r of /: this kernel's tmpfs has none of that kind; use a kernel with",
            ),
            (
                2,
                EOPNOTSUPP,
                "the first user.\\u{1b} of /a: this kernel's tmpfs has none of that kind; use Linux 6.6",
            ),
            (1, 28, "of /a: No space left on device"),
            // No such attribute: the guest may say what it likes.
            (
                u32::MAX,
                i32::MIN,
                "could not be set in the guest: Unknown error",
            ),
        ] {
            let line = lost(first, errno);
            assert!(line.contains(words), "{line}");
        }
    }
}
