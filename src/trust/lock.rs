//! `rdvm.lock`: which images a project agreed on, a line `DIGEST  PATH` each, as sha256sum writes them.
//!
//! An image of a registry has a line `DIGEST  docker://NAME` with its full name, and the digest is its manifest's.
//!
//! Looked for in the current directory and those above it, like other projects' files. Paths in it are relative to the
//! directory it is in.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::{Error, Wanted};
use rdvm_hostfs::atomic::AtomicFile;
use rdvm_hostfs::{BadDigest, Digest};
use rdvm_registry::{Reference, TRANSPORT};

/// The file's name.
pub(crate) const NAME: &str = "rdvm.lock";

/// The lock file that counts in the directory `here`: its own, or the nearest above.
pub(crate) fn find(here: &Path) -> Option<PathBuf> {
    let mut candidates = here.ancestors().map(|dir| dir.join(NAME));
    candidates.find(|path| path.is_file())
}

/// Writes an image's digest into the lock file that counts here, or into a new one.
///
/// # Errors
/// The image cannot be kept there; the file cannot be read or written.
pub fn keep(image: &Path, digest: Digest) -> Result<(), Error> {
    let (here, mut lock) = current()?;
    lock.set(&here, image, digest)?;
    lock.write()
}

/// Writes the digest of a manifest into the lock file that counts here, or into a new one.
///
/// # Errors
/// The name is not that of a tag; the file cannot be read or written.
pub fn keep_name(name: &str, digest: Digest) -> Result<(), Error> {
    let not = |why| Error::NotLockable {
        image: name.into(),
        why,
    };
    let full: Reference = name.parse().map_err(|_| not("it has no full name"))?;
    if full.digest().is_some() {
        return Err(not("its name has a digest already"));
    }
    let (_, mut lock) = current()?;
    lock.set_name(&full, digest);
    lock.write()
}

/// Returns the digest that the lock file has for an image of a registry.
///
/// # Errors
/// The file cannot be read or understood.
pub(crate) fn digest_of_name(name: &Reference) -> Result<Option<Digest>, Error> {
    let here = std::env::current_dir().unwrap_or_default();
    match find(&here) {
        Some(path) => Ok(Lock::read(&path)?.digest_of_name(name)),
        None => Ok(None),
    }
}

/// Returns the current directory, and the lock file that counts there, or a new one.
fn current() -> Result<(PathBuf, Lock), Error> {
    let failed = |source| Error::LockFile {
        path: NAME.into(),
        source,
    };
    let here = std::env::current_dir().map_err(failed)?;
    let lock = match find(&here) {
        Some(path) => Lock::read(&path)?,
        None => Lock::new(here.join(NAME)),
    };
    Ok((here, lock))
}

/// A lock file's contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lock {
    path: PathBuf,
    lines: Vec<Line>,
}

/// A line; comments and empty lines are kept as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    Image { digest: Digest, path: Vec<u8> },
    Other(Vec<u8>),
}

