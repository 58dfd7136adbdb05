//! gzip (RFC 1952): members one behind the other, zeros may follow. The library checks headers, lengths and checksums.

use std::io::{self, Read};

use flate2::{Decompress, FlushDecompress, Status};

use super::chunks::Chunks;
use super::input::Input;
use super::skip_zeros;

/// The largest window there is, as a power of two; others fit into it.
const WINDOW_BITS: u8 = 15;

pub(super) fn unpack(input: &mut Input<impl Read>, chunks: &mut Chunks<'_>) -> io::Result<()> {
    loop {
        member(input, chunks)?;
        match input.fill()? {
            [] => return Ok(()),
            [0x1f, ..] => {}
            _ => return skip_zeros(input),
        }
    }
}

fn member(input: &mut Input<impl Read>, chunks: &mut Chunks<'_>) -> io::Result<()> {
    let mut inflate = Decompress::new_gzip(WINDOW_BITS);
    loop {
        // Room first: at the end of the input the decoder may still hold back bytes.
        let room = chunks.room()?;
        let bytes = input.fill()?;
        let (had, made) = (bytes.len(), room.len());
        let before = inflate.total_in();
        let status = inflate.decompress_vec(bytes, room, FlushDecompress::None)?;
        let used = (inflate.total_in() - before) as usize;
        let stuck = used == 0 && room.len() == made;
        input.consume(used);
        match status {
            Status::StreamEnd => return Ok(()),
            _ if had == 0 && stuck => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if stuck => return Err(io::Error::other("no progress")),
            _ => {}
        }
    }
}
