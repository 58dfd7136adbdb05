//! Streams made by the programs people use, and what becomes of damaged and hostile ones.

use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::*;
use crate::byte_source::CHUNK;
use crate::reference::Limits;
use rdvm_hostfs::units::ByteSize;

fn budget(bytes: u64) -> Budget {
    Budget::new(&Limits {
        unpacked: Some(ByteSize(bytes)),
        ..Limits::default()
    })
}

fn unpack_all(packed: &[u8], compression: Compression) -> Result<Vec<u8>, Error> {
    let mut seen = Vec::new();
    let budget = budget(1 << 30);
    let store = unpack(packed, compression, "x", &budget, &mut |bytes| {
        seen.extend_from_slice(bytes);
    })?;
    assert_eq!(store.length(), seen.len() as u64);
    assert_eq!(budget.spent(), store.length());
    let mut bytes = vec![9; seen.len()];
    store.read_exact(0, &mut bytes).unwrap();
    assert!(bytes == seen, "the tap saw something else");
    Ok(bytes)
}

/// The output of a program for its standard input; nothing if it is missing.
fn pipe(command: &str, input: &[u8]) -> Option<Vec<u8>> {
    let mut words = command.split(' ');
    let program = words.next().unwrap();
    let child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match child {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            crate::skips::missing(program);
            return None;
        }
        child => child.unwrap(),
    };
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{command}");
    Some(output.stdout)
}

/// Repetition and noise.
fn sample(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let count = 1 + (state >> 16) as usize % 7;
        bytes.extend_from_slice(&[(state >> 24) as u8; 8][..count]);
    }
    bytes.truncate(length);
    bytes
}

const PACKERS: [(&str, Compression); 17] = [
    ("cat", Compression::None),
    ("gzip -1", Compression::Gzip),
    ("gzip -9n", Compression::Gzip),
    ("zstd -q -1", Compression::Zstd),
    ("zstd -q -19 --no-check", Compression::Zstd),
    ("zstd -q --ultra -22 --long=27", Compression::Zstd),
    ("xz -0", Compression::Xz),
    ("xz -9 --check=sha256", Compression::Xz),
    ("xz --check=none --block-size=100000", Compression::Xz),
    ("xz --check=crc32 --x86 --lzma2", Compression::Xz),
    ("lz4 -1", Compression::Lz4),
    ("lz4 -9 -BD", Compression::Lz4),
    ("lz4 -q -BD -B4 -BX --no-frame-crc", Compression::Lz4),
    ("lz4 -q -B5 --content-size", Compression::Lz4),
    ("lz4 --fast=9 -BX", Compression::Lz4),
    ("lz4 -l", Compression::Lz4),
    ("lz4 -l -9", Compression::Lz4),
];

#[test]
fn what_programs_pack_comes_out_again() {
    // More than one of all formats' blocks; that takes long where packing is thorough.
    let long = 9 * CHUNK + 12345;
    for length in [0, 1, 1000, CHUNK, long] {
        let bytes = sample(length);
        for (command, expected) in PACKERS {
            let thorough = ["-9", "-19", "-22", "--x86"];
            if length == long && thorough.iter().any(|option| command.contains(option)) {
                continue;
            }
            let Some(packed) = pipe(command, &bytes) else {
                continue;
            };
            // An empty stream in the old format of lz4 is four bytes.
            assert_eq!(
                compression(&packed),
                expected,
                "{command} of {length} bytes"
            );
            let unpacked = unpack_all(&packed, expected);
            let unpacked = unpacked.unwrap_or_else(|error| panic!("{command}, {length}: {error}"));
            assert!(unpacked == bytes, "{command} of {length} bytes");
        }
    }
}

#[test]
fn streams_behind_one_another_are_one() {
    let (first, second) = (sample(100_000), sample(70_000));
    for (command, expected) in PACKERS {
        let Some(mut packed) = pipe(command, &first) else {
            continue;
        };
        packed.extend(pipe(command, &second).unwrap());
        packed.extend(pipe(command, b"").unwrap());
        packed.extend(pipe(command, b"end").unwrap());
        let unpacked = unpack_all(&packed, expected).unwrap();
        assert!(
            unpacked == [&first[..], &second, b"end"].concat(),
            "{command}"
        );
    }
}