impl Lock {
    /// A file without lines, to be written to `path`.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            lines: Vec::new(),
        }
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// It cannot be read, or a line is none.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::LockFile {
            path: path.to_owned(),
            source,
        };
        Self::parse(path, &std::fs::read(path).map_err(failed)?)
    }

    fn parse(path: &Path, text: &[u8]) -> Result<Self, Error> {
        let mut lines = Vec::new();
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            if line.is_empty() || line.starts_with(b"#") {
                lines.push(Line::Other(line.to_vec()));
                continue;
            }
            let digest = line
                .windows(2)
                .position(|pair| pair == b"  ")
                .filter(|at| line.len() > at + 2)
                .and_then(|at| Some((str::from_utf8(&line[..at]).ok()?, &line[at + 2..])))
                .ok_or(BadDigest)
                .and_then(|(digest, path)| Ok((digest.parse()?, path.to_vec())));
            let (digest, image) = digest.map_err(|source| Error::LockLine {
                path: path.to_owned(),
                line: index + 1,
                source,
            })?;
            lines.push(Line::Image {
                digest,
                path: image,
            });
        }
        Ok(Self {
            path: path.to_owned(),
            lines,
        })
    }

    /// Returns the digest that it has for `image`, a path relative to the directory `here`.
    pub(crate) fn wanted(&self, here: &Path, image: &Path) -> Option<Wanted> {
        let image = plain(&here.join(image));
        let digest = self.lines.iter().rev().find_map(|line| match line {
            Line::Image { digest, path } => {
                (plain(&self.directory().join(OsStr::from_bytes(path))) == image).then_some(*digest)
            }
            Line::Other(_) => None,
        })?;
        Some(Wanted {
            digest,
            by: self.path.display().to_string(),
        })
    }

    /// Sets an image's digest, in the place of an older one.
    ///
    /// # Errors
    /// Standard input, or a path with a line break.
    pub(crate) fn set(&mut self, here: &Path, image: &Path, digest: Digest) -> Result<(), Error> {
        let not = |why| Error::NotLockable {
            image: image.to_owned(),
            why,
        };
        if image == Path::new("-") {
            return Err(not("it has no path"));
        }
        if image.as_os_str().as_bytes().contains(&b'\n') {
            return Err(not("its path has a line break"));
        }
        let full = plain(&here.join(image));
        let own = plain(self.directory());
        let directory = self.directory().to_owned();
        let is_it = |path: &[u8]| plain(&directory.join(OsStr::from_bytes(path))) == full;
        for line in &mut self.lines {
            if let Line::Image { digest: old, path } = line
                && is_it(path)
            {
                *old = digest;
                return Ok(());
            }
        }
        let path = full.strip_prefix(&own).unwrap_or(&full);
        self.lines.push(Line::Image {
            digest,
            path: path.as_os_str().as_bytes().to_vec(),
        });
        Ok(())
    }

    /// Returns the digest that it has for a name, the last one if there are several.
    pub(crate) fn digest_of_name(&self, name: &Reference) -> Option<Digest> {
        self.lines.iter().rev().find_map(|line| match line {
            Line::Image { digest, path } => is_name(path, name).then_some(*digest),
            Line::Other(_) => None,
        })
    }

    /// Sets the digest of a name, in the place of older ones.
    pub(crate) fn set_name(&mut self, name: &Reference, digest: Digest) {
        self.lines
            .retain(|line| !matches!(line, Line::Image { path, .. } if is_name(path, name)));
        self.lines.push(Line::Image {
            digest,
            path: format!("{TRANSPORT}{name}").into_bytes(),
        });
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// Those of the file system.
    pub(crate) fn write(&self) -> Result<(), Error> {
        let failed = |source| Error::LockFile {
            path: self.path.clone(),
            source,
        };
        let mut bytes = Vec::new();
        for line in &self.lines {
            match line {
                Line::Image { digest, path } => {
                    let mut text = String::new();
                    // Writing to a String cannot fail.
                    let _ = write!(text, "{digest}  ");
                    bytes.extend_from_slice(text.as_bytes());
                    bytes.extend_from_slice(path);
                }
                Line::Other(text) => bytes.extend_from_slice(text),
            }
            bytes.push(b'\n');
        }
        let draft = AtomicFile::beside(&self.path).map_err(failed)?;
        draft.file().write_all(&bytes).map_err(failed)?;
        draft.put_in_place().map_err(failed)
    }

    fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }
}

/// True if a line is about this image of a registry.
fn is_name(path: &[u8], name: &Reference) -> bool {
    let text = str::from_utf8(path).ok();
    let text = text.and_then(|text| text.strip_prefix(TRANSPORT));
    text.is_some_and(|text| text.parse::<Reference>().as_ref() == Ok(name))
}

/// The path without `.` and `..`, by its text alone: `a/./b/../c` is `a/c`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}
