//! The key sequence that leaves a machine's terminal.

use std::time::{Duration, Instant};

/// Looks for three Ctrl-] within a second, as machinectl(1) and systemd-nspawn(1) have it.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Escape {
    began: Option<Instant>,
    count: u32,
    seen: bool,
}

/// Ctrl-].
pub(super) const ESCAPE: u8 = 0x1d;
const ESCAPES: u32 = 3;
const ESCAPE_TIME: Duration = Duration::from_secs(1);

impl Escape {
    /// Looks at keys that were typed at `now`.
    pub(super) fn look(&mut self, typed: &[u8], now: Instant) {
        for &byte in typed {
            if byte != ESCAPE {
                self.count = 0;
                continue;
            }
            let fresh = self
                .began
                .is_some_and(|began| now.duration_since(began) <= ESCAPE_TIME);
            if self.count == 0 || !fresh {
                (self.began, self.count) = (Some(now), 0);
            }
            self.count += 1;
            self.seen |= self.count == ESCAPES;
        }
    }

    /// True once the sequence was typed.
    pub(super) fn is_seen(&self) -> bool {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_escapes_within_a_second_leave() {
        let at = Instant::now();
        let seen = |typed: &[(&[u8], u64)]| {
            let mut escape = Escape::default();
            for (bytes, ms) in typed {
                escape.look(bytes, at + Duration::from_millis(*ms));
            }
            escape.seen
        };
        assert!(seen(&[(b"\x1d\x1d\x1d", 0)]));
        assert!(seen(&[(b"a\x1d", 0), (b"\x1d", 500), (b"\x1db", 1000)]));
        assert!(!seen(&[(b"\x1d\x1da\x1d", 0)]));
        assert!(!seen(&[(b"\x1d\x1d", 0), (b"\x1d", 1001)]));
        assert!(seen(&[(b"\x1d\x1d", 0), (b"\x1d\x1d\x1d", 2000)]));
    }
}
