//! The console: the kernel's words until the command runs, the command's standard error from then on.
//!
//! The kernel's words are kept (the last of them) to be shown when the machine dies, and shown at once only when the
//! user asked for it.

use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

use super::outlet::Outlet;

/// How much of the console is kept for the day something goes wrong.
const KEPT: usize = 16 << 10;

/// How a kernel begins its very last line, when it stays where it panicked instead of resetting the machine.
const LAST_WORDS: &str = "---[ end Kernel panic - not syncing: ";
/// Silence after which these words are believed.
const SILENCE: Duration = Duration::from_secs(5);

/// Where the console's bytes go.
#[derive(Debug)]
pub struct Console {
    stderr: Outlet,
    copy: Option<File>,
    show_boot: bool,
    runs: bool,
    tail: Vec<u8>,
    bytes: u64,
    /// When the last words are to be looked at, if nothing comes until then and the command does not run.
    silent: Option<Instant>,
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
            silent: None,
        }
    }

    /// Takes bytes from the port.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        // Engines hand over what there is, which may be nothing.
        if !bytes.is_empty() {
            self.silent = (!self.runs).then(|| Instant::now() + SILENCE);
        }
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
        self.silent = None;
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
            .map(|(_, reason)| reason.strip_suffix(" ]---").unwrap_or(reason).to_owned())
    }

    /// When [`Self::stays_panicked`] is to be asked.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        self.silent
    }

    /// The words about a panic of a kernel that stays there (`panic=0`) before the command runs.
    pub(super) fn stays_panicked(&mut self) -> Option<String> {
        self.silent.take_if(|at| *at <= Instant::now())?;
        let last = self.last_lines(1).pop()?;
        last.contains(LAST_WORDS).then(|| self.panic())?
    }

    /// Whether any of this was already shown to the user.
    pub fn was_shown(&self) -> bool {
        self.show_boot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(text: &str, runs: bool) -> Console {
        let null = File::options().write(true).open("/dev/null").unwrap();
        let mut console = Console::new(Outlet::new(null.into()), None, false);
        if runs {
            console.command_runs();
        }
        console.push(text.as_bytes());
        // Time passes.
        console.silent = console.silent.map(|_| Instant::now());
        console.push(b"");
        console
    }

    #[test]
    fn a_kernel_that_stays_where_it_panicked_is_known_by_its_last_line() {
        let panic =
            "[    1.2] Kernel panic - not syncing: Attempted to kill init!\r\n[    1.2] CPU: 0\r\n";
        let end = "[    1.3] ---[ end Kernel panic - not syncing: Attempted to kill init! ]---\r\n";
        let mut dead = console(&[panic, end].concat(), false);
        let words = Some("Attempted to kill init!".to_owned());
        assert_eq!(
            (dead.stays_panicked(), dead.panic()),
            (words.clone(), words)
        );
        assert_eq!(dead.stays_panicked(), None, "it is asked once");
        for (text, runs) in [
            (panic.to_owned(), false),
            ([panic, end, "[    2.0] more\r\n"].concat(), false),
            ([panic, end].concat(), true),
            (String::new(), false),
        ] {
            assert_eq!(console(&text, runs).stays_panicked(), None, "{text} {runs}");
        }
    }
}
