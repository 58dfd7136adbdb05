//! Host to guest: modules of the guest's kernel, in a file of the last cpio segment.
//!
//! Magic, version, number of modules; then for each its length and its bytes, in the order in which they are loaded. Numbers
//! have four bytes.

use crate::{Decoder, VERSION};

/// The suffix of rdinit's own path that gives the path of the modules. They are there only when a start record's flags have
/// [`HAS_MODULES`](crate::HAS_MODULES).
pub const MODULES_SUFFIX: &str = ".modules";

/// First bytes of the file.
const MODULES_MAGIC: [u8; 8] = *b"rdvmko\0\x01";

/// All modules: a view of the file's bytes.
#[derive(Debug, Clone, Copy)]
pub struct Modules<'a> {
    modules: &'a [u8],
}

impl<'a> Modules<'a> {
    /// Reads the file; `None` when it is not exactly one of this version. All of it is looked at before anything is loaded.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut r = Decoder { bytes };
        if r.take(8)? != MODULES_MAGIC || r.u32()? != u32::from(VERSION) {
            return None;
        }
        let count = r.u32()?;
        let modules = r.bytes;
        for _ in 0..count {
            r.module()?;
        }
        r.bytes.is_empty().then_some(Self { modules })
    }

    /// The modules, what others need first.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut r = Decoder {
            bytes: self.modules,
        };
        core::iter::from_fn(move || r.module())
    }

    /// The file with these modules, of less than 4 GiB each.
    #[cfg(not(freestanding))]
    pub fn encode(modules: &[alloc::vec::Vec<u8>]) -> alloc::vec::Vec<u8> {
        let mut out = MODULES_MAGIC.to_vec();
        out.extend(u32::from(VERSION).to_le_bytes());
        out.extend((modules.len() as u32).to_le_bytes());
        for module in modules {
            out.extend((module.len() as u32).to_le_bytes());
            out.extend(module);
        }
        out
    }
}

impl<'a> Decoder<'a> {
    /// A module, which is never empty.
    fn module(&mut self) -> Option<&'a [u8]> {
        let length = self.u32().filter(|&length| length > 0)?;
        self.take(length as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    #[test]
    fn modules_come_back_in_their_order_and_no_prefix_of_the_file_is_one() {
        let modules = [vec![1; 300], vec![0], b"\x7fELF".to_vec()];
        let bytes = Modules::encode(&modules);
        let seen: Vec<_> = Modules::decode(&bytes).unwrap().iter().collect();
        assert_eq!(seen, modules);
        for cut in 0..bytes.len() {
            assert!(Modules::decode(&bytes[..cut]).is_none(), "cut at {cut}");
        }
        assert!(Modules::decode(&[&bytes[..], b"\0"].concat()).is_none());
    }

    #[test]
    fn a_file_with_a_wrong_number_in_it_is_refused() {
        let good = Modules::encode(&[vec![7; 5]]);
        for at in 0..20 {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(Modules::decode(&bad).is_none(), "byte {at}");
            }
        }
        assert!(Modules::decode(&Modules::encode(&[Vec::new()])).is_none());
        let none = Modules::encode(&[]);
        assert_eq!(Modules::decode(&none).unwrap().iter().count(), 0);
    }
}