#[test]
fn frames_that_are_to_be_skipped_are() {
    let skipped =
        |number: u8| [&[0x50 | number, 0x2a, 0x4d, 0x18, 3, 0, 0, 0], &b"abc"[..]].concat();
    for (command, format) in [("zstd -q", Compression::Zstd), ("lz4 -q", Compression::Lz4)] {
        let Some(packed) = pipe(command, b"hello") else {
            continue;
        };
        let mixed = [packed.clone(), skipped(3), packed, skipped(15)].concat();
        assert_eq!(unpack_all(&mixed, format).unwrap(), b"hellohello");
        for cut in mixed.len() - 10..mixed.len() {
            assert!(unpack_all(&mixed[..cut], format).is_err(), "{cut}");
        }
    }
    let first = skipped(0);
    assert_eq!(compression(&first), Compression::Zstd);
    assert_eq!(unpack_all(&first, Compression::Zstd).unwrap(), b"");
}

#[test]
fn a_stream_that_is_cut_anywhere_is_refused() {
    let bytes = sample(3000);
    for (command, format) in &PACKERS[1..] {
        let Some(packed) = pipe(command, &bytes) else {
            continue;
        };
        // The old format of lz4 has no end: cut behind its magic number, it is an empty stream.
        let is_old = command.starts_with("lz4 -l");
        for cut in (0..packed.len()).filter(|cut| !(is_old && *cut == 4)) {
            let error = unpack_all(&packed[..cut], *format).expect_err(command);
            assert!(
                matches!(error, Error::Truncated { at, .. } if at <= cut as u64),
                "{command}, {cut}: {error}"
            );
        }
    }
}

#[test]
fn damage_is_noticed_where_there_is_a_checksum_and_never_panics() {
    let bytes = sample(3000);
    for (command, format) in &PACKERS[1..] {
        let Some(packed) = pipe(command, &bytes) else {
            continue;
        };
        let has_sum = !["--no-check", "--check=none", "-l", "--no-frame-crc"]
            .iter()
            .any(|option| command.contains(option));
        for at in 0..packed.len() {
            for flip in [0x01, 0xc0] {
                let mut damaged = packed.clone();
                damaged[at] ^= flip;
                if let Ok(unpacked) = unpack_all(&damaged, *format) {
                    assert!(!has_sum || unpacked == bytes, "{command}, {at}");
                }
            }
        }
    }
}

#[test]
fn only_zeros_may_follow_and_only_where_the_format_has_them() {
    for (command, format, zeros) in [
        ("gzip", Compression::Gzip, true),
        ("xz", Compression::Xz, true),
        ("zstd -q", Compression::Zstd, false),
        ("lz4 -q", Compression::Lz4, false),
    ] {
        let Some(packed) = pipe(command, b"hello") else {
            continue;
        };
        for (tail, good) in [
            (&[0; 4096][..], zeros),
            (b"x", false),
            (b"\0\0\0\0\0\0\0\0x", false),
            (b"hello, this is something else", false),
            (b"\x1f\x8bxxxxxxxxxxxxx", false),
        ] {
            let unpacked = unpack_all(&[&packed[..], tail].concat(), format);
            assert_eq!(unpacked.is_ok(), good, "{command} {tail:?}");
        }
    }
}

/// A gzip stream of so many mebibytes of zeros, 64 in a member.
fn zeros(mebibytes: usize) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    for _ in 0..64 {
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
    }
    encoder.finish().unwrap().repeat(mebibytes / 64)
}

#[test]
fn a_bomb_of_zeros_keeps_no_chunk_and_ends_at_the_limit() {
    let bomb = zeros(1024);
    assert!(bomb.len() < 2 << 20);
    let plenty = budget(1 << 30);
    let store = unpack(&bomb[..], Compression::Gzip, "x", &plenty, &mut |_| {}).unwrap();
    assert_eq!(store.length(), 1 << 30);
    assert!(!format!("{store:?}").contains("Some"), "chunks were kept");

    let mut seen = 0;
    let little = budget(100 << 20);
    let error = unpack(
        &bomb[..],
        Compression::Gzip,
        "x.gz",
        &little,
        &mut |bytes| {
            seen += bytes.len();
        },
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "x.gz: comes to more than 100 MiB unpacked"
    );
    assert_eq!(seen, 100 << 20);
    // What was spent is spent for all that share the budget.
    assert!(unpack(&b"x"[..], Compression::None, "y", &little, &mut |_| {}).is_err());
}

