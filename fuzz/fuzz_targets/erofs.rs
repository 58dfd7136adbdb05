//! Any bytes as an EROFS file system. Begins with what mkfs.erofs writes of a small directory, in several forms.

#![no_main]

use std::fs;
use std::path::Path;
use std::process::Command;

use libfuzzer_sys::fuzz_target;
use rdvm_image::erofs::{self, Error};

#[path = "archive.rs"]
mod archive;

fuzz_target!(init: write_seeds(), |bytes: &[u8]| {
    let (counter, budget) = archive::limits();
    let region = archive::region(bytes);
    let mut directories = 0;
    let read = erofs::read(&region, &counter, &budget, &mut |member| {
        archive::check(&member);
        assert!(member.name.len() <= 4095 && !member.name.contains(&0));
        directories += usize::from(member.what == rdvm_image::member::EntryKind::Directory);
        Ok::<(), Error>(())
    });
    // Each directory has an inode of its own.
    assert!(directories <= bytes.len() / 32);
    if let Err(error) = read {
        assert!(!error.to_string().contains(char::is_control));
    }
});

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
    let made = Command::new("bash").args(["-c", script]).arg(corpus).status();
    assert!(made.unwrap().success());
}
