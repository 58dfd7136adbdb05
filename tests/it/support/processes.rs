//! Processes of the host: who is whose child, who lives, and signals.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// Processes whose parent is `pid`.
pub(crate) fn children_of(pid: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, after_name) = stat.rsplit_once(')')?;
        after_name.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    pids.filter(|child| parent(child) == Some(pid)).collect()
}

/// Lets the first child of a process run for a fraction of the time, as a busy host would do it whose load cannot be relied
/// upon, until `done` says that it is enough. The child runs afterwards.
pub(crate) fn hold_up(parent: u32, done: impl Fn() -> bool) {
    while !done() {
        std::thread::sleep(Duration::from_millis(40));
        let Some(&child) = children_of(parent).first() else {
            continue;
        };
        // It may have ended in between.
        let pid = Pid::from_raw(child.try_into().unwrap()).unwrap();
        let _ = kill_process(pid, Signal::STOP);
        std::thread::sleep(Duration::from_millis(150));
        let _ = kill_process(pid, Signal::CONT);
    }
}

/// Whether a process is still there, other than as a zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit_once(')')
            .is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
    })
}

/// Sends `signal`, a name without `SIG`, to a process.
pub(crate) fn send(pid: u32, signal: &str) {
    let status = Command::new("kill")
        .args([&format!("-{signal}"), &pid.to_string()])
        .status();
    assert!(status.unwrap().success());
}
