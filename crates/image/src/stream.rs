//! A stream, compressed or not, → a `ByteSource` in memory: unpacked once, straight into the store's chunks.
//!
//! The input is never trusted: no length in it is allocated for, what comes out is paid from a `Budget`, and a
//! stream that ends early, has a wrong checksum or is followed by other bytes is an error. Only an initrd may go on behind
//! its compressed part (`unpack_part`). Chunks of zeros are not
//! kept. Knows no archive formats; the formats of compression are in the files below `stream/`.

mod chunks;
mod gzip;
mod input;
mod lz4;
mod xz;
mod zstd;

#[cfg(test)]
mod tests;

use rdvm_hostfs::escape::reason;
use std::io::{self, Read};
use std::thread;

use super::byte_source::{ByteSource, Region};
use super::limit::{self, Budget};
use chunks::Chunks;
pub use input::Input;

/// The compression of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, one member or several.
    Gzip,
    /// zstd, one frame or several.
    Zstd,
    /// xz, one stream or several.
    Xz,
    /// lz4's frame format or its older one (`lz4 -l`), one frame or several.
    Lz4,
    /// bzip2, which is known but not unpacked here.
    Bzip2,
}

/// Compression by a stream's first bytes; six are enough.
///
/// Sources: RFC 1952, RFC 8878, the xz file format 1.2.1, lz4's frame format 1.6.4, bzip2's manual.
pub(crate) fn compression(start: &[u8]) -> Compression {
    const MAGICS: [(&[u8], Compression); 6] = [
        (b"\x1f\x8b", Compression::Gzip),
        (b"\x28\xb5\x2f\xfd", Compression::Zstd),
        (b"\xfd7zXZ\0", Compression::Xz),
        (b"\x04\x22\x4d\x18", Compression::Lz4),
        (b"\x02\x21\x4c\x18", Compression::Lz4),
        (b"BZh", Compression::Bzip2),
    ];
    // A zstd stream may begin with a frame that is to be skipped (pzstd, and seekable ones); lz4 shares these numbers.
    if let [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] = start {
        return Compression::Zstd;
    }
    let known = MAGICS.iter().find(|(magic, _)| start.starts_with(magic));
    known.map_or(Compression::None, |&(_, compression)| compression)
}

impl Compression {
    /// Its usual name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Bzip2 => "bzip2",
        }
    }
}

