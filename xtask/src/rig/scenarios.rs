//! The scenarios on KVM: in outer machines that share them, or on the host.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::build::{self, cargo};
use super::outer::{Machine, Outer};
use super::report::{Report, Terms};
use super::tests_here::{self, Scenarios};
use super::{Rig, say};
use crate::process::{self, read_lossy};
use crate::project::{Project, number_or, variable, variable_or};

/// Beginnings of the names that are booted on the distribution's kernel too; all others boot the small one where it has been
/// built.
const ON_BOTH: [&str; 8] = [
    "streams::every_byte",
    "input::every_byte",
    "tty::the_command_has",
    "endings::exit_codes",
    "endings::a_kernel_panic",
    "endings::a_guest_that_resets",
    "surroundings::several_cpus",
    "images::both",
];

/// The settings that differ in Bochs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    pub(super) memory: &'static str,
    /// Scenarios for any one engine are run too, without a filter and without `RIG_ALL`.
    pub(super) all: bool,
    /// The number that may pass only the second time.
    pub(super) again: u64,
    pub(super) limit: Option<&'static str>,
}

/// Runs the scenarios with FILTER in their names in QEMU.
pub(super) fn on_kvm(project: Project, filter: &str, started: Instant) -> Result<ExitCode> {
    let defaults = Defaults {
        memory: "5g",
        all: false,
        again: number_or("RIG_AGAIN", 2)?,
        limit: None,
    };
    in_outers(project, filter, Machine::Qemu, defaults, started)
}

/// Runs the scenarios, shared by outer machines.
pub(super) fn in_outers(
    project: Project,
    filter: &str,
    machine: Machine,
    defaults: Defaults,
    started: Instant,
) -> Result<ExitCode> {
    let tests = build::tests(&project)?;
    let Scenarios {
        mut names,
        any,
        undecided,
        failed,
    } = tests_here::scenarios(&project, &tests, filter)?;
    match defaults.all || !filter.is_empty() || variable("RIG_ALL").is_some() {
        true => names.extend(any),
        false => say!(
            "{} for any one engine not run in the rig: QEMU has them (RIG_ALL=1 runs them)",
            any.len()
        ),
    }
    let rig = build::with_tests(project, &tests, machine)?;
    rig.image.add_images(&rig.project, &["libs", "debian"])?;
    rig.image.add_kernels(&rig.project, &rig.rdvm)?;
    let lists = shares(&rig, &names)?;
    let count: usize = lists.iter().map(Vec::len).sum();
    say!(
        "{count} scenarios in {} outer machines; large ones are smaller here (RDVM_TEST_SMALL)",
        lists.len()
    );
    for (number, list) in lists.iter().enumerate() {
        rig.image
            .write(&format!("rig/list.{number}"), list.concat())?;
    }
    let memory = variable_or("RIG_MEMORY", defaults.memory);
    let outs = thread::scope(|scope| {
        let running: Vec<_> = (0..lists.len())
            .map(|number| {
                scope.spawn({
                    let (rig, memory) = (&rig, &memory);
                    move || share(rig, memory, defaults.limit, number)
                })
            })
            .collect();
        let ended = running.into_iter().map(|running| running.join());
        ended
            .map(|out| out.unwrap_or_else(|_| bail!("the thread of an outer machine has panicked")))
            .collect::<Result<Vec<PathBuf>>>()
    })?;
    let mut report = Report::default();
    for out in &outs {
        print!("{}", report.add(&read_lossy(out)));
    }
    let inside = report
        .skipped
        .iter()
        .map(|line| format!("in the rig: {line}"));
    let before = undecided.iter();
    let before =
        before.map(|line| format!("before it was known for a scenario of the rig: {line}"));
    leave_out(inside.chain(before))?;
    let terms = Terms {
        outers: outs.len(),
        most: defaults.again,
        seconds: started.elapsed().as_secs(),
    };
    print!("{}", report.text(terms));
    // They may be scenarios that are missing here.
    for name in &failed {
        say!(
            "{name} failed before it was known whether it is a scenario, see asked.log; so this run has failed"
        );
    }
    match report.is_good(terms) && failed.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(ExitCode::FAILURE),
    }
}

