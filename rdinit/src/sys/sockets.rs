//! TCP on the loopback interface. Nothing here waits.

use crate::arch::*;

use super::{Errno, O_CLOEXEC, O_NONBLOCK, Result, call, call3, close};

const AF_INET: usize = 2;
const SOCK_STREAM: usize = 1;
const IPPROTO_TCP: usize = 6;
const TCP_NODELAY: usize = 1;
const SOL_SOCKET: usize = 1;
const SO_REUSEADDR: usize = 2;
const SO_ERROR: usize = 4;
const SO_LINGER: usize = 13;
const MSG_NOSIGNAL: usize = 0x4000;
const SHUT_WR: usize = 1;
/// `SOMAXCONN`.
const BACKLOG: usize = 4096;

/// `struct sockaddr_in` of 127.0.0.1 and a port.
fn loopback(port: u16) -> [u8; 16] {
    let mut address = [0; 16];
    address[0] = AF_INET as u8;
    address[2..4].copy_from_slice(&port.to_be_bytes());
    address[4..8].copy_from_slice(&[127, 0, 0, 1]);
    address
}

fn tcp() -> Result<i32> {
    let socket = call3(
        __NR_socket,
        AF_INET,
        SOCK_STREAM | O_NONBLOCK | O_CLOEXEC,
        0,
    )?;
    Ok(socket as i32)
}

fn set(fd: i32, level: usize, option: usize, value: &[u32]) {
    let length = size_of_val(value);
    let address = value.as_ptr() as usize;
    // What cannot be set makes a connection slower, or its end less clear.
    let _ = call(
        __NR_setsockopt,
        [fd as usize, level, option, address, length, 0],
    );
}

/// Brings the loopback interface up, as every container has it.
pub(crate) fn loopback_up() -> Result<()> {
    let socket = call3(__NR_socket, 2, 2 | O_CLOEXEC, 0)?;
    // struct ifreq: 16 bytes of name, then the flags (IFF_UP | IFF_RUNNING) in a union of 24 bytes.
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16] = 0x41;
    let result = call3(__NR_ioctl, socket, 0x8914, request.as_ptr() as usize);
    close(socket as i32);
    result.map(drop)
}

/// A socket that listens on 127.0.0.1.
pub(crate) fn listen(port: u16) -> Result<i32> {
    let fd = tcp()?;
    set(fd, SOL_SOCKET, SO_REUSEADDR, &[1]);
    let address = loopback(port);
    let bound = call3(
        __NR_bind,
        fd as usize,
        address.as_ptr() as usize,
        address.len(),
    );
    let listening = bound.and_then(|_| call3(__NR_listen, fd as usize, BACKLOG, 0));
    match listening {
        Ok(_) => Ok(fd),
        Err(errno) => {
            close(fd);
            Err(errno)
        }
    }
}

/// The next connection; `EAGAIN` where there is none.
pub(crate) fn accept(listener: i32) -> Result<i32> {
    let flags = O_NONBLOCK | O_CLOEXEC;
    let fd = call(__NR_accept4, [listener as usize, 0, 0, flags, 0, 0])? as i32;
    set(fd, IPPROTO_TCP, TCP_NODELAY, &[1]);
    Ok(fd)
}

/// Begins a connection to a port of 127.0.0.1. It can be written to when it is there, or [`connection`] tells the error.
pub(crate) fn connect(port: u16) -> Result<i32> {
    const EINPROGRESS: Errno = Errno(115);
    let fd = tcp()?;
    let address = loopback(port);
    match call3(
        __NR_connect,
        fd as usize,
        address.as_ptr() as usize,
        address.len(),
    ) {
        Ok(_) | Err(EINPROGRESS) => {
            set(fd, IPPROTO_TCP, TCP_NODELAY, &[1]);
            Ok(fd)
        }
        Err(errno) => {
            close(fd);
            Err(errno)
        }
    }
}

/// The outcome of [`connect`].
pub(crate) fn connection(fd: i32) -> Result<()> {
    let (error, length) = (0i32, size_of::<i32>() as u32);
    let (value, size) = (&raw const error as usize, &raw const length as usize);
    call(
        __NR_getsockopt,
        [fd as usize, SOL_SOCKET, SO_ERROR, value, size, 0],
    )?;
    // Read anew: the kernel has written it.
    match core::hint::black_box(error) {
        0 => Ok(()),
        error => Err(Errno(error)),
    }
}

/// Sends; gives the number of bytes taken.
pub(crate) fn send(fd: i32, bytes: &[u8]) -> Result<usize> {
    let address = bytes.as_ptr() as usize;
    call(
        __NR_sendto,
        [fd as usize, address, bytes.len(), MSG_NOSIGNAL, 0, 0],
    )
}

/// Says that no more is sent.
pub(crate) fn finish(fd: i32) {
    let _ = call3(__NR_shutdown, fd as usize, SHUT_WR, 0);
}

/// Closes a connection so that the other end sees an error, and no end.
pub(crate) fn abort(fd: i32) {
    set(fd, SOL_SOCKET, SO_LINGER, &[1, 0]);
    close(fd);
}
