//! xz: streams one behind the other, multiples of four zeros may follow each. The library does all of it.

use std::io::{self, Read};

use super::chunks::Chunks;
use super::input::Input;

/// Memory for the decoder in KiB. `xz -9` needs 65 MiB; the dictionary grows with what comes out, whatever the header
/// says.
const MEMORY_KIB: u32 = 256 << 10;

pub(super) fn unpack(
    input: &mut Input<impl Read>,
    chunks: &mut Chunks<'_, '_, '_>,
) -> io::Result<()> {
    let mut decoder = lzma_rust2::XzReader::new_mem_limit(&mut *input, true, MEMORY_KIB);
    loop {
        match decoder.read(chunks.room()?)? {
            0 => return Ok(()),
            count => chunks.advance(count),
        }
    }
}
