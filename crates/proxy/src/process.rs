//! The proxy as a process of its own, from both sides: started with one socket, and ended by the end of that socket.
//!
//! The parent sends settings, listeners and the record's memory over the link before the first frame. The child has no
//! environment, none of the parent's descriptors, no way to gain privileges, and limits of what it can use.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdvm_confine::{Access, Role, Wish};
use rdvm_hostfs::escape::{escaped, reason};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::set_no_new_privs;
use serde::{Deserialize, Serialize};

use crate::descriptors::close_inherited;
use crate::gateway::{Gateway, Settings};
use crate::record::Record;
use crate::record_file::RecordFile;
use crate::rules::Published;
use crate::serve::serve;

/// Directories that a look-up of a name reads: the resolver's settings, the hosts and the modules of `nsswitch.conf`.
const LOOK_UPS: [&str; 8] = [
    "/etc",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/run/systemd/resolve",
    "/run/NetworkManager",
    "/run/resolvconf",
];
/// Ports that may be published: descriptors that fit into one message, with that of the record.
const PUBLISHED: usize = 200;
/// The most bytes of settings.
const SETTINGS: usize = 4 << 20;
/// How long the process has to end once its link has.
const END: Duration = Duration::from_secs(5);
/// Bytes that are kept of its standard error.
const STDERR: usize = 16 << 10;
/// Descriptors that the process may have: a pair of sockets, a server and a look-up for each of the guest's streams, one for
/// each stream of the host's, and the listeners.
const FILES: u64 = 1024;
/// Bytes of memory that the process may write to.
const MEMORY: u64 = 512 << 20;

/// The start or the work of the process failed.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It cannot be started, or ends at once.
    #[error("network: the proxy did not start: {}", reason(.0))]
    Start(#[from] io::Error),
    /// More ports than can be published.
    #[error("network: {0} published ports are too many; the most are {PUBLISHED}")]
    TooMany(usize),
    /// More rules than can be sent.
    #[error("network: the rules have {0} bytes; the most are {SETTINGS}")]
    TooLong(usize),
    /// It was not started by [`Proxy::start`].
    #[error("network: this command is a part of a run; start a run instead")]
    NoParent,
}

/// The parameters of the process that are bytes.
#[derive(Serialize, Deserialize)]
struct Parameters {
    settings: Settings,
    guest_ports: Vec<u16>,
    /// The parent is confined, and so is the process to be.
    is_confined: bool,
}

/// A running proxy. Killed and reaped on drop.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    stderr: Option<ChildStderr>,
    record: RecordFile,
}

impl Proxy {
    /// Starts `command`, which has to call [`main`], and returns the process and its link, which carries the frames of
    /// `rdvm_proto::NetFrame`. The process ends when the link is closed.
    ///
    /// # Errors
    ///
    /// The process cannot be started; there are too many rules or ports.
    pub fn start(
        mut command: Command,
        settings: &Settings,
        published: Vec<Published>,
    ) -> Result<(Self, UnixStream), ProcessError> {
        if published.len() > PUBLISHED {
            return Err(ProcessError::TooMany(published.len()));
        }
        let parameters = serde_json::to_vec(&Parameters {
            settings: settings.clone(),
            guest_ports: published.iter().map(|each| each.guest_port).collect(),
            is_confined: rdvm_confine::is_asked(),
        });
        let parameters = parameters.map_err(io::Error::from)?;
        if parameters.len() > SETTINGS {
            return Err(ProcessError::TooLong(parameters.len()));
        }
        let record = RecordFile::new()?;
        let (link, theirs) = UnixStream::pair()?;
        command
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A group of its own: Ctrl-C on the terminal is for the parent to handle.
            .process_group(0);
        let mut child = command.spawn()?;
        rdvm_confine::add_child(child.id());
        let stderr = child.stderr.take();
        let this = Self {
            child,
            stderr,
            record,
        };
        // The command has a copy of the other end of the link, which would keep it open.
        drop(command);
        let mut descriptors = vec![this.record.memory().as_fd()];
        descriptors.extend(published.iter().map(|each| each.listener.as_fd()));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PUBLISHED + 1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let length = (parameters.len() as u32).to_le_bytes();
        let sent = sendmsg(
            &link,
            &[IoSlice::new(&length)],
            &mut control,
            SendFlags::NOSIGNAL,
        );
        sent.map_err(io::Error::from)?;
        (&link).write_all(&parameters)?;
        Ok((this, link))
    }

