//! Small made-up kernels for the tests of this folder: right in every field, so that a test can spoil one.

use std::io::Write;

use lzma_rust2::{CheckType, FilterType, LzmaOptions, LzmaWriter, XzOptions, XzWriter};

use super::unpack::Compression;

/// Writes a little-endian number of `width` bytes.
pub fn put(bytes: &mut [u8], at: usize, width: usize, value: u64) {
    bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
}

/// Where the program header with this index begins.
pub fn program_header(index: usize) -> usize {
    64 + index * 56
}

/// Where the PVH note of `vmlinux()` begins.
pub const NOTE: usize = 0x1100;
/// The load address of `vmlinux()`.
pub const CODE: u64 = 0x100_0000;

/// An ELF file with a code, a data and a note segment; its PVH entry is `CODE + 0x10`.
pub fn vmlinux() -> Vec<u8> {
    let mut elf = vec![0; 0x1400];
    elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    for (at, width, value) in [
        (16, 2, 2),
        (18, 2, 0x3e),
        (20, 4, 1),
        (24, 8, CODE),
        (32, 8, 64),
        (52, 2, 64),
        (54, 2, 56),
        (56, 2, 3),
    ] {
        put(&mut elf, at, width, value);
    }
    let high = 0xffff_ffff_8000_0000;
    let segments = [
        [1, 5, 0x1000, high + CODE, CODE, 0x200, 0x200, 0x1000],
        [1, 6, 0x1200, high, CODE + 0x1000, 0x200, 0x3000, 0x1000],
        [4, 0, NOTE as u64, 0, 0, 24, 24, 4],
    ];
    for (index, values) in segments.into_iter().enumerate() {
        let widths = [4, 4, 8, 8, 8, 8, 8, 8];
        let mut at = program_header(index);
        for (value, width) in values.into_iter().zip(widths) {
            put(&mut elf, at, width, value);
            at += width;
        }
    }
    elf[NOTE..NOTE + 24].copy_from_slice(&note(b"Xen\0", 18, &(CODE + 0x10).to_le_bytes()));
    elf
}

/// One note; name and body must be padded already.
pub fn note(name: &[u8; 4], kind: u32, body: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for number in [4, body.len() as u32, kind] {
        note.extend(number.to_le_bytes());
    }
    note.extend(name);
    note.extend(body);
    note
}

/// Where the payload of `bzimage()` begins.
pub const PAYLOAD: usize = 1024 + 0x40;
/// Its `init_size`.
pub const INIT_SIZE: u64 = 64 << 20;

/// A bzImage around a payload, of release `6.1.0-test`.
pub fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0; PAYLOAD];
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x300..0x30f].copy_from_slice(b"6.1.0-test (me)");
    let room = (0x40 + payload.len()).next_multiple_of(16);
    for (at, width, value) in [
        (0x1f1, 1, 1),
        (0x1f4, 4, room as u64 / 16),
        (0x1fe, 2, 0xaa55),
        (0x200, 2, 0x6aeb),
        (0x206, 2, 0x20f),
        (0x20e, 2, 0x100),
        (0x211, 1, 1),
        (0x214, 4, 0x10_0000),
        (0x22c, 4, 0x7fff_ffff),
        (0x230, 4, 0x20_0000),
        (0x236, 2, 0x7f),
        (0x238, 4, 0x7ff),
        (0x248, 4, 0x40),
        (0x24c, 4, payload.len() as u64),
        (0x258, 8, CODE),
        (0x260, 4, INIT_SIZE),
    ] {
        put(&mut image, at, width, value);
    }
    image.extend(payload);
    image.resize(1024 + room, 0);
    image
}

/// `bytes` as the kernel's build packs them, with their size behind.
pub fn pack(compression: Compression, bytes: &[u8]) -> Vec<u8> {
    let size = (bytes.len() as u32).to_le_bytes();
    let mut packed = match compression {
        Compression::None => return bytes.to_vec(),
        Compression::Gzip => {
            let level = flate2::Compression::fast();
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(bytes).unwrap();
            return encoder.finish().unwrap();
        }
        Compression::Lz4 => {
            let mut packed = b"\x02\x21\x4c\x18".to_vec();
            for block in bytes.chunks(8 << 20) {
                let block = lz4_flex::block::compress(block);
                packed.extend((block.len() as u32).to_le_bytes());
                packed.extend(block);
            }
            packed
        }
        Compression::Zstd => {
            ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
        }
        Compression::Xz => xz(bytes),
        Compression::Lzma => lzma(bytes),
        Compression::Bzip2 => b"BZh9 and so on".to_vec(),
        other => panic!("no sample of {other:?}"),
    };
    packed.extend(size);
    packed
}

/// As the kernel's build calls xz: with a CRC32 and the filter for x86 code.
fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut options = XzOptions::with_preset(0);
    options.set_check_sum_type(CheckType::Crc32);
    options.prepend_pre_filter(FilterType::BcjX86, 0);
    let mut writer = XzWriter::new(Vec::new(), options).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// Of unknown size with a mark at the end, as lzma writes what comes through a pipe.
fn lzma(bytes: &[u8]) -> Vec<u8> {
    let options = LzmaOptions::with_preset(0);
    let mut writer = LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}
