//! Where every record of the archive will stand, before one byte is written.
//!
//! Takes a tree, returns offsets, numbers and sums; refuses what newc cannot hold. Reads no files; `write.rs` does.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::OsString;

use serde::{Deserialize, Serialize};

use super::Error;
use super::newc::{self, HEADER, Header, TRAILER};
use rdvm_hostfs::units::{ByteSize, PAGE};
use rdvm_image::tree::{Entry, FileBody, Kind, LinkId, Tree};

/// Archives end at a multiple of this, as GNU cpio's do. A multiple of four is what the format needs.
const BLOCK: u64 = 512;
/// Names of a directory as the archive tells them. The true number says nothing that the tree does not.
const DIRECTORY_NLINK: u32 = 2;
/// The longest link target, with its NUL, that tmpfs and ramfs keep beside the inode instead of in a page.
const SHORT_LINK: usize = 128;

/// The latest time a record may carry, in seconds since 1970; later ones are set back to it, earlier ones are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Epoch(pub u32);

impl Epoch {
    /// From `SOURCE_DATE_EPOCH`, or 0 where that is not set; so nothing depends on the day of packing.
    pub fn from_env() -> Result<Self, Error> {
        std::env::var_os("SOURCE_DATE_EPOCH").map_or(Ok(Self(0)), Self::parse)
    }

    /// From `SOURCE_DATE_EPOCH`, or the last that can be written where that is not set: times stay what they are.
    pub fn from_env_or_last() -> Result<Self, Error> {
        std::env::var_os("SOURCE_DATE_EPOCH").map_or(Ok(Self(u32::MAX)), Self::parse)
    }

    pub(super) fn parse(value: OsString) -> Result<Self, Error> {
        let digits = value
            .to_str()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        match digits.and_then(|text| text.parse().ok()) {
            Some(seconds) => Ok(Self(seconds)),
            None => Err(Error::Epoch { value }),
        }
    }

    /// A time from the image as it is written.
    pub fn clamp(self, mtime: i64) -> u32 {
        mtime.clamp(0, i64::from(self.0)) as u32
    }
}

/// The contents of an archive, summed up for the memory plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Number of records without the trailer: names of any kind.
    pub entries: u64,
    /// Number of different files, directories, links and so on; names of one hard-linked file count once.
    pub inodes: u64,
    /// Length of the archive in bytes, all padding included.
    pub packed_bytes: u64,
    /// The bytes of the bodies once unpacked: each file, and each link target kept apart from its inode, in whole pages
    /// of [`PAGE`] bytes. Hard-linked files count once, holes count in full.
    pub page_rounded_bytes: u64,
}

impl Contents {
    /// Returns the contents of both archives together.
    pub fn and(self, other: Self) -> Self {
        Self {
            entries: self.entries + other.entries,
            inodes: self.inodes + other.inodes,
            packed_bytes: self.packed_bytes + other.packed_bytes,
            page_rounded_bytes: self.page_rounded_bytes + other.page_rounded_bytes,
        }
    }
}

/// The archive of one tree: every record's place and numbers.
#[derive(Debug)]
pub struct Layout<'a> {
    pub(super) entries: &'a [Entry],
    pub(super) records: Cow<'a, [Record]>,
    /// Where the trailer stands.
    pub(super) trailer: u64,
    epoch: Epoch,
    contents: Contents,
}

/// A layout that has been parted from its tree, to be kept beside it.
#[derive(Debug)]
pub struct Places {
    records: Vec<Record>,
    trailer: u64,
    epoch: Epoch,
    contents: Contents,
}

impl Places {
    /// The layout again. `tree` is the one that it was made of.
    pub fn of<'a>(&'a self, tree: &'a Tree) -> Layout<'a> {
        Layout {
            entries: tree.entries(),
            records: Cow::Borrowed(&self.records),
            trailer: self.trailer,
            epoch: self.epoch,
            contents: self.contents,
        }
    }

    /// Returns the contents of the archive, summed up.
    pub fn contents(&self) -> Contents {
        self.contents
    }
}

/// One record's place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    /// Where its header starts.
    pub(super) offset: u64,
    ino: u32,
    nlink: u32,
    /// Length of its data: 0 for all but the last name of a file.
    pub(super) data: u32,
}

/// The names of one hard-linked file.
struct Names {
    count: u32,
    /// Index of the entry that comes last, and carries the data.
    last: usize,
    ino: u32,
}

