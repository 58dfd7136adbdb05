//! The files of `--copy-out`: file trees → frames for the way out, when the command and all it left
//! behind are gone.
//!
//! Nothing changes under the walk, since nobody else runs. All the same it opens everything by directory and name and
//! follows no link but a copy that is one itself. It uses no memory but what it says at the start.

use crate::copy_writer::CopyWriter;
use crate::sys::{self, Errno, Stat};
use rdvm_proto::{
    COPY_DEPTH, COPY_HEAD, COPY_MAX, COPY_PATH, COPY_PAYLOAD, COPY_TARGET, CopyFrame, MOUNTED, Sent,
};

/// A frame of full length always fits, and small ones gather to a write of as much.
const BUFFER: usize = 2 * COPY_MAX;
/// Names of a directory read at a time; the longest takes 280 bytes.
const NAMES: usize = 4096;

const ENOMEM: Errno = Errno(12);
const ENAMETOOLONG: Errno = Errno(36);

/// Sends all that the `count` paths of `copies`, each with its NUL, lead to. Relative paths are from the working directory.
///
/// Files that cannot be read are the host's to complain about. A way out that is gone ends it.
pub(crate) fn send(outlet: &mut CopyWriter<'_>, copies: &[u8], count: usize) {
    let Ok(buffer) = sys::allocate(BUFFER) else {
        return;
    };
    let mut out = Frames {
        outlet,
        buffer,
        used: 0,
    };
    let _ = send_all(&mut out, copies, count);
}

/// The same by a serial port, or whatever else the descriptor is, for who has no machine around it.
pub fn send_by_port(port: i32, copies: &[u8], count: usize) {
    let mut outlet = CopyWriter::Port(port);
    send(&mut outlet, copies, count);
    outlet.flush();
}

fn send_all(out: &mut Frames<'_, '_>, copies: &[u8], count: usize) -> Result<(), Disconnected> {
    // Only as much of it is ever touched as the deepest directory needs.
    let names = sys::allocate(COPY_DEPTH * NAMES);
    let names = names.unwrap_or(&mut []);
    let all = copies.split_inclusive(|&byte| byte == 0);
    let mut path = Path {
        bytes: [0; COPY_PATH + 1],
        length: 0,
    };
    for (copy, name) in (0..).zip(all.take(count)) {
        path.length = 0;
        match send_copy(out, copy, name, &mut path, names) {
            Err(SendError::Disconnected) => return Err(Disconnected),
            Err(SendError::Unread(errno)) => out.put(&unread(errno.0, &path))?,
            Ok(()) => {}
        }
    }
    out.put(&CopyFrame::End)?;
    out.flush()
}

/// The port takes no more.
struct Disconnected;

/// The reason why a copy ends early.
enum SendError {
    Disconnected,
    /// The file at the path, or its directory, cannot be read.
    Unread(Errno),
}

impl From<Errno> for SendError {
    fn from(errno: Errno) -> Self {
        Self::Unread(errno)
    }
}

impl From<Disconnected> for SendError {
    fn from(_: Disconnected) -> Self {
        Self::Disconnected
    }
}

fn send_copy(
    out: &mut Frames<'_, '_>,
    copy: u32,
    name: &[u8],
    path: &mut Path,
    names: &mut [u8],
) -> Result<(), SendError> {
    let stat = match sys::stat(name) {
        Ok(stat) => stat,
        Err(Errno(errno)) => return Ok(out.put(&CopyFrame::Missing { copy, errno })?),
    };
    out.put(&CopyFrame::Begin(copy))?;
    let flags = sys::O_RDONLY | sys::O_NONBLOCK | sys::O_NOCTTY | sys::O_CLOEXEC;
    match stat.mode & sys::S_IFMT {
        sys::S_IFREG => {
            let fd = sys::open(name, flags)?;
            send_file(out, fd, &stat, path)?;
        }
        sys::S_IFDIR => {
            let fd = sys::open(name, flags | sys::O_DIRECTORY)?;
            out.put(&entry(&stat, path, b""))?;
            let mut walk = Walk {
                levels: [Level::CLOSED; COPY_DEPTH],
                depth: 0,
                names,
            };
            walk.levels[0] = Level::new(fd, &stat, 0);
            let result = walk.run(out, path);
            walk.close();
            result?;
        }
        // The host says that it is neither.
        _ => out.put(&entry(&stat, path, b""))?,
    }
    Ok(())
}

fn entry<'a>(stat: &Stat, path: &'a Path, target: &'a [u8]) -> CopyFrame<'a> {
    let is_file = stat.mode & sys::S_IFMT == sys::S_IFREG;
    CopyFrame::Entry(Sent {
        mode: stat.mode,
        mtime: stat.mtime,
        mtime_ns: stat.mtime_ns,
        size: if is_file { stat.size } else { 0 },
        path: path.bytes(),
        target,
    })
}

fn unread(errno: i32, path: &Path) -> CopyFrame<'_> {
    let path = path.bytes();
    CopyFrame::Unread { errno, path }
}

/// Sends a file to its end, wherever that is: the host compares it with the size. Closes it.
fn send_file(
    out: &mut Frames<'_, '_>,
    fd: i32,
    stat: &Stat,
    path: &Path,
) -> Result<(), Disconnected> {
    let sent = out.put(&entry(stat, path, b"")).and_then(|()| {
        loop {
            match sys::read(fd, out.room()?) {
                Ok(0) => return out.put(&CopyFrame::FileEnd(0)),
                Ok(length) => out.put_data(length),
                Err(sys::EINTR) => {}
                Err(Errno(errno)) => return out.put(&CopyFrame::FileEnd(errno)),
            }
        }
    });
    sys::close(fd);
    sent
}

