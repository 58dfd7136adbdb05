//! The record in memory that the proxy's process shares with its parent, which can read it whatever became of the process.
//!
//! There are two copies, of which the older one is overwritten; a checksum tells a copy that was not written to its end. The
//! size is sealed, so that no process can make the memory larger.

use std::io;
use std::os::fd::OwnedFd;

use rdvm_proto::crc32;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::{pread, pwrite};

use crate::record::Record;

/// Room for a copy. A record's 2,002 entries have at most 800 bytes each.
const COPY: usize = 1600 << 10;
/// Bytes before a copy's text: its number, length and checksum.
const HEAD: usize = 16;

/// Memory with two copies of a record.
#[derive(Debug)]
pub(crate) struct RecordFile {
    memory: OwnedFd,
    number: u64,
}

impl RecordFile {
    /// Makes the memory.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = memfd_create("rdvm-proxy-record", flags)?;
        ftruncate(&memory, 2 * COPY as u64)?;
        fcntl_add_seals(
            &memory,
            SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
        )?;
        Ok(Self::over(memory))
    }

    /// Uses the memory that another process has made.
    pub(crate) fn over(memory: OwnedFd) -> Self {
        Self { memory, number: 0 }
    }

    /// Returns the memory.
    pub(crate) fn memory(&self) -> &OwnedFd {
        &self.memory
    }

    /// Writes the record over the older copy.
    pub(crate) fn write(&mut self, record: &Record) -> io::Result<()> {
        let text = serde_json::to_vec(record)?;
        if text.len() > COPY - HEAD {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.number += 1;
        let mut copy = Vec::with_capacity(HEAD + text.len());
        copy.extend(self.number.to_le_bytes());
        copy.extend((text.len() as u32).to_le_bytes());
        copy.extend(crc32(&text).to_le_bytes());
        copy.extend(text);
        let at = (self.number % 2) * COPY as u64;
        let mut written = 0;
        while written < copy.len() {
            written += pwrite(&self.memory, &copy[written..], at + written as u64)?;
        }
        Ok(())
    }

    /// Returns the newest copy that is whole; an empty record if none is.
    pub(crate) fn read(&self) -> Record {
        let copies = [0, COPY as u64].map(|at| self.copy(at));
        let newest = copies
            .into_iter()
            .flatten()
            .max_by_key(|(number, _)| *number);
        newest.map(|(_, record)| record).unwrap_or_default()
    }

    fn copy(&self, at: u64) -> Option<(u64, Record)> {
        let mut bytes = vec![0; COPY];
        let mut filled = 0;
        while filled < COPY {
            match pread(&self.memory, &mut bytes[filled..], at + filled as u64) {
                Ok(0) | Err(_) => return None,
                Ok(count) => filled += count,
            }
        }
        let (number, rest) = bytes.split_first_chunk::<8>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (sum, rest) = rest.split_first_chunk::<4>()?;
        let text = rest.get(..u32::from_le_bytes(*length) as usize)?;
        if crc32(text) != u32::from_le_bytes(*sum) {
            return None;
        }
        let record = serde_json::from_slice(text).ok()?;
        Some((u64::from_le_bytes(*number), record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Reached, Refused};

    fn record(host: &str) -> Record {
        let mut record = Record::default();
        record.reached.push(Reached {
            host: host.into(),
            port: 80,
            connections: 1,
            sent: 2,
            received: 3,
        });
        record
    }

    #[test]
    fn the_newest_whole_copy_is_read() {
        let mut file = RecordFile::new().unwrap();
        assert_eq!(file.read(), Record::default());
        for host in ["a", "b", "c"] {
            file.write(&record(host)).unwrap();
            assert_eq!(file.read(), record(host));
        }
        // The third copy is damaged, as if the writer had died while it wrote.
        pwrite(&file.memory, b"x", COPY as u64 + HEAD as u64 + 5).unwrap();
        assert_eq!(file.read(), record("b"));
        pwrite(&file.memory, &[0xff; HEAD], 0).unwrap();
        assert_eq!(file.read(), Record::default());
    }

    #[test]
    fn the_largest_record_has_room_and_the_memory_cannot_grow() {
        let mut largest = Record::default();
        for at in 0..1001 {
            let host = format!("{at:0>253}");
            largest.reached.push(Reached {
                host: host.clone(),
                port: 65535,
                connections: u64::MAX,
                sent: u64::MAX,
                received: u64::MAX,
            });
            let reason = "r".repeat(crate::policy::REASON_MAX);
            largest.refused.push(Refused {
                host,
                port: 65535,
                reason,
                rule: format!("{at:0>253}:65535"),
                times: u64::MAX,
            });
        }
        largest.fault = Some("f".repeat(500));
        let mut file = RecordFile::new().unwrap();
        file.write(&largest).unwrap();
        assert_eq!(file.read(), largest);
        assert!(pwrite(&file.memory, b"x", 2 * COPY as u64).is_err());
        assert!(ftruncate(&file.memory, 0).is_err());
    }
}
