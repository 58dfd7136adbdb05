//! Bounds on what archives unpack to: bytes and members. Threads may share both.
//!
//! An archive of some kilobytes can unpack to terabytes, or have millions of empty members. Knows no formats.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::Remedy;
use super::tree::NAME_LIMIT;
use crate::reference::Limits;
use rdvm_hostfs::escape::escaped;
use rdvm_hostfs::hostmem::Memory;
use rdvm_hostfs::progress::Progress;
use rdvm_hostfs::units::ByteSize;

/// The bytes that may still be unpacked.
#[derive(Debug)]
pub(crate) struct Budget {
    given: Option<u64>,
    /// Found out when the first byte is unpacked.
    own: OnceLock<u64>,
    spent: AtomicU64,
    /// The counter of bytes that are read.
    pub progress: Progress,
}

impl Budget {
    /// [`Limits::unpacked`], or half of the memory that this process can have.
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            given: limits.unpacked.map(|ByteSize(bytes)| bytes),
            own: OnceLock::new(),
            spent: AtomicU64::new(0),
            progress: Progress::default(),
        }
    }

    fn limit(&self) -> u64 {
        match self.given {
            Some(bytes) => bytes,
            None => *self.own.get_or_init(|| memory(&Memory::gather()) / 2),
        }
    }

    /// Takes so many bytes, unpacked from the archive `shown`.
    ///
    /// # Errors
    /// There are not as many left.
    pub(crate) fn spend(&self, bytes: u64, shown: &str) -> Result<(), Error> {
        match add(&self.spent, bytes) <= self.limit() {
            true => Ok(()),
            false => Err(Error::Bytes {
                shown: shown.to_owned(),
                limit: ByteSize(self.limit()),
            }),
        }
    }

    /// Returns the bytes taken so far.
    #[cfg(test)]
    pub(crate) fn spent(&self) -> u64 {
        self.spent.load(Ordering::Relaxed)
    }
}

/// The members that there may still be.
#[derive(Debug)]
pub(crate) struct Counter {
    limit: u64,
    counted: AtomicU64,
}

impl Counter {
    /// Returns a count of none, with the limit of [`Limits::entries`].
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            limit: limits.entries,
            counted: AtomicU64::new(0),
        }
    }

    /// Counts the member `name` of the archive `shown`.
    ///
    /// # Errors
    /// It is one too many.
    pub(crate) fn count(&self, name: &[u8], shown: &str) -> Result<(), Error> {
        match add(&self.counted, 1) <= self.limit {
            true => Ok(()),
            false => Err(Error::Members {
                shown: shown.to_owned(),
                limit: self.limit,
                name: shortened(name),
            }),
        }
    }
}

/// Returns an archive's name for something, for messages: escaped, and no more than the length of a file's name of it, since
/// archives have names of megabytes.
pub(super) fn shortened(name: &[u8]) -> String {
    match name.split_at_checked(NAME_LIMIT) {
        Some((start, [_, ..])) => escaped(start) + "...",
        _ => escaped(name),
    }
}

/// The sum, which stays at the top once it is there.
fn add(sum: &AtomicU64, count: u64) -> u64 {
    let before = sum.fetch_add(count, Ordering::Relaxed);
    before.checked_add(count).unwrap_or_else(|| {
        sum.store(u64::MAX, Ordering::Relaxed);
        u64::MAX
    })
}

/// The RAM that we can have in bytes: the host's, or less where a control group allows less.
fn memory(memory: &Memory) -> u64 {
    if let Some(ram) = memory.most_ram() {
        return ram.0;
    }
    let info = rustix::system::sysinfo();
    // Their types differ from one C library to another.
    #[allow(clippy::unnecessary_cast)]
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

/// An archive comes to too much.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// Too many bytes.
    #[error("{shown}: comes to more than {limit} unpacked")]
    Bytes { shown: String, limit: ByteSize },
    /// Too many members.
    #[error("{shown}: {name} is one more than {limit} members")]
    Members {
        shown: String,
        limit: u64,
        name: String,
    },
}

impl Error {
    pub(crate) fn remedy(&self) -> Remedy {
        match self {
            Self::Bytes { .. } => Remedy::RaiseUnpacked,
            Self::Members { .. } => Remedy::RaiseEntries,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(bytes: u64, entries: u64) -> Limits {
        Limits {
            unpacked: Some(ByteSize(bytes)),
            entries,
        }
    }

    #[test]
    fn what_is_over_the_limit_is_refused_and_the_last_that_fits_is_not() {
        let budget = Budget::new(&limits(100, 0));
        budget.spend(60, "a").unwrap();
        budget.spend(40, "b").unwrap();
        let error = budget.spend(1, "c.tar").unwrap_err();
        assert_eq!(
            error.to_string(),
            "c.tar: comes to more than 100 B unpacked"
        );
        let counter = Counter::new(&limits(0, 2));
        counter.count(b"a", "x").unwrap();
        counter.count(b"b", "x").unwrap();
        let error = counter.count(b"\x1bc", "x").unwrap_err();
        assert_eq!(error.to_string(), "x: \\u{1b}c is one more than 2 members");
    }

    #[test]
    fn a_name_of_megabytes_is_not_repeated_in_a_message() {
        assert_eq!(shortened(&[b'n'; 255]), "n".repeat(255));
        assert_eq!(shortened(&[b'n'; 1 << 20]), "n".repeat(255) + "...");
    }

    #[test]
    fn sums_do_not_wrap() {
        let budget = Budget::new(&limits(100, 0));
        for bytes in [u64::MAX - 1, u64::MAX, 1, 1] {
            assert!(budget.spend(bytes, "a").is_err());
        }
    }

    #[test]
    fn without_a_wish_half_of_the_memory_is_the_limit() {
        let budget = Budget::new(&Limits::default());
        budget.spend(1 << 20, "a").unwrap();
        assert!(budget.spend(memory(&Memory::gather()), "a").is_err());
    }

    #[test]
    fn a_control_groups_limit_is_the_memory_that_counts() {
        let host = Memory {
            ram: Some(ByteSize::mib(256 << 10)),
            ..Memory::default()
        };
        assert_eq!(memory(&host), 256 << 30);
        let limited = Memory {
            limit: Some(ByteSize::mib(512)),
            ..host
        };
        assert_eq!(memory(&limited), 512 << 20);
        assert!(memory(&Memory::default()) > 1 << 20);
    }
}
