//! The programs that developers run: the rig, measurements, the drawing of figures.
//!
//! `rig` boots outer machines in which Linux's KVM runs, for the scenarios and for counted measurements. `bench` measures
//! side by side with other tools. `figures` makes docs/performance.md of the results. Depends on nothing of rdvm's own, so that
//! it compiles in seconds.

#![forbid(unsafe_code)]

mod bench;
mod figures;
mod process;
mod project;
mod rig;
mod tsv;

use std::env;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

const LIBRARIES: &str = "LD_LIBRARY_PATH";

const USAGE: &str = "usage: cargo xtask VERB

  rig VERB        the rig: scenarios and counted measurements on KVM; `cargo xtask rig` lists its verbs
  bench VERB      wall-clock measurements; `cargo xtask bench` lists its verbs
  figures         make docs/performance.md and its pictures of benches/results
  figures compare COMMITTED MEASURED
                  compare counted figures; exit code 1 when one has grown by more than 5 %";

/// Runs the verb that the words name.
#[must_use]
pub fn main(words: Vec<String>) -> ExitCode {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let name = words.first().copied().unwrap_or("xtask");
    match dispatch(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(words: &[&str]) -> Result<ExitCode> {
    match words {
        ["rig", words @ ..] => rig::main(words),
        ["bench", ..] if cargo_names_libraries() => Err(again_without_them(words).into()),
        ["bench", words @ ..] => bench::main(words),
        ["figures", words @ ..] => figures::command::main(words),
        _ => bail!("{USAGE}"),
    }
}

/// True where `cargo run` has set a path of libraries, in which each measured program would look for its own first.
fn cargo_names_libraries() -> bool {
    ["CARGO_MANIFEST_DIR", LIBRARIES]
        .iter()
        .all(|name| env::var_os(name).is_some())
}

/// Becomes the same program without that path; returns only when it cannot.
fn again_without_them(words: &[&str]) -> io::Error {
    match env::current_exe() {
        Ok(program) => Command::new(program)
            .args(words)
            .env_remove(LIBRARIES)
            .exec(),
        Err(error) => error,
    }
}
