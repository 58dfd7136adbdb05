//! `rdvm run`.

use std::path::Path;
use std::time::Instant;

use rdvm::cli::RunArgs;
use rdvm::copyout::Copied;
use rdvm::error::Error;
use rdvm::names::{self, PullPolicy};
use rdvm::pipeline::{self, Finished, StopSignals, Streams};
use rdvm::report::{Report, ReportFile};
use rdvm::request::Request;
use rdvm_confine::Wish;
use rdvm_hostfs::escape::reason;
use rdvm_kernel::Search;

use crate::print::{say, show_bar};
use crate::{Result, notice};

/// The lines that rdvm prints besides errors.
#[derive(Debug, Clone, Copy)]
struct Verbosity {
    quiet: bool,
    verbose: bool,
    timings: bool,
}

/// Runs a command in an image, writes its report, and returns its exit code.
pub(crate) fn run(args: RunArgs, began: Instant) -> Result<u8> {
    let verbosity = Verbosity {
        quiet: args.quiet,
        verbose: args.verbose,
        timings: args.timings,
    };
    let (report_to, dry_run, pull) = (args.report.clone(), args.dry_run, args.pull());
    if let Some(words) = args.from_profile.as_ref().filter(|_| args.verbose) {
        say(&format!("the profile's options: {words}"));
    }
    // Before anything runs: a report that cannot be written must not cost the command's exit code.
    if report_to.as_deref() == Some(Path::new("-")) && !dry_run {
        return Err(
            "--report: -: standard output is the command's; name a file, a pipe or /dev/stderr"
                .into(),
        );
    }
    let file = report_to.as_deref().map(ReportFile::open).transpose()?;
    let wish = args.confinement.required().map(|required| Wish {
        required,
        report: file
            .as_ref()
            .and_then(ReportFile::directory)
            .map(Path::to_owned),
    });
    let result = match args.into_request() {
        Ok(request) if dry_run => show_plan(request, pull).map(|()| None),
        Ok(request) => confine(wish.as_ref(), verbosity)
            .and_then(|()| boot(request, pull, verbosity, began))
            .map(Some),
        Err(error) => Err(error.into()),
    };
    let finished = match result {
        Ok(None) => return Ok(0),
        Ok(Some(finished)) => finished,
        Err(error) => Finished::unbooted(match error.downcast().map(|error| *error) {
            Ok(Error::NotStarted(report)) => *report,
            Ok(error) => Report::of_error(error.to_string()),
            Err(error) => Report::of_error(error.to_string()),
        }),
    };
    if let Some(file) = file {
        file.write(&finished.report)?;
    }
    verbosity.conclude(&finished);
    Ok(finished.report.exit_code)
}

/// Asks for the confinement of this process, and says which layers it will not have.
fn confine(wish: Option<&Wish>, verbosity: Verbosity) -> Result<()> {
    if let Some(wish) = wish {
        rdvm_confine::begin(wish).map_err(Error::from)?;
    }
    let layers = rdvm_confine::layers();
    for layer in layers.iter().filter(|layer| verbosity.verbose && !layer.on) {
        say(&format!("confinement: {layer}"));
    }
    Ok(())
}

/// Builds the machine, prints what is known of it, and runs it.
fn boot(
    mut request: Request,
    pull: PullPolicy,
    verbosity: Verbosity,
    began: Instant,
) -> Result<Finished> {
    let bar = (!verbosity.quiet).then(show_bar);
    request.progress = bar
        .as_ref()
        .map(|bar| bar.progress.clone())
        .unwrap_or_default();
    let pulled = names::resolve(&mut request.image, pull, &request.progress)?;
    if !verbosity.quiet {
        pulled.iter().for_each(|line| say(line));
    }
    let mut ready = pipeline::prepare(&request)?;
    ready.began = began;
    if let Some(line) = &ready.slower {
        let cache = Search::from_env().cache;
        if verbosity.verbose {
            say(line);
        } else if !verbosity.quiet && notice::is_due(cache.as_deref(), "notice-engine", line) {
            say(&format!("{line} (said once a day)"));
        }
    }
    if !verbosity.quiet {
        ready.warnings.iter().for_each(|warning| say(warning));
    }
    if verbosity.verbose {
        if let Some(note) = Search::from_env().keeps_nothing {
            say(&note);
        }
        say(&ready.to_string());
        if let Some(reason) = &ready.not_in_place {
            say(&format!(
                "the image is unpacked, not used in place: {reason}"
            ));
        }
        say(&ready.memory.to_string());
        if let Some(scratch) = &ready.scratch {
            say(&scratch.to_string());
        }
    }
    if !verbosity.quiet {
        let ports = ready.published_ports(!verbosity.verbose);
        ports.iter().for_each(|line| say(line));
    }
    let streams = Streams::inherited()
        .map_err(|error| format!("standard output and error: {}", reason(&error)))?;
    let terminal = pipeline::terminal(&request)?;
    if let Some(terminal) = &terminal {
        terminal.settings().restore_on_panic();
    }
    let catch = StopSignals::catch_for_command;
    Ok(pipeline::boot(&request, ready, streams, terminal, catch)?)
}

fn show_plan(mut request: Request, pull: PullPolicy) -> Result<()> {
    names::resolve(&mut request.image, pull, &request.progress)?;
    let plan = pipeline::plan(&request)?;
    plan.warnings.iter().for_each(|warning| say(warning));
    say(&format!(
        "kernel {} ({})",
        plan.kernel.path.display(),
        plan.kernel.origin
    ));
    say(&plan.memory.to_string());
    request.network.lines().iter().for_each(|line| say(line));
    if let Some(scratch) = &plan.scratch {
        say(&scratch.to_string());
    }
    Ok(())
}

impl Verbosity {
    /// Prints the lines about a run that is over.
    fn conclude(self, finished: &Finished) {
        let report = &finished.report;
        for line in &finished.last_lines {
            say(&format!("console: {line}"));
        }
        if !self.quiet {
            let lost = report.attributes_lost.iter().map(|lost| &lost.message);
            let gaps = report.console_lost.iter().map(|gaps| &gaps.message);
            lost.chain(gaps).for_each(|message| say(message));
            let network = report.network.iter().flat_map(|network| network.lines());
            network.for_each(|line| say(&line));
        }
        report.message.iter().for_each(|message| say(message));
        let copied = report.copied.iter().filter_map(Copied::message);
        copied.for_each(|error| say(&error));
        if self.timings {
            report
                .timings
                .iter()
                .for_each(|phases| say(&phases.to_line()));
            report
                .timeline
                .iter()
                .for_each(|points| say(&points.to_line()));
        }
    }
}
