//! The verdict of the rig (scripts/rig.sh), which decides whether a run of the scenarios counts.

use std::process::{Command, Stdio};

use crate::support::Run;

impl Run {
    /// Asserts that a line of standard output has this in it.
    #[track_caller]
    fn prints_line(&self, text: &str) {
        assert!(
            self.stdout().contains(text),
            "no {text:?} in {:?}",
            self.stdout()
        );
    }
}

/// Feeds the lines of one outer machine to `rig.sh report`.
fn report(lines: &str) -> Run {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), lines).unwrap();
    let output = Command::new("scripts/rig.sh")
        .arg("report")
        .env("OUTERS", "1")
        .env_remove("RIG_AGAIN")
        .env_remove("RDVM_TEST_SKIPS")
        .stdin(Stdio::from(file.into_file()))
        .output();
    Run(output.unwrap())
}

#[test]
fn what_passed_only_the_second_time_is_named_and_more_than_two_fail_the_run() {
    let ran = "rig-result 9 12\n";
    report(ran)
        .exits(0)
        .prints_line("9 scenarios ran on kvm, 0 failed, 0 passed the second time");
    let again = |count: usize| {
        let names = (1..=count).map(|at| format!("rig-again vmlinuz-1 tty::number_{at}\n"));
        names.collect::<String>() + ran
    };
    let two = report(&again(2)).exits(0);
    for name in ["tty::number_1", "tty::number_2"] {
        let line = format!("passed only the second time: {name} (kernel vmlinuz-1)");
        assert!(two.stdout().contains(&line), "{}", two.stdout());
    }
    report(&again(3))
        .exits(1)
        .prints_line("more than 2 passed only the second time");
}

#[test]
fn a_run_of_the_rig_counts_only_when_it_ran_and_nothing_failed() {
    report("")
        .exits(1)
        .prints_line("1 of 1 outer machines gave no result");
    report("rig-result 0 0\n").exits(1);
    report("rig-result 9 8\n")
        .exits(1)
        .prints_line("KVM did not run them");
    let failed = report("rig-failed default tty::a\nrig-result 9 12\n").exits(1);
    failed.prints_line("failed: tty::a (kernel default)");
    let left_out = report("rig-skipped tty::a: no podman\nrig-result 9 12\n").exits(0);
    left_out.prints_line("left out: tty::a: no podman");
}
