//! A path on the command line, or `-` → a directory, or an archive's bytes where they can be read at any place.
//!
//! A plain archive file stays where it is; what is compressed or comes through a pipe is unpacked into memory. Knows
//! of what is in archives only which kind they are.

use std::cell::RefCell;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::byte_source::{ByteSource, Region};
use super::directory_state::{self, DirectoryState};
use super::host::HostRoot;
use super::layers::LayeredImage;
use super::limit::Budget;
use super::recognise::{self, Kind};
use super::stream::{self, Compression, Input};
use super::tree::Tree;
use super::{Error, cpio, start_of};
use crate::reference::{ImageRef, Limits};
use rdvm_hostfs::escape::shown;
use rdvm_hostfs::progress::Progress;

/// The kinds of paths.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A directory.
    Directory(Arc<HostRoot>),
    /// A file, uncompressed, and how it was compressed; what follows it if it is an initrd's first part.
    Archive(Region, Compression, Option<cpio::Rest>),
}

/// The paths of images and layers, each opened once: whatever is checked, read and remembered of a path is one file, also
/// when the path leads elsewhere meanwhile.
#[derive(Debug, Default)]
pub struct Sources {
    keeps: bool,
    pub(super) notes_states: bool,
    pub(super) progress: Progress,
    opened: RefCell<Vec<Opened>>,
    kept: RefCell<Vec<(ImageRef, Kept)>>,
}

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    /// As it was before the first byte was read.
    metadata: Metadata,
    source: Source,
    /// Of a directory, when it was read first.
    state: Option<DirectoryState>,
}

/// The result of reading a directory.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    /// The tree that it is.
    Tree(Tree),
    /// The image that its layout holds.
    LayeredImage(LayeredImage),
}

impl Sources {
    /// For images that are read more than once, as parts of several: what directories hold is kept as well.
    pub fn keeping() -> Self {
        Self {
            keeps: true,
            ..Self::default()
        }
    }

    /// Notes the states of directories when they are read.
    pub fn with_states(self, notes_states: bool) -> Self {
        Self {
            notes_states,
            ..self
        }
    }

    /// Counts what is read.
    pub fn with_progress(self, progress: &Progress) -> Self {
        let progress = progress.clone();
        Self { progress, ..self }
    }

    /// The state of what was opened at `path`, before it was read; `None` when nothing was.
    pub fn metadata(&self, path: &Path) -> Option<Metadata> {
        let opened = self.opened.borrow();
        let found = opened.iter().find(|opened| opened.path == path);
        found.map(|opened| opened.metadata.clone())
    }

    /// Returns the state of the directory at `path` when it was read; `None` where none was noted, or a change after that might
    /// not show. Each stamp in it is older than what was read of that file, and what changes has other stamps for ever: a
    /// tree that has a later change, or a part of one, is never found by this state.
    pub fn directory_state(&self, path: &Path) -> Option<Vec<u8>> {
        let mut opened = self.opened.borrow_mut();
        let opened = opened.iter_mut().find(|opened| opened.path == path)?;
        opened.state.take()?.settled()
    }

    /// True if the directory at `path` is in this state. It is the one that is read afterwards.
    pub fn is_in_state(&self, path: &Path, state: &[u8]) -> bool {
        let budget = Budget::new(&Limits::default());
        match self.open(path, &budget) {
            Ok(Source::Directory(root)) => directory_state::is_that_of(&root, state),
            _ => false,
        }
    }

    /// Notes the state of the directory at `path`, which was taken before any of it was read. The first one stays, since what
    /// is read again is no older.
    pub(super) fn note_state(&self, path: &Path, state: DirectoryState) {
        let mut opened = self.opened.borrow_mut();
        if let Some(opened) = opened.iter_mut().find(|opened| opened.path == path) {
            opened.state.get_or_insert(state);
        }
    }

    /// Opens what is at `path`, and unpacks it if it is compressed; or returns it as it was opened before.
    ///
    /// # Errors
    /// Nothing is there, it cannot be read, is no file, or is compressed twice.
    pub(super) fn open(&self, path: &Path, budget: &Budget) -> Result<Source, Error> {
        let opened = self.opened.borrow();
        if let Some(opened) = opened.iter().find(|opened| opened.path == path) {
            return Ok(opened.source.clone());
        }
        drop(opened);
        let (metadata, source) = open(path, budget)?;
        self.opened.borrow_mut().push(Opened {
            path: path.to_owned(),
            metadata,
            source: source.clone(),
            state: None,
        });
        Ok(source)
    }

