//! Amounts of memory and spans of time: parsing, printing, rounding to pages.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// The size of a page on x86-64.
pub const PAGE: u64 = 4096;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// Returns this number of mebibytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// Rounds up to whole pages, saturating.
    pub const fn page_round_up(self) -> Self {
        Self(self.0.saturating_add(PAGE - 1) & !(PAGE - 1))
    }

    /// Rounds up to whole mebibytes, saturating.
    pub const fn mib_round_up(self) -> Self {
        Self(self.0.saturating_add((1 << 20) - 1) & !((1 << 20) - 1))
    }
}

impl fmt::Display for ByteSize {
    /// Prints whole mebibytes from ten on, else KiB or bytes; never rounds a need down.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= 10 << 20 => write!(f, "{} MiB", bytes.div_ceil(1 << 20)),
            bytes if bytes >= 10 << 10 => write!(f, "{} KiB", bytes.div_ceil(1 << 10)),
            bytes => write!(f, "{bytes} B"),
        }
    }
}

/// A size or a span that was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a number with a known suffix.
    #[error("not a size; write a number with b, k, m or g, as in 512m")]
    Size,
    /// Does not fit 64 bits.
    #[error("the size is too large")]
    TooLarge,
    /// Not a duration.
    #[error("not a time; write a number with s, m or h, as in 90s")]
    Span,
}

impl FromStr for ByteSize {
    type Err = ParseError;

    /// Reads Docker's spelling: digits and an optional `b`, `k`, `m` or `g` (any case; `kb`, `KiB` and the like too), binary
    /// multiples, bytes without a suffix.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let split = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (digits, suffix) = text.split_at(split);
        let shift = match suffix.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(ParseError::Size),
        };
        if digits.is_empty() {
            return Err(ParseError::Size);
        }
        let count: u64 = digits.parse().map_err(|_| ParseError::TooLarge)?;
        count
            .checked_mul(1 << shift)
            .map(Self)
            .ok_or(ParseError::TooLarge)
    }
}

/// Parses a time span as `timeout(1)` writes it: `90s`, `10m`, `2h`, `1d`, seconds without a suffix, fractions allowed.
pub fn parse_span(text: &str) -> Result<Duration, ParseError> {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at(split);
    let unit = match suffix {
        "" | "s" => 1.0,
        "ms" => 0.001,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err(ParseError::Span),
    };
    let count: f64 = digits.parse().map_err(|_| ParseError::Span)?;
    // Longer than a Duration can be is as good as the longest.
    let span = Duration::try_from_secs_f64(count * unit).unwrap_or(Duration::MAX);
    match span.is_zero() {
        true => Err(ParseError::Span),
        false => Ok(span),
    }
}

/// The longest span that is counted: a century, which every clock can hold.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Returns the moment `span` after `start`, or a century after it where that is sooner: a user's span may be any number, and
/// the sum of a clock and such a number overflows.
pub fn after(start: Instant, span: Duration) -> Instant {
    start + span.min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_span_there_is_ends_in_a_century_and_others_when_they_are_over() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        assert_eq!(after(now, second) - now, second);
        let nines = "9".repeat(400);
        for text in [
            "10000000000000000000",
            "18446744073709551615s",
            "99999999999d",
            &nines,
        ] {
            let span = parse_span(text).unwrap();
            assert_eq!(after(now, span) - now, LONGEST, "{text}");
        }
        assert_eq!(after(now, Duration::MAX) - now, LONGEST);
    }

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        assert_eq!("512m".parse(), Ok(ByteSize(512 << 20)));
        assert_eq!("2G".parse(), Ok(ByteSize(2 << 30)));
        assert_eq!("4096".parse(), Ok(ByteSize(4096)));
        assert_eq!("1KiB".parse(), Ok(ByteSize(1024)));
        for bad in ["", "m", "12x", "-1", "1.5g", " 1"] {
            assert_eq!(bad.parse::<ByteSize>(), Err(ParseError::Size), "{bad:?}");
        }
        assert_eq!(
            "99999999999g".parse::<ByteSize>(),
            Err(ParseError::TooLarge)
        );
    }

    #[test]
    fn spans_are_read_as_timeout_reads_them() {
        assert_eq!(parse_span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_span("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_span("2h"), Ok(Duration::from_secs(7200)));
        for bad in ["", "s", "0", "-1s", "1w", "1.2.3", "inf", "1e400"] {
            assert_eq!(parse_span(bad), Err(ParseError::Span), "{bad:?}");
        }
    }

    #[test]
    fn a_need_is_never_printed_smaller_than_it_is() {
        assert_eq!(ByteSize((64 << 20) + 1).to_string(), "65 MiB");
        assert_eq!(ByteSize(100).to_string(), "100 B");
        assert_eq!(ByteSize(1).page_round_up(), ByteSize(4096));
    }
}
