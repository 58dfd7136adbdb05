//! Any bytes as an EROFS file system. Begins with what mkfs.erofs writes of a small directory, in several forms.

#![no_main]

use std::fs;
use std::path::Path;
use std::process::Command;

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: write_seeds(), |bytes: &[u8]| rdvm_image::fuzzing::erofs(bytes));

fn write_seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/erofs");
    fs::create_dir_all(&corpus).unwrap();
    // Without a checksum, which would hide the rest of the super block.
    let script = r#"
        set -e
        dir=$(mktemp -d)
        trap 'rm -rf "$dir"' EXIT
        cd "$dir"
        mkdir -p d/e
        echo hello >d/file
        head -c 5000 /dev/zero | tr '\0' x >d/e/text
        truncate -s 20000 d/holes
        ln d/file d/link
        ln -s file d/symlink
        mkfifo d/fifo
        for file in d/file d/e/text d/holes; do setfattr -n user.a -v same "$file" || true; done
        make() { mkfs.erofs --quiet -Enosbcrc "${@:2}" "$0/$1" d; }
        make inline
        make plain -Enoinline_data
        make compact -Eforce-inode-compact
        make shared -x1
        make chunks --chunksize=4096
        make indexes --chunksize=4096 -Eforce-chunk-indexes
        make lz4 -zlz4
    "#;
    let made = Command::new("bash")
        .args(["-c", script])
        .arg(corpus)
        .status();
    assert!(made.unwrap().success());
}
