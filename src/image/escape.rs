//! Names of files as they may be shown.

/// A path for messages: printable text as it is, everything else (control characters, bytes that are not UTF-8,
/// the backslash itself) as an escape, so that a name cannot act on a terminal or break a line.
pub fn escaped(path: &[u8]) -> String {
    let mut shown = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\\' => shown.push_str("\\\\"),
                // `char::escape_debug` knows what is printable, but would also escape quotes.
                '\'' | '"' => shown.push(letter),
                _ => shown.extend(letter.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_never_carry_raw_control_bytes() {
        assert_eq!(
            escaped(b"a b\n\x1b[2J\xff\\\"'"),
            "a b\\n\\u{1b}[2J\\xff\\\\\"'"
        );
        assert_eq!(escaped("é/日本\u{202e}".as_bytes()), "é/日本\\u{202e}");
    }
}
