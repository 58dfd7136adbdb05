//! The list of the scenarios, by the test program itself: the tests that reach `engines()`, and those for any one engine, which
//! reach `any_engine()` (tests/it/support/scenario.rs).
//!
//! The list of all is kept beside the rig's image until the test program is another.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};

use super::build::Tests;
use crate::process::{self, last_lines, read_lossy};
use crate::project::Project;

/// Modules without a scenario, one a line; the test program holds to it.
const WITHOUT: &str = include_str!("../../../tests/it/support/without-engines");

/// Beginnings of the names of scenarios that are not for the rig, and why. Each has a test on the host's engines.
const NOT_HERE: [(&str, &str); 12] = [
    ("pack::", "GNU cpio, bsdcpio and tar are not inside"),
    ("readme::", "it needs the tools of a whole system"),
    ("guide::", "it needs the tools of a whole system"),
    (
        "examples::",
        "they need compilers and the tools of a whole system",
    ),
    ("cookbook::", "they need cpio, and QEMU for the recipe"),
    ("root::bubblewrap", "bwrap is not inside"),
    ("root::crun", "crun is not inside"),
    ("root::runc", "runc is not inside"),
    ("hostile::a_slow_image", "it ends before a machine is made"),
    (
        "hostile::without_a_terminal",
        "it ends before a machine is made",
    ),
    ("machine::kvm_that_cannot_be_used", "KVM can be used there"),
    ("support::", "they test the plumbing"),
];

/// The scenarios to be run.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Scenarios {
    /// Sorted.
    pub(super) names: Vec<String>,
    /// Those for any one engine, sorted.
    pub(super) any: Vec<String>,
    /// Tests that have left themselves out before it was known whether they are scenarios, with the reason.
    pub(super) undecided: Vec<String>,
    /// Tests that have failed before that.
    pub(super) failed: Vec<String>,
}

/// The scenarios with FILTER in their names.
pub(super) fn scenarios(project: &Project, tests: &Tests, filter: &str) -> Result<Scenarios> {
    let dir = project.target.join("rig");
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let kept = dir.join("scenarios");
    let key = key(&tests.it)?;
    let text = read_lossy(&kept);
    let whole = match text.split_once('\n') {
        Some((first, rest)) if first == key => rest.to_owned(),
        _ if filter.is_empty() => {
            let made = ask(project, tests, "", &dir)?;
            // One with gaps is made again.
            if chosen(&made, "").failed.is_empty() {
                let text = format!("{key}\n{made}");
                fs::write(&kept, text).with_context(|| kept.display().to_string())?;
            }
            made
        }
        _ => ask(project, tests, filter, &dir)?,
    };
    let mut found = chosen(&whole, filter);
    let count = |found: &Scenarios| found.names.len() + found.any.len();
    for (start, why) in NOT_HERE {
        let before = count(&found);
        for names in [&mut found.names, &mut found.any] {
            names.retain(|name| !name.starts_with(start));
        }
        // Whole modules are not even asked.
        if start.ends_with("::") && filter.is_empty() {
            eprintln!("rig: {start} not run in the rig: {why}");
        } else if count(&found) < before {
            let left_out = before - count(&found);
            eprintln!("rig: {left_out} of {start} not run in the rig: {why}");
        }
    }
    if count(&found) == 0 {
        bail!("no scenario's name has '{filter}' in it");
    }
    Ok(found)
}

/// The circumstances of a list: the test program, and variables with which tests leave themselves out.
fn key(it: &Path) -> Result<String> {
    let data = fs::metadata(it).with_context(|| it.display().to_string())?;
    let changed = data
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let changed = changed.map_or(0, |time| time.as_nanos());
    let mut key = format!("{} {} {changed}", it.display(), data.len());
    let text = |text: std::ffi::OsString| text.to_string_lossy().replace('\n', " ");
    let variables = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    let mut variables: Vec<_> = variables
        .filter(|(name, _)| name.starts_with("RDVM_"))
        .collect();
    variables.sort();
    for (name, value) in variables {
        // Where tests note things is not what they do.
        if name != "RDVM_TEST_SKIPS" {
            key += &format!(" {name}={value}");
        }
    }
    Ok(key)
}

/// The modules of which it is known that nothing of them runs in the rig.
fn not_asked() -> impl Iterator<Item = String> {
    let modules = NOT_HERE.iter().map(|(start, _)| (*start).to_owned());
    let without = WITHOUT.lines().map(|module| format!("{module}::"));
    modules.filter(|start| start.ends_with("::")).chain(without)
}