    /// Keeps what was made of the directory of `image`, if that is ever asked for again.
    pub(super) fn keep(&self, image: &ImageRef, kept: impl FnOnce() -> Kept) {
        if self.keeps {
            self.kept.borrow_mut().push((image.clone(), kept()));
        }
    }

    /// Returns what was made of the directory of `image`.
    pub(super) fn kept(&self, image: &ImageRef) -> Option<Kept> {
        let is_same = |other: &ImageRef| {
            (&other.path, &other.tag, other.format) == (&image.path, &image.tag, image.format)
                && (&other.owner, &other.fakeroot) == (&image.owner, &image.fakeroot)
        };
        let kept = self.kept.borrow();
        let found = kept.iter().find(|(other, _)| is_same(other));
        found.map(|(_, kept)| kept.clone())
    }
}

/// Standard input as a path.
const STDIN: &str = "-";

/// The number of first bytes that tell the compression.
const START: u64 = 16;

fn open(path: &Path, budget: &Budget) -> Result<(Metadata, Source), Error> {
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
    // What a shell has opened for us: `<(docker save app)`.
    let is_open = is_stdin || path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd");
    let is_archive = |facts: &Metadata| {
        let kind = facts.file_type();
        kind.is_file() || is_open && (kind.is_fifo() || kind.is_socket())
    };
    // Any other pipe could be one without a writer, and is not even opened.
    let mut facts = match is_stdin {
        true => opened().and_then(|file| file.metadata()),
        false => std::fs::metadata(path),
    }
    .map_err(unreadable)?;
    if facts.is_dir() && !is_stdin {
        let root = HostRoot::open(path).map_err(|errno| unreadable(errno.into()))?;
        return Ok((facts, Source::Directory(Arc::new(root))));
    }
    if is_archive(&facts) {
        let file = opened().map_err(unreadable)?;
        // Another one may have got the name by now; what was opened counts.
        facts = file.metadata().map_err(unreadable)?;
        if is_archive(&facts) {
            let source =
                read(file, path, facts.is_file(), budget).map_err(|error| match error {
                    Error::Archive { source, .. } => unreadable(source),
                    other => other,
                })?;
            return Ok((facts, source));
        }
    }
    let kind = facts.file_type();
    let what = match kind {
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
///
/// Only an initrd may go on behind its compressed part.
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
    let whole = |store| Region::whole(Arc::new(store));
    let of_file = |file| ByteSource::of_file(file, path).map_err(|errno| failed(errno.into()));
    if at_start && compression == Compression::None {
        return Ok(Source::Archive(whole(of_file(file)?), compression, None));
    }
    budget.progress.stage("reading", total);
    let mut input = Input::new(start.chain(Counted(&file, &budget.progress)));
    let unpacked = stream::unpack_part(&mut input, compression, &shown, budget, &mut |_| {});
    let region = whole(unpacked?);
    if compression == Compression::None {
        return Ok(Source::Archive(region, compression, None));
    }
    let inside = start_of(&region).map_err(|errno| failed(errno.into()))?;
    if stream::compression(&inside) != Compression::None {
        let shown = shown.clone();
        return Err(Error::Nested { shown });
    }
    if recognise::kind(&inside) != Ok(Kind::Cpio) {
        stream::finish(&mut input, compression, &shown)?;
        return Ok(Source::Archive(region, compression, None));
    }
    stream::skip_zeros(&mut input, &shown)?;
    if stream::is_over(&mut input, &shown)? {
        return Ok(Source::Archive(region, compression, None));
    }
    let at = input.position();
    let rest = if at_start {
        cpio::Rest {
            region: whole(of_file(file)?),
            start: 0,
            from: at,
        }
    } else {
        let from = at % 4;
        let rest = io::repeat(0).take(from).chain(input);
        let rest = stream::unpack(rest, Compression::None, &shown, budget, &mut |_| {});
        cpio::Rest {
            region: whole(rest?),
            start: at - from,
            from,
        }
    };
    Ok(Source::Archive(region, compression, Some(rest)))
}

/// Tells how much was read.
struct Counted<'a>(&'a File, &'a Progress);

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1.add(count as u64);
        Ok(count)
    }
}
