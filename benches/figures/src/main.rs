//! `figures [PROJECT]`: writes docs/performance.md and docs/pictures of the project in this directory or the one named.
//! `figures compare COMMITTED MEASURED`: says how counted figures differ; 1 when one has grown by more than 5 %.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs, io};

use figures::{compare, read};

fn main() -> ExitCode {
    let words: Vec<OsString> = env::args_os().skip(1).collect();
    let done = match &words[..] {
        [verb, committed, measured] if verb == "compare" => {
            check(Path::new(committed), Path::new(measured))
        }
        [] => draw(&PathBuf::from(".")),
        [project] => draw(&PathBuf::from(project)),
        _ => Err("usage: figures [PROJECT] | figures compare COMMITTED MEASURED".to_owned()),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("figures: {error}");
            ExitCode::FAILURE
        }
    }
}

fn draw(project: &Path) -> Result<ExitCode, String> {
    let files = figures::make(project).map_err(|error| error.to_string())?;
    let told = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    let pictures = project.join("docs/pictures");
    fs::create_dir_all(&pictures).map_err(|error| told(&pictures, error))?;
    for (path, contents) in &files {
        let path = project.join(path);
        fs::write(&path, contents).map_err(|error| told(&path, error))?;
        println!("{}", path.display());
    }
    for entry in fs::read_dir(&pictures).map_err(|error| told(&pictures, error))? {
        let path = entry.map_err(|error| told(&pictures, error))?.path();
        if !files.keys().any(|made| project.join(made) == path) {
            fs::remove_file(&path).map_err(|error| told(&path, error))?;
            println!("{} removed: nothing draws it any more", path.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn check(committed: &Path, measured: &Path) -> Result<ExitCode, String> {
    let table = |path: &Path| read(path).map_err(|error| error.to_string());
    let verdict = compare::compare(&table(committed)?, &table(measured)?)
        .map_err(|error| error.to_string())?;
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
