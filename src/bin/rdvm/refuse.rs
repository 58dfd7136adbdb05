//! A command line that cannot be used.

use rdvm::cli::{UsageError, report_of};
use rdvm::report::{FAILED, Report, ReportFile};

use crate::print::say;

/// Prints what is wrong with the command line, also into the report that it asks for. Returns the exit code.
pub(crate) fn refuse(refused: &UsageError) -> u8 {
    match refused {
        UsageError::Line(error) => {
            // Nowhere left to report that the message could not be printed.
            let _ = error.print();
            if !error.use_stderr() {
                return 0;
            }
        }
        UsageError::Cannot(error) => say(&error.to_string()),
    }
    let Some(path) = report_of(std::env::args_os()) else {
        return FAILED;
    };
    let text = refused.to_string();
    // What clap adds for people follows on lines of its own.
    let text = text.lines().next().unwrap_or_default();
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let report = Report::of_error(text.to_owned());
    if let Err(error) = ReportFile::open(&path).and_then(|file| file.write(&report)) {
        say(&error.to_string());
    }
    FAILED
}
