//! Output files that appear complete or not at all, and those that are written to in place: devices, pipes, sockets and
//! open descriptors.
//!
//! ```
//! use std::io::Write;
//! use rdvm_hostfs::atomic::AtomicFile;
//!
//! # let dir = tempfile::tempdir()?;
//! # let target = dir.path().join("report.json");
//! let file = AtomicFile::beside(&target)?;
//! file.file().write_all(b"{}")?;
//! assert!(!target.exists());
//! file.put_in_place()?;
//! assert!(target.exists());
//! # Ok::<(), std::io::Error>(())
//! ```

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, Resource, getpid, getrlimit};

/// The start of every temporary name, by which leftovers of killed processes are known.
pub const TEMPORARY: &str = ".rdvm-";
/// Names that are tried before a directory counts as unusable.
const ATTEMPTS: u64 = 100;
/// Links that are followed from one path, as in the kernel.
const LINKS: usize = 40;

/// A file being written. It has no name until it is put in place, so nothing is left of it if the process is killed; on
/// file systems without nameless files it has a temporary name, removed on drop.
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    target: PathBuf,
    state: State,
}

#[derive(Debug)]
enum State {
    Nameless,
    Named(PathBuf),
    /// A device, a pipe, a socket or an open descriptor, written to in place.
    Special,
}

