//! What the user wants, typed and checked: the output of `cli.rs` and the input of every stage.
//!
//! Nothing here is a string that still has to be understood. Knows no flag names.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::units::ByteSize;

/// How long a command has to end once it has been told to.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// How much `--copy-out` brings back at most.
pub const COPY_OUT_LIMIT: ByteSize = ByteSize::mib(1024);

/// Everything `rdvm run` was asked to do.
#[derive(Debug, Clone)]
pub struct Request {
    /// The image and how its owners are to be read.
    pub image: ImageRef,
    /// What to run in it.
    pub command: Command,
    /// Guest RAM.
    pub memory: MemoryWish,
    /// Number of vCPUs, 1 to 16.
    pub cpus: u8,
    /// Which kernel.
    pub kernel: KernelWish,
    /// Words added to the end of the kernel command line.
    pub append: Option<String>,
    /// Which engine.
    pub engine: EngineWish,
    /// The user's own init instead of ours (the status port is then read as text).
    pub rdinit: Option<PathBuf>,
    /// What goes in before the command runs, and what comes out when it has ended.
    pub copies: Copies,
    /// What the command's standard input is.
    pub stdin: Stdin,
    /// The machine is stopped when it has run for so long.
    pub timeout: Option<Duration>,
    /// How long the command has to end by itself once it has been told to, before the machine is stopped.
    pub stop_timeout: Duration,
    /// How much the command may print, on standard output and on the console each.
    pub max_output: Option<ByteSize>,
    /// What becomes of the console.
    pub console: ConsoleWish,
    /// Whether the guest is to say when its kernel unpacked the initrd.
    pub timings: bool,
    /// Whether an archive, once packed, is kept for the next run.
    pub cache: bool,
    /// Whether the packed image is kept in a file that all machines which run it have mapped.
    pub share: bool,
}

impl Request {
    /// A command in the image at `image`, a directory or an archive, with everything else as `rdvm run` has it by default.
    pub fn new<W: Into<OsString>>(
        image: impl Into<PathBuf>,
        argv: impl IntoIterator<Item = W>,
    ) -> Self {
        Self {
            image: ImageRef {
                path: image.into(),
                ..ImageRef::default()
            },
            command: Command {
                argv: argv.into_iter().map(Into::into).collect(),
                ..Command::default()
            },
            memory: MemoryWish::FromImage,
            cpus: 1,
            kernel: KernelWish::Search,
            append: None,
            engine: EngineWish::Auto,
            rdinit: None,
            copies: Copies::default(),
            stdin: Stdin::default(),
            timeout: None,
            stop_timeout: STOP_TIMEOUT,
            max_output: None,
            console: ConsoleWish::default(),
            timings: false,
            cache: false,
            share: false,
        }
    }
}

impl Request {
    /// Whether anything can come up that PID 1 must be told while the command runs. One of the user's own listens to nobody.
    pub fn takes_orders(&self) -> bool {
        let Stdin { interactive, tty } = self.stdin;
        let ends = self.timeout.is_some() || self.max_output.is_some();
        self.rdinit.is_none() && (interactive || tty || ends || !self.copies.out.is_empty())
    }

    /// Whether more may go in or out than a serial port is made for.
    pub fn wants_rings(&self) -> bool {
        self.rdinit.is_none() && (self.stdin.interactive || !self.copies.out.is_empty())
    }
}

/// The IMAGE argument, and what is stacked on it.
#[derive(Debug, Clone, Default)]
pub struct ImageRef {
    /// A directory or an archive; `-` is an archive on standard input.
    pub path: PathBuf,
    /// What it is, where the content is not to be asked.
    pub format: Option<Format>,
    /// A tar archive is the lowest layer of an image: names that begin with `.wh.` are whiteouts there too, of nothing.
    pub is_layer: bool,
    /// Directories and archives to put on top of it, in this order.
    pub layers: Vec<PathBuf>,
    /// Which image of an archive that holds several: a name with tag, or a digest.
    pub tag: Option<String>,
    /// Who owns a directory's files in the guest; archives say it themselves.
    pub owner: Ownership,
    /// A save file of `fakeroot -s`, which has the last word on owners, modes and devices.
    pub fakeroot: Option<PathBuf>,
    /// What an archive may come to.
    pub limits: Limits,
    /// What its content digest has to be.
    pub expect: Expectation,
}

/// Which image it has to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Expectation {
    /// What the project's `rdvm.lock` says, if there is one and it knows the image.
    #[default]
    Lock,
    /// The one with this digest.
    Digest(Digest),
    /// Any.
    Nothing,
}

/// The form an image comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A directory that holds a root file system.
    Dir,
    /// A tar archive of a root file system.
    Tar,
    /// What `docker save` writes.
    Docker,
    /// An OCI image layout, as a directory or in a tar archive.
    Oci,
    /// newc cpio, one archive or several behind each other.
    Cpio,
}

/// Against archives that come to more than anybody meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How many bytes all that is unpacked may have; half of this machine's memory when not given.
    pub unpacked: Option<ByteSize>,
    /// How many members all archives may have together.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unpacked: None,
            entries: 4_000_000,
        }
    }
}

