//! Where our output goes to a terminal: it holds nobody up, and stays as whoever started us has set it.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rdvm_vmm::guest::output_stream::OutputStream;
use rustix::fs::{Mode, OFlags, fcntl_getfl, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::support::{RDVM, Run, busybox, engines, note_run};

/// More than any terminal takes, and without line ends, which it would change.
const PLENTY: usize = 1 << 20;

/// When a program that waits for the terminal is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Both ends of a terminal: that of the window, and that of the programs in it.
pub(crate) fn terminal() -> (std::fs::File, OwnedFd) {
    let window = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&window).unwrap();
    unlockpt(&window).unwrap();
    let name = ptsname(&window, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    (window.into(), open(name, flags, Mode::empty()).unwrap())
}

/// Whether whoever shares this descriptor now has reads and writes that do not wait.
fn is_nonblocking(fd: impl AsFd) -> bool {
    fcntl_getfl(fd).unwrap().contains(OFlags::NONBLOCK)
}

#[test]
fn what_a_terminal_does_not_take_is_kept_and_nobody_waits_for_it() {
    let (mut window, programs) = terminal();
    // The same open terminal, as a shell's and its programs' are.
    let callers = programs.try_clone().unwrap();
    let mut outlet = OutputStream::new(programs);
    let (send, receive) = mpsc::channel();
    // In a thread: where it waits for the terminal, nobody but us would end that.
    std::thread::spawn(move || {
        outlet.push(&vec![7; PLENTY]);
        outlet.flush();
        let _ = send.send(outlet);
    });
    let outlet = receive.recv_timeout(PATIENCE);
    let mut outlet = outlet.expect("it waits for a terminal that nobody reads");
    assert!(!outlet.is_empty());
    assert!(!is_nonblocking(&callers), "the caller's is changed too");
    let (mut seen, mut buffer) = (0, [0; 4096]);
    while seen < PLENTY {
        let count = window.read(&mut buffer).unwrap();
        assert!(buffer[..count].iter().all(|&byte| byte == 7));
        seen += count;
        outlet.flush();
    }
    assert!(outlet.is_empty() && outlet.failure().is_none());
    assert!(!is_nonblocking(&callers), "the caller's is changed too");
}

#[test]
fn the_deadline_is_kept_while_nobody_reads_the_terminal() {
    for engine in engines() {
        note_run(engine);
        let (mut window, programs) = terminal();
        let child = Command::new(RDVM)
            .args(["run", "--engine", engine, "--timeout", "8s"])
            .arg(busybox().path())
            .args(["busybox", "yes"])
            .stdin(Stdio::null())
            .stdout(programs.try_clone().unwrap())
            // Not the terminal: the line that says why it ended would wait for it.
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || send.send(child.wait_with_output()));
        let output = receive.recv_timeout(PATIENCE);
        let output = output.expect("it waits for a terminal that nobody reads");
        let run = Run(output.unwrap()).exits(124);
        // So there was output, and more than the terminal takes.
        assert!(!run.stderr().contains("had not started"));
        let mut lines = [0; 6];
        window.read_exact(&mut lines).unwrap();
        assert_eq!(&lines, b"y\r\ny\r\n");
        assert!(!is_nonblocking(&programs), "the caller's is changed too");
    }
}
