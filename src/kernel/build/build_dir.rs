//! Where a build happens: a temporary directory, a log, and programs that end when a signal comes.
//!
//! The directory is below the cache, or below TMPDIR when that is set, and is removed however a build ends. Knows
//! nothing of kernels.

use std::env;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, statvfs};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, kill_process_group, pidfd_open};

use super::error::Error;
use rdvm_hostfs::atomic::under_new_name;
use rdvm_hostfs::escape::{escaped, shown};
use rdvm_hostfs::units::ByteSize;
use rdvm_vmm::stop_signals::StopSignals;

/// The start of the directory's name, with which it may lie in a directory that all users share.
const PREFIX: &str = "rdvm-build-";
/// The part of the log that an error shows.
const LAST_BYTES: u64 = 4096;
const LAST_LINES: usize = 8;
/// The interval at which a program's output is looked at: often enough for a line on a terminal, and nothing beside a compiler.
const LOOK_EVERY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 250_000_000,
};
/// The variables of our environment that programs see. Not MAKEFLAGS, ARCH and the like: `make test` runs a build too.
const ENVIRONMENT: [&str; 2] = ["PATH", "HOME"];

/// Lets one build at a time work in `home`, which is made where it is missing. The lock ends with the file.
///
/// # Errors
/// `Host`.
pub(super) fn lock(home: &Path, say: &dyn Fn(&str)) -> Result<File, Error> {
    let file = home.join("lock");
    let open = || {
        fs::create_dir_all(home)?;
        let mut options = File::options();
        let lock = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(&file)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                say("waiting for another kernel build to end");
                flock(&lock, FlockOperation::LockExclusive)?;
            }
            result => result?,
        }
        Ok(lock)
    };
    open().map_err(host(&file))
}

fn host(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let what = shown(path);
    move |source| Error::Host { what, source }
}

/// Makes the signals that interrupt a build.
pub type Catch = fn() -> io::Result<StopSignals>;

/// The place of one build.
#[derive(Debug)]
pub(super) struct BuildDir {
    directory: PathBuf,
    /// Locked as long as the build lives.
    _lock: OwnedFd,
    log: PathBuf,
    signals: StopSignals,
}

impl BuildDir {
    /// Makes the temporary directory, in which `need` must be free, and starts the log `build.log` in `home`. `catch` is called
    /// then, and its signals end the programs that are run. What killed builds left is removed first, in `home` and where this one will work.
    ///
    /// # Errors
    /// `Space`, `Host`.
    pub(super) fn open(home: &Path, need: ByteSize, catch: Catch) -> Result<Self, Error> {
        let parent = env::var_os("TMPDIR").filter(|value| !value.is_empty());
        let parent = parent.map_or_else(|| home.to_owned(), PathBuf::from);
        Self::open_in(&parent, home, need, catch)
    }

    fn open_in(parent: &Path, home: &Path, need: ByteSize, catch: Catch) -> Result<Self, Error> {
        for place in [home, parent] {
            remove_leftovers(place);
        }
        let about = statvfs(parent).map_err(io::Error::from);
        let about = about.map_err(host(parent))?;
        let free = ByteSize(about.f_bavail.saturating_mul(about.f_frsize));
        if free < need {
            let place = shown(parent);
            return Err(Error::Space { place, need, free });
        }
        let log = home.join("build.log");
        File::create(&log).map_err(host(&log))?;
        let signals = catch().map_err(host(parent))?;
        // make wants to know where it is from wherever it is called.
        let parent = parent.canonicalize().map_err(host(parent))?;
        let (directory, lock) = under_new_name(&parent, PREFIX, |name| {
            DirBuilder::new().mode(0o700).create(name)?;
            let lock = open_directory(name)?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            Ok(lock)
        })
        .map_err(host(&parent))?;
        Ok(Self {
            directory,
            _lock: lock,
            log,
            signals,
        })
    }

