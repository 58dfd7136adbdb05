//! `--copy-in`: files of the host → a tree of their own, below the directory from which PID 1 moves them into place.
//!
//! Read as images are (`image::files`): one walk that follows no link, each file opened once, its bytes read once. Where
//! it goes in the guest is PID 1's business.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::FileType;

use crate::payload;
use crate::request::{Copies, CopyIn, Ownership};
use crate::way_out;
use rdvm_hostfs::escape::{escaped, reason, shown};
use rdvm_hostfs::path;
use rdvm_image::files;
use rdvm_image::tree::{Content, Entry, FileBody, Kind, LinkId, Tree};

mod exclude;

use exclude::Exclude;

/// Why a `--copy-in` was not made.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// HOST itself cannot be looked at.
    #[error(
        "--copy-in: {}: {}; name a file or a directory of the host",
        shown(path),
        reason(source)
    )]
    Host { path: PathBuf, source: io::Error },
    /// HOST is neither file nor directory.
    #[error(
        "--copy-in: {}: is neither a file nor a directory; copy it into a file first",
        shown(path)
    )]
    Kind { path: PathBuf },
    /// Something below cannot be read.
    #[error(
        "--copy-in: {shown}: cannot be read: {}; run as a user who may, or leave it out with --copy-in-exclude",
        reason(source)
    )]
    Unreadable { shown: String, source: io::Error },
    /// Something was written to meanwhile.
    #[error(
        "--copy-in: {shown}: changed while it was read; try again when nothing writes to it, or leave it out with --copy-in-exclude"
    )]
    Changed { shown: String },
    /// More than a record of the initrd holds.
    #[error(
        "--copy-in: {shown}: has {size} bytes, files of up to {} can be copied in; split it, or leave it out with --copy-in-exclude",
        u32::MAX
    )]
    TooLarge { shown: String, size: u64 },
    /// Anything else that keeps files from being read.
    #[error("--copy-in: {}{}", .0, way_out::of_image(.0))]
    Read(rdvm_image::Error),
    /// `.rdvmignore` cannot be read.
    #[error(
        "{}: {}; make it a text file, or remove it",
        shown(path),
        reason(source)
    )]
    IgnoreFile { path: PathBuf, source: io::Error },
    /// A line of `.rdvmignore`.
    #[error("{}:{line}: {why}; write it as in a .gitignore", shown(path))]
    IgnoreLine {
        path: PathBuf,
        line: usize,
        why: String,
    },
    /// `--copy-in-exclude`.
    #[error("--copy-in-exclude: \"{}\": {why}; write it as in a .gitignore", escaped(pattern.as_bytes()))]
    Pattern { pattern: String, why: String },
    /// All of them together.
    #[error("--copy-in-exclude: {why}; use fewer patterns")]
    Patterns { why: String },
}

/// The entries to copy in.
#[derive(Debug)]
pub(crate) struct Gathered {
    /// Below the directory, for each copy a directory with its number, and in that the file or directory itself.
    pub tree: Tree,
    /// Warnings about what was left out, one line each.
    pub warnings: Vec<String>,
}

/// Reads everything that is to be copied in, as files of `uid` and `gid` unless owners are kept, below the directory `below` of the guest's root;
/// `None` where nothing is.
///
/// # Errors
/// [`Error`]; nothing was changed anywhere.
pub(crate) fn read(
    copies: &Copies,
    below: &str,
    uid: u32,
    gid: u32,
) -> Result<Option<Gathered>, Error> {
    if copies.into.is_empty() {
        return Ok(None);
    }
    let mut entries = vec![directory(below.into())];
    let mut warnings = Vec::new();
    let mut links = 0;
    let owner = match copies.keep_owners {
        true => Ownership::Keep,
        false => Ownership::Root,
    };
    for (index, copy) in copies.into.iter().enumerate() {
        let landing = payload::landing(below, index, &copy.host);
        let (found, left_out) = gather(copy, &owner, &copies.exclude)?;
        warnings.extend(left_out);
        entries.push(directory(path::split(&landing).0.to_vec()));
        let mut more = 0;
        for entry in found {
            let owner = match copies.keep_owners {
                true => (entry.uid, entry.gid),
                false => (uid, gid),
            };
            let (entry, link) = moved(entry, &landing, links, owner);
            more = more.max(link);
            entries.push(entry);
        }
        links += more;
    }
    // A path that is too long with ours before it.
    let tree = Tree::from_entries(entries).map_err(|error| Error::Read(error.into()))?;
    Ok(Some(Gathered { tree, warnings }))
}