/// The lines of the outer machines' lists: a kernel and a test each.
fn shares(rig: &Rig, names: &[String]) -> Result<Vec<Vec<String>>> {
    let mut lines: Vec<String> = names
        .iter()
        .map(|name| format!("default {name}\n"))
        .collect();
    if rig.image.small.is_some() {
        let debian = rig.image.debian.display();
        let both = names
            .iter()
            .filter(|name| ON_BOTH.iter().any(|start| name.starts_with(start)));
        lines.extend(both.map(|name| format!("{debian} {name}\n")));
    }
    let outers = (number_or("OUTERS", 2)?.max(1) as usize).min(lines.len());
    let mut lists = vec![Vec::new(); outers];
    for (at, line) in lines.into_iter().enumerate() {
        lists[at % outers].push(line);
    }
    Ok(lists)
}

/// Runs one outer machine's part; returns the file with all that it printed. Its exit code says nothing that its lines do not.
fn share(rig: &Rig, memory: &str, limit: Option<&str>, number: usize) -> Result<PathBuf> {
    let (name, list) = (format!("rig{number}"), format!("/rig/list.{number}"));
    let out = rig.dir.join(format!("out.{number}"));
    let mut outer = Outer::new(&name, memory, &["sh", "/rig/scenarios.sh", &list]);
    outer.limit = limit;
    let outer = outer.all_into_file(&out)?;
    if let Err(error) = rig.outer(&outer) {
        outer
            .complain(&format!("rig: {name}: {error:#}\n"))
            .with_context(|| out.display().to_string())?;
    }
    Ok(out)
}

/// Notes what was left out: in the file that `RDVM_TEST_SKIPS` names, else on standard output.
fn leave_out(lines: impl Iterator<Item = String>) -> Result<()> {
    let lines: BTreeSet<String> = lines.collect();
    let Some(path) = variable("RDVM_TEST_SKIPS") else {
        for line in lines {
            say!("left out {line}");
        }
        return Ok(());
    };
    let file = OpenOptions::new().append(true).create(true).open(&path);
    let mut file = file.with_context(|| path.clone())?;
    for line in lines {
        writeln!(file, "{line}").with_context(|| path.clone())?;
    }
    Ok(())
}

/// Runs the scenarios on the host's own KVM, where it is real.
pub(super) fn native(project: &Project, filter: &str) -> Result<ExitCode> {
    let tests = build::tests(project)?;
    let doctor = Command::new(&tests.rdvm).arg("doctor").output();
    let doctor = doctor.with_context(|| tests.rdvm.display().to_string())?;
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let verdict = doctor.lines().find(|line| {
        let mut words = line.split_whitespace();
        !line.starts_with(' ') && words.nth(1) == Some("kvm") && words.next().is_some()
    });
    if !verdict.is_some_and(|verdict| verdict.starts_with("ok")) {
        let said = verdict.unwrap_or("nothing of kvm");
        say!("SKIPPED, no scenario ran on the host's own KVM; doctor says: {said}");
        return Ok(ExitCode::SUCCESS);
    }
    let Scenarios { names, any, .. } = tests_here::scenarios(project, &tests, filter)?;
    let dir = project.target.join("rig");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let runs = dir.join("runs");
    fs::write(&runs, "").with_context(|| runs.display().to_string())?;
    let mut run = cargo();
    run.args(["test", "--workspace", "--test", "it", "--", "--exact"])
        .args(names.into_iter().chain(any));
    run.env("RDVM_TEST_RUNS", &runs)
        .env("RDVM_TEST_ENGINES", "kvm");
    process::run(run.env("RDVM_TEST_IMAGES", &project.images))?;
    let text = read_lossy(&runs);
    let ran: BTreeSet<&str> = text
        .lines()
        .filter(|line| line.starts_with("kvm "))
        .collect();
    if ran.is_empty() {
        bail!("no scenario ran on the host's kvm");
    }
    say!("{} scenarios ran on the host's kvm", ran.len());
    Ok(ExitCode::SUCCESS)
}
