//! One command in an outer machine, or a shell.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use super::outer::{Machine, Outer};
use super::qemu::make_fifos;
use super::{build, code};
use crate::process::{self, command};
use crate::project::Project;

/// Runs a command of sh in the outer machine.
pub(super) fn run(project: Project, script: &str) -> Result<ExitCode> {
    let tests = build::tests(&project)?;
    let rig = build::with_tests(project, &tests, Machine::Qemu)?;
    rig.outer(&Outer::new("rig", "1g", &["sh", "-c", script]))
        .map(code)
}

/// Joins the terminal to a shell inside, until that ends.
pub(super) fn shell(project: Project) -> Result<ExitCode> {
    let tests = build::tests(&project)?;
    let rig = build::with_tests(project, &tests, Machine::Qemu)?;
    let fifos: PathBuf = rig.dir.join("shell");
    let [input, output] = make_fifos(&fifos)?;
    // Programs rather than threads: a thread that waits for the terminal cannot be ended.
    let cat = |redirected: &str, fifo: &PathBuf| {
        let mut sh = command(&["sh", "-c", redirected, "shell"]);
        sh.arg(fifo).spawn().context("sh")
    };
    let raw = Raw::set()?;
    let mut reading = cat(r#"exec cat "$1""#, &output)?;
    let mut writing = cat(r#"exec cat >"$1""#, &input)?;
    let mut outer = Outer::new("rig", "1g", &["sh", "/rig/shell.sh"]);
    outer.shell = Some(fifos);
    let ended = rig.outer(&outer);
    // Either may have ended already.
    for child in [&mut writing, &mut reading] {
        let _ = child.kill();
        let _ = child.wait();
    }
    drop(raw);
    ended.map(|_| ExitCode::SUCCESS)
}

/// The terminal's settings, to be set again.
struct Raw(Option<String>);

impl Raw {
    fn set() -> Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Self(None));
        }
        let settings = process::output(&mut command(&["stty", "-g"]))?;
        process::run(&mut command(&["stty", "raw", "-echo"]))?;
        Ok(Self(Some(settings.trim().to_owned())))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(settings) = &self.0 {
            // Nothing can be done about it, and the terminal shows it.
            let _ = Command::new("stty").arg(settings).status();
        }
    }
}
