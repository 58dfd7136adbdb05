//! The bodies of the fuzz targets, which reach readers that are no part of the interface: any bytes as a tar archive, as cpio
//! archives, as a compressed stream, as an EROFS file system. Each panics where a promise is broken.

use std::sync::Arc;

use crate::byte_source::{ByteSource, CHUNK, Region, Span};
use crate::limit::{Budget, Counter};
use crate::member::{EntryKind, Extent, FileContent, Member};
use crate::reference::Limits;
use crate::stream::Compression;
use crate::tree::Content;
use crate::{cpio, erofs, stream, tar};
use rdvm_hostfs::units::ByteSize;

/// Reads the bytes as a tar archive.
///
/// # Panics
/// A promise is broken.
pub fn tar(bytes: &[u8]) {
    let (counter, _) = limits();
    let mut seen = 0;
    let read = tar::read(&region(bytes), &counter, &mut |member| {
        check(&member);
        seen += 1;
        Ok::<(), tar::Error>(())
    });
    if let Err(error) = read {
        assert!(!error.to_string().contains(char::is_control));
    }
    assert!(seen * 512 <= bytes.len());
}

/// Reads the bytes as a cpio archive, or several.
///
/// # Panics
/// A promise is broken.
pub fn cpio(bytes: &[u8]) {
    let (counter, budget) = limits();
    let read = cpio::read(&region(bytes), None, &counter, &budget, &mut |member| {
        check(&member);
        assert!(member.name.len() <= 4095 && !member.name.contains(&0));
        Ok::<(), cpio::Error>(())
    });
    if let Err(error) = read {
        assert!(!error.to_string().contains(char::is_control));
    }
}

/// Unpacks the bytes as the compressed stream that they begin like, if any. The tap sees what the store has, and no more
/// than the budget comes out.
///
/// # Panics
/// A promise is broken.
pub fn unpack(bytes: &[u8]) {
    let (_, budget) = limits();
    let compression = stream::compression(bytes);
    if compression == Compression::None {
        return;
    }
    let mut seen = 0;
    let unpacked = stream::unpack(bytes, compression, "fuzz", &budget, &mut |piece| {
        assert!(piece.len() <= CHUNK);
        seen += piece.len() as u64;
    });
    assert!(seen <= 64 << 20);
    match unpacked {
        Ok(store) => assert_eq!(store.length(), seen),
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
}

/// Reads the bytes as an EROFS file system.
///
/// # Panics
/// A promise is broken.
pub fn erofs(bytes: &[u8]) {
    match erofs_within(bytes, 10_000, 64 << 20) {
        Ok((_, directories)) => assert!(directories <= bytes.len() / 32),
        Err(error) => assert!(!error.to_string().contains(char::is_control)),
    }
}

/// The same with limits: at most so many entries, and so many bytes that are kept of it. Returns the number of members, and of
/// directories among them, each of which has an inode of its own.
///
/// # Errors
/// They are no such file system, or more than the limits.
///
/// # Panics
/// A promise is broken.
pub fn erofs_within(
    bytes: &[u8],
    entries: u64,
    memory: u64,
) -> Result<(usize, usize), erofs::Error> {
    let limits = Limits {
        unpacked: Some(ByteSize(memory)),
        entries,
    };
    let (counter, budget) = (Counter::new(&limits), Budget::new(&limits));
    let (mut members, mut directories) = (0, 0);
    erofs::read(&region(bytes), &counter, &budget, &mut |member| {
        check(&member);
        assert!(member.name.len() <= 4095 && !member.name.contains(&0));
        members += 1;
        directories += usize::from(member.what == EntryKind::Directory);
        Ok::<(), erofs::Error>(())
    })?;
    Ok((members, directories))
}

/// Returns the contents of a file with 3s at these places and of these lengths, and holes around them.
pub fn sparse(data: &[(u64, u64)]) -> Content {
    let longest = data.iter().map(|&(_, length)| length).max().unwrap_or(0);
    let store = region(&vec![3; longest as usize]);
    let extents = data.iter().map(|&(at, length)| Extent {
        at,
        length,
        bytes: Span {
            store: Arc::clone(&store.store),
            offset: store.offset,
        },
    });
    Content::Sparse(extents.collect())
}

/// Limits that a test machine can bear: 64 MiB and 10,000 members.
fn limits() -> (Counter, Budget) {
    let limits = Limits {
        unpacked: Some(ByteSize::mib(64)),
        entries: 10_000,
    };
    (Counter::new(&limits), Budget::new(&limits))
}

/// The bytes as an archive that does not begin where its store does.
fn region(bytes: &[u8]) -> Region {
    let before = b"before";
    let all = [before, bytes].concat();
    let chunks = all.chunks(CHUNK).map(|chunk| Some(chunk.into())).collect();
    let store = ByteSource::of_chunks(chunks, all.len() as u64, "fuzz".into());
    Region {
        store: Arc::new(store),
        offset: before.len() as u64,
        length: bytes.len() as u64,
    }
}

/// Checks that contents can be read, that all of them lie in the archive, and that sparse ones are in order.
fn check(member: &Member) {
    assert!(member.mode <= 0o7777);
    let EntryKind::File { size, content, .. } = &member.what else {
        return;
    };
    match content {
        FileContent::Span(span) if *size > 0 => {
            let mut last = [0];
            span.store
                .read_exact(span.offset + size - 1, &mut last)
                .unwrap();
        }
        FileContent::Span(_) => {}
        FileContent::Sparse(extents) => {
            let mut end = 0;
            for extent in extents {
                assert!(extent.at >= end && extent.length > 0);
                end = extent.at.checked_add(extent.length).unwrap();
                let mut last = [0];
                let at = extent.bytes.offset + extent.length - 1;
                extent.bytes.store.read_exact(at, &mut last).unwrap();
            }
            assert!(end <= *size);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_fuzz_targets_bear_nothing_and_a_magic_number_alone() {
        for bytes in [&b""[..], b"070701", b"\x1f\x8b\x08", &[b' '; 512]] {
            super::tar(bytes);
            super::cpio(bytes);
            super::unpack(bytes);
            super::erofs(bytes);
        }
    }
}
