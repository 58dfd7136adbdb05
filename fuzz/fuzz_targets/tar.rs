//! Any bytes as a tar archive. Checksums are put right first, or no damage would get past them; begins with archives
//! that GNU tar writes of a small directory.

#![no_main]

use std::fs;
use std::path::Path;
use std::process::Command;

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: write_seeds(), |bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    put_right(&mut bytes);
    rdvm_image::fuzzing::tar(&bytes);
});

/// Wherever a block could be a header: all blocks, unless they are zero.
fn put_right(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if block.iter().all(|&byte| byte == 0) || !block[148..156].contains(&b' ') {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

fn write_seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/tar");
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
        name=$(printf 'n%.0s' $(seq 120))
        echo long >"d/$name"
        truncate -s 200K sparse
        for at in 0 40 80 120 160; do printf data | dd of=sparse bs=1K seek=$at conv=notrunc status=none; done
        for format in v7 ustar oldgnu gnu posix; do
            tar -b1 --format=$format -cf "$0/$format" d 2>/dev/null || true
        done
        tar -b1 -S --format=gnu -cf "$0/sparse" sparse
        for version in 0.0 0.1 1.0; do
            tar -b1 -S --format=posix --sparse-version=$version -cf "$0/sparse-$version" sparse
        done
        tar -b1 --format=posix --pax-option=mtime=5,comment=x -cf "$0/global" d/file
    "#;
    let made = Command::new("bash")
        .args(["-c", script])
        .arg(corpus)
        .status();
    assert!(made.unwrap().success());
}
