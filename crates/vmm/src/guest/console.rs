//! The console: the kernel's words until the command runs, the command's standard error from then on.
//!
//! The kernel's words are kept (the last of them) to be shown when the machine dies, and shown at once only when the
//! user asked for it.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;

use super::output_stream::OutputStream;
use crate::stop_signals::StopSignals;

/// Bytes of the console that are kept, to be shown when the machine dies.
const KEPT: usize = 16 << 10;

/// The beginning of a kernel's very last line, when it stays where it panicked instead of resetting the machine.
const LAST_WORDS: &str = "---[ end Kernel panic - not syncing: ";
/// Silence after which these words are believed.
const SILENCE: Duration = Duration::from_secs(5);
/// Bytes of the copy that wait for a reader slower than the guest. More are left out.
const HELD: usize = 64 << 10;
/// Time in which the copy's reader may take none of the rest when the machine is gone.
const REST: Duration = Duration::from_secs(1);

/// The part of the console that its copy lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gaps {
    /// Number of bytes.
    pub bytes: u64,
    /// The message, as on stderr.
    pub message: String,
}

/// A copy of all that comes, of which a part may be missing.
#[derive(Debug)]
struct Copy {
    to: OutputStream,
    /// Its name, fit to be shown.
    name: String,
    /// Bytes that were left out since others waited.
    left_out: u64,
}

impl Copy {
    /// A machine is not held up by the reader of a copy: what does not fit is left out, and what comes later may fit again.
    fn push(&mut self, bytes: &[u8]) {
        self.to.flush();
        match self.to.waiting() + bytes.len() > HELD {
            true => self.left_out += bytes.len() as u64,
            false => self.to.push(bytes),
        }
        self.to.flush();
    }

    /// Writes what waits, as long as the reader takes some of it and no signal comes.
    fn finish(&mut self, signals: &StopSignals) {
        self.to.flush();
        while !self.to.is_empty() && signals.signal().is_none() {
            let (out, asked) = (self.to.fd(), signals.fd());
            let mut set = [
                PollFd::new(&out, PollFlags::OUT),
                PollFd::new(&asked, PollFlags::IN),
            ];
            match poll(&mut set, Timespec::try_from(REST).ok().as_ref()) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => break,
            }
            signals.seen();
            self.to.flush();
        }
    }

    fn gaps(&self) -> Option<Gaps> {
        let bytes = self.left_out + self.to.dropped() + self.to.waiting() as u64;
        let name = &self.name;
        let message = match (self.to.failure(), self.to.is_closed()) {
            _ if bytes == 0 => return None,
            (Some(errno), _) => {
                format!(
                    "{name}: {}; {bytes} bytes are missing",
                    std::io::Error::from(errno)
                )
            }
            (None, true) => {
                format!("{name}: nobody reads it any more; {bytes} bytes are missing")
            }
            (None, false) => format!(
                "{name}: {bytes} bytes are missing, since they were not read in time; name a file, or read faster"
            ),
        };
        Some(Gaps { bytes, message })
    }
}

/// The destinations of the console's bytes.
#[derive(Debug)]
pub struct Console {
    stderr: OutputStream,
    copy: Option<Copy>,
    show_boot: bool,
    runs: bool,
    tail: Vec<u8>,
    bytes: u64,
    /// The time to look at the last words, if nothing comes until then and the command does not run.
    silent: Option<Instant>,
}

impl Console {
    /// A console that writes to `stderr` what is to be seen and everything to `copy`, a stream and its name.
    pub fn new(
        stderr: OutputStream,
        copy: Option<(OutputStream, String)>,
        show_boot: bool,
    ) -> Self {
        let copy = copy.map(|(to, name)| Copy {
            to,
            name,
            left_out: 0,
        });
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
        if let Some(copy) = &mut self.copy {
            copy.push(bytes);
        }
        if self.is_shown() {
            self.stderr.push(bytes);
        }
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > 2 * KEPT {
            self.tail.drain(..self.tail.len() - KEPT);
        }
    }

    /// Notes that the bytes from now on are the command's.
    pub(super) fn command_runs(&mut self) {
        self.runs = true;
        self.silent = None;
    }

    /// Writes of the copy what can be written. Returns true if some of it still waits for its reader.
    pub(super) fn flush_copy(&mut self) -> bool {
        self.copy.as_mut().is_some_and(|copy| {
            copy.to.flush();
            !copy.to.is_empty()
        })
    }

    /// True if some of the copy waits for its reader.
    pub(super) fn copy_waits(&self) -> bool {
        self.copy.as_ref().is_some_and(|copy| !copy.to.is_empty())
    }

    /// Ends the copy when the machine is gone; returns what it lacks.
    pub fn finish_copy(&mut self, signals: &StopSignals) -> Option<Gaps> {
        let mut copy = self.copy.take()?;
        copy.finish(signals);
        copy.gaps()
    }

