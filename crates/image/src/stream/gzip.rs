//! gzip (RFC 1952): members one behind the other. The library checks headers, lengths and checksums.

use std::io::{self, Read};

use flate2::{Decompress, FlushDecompress, Status};

use super::chunks::Chunks;
use super::input::Input;

/// The largest window there is, as a power of two; others fit into it.
const WINDOW_BITS: u8 = 15;

pub(super) fn unpack(
    input: &mut Input<impl Read>,
    chunks: &mut Chunks<'_, '_, '_>,
) -> io::Result<()> {
    loop {
        member(input, chunks)?;
        if !input.peek(2)?.starts_with(b"\x1f\x8b") {
            return Ok(());
        }
    }
}

fn member(input: &mut Input<impl Read>, chunks: &mut Chunks<'_, '_, '_>) -> io::Result<()> {
    let mut inflate = Decompress::new_gzip(WINDOW_BITS);
    loop {
        // Also at the end of the input: the decoder may hold back bytes.
        let room = chunks.room()?;
        let bytes = input.fill()?;
        let is_end = bytes.is_empty();
        let before = (inflate.total_in(), inflate.total_out());
        let status = inflate.decompress(bytes, room, FlushDecompress::None)?;
        let used = (inflate.total_in() - before.0) as usize;
        let made = (inflate.total_out() - before.1) as usize;
        let stuck = used == 0 && made == 0;
        chunks.advance(made);
        input.consume(used);
        match status {
            Status::StreamEnd => return Ok(()),
            _ if stuck && is_end => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if stuck => return Err(io::Error::other("no progress")),
            _ => {}
        }
    }
}
