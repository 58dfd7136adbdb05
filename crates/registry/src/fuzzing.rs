//! The bodies of the fuzz target: any bytes as what a registry, a redirect or a user may say. Each panics where a promise is
//! broken.

use crate::challenge;
use crate::document::{Document, LAYERS};
use crate::reference::{ImageName, Reference};
use crate::session::{message_of, token_of};
use crate::url::Url;

/// Reads the bytes as a name; what is one is written as it is read.
///
/// # Panics
/// A promise is broken.
pub fn name(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    if let Ok(name) = text.parse::<ImageName>() {
        let full = name.at("registry.example");
        let text = full.to_string();
        assert!(!text.contains("..") && text.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(text.parse::<Reference>(), Ok(full));
    }
}

/// Reads the bytes as a header that asks for a login.
///
/// # Panics
/// A promise is broken.
pub fn challenge(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let found = challenge::parse(&text);
    assert!(found.len() <= text.len());
    assert!(found.iter().all(|it| !it.scheme.is_empty()));
}

/// Reads the bytes as the target of a redirect.
///
/// # Panics
/// A promise is broken.
pub fn location(bytes: &[u8]) {
    let from = Url::new(true, "registry.example:5000", "/v2/a/b".to_owned());
    if let Ok(to) = from.join(&String::from_utf8_lossy(bytes)) {
        let text = to.to_string();
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()) && !to.authority().contains('@'));
        assert_eq!(text.parse(), Ok(to));
    }
}

/// Reads the bytes as a manifest or an index, a token, and an error.
///
/// # Panics
/// A promise is broken.
pub fn answer(bytes: &[u8]) {
    match Document::parse(bytes) {
        Ok(Document::Manifest(manifest)) => assert!(manifest.parts().len() <= LAYERS + 1),
        Ok(Document::Index(..)) => {}
        Err(why) => assert!(!why.contains(char::is_control)),
    }
    if let Some(token) = token_of(bytes) {
        assert!(token.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    assert!(!message_of(bytes).contains(char::is_control));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn random_texts_break_no_promise(
            text in r#"(\{|\}|\[|"|:|,|=|/|//|\\|@|[a-z]|[A-Z ]|[0-9.]|Bearer |realm|http|docker|sha256:|digest|size|config|layers|manifests|token|\PC){0,40}"#
        ) {
            let bytes = text.as_bytes();
            super::name(bytes);
            super::challenge(bytes);
            super::location(bytes);
            super::answer(bytes);
        }

        #[test]
        fn damaged_answers_break_no_promise(at in 0usize..260, byte in any::<u8>()) {
            let part = format!(r#"{{"mediaType":"x","digest":"sha256:{}","size":1}}"#, "0".repeat(64));
            let mut text = format!(r#"{{"config":{part},"layers":[{part}],"errors":[{{"message":"m"}}]}}"#).into_bytes();
            let length = text.len();
            text[at % length] = byte;
            super::answer(&text);
        }
    }

    #[test]
    fn the_fuzz_targets_bear_nothing_and_a_good_start() {
        for bytes in [
            &b""[..],
            b"debian:12",
            b"Bearer realm=\"",
            b"//x/y",
            b"{\"manifests\":[]}",
            b"\xff",
        ] {
            super::name(bytes);
            super::challenge(bytes);
            super::location(bytes);
            super::answer(bytes);
        }
    }
}
