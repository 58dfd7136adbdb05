//! The records of a container: a directory of its own below the runtime's root.
//!
//! | file | holds |
//! |---|---|
//! | `lock` | nothing; whoever changes the container has it locked |
//! | `config.json` | the configuration at the time of `create` |
//! | `state.json` | [`Record`]; replaced as a whole |
//! | `machine` | the socket of the machine's process (`control.rs`) |
//! | `started` | nothing; there once the command may run |
//!
//! Any process may be killed at any time. What is true is read off the kernel: a container lives as long as the process with
//! its number and its time of birth does, and a lock goes with who holds it. A directory without a whole record is what a
//! killed `create` has left; it counts as none, and `delete` and `create` clear it away.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::cgroup;
use super::error::{Error, Result, at};
use super::proc::ProcessId;
use super::spec::{Hooks, VERSION};
use rdvm_hostfs::atomic::{self, AtomicFile};

/// The names of its files.
pub(super) const CONFIG: &str = "config.json";
const RECORD: &str = "state.json";
pub(super) const MACHINE: &str = "machine";
pub(super) const STARTED: &str = "started";
/// The socket of `create`, while it is at work.
pub(super) const CREATOR: &str = "create";

/// Where a container is in its life (the specification's "State").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// Its record is not whole yet.
    Creating,
    /// Its machine waits for `start`.
    Created,
    /// Its command may run.
    Running,
    /// It is stopped in its tracks.
    Paused,
    /// Its process is gone.
    Stopped,
}

impl Status {
    /// Returns the specification's word.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// The record that `create` has written.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    /// The machine's process; none while it is being created.
    pub(super) process: Option<ProcessId>,
    pub(super) bundle: PathBuf,
    pub(super) rootfs: PathBuf,
    /// RFC 3339.
    pub(super) created: String,
    pub(super) annotations: BTreeMap<String, String>,
    /// Control groups that are removed with the container.
    pub(super) cgroups: Vec<PathBuf>,
    pub(super) hooks: Hooks,
    /// The container is whole.
    pub(super) is_complete: bool,
}

/// The state as the specification has it, with what runc adds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    oci_version: &'static str,
    id: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    bundle: &'a Path,
    rootfs: &'a Path,
    created: &'a str,
    owner: &'static str,
    annotations: &'a BTreeMap<String, String>,
}

/// The directory of a container.
#[derive(Debug, Clone)]
pub(super) struct StateDir {
    id: String,
    path: PathBuf,
}

/// The right to change a container, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code, reason = "closing it unlocks")] File);

