//! One output stream: a descriptor, and the bytes that were taken but not yet written.
//!
//! Never blocks, whatever the descriptor is: pipes and terminals are opened anew for ourselves alone, sockets have a flag
//! for it, and what has no such way (another user's pipe or terminal, a file on a network's or a program's file system, a
//! device) is written to by a thread of its own. The descriptor's flags are left alone, since it is shared with the
//! program that started us.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fstat, fstatfs, major, minor};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use rustix::termios::isatty;

use super::background::Background;
use super::reopen::unblocked;

/// As much as a pipe takes at once when it says that it has room (pipe(7)).
const PIPE_BUF: usize = 4096;

/// The file systems (`include/uapi/linux/magic.h`) of which a file is written to at once: what they keep in memory, or on a
/// disk of this host. If that hangs, nothing ends the process before it does, and a thread is of no use. In this order:
/// ext, xfs, btrfs, tmpfs, ramfs, overlayfs, f2fs, bcachefs, zfs.
const LOCAL: [u64; 9] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x8584_58f6,
    0x794c_7630,
    0xf2f5_2010,
    0xca45_1a4e,
    0x2fc1_2fc1,
];
/// The major number of memory devices: /dev/null, /dev/full and the like.
const MEMORY: u32 = 1;
/// The numbers of /dev/ptmx.
const PTMX: (u32, u32) = (5, 2);

/// A stream to write to.
#[derive(Debug)]
pub struct OutputStream {
    way: Way,
    is_terminal: bool,
    has_reader: bool,
    pending: Vec<u8>,
    written: usize,
    state: State,
    last_write: Option<Instant>,
    dropped: u64,
}

/// The way of bytes into a descriptor.
#[derive(Debug)]
enum Way {
    /// It does not wait by itself.
    Ready(OwnedFd),
    /// A socket.
    Socket(OwnedFd),
    /// By a thread; true while a piece is on its way.
    Background(Background, bool),
    /// It may wait, and there is no thread to be had: only on a poll's word, and little at once.
    Careful(OwnedFd),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The reader is gone: what comes is thrown away.
    Closed,
    Failed(Errno),
}

impl OutputStream {
    /// A stream to this descriptor.
    pub fn new(fd: OwnedFd) -> Self {
        // What cannot be asked what it is cannot be written to either, which a write tells.
        let (kind, device) = fstat(&fd).map_or((FileType::RegularFile, 0), |stat| {
            (FileType::from_raw_mode(stat.st_mode), stat.st_rdev)
        });
        let is_memory = major(device) == MEMORY;
        let is_terminal = kind == FileType::CharacterDevice && !is_memory && isatty(&fd);
        Self {
            is_terminal,
            has_reader: matches!(kind, FileType::Fifo | FileType::Socket),
            way: Way::of(fd, kind, device, is_terminal),
            pending: Vec::new(),
            written: 0,
            state: State::Open,
            last_write: None,
            dropped: 0,
        }
    }

    /// Takes bytes to be written.
    pub fn push(&mut self, bytes: &[u8]) {
        match self.state {
            State::Open => self.pending.extend_from_slice(bytes),
            _ => self.dropped += bytes.len() as u64,
        }
    }

    /// True if everything taken was written (or the stream is closed).
    pub fn is_empty(&self) -> bool {
        let on_its_way = matches!(self.way, Way::Background(_, true));
        self.written == self.pending.len() && !on_its_way
    }

    /// True if it leads to a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// True if it leads to a program, which may have the terminal to itself.
    pub(super) fn has_reader(&self) -> bool {
        self.has_reader
    }

    /// Returns how many bytes were taken and are not on their way yet.
    pub(super) fn waiting(&self) -> usize {
        self.pending.len() - self.written
    }

