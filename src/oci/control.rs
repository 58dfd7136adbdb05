//! Messages between rdvm's processes for a container, in lines of JSON over sockets in its directory.
//!
//! While it is created: the machine's process calls `create`, says [`FromMachine`] and is told [`ToMachine`]. Either end that
//! is closed means that the other process is gone. Afterwards: `start` and `kill` call the machine's process, say one
//! [`Order`] and read one [`Answer`].

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::machine::Launch;

/// The longest line.
const LINE_MAX: u64 = 64 << 10;

/// Messages of a machine's process while it is created.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum FromMachine {
    /// It has its network namespace, which hooks may change now.
    Isolated,
    /// The machine is made and boots.
    Ready,
    /// It cannot be made; the exit code of a command that ends so.
    Failed { message: String, code: u8 },
}

/// Messages to it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToMachine {
    /// It is in its control groups; what it is to do.
    Isolate(Launch),
    /// The hooks have run.
    Prepare,
    /// The container's record is written: it stays when `create` ends.
    Stay,
}

/// Orders to a machine's process.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Order {
    /// To let the command run.
    Start,
    /// To send the command a signal.
    Signal(i32),
}

/// Answers to orders.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It is done.
    Done,
    /// The command may run already.
    Started,
}

/// One end of a conversation.
#[derive(Debug)]
pub(super) struct Line {
    reader: BufReader<io::Take<UnixStream>>,
    writer: UnixStream,
}

impl Line {
    /// A conversation over a socket.
    ///
    /// # Errors
    /// No descriptors left.
    pub(super) fn over(stream: UnixStream) -> io::Result<Self> {
        let writer = stream.try_clone()?;
        let reader = BufReader::new(io::Read::take(stream, LINE_MAX));
        Ok(Self { reader, writer })
    }

    /// Returns the same conversation for another thread. What has been read ahead is not in it; nothing is said unasked.
    ///
    /// # Errors
    /// No descriptors left.
    pub(super) fn again(&self) -> io::Result<Self> {
        Self::over(self.writer.try_clone()?)
    }

    /// Says something.
    ///
    /// # Errors
    /// The other end is gone.
    pub(super) fn say(&mut self, what: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        self.writer.write_all(&line)
    }

    /// Waits for what the other end says.
    ///
    /// # Errors
    /// It is gone, or says something else.
    pub(super) fn hear<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

/// Listens at `path`, which may be longer than a socket's name.
///
/// # Errors
/// Those of open and bind.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    let (_directory, short) = short(path)?;
    UnixListener::bind(short)
}

/// Connects to whoever listens at `path`.
///
/// # Errors
/// Nobody does.
pub(super) fn call(path: &Path) -> io::Result<Line> {
    let (_directory, short) = short(path)?;
    Line::over(UnixStream::connect(short)?)
}

/// Returns another name for `path`, of a length that a socket can have (unix(7): 107 bytes), and what it stands on.
fn short(path: &Path) -> io::Result<(File, PathBuf)> {
    let (directory, name) = path
        .parent()
        .zip(path.file_name())
        .ok_or(io::ErrorKind::InvalidInput)?;
    let directory = File::open(directory)?;
    let short = format!("/proc/self/fd/{}", directory.as_raw_fd());
    Ok((directory, Path::new(&short).join(name)))
}
