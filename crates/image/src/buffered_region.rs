//! Headers of an archive, read many at a time: a region through a buffer that can be asked for any place.

use rustix::io::Errno;

use super::byte_source::Region;

/// The least that is read at once, and the most while headers are close together.
const LEAST: usize = 4 << 10;
const MOST: usize = 64 << 10;

/// A region, and the bytes of it that were read last.
#[derive(Debug)]
pub(super) struct BufferedRegion<'a> {
    region: &'a Region,
    /// Where in the region `bytes` are.
    at: u64,
    bytes: Vec<u8>,
    /// Bytes to read next: more as long as the next place asked for is close, little after a leap over contents.
    step: usize,
}

impl<'a> BufferedRegion<'a> {
    pub(super) fn new(region: &'a Region) -> Self {
        Self {
            region,
            at: 0,
            bytes: Vec::new(),
            step: LEAST,
        }
    }

    /// The `count` bytes from `from` on; `None` when the region has not as many. `count` is what a format allows, not
    /// what an archive says.
    pub(super) fn get(&mut self, from: u64, count: usize) -> Result<Option<&[u8]>, Errno> {
        let left = self.region.length.saturating_sub(from);
        if left < count as u64 {
            return Ok(None);
        }
        let held = from.checked_sub(self.at).map(|inside| inside as usize);
        let start = match held {
            Some(inside) if inside + count <= self.bytes.len() => inside,
            _ => {
                let end = self.at + self.bytes.len() as u64;
                let near = from >= self.at && from <= end + LEAST as u64;
                self.step = if near {
                    (2 * self.step).min(MOST)
                } else {
                    LEAST
                };
                let wanted = self.step.max(count) as u64;
                self.bytes.resize(wanted.min(left) as usize, 0);
                self.at = from;
                if let Err(error) = self.region.read_exact(from, &mut self.bytes) {
                    self.bytes.clear();
                    return Err(error);
                }
                0
            }
        };
        Ok(Some(&self.bytes[start..start + count]))
    }

    /// Where the first byte from `from` on is that is not zero.
    pub(super) fn skip_zeros(&mut self, mut from: u64) -> Result<Option<u64>, Errno> {
        while from < self.region.length {
            let count = (self.region.length - from).min(MOST as u64) as usize;
            let Some(bytes) = self.get(from, count)? else {
                break;
            };
            match bytes.iter().position(|&byte| byte != 0) {
                Some(inside) => return Ok(Some(from + inside as u64)),
                None => from += count as u64,
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::byte_source::ByteSource;

    fn region(bytes: Vec<u8>) -> Region {
        let length = bytes.len() as u64;
        let store = ByteSource::of_chunks(vec![Some(bytes.into())], length, "-".into());
        Region::whole(Arc::new(store))
    }

    #[test]
    fn any_place_can_be_asked_for_and_the_end_is_the_end() {
        let region = region((0..200_000).map(|n| (n / 7) as u8).collect());
        let mut window = BufferedRegion::new(&region);
        let places = (0..200_000)
            .step_by(512)
            .chain([190_000, 3, 100_000, 100_001]);
        for from in places {
            let count = 500.min(200_000 - from);
            let bytes = window.get(from as u64, count).unwrap().unwrap();
            let want: Vec<u8> = (from..from + count).map(|n| (n / 7) as u8).collect();
            assert!(bytes == want, "{from}");
        }
        assert!(window.get(199_999, 1).unwrap().is_some());
        assert_eq!(window.get(199_999, 2), Ok(None));
        assert_eq!(window.get(u64::MAX, 1), Ok(None));
    }

    #[test]
    fn zeros_are_passed_over_to_the_first_other_byte() {
        let mut bytes = vec![0; 300_000];
        assert_eq!(
            BufferedRegion::new(&region(bytes.clone())).skip_zeros(5),
            Ok(None)
        );
        bytes[299_999] = 1;
        bytes[4] = 1;
        let region = region(bytes);
        assert_eq!(BufferedRegion::new(&region).skip_zeros(0), Ok(Some(4)));
        assert_eq!(
            BufferedRegion::new(&region).skip_zeros(5),
            Ok(Some(299_999))
        );
    }
}
