//! [`HostFacts`] and the kernels that were found → [`Diagnosis`], a pure function; [`HostFacts::gather`] does the looking.

use std::path::PathBuf;

use serde::Serialize;

use rdvm::level::Level;

use super::facts::HostFacts;
use super::{checks, limits, memory};

/// A kernel that was found, as plain data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelFinding {
    /// The file.
    pub(crate) path: PathBuf,
    /// The error if it cannot boot, as "what went wrong" or "what went wrong; way out", escaped.
    pub(crate) usable: Result<(), String>,
    /// True if a run would use it.
    pub(crate) chosen: bool,
    /// The place of what large images in place need, or why it is not there; `None` if it was not looked for.
    pub(crate) in_place: Option<Result<String, String>>,
}

/// The result: findings in the order of areas, and what follows from them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Diagnosis {
    can_run: bool,
    verdict: String,
    /// The findings, grouped by area.
    pub(crate) findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// `cpu`, `kvm`, `qemu`, `kernel`, `memory`, `limits`, `files` or `sandbox`.
    pub(crate) area: &'static str,
    /// The level.
    pub(crate) level: Level,
    /// One line, control characters escaped.
    pub(crate) text: String,
    /// The remedy, a command if there is one.
    pub(crate) remedy: Option<String>,
}

/// Judges the facts. A problem is what stops every run; anything less is a note.
pub(crate) fn examine(facts: &HostFacts, kernels: &[KernelFinding]) -> Diagnosis {
    let findings: Vec<Finding> = [
        checks::cpu(facts),
        checks::kvm(facts),
        checks::qemu(facts),
        checks::kernels(facts, kernels),
        memory::check(&facts.memory),
        limits::check(facts),
        checks::files(facts),
        checks::fences(facts),
    ]
    .into_iter()
    .flatten()
    .collect();
    let problems = findings
        .iter()
        .filter(|finding| finding.level == Level::Problem)
        .count();
    Diagnosis {
        can_run: problems == 0,
        verdict: verdict(problems, facts, kernels),
        findings,
    }
}

impl Diagnosis {
    /// True if a run can work here; the exit code of `rdvm doctor` is 0 then.
    pub(crate) fn can_run(&self) -> bool {
        self.can_run
    }

    /// The same as JSON, ending in a newline.
    pub(crate) fn to_json(&self) -> String {
        // Strings, numbers and lists only: nothing in it can fail to serialize.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// The diagnosis as text: a line for each finding, its remedy below it, the verdict last.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let level = finding.level;
            text += &format!("{level:<4}  {:<7}  {}\n", finding.area, finding.text);
            if let Some(remedy) = &finding.remedy {
                text += &format!("{:15}-> {remedy}\n", "");
            }
        }
        text + &self.verdict + "\n"
    }
}

impl Finding {
    pub(super) fn new(
        area: &'static str,
        level: Level,
        text: String,
        remedy: Option<String>,
    ) -> Self {
        Self {
            area,
            level,
            text,
            remedy,
        }
    }
}

fn verdict(problems: usize, facts: &HostFacts, kernels: &[KernelFinding]) -> String {
    let engine = match checks::runs_on_kvm(facts) {
        true => "kvm (hardware)",
        false => "qemu (software emulation)",
    };
    match (problems, checks::chosen(kernels)) {
        (0, Some(kernel)) => format!(
            "a run will use: {engine}, kernel {}",
            rdvm_hostfs::escape::shown(&kernel.path)
        ),
        (1, _) => "a run cannot work: 1 problem, marked FAIL".into(),
        (count, _) => format!("a run cannot work: {count} problems, marked FAIL"),
    }
}
