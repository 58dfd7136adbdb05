//! rdvm's own lines on stderr, and the output of verbs on stdout.

use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;

use rdvm_hostfs::escape::reason;
use rdvm_hostfs::progress::{self, Bar, Progress};

use crate::Result;

/// The counter whose bar is on the terminal.
static PROGRESS: OnceLock<Progress> = OnceLock::new();

/// Shows a bar until it is dropped; [`say`] removes it before each line.
pub(crate) fn show_bar() -> Bar {
    let bar = progress::show();
    // A process runs one verb, and a verb shows one bar.
    let _ = PROGRESS.set(bar.progress.clone());
    bar
}

/// Prints one line on stderr.
pub(crate) fn say(text: &str) {
    if let Some(progress) = PROGRESS.get() {
        progress.clear();
    }
    let _ = writeln!(io::stderr(), "rdvm: {text}");
}

/// Prints what was asked for on stdout. A reader that has gone away is no error.
pub(crate) fn print(text: &str) -> Result<u8> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(format!("standard output: {}", reason(&error)).into())
        }
        _ => Ok(0),
    }
}

/// Prints a verdict, and returns the exit code that says the same.
pub(crate) fn print_verdict(text: &str, can_run: bool) -> Result<u8> {
    print(text)?;
    Ok(u8::from(!can_run))
}
