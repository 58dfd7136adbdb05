//! Any bytes as the requests of a client of the proxy.

#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: write_seeds(), |bytes: &[u8]| rdvm_proxy::fuzzing::requests(bytes));

fn write_seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/http_requests");
    fs::create_dir_all(&corpus).unwrap();
    for (name, request) in [
        ("get", "GET http://a.example/x?y HTTP/1.1\r\nHost: a.example\r\nConnection: x\r\n\r\n"),
        ("connect", "CONNECT [::1]:443 HTTP/1.1\r\n\r\n"),
        ("length", "POST http://127.1/ HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc"),
        ("chunks", "PUT http://a:81 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nT: u\r\n\r\n"),
    ] {
        fs::write(corpus.join(name), request).unwrap();
    }
}
