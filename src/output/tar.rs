//! A layer's entries → a tar stream, the same bytes for the same entries.
//!
//! Entries keep their order; a directory comes before what is in it, and the first name of a hard-linked file carries
//! its contents. Holes are written as zeros. The stream ends with two blocks of zeros, as Go's does, and is not padded
//! further. Leaves to `header.rs` what a header looks like.

use std::collections::HashMap;
use std::io::Write;

use super::Error;
use super::header::{BLOCK, Header, Type};
use super::layer::{Layer, WHITEOUT, link};
use rdvm_hostfs::path::join;
use rdvm_image::body::{Bodies, Piece};
use rdvm_image::tree::{Entry, FileBody, Kind};
use rdvm_initrd::Epoch;

/// Bytes handed on at a time: what a core's cache holds.
const PIECE: usize = 256 << 10;

/// Writes a layer to `out`, in pieces of 256 KiB. No time is later than `epoch` says.
///
/// # Errors
/// A file that cannot be read or changed meanwhile, by name; those of `out`.
pub(super) fn write(layer: &Layer<'_>, epoch: Epoch, out: &mut dyn Write) -> Result<(), Error> {
    let mut writer = Writer {
        out,
        epoch,
        buffer: vec![0; PIECE],
        used: 0,
        bodies: Bodies::default(),
        head: Vec::new(),
    };
    let mut first_names = HashMap::new();
    // Above an entry that is not the root's own: the root has none where it did not change.
    if layer
        .entries
        .first()
        .is_none_or(|entry| !entry.path.is_empty())
    {
        writer.whiteouts(layer, b"")?;
    }
    for entry in layer.entries.iter().copied() {
        if entry.kind == Kind::Socket {
            continue;
        }
        let first = match link(entry) {
            Some(link) => *first_names.entry(link).or_insert(&*entry.path),
            None => &entry.path,
        };
        writer.entry(entry, first)?;
        if entry.kind == Kind::Directory {
            writer.whiteouts(layer, &entry.path)?;
        }
    }
    writer.bytes(&[0; 2 * BLOCK])?;
    writer.flush()?;
    layer.check_unchanged()
}

struct Writer<'a, 'w> {
    out: &'w mut dyn Write,
    epoch: Epoch,
    buffer: Vec<u8>,
    used: usize,
    bodies: Bodies<'a>,
    head: Vec<u8>,
}

impl<'a> Writer<'a, '_> {
    /// One entry; `first` is the first name of the file that it is a name of, or its own.
    fn entry(&mut self, entry: &'a Entry, first: &[u8]) -> Result<(), Error> {
        let mut header = Header {
            name: &entry.path,
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: self.epoch.clamp(entry.mtime).into(),
            xattrs: entry.xattrs.as_deref(),
            ..Header::of_file(b"", 0)
        };
        let slashed;
        let mut body = None;
        match &entry.kind {
            Kind::Directory => {
                let name = if entry.path.is_empty() {
                    b"."
                } else {
                    &*entry.path
                };
                slashed = [name, b"/"].concat();
                (header.kind, header.name) = (Type::Directory, &slashed);
            }
            Kind::File(_) if first != entry.path => {
                (header.kind, header.target) = (Type::HardLink, first);
            }
            Kind::File(file) => {
                header.size = file.size;
                body = Some(file);
            }
            Kind::Symlink(target) => (header.kind, header.target) = (Type::Symlink, target),
            Kind::CharDevice { major, minor } => {
                (header.kind, header.device) = (Type::CharDevice, (*major, *minor));
            }
            Kind::BlockDevice { major, minor } => {
                (header.kind, header.device) = (Type::BlockDevice, (*major, *minor));
            }
            Kind::Fifo => header.kind = Type::Fifo,
            Kind::Socket => return Ok(()),
        }
        self.header(&header)?;
        body.map_or(Ok(()), |file| self.contents(file))
    }

    /// Empty files that say what is gone from a directory.
    fn whiteouts(&mut self, layer: &Layer<'_>, directory: &[u8]) -> Result<(), Error> {
        for name in layer.gone.get(directory).into_iter().flatten() {
            let path = join(directory, &[WHITEOUT, *name].concat());
            self.header(&Header::of_file(&path, 0))?;
        }
        Ok(())
    }

    fn header(&mut self, header: &Header<'_>) -> Result<(), Error> {
        let mut head = std::mem::take(&mut self.head);
        head.clear();
        header.append(&mut head);
        let done = self.bytes(&head);
        self.head = head;
        done
    }

    /// A file's bytes, read to where they are handed on from.
    fn contents(&mut self, file: &'a FileBody) -> Result<(), Error> {
        let mut from = 0;
        while from < file.size {
            let room = (PIECE - self.used) as u64;
            let length = room.min(file.size - from) as usize;
            let piece = &mut self.buffer[self.used..self.used + length];
            if self.bodies.read(&file.content, from, piece)? == Piece::Hole {
                piece.fill(0);
            }
            from += length as u64;
            self.advance(length)?;
        }
        let padding = file.size.next_multiple_of(BLOCK as u64) - file.size;
        self.bytes(&[0; BLOCK][..padding as usize])
    }

    fn bytes(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let length = bytes.len().min(PIECE - self.used);
            self.buffer[self.used..self.used + length].copy_from_slice(&bytes[..length]);
            bytes = &bytes[length..];
            self.advance(length)?;
        }
        Ok(())
    }

    fn advance(&mut self, length: usize) -> Result<(), Error> {
        self.used += length;
        match self.used == PIECE {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let written = self.out.write_all(&self.buffer[..self.used]);
        self.used = 0;
        written.map_err(|source| Error::Write { source })
    }
}