    /// The log's file.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Removes the log of a build that went well.
    pub(super) fn forget_log(&self) {
        // A log that stays does no harm.
        let _ = fs::remove_file(&self.log);
    }

    /// A new directory in it.
    ///
    /// # Errors
    /// `Host`.
    pub(super) fn directory(&self, name: &str) -> Result<PathBuf, Error> {
        let path = self.directory.join(name);
        fs::create_dir(&path).map_err(host(&path))?;
        Ok(path)
    }

    /// A new file in it.
    ///
    /// # Errors
    /// `Host`.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, Error> {
        let path = self.directory.join(name);
        fs::write(&path, bytes).map_err(host(&path))?;
        Ok(path)
    }

    /// The text of a file in it.
    ///
    /// # Errors
    /// `Host`.
    pub(super) fn read(&self, name: &str) -> Result<String, Error> {
        let path = self.directory.join(name);
        fs::read_to_string(&path).map_err(host(&path))
    }

    /// Runs a program to its end, all its output in the log. A signal ends it and everything that it started.
    ///
    /// # Errors
    /// `Step` when it fails, `Interrupted`, `Host`.
    pub(super) fn run(&self, what: &'static str, command: Command) -> Result<(), Error> {
        self.run_and_look(what, command, None)
    }

    /// The same; `look` gets what the program has written since it was last called, several times a second.
    ///
    /// # Errors
    /// As above.
    pub(super) fn run_watched(
        &self,
        what: &'static str,
        command: Command,
        look: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Error> {
        // A log that cannot be read costs the progress and nothing else.
        let log = File::open(&self.log).and_then(|mut log| {
            log.seek(SeekFrom::End(0))?;
            Ok(log)
        });
        let mut look = log.map(|log| LogReader { log, look });
        self.run_and_look(what, command, look.as_mut().ok())
    }

    fn run_and_look(
        &self,
        what: &'static str,
        mut command: Command,
        reader: Option<&mut LogReader<'_>>,
    ) -> Result<(), Error> {
        let mut start = || {
            let mut log = File::options().append(true).open(&self.log)?;
            writeln!(log, "== {command:?}")?;
            let kept = ENVIRONMENT.map(|name| env::var_os(name).map(|value| (name, value)));
            // A compiler that is killed leaves files in TMPDIR, so that goes away too.
            command
                .env_clear()
                .envs(kept.into_iter().flatten())
                .env("LC_ALL", "C")
                .env("TMPDIR", &self.directory)
                .current_dir(&self.directory)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .process_group(0)
                .spawn()
        };
        let mut child = start().map_err(host(Path::new(what)))?;
        let stopped = self.wait(&child, reader);
        if !matches!(stopped, Ok(None)) {
            // It may be gone by now.
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        }
        let status = child.wait().map_err(host(Path::new(what)))?;
        match stopped {
            Err(errno) => Err(host(Path::new(what))(errno.into())),
            Ok(Some(signal)) => Err(Error::Interrupted(signal)),
            Ok(None) if status.success() => Ok(()),
            Ok(None) => Err(self.failure(what, status)),
        }
    }

    /// Waits for the child's end or for a signal, which it gives.
    fn wait(
        &self,
        child: &Child,
        mut reader: Option<&mut LogReader<'_>>,
    ) -> Result<Option<i32>, Errno> {
        let child = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
        let interval = reader.is_some().then_some(LOOK_EVERY);
        loop {
            let signals = self.signals.fd();
            let mut set = [
                PollFd::new(&signals, PollFlags::IN),
                PollFd::new(&child, PollFlags::IN),
            ];
            match poll(&mut set, interval.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
            if let Some(reader) = &mut reader {
                reader.read();
            }
            let ended = !set[1].revents().is_empty();
            match self.signals.signal() {
                None if ended => return Ok(None),
                None => {}
                signal => return Ok(signal),
            }
        }
    }

    fn failure(&self, what: &'static str, status: ExitStatus) -> Error {
        Error::Step {
            what,
            how: status.to_string(),
            log: shown(&self.log),
            // A log that cannot be read any more must not hide the failure.
            end: last_lines(&self.log).unwrap_or_default(),
        }
    }
}

/// The new part of the log, and its listener.
struct LogReader<'a> {
    log: File,
    look: &'a mut dyn FnMut(&[u8]),
}

