//! A run as typed and checked data: the output of `cli.rs` and the input of every stage.
//!
//! No field is a string that still has to be parsed. Knows no flag names.

mod container;
mod copies;
mod network;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

pub use self::container::{Capabilities, Privileges, SetupStep};
pub use self::copies::{Copies, CopyIn, CopyOut, Links};
pub use self::network::{AllowRule, Network, PublishRule, UpstreamProxy};
pub use rdvm_image::reference::{
    Expectation, Format, Id, ImageRef, Limits, OwnerRange, Ownership, UserSpec,
};
pub use rdvm_kernel::KernelSpec;
pub use rdvm_vmm::EngineChoice;

use rdvm_hostfs::progress::Progress;
use rdvm_hostfs::units::ByteSize;

/// The time between SIGTERM and the end of the machine.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// A run: an image, a command in it and the machine for both.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Request {
    /// The image, and how its owners are read.
    pub image: ImageRef,
    /// The command.
    pub command: Command,
    /// Guest RAM.
    pub memory: MemorySpec,
    /// Number of vCPUs, 1 to 16.
    pub cpus: u8,
    /// The kernel.
    pub kernel: KernelSpec,
    /// Words added to the end of the kernel command line.
    pub append: Option<String>,
    /// The engine.
    pub engine: EngineChoice,
    /// The user's own init instead of rdinit; the status port is then read as text.
    pub rdinit: Option<PathBuf>,
    /// Files copied in before the command runs, and out when it has ended.
    pub copies: Copies,
    /// The command's standard input and terminal.
    pub stdin: Stdin,
    /// The time after which the command is stopped.
    pub timeout: Option<Duration>,
    /// The time between SIGTERM and the end of the machine.
    pub stop_timeout: Duration,
    /// The largest output, for standard output and the console each.
    pub max_output: Option<ByteSize>,
    /// The console.
    pub console: ConsoleSpec,
    /// True if the guest reports when its kernel unpacked the initrd.
    pub timings: bool,
    /// The form in which the image becomes the root.
    pub root: RootSpec,
    /// Directories of the host whose present contents the guest sees, read-only.
    pub volumes: Vec<Volume>,
    /// The network.
    pub network: Network,
    /// True if streams and files may go through memory shared with the guest, where they are too much for a serial port.
    pub rings: bool,
    /// The size of the file of the host's that the guest's kernel swaps to, so that files may be larger than RAM.
    pub scratch: Option<ByteSize>,
    /// Steps that PID 1 carries out before the command runs, in order. An init of the user's own heeds neither them nor the next
    /// three.
    pub steps: Vec<SetupStep>,
    /// True if nothing can be written to the root file system once the steps are carried out; what is mounted below it is
    /// another matter.
    pub read_only_root: bool,
    /// The most processes and threads that there may be of the command; `None` and zero for no limit but the kernel's.
    pub pids: Option<u32>,
    /// True if the machine boots and the command waits until it is released ([`Sandbox::release`](crate::Sandbox::release)). The
    /// time-out counts from then on.
    pub held: bool,
    /// True if packed images are kept for later runs.
    pub cache: bool,
    /// The counter of what is read and packed; silent by default.
    pub progress: Progress,
}

