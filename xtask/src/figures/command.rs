//! `cargo xtask figures`: writes docs/performance.md and docs/pictures, or compares counted figures.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::{compare, make, read};
use crate::project::Project;

/// Runs the verb that the words name.
pub(crate) fn main(words: &[&str]) -> Result<ExitCode> {
    match words {
        ["compare", committed, measured] => check(Path::new(committed), Path::new(measured)),
        [] => draw(&Project::enter()?.top),
        _ => bail!("usage: cargo xtask figures [compare COMMITTED MEASURED]"),
    }
}

fn draw(project: &Path) -> Result<ExitCode> {
    let files = make(project)?;
    let pictures = project.join("docs/pictures");
    let shown = |path: &Path| path.display().to_string();
    fs::create_dir_all(&pictures).with_context(|| shown(&pictures))?;
    for (path, contents) in &files {
        fs::write(project.join(path), contents).with_context(|| shown(path))?;
        println!("{}", path.display());
    }
    for entry in fs::read_dir(&pictures).with_context(|| shown(&pictures))? {
        let path = entry.with_context(|| shown(&pictures))?.path();
        if !files.keys().any(|made| project.join(made) == path) {
            fs::remove_file(&path).with_context(|| shown(&path))?;
            println!("{} removed: nothing draws it any more", path.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Compares counted figures with the committed ones; fails when one is worse.
pub(crate) fn check(committed: &Path, measured: &Path) -> Result<ExitCode> {
    let verdict = compare::compare(&read(committed)?, &read(measured)?)?;
    print!("{}", verdict.text);
    if verdict.better > 0 {
        println!(
            "check-speed: {} figures are better by more than 5 %; make check-speed-accept keeps them so",
            verdict.better
        );
    }
    if verdict.bad > 0 {
        println!(
            "check-speed: {} figures are worse by more than 5 %, missing or new; what is meant to cost: make check-speed-accept",
            verdict.bad
        );
        return Ok(ExitCode::FAILURE);
    }
    println!("check-speed: nothing is worse by more than 5 %");
    Ok(ExitCode::SUCCESS)
}