#[test]
fn chunks_with_a_byte_in_them_are_kept_others_not() {
    let mut bytes = vec![0; 5 * CHUNK];
    bytes[2 * CHUNK - 1] = 1;
    bytes[3 * CHUNK] = 1;
    let store = unpack(
        &bytes[..],
        Compression::None,
        "x",
        &budget(1 << 30),
        &mut |_| {},
    )
    .unwrap();
    assert_eq!(format!("{store:?}").matches("Some").count(), 2);
    assert!(unpack_all(&bytes, Compression::None).unwrap() == bytes);
}

#[test]
fn nothing_is_allocated_for_what_a_header_promises() {
    // A window of 2 GiB; 128 MiB are what zstd takes without --long=31.
    let wide = b"\x28\xb5\x2f\xfd\x00\xa8\x01\0\0";
    let error = unpack_all(wide, Compression::Zstd).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    // A frame of 2^63 bytes with one empty block.
    let long = b"\x28\xb5\x2f\xfd\xc0\x00\0\0\0\0\0\0\0\x80\x01\0\0";
    assert!(unpack_all(long, Compression::Zstd).is_err());
    // Blocks of nearly 2 GiB.
    let header = b"\x04\x22\x4d\x18\x60\x40\x82";
    let block = [&header[..], b"\xff\xff\xff\x7f"].concat();
    let error = unpack_all(&block, Compression::Lz4).unwrap_err();
    assert!(
        error.to_string().contains("longer than its frame"),
        "{error}"
    );
    let old = b"\x02\x21\x4c\x18\xff\xff\xff\x7f";
    assert!(unpack_all(old, Compression::Lz4).is_err());
    // A dictionary of 4 GiB.
    let Some(packed) = pipe("xz --lzma2=dict=1536MiB", b"hello") else {
        return;
    };
    let error = unpack_all(&packed, Compression::Xz).unwrap_err();
    assert!(error.to_string().contains("too big"), "{error}");
}

/// A byte at a time, with an interruption before each, and an error at the end if there is one.
struct Drip<'a>(&'a [u8], bool, Option<i32>);

impl Read for Drip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        match (self.1, self.0) {
            (true, _) => Err(io::ErrorKind::Interrupted.into()),
            (_, [first, rest @ ..]) => {
                buffer[0] = *first;
                self.0 = rest;
                Ok(1)
            }
            _ => self
                .2
                .map_or(Ok(0), |number| Err(io::Error::from_raw_os_error(number))),
        }
    }
}

#[test]
fn input_in_drops_is_put_together_and_its_errors_are_told() {
    let bytes = sample(5000);
    for (command, format) in PACKERS {
        let Some(packed) = pipe(command, &bytes) else {
            continue;
        };
        let whole = Drip(&packed, false, None);
        let store = unpack(whole, format, "x", &budget(1 << 20), &mut |_| {}).unwrap();
        let mut unpacked = vec![0; 5000];
        store.read_exact(0, &mut unpacked).unwrap();
        assert!(unpacked == bytes, "{command}");

        let broken = Drip(&packed[..packed.len() / 2], false, Some(5));
        let error = unpack(broken, format, "x", &budget(1 << 20), &mut |_| {}).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("x: cannot be read: Input/output error"),
            "{command}: {error}"
        );
    }
}

#[test]
fn bzip2_is_known_and_what_to_do_is_said() {
    let error = unpack_all(b"BZh91AY", compression(b"BZh91AY")).unwrap_err();
    assert!(error.to_string().ends_with("give the output of bzip2 -dc"));
}

#[test]
fn a_region_is_read_to_its_end() {
    let bytes = sample(3 * CHUNK);
    let store = unpack(
        &bytes[..],
        Compression::None,
        "x",
        &budget(1 << 30),
        &mut |_| {},
    )
    .unwrap();
    let region = Region {
        store: Arc::new(store),
        offset: 1000,
        length: 2 * CHUNK as u64 + 7,
    };
    let mut read = Vec::new();
    RegionReader::new(region).read_to_end(&mut read).unwrap();
    assert!(read == bytes[1000..1007 + 2 * CHUNK]);
}
