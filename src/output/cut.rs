//! Where a stream of bytes is cut, so that a change in it moves no cut but those next to the change.
//!
//! A cut depends on the 64 bytes before it and on the distance from the last cut, and on nothing else; so two streams
//! that are the same from some place on are soon cut at the same places. Knows nothing of compression.

/// No piece but the last is shorter.
pub(super) const SHORTEST: usize = 16 << 10;
/// No piece is longer.
pub(super) const LONGEST: usize = 256 << 10;
/// A cut where these bits of the sum are zero: one place in 65,536. The upper bits know all 64 bytes.
const MASK: u64 = 0xffff << 48;

/// The length of the first piece of `bytes`; `None` where more of them could make it longer.
pub(super) fn first(bytes: &[u8]) -> Option<usize> {
    let end = bytes.len().min(LONGEST);
    let start = SHORTEST - 64;
    let mut sum = 0_u64;
    for (index, &byte) in bytes[..end].iter().enumerate().skip(start) {
        // The oldest byte is shifted out when it is 64 bytes back.
        sum = (sum << 1).wrapping_add(MIXED[byte as usize]);
        if index + 1 >= SHORTEST && sum & MASK == 0 {
            return Some(index + 1);
        }
    }
    (end == LONGEST).then_some(LONGEST)
}

/// A number without pattern for each byte: the first 256 numbers of the generator SplitMix64, from 0.
const MIXED: [u64; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut z = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(index as u64 + 1);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[index] = z ^ (z >> 31);
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(bytes: &[u8]) -> Vec<usize> {
        let mut at = 0;
        let mut cuts = Vec::new();
        while let Some(length) = first(&bytes[at..]) {
            at += length;
            cuts.push(at);
        }
        cuts
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 7_u64;
        let step = |_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        (0..length).map(step).collect()
    }

    #[test]
    fn bytes_put_in_move_the_cuts_behind_them_and_change_few() {
        let old = noise(8 << 20);
        let mut new = old.clone();
        new.splice(1 << 20..1 << 20, *b"seventeen bytes..");
        let (one, other) = (cuts(&old), cuts(&new));
        assert!(one.len() > 60, "{} cuts", one.len());
        let moved: Vec<usize> = one
            .iter()
            .map(|&cut| if cut > 1 << 20 { cut + 17 } else { cut })
            .collect();
        let lost = moved.iter().filter(|cut| !other.contains(cut)).count();
        assert!(lost <= 4, "{lost} of {} cuts are gone", one.len());
    }

    #[test]
    fn pieces_are_neither_short_nor_long_whatever_the_bytes() {
        for bytes in [vec![0; 1 << 20], vec![0xff; 1 << 20], noise(1 << 20)] {
            let mut last = 0;
            for cut in cuts(&bytes) {
                assert!(
                    (SHORTEST..=LONGEST).contains(&(cut - last)),
                    "{last}..{cut}"
                );
                last = cut;
            }
            assert!(bytes.len() - last < LONGEST);
        }
        assert_eq!(first(&[0; SHORTEST - 1]), None);
        assert_eq!(first(b""), None);
    }
}