/// Runs the test program in the mode in which scenarios end as soon as they are known for such. Returns lines `scenario NAME`,
/// `any NAME`, `undecided NAME: WHY` and `failed NAME`.
fn ask(project: &Project, tests: &Tests, filter: &str, dir: &Path) -> Result<String> {
    let (list, skips, log) = (
        dir.join("asked"),
        dir.join("asked.skips"),
        dir.join("asked.log"),
    );
    for file in [&list, &skips] {
        fs::write(file, "").with_context(|| file.display().to_string())?;
    }
    let file = fs::File::create(&log).with_context(|| log.display().to_string())?;
    let copy = file.try_clone().context("the log")?;
    let mut it = Command::new(&tests.it);
    it.current_dir(&project.top)
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(copy);
    // A test that lacks something is to say so rather than fail.
    it.env("RDVM_TEST_LIST", &list)
        .env("RDVM_TEST_SKIPS", &skips)
        .env_remove("CI")
        .env_remove("RDVM_TEST_ENGINES");
    if !filter.is_empty() {
        it.arg(filter);
    }
    for module in not_asked() {
        it.args(["--skip", &module]);
    }
    // Scenarios count as failures, so that the exit code says nothing.
    it.status().with_context(|| process::shown(&it))?;
    let log_text = read_lossy(&log);
    if !log_text
        .lines()
        .any(|line| line.starts_with("test result: "))
    {
        bail!(
            "the list of scenarios did not come to an end: {}",
            last_lines(&log_text, 3).trim()
        );
    }
    Ok(summed(&read_lossy(&list), &read_lossy(&skips), &log_text))
}

/// The lines of a list, with what tests have noted and what became of each.
fn summed(list: &str, skips: &str, log: &str) -> String {
    let of_kind = |kind: &'static str| list.lines().filter_map(move |line| line.strip_prefix(kind));
    let kinds = ["scenario ", "any "];
    let scenarios = kinds.into_iter().flat_map(of_kind);
    let known: BTreeSet<&str> = scenarios.chain(of_kind("none ")).collect();
    let listed = |line: &&str| kinds.iter().any(|kind| line.starts_with(kind));
    let lines = list.lines().filter(listed).map(|line| format!("{line}\n"));
    let mut lines: BTreeSet<String> = lines.collect();
    let undecided = skips.lines().filter(|line| !known.contains(name_of(line)));
    lines.extend(undecided.map(|line| format!("undecided {line}\n")));
    let ended = log
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    let failed = ended.filter(|name| !known.contains(name));
    lines.extend(failed.map(|name| format!("failed {name}\n")));
    lines.into_iter().collect()
}

/// The name in a line `NAME: WHY`.
fn name_of(line: &str) -> &str {
    line.split(": ").next().unwrap_or_default()
}

/// The lines of a list that a filter leaves.
fn chosen(lines: &str, filter: &str) -> Scenarios {
    let of_kind = |kind: &str| -> Vec<String> {
        let found = lines.lines().filter_map(|line| line.strip_prefix(kind));
        found.map(str::to_owned).collect()
    };
    let mut found = Scenarios {
        names: of_kind("scenario "),
        any: of_kind("any "),
        undecided: of_kind("undecided "),
        failed: of_kind("failed "),
    };
    let Scenarios {
        names,
        any,
        undecided,
        failed,
    } = &mut found;
    for lines in [names, any, undecided, failed] {
        lines.retain(|line| name_of(line).contains(filter));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "scenario a::one\nnone a::two\nscenario b::three\nany b::six\n";

    #[test]
    fn a_test_that_ends_before_it_is_known_for_a_scenario_is_no_silent_gap() {
        let log = "test a::one ... FAILED\ntest a::two ... FAILED\ntest b::six ... FAILED\ntest c::four ... ok\ntest c::five ... FAILED\n";
        let lines = summed(LIST, "c::four: no podman\na::two: x\n", log);
        let wanted = "any b::six\nfailed c::five\nscenario a::one\nscenario b::three\nundecided c::four: no podman\n";
        assert_eq!(lines, wanted);
    }

    #[test]
    fn no_module_is_skipped_with_another_whose_name_ends_alike() {
        let main = include_str!("../../../tests/it/main.rs");
        let modules = main.lines().filter_map(|line| line.strip_prefix("mod "));
        let modules: Vec<_> = modules.map(|line| line.replace(';', "::")).collect();
        for skipped in not_asked() {
            let hit = modules.iter().filter(|module| module.contains(&skipped));
            assert_eq!(hit.collect::<Vec<_>>(), [&skipped]);
        }
    }

    #[test]
    fn a_filter_is_part_of_a_name() {
        let lines = summed(LIST, "a::four: b::three is missing\n", "");
        let found = chosen(&lines, "b::");
        assert_eq!(found.names, ["b::three"]);
        assert_eq!(found.any, ["b::six"]);
        assert!(found.undecided.is_empty());
        assert_eq!(chosen(&lines, "").names.len(), 2);
    }
}
