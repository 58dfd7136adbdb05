//! newc cpio archives → members in the archive's order, as Linux takes them for an initramfs.
//!
//! Archives may stand one behind the other with zeros between them, each of them plain or compressed, in any order and
//! any number, as in the initrd files of distributions. Strict: what the kernel would pass over silently is an error
//! here. Format: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`, `init/initramfs.c` and cpio(5).

mod error;
mod record;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use error::unreadable;
pub(crate) use error::{Error, ParseError};
use record::Record;

use super::buffered_region::BufferedRegion;
use super::byte_source::{Region, Span};
use super::limit::{Budget, Counter};
use super::member::{EntryKind, FileContent, Member};
use super::stream::{self, Compression, Input, RegionReader};

/// The name of the record that ends an archive.
const TRAILER: &[u8] = b"TRAILER!!!";
/// The most compressed archives, each of which costs more than its bytes; initrds have one or two.
const LIMIT: usize = 1024;

/// The rest of a file behind an archive that was compressed and is unpacked already.
#[derive(Debug, Clone)]
pub(crate) struct Rest {
    /// It, perhaps with something before it.
    pub region: Region,
    /// Where the region begins in the file that holds both: a multiple of four, as places in a file count.
    pub start: u64,
    /// Where it begins in the region.
    pub from: u64,
}

/// Reads all archives of the region and of what follows it, and hands over each member. A region that begins compressed
/// is for the caller to unpack; compressed archives behind others are unpacked here, at the cost of `budget`.
///
/// All names of a hard-linked file get its data, whichever of them has it in the archive.
///
/// Errors name the archive, the member and the offset of its header; those of `each` come through.
pub(crate) fn read<E: From<Error>>(
    region: &Region,
    rest: Option<&Rest>,
    entries: &Counter,
    budget: &Budget,
    each: &mut dyn FnMut(Member) -> Result<(), E>,
) -> Result<(), E> {
    let mut links = 0;
    if rest.is_some() {
        whole(region, entries, &mut links, each)?;
    }
    let (region, start, mut at) =
        rest.map_or((region, 0, 0), |rest| (&rest.region, rest.start, rest.from));
    let mut reader = CpioReader::new(region, entries, &mut links);
    reader.start = start;
    reader.archives = u64::from(rest.is_some());
    let mut count = 0;
    while let Some(other) = reader.archives(at, each)? {
        let part = Region {
            store: region.store.clone(),
            offset: region.offset + other,
            length: region.length - other,
        };
        count += 1;
        if count > LIMIT {
            return Err(ParseError::TooMany(LIMIT).at(region, start + other).into());
        }
        let mut input = Input::new(RegionReader::new(part));
        let shown = format!("{} from offset {} on", region.store.shown(), start + other);
        let magic = input.peek(6);
        let magic = magic.map_err(|source| Error::from(stream::Error::read(&shown, source)))?;
        let compression = stream::compression(magic);
        if compression == Compression::None {
            return Err(ParseError::Trailing.at(region, start + other).into());
        }
        let unpacked = stream::unpack_part(&mut input, compression, &shown, budget, &mut |_| {});
        let unpacked = Region::whole(Arc::new(unpacked.map_err(Error::from)?));
        at = other + input.position();
        whole(&unpacked, entries, reader.count, each)?;
    }
    Ok(())
}

/// Reads the archives of what was unpacked, in which nothing else may be.
fn whole<E: From<Error>>(
    unpacked: &Region,
    entries: &Counter,
    links: &mut u64,
    each: &mut dyn FnMut(Member) -> Result<(), E>,
) -> Result<(), E> {
    match CpioReader::new(unpacked, entries, links).archives(0, each)? {
        None => Ok(()),
        Some(at) => Err(ParseError::Trailing.at(unpacked, at).into()),
    }
}

/// Reads the archives of one region.
struct CpioReader<'a> {
    region: &'a Region,
    window: BufferedRegion<'a>,
    /// Where the region begins in its file.
    start: u64,
    /// Number of archives so far.
    archives: u64,
    entries: &'a Counter,
    /// The hard-linked files of the archive that is being read; nothing while none was met.
    links: Option<HashMap<[u32; 3], Linked>>,
    /// The number of hard-linked files so far, in all archives.
    count: &'a mut u64,
}

/// A file with several names.
#[derive(Debug, Default)]
struct Linked {
    /// Their number for [`EntryKind::File`], from the first that was handed over on.
    number: u64,
    names: u64,
    /// Length and place of the data.
    data: Option<(u64, u64)>,
}

impl<'a> CpioReader<'a> {
    fn new(region: &'a Region, entries: &'a Counter, count: &'a mut u64) -> Self {
        Self {
            region,
            window: BufferedRegion::new(region),
            start: 0,
            archives: 0,
            entries,
            links: None,
            count,
        }
    }

