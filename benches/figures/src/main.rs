//! `figures [PROJECT]`: writes docs/performance.md and docs/pictures of the project in this directory or the one named.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs};

fn main() -> ExitCode {
    let project = PathBuf::from(env::args_os().nth(1).unwrap_or_else(|| ".".into()));
    let files = match figures::make(&project) {
        Ok(files) => files,
        Err(error) => {
            eprintln!("figures: {error}");
            return ExitCode::FAILURE;
        }
    };
    for (path, contents) in files {
        let path = project.join(path);
        let dir = path.parent().unwrap_or(&project);
        if let Err(error) = fs::create_dir_all(dir).and_then(|()| fs::write(&path, contents)) {
            eprintln!("figures: {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
        println!("{}", path.display());
    }
    ExitCode::SUCCESS
}