/// Unpacks `input` to its end.
///
/// `shown` is what it is called in messages, escaped. `tap` sees all bytes that come out, in order, in pieces of one
/// chunk, and perhaps on another thread than the caller's.
///
/// # Errors
/// The input cannot be read, ends early, is damaged, is followed by something else (zeros may follow gzip
/// and xz, as for the programs of these names), or comes to more than the budget.
pub(crate) fn unpack(
    input: impl Read,
    compression: Compression,
    shown: &str,
    budget: &Budget,
    tap: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<ByteSource, Error> {
    let mut input = Input::new(input);
    let store = unpack_part(&mut input, compression, shown, budget, tap)?;
    finish(&mut input, compression, shown)?;
    Ok(store)
}

/// Makes sure that nothing follows what was unpacked.
///
/// # Errors
/// Something does, or the input cannot be read.
pub(crate) fn finish(
    input: &mut Input<impl Read>,
    compression: Compression,
    shown: &str,
) -> Result<(), Error> {
    // The programs take zeros behind these two for padding.
    if matches!(compression, Compression::Gzip | Compression::Xz) {
        skip_zeros(input, shown)?;
    }
    match is_over(input, shown)? {
        true => Ok(()),
        false => Err(Error::followed(shown, compression, input.position())),
    }
}

/// Unpacks what comes next: all streams of this compression that stand directly behind one another. The input is then
/// where something else begins, or at its end.
///
/// # Errors
/// As [`unpack`], but for what follows.
pub(crate) fn unpack_part(
    input: &mut Input<impl Read>,
    compression: Compression,
    shown: &str,
    budget: &Budget,
    tap: &mut (dyn FnMut(&[u8]) + Send),
) -> Result<ByteSource, Error> {
    if compression == Compression::Bzip2 {
        let shown = shown.to_owned();
        return Err(Error::Unsupported { shown });
    }
    let (unpacked, store) = thread::scope(|scope| {
        let mut chunks = Chunks::new(scope, shown, budget, tap);
        let unpacked = decode(input, compression, &mut chunks);
        (unpacked, chunks.finish())
    });
    // The libraries wrap what their input or output told them into errors of their own; the first cause counts.
    if let Some(source) = input.take_failure() {
        let shown = shown.to_owned();
        return Err(Error::Read { shown, source });
    }
    let store = store?;
    let Err(what) = unpacked else {
        return Ok(store);
    };
    let (shown, name, at) = (shown.to_owned(), compression.name(), input.position());
    Err(match input.is_at_end() {
        true => Error::Truncated { shown, name, at },
        false => Error::Damaged {
            shown,
            name,
            at,
            what: what.to_string(),
        },
    })
}

fn decode(
    input: &mut Input<impl Read>,
    compression: Compression,
    chunks: &mut Chunks<'_, '_, '_>,
) -> io::Result<()> {
    match compression {
        Compression::None => copy(input, chunks),
        Compression::Gzip => gzip::unpack(input, chunks),
        Compression::Zstd => zstd::unpack(input, chunks),
        Compression::Xz => xz::unpack(input, chunks),
        Compression::Lz4 => lz4::unpack(input, chunks),
        Compression::Bzip2 => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn copy(input: &mut Input<impl Read>, chunks: &mut Chunks<'_, '_, '_>) -> io::Result<()> {
    loop {
        match input.read_directly(chunks.room()?)? {
            0 => return Ok(()),
            count => chunks.advance(count),
        }
    }
}

/// Goes on to the first byte that is not zero, or to the end.
pub(crate) fn skip_zeros(input: &mut Input<impl Read>, shown: &str) -> Result<(), Error> {
    let passed = zeros(input).map(drop);
    passed.map_err(|error| unread(input, error, shown))
}

/// True if the input is at its end.
pub(crate) fn is_over(input: &mut Input<impl Read>, shown: &str) -> Result<bool, Error> {
    let next = input.fill().map(<[u8]>::is_empty);
    next.map_err(|error| unread(input, error, shown))
}

/// Skips the zeros that come next and returns their number.
fn zeros(input: &mut Input<impl Read>) -> io::Result<u64> {
    let from = input.position();
    loop {
        let bytes = input.fill()?;
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        let is_last = bytes.is_empty() || zeros < bytes.len();
        input.consume(zeros);
        if is_last {
            return Ok(input.position() - from);
        }
    }
}

fn unread<R: Read>(input: &mut Input<R>, error: io::Error, shown: &str) -> Error {
    Error::read(shown, input.take_failure().unwrap_or(error))
}

/// A region, read from its start to its end.
#[derive(Debug)]
pub(crate) struct RegionReader {
    region: Region,
    at: u64,
}

impl RegionReader {
    /// Begins at the region's start.
    pub(crate) fn new(region: Region) -> Self {
        Self { region, at: 0 }
    }
}

impl Read for RegionReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.region.length - self.at;
        let count = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        self.region.read_exact(self.at, &mut buffer[..count])?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Error {
    /// For a stream that the host cannot read.
    pub(crate) fn read(shown: &str, source: io::Error) -> Self {
        let shown = shown.to_owned();
        Self::Read { shown, source }
    }

    /// For a stream behind which, at `at`, something begins that does not belong there.
    pub(crate) fn followed(shown: &str, compression: Compression, at: u64) -> Self {
        Self::Damaged {
            shown: shown.to_owned(),
            name: compression.name(),
            at,
            what: "something that is not compressed data follows".to_owned(),
        }
    }
}

/// Why a stream was not unpacked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// The host could not read it.
    #[error(
        "{shown}: cannot be read: {}; try again when the file or pipe is in order",
        reason(source)
    )]
    Read { shown: String, source: io::Error },
    /// It ends before the compressed data does.
    #[error("{shown}: the {name} data is cut off after {at} bytes; get the whole file")]
    Truncated {
        shown: String,
        name: &'static str,
        at: u64,
    },
    /// Not what the format allows, a wrong checksum, or something behind the end.
    #[error("{shown}: the {name} data is damaged near byte {at}: {what}; get the file again")]
    Damaged {
        shown: String,
        name: &'static str,
        at: u64,
        what: String,
    },
    /// Compressed in a way that is known but not undone.
    #[error(
        "{shown}: is compressed by bzip2, which rdvm does not unpack; give the output of bzip2 -dc"
    )]
    Unsupported { shown: String },
    /// The host has no memory for it.
    #[error("{shown}: no memory for what it unpacks to; run where there is more of it")]
    NoMemory { shown: String },
    /// It comes to too much.
    #[error(transparent)]
    Limit(#[from] limit::Error),
}
