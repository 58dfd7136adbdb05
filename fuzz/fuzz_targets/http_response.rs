//! Any bytes as a server's response to the proxy. The first chooses the method of the request.

#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: write_seeds(), |bytes: &[u8]| rdvm_proxy::fuzzing::response(bytes));

fn write_seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/http_response");
    fs::create_dir_all(&corpus).unwrap();
    for (name, response) in [
        ("length", "\0HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"),
        ("chunks", "\0HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        ("head", "\x01HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n"),
        ("close", "\0HTTP/1.1 200\r\n\r\nabc"),
    ] {
        fs::write(corpus.join(name), response).unwrap();
    }
}
