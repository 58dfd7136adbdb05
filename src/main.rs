//! The `rdvm` command: parse, do, print the one line that says what went wrong, exit.

use std::io::Write;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::CommandFactory;
use rdvm::base::{self, Body};
use rdvm::cache::Cache;
use rdvm::cli::{
    BuildArgs, CacheVerb, Cli, InspectArgs, KernelVerb, PackArgs, RunArgs, UsageError, Verb,
};
use rdvm::copyout::Copied;
use rdvm::doctor::{self, HostFacts, KernelFinding};
use rdvm::error::Error;
use rdvm::inspect::Inspected;
use rdvm::kernel;
use rdvm::notice;
use rdvm::pipeline::{self, Finished, StopSignals, Streams};
use rdvm::report::{BY_SIGNAL, BY_SIGPIPE, FAILED, Report, ReportFile};
use rdvm::request::Request;
use rdvm_hostfs::escape::{shown, without_errno};
use rdvm_hostfs::progress;
use rdvm_image::Sources;
use rdvm_image::config::Config;
use rdvm_image::tree::Tree;
use rdvm_initrd::Epoch;
use rdvm_kernel::Search;
use signal_hook::consts::SIGXFSZ;

fn main() -> ExitCode {
    let began = Instant::now();
    let cli = match rdvm::cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(refused) => return ExitCode::from(refuse(&refused)),
    };
    // A file that reaches `ulimit -f` is an error of the write then, and not our death.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
    match act(cli.verb, began) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            say(&error.to_string());
            ExitCode::from(FAILED)
        }
    }
}

/// Says what is wrong with the command line, also in the report that it asks for.
fn refuse(refused: &UsageError) -> u8 {
    match refused {
        UsageError::Line(error) if !error.use_stderr() => {
            // Nowhere left to say that the message could not be printed.
            let _ = error.print();
            return 0;
        }
        UsageError::Line(error) => {
            let _ = error.print();
        }
        UsageError::Cannot(error) => say(&error.to_string()),
    }
    if let Some(path) = rdvm::cli::report_of(std::env::args_os())
        && let Err(error) = ReportFile::open(&path).and_then(|file| {
            let text = without_errno(&refused.to_string());
            // What clap adds for people follows on lines of its own.
            let text = text.lines().next().unwrap_or_default();
            let text = text.strip_prefix("error: ").unwrap_or(text);
            file.write(&Report::of_error(text.to_owned()))
        })
    {
        say(&error.to_string());
    }
    FAILED
}

