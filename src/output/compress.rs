//! A stream of bytes, compressed on threads of its own while the bytes are still being made.
//!
//! The same bytes for the same input, however many threads there are and however the input is cut into writes. Knows
//! nothing of what the bytes mean.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::{Error, gzip};

/// The compression of an archive, or of an image's layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// gzip, cut so that rsync finds what did not change.
    Gzip,
    /// zstd, one frame.
    Zstd,
    /// lz4, one frame.
    Lz4,
    /// lz4 in its old format, the one that kernels unpack an initrd from.
    Lz4Legacy,
}

/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;
/// Blocks on their way from thread to thread.
const QUEUE: usize = 8;
/// More would wait for the bytes.
const THREADS: usize = 8;
/// The old lz4 format: its magic number, and the length of its blocks, which is fixed.
const LEGACY_MAGIC: u32 = 0x184c_2102;
const LEGACY_BLOCK: usize = 8 << 20;

/// Has `fill` write to a stream, and writes what it compresses to to `out`, meanwhile.
///
/// # Errors
/// First those of `out`, then those of `fill`.
pub(super) fn through<T>(
    compression: Compression,
    out: &mut (dyn Write + Send),
    fill: impl FnOnce(&mut dyn Write) -> Result<T, Error>,
) -> Result<T, Error> {
    thread::scope(|scope| {
        let (sender, blocks) = sync_channel(QUEUE);
        let consumer = scope.spawn(move || consume(compression, &blocks, out));
        let filled = fill(&mut Blocks(sender));
        let written = match consumer.join() {
            Ok(written) => written,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        written.map_err(|source| Error::Write { source })?;
        filled
    })
}

/// The writing end: each write becomes a block.
struct Blocks(SyncSender<Vec<u8>>);

impl Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The thread that takes the blocks has failed, and its error is the one that is reported.
        let sent = self.0.send(bytes.to_vec());
        sent.map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The reading end, until the writing one is gone.
fn consume(
    compression: Compression,
    blocks: &Receiver<Vec<u8>>,
    mut out: &mut (dyn Write + Send),
) -> io::Result<()> {
    let mut blocks = blocks.iter();
    match compression {
        Compression::None => blocks.try_for_each(|block| out.write_all(&block))?,
        Compression::Gzip => {
            let threads = thread::available_parallelism().map_or(1, usize::from);
            gzip::compress(blocks, &mut out, threads.min(THREADS))?;
        }
        Compression::Zstd => {
            let mut encoder = zstd::stream::write::Encoder::new(&mut out, ZSTD_LEVEL)?;
            encoder.include_checksum(true)?;
            blocks.try_for_each(|block| encoder.write_all(&block))?;
            encoder.finish()?;
        }
        Compression::Lz4 => {
            let info = lz4_flex::frame::FrameInfo::new()
                .block_size(lz4_flex::frame::BlockSize::Max1MB)
                .content_checksum(true);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, &mut out);
            blocks.try_for_each(|block| encoder.write_all(&block))?;
            encoder.finish().map_err(io::Error::other)?;
        }
        Compression::Lz4Legacy => legacy(blocks, &mut out)?,
    }
    out.flush()
}

/// lz4's old format: the magic number, then blocks with their compressed length before them.
fn legacy(blocks: impl Iterator<Item = Vec<u8>>, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&LEGACY_MAGIC.to_le_bytes())?;
    let mut write = |bytes: &[u8]| {
        let packed = lz4_flex::block::compress(bytes);
        out.write_all(&(packed.len() as u32).to_le_bytes())?;
        out.write_all(&packed)
    };
    let mut pending: Vec<u8> = Vec::new();
    for block in blocks {
        pending.extend_from_slice(&block);
        if pending.len() >= LEGACY_BLOCK {
            let rest = pending.split_off(LEGACY_BLOCK);
            write(&pending)?;
            pending = rest;
        }
    }
    for piece in pending.chunks(LEGACY_BLOCK) {
        write(piece)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn packed(compression: Compression, bytes: &[u8], write: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let fill = |stream: &mut dyn Write| {
            for piece in bytes.chunks(write) {
                stream.write_all(piece).unwrap();
            }
            Ok(())
        };
        through(compression, &mut out, fill).unwrap();
        out
    }

    #[test]
    fn the_tools_of_the_formats_unpack_it_and_writes_do_not_show() {
        let mut bytes = Vec::new();
        for number in 0..2_000_000_u32 {
            bytes.extend_from_slice(&(number / 3).wrapping_mul(0x9e37).to_be_bytes());
        }
        bytes.resize(9 << 20, 0);
        bytes.extend_from_slice(b"the end");
        for (compression, tool) in [
            (Compression::None, "cat"),
            (Compression::Gzip, "gzip"),
            (Compression::Zstd, "zstd"),
            (Compression::Lz4, "lz4"),
            (Compression::Lz4Legacy, "lz4"),
        ] {
            let one = packed(compression, &bytes, 256 << 10);
            assert!(
                one == packed(compression, &bytes, 100_001),
                "{compression:?}"
            );
            let arguments: &[&str] = if tool == "cat" { &["-"] } else { &["-dc"] };
            let child = Command::new(tool)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn();
            let Ok(mut child) = child else {
                crate::skips::missing(tool);
                continue;
            };
            let mut stdin = child.stdin.take().unwrap();
            let feeder = thread::spawn(move || stdin.write_all(&one));
            let output = child.wait_with_output().unwrap();
            feeder.join().unwrap().unwrap();
            assert!(output.status.success(), "{tool}");
            assert!(output.stdout == bytes, "{compression:?}");
        }
    }

    #[test]
    fn what_went_wrong_with_the_output_is_what_is_told() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for compression in [
            Compression::None,
            Compression::Gzip,
            Compression::Zstd,
            Compression::Lz4,
        ] {
            let error = through(compression, &mut Full, |stream| {
                loop {
                    let written = stream.write_all(&[1; 1 << 20]);
                    written.map_err(|source| Error::Write { source })?;
                }
            });
            match error {
                Err::<(), _>(Error::Write { source }) => {
                    assert_eq!(source.kind(), io::ErrorKind::StorageFull, "{compression:?}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