impl LogReader<'_> {
    fn read(&mut self) {
        let mut piece = [0; 16 << 10];
        while let Ok(length @ 1..) = self.log.read(&mut piece) {
            (self.look)(&piece[..length]);
        }
    }
}

impl Drop for BuildDir {
    fn drop(&mut self) {
        // Programs that were killed a moment ago may still be making files.
        for _ in 0..20 {
            match fs::remove_dir_all(&self.directory) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    thread::sleep(Duration::from_millis(50));
                }
                _ => return,
            }
        }
    }
}

/// Removes the directories of builds that were killed: those of this user that are not locked any more.
fn remove_leftovers(place: &Path) {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(PREFIX.as_bytes())
            && let Ok(directory) = open_directory(&entry.path())
            && fstat(&directory).is_ok_and(|stat| stat.st_uid == geteuid().as_raw())
            && flock(&directory, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            // What cannot be removed is only in the way of the disk's other uses.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// The last lines of a file, each after a line feed and indented.
fn last_lines(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(bytes.saturating_sub(LAST_BYTES)))?;
    let mut end = Vec::new();
    file.take(LAST_BYTES).read_to_end(&mut end)?;
    let lines = end.split(|&byte| byte == b'\n');
    let lines: Vec<&[u8]> = lines.filter(|line| !line.is_empty()).collect();
    let lines = &lines[lines.len().saturating_sub(LAST_LINES)..];
    let lines = lines.iter().map(|line| format!("\n  {}", escaped(line)));
    Ok(lines.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_room_is_refused_before_anything_is_made() {
        let home = tempfile::tempdir().unwrap();
        let error = BuildDir::open(home.path(), ByteSize(u64::MAX), StopSignals::new).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("a kernel build needs "), "{text}");
        assert!(
            text.ends_with("make room, or set TMPDIR to another place"),
            "{text}"
        );
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_killed_build_left_is_removed_wherever_it_worked_and_a_living_ones_stays() {
        let (home, parent) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let names = |place: &tempfile::TempDir| -> Vec<PathBuf> {
            let list = fs::read_dir(place.path()).unwrap().flatten();
            let is_build = |path: &PathBuf| !path.ends_with("build.log");
            let mut names: Vec<_> = list.map(|entry| entry.path()).filter(is_build).collect();
            names.sort();
            names
        };
        for place in [&home, &parent] {
            fs::create_dir_all(place.path().join(format!("{PREFIX}dead/out"))).unwrap();
        }
        let other = parent.path().join("build-of-somebody");
        fs::create_dir(&other).unwrap();
        let open = || {
            BuildDir::open_in(parent.path(), home.path(), ByteSize(0), StopSignals::new).unwrap()
        };
        let first = open();
        assert_eq!(names(&home), [""; 0].map(PathBuf::from));
        let expected = [other.clone(), first.directory.clone()];
        assert_eq!(names(&parent), expected);
        // Of another cache, it may be: it has its own lock.
        let second = open();
        assert!(first.directory.is_dir() && second.directory.is_dir());
        drop((first, second));
        assert_eq!(names(&parent), [other]);
    }

    #[test]
    fn an_error_shows_the_last_lines_of_the_log_without_their_escapes() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("log");
        let long = "x".repeat(LAST_BYTES as usize);
        fs::write(&log, format!("first\n{long}\n\nlast \x1b[1m\n")).unwrap();
        let lines = last_lines(&log).unwrap();
        assert!(!lines.contains("first"), "{lines}");
        assert!(lines.ends_with("x\n  last \\u{1b}[1m"), "{lines}");
    }
}