fn act(verb: Verb, began: Instant) -> Result<u8> {
    match verb {
        Verb::Run(args) => run(*args, began),
        Verb::Pack(args) => pack(*args),
        Verb::Cache(verb) => cache(verb),
        Verb::Inspect(args) => inspect(args),
        Verb::Kernel(KernelVerb::List { image }) => {
            let image_boot = image.map(|image| image.join("boot"));
            print(&rdvm_kernel::render(&rdvm_kernel::list(
                &Search::from_env(),
                image_boot.as_deref(),
            )))
        }
        Verb::Kernel(KernelVerb::Build(args)) => build_kernel(args),
        Verb::Kernel(KernelVerb::Check(args)) => {
            let cache = Search::from_env().cache;
            let verdict = kernel::check::check(&args.file, cache.as_deref())?;
            let text = match args.json {
                true => verdict.to_json(),
                false => verdict.render(),
            };
            print_verdict(&text, verdict.can_run())
        }
        Verb::Doctor(args) => {
            let diagnosis = doctor::examine(&HostFacts::gather(), &kernel_findings());
            let text = match args.json {
                true => diagnosis.to_json(),
                false => diagnosis.render(),
            };
            print_verdict(&text, diagnosis.can_run())
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
    let finding = |found: rdvm_kernel::KernelFile| KernelFinding {
        usable: found.problem.as_ref().map_or(Ok(()), |problem| {
            Err(format!("{problem}; {}", problem.remedy(&found.path)))
        }),
        path: found.path,
        chosen: found.chosen,
    };
    rdvm_kernel::list(&Search::from_env(), None)
        .into_iter()
        .map(finding)
        .collect()
}

fn run(args: RunArgs, began: Instant) -> Result<u8> {
    let verbosity = Verbosity {
        quiet: args.quiet,
        verbose: args.verbose,
        timings: args.timings,
    };
    let (report_to, dry_run) = (args.report.clone(), args.dry_run);
    if let Some(words) = args.from_profile.as_ref().filter(|_| args.verbose) {
        say(&format!("the profile's options: {words}"));
    }
    // Before anything runs: a report that cannot be written must not cost the command's exit code.
    let is_stdout = report_to.as_deref() == Some(Path::new("-"));
    anyhow::ensure!(
        !is_stdout || dry_run,
        "--report: -: standard output is the command's; name a file, a pipe or /dev/stderr"
    );
    let file = report_to.as_deref().map(ReportFile::open).transpose()?;
    let finished = args
        .into_request()
        .map_err(anyhow::Error::from)
        .and_then(|request| {
            let request = Request { began, ..request };
            match dry_run {
                true => show_plan(&request).map(|()| None),
                false => boot(&request, verbosity).map(Some),
            }
        });
    let finished = match finished {
        Ok(None) => return Ok(0),
        Ok(Some(finished)) => finished,
        Err(error) => Finished::unbooted(match error.downcast() {
            Ok(Error::NotStarted(report)) => *report,
            Ok(error) => Report::of_error(without_errno(&error.to_string())),
            Err(error) => Report::of_error(without_errno(&error.to_string())),
        }),
    };
    if let Some(file) = file {
        file.write(&finished.report)?;
    }
    verbosity.conclude(&finished);
    Ok(finished.report.exit_code)
}

/// Builds the machine, says what is worth saying of it, and runs it.
fn boot(request: &Request, verbosity: Verbosity) -> Result<Finished> {
    let _bar = (!verbosity.quiet).then(progress::show);
    let ready = pipeline::prepare(request)?;
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
        say(&ready.memory.to_string());
    }
    let streams = Streams::inherited().context("standard output and error")?;
    let terminal = pipeline::terminal(request)?;
    let catch = match &terminal {
        Some(terminal) => {
            terminal.settings().restore_on_panic();
            StopSignals::catch_with_window
        }
        None => StopSignals::catch,
    };
    Ok(pipeline::boot(request, ready, streams, terminal, catch)?)
}

fn show_plan(request: &Request) -> Result<()> {
    let plan = pipeline::plan(request)?;
    plan.warnings.iter().for_each(|warning| say(warning));
    say(&format!(
        "kernel {} ({})",
        plan.kernel.path.display(),
        plan.kernel.origin
    ));
    say(&plan.memory.to_string());
    Ok(())
}

/// How much rdvm says beside errors.
#[derive(Debug, Clone, Copy)]
struct Verbosity {
    quiet: bool,
    verbose: bool,
    timings: bool,
}

impl Verbosity {
    /// What is said of a run that is over.
    fn conclude(self, finished: &Finished) {
        for line in &finished.last_lines {
            say(&format!("console: {line}"));
        }
        if let Some(lost) = finished
            .report
            .attributes_lost
            .as_ref()
            .filter(|_| !self.quiet)
        {
            say(&lost.message);
        }
        let gaps = finished.report.console_lost.as_ref();
        if let Some(gaps) = gaps.filter(|_| !self.quiet) {
            say(&gaps.message);
        }
        if let Some(message) = &finished.report.message {
            say(message);
        }
        for error in finished.report.copied.iter().filter_map(Copied::message) {
            say(&error);
        }
        if let Some(phases) = finished.report.timings.filter(|_| self.timings) {
            say(&phases.to_line());
        }
        if let Some(points) = finished.report.timeline.filter(|_| self.timings) {
            say(&points.to_line());
        }
    }
}

fn pack(args: PackArgs) -> Result<u8> {
    let packing = args.into_packing()?;
    let _bar = progress::show();
    // Never dropped: the process ends right after, and freeing many thousand entries one by one takes its time.
    let mut images = ManuallyDrop::new(Vec::new());
    // Steps have parts in common, and each part is opened once.
    let sources = match packing.steps.iter().any(|step| !step.layers.is_empty()) {
        true => Sources::keeping(),
        false => Sources::default(),
    };
    for step in &packing.steps {
        let image = rdvm_image::open_from(step, &sources)?;
        rdvm::trust::check(step, &image.tree, &sources)?;
        let warnings = image.tree.warnings().iter();
        warnings.for_each(|warning| say(&warning.to_string()));
        images.push(image);
    }
    let steps: Vec<&Tree> = images.iter().map(|image| &image.tree).collect();
    let says = |image: &&rdvm_image::Image| image.config != Config::default();
    // IMAGE's own word, which the steps after it share; else that of what is below.
    let options = match images.iter().rev().find(says) {
        Some(image) => packing.options.over(&image.config),
        None => packing.options,
    };
    match rdvm::output::write(&steps, &options, Epoch::from_env()?) {
        // Like any local command whose reader has gone away.
        Err(error) if error.is_broken_pipe() => Ok(BY_SIGPIPE),
        result => {
            let warnings = result?;
            warnings
                .iter()
                .for_each(|warning| say(&warning.to_string()));
            Ok(0)
        }
    }
}

fn inspect(args: InspectArgs) -> Result<u8> {
    let (lock, json) = (args.lock, args.json);
    let (image, kernel, cpus) = args.into_parts()?;
    let bar = progress::show();
    let (base, machine) = pipeline::look(&image, &kernel, cpus)?;
    let Body::Read(read, _) = &base.body else {
        anyhow::bail!("{}: was not read", shown(&image.path));
    };
    let digest = match base.facts.digest {
        Some(digest) => digest,
        None => rdvm_image::digest::of(&read.tree)?,
    };
    drop(bar);
    base.facts.warnings.iter().for_each(|warning| say(warning));
    if lock {
        anyhow::ensure!(
            image.layers.is_empty(),
            "--lock: an image with layers on top cannot be kept in rdvm.lock; lock each by itself"
        );
        rdvm::trust::lock::keep(&image.path, digest)?;
    }
    let machine = match &machine {
        Ok((kernel, memory)) => {
            kernel.warnings.iter().for_each(|warning| say(warning));
            Ok((kernel, memory.clone()))
        }
        Err(error) => Err(error.to_string()),
    };
    let inspected = Inspected {
        image: &image,
        read,
        facts: &base.facts,
        digest,
        machine,
    };
    print(&match json {
        true => inspected.to_json(),
        false => inspected.to_string(),
    })
}

/// The directory of packed images.
fn images() -> Result<Cache> {
    let cache = Search::from_env().cache;
    let cache = cache.context("no cache directory; set RDVM_CACHE, XDG_CACHE_HOME or HOME")?;
    Ok(Cache::below(&cache))
}

fn cache(verb: CacheVerb) -> Result<u8> {
    let images = images()?;
    let failed = || shown(images.directory()).clone();
    match verb {
        CacheVerb::List => {
            let entries = images.list().with_context(failed)?;
            let lines = entries.iter().map(|entry| {
                let unused = entry.used.elapsed().unwrap_or_default().as_secs();
                let days = unused / (24 * 60 * 60);
                let image = images
                    .facts(entry)
                    .and_then(|facts| base::kept_name(&facts));
                format!(
                    "{:>10}  used {days} days ago  {}  {}\n",
                    entry.size.to_string(),
                    image.as_deref().unwrap_or("-"),
                    entry.name
                )
            });
            print(&lines.collect::<String>())
        }
        CacheVerb::Prune { to } => {
            let pruned = images.prune(to, None).with_context(failed)?;
            print(&format!(
                "removed {} images, {}\n",
                pruned.entries, pruned.bytes
            ))
        }
    }
}

fn build_kernel(args: BuildArgs) -> Result<u8> {
    let cache = Search::from_env().cache;
    let _bar = progress::show();
    let options = args.into_options();
    match kernel::build::build(&options, cache.as_deref(), &say, StopSignals::catch) {
        Ok(path) => print(&format!("{}\n", path.display())),
        Err(error @ kernel::build::Error::Interrupted(signal)) => {
            say(&error.to_string());
            Ok(BY_SIGNAL.saturating_add(u8::try_from(signal)?))
        }
        Err(error) => Err(error.into()),
    }
}

/// One line of ours on stderr.
fn say(text: &str) {
    progress::clear();
    let _ = writeln!(std::io::stderr(), "rdvm: {}", without_errno(text));
}

/// A verdict, and the exit code that says the same.
fn print_verdict(text: &str, can_run: bool) -> Result<u8> {
    print(text)?;
    Ok(u8::from(!can_run))
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
