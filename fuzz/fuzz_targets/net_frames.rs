//! Any bytes as the frames of a guest's network.

#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: write_seeds(), |bytes: &[u8]| rdvm_proxy::fuzzing::frames(bytes));

fn write_seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/net_frames");
    fs::create_dir_all(&corpus).unwrap();
    let open = b"\x02\0\0\0\x01\0\x02\0\0\0";
    let data = b"\x02\0\0\0\x02\0\x02\0ab";
    let credit = b"\x02\0\0\0\x03\0\x04\0\x01\0\0\0";
    let finish = b"\x02\0\0\0\x04\0\0\0";
    let reset = b"\x02\0\0\0\x05\0\0\0";
    fs::write(corpus.join("finished"), [&open[..], data, finish, reset].concat()).unwrap();
    fs::write(corpus.join("reset"), [&open[..], data, credit, reset, data].concat()).unwrap();
}
