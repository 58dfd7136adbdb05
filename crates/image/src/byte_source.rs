//! Bytes that archives' contents are read from, at any offset: a file of the host, or what a stream unpacked to.
//!
//! A tar archive that can be read at any place stays where it is. What comes compressed or through a pipe is kept in
//! memory in chunks, and chunks of zeros are not kept at all. Knows no formats.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::fstat;
use rustix::io::Errno;

use rdvm_hostfs::FileStamp;
use rdvm_hostfs::escape::shown;

/// Length of a chunk in bytes: large enough that their number does not count, small enough that a stretch of zeros mostly
/// has whole ones in it.
pub(crate) const CHUNK: usize = 1 << 20;

/// Where bytes are.
#[derive(Debug)]
pub struct ByteSource {
    /// Its name for messages, escaped.
    shown: String,
    length: u64,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    File { file: File, stamp: FileStamp },
    Chunks(Vec<Option<Box<[u8]>>>),
}

impl ByteSource {
    /// The bytes of an open regular file; `path` is for messages.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub(crate) fn of_file(file: File, path: &Path) -> Result<Self, Errno> {
        let stamp = FileStamp::from(&fstat(&file)?);
        Ok(Self {
            shown: shown(path).to_string(),
            length: stamp.size,
            bytes: Bytes::File { file, stamp },
        })
    }

    /// `length` bytes in chunks of [`CHUNK`], the last one as long as is left; `None` is a chunk of zeros.
    pub(crate) fn of_chunks(chunks: Vec<Option<Box<[u8]>>>, length: u64, shown: String) -> Self {
        debug_assert_eq!(chunks.len() as u64, length.div_ceil(CHUNK as u64));
        Self {
            shown,
            length,
            bytes: Bytes::Chunks(chunks),
        }
    }

    /// Length in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Its name for messages, escaped.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// The file that the bytes are in, if they are in one.
    pub(crate) fn file(&self) -> Option<&File> {
        match &self.bytes {
            Bytes::File { file, .. } => Some(file),
            Bytes::Chunks(_) => None,
        }
    }

    /// Fills `buffer` with the bytes from `from` on.
    ///
    /// # Errors
    /// `ESTALE` when the file does not have as many any more (or never had), others as the host gives them.
    pub(crate) fn read_exact(&self, from: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        match &self.bytes {
            Bytes::File { file, .. } => {
                file.read_exact_at(buffer, from)
                    .map_err(|error| match error.raw_os_error() {
                        Some(number) => Errno::from_raw_os_error(number),
                        None => Errno::STALE,
                    })
            }
            Bytes::Chunks(chunks) => {
                let end = from.checked_add(buffer.len() as u64);
                if end.is_none_or(|end| end > self.length) {
                    return Err(Errno::STALE);
                }
                let mut at = from;
                let mut rest = buffer;
                while !rest.is_empty() {
                    let inside = (at % CHUNK as u64) as usize;
                    let count = rest.len().min(CHUNK - inside);
                    let (piece, after) = rest.split_at_mut(count);
                    match &chunks[(at / CHUNK as u64) as usize] {
                        Some(chunk) => piece.copy_from_slice(&chunk[inside..inside + count]),
                        None => piece.fill(0),
                    }
                    at += count as u64;
                    rest = after;
                }
                Ok(())
            }
        }
    }

    /// True if the file is still what it was when the store was made; to be asked after the last read.
    ///
    /// # Errors
    /// `ESTALE` when it is not.
    pub(crate) fn check_unchanged(&self) -> Result<(), Errno> {
        match &self.bytes {
            Bytes::File { file, stamp } if FileStamp::from(&fstat(file)?) != *stamp => {
                Err(Errno::STALE)
            }
            _ => Ok(()),
        }
    }
}

/// Where in a store a file's bytes begin; how many there are is the file's length.
#[derive(Debug, Clone)]
pub struct Span {
    /// The store.
    pub store: Arc<ByteSource>,
    /// Offset in bytes.
    pub offset: u64,
}

impl PartialEq for Span {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.store, &other.store) && self.offset == other.offset
    }
}

impl Eq for Span {}

/// A stretch of a store: an archive that lies in another one, or all of it.
#[derive(Debug, Clone)]
pub(crate) struct Region {
    /// The store.
    pub store: Arc<ByteSource>,
    /// Where it begins.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

impl Region {
    /// All of a store.
    pub(crate) fn whole(store: Arc<ByteSource>) -> Self {
        let length = store.length();
        Self {
            store,
            offset: 0,
            length,
        }
    }

    /// Fills `buffer` with the bytes from `from` on, counted from the region's start.
    ///
    /// # Errors
    /// `ESTALE` beyond its end, others as [`ByteSource::read_exact`].
    pub(crate) fn read_exact(&self, from: u64, buffer: &mut [u8]) -> Result<(), Errno> {
        let end = from.checked_add(buffer.len() as u64);
        match end {
            Some(end) if end <= self.length => self.store.read_exact(self.offset + from, buffer),
            _ => Err(Errno::STALE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_read_as_one_and_those_of_zeros_need_no_memory() {
        let first = vec![1; CHUNK].into_boxed_slice();
        let last = vec![3; 10].into_boxed_slice();
        let length = 2 * CHUNK as u64 + 10;
        let store = ByteSource::of_chunks(vec![Some(first), None, Some(last)], length, "-".into());
        let mut all = vec![9; length as usize];
        store.read_exact(0, &mut all).unwrap();
        assert!(all[..CHUNK].iter().all(|&byte| byte == 1));
        assert!(all[CHUNK..2 * CHUNK].iter().all(|&byte| byte == 0));
        assert_eq!(all[2 * CHUNK..], [3; 10]);
        let mut seam = [9; 4];
        store.read_exact(CHUNK as u64 - 2, &mut seam).unwrap();
        assert_eq!(seam, [1, 1, 0, 0]);
        assert_eq!(store.read_exact(length - 3, &mut seam), Err(Errno::STALE));
        assert_eq!(store.read_exact(u64::MAX, &mut seam), Err(Errno::STALE));
    }

    #[test]
    fn a_file_that_was_written_to_is_not_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"0123456789").unwrap();
        let store = ByteSource::of_file(File::open(&path).unwrap(), &path).unwrap();
        let mut piece = [0; 3];
        store.read_exact(7, &mut piece).unwrap();
        assert_eq!(&piece, b"789");
        assert_eq!(store.read_exact(8, &mut piece), Err(Errno::STALE));
        store.check_unchanged().unwrap();
        std::fs::write(&path, b"0123").unwrap();
        assert_eq!(store.check_unchanged(), Err(Errno::STALE));
    }

    #[test]
    fn a_region_ends_where_it_ends() {
        let store = ByteSource::of_chunks(vec![Some((0..100).collect())], 100, "-".into());
        let region = Region {
            store: Arc::new(store),
            offset: 10,
            length: 20,
        };
        let mut piece = [0; 2];
        region.read_exact(18, &mut piece).unwrap();
        assert_eq!(piece, [28, 29]);
        assert_eq!(region.read_exact(19, &mut piece), Err(Errno::STALE));
    }
}
