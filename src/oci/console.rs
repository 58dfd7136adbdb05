//! A container's terminal: made here, and its other end sent to the engine.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::error::{Result, at, host};

/// A terminal: the engine's end and the container's.
#[derive(Debug)]
pub(super) struct Terminal {
    master: OwnedFd,
    pub(super) slave: OwnedFd,
    name: Vec<u8>,
}

/// Makes a terminal of these rows and columns; zero leaves them to whoever has the other end.
///
/// # Errors
/// There are no more.
pub(super) fn open(size: [u16; 2]) -> Result<Terminal> {
    let open = || -> rustix::io::Result<Terminal> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = rustix::fs::open(&*name, flags, Mode::empty())?;
        if size != [0; 2] {
            let size = Winsize {
                ws_row: size[0],
                ws_col: size[1],
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            tcsetwinsize(&slave, size)?;
        }
        Ok(Terminal {
            master,
            slave,
            name: name.into_bytes(),
        })
    };
    open().map_err(|error| host("a terminal")(error.into()))
}

/// Sends the engine's end to the socket at `path`, with its name.
///
/// # Errors
/// Nobody listens there.
pub(super) fn send(path: &Path, terminal: Terminal) -> Result<()> {
    let socket = UnixStream::connect(path).map_err(at(path))?;
    let descriptors = [terminal.master.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    let name = [IoSlice::new(&terminal.name)];
    let sent = sendmsg(&socket, &name, &mut ancillary, SendFlags::NOSIGNAL);
    sent.map_err(|error| at(path)(error.into()))?;
    Ok(())
}
