//! `rdvm kernel check`: which features of rdvm a kernel has the options for, and what does not work without.
//!
//! Takes a path, returns a [`Verdict`]. The table is `features`, finding the configuration `config`. It judges options
//! alone: what a kernel of other parts does, only a run can tell.

pub(super) mod config;
pub(super) mod features;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::regions::{self, Regions};
use crate::level::Level;
use config::Config;
use features::{FEATURES, Feature, REGIONS, SCRATCH, Weight};
use rdvm_hostfs::escape::shown;

use rdvm_kernel::FileError;

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// The file cannot be read.
    #[error("{}: {problem}; name a kernel, its .config or config.gz", shown(path))]
    File { path: PathBuf, problem: FileError },
    /// It is a kernel that cannot be used at all.
    #[error(transparent)]
    Kernel(#[from] rdvm_kernel::Error),
    /// A text without options, or something else.
    #[error(
        "{}: is no kernel and no configuration of one; name a kernel, its .config or config.gz",
        shown(path)
    )]
    NoConfig { path: PathBuf },
    /// A kernel without its configuration.
    #[error(
        "{}: does not say its options (CONFIG_IKCONFIG), and there is no {}; name its .config",
        shown(path),
        shown(beside)
    )]
    Silent { path: PathBuf, beside: PathBuf },
}

/// The findings, feature by feature, in the order of the table.
#[derive(Debug, Serialize)]
pub struct Verdict {
    can_run: bool,
    verdict: String,
    /// The configuration's file, escaped.
    config: String,
    features: Vec<Finding>,
}

/// One feature.
#[derive(Debug, Serialize)]
struct Finding {
    feature: &'static str,
    level: Level,
    /// The directory of the modules that it is there by, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    modules: Option<String>,
    /// The deviation, as text: `CONFIG_SMP is off`.
    missing: Vec<String>,
    /// The consequence.
    consequence: Option<&'static str>,
}

/// Judges the kernel, or the configuration of one, at `path`. A kernel is unpacked by way of `cache`.
///
/// # Errors
/// [`Error`] when there is no configuration to be judged.
pub fn check(path: &Path, cache: Option<&Path>) -> Result<Verdict, Error> {
    Ok(judge(&Config::read(path, cache)?))
}

fn judge(config: &Config) -> Verdict {
    let features: Vec<Finding> = FEATURES.iter().map(|one| one.judge(config)).collect();
    let count = |level| features.iter().filter(|one| one.level == level).count();
    let (problems, notes) = (count(Level::Problem), count(Level::Note));
    let verdict = match (problems, notes) {
        (0, 0) => "this kernel has all that rdvm makes use of".to_owned(),
        (0, notes) => format!("this kernel runs images; features that are not there: {notes}"),
        (problems, _) => {
            format!(
                "this kernel cannot run images; required features that are not there: {problems}"
            )
        }
    };
    Verdict {
        can_run: problems == 0,
        verdict,
        config: shown(&config.from),
        features,
    }
}

impl Feature {
    fn judge(&self, config: &Config) -> Finding {
        let missing = self.needs.iter().filter_map(|need| lack(need, config));
        let mut missing: Vec<String> = missing.collect();
        let mut modules = None;
        if [REGIONS, SCRATCH].contains(&self.needs) && !missing.is_empty() {
            match regions::judge(self.needs, Some(config), config.modules.as_ref()) {
                Ok(Regions::Modules(found)) => {
                    modules = Some(shown(&found.directory));
                    missing.clear();
                }
                Ok(Regions::BuiltIn) => missing.clear(),
                // The options are modules, and one of these cannot be had.
                Err(reason) if !missing.contains(&reason) => missing.push(reason),
                Err(_) => {}
            }
        }
        let level = match (missing.is_empty(), self.weight) {
            (true, _) => Level::Ok,
            (false, Weight::Useful) => Level::Note,
            (false, Weight::Required) => Level::Problem,
        };
        Finding {
            feature: self.name,
            level,
            modules,
            consequence: (!missing.is_empty()).then_some(self.without),
            missing,
        }
    }
}

/// Why a need is not met.
pub(super) fn lack(need: &str, config: &Config) -> Option<String> {
    if let Some((name, least)) = need.split_once(">=") {
        let number = |text: &str| text.parse::<u64>().ok();
        let value = config.value(name);
        let enough = value.and_then(number) >= number(least);
        return (!enough).then(|| match value {
            Some(value) => format!("CONFIG_{name} is {value}, must be at least {least}"),
            None => format!("CONFIG_{name} is off"),
        });
    }
    match config.value(need) {
        Some("y") => None,
        // No other modules than those for regions are loaded in a machine before the command runs, and an image seldom has
        // those of this kernel.
        Some("m") => Some(format!("CONFIG_{need} is a module")),
        _ => Some(format!("CONFIG_{need} is off")),
    }
}

