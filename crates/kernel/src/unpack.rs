//! The compressed kernel inside a bzImage: which compression, how large it will be, and its bytes.
//!
//! Takes the payload as a slice, returns the bytes of an ELF file that has not been checked yet. Knows nothing of files.

use std::io::Read;

use super::field::{ParseError, ensure, number};

/// The compression of the kernel inside a bzImage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all: an ELF file as it is.
    None,
    /// gzip.
    Gzip,
    /// The old frame format of lz4 (`lz4 -l`).
    Lz4,
    /// zstd.
    Zstd,
    /// xz: LZMA2, mostly behind a filter for x86 code.
    Xz,
    /// The older format of lzma alone, which has no checksum.
    Lzma,
    /// bzip2, which is not unpacked here.
    Bzip2,
    /// lzo, which is not unpacked here.
    Lzo,
    /// Something else.
    Unknown,
}

const MAGICS: [(&[u8], Compression); 8] = [
    (b"\x7fELF", Compression::None),
    (b"\x1f\x8b", Compression::Gzip),
    (b"\x02\x21\x4c\x18", Compression::Lz4),
    (b"\x28\xb5\x2f\xfd", Compression::Zstd),
    (b"\xfd7zXZ\0", Compression::Xz),
    (b"\x5d\0\0", Compression::Lzma),
    (b"BZh", Compression::Bzip2),
    (b"\x89LZO", Compression::Lzo),
];

/// The length of every block but the last in lz4's old format, unpacked.
const LZ4_BLOCK: usize = 8 << 20;

impl Compression {
    /// By the payload's first bytes (six are enough).
    pub(super) fn of(payload: &[u8]) -> Self {
        MAGICS
            .iter()
            .find(|(magic, _)| payload.starts_with(magic))
            .map_or(Self::Unknown, |&(_, compression)| compression)
    }

    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "uncompressed",
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Bzip2 => "bzip2",
            Self::Lzo => "lzo",
            Self::Unknown => "unknown",
        }
    }

    /// True if `unpack` can undo it.
    pub(crate) fn is_supported(self) -> bool {
        !matches!(self, Self::Bzip2 | Self::Lzo | Self::Unknown)
    }
}

/// The size of the unpacked kernel, which the kernel's build leaves in the `last` four bytes of the payload (gzip does
/// so by itself); a payload that is not compressed has its own size, `packed`.
///
/// # Errors
/// When it is nothing, or more than `limit` bytes.
pub(super) fn unpacked_size(
    compression: Compression,
    packed: u64,
    last: &[u8],
    limit: u64,
) -> Result<u64, ParseError> {
    let size = match compression {
        Compression::None => packed,
        _ => number(last, 0, 4, "unpacked size")?,
    };
    let want = format_args!("1 to {limit} (init_size)");
    ensure((1..=limit).contains(&size), "unpacked size", size, want)?;
    Ok(size)
}

/// Unpacks `payload` into exactly the number of bytes that it promises, at most `limit`.
///
/// # Errors
/// A payload that is damaged, ends early, or has more in it than it promises.
pub(super) fn unpack(payload: &[u8], limit: u64) -> Result<Vec<u8>, ParseError> {
    let compression = Compression::of(payload);
    let (packed, last) = payload.split_at(payload.len().saturating_sub(4));
    let size = unpacked_size(compression, payload.len() as u64, last, limit)? as usize;
    let bytes = match compression {
        Compression::None => drain(payload, size),
        // Here the size belongs to the format's own trailer.
        Compression::Gzip => drain(flate2::read::GzDecoder::new(payload), size),
        Compression::Lz4 => unlz4(packed, size),
        Compression::Zstd => unzstd(packed, size),
        Compression::Xz => drain(lzma_rust2::XzReader::new(packed, false), size),
        Compression::Lzma => unlzma(packed, size),
        _ => Err("not unpacked here".into()),
    };
    bytes.map_err(|what| ParseError::Payload {
        compression: compression.name(),
        what,
    })
}

/// Unpacks a module, whose file does not promise a size, into at most `limit` bytes.
///
/// # Errors
/// One that is damaged, too large, packed by other means than those of modules, or no ELF file.
pub(super) fn unpack_module(packed: Vec<u8>, limit: u64) -> Result<Vec<u8>, ParseError> {
    let compression = Compression::of(&packed);
    let bytes = match compression {
        Compression::None => Ok(packed),
        Compression::Gzip => at_most(flate2::read::GzDecoder::new(&packed[..]), limit),
        Compression::Xz => at_most(lzma_rust2::XzReader::new(&packed[..], false), limit),
        Compression::Zstd => ruzstd::decoding::StreamingDecoder::new(&packed[..])
            .map_err(|error| error.to_string())
            .and_then(|decoder| at_most(decoder, limit)),
        _ => Err("not unpacked here".into()),
    };
    let bytes = bytes.and_then(|bytes| match Compression::of(&bytes) {
        Compression::None => Ok(bytes),
        _ => Err("no ELF file".into()),
    });
    bytes.map_err(|what| ParseError::Payload {
        compression: compression.name(),
        what,
    })
}

