//! zstd (RFC 8878): frames one behind the other, some of them to be skipped. The library knows one frame at a time and
//! computes its checksum, which is compared here.

use std::io::{self, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::chunks::Chunks;
use super::input::Input;

/// The largest window that is taken, in bytes: the default of the zstd program, which needs `--long=28` or more for
/// what has a larger one.
const WINDOW: u64 = 128 << 20;

pub(super) fn unpack(
    input: &mut Input<impl Read>,
    chunks: &mut Chunks<'_, '_, '_>,
) -> io::Result<()> {
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(WINDOW);
    // An input without a single frame is not zstd; the first one may not be missing.
    loop {
        match decoder.init(&mut *input) {
            Ok(()) => frame(&mut decoder, input, chunks)?,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => input.skip(length.into())?,
            Err(error) => return Err(io::Error::other(error)),
        }
        // A frame, or one that is to be skipped.
        match input.peek(4)? {
            b"\x28\xb5\x2f\xfd" | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {}
            _ => return Ok(()),
        }
    }
}

fn frame(
    decoder: &mut FrameDecoder,
    input: &mut Input<impl Read>,
    chunks: &mut Chunks<'_, '_, '_>,
) -> io::Result<()> {
    let mut length = 0;
    while !decoder.is_finished() {
        // One block at a time, so that what comes out is copied while it is in the CPU's cache.
        decoder
            .decode_blocks(&mut *input, BlockDecodingStrategy::UptoBlocks(1))
            .map_err(io::Error::other)?;
        length += decoder.collect_to_writer(&mut *chunks)? as u64;
    }
    let promised = decoder.content_size();
    if promised != 0 && promised != length {
        return Err(io::Error::other("a frame has not the length it promises"));
    }
    match decoder.get_checksum_from_data() {
        sum @ Some(_) if sum != decoder.get_calculated_checksum() => {
            Err(io::Error::other("a frame has a wrong checksum"))
        }
        _ => Ok(()),
    }
}
