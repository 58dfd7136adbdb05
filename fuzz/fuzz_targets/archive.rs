//! What the targets for archives share: limits that a test machine can bear, and what every member has to keep to.
//! Included by path, no target of its own.

use std::sync::Arc;

use rdvm_hostfs::units::ByteSize;
use rdvm_image::byte_source::{ByteSource, CHUNK, Region};
use rdvm_image::limit::{Budget, Counter};
use rdvm_image::member::{EntryKind, FileContent, Member};
use rdvm_image::reference::Limits;

/// 64 MiB and 10,000 members.
pub fn limits() -> (Counter, Budget) {
    let limits = Limits {
        unpacked: Some(ByteSize::mib(64)),
        entries: 10_000,
    };
    (Counter::new(&limits), Budget::new(&limits))
}

/// The bytes as an archive that does not begin where its store does.
pub fn region(bytes: &[u8]) -> Region {
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

/// Contents can be read, all of them lie in the archive, and sparse ones are in order.
pub fn check(member: &Member) {
    assert!(member.mode <= 0o7777);
    let EntryKind::File { size, content, .. } = &member.what else {
        return;
    };
    match content {
        FileContent::Span(span) if *size > 0 => {
            let mut last = [0];
            span.store.read_exact(span.offset + size - 1, &mut last).unwrap();
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
