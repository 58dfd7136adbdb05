//! Any bytes as a name of an image, and as what a registry answers: a manifest or an index, a token, an error, a demand for a
//! login, the target of a redirect. The first byte chooses.

#![no_main]

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rdvm_registry::fuzzing;

fuzz_target!(init: write_seeds(), |bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    match first % 4 {
        0 => fuzzing::name(rest),
        1 => fuzzing::challenge(rest),
        2 => fuzzing::location(rest),
        _ => fuzzing::answer(rest),
    }
});

fn write_seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/registry");
    fs::create_dir_all(&corpus).unwrap();
    let digest = format!("sha256:{}", "0".repeat(64));
    let part = format!(r#"{{"mediaType":"x","digest":"{digest}","size":1}}"#);
    for (name, text) in [
        ("name", "\0localhost:5000/a/b__c.d:1".to_owned()),
        ("digest", format!("\0docker://debian:12@{digest}")),
        ("bearer", "\x01Bearer realm=\"https://a/t\",service=\"s\", Basic realm=x".to_owned()),
        ("location", "\x02//cdn.example:8/b?x=1#y".to_owned()),
        ("manifest", format!("\x03{{\"config\":{part},\"layers\":[{part}]}}")),
        ("index", format!("\x03{{\"manifests\":[{part}]}}")),
        ("token", "\x03{\"token\":\"t\"}".to_owned()),
        ("error", "\x03{\"errors\":[{\"message\":\"no\"}]}".to_owned()),
    ] {
        fs::write(corpus.join(name), text).unwrap();
    }
}
