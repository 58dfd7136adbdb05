//! Landlock: the directories and files below which a thread may still open, make and remove something.
//!
//! Files that are open already stay usable. The calls are in `sys.rs`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::{self, RulesetAttr};

/// Rights of include/uapi/linux/landlock.h.
mod right {
    pub(super) const EXECUTE: u64 = 1 << 0;
    pub(super) const WRITE_FILE: u64 = 1 << 1;
    pub(super) const READ_FILE: u64 = 1 << 2;
    pub(super) const READ_DIR: u64 = 1 << 3;
    pub(super) const REMOVE_DIR: u64 = 1 << 4;
    pub(super) const REMOVE_FILE: u64 = 1 << 5;
    pub(super) const MAKE_DIR: u64 = 1 << 7;
    pub(super) const MAKE_REG: u64 = 1 << 8;
    pub(super) const MAKE_SYM: u64 = 1 << 12;
    pub(super) const REFER: u64 = 1 << 13;
    pub(super) const TRUNCATE: u64 = 1 << 14;
    /// All up to the one before `REFER`.
    pub(super) const FIRST: u64 = (1 << 13) - 1;
    pub(super) const IOCTL_DEV: u64 = 1 << 15;
    /// Those that a rule for a file can have.
    pub(super) const OF_A_FILE: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE;
}

/// `LANDLOCK_ACCESS_NET_BIND_TCP` and `LANDLOCK_ACCESS_NET_CONNECT_TCP`.
const TCP: u64 = 3;
/// `LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET`.
const ABSTRACT_SOCKETS: u64 = 1;
/// The first version that can let names be moved from one directory to another.
const VERSION_MIN: u64 = 2;

/// The uses that a rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading files, listing directories.
    Read,
    /// That, and running programs.
    Execute,
    /// Reading and writing a file that is there.
    Write,
    /// Giving an open file a name, and removing that.
    Name,
    /// Making directories.
    Mark,
    /// Making, reading, writing, moving and removing files, directories and links.
    Build,
}

impl Access {
    fn rights(self) -> u64 {
        use right::*;
        let read = READ_FILE | READ_DIR;
        match self {
            Self::Read => read,
            Self::Execute => read | EXECUTE,
            Self::Write => READ_FILE | WRITE_FILE | TRUNCATE,
            Self::Name => MAKE_REG | REMOVE_FILE | REFER,
            Self::Mark => MAKE_DIR,
            Self::Build => {
                let made = MAKE_DIR | MAKE_REG | MAKE_SYM;
                let removed = REMOVE_DIR | REMOVE_FILE;
                read | WRITE_FILE | TRUNCATE | made | removed | REFER
            }
        }
    }
}

/// Rules, to be put on a thread. Without any nothing can be opened.
#[derive(Debug)]
pub(crate) struct Ruleset {
    fd: OwnedFd,
    handled: u64,
}

/// The kinds of use of the network that a ruleset leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Net {
    /// None, as far as the kernel can say so.
    None,
    /// All.
    All,
}

impl Ruleset {
    /// Makes a ruleset without rules, under which no connection can be made either.
    ///
    /// # Errors
    ///
    /// The kernel has no Landlock, or one that is too old.
    pub(crate) fn new() -> io::Result<Self> {
        Self::with(Net::None)
    }

    /// Makes a ruleset without rules for files, and none for connections.
    ///
    /// # Errors
    ///
    /// The kernel has no Landlock, or one that is too old.
    pub(crate) fn with_network() -> io::Result<Self> {
        Self::with(Net::All)
    }

    fn with(net: Net) -> io::Result<Self> {
        let version = version()?;
        let mut handled = right::FIRST | right::REFER;
        if version >= 3 {
            handled |= right::TRUNCATE;
        }
        if version >= 5 {
            handled |= right::IOCTL_DEV;
        }
        let none = net == Net::None;
        let attr = RulesetAttr {
            handled_access_fs: handled,
            handled_access_net: if version >= 4 && none { TCP } else { 0 },
            scoped: if version >= 6 { ABSTRACT_SOCKETS } else { 0 },
        };
        // An older kernel knows fewer fields.
        let size = match version {
            ..=3 => 8,
            4..=5 => 16,
            _ => 24,
        };
        let fd = sys::create_ruleset(&attr, size)?;
        Ok(Self { fd, handled })
    }

    /// Allows a use of a file, or of all below a directory. `is_file` is true for a file.
    ///
    /// # Errors
    ///
    /// The descriptor leads to neither. A file that has no place in a file system (memory, a pipe) needs no rule, and gets none.
    pub(crate) fn allow(
        &self,
        place: BorrowedFd<'_>,
        is_file: bool,
        access: Access,
    ) -> io::Result<()> {
        let mut rights = access.rights() & self.handled;
        if is_file {
            rights &= right::OF_A_FILE;
        }
        match sys::add_rule(self.fd.as_fd(), place, rights) {
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => Ok(()),
            result => result,
        }
    }

    /// Puts the rules on the calling thread, which can gain no privileges any more; its threads and children inherit them.
    /// Allocates nothing and takes no lock.
    ///
    /// # Errors
    ///
    /// The thread may still gain privileges; too many rulesets are in force already.
    pub(crate) fn enter(&self) -> io::Result<()> {
        sys::restrict_self(self.fd.as_fd())
    }
}

/// Returns the kernel's version of Landlock.
fn version() -> io::Result<u64> {
    match sys::landlock_version()? {
        version @ VERSION_MIN.. => Ok(version),
        _ => Err(io::Error::other("it is that of Linux before 5.19")),
    }
}

/// Returns why this host has no Landlock, if it has none.
pub(crate) fn missing() -> Option<String> {
    let error = version().err()?;
    Some(match error.raw_os_error() {
        Some(libc::ENOSYS) => "the kernel is older than Linux 5.19 or built without it".to_owned(),
        Some(libc::EOPNOTSUPP) => "it is switched off when this kernel boots (lsm=)".to_owned(),
        None => error.to_string(),
        _ => error.kind().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::thread;

    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    /// A thread's restriction is its own: the rest of the test process goes on as before.
    #[test]
    fn a_thread_reaches_what_is_below_its_directory_and_nothing_else() {
        if let Some(why) = missing() {
            panic!("this test needs Landlock: {why}");
        }
        let inside = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "x").unwrap();
        let (below, beside) = (inside.path().to_owned(), outside.path().to_owned());
        let ruleset = Ruleset::new().unwrap();
        let place = open(inside.path());
        ruleset.allow(place.as_fd(), false, Access::Build).unwrap();
        let thread = thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            ruleset.enter().unwrap();
            fs::create_dir(below.join("a")).unwrap();
            fs::write(below.join("a/file"), "x").unwrap();
            fs::rename(below.join("a/file"), below.join("file")).unwrap();
            let denied = |result: io::Result<()>| {
                assert_eq!(result.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            };
            denied(fs::read(beside.join("secret")).map(drop));
            denied(fs::write(beside.join("new"), "x"));
            denied(fs::remove_file(beside.join("secret")));
            std::net::TcpStream::connect(("127.0.0.1", 9)).map(drop)
        });
        let refused = match version() {
            // Before, Landlock knew no connections.
            Ok(..4) => io::ErrorKind::ConnectionRefused,
            _ => io::ErrorKind::PermissionDenied,
        };
        assert_eq!(thread.join().unwrap().unwrap_err().kind(), refused);
        assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"x");
        assert_eq!(fs::read(inside.path().join("file")).unwrap(), b"x");
    }
}