    /// Returns the process number.
    #[cfg(test)]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the record as it was at most a second ago.
    #[cfg(test)]
    pub(crate) fn record(&self) -> Record {
        self.record.read()
    }

    /// Waits for the end of the process, whose link is closed, and returns its record; a process that has not ended after some
    /// seconds is killed. The second value is what it printed on standard error, which is nothing if all went well.
    pub fn finish(mut self) -> (Record, Option<String>) {
        let deadline = Instant::now() + END;
        let mut text = Vec::new();
        while let Some(stderr) = &mut self.stderr {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).ok();
            let ready = poll(&mut [PollFd::new(stderr, PollFlags::IN)], left.as_ref());
            let mut piece = [0; 4096];
            match ready.map(|ready| (ready > 0).then(|| stderr.read(&mut piece))) {
                Ok(Some(Ok(count))) if count > 0 => {
                    let room = STDERR.saturating_sub(text.len());
                    text.extend(&piece[..count.min(room)]);
                }
                Err(rustix::io::Errno::INTR) => {}
                _ => self.stderr = None,
            }
        }
        self.stop();
        let text = escaped(text.trim_ascii());
        (
            self.record.read(),
            Some(text).filter(|text| !text.is_empty()),
        )
    }

    fn stop(&mut self) {
        // Both fail only for a process that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs the proxy in a process that [`Proxy::start`] has started, and returns its exit code. The caller does nothing before.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), ProcessError> {
    close_inherited()?;
    give_up()?;
    let link = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let (parameters, descriptors) = receive(&link).map_err(|_| ProcessError::NoParent)?;
    let mut descriptors = descriptors.into_iter();
    let record = RecordFile::over(descriptors.next().ok_or(ProcessError::NoParent)?);
    let listeners = descriptors
        .map(TcpListener::from)
        .zip(parameters.guest_ports);
    let published = listeners.map(|(listener, guest_port)| Published {
        listener,
        guest_port,
    });
    let gateway = Arc::new(Gateway::new(parameters.settings));
    if parameters.is_confined {
        confine_calls()?;
    }
    // A rule that the guest broke is in the record.
    let _ = serve(link, &gateway, published.collect(), record);
    Ok(())
}

/// Gives up what the proxy has no need of.
fn give_up() -> io::Result<()> {
    set_no_new_privs(true)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // Processes are not limited: that limit counts all of the user's, and threads. Their number is, by the streams.
    for (resource, limit) in [
        (Resource::Core, 0),
        (Resource::Nofile, FILES),
        (Resource::Data, MEMORY),
        // The record's memory is all that is written to.
        (Resource::Fsize, 4 << 20),
    ] {
        let highest = rustix::process::getrlimit(resource).maximum;
        let limit = Some(highest.map_or(limit, |highest| highest.min(limit)));
        setrlimit(
            resource,
            Rlimit {
                current: limit,
                maximum: limit,
            },
        )?;
    }
    Ok(())
}

/// Leaves the process sockets, and what a look-up of a name reads.
fn confine_calls() -> io::Result<()> {
    rdvm_confine::begin(&Wish::default()).map_err(io::Error::other)?;
    let open = |path: &&str| File::options().read(true).open(path).ok();
    let places: Vec<File> = LOOK_UPS.iter().filter_map(open).collect();
    let places: Vec<_> = places
        .iter()
        .map(|place| (place.as_fd(), Access::Read))
        .collect();
    rdvm_confine::enter_with(Role::Proxy, &places)
}

/// Reads what the parent sends before the first frame.
fn receive(mut link: &UnixStream) -> io::Result<(Parameters, Vec<OwnedFd>)> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PUBLISHED + 1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        link,
        &mut [IoSliceMut::new(&mut length)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
    )?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let size = u32::from_le_bytes(length) as usize;
    if received.bytes < length.len() || size > SETTINGS {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut parameters = vec![0; size];
    link.read_exact(&mut parameters)?;
    Ok((serde_json::from_slice(&parameters)?, descriptors))
}