impl StateDir {
    /// The directory of the container `id` below `root`.
    ///
    /// # Errors
    /// The name cannot be one.
    pub(super) fn of(root: &Path, id: &str) -> Result<Self> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
        if id.is_empty() || id.len() > 255 || matches!(id, "." | "..") || !id.chars().all(is_plain)
        {
            return Err(Error::Name { id: id.to_owned() });
        }
        Ok(Self {
            id: id.to_owned(),
            path: root.join(id),
        })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes the directory of a new container and locks it.
    ///
    /// # Errors
    /// There is such a container; it cannot be made.
    pub(super) fn make(&self) -> Result<Lock> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&self.path).map_err(at(&self.path))?;
        let exists = || Error::Exists {
            id: self.id.clone(),
        };
        let lock = self.try_lock()?.ok_or_else(exists)?;
        match self.record() {
            Ok(record) if record.is_complete => return Err(exists()),
            // Left by one that was killed.
            Ok(record) => cgroup::remove(&record.cgroups),
            Err(_) => {}
        }
        let started = self.file(STARTED);
        match fs::remove_dir(&started) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(at(&started)(error));
            }
            _ => {}
        }
        for name in [CONFIG, RECORD, MACHINE, CREATOR] {
            let file = self.file(name);
            atomic::remove_if_there(&file).map_err(at(&file))?;
        }
        Ok(lock)
    }

    /// Waits for the right to change the container.
    ///
    /// # Errors
    /// There is no such container.
    pub(super) fn lock(&self) -> Result<Lock> {
        let file = self.lock_file()?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| at(&self.path)(error.into()))?;
        match self.is_its_lock(&file) {
            true => Ok(Lock(file)),
            false => Err(self.unknown()),
        }
    }

    /// The same without waiting; `None` if somebody else has it, or had it and has removed the container.
    fn try_lock(&self) -> Result<Option<Lock>> {
        let file = self.lock_file()?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock(file)).filter(|lock| self.is_its_lock(&lock.0))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(at(&self.path)(error.into())),
        }
    }

    /// True if `file` is still the lock of this directory, which may have been removed and made anew.
    fn is_its_lock(&self, file: &File) -> bool {
        let there = fs::metadata(self.file("lock"));
        let ours = file.metadata();
        matches!((there, ours), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
    }

    fn lock_file(&self) -> Result<File> {
        let path = self.file("lock");
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        file.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.unknown(),
            _ => at(&path)(error),
        })
    }

    /// Reads the record.
    ///
    /// # Errors
    /// There is no such container.
    pub(super) fn record(&self) -> Result<Record> {
        let path = self.file(RECORD);
        let text = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.unknown(),
            _ => at(&path)(error),
        })?;
        serde_json::from_slice(&text).map_err(|source| Error::Syntax { path, source })
    }

    /// Replaces the record.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write(&self, record: &Record) -> Result<()> {
        let path = self.file(RECORD);
        let text = serde_json::to_vec(record).map_err(|error| at(&path)(error.into()))?;
        let written = AtomicFile::beside(&path).and_then(|file| {
            file.file().write_all(&text)?;
            file.put_in_place()
        });
        written.map_err(at(&path))
    }

    /// Returns the status of the container of this record. Whoever calls it holds the lock, or does not mind that a
    /// container is taken for stopped that is at its very beginning.
    pub(super) fn status(&self, record: &Record) -> Status {
        match record.process.filter(|process| process.is_alive()) {
            None => Status::Stopped,
            Some(_) if !record.is_complete => Status::Creating,
            Some(process) if process.is_stopped() => Status::Paused,
            Some(_) if self.file(STARTED).exists() => Status::Running,
            Some(_) => Status::Created,
        }
    }

    /// The same for somebody who looks on.
    pub(super) fn status_now(&self, record: &Record) -> Status {
        let is_being_made = || !record.is_complete && matches!(self.try_lock(), Ok(None));
        match self.status(record) {
            Status::Stopped if is_being_made() => Status::Creating,
            status => status,
        }
    }

    /// Returns the state as JSON, in one line.
    pub(super) fn show(&self, record: &Record, status: Status) -> String {
        let process = record.process.filter(|_| status != Status::Stopped);
        let shown = Shown {
            oci_version: VERSION,
            id: &record.id,
            status: status.as_str(),
            pid: process.map(|process| process.pid),
            bundle: &record.bundle,
            rootfs: &record.rootfs,
            created: &record.created,
            owner: "",
            annotations: &record.annotations,
        };
        serde_json::to_string(&shown).unwrap_or_default()
    }

    /// Removes everything that is kept of the container.
    ///
    /// # Errors
    /// Some of it cannot be removed.
    pub(super) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&self.path)(error)),
            _ => Ok(()),
        }
    }

    pub(super) fn unknown(&self) -> Error {
        Error::Unknown {
            id: self.id.clone(),
        }
    }
}

/// Returns the directories of all containers below `root`, by name.
///
/// # Errors
/// The directory cannot be read.
pub(super) fn all(root: &Path) -> Result<Vec<StateDir>> {
    let names = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        names => names.map_err(at(root))?,
    };
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut found: Vec<StateDir> = names
        .filter_map(|name| StateDir::of(root, &name).ok())
        .collect();
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// Returns the present time.
pub(super) fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let since = since.unwrap_or_default();
    let whole = rdvm_hostfs::civil::timestamp(since.as_secs() as i64);
    let whole = whole.trim_end_matches('Z');
    format!("{whole}.{:09}Z", since.subsec_nanos())
}
