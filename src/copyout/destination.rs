//! Where a `--copy-out` goes: looked at before the machine runs, found again when it has.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags, accessat, mkdirat, statat, unlinkat};
use rustix::io::Errno;

use super::beat::Beat;
use super::beneath;
use super::error::CopyError;
use crate::request::CopyOut;
use rdvm_hostfs::escape::{escaped, reason, shown};
use rdvm_hostfs::path;

/// Why a `--copy-out` can come to nothing.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// Nowhere to put it.
    #[error(
        "--copy-out: {0}: its directory is not there; make it, or end HOST in a slash to have it made"
    )]
    NoDirectory(String),
    /// A slash at the end of a file.
    #[error("--copy-out: {0}: is not a directory; write it without the slash at its end")]
    NotDirectory(String),
    /// A device or the like.
    #[error("--copy-out: {0}: is neither file nor directory; name another place")]
    Special(String),
    /// `/`, `.` or `..` into a directory.
    #[error(
        "--copy-out: {guest}: has no name of its own by which to go into {host}; write HOST without the slash at its end, or with that name"
    )]
    Nameless { guest: String, host: String },
    /// A path that no system call takes.
    #[error("--copy-out: {0:?}: is no path; write GUEST:HOST, as in /src/out:out")]
    NoPath(String),
    /// The place cannot be written to.
    #[error(
        "--copy-out: {host}: {}; name a place that can be written to",
        reason(source)
    )]
    Refused { host: String, source: io::Error },
    /// Without it nothing is safe from those who move directories meanwhile.
    #[error(
        "--copy-out: {host}: openat2 is refused here ({source}); it takes Linux 5.6, and a container that allows it"
    )]
    NoOpenat2 { host: String, source: io::Error },
}

/// A place of the host's.
#[derive(Debug)]
pub(super) struct Destination {
    /// The directory that things are staged in, and below which everything happens.
    home: Arc<OwnedFd>,
    /// Directories below it that are still to be made, one in the other.
    missing: Vec<OsString>,
    name: Name,
    /// The last name of what was wished for.
    own: Option<Vec<u8>>,
    /// As the user gave it.
    shown: String,
    beat: Arc<Beat>,
}

#[derive(Debug)]
enum Name {
    /// The home itself is the directory that was named.
    Onto,
    /// The thing gets this name, or goes onto the directory that has it.
    Becomes(Vec<u8>),
    /// Its name in the directory that was named.
    Inside(Vec<u8>),
}

/// The place of a thing that is complete.
#[derive(Debug)]
pub(super) enum Site {
    /// It goes into this directory by this name.
    Put { dir: OwnedFd, name: Vec<u8> },
    /// Its contents go into this directory.
    Merge { dir: OwnedFd },
}