    /// All archives from `at` on. Returns where something else begins, if there is such a place.
    fn archives<E: From<Error>>(
        &mut self,
        mut at: u64,
        each: &mut dyn FnMut(Member) -> Result<(), E>,
    ) -> Result<Option<u64>, E> {
        loop {
            let more = self.window.skip_zeros(at);
            let more = more.map_err(|errno| unreadable(self.region, at, errno))?;
            let Some(from) = more else {
                return match self.archives {
                    0 => Err(ParseError::Nothing.at(self.region, 0).into()),
                    _ => Ok(None),
                };
            };
            let first = self.window.get(from, 1);
            let first = first.map_err(|errno| unreadable(self.region, from, errno))?;
            // The first digit of a header.
            if first != Some(b"0") {
                return match self.archives {
                    0 => Err(ParseError::Magic.at(self.region, from).into()),
                    _ => Ok(Some(from)),
                };
            }
            if from % 4 != 0 {
                return Err(ParseError::Unaligned
                    .at(self.region, self.start + from)
                    .into());
            }
            at = self.archive(from, each)?;
            self.archives += 1;
        }
    }

    /// One archive. Gives where it ends.
    fn archive<E: From<Error>>(
        &mut self,
        mut at: u64,
        each: &mut dyn FnMut(Member) -> Result<(), E>,
    ) -> Result<u64, E> {
        self.links = None;
        loop {
            let record = record::read(self.region, &mut self.window, at)?;
            if record.name == TRAILER {
                self.no_data(&record, "trailer")?;
                return Ok(record.data);
            }
            at = record.next;
            let counted = self.entries.count(&record.name, self.region.store.shown());
            counted.map_err(Error::from)?;
            each(self.member(record)?)?;
        }
    }

    fn member(&mut self, record: Record) -> Result<Member, Error> {
        let (major, minor) = record.rdev;
        let what = match record.mode & 0o170_000 {
            0o100_000 => self.file(&record)?,
            0o120_000 => EntryKind::Symlink(record.target(self.region, &mut self.window)?),
            0o040_000 => self.empty(&record, "directory", EntryKind::Directory)?,
            0o020_000 => self.empty(&record, "device", EntryKind::CharDevice { major, minor })?,
            0o060_000 => self.empty(&record, "device", EntryKind::BlockDevice { major, minor })?,
            0o010_000 => self.empty(&record, "named pipe", EntryKind::Fifo)?,
            0o140_000 => self.empty(&record, "socket", EntryKind::Socket)?,
            other => return Err(ParseError::Type(other).of(self.region, &record.name, record.at)),
        };
        Ok(Member {
            name: record.name,
            mode: (record.mode & 0o7777) as u16,
            uid: record.uid,
            gid: record.gid,
            mtime: record.mtime.into(),
            xattrs: None,
            what,
        })
    }

    fn file(&mut self, record: &Record) -> Result<EntryKind, Error> {
        if record.size > 0 {
            record.check(self.region)?;
        }
        let (mut size, mut data, mut link) = (record.size, record.data, 0);
        if record.nlink > 1 {
            if self.links.is_none() {
                self.links = Some(self.find_links(record.at)?);
            }
            let links = self.links.as_mut();
            if let Some(linked) = links.and_then(|links| links.get_mut(&record.inode)) {
                (size, data) = linked.data.unwrap_or((size, data));
                if linked.number == 0 && linked.names > 1 {
                    *self.count += 1;
                    linked.number = *self.count;
                }
                link = linked.number;
            }
        }
        let content = FileContent::Span(Span {
            store: self.region.store.clone(),
            offset: self.region.offset + data,
        });
        Ok(EntryKind::File {
            size,
            content,
            link,
        })
    }

    /// The hard-linked files from the record at `at` to the end of the archive: most programs write the data with the
    /// last name, some with the first or with all, and the first one is asked for when the others have not been read.
    fn find_links(&mut self, mut at: u64) -> Result<HashMap<[u32; 3], Linked>, Error> {
        let mut links: HashMap<_, Linked> = HashMap::new();
        loop {
            let record = record::read(self.region, &mut self.window, at)?;
            if record.name == TRAILER {
                return Ok(links);
            }
            at = record.next;
            if record.nlink < 2 || record.mode & 0o170_000 != 0o100_000 {
                continue;
            }
            let linked = links.entry(record.inode).or_default();
            linked.names += 1;
            if record.size > 0 {
                match linked.data.replace((record.size, record.data)) {
                    Some((other, _)) if other != record.size => {
                        let flaw = ParseError::LinksDiffer(other);
                        return Err(flaw.of(self.region, &record.name, record.at));
                    }
                    _ => {}
                }
            }
        }
    }

    fn empty(
        &self,
        record: &Record,
        what: &'static str,
        is: EntryKind,
    ) -> Result<EntryKind, Error> {
        self.no_data(record, what).map(|()| is)
    }

    /// The kernel passes over such a record, name and all; the programs take it without its data.
    fn no_data(&self, record: &Record, what: &'static str) -> Result<(), Error> {
        match record.size {
            0 => Ok(()),
            bytes => Err(ParseError::Data { what, bytes }.of(self.region, &record.name, record.at)),
        }
    }
}
