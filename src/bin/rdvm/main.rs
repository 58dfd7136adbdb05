//! The `rdvm` command: parses the command line, runs a verb and prints the one line that says what went wrong.

mod cache;
mod doctor;
mod images;
mod inspect;
mod kernel;
mod notice;
mod oci;
mod pack;
mod print;
mod pull;
mod refuse;
mod rmi;
mod run;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::CommandFactory;
use rdvm::cli::{Cli, Verb};
use rdvm::network::PROXY_VERB;
use rdvm::oci::MACHINE_VERB;
use rdvm::report::FAILED;
use signal_hook::consts::SIGXFSZ;

/// The exit code of a verb, or its one line of what went wrong.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|verb| verb == PROXY_VERB)
    {
        return rdvm_proxy::main();
    }
    let began = Instant::now();
    if let Some(code) = machine() {
        return ExitCode::from(code);
    }
    let words = rdvm::cli::words(std::env::args_os().collect());
    let cli = match rdvm::cli::parse(words) {
        Ok(cli) => cli,
        Err(refused) => return ExitCode::from(refuse::refuse(&refused)),
    };
    // A file that reaches `ulimit -f` is an error of the write, and does not kill rdvm.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
    let code = act(cli.verb, began).unwrap_or_else(|error| {
        print::say(&error.to_string());
        FAILED
    });
    ExitCode::from(code)
}

/// Runs a container's machine, if that is what this process was started for.
fn machine() -> Option<u8> {
    let mut words = std::env::args_os().skip(1);
    let is_machine = words.next().is_some_and(|verb| verb == MACHINE_VERB);
    let directory = words.next().filter(|_| is_machine)?;
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
    Some(rdvm::oci::machine(Path::new(&directory)))
}

fn act(verb: Verb, began: Instant) -> Result<u8> {
    match verb {
        Verb::Run(args) => run::run(*args, began),
        Verb::Pack(args) => pack::pack(*args),
        Verb::Pull(args) => pull::pull(&args),
        Verb::Images(args) => images::images(&args),
        Verb::Rmi(args) => rmi::rmi(&args),
        Verb::Cache(verb) => cache::cache(verb),
        Verb::Inspect(args) => inspect::inspect(args),
        Verb::Kernel(verb) => kernel::kernel(verb),
        Verb::Doctor(args) => doctor::doctor(&args),
        Verb::Oci(args) => oci::oci(*args),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "rdvm", &mut script);
            print::print(&String::from_utf8_lossy(&script))
        }
    }
}
