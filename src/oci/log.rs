//! The log that an engine asks for, and reads errors from.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use super::state::now;

/// The form of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A line of text each.
    #[default]
    Text,
    /// A line of JSON each, with `level`, `msg` and `time`.
    Json,
}

/// Where errors and warnings are written besides standard error.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// The file, which lines are added to.
    pub path: Option<PathBuf>,
    /// Its form.
    pub format: LogFormat,
}

impl Log {
    /// Writes an error.
    pub fn error(&self, text: &str) {
        self.line("error", text);
    }

    /// Writes a warning.
    pub fn warning(&self, text: &str) {
        self.line("warning", text);
    }

    fn line(&self, level: &str, text: &str) {
        let Some(path) = &self.path else { return };
        let line = match self.format {
            LogFormat::Text => format!("time=\"{}\" level={level} msg={text:?}\n", now()),
            LogFormat::Json => {
                let line = serde_json::json!({"level": level, "msg": text, "time": now()});
                format!("{line}\n")
            }
        };
        // A log that cannot be written is no reason for a container to fail.
        let file = OpenOptions::new().append(true).create(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}
