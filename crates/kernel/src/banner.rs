//! The release of an uncompressed kernel, which no header tells: from its banner, "Linux version 6.1.0-9 (...".
//!
//! Takes an open file, reads all of it piece by piece, returns the word.

use std::fs::File;
use std::os::unix::fs::FileExt;

const BANNER: &[u8] = b"Linux version ";
/// `UTS_RELEASE` has at most 64 bytes.
const RELEASE_MAX: usize = 64;
const PIECE: usize = 1 << 20;

/// The release, if there is a banner. A file that cannot be read has none.
pub(super) fn release(file: &File) -> Option<String> {
    // Pieces overlap, so that a banner which begins in the first `PIECE` bytes of one is whole in it.
    let overlap = BANNER.len() + RELEASE_MAX;
    let mut piece = vec![0; PIECE + overlap];
    for index in 0.. {
        let length = fill(file, &mut piece, index * PIECE as u64)?;
        let found = release_in(&piece[..length]);
        if found.is_some() || length <= PIECE {
            return found;
        }
    }
    None
}

/// Reads until `piece` is full or the file ends.
fn fill(file: &File, piece: &mut [u8], offset: u64) -> Option<usize> {
    let mut length = 0;
    while length < piece.len() {
        match file.read_at(&mut piece[length..], offset + length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(length)
}

fn release_in(piece: &[u8]) -> Option<String> {
    let starts = piece.windows(BANNER.len()).take(PIECE).enumerate();
    let starts = starts.filter(|(_, window)| *window == BANNER);
    starts
        .map(|(at, _)| &piece[at + BANNER.len()..])
        .find_map(|rest| {
            let word = rest.iter().take(RELEASE_MAX + 1);
            let word = word.take_while(|byte| byte.is_ascii_graphic());
            let word: String = word.map(|&byte| char::from(byte)).collect();
            // The kernel has formats too: "Linux version %s".
            let is_release = word.starts_with(|first: char| first.is_ascii_digit());
            (is_release && word.len() <= RELEASE_MAX).then_some(word)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn of(bytes: &[u8]) -> Option<String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        release(&file)
    }

    #[test]
    fn the_release_is_the_word_behind_linux_version_wherever_it_stands() {
        let banner = b"Linux version 6.1.9-rdvm (rdvm@rdvm) #1";
        for at in [0, 1, PIECE - 20, PIECE - 1, PIECE, PIECE + 60, 3 * PIECE] {
            let mut bytes = vec![0; at];
            bytes.extend(banner);
            assert_eq!(of(&bytes).as_deref(), Some("6.1.9-rdvm"), "at {at}");
        }
        let both = b"Linux version %s\0Linux version 5.10.0 (x";
        assert_eq!(of(both).as_deref(), Some("5.10.0"));
    }

    #[test]
    fn without_a_banner_there_is_no_release() {
        let endless = [BANNER, &[b'9'; 70]].concat();
        for bytes in [&b""[..], b"Linux version ", b"Linux version %s", &endless] {
            assert_eq!(of(bytes), None);
        }
    }
}
