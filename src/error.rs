//! The crate's error: one variant per stage, each wrapping that stage's own.

use crate::{cmdline, engine, image, initrd, kernel, memory};

/// What kept a run from happening. The text is one line: subject, what went wrong, way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// IMAGE → tree.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// Tree → initrd.
    #[error(transparent)]
    Initrd(#[from] initrd::Error),
    /// The RAM plan.
    #[error(transparent)]
    Memory(#[from] memory::TooLittle),
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The kernel command line.
    #[error(transparent)]
    Cmdline(#[from] cmdline::Error),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// Something of the host's that no stage owns.
    #[error("{what}: {source}")]
    Host {
        /// What was being done, and to what.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// What the pipeline gives.
pub type Result<T> = std::result::Result<T, Error>;

/// Bytes of unknown origin, made safe to print on one line of a terminal: printable ASCII and valid UTF-8 letters
/// stay, control characters and stray bytes are escaped.
pub fn escaped(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                // Bidirectional controls and the like would reorder what follows.
                c if c.is_control() || ('\u{200b}'..='\u{206f}').contains(&c) => {
                    out.extend(c.escape_default())
                }
                c => out.push(c),
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_never_reach_a_terminal() {
        assert_eq!(escaped(b"a\x1b[31m\n\xffz"), "a\\u{1b}[31m\\n\\xffz");
        assert_eq!(escaped("grün \u{202e}x".as_bytes()), "grün \\u{202e}x");
    }
}
