//! The command line: help, mistakes, and what needs no machine.

use std::os::unix::fs::PermissionsExt;

use crate::support::{Image, RDVM, Rdvm, Run, busybox, left_out};

fn rdvm(words: &[&str]) -> Run {
    Run(std::process::Command::new(RDVM)
        .args(words)
        .output()
        .unwrap())
}

#[test]
fn an_image_where_the_verb_should_be_is_told_what_to_type() {
    let run = Rdvm::verb("./some-image").run().exits(125);
    run.says("to run a command in an image: rdvm run ./some-image");
    // What is nearly a verb is more likely that one.
    let run = Rdvm::verb("inspekt").run().exits(125);
    let said = run.stderr();
    assert!(
        said.contains("inspect") && !said.contains("rdvm run"),
        "{said}"
    );
}

#[test]
fn help_names_every_verb_and_version_is_the_crates() {
    let help = rdvm(&["--help"]).exits(0).says_only("").stdout();
    for verb in ["run", "pack", "inspect", "kernel", "doctor", "completions"] {
        assert!(
            help.contains(&format!("\n  {verb} ")),
            "{verb} is not in {help}"
        );
    }
    assert!(help.contains("Exit codes of run"));
    rdvm(&["--version"])
        .exits(0)
        .prints(format!("rdvm {}\n", env!("CARGO_PKG_VERSION")));
    let help = rdvm(&["run", "--help"]).exits(0).stdout();
    assert!(
        help.lines().all(|line| line.chars().count() <= 100),
        "{help}"
    );
    for option in [
        "--memory",
        "--cpus",
        "--env",
        "--workdir",
        "--user",
        "--entrypoint",
        "--timeout",
        "--report",
    ] {
        assert!(help.contains(option), "{option} is not in {help}");
    }
}

#[test]
fn mistakes_are_one_clear_message_and_125() {
    for (words, message) in [
        (&["run", "--memroy", "1g", "x"][..], "--memory"),
        (&["runn"], "run"),
        (&["run"], "IMAGE"),
        (&[], "Usage"),
        (&["run", "-m", "lots", "x"], "as in 512m"),
        (&["run", "--timeout", "soon", "x"], "as in 90s"),
        (&["run", "--cpus", "17", "x"], "1..=16"),
        (&["run", "--engine", "bochs", "x"], "auto"),
        (&["run", "--network", "user", "x"], "none"),
        (&["run", "--owner", "1:2", "x"], "--owner"),
        (&["run", "-e", "=x", "."], "NAME=VALUE"),
        (&["run", "-v", "/src:/src", "x"], "--copy-in HOST:GUEST"),
        (&["run", "--mount", "type=bind", "x"], "--copy-in"),
        (&["run", "-p", "80:80", "x"], "no network"),
        (&["run", "-d", "x"], "in the foreground"),
        (
            &["run", "--env-file", "/no/such/file", "."],
            "--env-file: /no/such/file: No such file",
        ),
        (&["pack", "x"], "--output"),
    ] {
        let run = rdvm(words).exits(125).prints("");
        assert!(
            run.stderr().contains(message),
            "{words:?}: {message:?} is not in {:?}",
            run.stderr()
        );
    }
}