impl<'a> Layout<'a> {
    /// Places all records of `tree`.
    ///
    /// Inodes are numbered from 1 in order of appearance.
    ///
    /// # Errors
    /// A file of 4 GiB or more, by name; more entries than
    /// 32 bits can number.
    pub fn of(tree: &'a Tree, epoch: Epoch) -> Result<Self, Error> {
        let entries = tree.entries();
        if u32::try_from(entries.len()).is_err() {
            return Err(Error::TooManyEntries);
        }
        let mut links = names_of_links(entries);
        let mut records = Vec::with_capacity(entries.len());
        let mut contents = Contents {
            entries: entries.len() as u64,
            ..Contents::default()
        };
        let mut offset = 0;
        let mut inodes = 0;
        for (index, entry) in entries.iter().enumerate() {
            let mut record = Record {
                offset,
                ino: 0,
                nlink: 1,
                data: 0,
            };
            record.data = data_length(entry)?;
            match link_of(entry).and_then(|link| links.get_mut(&link)) {
                Some(names) => {
                    if names.ino == 0 {
                        inodes += 1;
                        names.ino = inodes;
                    }
                    (record.ino, record.nlink) = (names.ino, names.count);
                    if names.last != index {
                        record.data = 0;
                    }
                }
                None => {
                    inodes += 1;
                    record.ino = inodes;
                }
            }
            if entry.kind == Kind::Directory {
                record.nlink = DIRECTORY_NLINK;
            }
            if !matches!(&entry.kind, Kind::Symlink(target) if target.len() < SHORT_LINK) {
                contents.page_rounded_bytes += ByteSize(record.data.into()).page_round_up().0;
            }
            offset = record.end(entry);
            records.push(record);
        }
        contents.inodes = inodes.into();
        contents.packed_bytes = (offset + head_length(TRAILER)).next_multiple_of(BLOCK);
        Ok(Self {
            entries,
            records: Cow::Owned(records),
            trailer: offset,
            epoch,
            contents,
        })
    }

    /// The layout without its tree.
    pub fn into_places(self) -> Places {
        Places {
            records: self.records.into_owned(),
            trailer: self.trailer,
            epoch: self.epoch,
            contents: self.contents,
        }
    }

    /// Length of the archive in bytes, trailer and padding included; a multiple of 512.
    pub fn packed_size(&self) -> u64 {
        self.contents.packed_bytes
    }

    /// Returns the contents of the archive, summed up.
    pub fn contents(&self) -> Contents {
        self.contents
    }

    /// A record's header and name with its padding, appended to `out`.
    pub(super) fn head(&self, index: usize, out: &mut Vec<u8>) {
        let (entry, record) = (&self.entries[index], &self.records[index]);
        let (file_type, rdev) = match entry.kind {
            Kind::Directory => (0o040000, (0, 0)),
            Kind::File(_) => (0o100000, (0, 0)),
            Kind::Symlink(_) => (0o120000, (0, 0)),
            Kind::CharDevice { major, minor } => (0o020000, (major, minor)),
            Kind::BlockDevice { major, minor } => (0o060000, (major, minor)),
            Kind::Fifo => (0o010000, (0, 0)),
            Kind::Socket => (0o140000, (0, 0)),
        };
        let header = Header {
            ino: record.ino,
            mode: file_type | u32::from(entry.mode),
            uid: entry.uid,
            gid: entry.gid,
            nlink: record.nlink,
            mtime: self.epoch.clamp(entry.mtime),
            filesize: record.data,
            rdev,
            ..Header::default()
        };
        append_head(header, name(entry), out);
    }

    /// The record that ends the archive, appended to `out`, without the padding after it.
    pub(super) fn append_trailer(out: &mut Vec<u8>) {
        append_head(
            Header {
                nlink: 1,
                ..Header::default()
            },
            TRAILER,
            out,
        );
    }
}

impl Record {
    /// Where its data starts.
    pub(super) fn data_at(&self, entry: &Entry) -> u64 {
        self.offset + head_length(name(entry))
    }

    /// Where the next record starts.
    pub(super) fn end(&self, entry: &Entry) -> u64 {
        newc::align(self.data_at(entry) + u64::from(self.data))
    }
}

/// The name in the archive: `find .` calls the root so, and the kernel gives `/` its mode and owner from it.
fn name(entry: &Entry) -> &[u8] {
    if entry.path.is_empty() {
        b"."
    } else {
        &entry.path
    }
}

/// Length of header and name with NUL and padding.
fn head_length(name: &[u8]) -> u64 {
    newc::align((HEADER + name.len() + 1) as u64)
}

fn append_head(header: Header, name: &[u8], out: &mut Vec<u8>) {
    let end = out.len() + head_length(name) as usize;
    // A path is at most 4095 bytes long: `Tree` saw to that.
    let header = Header {
        namesize: name.len() as u32 + 1,
        ..header
    };
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(name);
    out.resize(end, 0);
}

/// Length of an entry's data.
fn data_length(entry: &Entry) -> Result<u32, Error> {
    let size = match &entry.kind {
        Kind::File(body) => body.size,
        Kind::Symlink(target) => target.len() as u64,
        _ => 0,
    };
    u32::try_from(size).map_err(|_| Error::FileTooLarge {
        path: entry.path.clone(),
        size,
    })
}

fn link_of(entry: &Entry) -> Option<LinkId> {
    match &entry.kind {
        Kind::File(FileBody { link, .. }) => *link,
        _ => None,
    }
}

fn names_of_links(entries: &[Entry]) -> HashMap<LinkId, Names> {
    let mut links = HashMap::new();
    for (index, entry) in entries.iter().enumerate() {
        if let Some(link) = link_of(entry) {
            let names = links.entry(link).or_insert(Names {
                count: 0,
                last: index,
                ino: 0,
            });
            names.count += 1;
            names.last = index;
        }
    }
    links
}

const _: () = assert!(BLOCK.is_multiple_of(4) && PAGE == 4096);