impl AtomicFile {
    /// Starts a file that is to become `target`. Symbolic links are followed: the file that they lead to is replaced, or
    /// made, and the links stay.
    ///
    /// # Errors
    /// The directory is missing or cannot be written to; `target` is a directory.
    pub fn beside(target: &Path) -> io::Result<Self> {
        if let Some(file) = special(target)? {
            return Ok(Self {
                file,
                target: target.to_owned(),
                state: State::Special,
            });
        }
        let target = match resolve(target)? {
            Place::Path(path) => path,
            Place::Descriptor(_) => target.to_owned(),
        };
        if target.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(directory(&target), flags, Mode::from_raw_mode(0o666)) {
            Ok(fd) => Ok(Self {
                file: fd.into(),
                target,
                state: State::Nameless,
            }),
            Err(errno) if has_no_nameless(errno) => {
                let mut options = File::options();
                options.read(true).write(true).create_new(true);
                let (name, file) =
                    under_new_name(directory(&target), TEMPORARY, |name| options.open(name))?;
                Ok(Self {
                    file,
                    target,
                    state: State::Named(name),
                })
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes what stands at the target, so that it cannot be taken for what is being written. A stream stays.
    ///
    /// # Errors
    /// Those of removing a file that is there.
    pub fn remove_old(&self) -> io::Result<()> {
        match self.state {
            State::Special => Ok(()),
            _ => remove_if_there(&self.target),
        }
    }

    /// Returns the directory in which the file is to have its name; `None` for what is written to in place.
    pub fn directory(&self) -> Option<&Path> {
        match self.state {
            State::Special => None,
            _ => Some(directory(&self.target)),
        }
    }

    /// Returns the open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// True if any place in it can be written to, unlike in a pipe.
    pub fn is_seekable(&self) -> bool {
        !matches!(self.state, State::Special)
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// Those of link and rename; the file is removed then.
    pub fn put_in_place(mut self) -> io::Result<()> {
        if matches!(self.state, State::Nameless) {
            // A link cannot replace a file, a rename can: so it gets a temporary name for a moment.
            let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            let (name, ()) = under_new_name(directory(&self.target), TEMPORARY, |name| {
                let linked = rustix::fs::linkat(CWD, &own, CWD, name, AtFlags::SYMLINK_FOLLOW);
                Ok(linked?)
            })?;
            self.state = State::Named(name);
        }
        if let State::Named(name) = &self.state {
            fs::rename(name, &self.target)?;
            self.state = State::Special;
        }
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let State::Named(name) = &self.state {
            // It may be gone already.
            let _ = fs::remove_file(name);
        }
    }
}

/// Removes a file that may have gone already.
///
/// # Errors
/// Those of removing one that is there.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Checks that a file may have `size` bytes. A write beyond `ulimit -f` is not only an error but a deadly signal, so a file
/// that is not needed is not even begun.
///
/// # Errors
/// It may not.
pub fn fits_limit(size: u64) -> io::Result<()> {
    match getrlimit(Resource::Fsize).current {
        Some(limit) if limit < size => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("the file size limit (ulimit -f) is {limit} bytes, {size} are needed"),
        )),
        _ => Ok(()),
    }
}

/// Returns an empty file in the file system of `directory` that no name leads to, for this user alone: it is gone when it is closed.
///
/// # Errors
/// The directory is missing or cannot be written to.
pub fn unnamed(directory: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        Err(errno) if has_no_nameless(errno) => {
            let mut options = File::options();
            options.read(true).write(true).create_new(true).mode(0o600);
            let (name, file) = under_new_name(directory, TEMPORARY, |name| options.open(name))?;
            fs::remove_file(name)?;
            Ok(file)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// True if the file system makes no files without names (NFS, for one).
fn has_no_nameless(errno: Errno) -> bool {
    matches!(errno, Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL)
}

/// Has `make` make something in `directory` under a name that begins with `prefix` and is free: leftovers of killed
/// processes, also of one with the same process ID in another PID namespace, are not in the way.
///
/// # Errors
/// Those of `make`; `AlreadyExists` only when no free name was found.
pub fn under_new_name<T>(
    directory: &Path,
    prefix: &str,
    make: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<(PathBuf, T)> {
    let mut attempt = 0;
    loop {
        let random = RandomState::new().hash_one(attempt);
        let process = std::process::id();
        let path = directory.join(format!("{prefix}{process}-{random:016x}"));
        match make(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < ATTEMPTS => {
                attempt += 1;
            }
            made => return made.map(|made| (path, made)),
        }
    }
}

/// Opens `target` if it is a device, a pipe, a socket, or an open descriptor (`/dev/stdout`, `/dev/fd/N`) of any kind;
/// `None` if a file is to be made or replaced.
///
/// A regular file behind a descriptor is shared with its other users, position and all, so that none overwrites
/// another's bytes. Everything else is opened anew where that is allowed.
///
/// # Errors
/// Those of opening it; the descriptor cannot be written to.
pub fn special(target: &Path) -> io::Result<Option<File>> {
    let place = resolve(target)?;
    let kind = match target.metadata() {
        Ok(meta) => meta.file_type(),
        Err(error) if matches!(place, Place::Descriptor(_)) => return Err(error),
        Err(_) => return Ok(None),
    };
    let opened = || File::options().write(true).open(target);
    match place {
        Place::Descriptor(number) if kind.is_file() => duplicate(number, target).map(Some),
        Place::Descriptor(number) => opened().or_else(|_| duplicate(number, target)).map(Some),
        Place::Path(_) if kind.is_file() || kind.is_dir() => Ok(None),
        Place::Path(path) if kind.is_socket() => {
            let stream = UnixStream::connect(path)?;
            Ok(Some(File::from(OwnedFd::from(stream))))
        }
        Place::Path(_) => opened().map(Some),
    }
}

/// Duplicates the descriptor `number`; where the kernel does not allow that, opens the end of the file behind it.
fn duplicate(number: RawFd, target: &Path) -> io::Result<File> {
    let file = match number {
        1 => File::from(io::stdout().as_fd().try_clone_to_owned()?),
        2 => File::from(io::stderr().as_fd().try_clone_to_owned()?),
        _ => {
            let copy = rustix::process::pidfd_open(getpid(), PidfdFlags::empty());
            let copy = copy.and_then(|process| {
                rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty())
            });
            match copy {
                Ok(copy) => copy.into(),
                Err(_) => File::options().append(true).open(target)?,
            }
        }
    };
    match rustix::fs::fcntl_getfl(&file)? & OFlags::RWMODE {
        OFlags::RDONLY => Err(Errno::BADF.into()),
        _ => Ok(file),
    }
}

/// The destination of a path.
enum Place {
    /// Something with a name, which need not be there and is no link.
    Path(PathBuf),
    /// An open descriptor of this process.
    Descriptor(RawFd),
}

/// Follows the links at the end of a path, up to descriptors of this process, which are links that lead nowhere by name.
fn resolve(path: &Path) -> io::Result<Place> {
    let descriptors = fs::canonicalize("/proc/self/fd").ok();
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let parent = directory(&path);
        if descriptors.is_some()
            && fs::canonicalize(parent).ok() == descriptors
            && let Some(name) = path.file_name().and_then(|name| name.to_str())
            && let Ok(number) = name.parse()
        {
            return Ok(Place::Descriptor(number));
        }
        match fs::read_link(&path) {
            Ok(link) => path = parent.join(link),
            Err(_) => return Ok(Place::Path(path)),
        }
    }
    Err(Errno::LOOP.into())
}

/// Returns the directory that a path's last name is in.
fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn write(target: &Path, bytes: &[u8]) -> io::Result<()> {
        let draft = AtomicFile::beside(target)?;
        draft.file().write_all(bytes)?;
        draft.put_in_place()
    }

    #[test]
    fn a_draft_that_is_dropped_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        write(&target, b"old").unwrap();
        let draft = AtomicFile::beside(&target).unwrap();
        draft.file().write_all(b"half").unwrap();
        drop(draft);
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_and_a_device_is_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        std::os::unix::fs::symlink("target", &link).unwrap();
        // At first it leads nowhere.
        for text in ["new", "newer"] {
            write(&link, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), text);
            assert!(link.is_symlink());
        }
        write(Path::new("/dev/null"), b"gone").unwrap();
        assert!(write(dir.path(), b"").is_err());
        std::os::unix::fs::symlink("circle", dir.path().join("circle")).unwrap();
        assert!(write(&dir.path().join("circle"), b"").is_err());
    }

