//! Any bytes as a cpio archive, or several. Begins with what GNU cpio writes of a small directory.

#![no_main]

use std::fs;
use std::path::Path;
use std::process::Command;

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: write_seeds(), |bytes: &[u8]| rdvm_image::fuzzing::cpio(bytes));

fn write_seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/cpio");
    fs::create_dir_all(&corpus).unwrap();
    let script = r#"
        set -e
        dir=$(mktemp -d)
        trap 'rm -rf "$dir"' EXIT
        cd "$dir"
        mkdir -p d/e
        echo hello >d/file
        ln d/file d/link
        ln -s file d/symlink
        mkfifo d/fifo
        find d | cpio -o -H newc --quiet >"$0/newc"
        find d | cpio -o -H crc --quiet >"$0/crc"
        find d | cpio -o -H odc --quiet >"$0/odc"
        cat "$0/newc" "$0/crc" >"$0/two"
        (cat "$0/newc"; gzip -9n <"$0/crc") >"$0/gzip"
        (cat "$0/newc"; zstd -q <"$0/crc") >"$0/zstd"
        (cat "$0/gzip" "$0/zstd"; head -c 512 /dev/zero; cat "$0/newc") >"$0/mixed"
    "#;
    let made = Command::new("bash")
        .args(["-c", script])
        .arg(corpus)
        .status();
    assert!(made.unwrap().success());
}