impl Destination {
    /// Looks at the place, and holds on to it.
    pub(super) fn open(copy: &CopyOut, beat: &Arc<Beat>) -> Result<Self, Error> {
        let guest = copy.guest.as_bytes();
        let host = copy.host.as_path();
        let shown = shown(host);
        for side in [guest, host.as_os_str().as_bytes()] {
            if side.is_empty() || side.contains(&0) {
                return Err(Error::NoPath(escaped(side)));
            }
        }
        let own = own_name(guest);
        let ends_in_slash = host.as_os_str().as_bytes().ends_with(b"/");
        let inside = || {
            own.clone()
                .map(Name::Inside)
                .ok_or_else(|| Error::Nameless {
                    guest: escaped(guest),
                    host: shown.clone(),
                })
        };
        let refused = |source| Error::Refused {
            host: shown.clone(),
            source,
        };
        let mut missing = Vec::new();
        let (home, name) = match fs::metadata(host) {
            Ok(there) if there.is_dir() => {
                let name = if ends_in_slash { inside()? } else { Name::Onto };
                (open_directory(host).map_err(refused)?, name)
            }
            Ok(_) if ends_in_slash => return Err(Error::NotDirectory(shown)),
            Ok(there) if there.is_file() => {
                // A link stays, and the file that it leads to is replaced.
                let file = host.canonicalize().map_err(refused)?;
                let (home, name) = parent_and_name(&file, &shown)?;
                (open_directory(home).map_err(refused)?, name)
            }
            Ok(_) => return Err(Error::Special(shown)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && ends_in_slash => {
                let name = inside()?;
                (deepest(host, &mut missing).map_err(refused)?, name)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (home, name) = parent_and_name(host, &shown)?;
                let home = open_directory(home).map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => Error::NoDirectory(shown.clone()),
                    _ => refused(error),
                })?;
                (home, name)
            }
            // `file/`, which the kernel does not look up.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory && ends_in_slash => {
                return Err(Error::NotDirectory(shown));
            }
            Err(error) => return Err(refused(error)),
        };
        let wanted = Access::WRITE_OK | Access::EXEC_OK;
        accessat(&home, ".", wanted, AtFlags::empty()).map_err(|errno| refused(errno.into()))?;
        beneath::directory(&home, b"").map_err(|errno| Error::NoOpenat2 {
            host: shown.clone(),
            source: errno.into(),
        })?;
        Ok(Self {
            home: Arc::new(home),
            missing,
            name,
            own,
            shown,
            beat: Arc::clone(beat),
        })
    }

    /// The directory to stage in.
    pub(super) fn home(&self) -> &Arc<OwnedFd> {
        &self.home
    }

    /// The counter that advances when the host answers.
    pub(super) fn beat(&self) -> &Arc<Beat> {
        &self.beat
    }

    /// The place as the user gave it, fit to be shown.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }

    /// Returns the place of a directory, or of a file. Makes directories that are missing on the way; returns how many.
    ///
    /// # Errors
    /// Something else is in its place, or is on another file system than it was.
    pub(super) fn find(&self, is_directory: bool) -> Result<(Site, usize), CopyError> {
        let mut dir = beneath::directory(&self.home, b"").map_err(self.refused())?;
        let mut made = 0;
        for name in &self.missing {
            match mkdirat(&dir, name, Mode::from_raw_mode(0o777)) {
                Ok(()) => made += 1,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.refused()(errno)),
            }
            dir = beneath::directory(&dir, name.as_bytes()).map_err(self.refused())?;
        }
        let own = || self.own.clone().ok_or(CopyError::Nameless);
        let site = match &self.name {
            Name::Onto if is_directory => Site::Merge { dir },
            Name::Onto => Site::Put { dir, name: own()? },
            Name::Becomes(name) | Name::Inside(name) => {
                let onto_directory = kind_of(&dir, name) == Some(FileType::Directory);
                let open = || beneath::directory(&dir, name).map_err(self.refused());
                match (onto_directory, is_directory, &self.name) {
                    (true, true, _) => Site::Merge { dir: open()? },
                    (true, false, Name::Becomes(_)) => Site::Put {
                        dir: open()?,
                        name: own()?,
                    },
                    _ => Site::Put {
                        dir,
                        name: name.clone(),
                    },
                }
            }
        };
        Ok((site, made))
    }

    /// Removes the last `made` directories again that [`Self::find`] has made, if they are empty.
    pub(super) fn forget(&self, made: usize) {
        for depth in (0..self.missing.len()).rev().take(made) {
            let above = self.missing[..depth].iter();
            let above = above.fold(Vec::new(), |path, name| path::join(&path, name.as_bytes()));
            if let Ok(dir) = beneath::directory(&self.home, &above) {
                let _ = unlinkat(dir, &self.missing[depth], AtFlags::REMOVEDIR);
            }
        }
    }

    fn refused(&self) -> impl Fn(Errno) -> CopyError + '_ {
        |errno| CopyError::host(self.shown.clone(), errno)
    }
}

/// Returns the kind of what has this name; `None` if that cannot be told.
pub(super) fn kind_of(dir: &OwnedFd, name: &[u8]) -> Option<FileType> {
    let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some(FileType::from_raw_mode(stat.st_mode))
}

/// The last component of a path, where that is a name.
fn own_name(path: &[u8]) -> Option<Vec<u8>> {
    let end = path.iter().rposition(|&byte| byte != b'/')?;
    let (_, name) = path::split(&path[..=end]);
    (name != b"." && name != b"..").then(|| name.to_vec())
}

fn parent_and_name<'p>(path: &'p Path, shown: &str) -> Result<(&'p Path, Name), Error> {
    let name = path.file_name().filter(|_| !path.ends_with(".."));
    let name = name.ok_or_else(|| Error::NoDirectory(shown.to_owned()))?;
    Ok((parent(path), Name::Becomes(name.as_bytes().to_vec())))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Opens the deepest directory of a path that is there; names of the others are added to `missing`.
fn deepest(path: &Path, missing: &mut Vec<OsString>) -> io::Result<OwnedFd> {
    let mut at = path;
    loop {
        match open_directory(at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing.insert(0, at.file_name().ok_or(error)?.to_owned());
                at = parent(at);
            }
            result => return result,
        }
    }
}

/// The user's own path: links in it are followed.
fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}
