//! The `rdvm` command: parse, do, print the one line that says what went wrong, exit.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;
use rdvm::cli::{Cli, InspectArgs, KernelVerb, PackArgs, RunArgs, Verb};
use rdvm::doctor::{self, Facts, KernelFinding};
use rdvm::initrd::Epoch;
use rdvm::kernel::{self, Search};
use rdvm::pipeline::{self, Finished, Streams};
use rdvm::report::{FAILED, Report};

fn main() -> ExitCode {
    let cli = match rdvm::cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let asked_for = !error.use_stderr();
            // Nowhere left to say that the message could not be printed.
            let _ = error.print();
            return ExitCode::from(if asked_for { 0 } else { FAILED });
        }
    };
    match act(cli.verb) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::from(FAILED)
        }
    }
}

fn act(verb: Verb) -> Result<u8> {
    match verb {
        Verb::Run(args) => run(*args),
        Verb::Pack(args) => pack(args),
        Verb::Inspect(args) => inspect(args),
        Verb::Kernel(KernelVerb::List { image }) => {
            let image_boot = image.map(|image| image.join("boot"));
            print(&kernel::render(&kernel::list(
                &Search::from_env(),
                image_boot.as_deref(),
            )))
        }
        Verb::Doctor(args) => {
            let diagnosis = doctor::examine(&Facts::gather(), &kernel_findings());
            print(&if args.json {
                diagnosis.to_json()
            } else {
                diagnosis.render()
            })?;
            Ok(if diagnosis.can_run() { 0 } else { 1 })
        }
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "rdvm", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    }
}

/// The kernels as `doctor` wants them.
fn kernel_findings() -> Vec<KernelFinding> {
    let finding = |found: kernel::Found| KernelFinding {
        usable: found.problem.as_ref().map_or(Ok(()), |problem| {
            Err(format!("{problem}; {}", problem.remedy(&found.path)))
        }),
        path: found.path,
        chosen: found.chosen,
    };
    kernel::list(&Search::from_env(), None)
        .into_iter()
        .map(finding)
        .collect()
}

fn run(args: RunArgs) -> Result<u8> {
    let (report_to, timings, dry_run) = (args.report.clone(), args.timings, args.dry_run);
    let (quiet, verbose) = (args.quiet, args.verbose);
    let request = args.into_request()?;
    if dry_run {
        let plan = pipeline::plan(
            &request.image,
            &request.kernel,
            request.cpus,
            request.memory,
        )?;
        say(&format!(
            "kernel {} ({})",
            plan.kernel.path.display(),
            plan.kernel.origin
        ));
        say(&plan.memory.to_string());
        return Ok(0);
    }
    let streams = Streams {
        stdout: std::io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .context("standard output")?,
        stderr: std::io::stderr()
            .as_fd()
            .try_clone_to_owned()
            .context("standard error")?,
    };
    let finished = pipeline::run(&request, streams);
    let Finished { report, last_lines } = finished.unwrap_or_else(|error| Finished {
        report: Report::of_error(error.to_string()),
        last_lines: Vec::new(),
    });
    if let Some(path) = report_to {
        write_report(&path, &report)?;
    }
    for line in &last_lines {
        say(&format!("console: {line}"));
    }
    if let Some(message) = &report.message {
        say(message);
    }
    if let Some(machine) = report.machine.as_ref().filter(|_| verbose && !quiet) {
        say(&format!(
            "engine {}, kernel {}, memory {} bytes",
            machine.engine, machine.kernel, machine.memory
        ));
    }
    if let Some(phases) = report.timings.filter(|_| timings) {
        say(&phases.to_line());
    }
    Ok(report.exit_code)
}

fn pack(args: PackArgs) -> Result<u8> {
    let (image, output) = args.into_parts()?;
    let tree = rdvm::image::open(&image)?;
    rdvm::initrd::write_archive(&tree, Epoch::from_env()?, &output)?;
    Ok(0)
}

fn inspect(args: InspectArgs) -> Result<u8> {
    let (image, kernel, cpus) = args.into_parts()?;
    let plan = pipeline::plan(&image, &kernel, cpus, rdvm::request::MemoryWish::FromImage)?;
    print(&rdvm::inspect::render(&image, &plan))
}

/// Writes the report whole or not at all: whoever reads it never sees half of one.
fn write_report(path: &Path, report: &Report) -> Result<()> {
    rdvm::atomic::write(path, report.to_json().as_bytes())
        .with_context(|| format!("--report: {}", path.display()))
}

/// One line of ours on stderr.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "rdvm: {text}");
}

/// Output that was asked for. A reader that has gone away is no error.
fn print(text: &str) -> Result<u8> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("standard output")
        }
        _ => Ok(0),
    }
}
