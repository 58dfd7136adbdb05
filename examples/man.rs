//! Writes the man pages, rdvm.1 and one for each verb, into a directory: `cargo run --example man -- DIR`.
//!
//! They come from the same definition as `--help` and the completions.

use std::process::ExitCode;

use clap::CommandFactory;

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1) else {
        eprintln!("man: name the directory for the pages");
        return ExitCode::FAILURE;
    };
    match clap_mangen::generate_to(rdvm::cli::Cli::command(), &dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("man: {}: {error}", dir.display());
            ExitCode::FAILURE
        }
    }
}
