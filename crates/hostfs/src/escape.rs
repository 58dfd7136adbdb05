//! Bytes of unknown origin in a form that can be printed: on one line, without acting on a terminal.

use std::io;
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

/// Returns the system's words for an error, without the number that [`io::Error`] prints behind them.
pub fn reason(error: &io::Error) -> String {
    let mut text = error.to_string();
    if let Some(errno) = error.raw_os_error() {
        let number = format!(" (os error {errno})");
        text.truncate(text.strip_suffix(&number).unwrap_or(&text).len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_words_and_no_number() {
        let reason = |errno| reason(&io::Error::from_raw_os_error(errno));
        assert_eq!(reason(2), "No such file or directory");
        assert_eq!(
            super::reason(&io::Error::other("(os error 2)")),
            "(os error 2)"
        );
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
