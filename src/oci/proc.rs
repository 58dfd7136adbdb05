//! Processes of the host as /proc shows them.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for a later one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessId {
    pub(super) pid: i32,
    /// Field 22 of /proc/PID/stat: when it began, in ticks since the host was booted.
    born: u64,
}

impl ProcessId {
    /// The process that has this number now; `None` if there is none.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        let born = Stat::of(pid)?.born;
        Some(Self { pid, born })
    }

    /// True if it has not ended.
    pub(super) fn is_alive(self) -> bool {
        self.stat()
            .is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
    }

    /// True if it is stopped as by SIGSTOP.
    pub(super) fn is_stopped(self) -> bool {
        self.stat().is_some_and(|stat| stat.state == 'T')
    }

    /// Sends a signal to it, if it is there.
    pub(super) fn signal(self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.is_alive()) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Returns the process and all that it has started and that are still below it, itself first.
    pub(super) fn tree(self) -> Vec<Self> {
        let mut tree = vec![self];
        let mut next = 0;
        while let Some(process) = tree.get(next).copied() {
            next += 1;
            let Ok(threads) = fs::read_dir(format!("/proc/{}/task", process.pid)) else {
                continue;
            };
            for thread in threads.flatten() {
                let children =
                    fs::read_to_string(thread.path().join("children")).unwrap_or_default();
                let children = children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse().ok());
                tree.extend(children.filter_map(Self::of));
            }
        }
        tree
    }

    fn stat(self) -> Option<Stat> {
        Stat::of(self.pid).filter(|stat| stat.born == self.born)
    }
}

/// Two fields of /proc/PID/stat.
struct Stat {
    state: char,
    born: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may have anything in it.
        let mut fields = text.rsplit_once(')')?.1.split_whitespace();
        Some(Self {
            state: fields.next()?.chars().next()?,
            born: fields.nth(18)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_known_by_number_and_birth() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = ProcessId::of(child.id()).unwrap();
        assert!(process.is_alive() && !process.is_stopped());
        let other = ProcessId {
            born: process.born + 1,
            ..process
        };
        assert!(!other.is_alive());
        assert!(
            ProcessId::of(std::process::id())
                .unwrap()
                .tree()
                .contains(&process)
        );
        process.signal(Signal::KILL);
        while process.is_alive() {
            std::thread::yield_now();
        }
        // Not waited for yet: a zombie is no life.
        assert!(ProcessId::of(child.id()).is_some());
        child.wait().unwrap();
        assert!(ProcessId::of(child.id()).is_none());
    }
}
