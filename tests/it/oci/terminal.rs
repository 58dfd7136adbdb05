//! The terminal of a container, by the console socket.

use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::thread;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::json;

use super::bundle::Bundle;
use crate::support::engines;

#[test]
fn the_terminal_is_the_engines() {
    for engine in engines() {
        let script = "busybox stty size; read -s line; echo \"got $line\"; read -s line; busybox stty size; busybox tty; exit 6";
        let bundle = Bundle::sh(engine, script)
            .with("/process/terminal", json!(true))
            .with("/process/consoleSize", json!({"height": 30, "width": 100}));
        bundle.is_refused("name a socket with --console-socket");
        let path = bundle.path("console.sock");
        let socket = UnixListener::bind(&path).unwrap();
        let taking = thread::spawn(move || take_terminal(&socket));
        let option = ["--console-socket", path.to_str().unwrap()];
        let mut container = bundle.create_with("one", Stdio::null(), &option);
        let (mut terminal, name) = taking.join().unwrap();
        assert!(name.starts_with("/dev/pts/"), "{name}");
        container.start();
        let mut seen = until(&mut terminal, "30 100");
        // Three of these leave a terminal of rdvm run, but this one is another program's.
        terminal.write_all(b"\x1d\x1d\x1dword\r").unwrap();
        seen += &until(&mut terminal, "got ");
        let size = Winsize {
            ws_row: 40,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&terminal, size).unwrap();
        // The guest learns it by a message of its own.
        thread::sleep(std::time::Duration::from_millis(300));
        terminal.write_all(b"\r").unwrap();
        seen += &until(&mut terminal, "/dev/");
        assert!(seen.contains("word") && seen.contains("40 120"), "{seen}");
        assert_eq!(container.wait(), 6);
    }
}

/// Reads until there is `text`.
fn until(terminal: &mut File, text: &str) -> String {
    let mut seen = Vec::new();
    let mut piece = [0; 256];
    while !String::from_utf8_lossy(&seen).contains(text) || !seen.ends_with(b"\n") {
        let count = terminal.read(&mut piece).unwrap_or(0);
        assert!(
            count > 0,
            "{:?} has no {text:?}",
            String::from_utf8_lossy(&seen)
        );
        seen.extend_from_slice(&piece[..count]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

fn take_terminal(socket: &UnixListener) -> (File, String) {
    let (stream, _) = socket.accept().unwrap();
    let mut name = [0; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut name)];
    let received = recvmsg(
        &stream,
        &mut slices,
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )
    .unwrap();
    let mut descriptors = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let terminal = descriptors.next().unwrap().next().unwrap();
    let name = String::from_utf8_lossy(&name[..received.bytes]).into_owned();
    (terminal.into(), name)
}