fn at_most(decoder: impl Read, limit: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut limited = decoder.take(limit + 1);
    let read = limited.read_to_end(&mut bytes);
    match read.map_err(|error| error.to_string())? as u64 > limit {
        true => Err(format!("more than {limit} bytes")),
        false => Ok(bytes),
    }
}

/// Empty, with room for `size` bytes: `size` comes from the file, and a lack of memory is no reason to abort.
fn room(size: usize) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(size)
        .map_err(|_| format!("no memory for {size} bytes"))?;
    Ok(bytes)
}

fn exactly(bytes: Vec<u8>, size: usize) -> Result<Vec<u8>, String> {
    match bytes.len() {
        got if got < size => Err(format!("{got} bytes where {size} are promised")),
        got if got > size => Err(format!("more than the {size} bytes that are promised")),
        _ => Ok(bytes),
    }
}

fn drain(decoder: impl Read, size: usize) -> Result<Vec<u8>, String> {
    let mut bytes = room(size)?;
    let mut limited = decoder.take(size as u64 + 1);
    limited
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    exactly(bytes, size)
}

fn unzstd(packed: &[u8], size: usize) -> Result<Vec<u8>, String> {
    let decoder = ruzstd::decoding::StreamingDecoder::new(packed);
    drain(decoder.map_err(|error| error.to_string())?, size)
}

/// No limit here and for xz: their dictionary grows with what comes out, whatever their headers say of its size.
fn unlzma(packed: &[u8], size: usize) -> Result<Vec<u8>, String> {
    let decoder = lzma_rust2::LzmaReader::new_mem_limit(packed, u32::MAX, None);
    drain(decoder.map_err(|error| error.to_string())?, size)
}

