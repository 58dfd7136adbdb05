//! The console: the kernel's words until the command runs, the command's standard error from then on.
//!
//! The kernel's words are kept (the last of them) to be shown when the machine dies, and shown at once only when the
//! user asked for it.

use std::fs::File;
use std::io::Write;

use super::outlet::Outlet;

/// How much of the console is kept for the day something goes wrong.
const KEPT: usize = 16 << 10;

/// Where the console's bytes go.
#[derive(Debug)]
pub struct Console {
    stderr: Outlet,
    copy: Option<File>,
    show_boot: bool,
    runs: bool,
    tail: Vec<u8>,
    bytes: u64,
}

impl Console {
    /// A console that writes to `stderr` what is to be seen and everything to `copy`.
    pub fn new(stderr: Outlet, copy: Option<File>, show_boot: bool) -> Self {
        Self {
            stderr,
            copy,
            show_boot,
            runs: false,
            tail: Vec::new(),
            bytes: 0,
        }
    }

    /// Takes bytes from the port.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if let Some(copy) = &mut self.copy
            && copy.write_all(bytes).is_err()
        {
            // A full disk must not end the run; the rest of the copy is missing, which its end shows.
            self.copy = None;
        }
        if self.runs || self.show_boot {
            self.stderr.push(bytes);
        }
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > 2 * KEPT {
            self.tail.drain(..self.tail.len() - KEPT);
        }
    }

    /// From now on the bytes are the command's.
    pub(super) fn command_runs(&mut self) {
        self.runs = true;
    }

    /// Whether there is room for more.
    pub(super) fn is_empty(&self) -> bool {
        self.stderr.is_empty()
    }

    /// The stream to the user.
    pub(super) fn outlet(&mut self) -> &mut Outlet {
        &mut self.stderr
    }

    /// The same, to look at.
    pub(super) fn outlet_ref(&self) -> &Outlet {
        &self.stderr
    }

    /// The last lines, made safe for a terminal: at most `count`, control characters escaped, blank ones left out.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let lines = self.tail.split(|&byte| byte == b'\n');
        let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let mut lines: Vec<String> = lines
            .filter(|line| !line.is_empty())
            .map(crate::escape::escaped)
            .collect();
        lines.drain(..lines.len().saturating_sub(count));
        lines
    }

    /// The kernel's own words about its panic, if it panicked.
    pub fn panic(&self) -> Option<String> {
        const MARK: &str = "Kernel panic - not syncing: ";
        let lines = self.last_lines(usize::MAX);
        lines
            .iter()
            .rev()
            .find_map(|line| line.split_once(MARK))
            .map(|(_, reason)| reason.to_owned())
    }

    /// Whether any of this was already shown to the user.
    pub fn was_shown(&self) -> bool {
        self.show_boot
    }
}
