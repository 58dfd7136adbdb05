//! Extended attributes as they stand behind an inode.

use rdvm_image::erofs::{NAMESPACES, XATTR_ENTRY, XATTR_HEADER};
use rdvm_image::tree::Entry;

use crate::Error;

/// Returns the bytes of an entry's extended attributes, header and all; none where it has none.
///
/// # Errors
/// One that the format has no place for.
pub(crate) fn bytes(entry: Option<&Entry>) -> Result<Vec<u8>, Error> {
    let attributes = entry.and_then(|entry| Some((entry, entry.xattrs.as_ref()?)));
    let Some((entry, attributes)) = attributes else {
        return Ok(Vec::new());
    };
    if attributes.is_empty() {
        return Ok(Vec::new());
    }
    let mut out = vec![0; XATTR_HEADER];
    for (name, value) in attributes.iter() {
        let refused = || Error::Attribute {
            path: entry.path.clone(),
            name: name.clone(),
            bytes: value.len(),
        };
        let known = NAMESPACES.iter().find_map(|&(number, namespace)| {
            let rest = name.strip_prefix(namespace)?;
            (rest.is_empty() != namespace.ends_with(b".")).then_some((number, rest))
        });
        let (number, rest) = known.ok_or_else(refused)?;
        let length = u8::try_from(rest.len()).map_err(|_| refused())?;
        let size = u16::try_from(value.len()).map_err(|_| refused())?;
        out.extend([length, number]);
        out.extend(size.to_le_bytes());
        out.extend(rest);
        out.extend(value);
        out.resize(out.len().next_multiple_of(XATTR_ENTRY), 0);
        // Their length is counted in 16 bits.
        if out.len() - XATTR_HEADER >= usize::from(u16::MAX) * XATTR_ENTRY {
            return Err(refused());
        }
    }
    Ok(out)
}