/// Who owns the image's files in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Ownership {
    /// Everything is 0:0.
    #[default]
    Root,
    /// As on the host.
    Keep,
    /// Host numbers are looked up in ranges; a number in none of them is an error that names the file.
    Map(Vec<OwnerRange>),
}

/// `count` numbers from `host` on become `guest` and following, for users and groups alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnerRange {
    /// First number on the host.
    pub host: u32,
    /// What it becomes in the guest.
    pub guest: u32,
    /// How many follow.
    pub count: u32,
}

/// The command and its surroundings.
#[derive(Debug, Clone, Default)]
pub struct Command {
    /// Program in the place of the image's own.
    pub entrypoint: Option<OsString>,
    /// Arguments, or program and arguments where there is no entrypoint; empty means what the image says, or `/init`.
    pub argv: Vec<OsString>,
    /// `NAME=VALUE` entries, later ones win.
    pub env: Vec<OsString>,
    /// Working directory in the guest; `/` when not given.
    pub workdir: Option<OsString>,
    /// Who runs it.
    pub user: Option<UserWish>,
    /// Host name in the guest.
    pub hostname: Option<OsString>,
    /// Resource limits, later ones of one resource win.
    pub ulimits: Vec<Ulimit>,
}

/// A resource limit of the command, as `setrlimit(2)` takes it: `u64::MAX` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ulimit {
    /// `RLIMIT_NOFILE` and the like.
    pub resource: u32,
    /// What the command starts with.
    pub soft: u64,
    /// What it may raise it to.
    pub hard: u64,
}

/// The limits' names, as docker has them, and their numbers (`include/uapi/asm-generic/resource.h`).
pub const ULIMITS: [(&str, u32); 16] = [
    ("cpu", 0),
    ("fsize", 1),
    ("data", 2),
    ("stack", 3),
    ("core", 4),
    ("rss", 5),
    ("nproc", 6),
    ("nofile", 7),
    ("memlock", 8),
    ("as", 9),
    ("locks", 10),
    ("sigpending", 11),
    ("msgqueue", 12),
    ("nice", 13),
    ("rtprio", 14),
    ("rttime", 15),
];

/// The command's standard input, and whether it gets a terminal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stdin {
    /// It is ours; empty otherwise.
    pub interactive: bool,
    /// The command gets a terminal of its own for all three streams.
    pub tty: bool,
}

/// Files that go in and out.
#[derive(Debug, Clone)]
pub struct Copies {
    /// Before the command runs.
    pub into: Vec<CopyIn>,
    /// What of it stays out, as lines of a `.gitignore`.
    pub exclude: Vec<String>,
    /// When the command has ended.
    pub out: Vec<CopyOut>,
    /// How many bytes come out at most, all files together.
    pub limit: ByteSize,
}

impl Default for Copies {
    fn default() -> Self {
        Self {
            into: Vec::new(),
            exclude: Vec::new(),
            out: Vec::new(),
            limit: COPY_OUT_LIMIT,
        }
    }
}

/// `--copy-in HOST:GUEST`. With a slash at its end GUEST is the directory to put it into, else what it becomes; a
/// directory is merged into one that is there, a file goes into one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyIn {
    /// A file or a directory.
    pub host: PathBuf,
    /// Where it goes; from the working directory when relative.
    pub guest: OsString,
}

/// `--copy-out GUEST:HOST`, by the same rules the other way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOut {
    /// A file or a directory; from the working directory when relative.
    pub guest: OsString,
    /// Where it goes.
    pub host: PathBuf,
}

/// `-u USER[:GROUP]`, numbers or names of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserWish {
    /// User.
    pub user: Id,
    /// Group; the user's own when not given.
    pub group: Option<Id>,
}

impl fmt::Display for UserWish {
    /// As it is written: `USER` or `USER:GROUP`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.user)?;
        match &self.group {
            Some(group) => write!(f, ":{group}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A number, or a name to be looked up in the image's own `/etc/passwd` or `/etc/group`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Id {
    /// A number.
    Number(u32),
    /// A name.
    Name(String),
}

/// How much RAM the guest gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryWish {
    /// What the image needs.
    FromImage,
    /// So much; refused when the image needs more.
    Exactly(ByteSize),
}

/// Which kernel boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelWish {
    /// The first of the search order.
    Search,
    /// This file.
    File(PathBuf),
    /// As typed after `-k`: a path when it has a slash or is there, else a release in the host's /boot.
    Named(OsString),
}

/// Which engine runs the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineWish {
    /// KVM where it can run an unmodified kernel, else QEMU.
    Auto,
    /// In process, on KVM.
    Kvm,
    /// A QEMU child process with software emulation.
    Qemu,
}

/// What becomes of the console's bytes.
#[derive(Debug, Clone, Default)]
pub struct ConsoleWish {
    /// The kernel may speak, and all of it is shown.
    pub show_boot: bool,
    /// Everything on the console also goes to this file.
    pub file: Option<PathBuf>,
}
