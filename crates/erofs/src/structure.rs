//! The structure of a file system, everything but the contents of files: whether a file still has it.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::Layout;

/// Bytes that are looked at a time, a multiple of eight.
const PIECE: usize = 64 << 10;
/// The prime of FNV-1a's 64 bits.
const PRIME: u64 = 0x0100_0000_01b3;

/// Length and checksum of a file system's structure, with which its file begins. It is for damage: whoever can write the file can
/// also write one that has the same.
pub type Structure = (u64, u64);

impl Layout {
    /// Returns the structure.
    pub fn structure(&self) -> Structure {
        let pieces = self.meta.chunks(PIECE);
        (self.meta.len() as u64, pieces.fold(0, add))
    }
}

/// Returns true if a file begins with this structure.
pub fn has_structure(file: &File, (length, sum): Structure) -> bool {
    let mut buffer = vec![0; PIECE];
    let (mut at, mut found) = (0, 0);
    while at < length {
        let piece = &mut buffer[..(length - at).min(PIECE as u64) as usize];
        if file.read_exact_at(piece, at).is_err() {
            return false;
        }
        found = add(found, piece);
        at += piece.len() as u64;
    }
    found == sum
}

/// Adds bytes to a checksum, as words: any change of a single one changes it.
fn add(sum: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks();
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    let rest = rest.iter().map(|byte| u64::from(*byte));
    words
        .chain(rest)
        .fold(sum, |sum, word| (sum ^ word).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn every_byte_counts_and_so_does_the_length() {
        let bytes: Vec<u8> = (0..PIECE as u32 + 1003).map(|n| (n % 251) as u8).collect();
        let sum = bytes.chunks(PIECE).fold(0, add);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let structure = (bytes.len() as u64, sum);
        assert!(has_structure(&file, structure));
        for at in [0, 7, PIECE - 1, PIECE, bytes.len() - 1] {
            file.write_all_at(&[bytes[at] ^ 0x40], at as u64).unwrap();
            assert!(!has_structure(&file, structure), "{at}");
            file.write_all_at(&[bytes[at]], at as u64).unwrap();
        }
        assert!(
            !has_structure(&file, (structure.0 + 1, sum)),
            "beyond its end"
        );
        assert!(!has_structure(&file, (structure.0 - 1, sum)));
        assert!(has_structure(&file, structure));
    }
}
