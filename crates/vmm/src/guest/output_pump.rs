//! Output of the guest: the command's streams and the console, their limit, and the place of the progress bar.

use rdvm_hostfs::progress::Progress;
use rdvm_hostfs::units::ByteSize;

use super::console::Console;
use super::output_stream::OutputStream;

/// Bytes that a kernel may print while it boots, however little the command may: a verbose boot prints some 20 KiB.
const BOOT_OUTPUT: u64 = 1 << 20;

/// The output streams.
#[derive(Debug)]
pub(super) struct OutputPump {
    pub(super) stdout: OutputStream,
    pub(super) console: Console,
    /// Bytes that may be printed on standard output, and on standard error.
    pub(super) limit: Option<ByteSize>,
    is_flooded: bool,
    bar: Bar,
    stdout_bytes: u64,
    stderr_bytes: u64,
    boot_bytes: u64,
}

/// The part of the terminal that a bar may be drawn on.
#[derive(Debug, Default)]
struct Bar {
    progress: Progress,
    /// There may be one.
    is_on: bool,
    /// The guest has begun a line and not ended it: there is no place for a bar.
    in_a_line: bool,
}

impl OutputPump {
    /// Writes the command's output to `stdout`, and the console as `console` has it.
    pub(super) fn new(stdout: OutputStream, console: Console) -> Self {
        Self {
            stdout,
            console,
            limit: None,
            is_flooded: false,
            bar: Bar::default(),
            stdout_bytes: 0,
            stderr_bytes: 0,
            boot_bytes: 0,
        }
    }

    /// Takes bytes of the command's standard output.
    pub(super) fn print(&mut self, bytes: &[u8]) {
        let printed = self.cut(self.stdout_bytes, bytes, 0);
        self.stdout_bytes += bytes.len() as u64;
        self.bar.make_way(printed, &self.stdout);
        self.stdout.push(printed);
    }

    /// Takes bytes of the command's standard error.
    pub(super) fn print_error(&mut self, bytes: &[u8]) {
        let printed = self.cut(self.stderr_bytes, bytes, 0);
        self.stderr_bytes += bytes.len() as u64;
        self.print_console(printed);
    }

    /// Takes bytes of the kernel, or of a PID 1 of the user's own.
    pub(super) fn print_boot(&mut self, bytes: &[u8]) {
        let printed = self.cut(self.boot_bytes, bytes, BOOT_OUTPUT);
        self.boot_bytes += bytes.len() as u64;
        self.print_console(printed);
    }

    fn print_console(&mut self, printed: &[u8]) {
        if self.console.is_shown() {
            self.bar.make_way(printed, self.console.stderr_ref());
        }
        self.console.push(printed);
    }

    /// Returns as much of `bytes` as may be printed when `before` have been.
    fn cut<'a>(&mut self, before: u64, bytes: &'a [u8], at_least: u64) -> &'a [u8] {
        let Some(limit) = self.limit else {
            return bytes;
        };
        let room = limit.0.max(at_least).saturating_sub(before);
        if (bytes.len() as u64) <= room {
            return bytes;
        }
        self.is_flooded = true;
        &bytes[..room as usize]
    }

    /// True if more was printed than is allowed.
    pub(super) fn is_flooded(&self) -> bool {
        self.is_flooded
    }

    /// True if all output that is allowed has been written.
    pub(super) fn is_empty(&self) -> bool {
        self.stdout.is_empty() && self.console.is_empty()
    }

    /// Writes as much as is possible without waiting.
    pub(super) fn flush(&mut self) {
        for stream in [&mut self.stdout, self.console.stderr()] {
            if !stream.is_empty() {
                stream.flush();
            }
        }
    }

    /// Sets the counter that the bar shows.
    pub(super) fn set_progress(&mut self, progress: Progress) {
        self.bar.progress = progress;
    }

    /// Returns the counter that the bar shows.
    pub(super) fn progress(&self) -> &Progress {
        &self.bar.progress
    }

    /// Allows a progress bar until the guest prints something.
    pub(super) fn allow_bar(&mut self) {
        self.bar.is_on = true;
    }

    /// Removes the bar.
    pub(super) fn remove_bar(&mut self) {
        self.bar.take_away();
    }

    /// True if a bar would be in the way of nothing: not of a line, and not of a program that reads the output and may have
    /// the terminal to itself.
    pub(super) fn has_place_for_bar(&self) -> bool {
        !self.bar.in_a_line && !self.stdout.has_reader()
    }
}

impl Bar {
    /// Makes way for bytes of the guest.
    fn make_way(&mut self, for_bytes: &[u8], stream: &OutputStream) {
        if let (Some(last), true) = (for_bytes.last(), stream.is_terminal()) {
            self.in_a_line = *last != b'\n';
            self.take_away();
        }
    }

    fn take_away(&mut self) {
        if std::mem::take(&mut self.is_on) {
            self.progress.pause();
        }
    }
}
