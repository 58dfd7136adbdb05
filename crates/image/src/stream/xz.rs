//! xz: streams one behind the other, multiples of four zeros may follow each. The library does the rest.

use std::io::{self, Read};

use super::chunks::Chunks;
use super::input::Input;
use super::zeros;

/// Memory for the decoder in KiB. `xz -9` needs 65 MiB; the dictionary grows with what comes out, whatever the header
/// says.
const MEMORY_KIB: u32 = 256 << 10;

pub(super) fn unpack(
    input: &mut Input<impl Read>,
    chunks: &mut Chunks<'_, '_, '_>,
) -> io::Result<()> {
    loop {
        let mut decoder = lzma_rust2::XzReader::new_mem_limit(&mut *input, false, MEMORY_KIB);
        loop {
            match decoder.read(chunks.room()?)? {
                0 => break,
                count => chunks.advance(count),
            }
        }
        let padding = zeros(input)?;
        if padding % 4 != 0 || !input.peek(6)?.starts_with(b"\xfd7zXZ\0") {
            return Ok(());
        }
    }
}
