//! Owners of an image's files in the guest: root, the host's own, or a map of number ranges.
//!
//! Takes host numbers, returns guest numbers. Where the host numbers come from, and fakeroot's say in it, is not
//! decided here.

use std::str::FromStr;

use rustix::process::geteuid;

use crate::reference::{OwnerRange, Ownership};

impl Ownership {
    /// The rule that applies to this process: never [`Ownership::Auto`], which root reads as [`Ownership::Keep`].
    ///
    /// A file's owner means something where its owner could choose it: to root. What others have unpacked is theirs.
    pub fn resolved(&self) -> Self {
        match self {
            Self::Auto if geteuid().is_root() => Self::Keep,
            Self::Auto => Self::Root,
            chosen => chosen.clone(),
        }
    }

    /// The guest's number for a host's, for users and groups alike; `None` when a map has no range for it.
    pub(crate) fn in_guest(&self, host: u32) -> Option<u32> {
        match self {
            Self::Auto => self.resolved().in_guest(host),
            Self::Root => Some(0),
            Self::Keep => Some(host),
            Self::Map(ranges) => ranges.iter().find_map(|range| {
                let distance = host.checked_sub(range.host)?;
                (distance < range.count).then(|| range.guest + distance)
            }),
        }
    }
}

/// Why an owner was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ParseError {
    /// Neither a word nor three numbers.
    #[error(
        "{text:?}: not an owner range; write HOST:GUEST:COUNT, as in 100000:0:65536, or root, keep, auto"
    )]
    Shape { text: String },
    /// A range of no numbers, or one that ends above the largest number a user can have.
    #[error(
        "{text:?}: the range leaves 0 to 4294967294; give a COUNT of at least 1 that stays inside"
    )]
    Span { text: String },
    /// Two ranges that claim one host number.
    #[error("{text:?}: overlaps an earlier range; let each host number be in one range only")]
    Overlap { text: String },
}

impl FromStr for OwnerRange {
    type Err = ParseError;

    /// `HOST:GUEST:COUNT`, decimal.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let shape = || ParseError::Shape {
            text: text.to_owned(),
        };
        let numbers: Vec<u32> = text
            .split(':')
            .map(number)
            .collect::<Option<_>>()
            .ok_or_else(shape)?;
        let &[host, guest, count] = &numbers[..] else {
            return Err(shape());
        };
        // The largest number means "nobody set" to the kernel and owns nothing.
        let fits = |first: u32| first.checked_add(count).is_some();
        if count == 0 || !fits(host) || !fits(guest) {
            return Err(ParseError::Span {
                text: text.to_owned(),
            });
        }
        Ok(Self { host, guest, count })
    }
}

/// Digits only: `u32::from_str` would also take a sign.
fn number(text: &str) -> Option<u32> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

impl FromStr for Ownership {
    type Err = ParseError;

    /// `auto`, `root`, `keep`, or ranges `HOST:GUEST:COUNT` with commas between them.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text {
            "auto" => return Ok(Self::Auto),
            "root" => return Ok(Self::Root),
            "keep" => return Ok(Self::Keep),
            _ => {}
        }
        parse_map(text).map(Self::Map)
    }
}

/// Ranges `HOST:GUEST:COUNT` with commas between them.
///
/// # Errors
/// A bad range, or two that claim one host number.
pub(crate) fn parse_map(text: &str) -> Result<Vec<OwnerRange>, ParseError> {
    let mut ranges: Vec<OwnerRange> = Vec::new();
    for part in text.split(',') {
        let range: OwnerRange = part.parse()?;
        let meets = |other: &OwnerRange| {
            range.host < other.host + other.count && other.host < range.host + range.count
        };
        if ranges.iter().any(meets) {
            return Err(ParseError::Overlap {
                text: part.to_owned(),
            });
        }
        ranges.push(range);
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_moves_its_ranges_and_knows_no_other_numbers() {
        let owner: Ownership = "100000:0:65536,1000:1000:1".parse().unwrap();
        for (host, guest) in [
            (100_000, Some(0)),
            (165_535, Some(65_535)),
            (165_536, None),
            (99_999, None),
            (1000, Some(1000)),
            (1001, None),
            (0, None),
        ] {
            assert_eq!(owner.in_guest(host), guest, "{host}");
        }
        assert_eq!(Ownership::Root.in_guest(1000), Some(0));
        assert_eq!(Ownership::Keep.in_guest(1000), Some(1000));
    }

    #[test]
    fn owners_are_a_word_or_ranges_of_three_numbers() {
        assert_eq!("auto".parse(), Ok(Ownership::Auto));
        assert_eq!("root".parse(), Ok(Ownership::Root));
        assert_eq!("keep".parse(), Ok(Ownership::Keep));
        assert_eq!(
            "0:0:4294967295".parse(),
            Ok(Ownership::Map(vec![OwnerRange {
                host: 0,
                guest: 0,
                count: u32::MAX
            }]))
        );
        for bad in [
            "",
            "Root",
            "1:2",
            "1:2:3:4",
            "1:2:+3",
            "a:0:1",
            "1:2:3,",
            "1:2:4294967296",
            "1: 2:3",
        ] {
            assert!(
                matches!(bad.parse::<Ownership>(), Err(ParseError::Shape { .. })),
                "{bad:?}"
            );
        }
        for bad in ["1:2:0", "1:0:4294967295", "0:1:4294967295"] {
            assert!(
                matches!(bad.parse::<Ownership>(), Err(ParseError::Span { .. })),
                "{bad:?}"
            );
        }
        assert!(matches!(
            "0:0:10,9:100:1".parse::<Ownership>(),
            Err(ParseError::Overlap { .. })
        ));
        assert!("0:0:10,10:100:1".parse::<Ownership>().is_ok());
    }
}