    #[test]
    fn leftovers_and_other_threads_are_not_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        let process = std::process::id();
        fs::write(dir.path().join(format!(".out.{process}.tmp")), "half").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| write(&target, b"whole").unwrap()));
            }
        });
        assert_eq!(fs::read(&target).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);

        let taken = std::cell::RefCell::new(Vec::new());
        let (name, ()) = under_new_name(dir.path(), "x-", |name| {
            taken.borrow_mut().push(name.to_owned());
            match taken.borrow().len() {
                ..5 => Err(io::ErrorKind::AlreadyExists.into()),
                _ => Ok(()),
            }
        })
        .unwrap();
        let taken = taken.into_inner();
        assert_eq!(taken.last(), Some(&name));
        let different: std::collections::BTreeSet<_> = taken.iter().collect();
        assert_eq!(different.len(), 5);
        let full = under_new_name(dir.path(), "x-", |_| {
            Err::<(), _>(io::ErrorKind::AlreadyExists.into())
        });
        assert!(full.is_err());
    }

    #[test]
    fn an_open_descriptor_is_written_to_where_its_owner_stands() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = File::create(&path).unwrap();
        let link = dir.path().join("link");
        let number = log.as_raw_fd();
        std::os::unix::fs::symlink(format!("/dev/fd/{number}"), &link).unwrap();
        log.write_all(b"one ").unwrap();
        write(Path::new(&format!("/proc/self/fd/{number}")), b"two ").unwrap();
        write(&link, b"three ").unwrap();
        log.write_all(b"four").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one two three four");
        let reader = File::open(&path).unwrap();
        let number = reader.as_raw_fd();
        assert!(write(Path::new(&format!("/dev/fd/{number}")), b"x").is_err());
        assert!(write(Path::new("/dev/fd/987654"), b"x").is_err());
    }

    #[test]
    fn pipes_and_sockets_get_the_bytes_and_are_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, socket) = (dir.path().join("fifo"), dir.path().join("socket"));
        rustix::fs::mkfifoat(CWD, &fifo, Mode::from_raw_mode(0o600)).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| write(&fifo, b"piped").unwrap());
            assert_eq!(fs::read(&fifo).unwrap(), b"piped");
        });
        write(&socket, b"sent").unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut text = String::new();
        io::Read::read_to_string(&mut stream, &mut text).unwrap();
        assert_eq!(text, "sent");
        assert!(fifo.metadata().unwrap().file_type().is_fifo());
        assert!(socket.metadata().unwrap().file_type().is_socket());
    }
}
