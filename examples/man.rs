//! Writes the man pages, rdvm.1 and one for each verb, into a directory: `cargo run --example man -- DIR`.
//!
//! They come from the same definition as `--help` and the completions; examples, environment and exit status from
//! `cli::help`.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use rdvm::cli::{Cli, help};

fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1) else {
        eprintln!("man: name the directory for the pages");
        return ExitCode::FAILURE;
    };
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    match pages(&cli, Path::new(&dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("man: {}: {error}", dir.display());
            ExitCode::FAILURE
        }
    }
}

/// Writes the page of a command and those of its subcommands.
fn pages(command: &clap::Command, dir: &Path) -> io::Result<()> {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        pages(verb, dir)?;
    }
    let man = Man::new(command.clone());
    let mut file = File::create(dir.join(man.get_filename()))?;
    man.render_title(&mut file)?;
    man.render_name_section(&mut file)?;
    man.render_synopsis_section(&mut file)?;
    man.render_description_section(&mut file)?;
    man.render_options_section(&mut file)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut file)?;
    }
    let name = command.get_display_name().unwrap_or("rdvm");
    let status = match name {
        "rdvm" | "rdvm-run" => help::RUN_STATUS,
        "rdvm-doctor" | "rdvm-kernel-check" => help::VERDICT_STATUS,
        _ => help::STATUS,
    };
    list("EXIT STATUS", status, &mut file)?;
    list("ENVIRONMENT", help::ENVIRONMENT, &mut file)?;
    let examples = match name {
        "rdvm" | "rdvm-run" => help::RUN,
        "rdvm-pack" => help::PACK,
        "rdvm-inspect" => help::INSPECT,
        "rdvm-pull" => help::PULL,
        "rdvm-images" => help::IMAGES,
        "rdvm-rmi" => help::RMI,
        "rdvm-doctor" => help::DOCTOR,
        _ if name.starts_with("rdvm-kernel") => help::KERNEL,
        _ if name.starts_with("rdvm-oci") => help::OCI,
        _ if name.starts_with("rdvm-cache") => help::CACHE,
        _ => &[],
    };
    if !examples.is_empty() {
        list("EXAMPLES", examples, &mut file)?;
    }
    man.render_version_section(&mut file)
}

/// Writes a section of terms, each with its paragraph.
fn list(heading: &str, terms: &[(&str, &str)], file: &mut File) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SH", [heading]);
    for &(term, text) in terms {
        roff.control("TP", []);
        roff.text([bold(term)]);
        roff.text([roman(text)]);
    }
    roff.to_writer(file)
}