impl Request {
    /// Returns a request for a command in the image at `image`, a directory or an archive, with the defaults of
    /// `rdvm run`. Without `argv` the image's own command runs.
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
            root: RootSpec::Auto,
            volumes: Vec::new(),
            network: Network::default(),
            rings: true,
            scratch: None,
            steps: Vec::new(),
            read_only_root: false,
            pids: None,
            held: false,
            cache: true,
            progress: Progress::default(),
        }
    }

    /// Sets the guest's RAM in bytes; the default is what the image needs.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = MemorySpec::Exactly(ByteSize(bytes));
        self
    }

    /// Adds scratch space in a file of the host's, in bytes, so that files may be larger than RAM; the default is none.
    pub fn scratch(mut self, bytes: u64) -> Self {
        self.scratch = Some(ByteSize(bytes));
        self
    }

    /// Sets the number of vCPUs, 1 to 16.
    pub fn cpus(mut self, cpus: u8) -> Self {
        self.cpus = cpus;
        self
    }

    /// Sets the kernel: a file, or a release found in /boot.
    pub fn kernel(mut self, kernel: impl Into<OsString>) -> Self {
        self.kernel = KernelSpec::Named(kernel.into());
        self
    }

    /// Sets the engine; the default is KVM where it works, else QEMU.
    pub fn engine(mut self, engine: EngineChoice) -> Self {
        self.engine = engine;
        self
    }

    /// Sets a variable of the command.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let mut entry = name.as_ref().to_owned();
        entry.push("=");
        entry.push(value);
        self.command.env.push(entry);
        self
    }

    /// Sets the working directory in the guest.
    pub fn workdir(mut self, directory: impl Into<OsString>) -> Self {
        self.command.workdir = Some(directory.into());
        self
    }

    /// Forwards the stdin of [`Streams`](crate::Streams) to the command; the default is empty.
    pub fn interactive(mut self) -> Self {
        self.stdin.interactive = true;
        self
    }

    /// Copies a file or directory of the host in before the command runs.
    pub fn copy_in(mut self, host: impl Into<PathBuf>, guest: impl Into<OsString>) -> Self {
        let (host, guest) = (host.into(), guest.into());
        self.copies.into.push(CopyIn { host, guest });
        self
    }

    /// Copies a file or directory of the guest out when the command has ended.
    pub fn copy_out(mut self, guest: impl Into<OsString>, host: impl Into<PathBuf>) -> Self {
        let (guest, host) = (guest.into(), host.into());
        self.copies.out.push(CopyOut { guest, host });
        self
    }

    /// Stops the command after so long.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = Some(time);
        self
    }

    /// Stops the command when it has printed more bytes, on standard output or on standard error.
    pub fn max_output(mut self, bytes: u64) -> Self {
        self.max_output = Some(ByteSize(bytes));
        self
    }

    /// True if PID 1 can receive requests while the command runs. A user's own init receives none.
    pub(crate) fn takes_requests(&self) -> bool {
        self.rdinit.is_none()
    }

    /// True if memory is shared with PID 1.
    pub(crate) fn wants_rings(&self) -> bool {
        self.rings && self.takes_requests()
    }
}

/// The command and its surroundings.
#[derive(Debug, Clone, Default)]
pub struct Command {
    /// Program instead of the image's entry point.
    pub entrypoint: Option<OsString>,
    /// Arguments, or program and arguments where there is no entry point; empty for the image's command, or `/init`.
    pub argv: Vec<OsString>,
    /// `NAME=VALUE` entries; later ones win.
    pub env: Vec<OsString>,
    /// Working directory in the guest; the default is `/`.
    pub workdir: Option<OsString>,
    /// The account that runs it.
    pub user: Option<UserSpec>,
    /// Host name in the guest.
    pub hostname: Option<OsString>,
    /// Resource limits; later ones of one resource win.
    pub ulimits: Vec<Ulimit>,
    /// True if the environment is `env` alone, and a HOME where that has none: nothing of the image's or of rdvm's is added.
    pub exact_env: bool,
    /// Supplementary groups instead of those that the image's files give the user, up to the kernel's limit of 65536.
    pub groups: Option<Vec<u32>>,
    /// Its privileges.
    pub privileges: Privileges,
}

/// A resource limit of the command, as `setrlimit(2)` takes it: `u64::MAX` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ulimit {
    /// `RLIMIT_NOFILE` and the like.
    pub resource: u32,
    /// The limit that the command starts with.
    pub soft: u64,
    /// The most that the command can raise it to.
    pub hard: u64,
}

/// docker's names of the limits, and their numbers (`include/uapi/asm-generic/resource.h`).
pub(crate) const ULIMITS: [(&str, u32); 16] = [
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

/// The command's standard input and terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stdin {
    /// rdvm's standard input is forwarded; it is empty otherwise.
    pub interactive: bool,
    /// The command gets a terminal of its own for all three streams.
    pub tty: bool,
    /// Ctrl-] typed three times leaves the terminal and stops the machine.
    pub escape: bool,
}

impl Default for Stdin {
    fn default() -> Self {
        Self {
            interactive: false,
            tty: false,
            escape: true,
        }
    }
}

/// The form in which an image becomes the root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RootSpec {
    /// A file system in place where that is quicker and the kernel can, else an initrd.
    #[default]
    Auto,
    /// An archive that the kernel unpacks into memory.
    Initrd,
    /// A file system that the kernel mounts in place.
    Erofs,
}

/// A directory of the host as the guest sees it: as it is when the machine starts, and read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The directory on the host.
    pub host: PathBuf,
    /// Where it is mounted, from the root.
    pub guest: OsString,
}

/// The RAM of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemorySpec {
    /// As much as the image needs.
    FromImage,
    /// A size; rejected when the image needs more.
    Exactly(ByteSize),
    /// The need of the machine and the image, and this much for the command and the files that it writes.
    Room(ByteSize),
}

/// The console's destinations.
#[derive(Debug, Clone, Default)]
pub struct ConsoleSpec {
    /// The kernel prints its messages, and all of the console is shown.
    pub show_boot: bool,
    /// The file that everything on the console is also written to.
    pub file: Option<PathBuf>,
}