/// A directory of our own.
fn directory(path: Vec<u8>) -> Entry {
    Entry {
        path,
        mode: 0o700,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: None,
        kind: Kind::Directory,
    }
}

/// One HOST's files, by their paths below it, and what was left out.
fn gather(
    copy: &CopyIn,
    owner: &Ownership,
    patterns: &[String],
) -> Result<(Vec<Entry>, Vec<String>), Error> {
    let host = &copy.host;
    let failed = |source| Error::Host {
        path: host.clone(),
        source,
    };
    let kind = std::fs::metadata(host).map_err(failed)?.file_type();
    let (entries, warnings) = match (kind.is_dir(), kind.is_file()) {
        (true, _) => walk(host, owner, patterns)?,
        // It was named: patterns are for what was not.
        (_, true) => (
            vec![files::one(host, owner).map_err(read_error)?],
            Vec::new(),
        ),
        _ => return Err(Error::Kind { path: host.clone() }),
    };
    for entry in &entries {
        if let Kind::File(FileBody {
            size,
            content: Content::Host(file),
            ..
        }) = &entry.kind
            && u32::try_from(*size).is_err()
        {
            return Err(Error::TooLarge {
                shown: file.shown(),
                size: *size,
            });
        }
    }
    Ok((entries, warnings))
}

fn walk(
    host: &Path,
    owner: &Ownership,
    patterns: &[String],
) -> Result<(Vec<Entry>, Vec<String>), Error> {
    let exclude = Exclude::of(host, patterns)?;
    let left_out = Mutex::new(Vec::new());
    let filter = |path: &[u8], kind: FileType| {
        if exclude.has(path, kind) {
            return true;
        }
        let what = match kind {
            FileType::Socket => "a socket",
            FileType::CharacterDevice | FileType::BlockDevice => "a device",
            _ => return false,
        };
        let path = host.join(OsStr::from_bytes(path));
        let line = format!("--copy-in: {}: is {what}, and is left out", shown(&path));
        left_out
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
        true
    };
    let (entries, mounts) = files::below(host, owner, &filter).map_err(read_error)?;
    let mut warnings = left_out
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    warnings.extend(mounts.iter().map(|path| {
        format!(
            "--copy-in: {}: is a mount point, copied as an empty directory; name it in a --copy-in of its own",
            shown(&host.join(OsStr::from_bytes(path)))
        )
    }));
    warnings.sort();
    Ok((entries, warnings))
}

/// The entry below `landing`, of another owner, with its link's number counted on from `links`; and that number before.
fn moved(entry: Entry, landing: &[u8], links: u64, (uid, gid): (u32, u32)) -> (Entry, u64) {
    let mut path = landing.to_vec();
    if !entry.path.is_empty() {
        path.push(b'/');
        path.extend_from_slice(&entry.path);
    }
    let mut kind = entry.kind;
    let mut number = 0;
    if let Kind::File(FileBody {
        link: Some(LinkId(link)),
        ..
    }) = &mut kind
    {
        number = *link;
        *link += links;
    }
    let entry = Entry {
        path,
        uid,
        gid,
        kind,
        ..entry
    };
    (entry, number)
}

fn read_error(error: rdvm_image::Error) -> Error {
    use rdvm_image::Error as Image;
    match error {
        Image::Unreadable { shown, source } => Error::Unreadable { shown, source },
        Image::Changed { shown } => Error::Changed { shown },
        Image::Image { path, source } => Error::Host { path, source },
        other => Error::Read(other),
    }
}
