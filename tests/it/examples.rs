//! The examples, run as a user would run them: each `run` is a script that checks what it has done.
//!
//! debootstrap and the Debian package fetch from Debian's mirror and take minutes: they run where `RDVM_TEST_LONG` is set, as
//! in `make examples`. Everything is written below target/examples, which keeps the images for the next time.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{RDVM, engines, is_missing, left_out, missing, note_run};

/// Every example that has a `run`, the programs that it needs, and whether it is long.
pub(crate) const EXAMPLES: &[(&str, &[&str], bool)] = &[
    ("untrusted-build", &["git", "gcc", "make", "jq"], false),
    ("grading", &["gcc", "make", "jq"], false),
    ("integrations", &["git", "gcc", "make"], false),
    (
        "debootstrap",
        &["debootstrap", "wget", "setpriv", "unshare"],
        true,
    ),
    ("debian-package", &["debootstrap", "wget", "dpkg-deb"], true),
];

/// Runs an example; its log is shown when it fails.
fn example(name: &str, variables: &[(&str, &str)]) {
    let &(_, needs, long) = EXAMPLES
        .iter()
        .find(|(example, ..)| *example == name)
        .unwrap();
    if long && std::env::var_os("RDVM_TEST_LONG").is_none() {
        left_out("it takes minutes; make examples runs it");
        return;
    }
    if let Some(program) = needs.iter().find(|program| is_missing(program)) {
        return missing(program);
    }
    let Some(engine) = engines().first() else {
        return;
    };
    note_run(engine);
    let output = Command::new("timeout")
        .args(["-k", "10", "3600"])
        .arg(format!("examples/{name}/run"))
        .env("RDVM", RDVM)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "examples/{name}/run: {}\n{said}{error}",
        output.status
    );
    for line in error.lines().filter(|line| line.contains("is not here")) {
        left_out(line);
    }
}

#[test]
fn a_malicious_makefile_changes_nothing_on_the_host() {
    example("untrusted-build", &[]);
}

/// Every kind of submission once.
#[test]
fn submissions_get_the_verdicts_that_they_deserve() {
    let kinds = "right wrong crash endless hungry talkative broken cheat";
    let variables = [
        ("KINDS", kinds),
        ("COUNT", "8"),
        ("EVERY", "1"),
        ("JOBS", "2"),
    ];
    example("grading", &variables);
}

#[test]
fn make_redo_ci_systemd_and_rust_start_the_same_build() {
    // cargo test compiles the examples too, unless it is told which tests to compile.
    let build = Path::new(RDVM).with_file_name("examples/build");
    example("integrations", &[("BUILD", build.to_str().unwrap())]);
}

#[test]
fn debootstrap_is_root_in_its_machine_and_nowhere_else() {
    example("debootstrap", &[]);
}

#[test]
fn a_debian_package_is_the_same_when_it_is_built_again() {
    example("debian-package", &[]);
}

#[test]
fn every_example_is_run_and_says_what_it_does() {
    let mut found = Vec::new();
    for entry in fs::read_dir("examples").unwrap().flatten() {
        let path = entry.path();
        if path.join("run").exists() {
            found.push(entry.file_name().into_string().unwrap());
        }
        if path.is_dir() {
            let readme = fs::read_to_string(path.join("README.md")).unwrap();
            let lines = readme.lines().count();
            assert!(
                (5..=24).contains(&lines),
                "{}: {lines} lines",
                path.display()
            );
        }
    }
    let mut known: Vec<_> = EXAMPLES.iter().map(|(name, ..)| *name).collect();
    found.sort();
    known.sort_unstable();
    assert_eq!(found, known);
    let makefile = fs::read_to_string("Makefile").unwrap();
    for name in known {
        assert!(
            makefile.contains(&format!("examples/{name}/run")),
            "make examples leaves out {name}"
        );
    }
}

/// It destroys what it runs in: outside of the machine that the example makes for it, it must not do anything.
#[test]
fn the_malicious_makefile_refuses_to_run_on_the_host() {
    if is_missing("make") {
        return missing("make");
    }
    for target in [
        "",
        "write-outside",
        "fork-bomb",
        "fill-disk",
        "flood",
        "never-end",
    ] {
        let mut make = Command::new("make");
        // -n: should the guard ever be gone, nothing happens all the same.
        make.args(["-n", "-f", "malicious/Makefile"])
            .args(Some(target).filter(|name| !name.is_empty()));
        // As from a shell, also below `make test`: a make within a make says where it goes.
        let output = make
            .env_remove("MAKELEVEL")
            .env_remove("MAKEFLAGS")
            .env_remove("MFLAGS")
            .current_dir(Path::new("examples/untrusted-build"))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            error.contains("this destroys the system"),
            "{target}: {error}"
        );
        assert!(
            !output.status.success() && output.stdout.is_empty(),
            "{target}"
        );
    }
}
