//! Any bytes as a compressed stream: all formats, whichever they begin like. What the tap sees is what the store has,
//! and no more than the budget comes out. Begins with what the formats' own programs write.

#![no_main]

use std::fs;
use std::path::Path;
use std::process::Command;

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: write_seeds(), |bytes: &[u8]| rdvm_image::fuzzing::unpack(bytes));

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
    let made = Command::new("bash")
        .args(["-c", script])
        .arg(corpus)
        .status();
    assert!(made.unwrap().success());
}