/// A directory on the way down, and how far it has been read.
#[derive(Clone, Copy)]
struct Level {
    fd: i32,
    device: u64,
    /// Length of its path.
    path: usize,
    /// The bytes of its part of the names that are still to be read.
    at: usize,
    filled: usize,
}

impl Level {
    const CLOSED: Self = Self {
        fd: -1,
        device: 0,
        path: 0,
        at: 0,
        filled: 0,
    };

    fn new(fd: i32, stat: &Stat, path: usize) -> Self {
        Self {
            fd,
            device: stat.device,
            path,
            ..Self::CLOSED
        }
    }
}

/// A directory and those above it: a loop, since the stack is shorter than trees may be deep.
struct Walk<'n> {
    levels: [Level; COPY_DEPTH],
    depth: usize,
    names: &'n mut [u8],
}

impl Walk<'_> {
    fn run(&mut self, out: &mut Frames<'_, '_>, path: &mut Path) -> Result<(), SendError> {
        loop {
            let level = &mut self.levels[self.depth];
            path.length = level.path;
            let names = self.names.chunks_exact_mut(NAMES).nth(self.depth);
            let names = names.ok_or(ENOMEM)?;
            if level.at >= level.filled {
                level.filled = sys::read_directory(level.fd, names)?;
                level.at = 0;
            }
            if level.filled == 0 {
                sys::close(level.fd);
                *level = Level::CLOSED;
                match self.depth.checked_sub(1) {
                    Some(above) => self.depth = above,
                    None => return Ok(()),
                }
                continue;
            }
            let unread = &names[level.at..level.filled];
            let Some((name, taken)) = sys::first_name(unread) else {
                level.at = level.filled;
                continue;
            };
            level.at += taken;
            if name != b".\0" && name != b"..\0" {
                path.push(name)?;
                self.send_named(out, path)?;
            }
        }
    }

    /// Sends what `path` leads to, which is in the directory that is being read; directories become the one that is.
    fn send_named(&mut self, out: &mut Frames<'_, '_>, path: &Path) -> Result<(), SendError> {
        let level = self.levels[self.depth];
        let name = path.last(level.path);
        let open = |flags| {
            let flags = flags | sys::O_RDONLY | sys::O_NOFOLLOW | sys::O_NONBLOCK | sys::O_NOCTTY;
            sys::open_at(level.fd, name, flags)
        };
        let stat = sys::stat_at(level.fd, name)?;
        match stat.mode & sys::S_IFMT {
            sys::S_IFREG => send_file(out, open(0)?, &stat, path)?,
            sys::S_IFDIR => {
                out.put(&entry(&stat, path, b""))?;
                if stat.device != level.device {
                    return Ok(out.put(&unread(MOUNTED, path))?);
                }
                if self.depth + 1 == COPY_DEPTH {
                    return Err(ENAMETOOLONG.into());
                }
                let fd = open(sys::O_DIRECTORY)?;
                self.depth += 1;
                self.levels[self.depth] = Level::new(fd, &stat, path.length);
            }
            sys::S_IFLNK => {
                let mut target = [0; COPY_TARGET];
                let length = sys::read_link_at(level.fd, name, &mut target)?;
                out.put(&entry(&stat, path, &target[..length]))?;
            }
            _ => out.put(&entry(&stat, path, b""))?,
        }
        Ok(())
    }

    fn close(&mut self) {
        for level in &self.levels[..=self.depth] {
            if level.fd >= 0 {
                sys::close(level.fd);
            }
        }
    }
}

/// A path below the copy, with the NUL that system calls want.
struct Path {
    bytes: [u8; COPY_PATH + 1],
    length: usize,
}

impl Path {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Adds a name that ends in NUL. One that is too long leaves the path as it is.
    fn push(&mut self, name: &[u8]) -> sys::Result<()> {
        let start = self.length + usize::from(self.length > 0);
        let place = self.bytes.get_mut(start..start + name.len());
        place.ok_or(ENAMETOOLONG)?.copy_from_slice(name);
        if start > 0 {
            self.bytes[start - 1] = b'/';
        }
        self.length = start + name.len() - 1;
        Ok(())
    }

    /// Returns the path behind the first `above` bytes, without the slash and with the NUL.
    fn last(&self, above: usize) -> &[u8] {
        &self.bytes[above + usize::from(above > 0)..=self.length]
    }
}

/// The way out, and frames that have not been sent by it.
struct Frames<'o, 'p> {
    outlet: &'o mut CopyWriter<'p>,
    buffer: &'static mut [u8],
    used: usize,
}

impl Frames<'_, '_> {
    fn put(&mut self, parcel: &CopyFrame<'_>) -> Result<(), Disconnected> {
        self.make_room()?;
        // Paths and targets are shorter than a frame's payload: everything fits.
        self.used += parcel.encode(&mut self.buffer[self.used..]).unwrap_or(0);
        Ok(())
    }

    /// Returns the buffer in which the next [`Self::put_data`] expects its bytes.
    fn room(&mut self) -> Result<&mut [u8], Disconnected> {
        self.make_room()?;
        Ok(&mut self.buffer[self.used + COPY_HEAD..][..COPY_PAYLOAD])
    }

    fn put_data(&mut self, length: usize) {
        let frame = &mut self.buffer[self.used..];
        self.used += CopyFrame::encode_data(frame, length).unwrap_or(0);
    }

    fn make_room(&mut self) -> Result<(), Disconnected> {
        match self.buffer.len() - self.used < COPY_MAX {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), Disconnected> {
        let sent = self.outlet.write(&self.buffer[..self.used]);
        self.used = 0;
        sent.map_err(|_| Disconnected)
    }
}
