//! What the user wants, typed and checked: the output of `cli.rs` and the input of every stage.
//!
//! Nothing here is a string that still has to be understood. Knows no flag names.

mod copies;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

pub use self::copies::{COPY_OUT_LIMIT, Copies, CopyIn, CopyOut, Links};
pub use rdvm_image::reference::{
    Expectation, Format, Id, ImageRef, Limits, OwnerRange, Ownership, UserSpec,
};
pub use rdvm_kernel::KernelSpec;
pub use rdvm_vmm::EngineChoice;

use rdvm_hostfs::units::ByteSize;

/// How long a command has to end once it has been told to.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Everything `rdvm run` was asked to do.
#[derive(Debug, Clone)]
pub struct Request {
    /// The image and how its owners are to be read.
    pub image: ImageRef,
    /// What to run in it.
    pub command: Command,
    /// Guest RAM.
    pub memory: MemorySpec,
    /// Number of vCPUs, 1 to 16.
    pub cpus: u8,
    /// Which kernel.
    pub kernel: KernelSpec,
    /// Words added to the end of the kernel command line.
    pub append: Option<String>,
    /// Which engine.
    pub engine: EngineChoice,
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
    pub console: ConsoleSpec,
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
            memory: MemorySpec::FromImage,
            cpus: 1,
            kernel: KernelSpec::Search,
            append: None,
            engine: EngineChoice::Auto,
            rdinit: None,
            copies: Copies::default(),
            stdin: Stdin::default(),
            timeout: None,
            stop_timeout: STOP_TIMEOUT,
            max_output: None,
            console: ConsoleSpec::default(),
            timings: false,
            cache: false,
            share: false,
        }
    }
}

impl Request {
    /// Whether anything can come up that PID 1 must be told while the command runs. One of the user's own listens to nobody.
    pub fn takes_requests(&self) -> bool {
        let Stdin { interactive, tty } = self.stdin;
        let ends = self.timeout.is_some() || self.max_output.is_some();
        self.rdinit.is_none() && (interactive || tty || ends || !self.copies.out.is_empty())
    }

    /// Whether more may go in or out than a serial port is made for.
    pub fn wants_rings(&self) -> bool {
        self.rdinit.is_none() && (self.stdin.interactive || !self.copies.out.is_empty())
    }
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
    pub user: Option<UserSpec>,
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

/// How much RAM the guest gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemorySpec {
    /// What the image needs.
    FromImage,
    /// So much; refused when the image needs more.
    Exactly(ByteSize),
}

/// What becomes of the console's bytes.
#[derive(Debug, Clone, Default)]
pub struct ConsoleSpec {
    /// The kernel may speak, and all of it is shown.
    pub show_boot: bool,
    /// Everything on the console also goes to this file.
    pub file: Option<PathBuf>,
}
