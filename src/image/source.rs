//! A path on the command line, or `-` → a directory, or an archive's bytes where they can be read at any place.
//!
//! A plain archive file stays where it is; what is compressed or comes through a pipe is unpacked into memory. Knows
//! nothing of what is in archives.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use super::limit::Budget;
use super::store::{Region, Store};
use super::stream::{self, Compression};
use super::{Error, start_of};
use crate::escape::shown;
use crate::progress;

/// What a path is.
pub(super) enum Source {
    /// A directory.
    Directory,
    /// A file, uncompressed, and how it was compressed.
    Archive(Region, Compression),
}

/// Standard input as a path.
const STDIN: &str = "-";

/// How many first bytes tell the compression.
const START: u64 = 16;

/// Opens what is at `path`, and unpacks it if it is compressed.
///
/// Errors: nothing is there, it cannot be read, is no file, or is compressed twice.
pub(super) fn open(path: &Path, budget: &Budget) -> Result<Source, Error> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Error::Missing {
            path: path.to_owned(),
        },
        _ => Error::Image {
            path: path.to_owned(),
            source,
        },
    };
    let is_stdin = path == Path::new(STDIN);
    let opened = || match is_stdin {
        true => io::stdin().as_fd().try_clone_to_owned().map(File::from),
        false => File::open(path),
    };
    // What a shell has opened for us: `rdvm run <(docker save app)`.
    let is_open = is_stdin || path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd");
    // Any other pipe could be one that nobody writes to, and is not even opened.
    let facts = match is_stdin {
        true => opened().and_then(|file| file.metadata()),
        false => std::fs::metadata(path),
    };
    let kind = facts.map_err(unreadable)?.file_type();
    let what = match kind {
        _ if kind.is_dir() && !is_stdin => return Ok(Source::Directory),
        _ if kind.is_file() || is_open && (kind.is_fifo() || kind.is_socket()) => {
            let file = opened().map_err(unreadable)?;
            return read(file, path, kind.is_file(), budget).map_err(|error| match error {
                Error::Archive { source, .. } => unreadable(source),
                other => other,
            });
        }
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a named pipe",
        _ if kind.is_socket() => "a socket",
        _ if is_stdin => "a terminal or another device",
        _ => "a device",
    };
    Err(Error::WrongKind {
        path: path.to_owned(),
        what,
    })
}

/// Reads an open file. Only one that was not read from yet can stay where it is: others may be a part of something.
fn read(mut file: File, path: &Path, is_file: bool, budget: &Budget) -> Result<Source, Error> {
    let shown = shown(path);
    let failed = Error::read(&shown);
    let at_start = is_file && file.stream_position().map_err(&failed)? == 0;
    let total = match at_start {
        true => Some(file.metadata().map_err(&failed)?.len()),
        false => None,
    };
    let mut start = Vec::new();
    let read = (&file).take(START).read_to_end(&mut start);
    read.map_err(&failed)?;
    let compression = stream::compression(&start);
    let region = if at_start && compression == Compression::None {
        let store = Store::of_file(file, path).map_err(|errno| failed(errno.into()))?;
        Region::whole(Arc::new(store))
    } else {
        progress::stage("reading", total);
        let input = start.chain(Counted(file));
        let store = stream::unpack(input, compression, &shown, budget, &mut |_| {})?;
        Region::whole(Arc::new(store))
    };
    if compression != Compression::None {
        let inside = start_of(&region).map_err(|errno| failed(errno.into()))?;
        if stream::compression(&inside) != Compression::None {
            let shown = shown.clone();
            return Err(Error::Nested { shown });
        }
    }
    Ok(Source::Archive(region, compression))
}

/// Tells how much was read.
struct Counted(File);

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        progress::add(count as u64);
        Ok(count)
    }
}