impl Verdict {
    /// True if all that is required is there; the exit code of `rdvm kernel check` is 0 then.
    pub fn can_run(&self) -> bool {
        self.can_run
    }

    /// The same as JSON, ending in a newline.
    pub fn to_json(&self) -> String {
        // Strings, numbers and lists only: nothing in it can fail to serialize.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// As text: a line for each feature, what is missing below it, the verdict last.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for one in &self.features {
            text += &format!("{:<4}  {}", one.level, one.feature);
            if let Some(modules) = &one.modules {
                text += &format!(": by modules of {modules}");
            }
            if let Some(consequence) = one.consequence {
                text += &format!(": {consequence}\n      {}", one.missing.join(", "));
            }
            text.push('\n');
        }
        text + &self.verdict + "\n"
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::fs;

    use super::*;

    fn judged(text: &str) -> Verdict {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".config");
        fs::write(&path, text).unwrap();
        check(&path, None).unwrap()
    }

    /// Our own options, which are all that the table asks for.
    fn ours() -> String {
        let text = include_str!("../../kernels/rdvm.config");
        let settings = text.lines().filter(|line| line.starts_with("CONFIG_"));
        let settings = settings.filter_map(|line| line.split_whitespace().next());
        settings.map(|setting| format!("{setting}\n")).collect()
    }

    #[test]
    fn the_small_kernels_options_are_all_that_is_asked_for() {
        let verdict = judged(&ours());
        assert!(verdict.can_run());
        let text = verdict.render();
        assert!(!text.contains("note") && !text.contains("FAIL"), "{text}");
        assert_eq!(text.lines().count(), FEATURES.len() + 1);
        assert!(
            text.ends_with("this kernel has all that rdvm makes use of\n"),
            "{text}"
        );
    }

    #[test]
    fn each_option_of_the_table_decides_on_its_feature() {
        for feature in FEATURES {
            for need in feature.needs {
                let needed = need.split(">=").next();
                let keep = |line: &&str| {
                    let setting = line.strip_prefix("CONFIG_").unwrap();
                    setting.split('=').next() != needed
                };
                let ours = ours();
                let without: Vec<&str> = ours.lines().filter(keep).collect();
                let verdict = judged(&without.join("\n"));
                let found = verdict
                    .features
                    .iter()
                    .find(|one| one.feature == feature.name);
                let found = found.unwrap();
                assert_eq!(found.missing.len(), 1, "{need}: {found:?}");
                assert_eq!(found.consequence, Some(feature.without));
                // SERIAL_8250 and the like are asked for by several.
                assert!(
                    feature.weight == Weight::Useful || !verdict.can_run(),
                    "{need}"
                );
            }
        }
    }

    #[test]
    fn modules_and_small_numbers_are_told_as_such() {
        let ours = ours()
            .replace("CONFIG_FUSE_FS=y", "CONFIG_FUSE_FS=m")
            .replace(
                "CONFIG_SERIAL_8250_NR_UARTS=4",
                "CONFIG_SERIAL_8250_NR_UARTS=2",
            );
        let verdict = judged(&ours);
        let text = verdict.render();
        assert!(text.contains("\nnote  file systems that are programs: fusermount fails\n      CONFIG_FUSE_FS is a module\n"), "{text}");
        assert!(
            text.contains("\n      CONFIG_SERIAL_8250_NR_UARTS is 2, must be at least 3\n"),
            "{text}"
        );
        assert!(
            text.ends_with(
                "this kernel cannot run images; required features that are not there: 1\n"
            ),
            "{text}"
        );
        assert!(!verdict.can_run());
        let json: serde_json::Value = serde_json::from_str(&verdict.to_json()).unwrap();
        assert_eq!(json["can_run"], false);
        assert_eq!(json["features"][2]["level"], "problem");
    }

    /// The table as `kernels/README.md` has it.
    fn markdown() -> String {
        let mut text = "| feature | options | without |\n|---|---|---|\n".to_owned();
        for feature in FEATURES {
            let options: Vec<String> = feature
                .needs
                .iter()
                .map(|need| format!("`{}`", need.replace(">=", " ≥ ")))
                .collect();
            let mark = match feature.weight {
                Weight::Required => " (required)",
                Weight::Useful => "",
            };
            let (name, without) = (feature.name, feature.without);
            writeln!(
                text,
                "| {name}{mark} | {} | {without} |",
                options.join(", ")
            )
            .unwrap();
        }
        text
    }

    #[test]
    fn the_readmes_table_is_this_one() {
        let readme = include_str!("../../kernels/README.md");
        let want = markdown();
        assert!(
            readme.contains(&want),
            "kernels/README.md must have this table:\n\n{want}"
        );
    }
}