#[test]
fn an_image_that_cannot_be_used_is_named_and_nothing_boots() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::create_dir(path("empty")).unwrap();
    std::fs::write(path("text"), "just text\n").unwrap();
    std::fs::write(path("zip"), b"PK\x03\x04").unwrap();
    std::os::unix::fs::symlink("nowhere", path("dangling")).unwrap();
    let fifo = std::process::Command::new("mkfifo")
        .arg(path("fifo"))
        .status()
        .unwrap();
    assert!(fifo.success());
    for (name, words) in [
        ("missing", "no such file or directory"),
        ("dangling", "no such file or directory"),
        ("empty", "empty"),
        ("text", "directory"),
        ("zip", "directory"),
        ("fifo", "directory"),
    ] {
        let run = rdvm(&["run", &path(name), "true"]).exits(125).prints("");
        let text = run.stderr();
        assert!(
            text.starts_with(&format!("rdvm: {}", path(name))) && text.contains(words),
            "{name}: {text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    rdvm(&["run", "", "true"])
        .exits(125)
        .says("rdvm: IMAGE: is empty");
    rdvm(&["run", "-", "true"]).exits(125).says("rdvm: -: ");
    rdvm(&["run", "--layer", "-", "-", "true"])
        .exits(125)
        .says("rdvm: -: standard input can be one image only");
}

#[test]
fn an_unreadable_file_inside_is_named() {
    let image = Image::busybox().file("secret", 0o000, "x");
    let run = Rdvm::verb("pack")
        .option("-o")
        .option("/dev/null")
        .image(image.path());
    if std::fs::File::open(image.path().join("secret")).is_ok() {
        // As root nothing is unreadable: give up that power for the one command.
        std::fs::set_permissions(image.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let output = std::process::Command::new("setpriv")
            .args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                RDVM,
                "pack",
                "-o",
                "/dev/null",
            ])
            .arg(image.path())
            .output()
            .unwrap();
        if String::from_utf8_lossy(&output.stderr).contains("failed to execute") {
            left_out(&format!("{RDVM} cannot be executed by another user here"));
            return;
        }
        Run(output).exits(125).says("secret");
        return;
    }
    run.run().exits(125).says("secret");
}

#[test]
fn names_with_control_characters_are_escaped_in_messages() {
    let run = rdvm(&["run", "no\x1b[31msuch\n", "true"]).exits(125);
    assert!(
        !run.stderr().contains('\x1b') && run.stderr().lines().count() == 1,
        "{:?}",
        run.stderr()
    );
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = rdvm(&["completions", shell]).exits(0).stdout();
        assert!(
            script.contains("rdvm") && script.contains("show-boot"),
            "{shell}"
        );
    }
}

#[test]
fn kernels_are_listed_with_the_reason() {
    let run = rdvm(&["kernel", "list"]).exits(0);
    assert!(run.stdout().contains("/boot/vmlinuz-"), "{}", run.stdout());
    let run = Run(std::process::Command::new(RDVM)
        .args(["kernel", "list"])
        .env("RDVM_KERNEL", "/no/kernel")
        .output()
        .unwrap());
    assert!(run.stdout().contains("/no/kernel"), "{}", run.stdout());
}

#[test]
fn a_kernel_that_is_none_is_named() {
    for (kernel, words) in [
        ("/etc/passwd", "/etc/passwd"),
        ("/no/kernel", "no such file"),
        ("9.9.9-none", "9.9.9-none"),
    ] {
        let run = rdvm(&[
            "run",
            "-k",
            kernel,
            busybox().path().to_str().unwrap(),
            "true",
        ])
        .exits(125);
        assert!(run.stderr().contains(words), "{}", run.stderr());
    }
}

#[test]
fn doctor_finds_what_a_run_needs() {
    let run = rdvm(&["doctor"]).exits(0);
    for area in ["cpu", "kvm", "qemu", "kernel", "memory"] {
        assert!(
            run.stdout().contains(area),
            "{area} is not in {}",
            run.stdout()
        );
    }
    let json: serde_json::Value =
        serde_json::from_str(&rdvm(&["doctor", "--json"]).exits(0).stdout()).unwrap();
    assert!(
        json["findings"]
            .as_array()
            .is_some_and(|findings| findings.len() > 4),
        "{json}"
    );
    let without = Run(std::process::Command::new(RDVM)
        .arg("doctor")
        .env("RDVM_QEMU", "/no/qemu")
        .output()
        .unwrap());
    let without = without.exits(1);
    assert!(
        without.stdout().contains("/no/qemu"),
        "{}",
        without.stdout()
    );
}

#[test]
fn an_error_is_in_the_report_too() {
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.json");
    rdvm(&[
        "run",
        "--report",
        report.to_str().unwrap(),
        "/no/such/image",
    ])
    .exits(125)
    .says("rdvm: /no/such/image: ");
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!(
        (report["outcome"].as_str(), report["exit_code"].as_u64()),
        (Some("error"), Some(125))
    );
}
