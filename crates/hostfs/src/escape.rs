//! Bytes of unknown origin in a form that can be printed: on one line, without acting on a terminal.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Returns a path for messages: printable text as it is, everything else (control characters, bytes that are not UTF-8,
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

/// Returns [`escaped`] for a path as the user gave it.
pub fn shown(path: &Path) -> String {
    escaped(path.as_os_str().as_bytes())
}

/// Returns the text without the numbers that Rust adds to the system's messages: " (os error 2)".
pub fn without_errno(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part
            .find(')')
            .filter(|end| part[..*end].bytes().all(|byte| byte.is_ascii_digit()));
        match digits {
            Some(end) => plain.push_str(&part[end + 1..]),
            None => plain.extend([" (os error ", part]),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_errors_are_left_out_and_nothing_else() {
        for (text, plain) in [
            ("a: No such file (os error 2); b", "a: No such file; b"),
            ("x (os error 2) (os error 13)", "x"),
            (
                "a file (os error x) and (os error ",
                "a file (os error x) and (os error ",
            ),
        ] {
            assert_eq!(without_errno(text), plain);
        }
    }

    #[test]
    fn messages_never_carry_raw_control_bytes() {
        assert_eq!(
            escaped(b"a b\n\x1b[2J\xff\\\"'"),
            "a b\\n\\u{1b}[2J\\xff\\\\\"'"
        );
        assert_eq!(escaped("é/日本\u{202e}".as_bytes()), "é/日本\\u{202e}");
    }
}
