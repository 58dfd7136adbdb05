//! One member, from its header and what the headers before it say.

use std::mem;
use std::sync::Arc;

use super::error::{Error, ParseError};
use super::header::{BLOCK, Dialect, Header};
use super::pax::Records;
use super::sparse::{self, Map, Stop};
use super::{Pending, TarReader, no_data, read_error};
use crate::byte_source::Span;
use crate::member::{EntryKind, FileContent, Member};
use rdvm_hostfs::escape::escaped;

/// One member's header as far as it is read.
struct Head<'a> {
    header: Header<'a>,
    offset: u64,
    name: Vec<u8>,
    link: Vec<u8>,
    records: Records,
}

impl TarReader<'_> {
    /// The member whose header is at `offset`; goes on to the header after it.
    pub(super) fn member(
        &mut self,
        header: Header<'_>,
        offset: u64,
        pending: Pending,
    ) -> Result<Member, Error> {
        let Pending { name, link, pax } = pending;
        let known = name.clone().unwrap_or_else(|| header.name());
        let mut records = self.globals.clone();
        let added = pax.map_or(Ok(()), |bytes| records.add(&bytes));
        added.map_err(|flaw| self.named(offset, &known, flaw))?;
        let path = records.sparse.name.clone().or(records.path.take());
        let name = one_of(path, name, "name").map_err(|flaw| self.named(offset, &known, flaw))?;
        let name = name.unwrap_or(known);
        let link = one_of(records.link.take(), link, "link target")
            .map_err(|flaw| self.named(offset, &name, flaw))?;
        let link = link.unwrap_or_else(|| header.link().to_vec());
        let mut head = Head {
            header,
            offset,
            name,
            link,
            records,
        };
        self.fields(&mut head).map_err(|stop| match stop {
            Stop::ParseError(flaw) => self.named(offset, &head.name, flaw),
            Stop::Read(at, errno) => read_error(self.region, at, errno),
        })
    }

    /// All but the name, which is there for messages.
    fn fields(&mut self, head: &mut Head<'_>) -> Result<Member, Stop> {
        let (header, records) = (head.header, &head.records);
        let mode = header.mode()?;
        // Also where a PAX record counts, the header has to be right.
        let (uid, gid, mtime) = (header.uid()?, header.gid()?, header.mtime()?);
        let uid = records.uid.unwrap_or(uid);
        let gid = records.gid.unwrap_or(gid);
        let mtime = records.mtime.unwrap_or(mtime);
        let what = self.what(head)?;
        let xattrs = mem::take(&mut head.records.xattrs);
        Ok(Member {
            name: mem::take(&mut head.name),
            mode,
            uid,
            gid,
            mtime,
            xattrs: (!xattrs.is_empty()).then(|| Arc::new(xattrs)),
            what,
        })
    }

    /// Returns the member's kind and the end of its data.
    fn what(&mut self, head: &mut Head<'_>) -> Result<EntryKind, Stop> {
        let header = head.header;
        let plain = header.size()?;
        let size = head.records.size.unwrap_or(plain);
        let data = head.offset + BLOCK as u64;
        self.at = data;
        if head.records.sparse.is_there() && !matches!(header.kind(), b'0' | 0 | b'7') {
            return Err(sparse_flaw("it is no regular file").into());
        }
        Ok(match header.kind() {
            b'1' => {
                self.at = self.skip(data, self.link_data(head)?)?;
                EntryKind::HardLink(mem::take(&mut head.link))
            }
            b'2' => {
                no_data(size, "symbolic link")?;
                EntryKind::Symlink(mem::take(&mut head.link))
            }
            b'3' => {
                no_data(size, "device")?;
                let (major, minor) = header.device()?;
                EntryKind::CharDevice { major, minor }
            }
            b'4' => {
                no_data(size, "device")?;
                let (major, minor) = header.device()?;
                EntryKind::BlockDevice { major, minor }
            }
            b'5' => {
                no_data(size, "directory")?;
                EntryKind::Directory
            }
            b'6' => {
                no_data(size, "named pipe")?;
                EntryKind::Fifo
            }
            // The data are a list of the directory's contents, for incremental backups.
            b'D' => {
                self.at = self.skip(data, size)?;
                EntryKind::Directory
            }
            b'S' => self.old_sparse(head, size)?,
            b'M' => return Err(ParseError::Volumes.into()),
            // How v7 writes directories.
            b'0' | 0 | b'7' if head.name.ends_with(b"/") => {
                no_data(size, "directory")?;
                EntryKind::Directory
            }
            b'0' | 0 | b'7' if head.records.sparse.is_there() => {
                self.pax_sparse(head, data, size)?
            }
            // Solaris: ACLs, extended attributes; star: inodes; GNU tar long ago: names. Programs differ in whether an
            // unknown type with a slash at the end of its name is a directory.
            kind if b"AEIN".contains(&kind) || is_unknown_directory(kind, &head.name) => {
                let shown = escaped(&[kind]);
                return Err(ParseError::Type { shown }.into());
            }
            // POSIX has all other types read as regular files.
            _ => {
                self.at = self.skip(data, size)?;
                self.file(size, data)
            }
        })
    }

    /// Returns the length of a hard link's data. PAX allows them (they are those of the file, and not needed); before it
    /// programs wrote the file's size and no data, so a size without a PAX header is none to GNU tar. bsdtar looks
    /// at the archive's other headers, so here both must come to the same.
    fn link_data(&self, head: &Head<'_>) -> Result<u64, ParseError> {
        let what = "hard link";
        match (head.records.size, head.header.size()?) {
            // To bsdtar this is a directory, which has none.
            (Some(bytes @ 1..), _) if head.name.ends_with(b"/") => {
                Err(ParseError::Data { what, bytes })
            }
            (Some(bytes), _) => Ok(bytes),
            (None, bytes @ 1..) if self.has_pax => Err(ParseError::Data { what, bytes }),
            (None, _) => Ok(0),
        }
    }

    fn file(&self, size: u64, data: u64) -> EntryKind {
        let content = FileContent::Span(Span {
            store: self.region.store.clone(),
            offset: self.region.offset + data,
        });
        let link = 0;
        EntryKind::File {
            size,
            content,
            link,
        }
    }

    fn sparse(&self, map: Map, size: u64, stored: u64, data: u64) -> Result<EntryKind, ParseError> {
        let extents = map.extents(size, stored, self.region, data)?;
        Ok(EntryKind::File {
            size,
            content: FileContent::Sparse(extents),
            link: 0,
        })
    }

    fn old_sparse(&mut self, head: &Head<'_>, stored: u64) -> Result<EntryKind, Stop> {
        if head.header.dialect() != Dialect::Gnu {
            return Err(sparse_flaw("it is not written as GNU tar does").into());
        }
        let (map, size, blocks) = sparse::old(head.header.0, head.offset, &mut self.window)?;
        let data = head.offset + (1 + blocks) * BLOCK as u64;
        self.at = self.skip(data, stored)?;
        Ok(self.sparse(map, size, stored, data)?)
    }

    fn pax_sparse(
        &mut self,
        head: &mut Head<'_>,
        data: u64,
        stored: u64,
    ) -> Result<EntryKind, Stop> {
        self.at = self.skip(data, stored)?;
        let sparse = &mut head.records.sparse;
        let size = sparse.size.ok_or(sparse_flaw("it has no size"))?;
        let (map, used) = match (sparse.version, sparse.map.take()) {
            ((0, 0 | 1), Some(map)) => (map, 0),
            ((0, _), None) => return Err(sparse_flaw("it is missing").into()),
            ((1, 0), None) => sparse::leading(data..data + stored, &mut self.window)?,
            _ => return Err(sparse_flaw("it is of an unknown version").into()),
        };
        let left = stored.checked_sub(used);
        let left = left.ok_or(sparse_flaw("it is longer than the data"))?;
        Ok(self.sparse(map, size, left, data + used)?)
    }

    /// Where the header after so many bytes of data is; they have to be there.
    fn skip(&self, data: u64, size: u64) -> Result<u64, ParseError> {
        let end = data.checked_add(size);
        match end {
            Some(end) if end <= self.region.length => {
                Ok(data + size.next_multiple_of(BLOCK as u64))
            }
            _ => Err(ParseError::Cut { what: "its data" }),
        }
    }
}

fn is_unknown_directory(kind: u8, name: &[u8]) -> bool {
    !matches!(kind, b'0' | 0 | b'7') && name.ends_with(b"/")
}

fn sparse_flaw(what: &'static str) -> ParseError {
    ParseError::Sparse { what }
}

/// Returns the value of a PAX record and of a header of GNU tar's own; both may be there if they agree.
fn one_of(
    pax: Option<Vec<u8>>,
    gnu: Option<Vec<u8>>,
    what: &'static str,
) -> Result<Option<Vec<u8>>, ParseError> {
    match (pax, gnu) {
        (Some(pax), Some(gnu)) if pax != gnu => Err(ParseError::Twice { what }),
        (pax, gnu) => Ok(pax.or(gnu)),
    }
}
