//! The verdict on a run of the scenarios, of the lines that outer machines print for it (tests/rig/scenarios.sh).

use std::fmt::Write as _;

/// The terms of the verdict besides the lines.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// The number of outer machines.
    pub(super) outers: usize,
    /// The number of scenarios that may pass only the second time.
    pub(super) most: u64,
    pub(super) seconds: u64,
}

/// The sum of a run.
#[derive(Debug, Default)]
pub(super) struct Report {
    results: usize,
    ran: u64,
    machines: u64,
    failed: Vec<String>,
    again: Vec<String>,
    /// The tests that were left out: name and reason.
    pub(super) skipped: Vec<String>,
}

impl Report {
    /// Adds the lines of one outer machine; returns the others.
    pub(super) fn add(&mut self, text: &str) -> String {
        let mut others = String::new();
        for line in text.lines().map(|line| line.trim_end_matches('\r')) {
            let Some((verb, rest)) = line
                .strip_prefix("rig-")
                .and_then(|line| line.split_once(' '))
            else {
                others += line;
                others.push('\n');
                continue;
            };
            let mut words = rest.split(' ');
            let first = words.next().unwrap_or_default();
            let second = words.next().unwrap_or_default();
            match verb {
                "result" => {
                    self.results += 1;
                    // A field that is no number counts as zero, which fails the run.
                    self.ran += first.parse().unwrap_or(0);
                    self.machines += second.parse().unwrap_or(0);
                }
                "failed" => self.failed.push(format!("{second} (kernel {first})")),
                "again" => self.again.push(format!("{second} (kernel {first})")),
                "skipped" => self.skipped.push(rest.to_owned()),
                _ => {}
            }
        }
        others
    }

    /// True when something ran, nothing failed, each outer machine gave a result, KVM made a machine for each scenario, and
    /// few passed only the second time.
    pub(super) fn is_good(&self, terms: Terms) -> bool {
        self.ran > 0
            && self.failed.is_empty()
            && self.results == terms.outers
            && self.machines >= self.ran
            && self.again.len() as u64 <= terms.most
    }

    /// The lines that sum up, with what is to be looked at last.
    pub(super) fn text(&self, terms: Terms) -> String {
        let mut text = String::new();
        let (failed, again) = (self.failed.len(), self.again.len());
        // Writing to a string cannot fail.
        let mut line = |words: std::fmt::Arguments<'_>| {
            let _ = writeln!(text, "rig: {words}");
        };
        if self.results != terms.outers {
            let missing = terms.outers as i64 - self.results as i64;
            line(format_args!(
                "{missing} of {} outer machines gave no result",
                terms.outers
            ));
        }
        if self.machines < self.ran {
            line(format_args!(
                "fewer machines than scenarios: KVM did not run them"
            ));
        }
        line(format_args!(
            "{} scenarios ran on kvm, {failed} failed, {again} passed the second time; {} machines, {} s",
            self.ran, self.machines, terms.seconds
        ));
        for name in &self.failed {
            line(format_args!("failed: {name}"));
        }
        for name in &self.again {
            line(format_args!("passed only the second time: {name}"));
        }
        if again > 0 {
            line(format_args!(
                "add each to the table in docs/testing.md, with its cause"
            ));
        }
        if again as u64 > terms.most {
            line(format_args!(
                "more than {} passed only the second time, so the run has failed",
                terms.most
            ));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms {
        outers: 1,
        most: 2,
        seconds: 5,
    };

    /// Sums up the lines of one outer machine.
    #[track_caller]
    fn report(lines: &str, good: bool, wanted: &str) -> (Report, String) {
        let mut report = Report::default();
        assert_eq!(report.add(lines), "");
        let text = report.text(TERMS);
        assert_eq!(report.is_good(TERMS), good, "{text}");
        assert!(text.contains(wanted), "no {wanted:?} in {text:?}");
        (report, text)
    }

    #[test]
    fn what_passed_only_the_second_time_is_named_and_more_than_two_fail_the_run() {
        let ran = "rig-result 9 12\n";
        report(
            ran,
            true,
            "9 scenarios ran on kvm, 0 failed, 0 passed the second time",
        );
        let again = |count: usize| {
            let names = (1..=count).map(|at| format!("rig-again vmlinuz-1 tty::number_{at}\r\n"));
            names.collect::<String>() + ran
        };
        for name in ["tty::number_1", "tty::number_2"] {
            let line = format!("passed only the second time: {name} (kernel vmlinuz-1)");
            report(&again(2), true, &line);
        }
        report(&again(3), false, "more than 2 passed only the second time");
    }

    #[test]
    fn a_run_of_the_rig_counts_only_when_it_ran_and_nothing_failed() {
        report("", false, "1 of 1 outer machines gave no result");
        report("rig-result 0 0\n", false, "0 scenarios ran");
        report("rig-result 9 8\n", false, "KVM did not run them");
        report("rig-result x 8\n", false, "0 scenarios ran");
        report(
            "rig-failed default tty::a\nrig-result 9 12\n",
            false,
            "failed: tty::a (kernel default)",
        );
        let (left_out, _) = report(
            "rig-skipped tty::a: no podman\nrig-result 9 12\n",
            true,
            "9 scenarios",
        );
        assert_eq!(left_out.skipped, ["tty::a: no podman"]);
    }

    #[test]
    fn lines_of_the_tests_are_kept_and_several_machines_summed() {
        let mut report = Report::default();
        assert_eq!(
            report.add("test a ... ok\r\nrig-result 2 3\n"),
            "test a ... ok\n"
        );
        assert_eq!(
            report.add("rig: stuck: x\nrig-result 1 1"),
            "rig: stuck: x\n"
        );
        let terms = Terms { outers: 2, ..TERMS };
        assert!(report.is_good(terms));
        assert!(report.text(terms).contains("3 scenarios ran on kvm"));
        assert!(report.text(terms).contains("4 machines, 5 s"));
    }
}