    /// True if all output has been written.
    pub(super) fn is_empty(&self) -> bool {
        self.stderr.is_empty()
    }

    /// Returns the stream to the user.
    pub(super) fn stderr(&mut self) -> &mut OutputStream {
        &mut self.stderr
    }

    /// Returns the same, to look at.
    pub(super) fn stderr_ref(&self) -> &OutputStream {
        &self.stderr
    }

    /// Returns the last lines, made safe for a terminal: at most `count`, control characters escaped, blank ones left out.
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let lines = self.tail.split(|&byte| byte == b'\n');
        let lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let mut lines: Vec<String> = lines
            .filter(|line| !line.is_empty())
            .map(rdvm_hostfs::escape::escaped)
            .collect();
        lines.drain(..lines.len().saturating_sub(count));
        lines
    }

    /// Returns the kernel's message about its panic, if it panicked.
    pub(crate) fn panic(&self) -> Option<String> {
        const MARK: &str = "Kernel panic - not syncing: ";
        let lines = self.last_lines(usize::MAX);
        lines
            .iter()
            .rev()
            .find_map(|line| line.split_once(MARK))
            .map(|(_, reason)| reason.strip_suffix(" ]---").unwrap_or(reason).to_owned())
    }

    /// Returns the time to call [`Self::stays_panicked`].
    pub(super) fn silent_at(&self) -> Option<Instant> {
        self.silent
    }

    /// Returns the message about a panic of a kernel that stays there (`panic=0`) before the command runs.
    pub(super) fn stays_panicked(&mut self) -> Option<String> {
        self.silent.take_if(|at| *at <= Instant::now())?;
        let last = self.last_lines(1).pop()?;
        last.contains(LAST_WORDS).then(|| self.panic())?
    }

    /// True if what comes now is shown.
    pub(super) fn is_shown(&self) -> bool {
        self.runs || self.show_boot
    }

    /// True if boot messages were shown to the user.
    pub fn was_shown(&self) -> bool {
        self.show_boot
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;

    use super::*;

    fn console(copy: impl Into<std::os::fd::OwnedFd>) -> Console {
        let null = File::options().write(true).open("/dev/null").unwrap();
        let copy = Some((OutputStream::new(copy.into()), "c".to_owned()));
        Console::new(OutputStream::new(null.into()), copy, false)
    }

    #[test]
    fn a_copy_that_nobody_reads_for_a_while_has_a_gap_and_goes_on_after_it() {
        let signals = StopSignals::new().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut console = console(write);
        let block = [b'x'; 1 << 10];
        (0..1 << 10).for_each(|_| console.push(&block));
        assert!(console.flush_copy());
        // What the pipe and we hold is less than a mebibyte.
        let mut read = File::from(read);
        let mut seen = 0;
        while console.copy_waits() {
            seen += read.read(&mut [0; 1 << 16]).unwrap();
            console.flush_copy();
        }
        // Now there is room in the pipe as well.
        seen += read.read(&mut [0; 1 << 16]).unwrap();
        console.push(b"after the gap");
        let gaps = console.finish_copy(&signals).unwrap();
        let mut rest = Vec::new();
        read.read_to_end(&mut rest).unwrap();
        assert!(rest.ends_with(b"after the gap"));
        let all = (1 << 20) + b"after the gap".len() as u64;
        assert_eq!(gaps.bytes + seen as u64 + rest.len() as u64, all);
        assert!(gaps.bytes > 0);
        let said = format!(
            "{} bytes are missing, since they were not read in time",
            gaps.bytes
        );
        assert!(gaps.message.contains(&said), "{}", gaps.message);
    }

    #[test]
    fn a_copy_that_cannot_be_written_is_said_to_lack_all_of_it() {
        let signals = StopSignals::new().unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut on_full = console(full);
        on_full.push(b"one");
        on_full.push(b"two!");
        let gaps = on_full.finish_copy(&signals).unwrap();
        assert_eq!(gaps.bytes, 7);
        assert!(gaps.message.starts_with("c: No space left on device"));
        let file = tempfile::tempfile().unwrap();
        let mut whole = console(file);
        whole.push(b"one");
        assert_eq!(whole.finish_copy(&signals), None);
    }

    /// A console that has said `text` a while ago.
    fn booting(text: &str, runs: bool) -> Console {
        let null = File::options().write(true).open("/dev/null").unwrap();
        let mut console = Console::new(OutputStream::new(null.into()), None, false);
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
        let mut dead = booting(&[panic, end].concat(), false);
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
            assert_eq!(booting(&text, runs).stays_panicked(), None, "{text} {runs}");
        }
    }
}
