//! Any bytes as a compressed stream: all formats, whichever they begin like. What the tap sees is what the store has,
//! and no more than the budget comes out. Begins with what the formats' own programs write.

#![no_main]

use std::fs;
use std::path::Path;
use std::process::Command;

use libfuzzer_sys::fuzz_target;
use rdvm_image::byte_source::CHUNK;
use rdvm_image::stream::{self, Compression};

#[path = "archive.rs"]
#[allow(dead_code)] // the other targets use more of it
mod archive;

fuzz_target!(init: write_seeds(), |bytes: &[u8]| {
    let (_, budget) = archive::limits();
    let compression = stream::compression(bytes);
    if compression == Compression::None {
        return;
    }
    let mut seen = 0;
    let unpacked = stream::unpack(bytes, compression, "fuzz", &budget, &mut |piece| {
        assert!(piece.len() <= CHUNK);
        seen += piece.len() as u64;
    });
    assert!(seen <= 64 << 20);
    match unpacked {
        Ok(store) => assert_eq!(store.length(), seen),
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
});

fn write_seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/unpack");
    fs::create_dir_all(&corpus).unwrap();
    let script = r#"
        set -e
        text() { seq 2000; head -c 3000 /dev/zero; }
        text | gzip -9n >"$0/gzip"
        text | zstd -q >"$0/zstd"
        text | zstd -q -19 --no-check >"$0/zstd-19"
        text | xz >"$0/xz"
        text | xz --x86 --lzma2 --check=sha256 >"$0/xz-x86"
        text | lz4 -q >"$0/lz4"
        text | lz4 -q -BD -B4 -BX >"$0/lz4-linked"
        text | lz4 -q -l >"$0/lz4-old"
        cat "$0/gzip" "$0/gzip" >"$0/gzip-two"
    "#;
    let made = Command::new("bash").args(["-c", script]).arg(corpus).status();
    assert!(made.unwrap().success());
}