    /// Returns how many bytes were taken and dropped, since the stream is closed.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Returns the descriptor to poll for writing while the stream is not empty.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match &self.way {
            Way::Ready(fd) | Way::Socket(fd) | Way::Careful(fd) => fd.as_fd(),
            Way::Background(thread, _) => thread.idle(),
        }
    }

    /// True if the reader has gone away.
    pub(crate) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Returns the time of the last write.
    pub(crate) fn last_write(&self) -> Option<Instant> {
        self.last_write
    }

    /// Returns the error of a write that failed, other than by the reader going away.
    pub fn failure(&self) -> Option<Errno> {
        match self.state {
            State::Failed(errno) => Some(errno),
            _ => None,
        }
    }

    /// Writes as much as is possible without waiting.
    pub fn flush(&mut self) {
        if let Way::Background(..) = self.way {
            self.hand_over();
        }
        while self.written < self.pending.len() {
            let rest = &self.pending[self.written..];
            let count = match &self.way {
                Way::Ready(fd) => rustix::io::write(fd, rest),
                Way::Socket(fd) => send(fd, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
                Way::Careful(fd) if is_writable(fd) => {
                    rustix::io::write(fd, &rest[..rest.len().min(PIPE_BUF)])
                }
                Way::Careful(_) | Way::Background(..) => return,
            };
            match count {
                Ok(count) => {
                    self.written += count;
                    self.last_write = Some(Instant::now());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(errno) => self.fail(errno),
            }
        }
        self.pending.clear();
        self.written = 0;
    }

    /// Hands the thread what there is, if it has written what it had.
    fn hand_over(&mut self) {
        let Way::Background(thread, busy) = &mut self.way else {
            return;
        };
        if *busy {
            match thread.result() {
                None => return,
                Some(result) => {
                    *busy = false;
                    match result {
                        Ok(()) => self.last_write = Some(Instant::now()),
                        Err(errno) => return self.fail(errno),
                    }
                }
            }
        }
        if !self.pending.is_empty() {
            *busy = true;
            thread.put(std::mem::take(&mut self.pending));
        }
    }

    fn fail(&mut self, errno: Errno) {
        self.state = match errno {
            Errno::PIPE => State::Closed,
            errno => State::Failed(errno),
        };
        self.dropped += self.waiting() as u64;
        self.written = self.pending.len();
    }
}

impl Way {
    fn of(fd: OwnedFd, kind: FileType, device: u64, is_terminal: bool) -> Self {
        let fd = match kind {
            FileType::Socket => return Self::Socket(fd),
            FileType::RegularFile if is_local(&fd) => return Self::Ready(fd),
            FileType::CharacterDevice if major(device) == MEMORY => return Self::Ready(fd),
            FileType::Fifo => unblocked(fd, OFlags::WRONLY),
            // The other side of a pseudo-terminal is a terminal as well, but to open it is to make a new one.
            _ if is_terminal && (major(device), minor(device)) != PTMX => {
                unblocked(fd, OFlags::WRONLY)
            }
            _ => Err(fd),
        };
        match fd.map_err(Background::start) {
            Ok(own) => Self::Ready(own),
            Err(Ok(thread)) => Self::Background(thread, false),
            Err(Err((fd, _))) => Self::Careful(fd),
        }
    }
}

fn is_local(fd: &OwnedFd) -> bool {
    // The type is of various widths and signs; all of these numbers have 32 bits.
    fstatfs(fd).is_ok_and(|about| LOCAL.contains(&(about.f_type as u64 & 0xffff_ffff)))
}

fn is_writable(fd: &OwnedFd) -> bool {
    let mut set = [PollFd::new(fd, PollFlags::OUT)];
    // An error of poll is found again by write, which says more.
    poll(&mut set, Some(&Timespec::default())).map_or(true, |ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use rustix::pipe::{PipeFlags, pipe, pipe_with};

    use super::*;

    /// Waits until it can be written to, as the engines do.
    fn wait(stream: &OutputStream) {
        let fd = stream.fd();
        let long = Timespec {
            tv_sec: 60,
            tv_nsec: 0,
        };
        let mut set = [PollFd::new(&fd, PollFlags::OUT)];
        assert_eq!(poll(&mut set, Some(&long)), Ok(1));
    }

    fn pushed(fd: impl Into<OwnedFd>, bytes: &[u8]) -> OutputStream {
        let mut stream = OutputStream::new(fd.into());
        stream.push(bytes);
        stream.flush();
        stream
    }

    /// An output that cannot be reopened, like another user's pipe.
    fn by_thread(fd: impl Into<OwnedFd>) -> OutputStream {
        let thread = Background::start(fd.into()).unwrap();
        OutputStream {
            way: Way::Background(thread, false),
            ..OutputStream::new(File::open("/dev/null").unwrap().into())
        }
    }

    #[test]
    fn a_full_pipe_keeps_the_rest_and_a_closed_one_drops_it() {
        let (read, write) = pipe().unwrap();
        let mut stream = pushed(write, &vec![7; 1 << 20]);
        assert!(!stream.is_empty(), "a pipe holds less than a mebibyte");
        let mut buffer = vec![0; 1 << 16];
        let mut seen = 0;
        while seen < 1 << 20 {
            seen += rustix::io::read(&read, &mut buffer[..]).unwrap();
            stream.flush();
        }
        assert!(stream.is_empty() && !stream.is_closed());
        drop(read);
        stream.push(b"more");
        stream.flush();
        assert!(stream.is_empty() && stream.is_closed());
        stream.push(b"and more");
        assert_eq!(stream.dropped(), 12);
    }

    /// Between a poll and a write it could be filled: then the write must not wait. Its flags stay what they were.
    #[test]
    fn a_stream_that_others_write_to_as_well_never_makes_us_wait() {
        let kinds: [(OwnedFd, OwnedFd); 2] = [pipe().unwrap(), {
            let (ours, theirs) = UnixStream::pair().unwrap();
            (ours.into(), theirs.into())
        }];
        for (read, write) in kinds {
            let theirs = write.try_clone().unwrap();
            let mut stream = OutputStream::new(write);
            match &stream.way {
                Way::Ready(own) => {
                    let flags = rustix::fs::fcntl_getfl(own).unwrap();
                    assert!(flags.contains(OFlags::NONBLOCK));
                }
                Way::Socket(_) => {}
                other => panic!("{other:?}"),
            }
            let flags = rustix::fs::fcntl_getfl(&theirs).unwrap();
            assert!(!flags.contains(OFlags::NONBLOCK), "it is not ours alone");
            // Full to the last byte, though nothing asked whether it is.
            let mut other = pushed(theirs, &vec![1; 1 << 20]);
            stream.push(b"ours");
            stream.flush();
            assert!(!stream.is_empty() && stream.failure().is_none());
            let mut all = Vec::new();
            let reader = std::thread::spawn(move || {
                File::from(read).read_to_end(&mut all).unwrap();
                all
            });
            for stream in [&mut other, &mut stream] {
                while !stream.is_empty() {
                    wait(stream);
                    stream.flush();
                }
            }
            drop((other, stream));
            let all = reader.join().unwrap();
            assert_eq!(all.len(), (1 << 20) + 4);
            assert!(all.ends_with(b"ours"));
        }
    }

    #[test]
    fn what_can_only_be_waited_for_is_waited_for_by_a_thread() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut stream = by_thread(write);
        let bytes: Vec<u8> = (0..300_000u32).map(|n| (n >> 3) as u8).collect();
        for piece in bytes.chunks(100_000) {
            stream.push(piece);
            stream.flush();
            assert!(!stream.is_empty());
        }
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; 300_000];
            let mut read = File::from(read);
            read.read_exact(&mut all).unwrap();
            (all, read)
        });
        while !stream.is_empty() {
            wait(&stream);
            stream.flush();
        }
        let (all, read) = reader.join().unwrap();
        assert!(all == bytes);
        assert!(stream.last_write().is_some());
        drop(read);
        stream.push(b"x");
        while !stream.is_empty() {
            stream.flush();
        }
        assert!(stream.is_closed());
    }

    #[test]
    fn each_kind_has_its_way_and_its_errors() {
        let open = |path: &str| File::options().read(true).write(true).open(path).unwrap();
        let full = pushed(open("/dev/full"), b"x");
        assert_eq!((full.failure(), full.dropped()), (Some(Errno::NOSPC), 1));
        assert!(pushed(open("/dev/null"), b"x").is_empty());
        let file = tempfile::tempfile().unwrap();
        assert!(matches!(OutputStream::new(file.into()).way, Way::Ready(_)));
        let unwritable = File::open("/dev/null").unwrap();
        assert_eq!(pushed(unwritable, b"x").failure(), Some(Errno::BADF));
        let (read, write) = pipe().unwrap();
        drop(read);
        let mut gone = pushed(write, b"x");
        while !gone.is_empty() {
            gone.flush();
        }
        assert!(gone.is_closed(), "{gone:?}");
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(pushed(ours, b"x").is_closed());
        // A file system that the kernel makes up is none of those on a disk.
        let made_up = File::options().write(true).open("/proc/self/comm").unwrap();
        assert!(matches!(
            OutputStream::new(made_up.into()).way,
            Way::Background(..)
        ));
    }
}