/// Blocks of a 32-bit length and so many bytes, each a block of up to 8 MiB; the magic number may come again between.
fn unlz4(packed: &[u8], size: usize) -> Result<Vec<u8>, String> {
    let mut bytes = room(size)?;
    let mut done = 0;
    let mut rest = packed;
    while !rest.is_empty() {
        let (head, behind) = rest.split_at_checked(4).ok_or("a block length is cut")?;
        rest = behind;
        if Compression::of(head) == Compression::Lz4 {
            continue;
        }
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let (block, behind) = rest.split_at_checked(length).ok_or("a block is cut")?;
        rest = behind;
        // Grown block by block, so that the zeros are still in the CPU's cache when they are overwritten; and never
        // shrunk, or a payload of a million empty blocks would write eight million megabytes of them.
        let end = size.min(done + LZ4_BLOCK);
        bytes.resize(end.max(bytes.len()), 0);
        done += lz4_flex::block::decompress_into(block, &mut bytes[done..end])
            .map_err(|error| error.to_string())?;
    }
    bytes.truncate(done);
    exactly(bytes, size)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lzma_rust2::{CheckType, XzOptions, XzWriter};

    use super::super::samples::pack;
    use super::*;

    const SUPPORTED: [Compression; 6] = [
        Compression::None,
        Compression::Gzip,
        Compression::Lz4,
        Compression::Zstd,
        Compression::Xz,
        Compression::Lzma,
    ];
    const LIMIT: u64 = 64 << 20;

    /// An "ELF file" with both repetition and noise in it.
    fn sample(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut bytes = b"\x7fELF".to_vec();
        while bytes.len() < length {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes.extend_from_slice(&[(state >> 24) as u8; 5]);
        }
        bytes.truncate(length);
        bytes
    }

    #[test]
    fn what_each_compression_packs_comes_out_again() {
        // More than one of lz4's blocks.
        let bytes = sample((8 << 20) + 12345);
        for compression in SUPPORTED {
            let payload = pack(compression, &bytes);
            assert_eq!(Compression::of(&payload), compression);
            assert!(unpack(&payload, LIMIT).unwrap() == bytes, "{compression:?}");
        }
    }

    #[test]
    fn a_second_magic_number_between_lz4_blocks_is_passed_over() {
        let mut payload = pack(Compression::Lz4, &sample(100));
        let again = payload[..payload.len() - 4].to_vec();
        payload.splice(..0, again);
        let end = payload.len();
        payload[end - 4..].copy_from_slice(&200_u32.to_le_bytes());
        let twice = [sample(100), sample(100)].concat();
        assert_eq!(unpack(&payload, LIMIT), Ok(twice));
    }

    #[test]
    fn a_payload_that_promises_more_than_init_size_is_refused_before_anything_is_unpacked() {
        for compression in SUPPORTED {
            let payload = pack(compression, &sample(5000));
            let limit = if compression == Compression::None {
                5000
            } else {
                4999
            };
            assert_eq!(unpack(&payload, limit).is_err(), limit == 4999);
        }
        for compression in &SUPPORTED[1..] {
            let mut bomb = pack(*compression, &sample(5000));
            let end = bomb.len();
            bomb[end - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
            let error = unpack(&bomb, LIMIT).unwrap_err().to_string();
            assert_eq!(
                error,
                "unpacked size is 4294967295, must be 1 to 67108864 (init_size)"
            );
        }
    }

    #[test]
    fn a_payload_with_more_or_less_in_it_than_it_promises_is_refused() {
        for &compression in &SUPPORTED[1..] {
            for promised in [4999_u32, 5001, 1] {
                let mut payload = pack(compression, &sample(5000));
                let end = payload.len();
                payload[end - 4..].copy_from_slice(&promised.to_le_bytes());
                assert!(
                    unpack(&payload, LIMIT).is_err(),
                    "{compression:?} {promised}"
                );
            }
        }
    }

    #[test]
    fn cut_and_damaged_payloads_never_panic_and_never_give_another_size() {
        for compression in SUPPORTED {
            let payload = pack(compression, &sample(3000));
            for length in 0..payload.len() {
                if compression != Compression::None {
                    assert!(unpack(&payload[..length], LIMIT).is_err(), "{length}");
                }
            }
            for at in 0..payload.len() {
                let mut damaged = payload.clone();
                damaged[at] ^= 0x41;
                if let Ok(bytes) = unpack(&damaged, LIMIT) {
                    let last = &damaged[damaged.len() - 4..];
                    let compression = Compression::of(&damaged);
                    let packed = damaged.len() as u64;
                    let size = unpacked_size(compression, packed, last, LIMIT);
                    assert_eq!(size, Ok(bytes.len() as u64));
                }
            }
        }
    }

    #[test]
    fn a_changed_byte_anywhere_in_an_xz_payload_is_noticed() {
        // gzip's header has bytes that mean nothing, and lz4's and lzma's formats have no checksum at all.
        let payload = pack(Compression::Xz, &sample(3000));
        for at in 0..payload.len() {
            let mut damaged = payload.clone();
            damaged[at] ^= 0x41;
            assert!(unpack(&damaged, LIMIT).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_xz_payload_without_a_filter_or_with_another_checksum_is_unpacked_as_well() {
        let bytes = sample(3000);
        for check in [CheckType::None, CheckType::Crc64, CheckType::Sha256] {
            let mut options = XzOptions::with_preset(0);
            options.set_check_sum_type(check);
            let mut writer = XzWriter::new(Vec::new(), options).unwrap();
            writer.write_all(&bytes).unwrap();
            let mut payload = writer.finish().unwrap();
            payload.extend((bytes.len() as u32).to_le_bytes());
            assert!(unpack(&payload, LIMIT).unwrap() == bytes, "{check:?}");
        }
    }

    #[test]
    fn many_empty_lz4_blocks_cost_no_more_than_their_own_bytes() {
        // Each once wrote 8 MiB of zeros: some 10 s of CPU for this payload, which needs some milliseconds.
        let mut payload = b"\x02\x21\x4c\x18".to_vec();
        for _ in 0..40_000 {
            payload.extend([1, 0, 0, 0, 0]);
        }
        let bytes = sample(8 << 20);
        payload.extend(&pack(Compression::Lz4, &bytes)[4..]);
        let cpu = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let before = cpu();
        assert!(unpack(&payload, LIMIT).unwrap() == bytes);
        assert!(cpu().tv_sec - before.tv_sec < 3);
    }

    #[test]
    fn what_is_not_unpacked_here_is_known_by_name() {
        let payload = pack(Compression::Bzip2, b"");
        assert_eq!(Compression::of(&payload), Compression::Bzip2);
        assert!(!Compression::Bzip2.is_supported());
        assert!(unpack(&payload, LIMIT).is_err());
        assert_eq!(Compression::of(b"\x89LZO\0"), Compression::Lzo);
        assert!(!Compression::Lzo.is_supported());
        assert_eq!(Compression::of(b""), Compression::Unknown);
        assert!(!Compression::Unknown.is_supported());
    }
}
