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
    for verb in ["kernel", "oci"] {
        let run = Rdvm::verb(verb).option("nosuch").run();
        assert!(!run.stderr().contains("rdvm run"), "{}", run.stderr());
        run.exits(125).says("unrecognized subcommand 'nosuch'");
    }
    // What is nearly a verb is more likely that one.
    let run = Rdvm::verb("inspekt").run().exits(125);
    let said = run.stderr();
    assert!(
        said.contains("inspect") && !said.contains("rdvm run"),
        "{said}"
    );
}

#[test]
fn verbs_and_options_of_dockers_are_answered_with_what_takes_their_place() {
    for (words, answer) in [
        (&["build", "."][..], "rdvm pack"),
        (
            &["push", "x"],
            "rdvm pack --format oci -o FILE IMAGE, then: skopeo copy oci-archive:FILE docker://NAME",
        ),
        (&["ps"], "in the foreground"),
        (&["exec", "x", "sh"], "rdvm run -it IMAGE sh"),
        (&["load"], "rdvm inspect"),
        (&["cp", "a", "b"], "--copy-in HOST:GUEST"),
        (
            &["run", "--privileged", "x"],
            "the command is root in a machine of its own",
        ),
        (&["run", "--cap-add", "SYS_ADMIN", "x"], "leave it out"),
        (&["run", "--cap-add=SYS_ADMIN", "x"], "leave it out"),
        (
            &["run", "--detach", "x"],
            "--detach: a machine runs in the foreground",
        ),
        (&["run", "--init", "x"], "--rdinit FILE"),
        (&["run", "--device", "/dev/fuse", "x"], "serial ports"),
        (
            &["run", "docker://Host/App", "sh"],
            "not an image's name; write [HOST/]NAME[:TAG]",
        ),
        (
            &["run", "--layer", "docker://a", "x"],
            "skopeo copy docker://a",
        ),
        (
            &["inspect", "docker-daemon:app"],
            "skopeo copy docker-daemon:app",
        ),
        (
            &["pack", "-o", "x", "dir:d"],
            "skopeo copy dir:d docker-archive:d.tar",
        ),
    ] {
        let run = rdvm(words).exits(125).prints("");
        let said = run.stderr();
        assert!(said.contains(answer), "{words:?}: {said}");
        assert!(!said.contains("invalid value"), "{words:?}: {said}");
    }
    let verb = rdvm(&["help", "run"]).exits(0).stdout();
    assert!(
        verb.contains("Examples:") && verb.contains("--copy-in"),
        "{verb}"
    );
}

#[test]
fn images_by_skopeos_names_are_those_files() {
    let dir = tempfile::tempdir().unwrap();
    let rdvm_in = |words: &[&str]| {
        let mut command = std::process::Command::new(RDVM);
        let output = command.args(words).current_dir(dir.path()).output();
        Run(output.unwrap())
    };
    for format in ["docker", "oci"] {
        let file = format!("{format}.tar");
        let tag = ["--format", format, "--tag", "app:1", "-o", &file];
        let image = busybox().path().to_str().unwrap();
        rdvm_in(&[&["pack"], &tag[..], &[image]].concat()).exits(0);
    }
    let status = std::process::Command::new("sh")
        .args(["-c", "mkdir layout && tar -C layout -xf oci.tar"])
        .current_dir(dir.path())
        .status();
    assert!(status.unwrap().success());
    let kind = |name: &str| {
        let json = rdvm_in(&["inspect", "--json", name]).exits(0).stdout();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        json["kind"].as_str().unwrap().to_owned()
    };
    assert_eq!(kind("docker-archive:docker.tar"), "docker archive");
    assert_eq!(kind("oci-archive:oci.tar"), "OCI archive");
    assert_eq!(kind("oci:layout"), "OCI layout directory");
    rdvm_in(&["inspect", "docker-archive:docker.tar:no:1"]).exits(125);
    // A file that is really called so.
    std::fs::create_dir(dir.path().join("oci:x")).unwrap();
    std::fs::write(dir.path().join("oci:x/file"), "").unwrap();
    assert_eq!(kind("oci:x"), "directory");
}

#[test]
fn inspect_says_as_json_what_it_says_as_text() {
    let dir = tempfile::tempdir().unwrap();
    let tar = dir.path().join("image.tar").display().to_string();
    let image = busybox().path().to_str().unwrap();
    let words = [
        "--format", "docker", "--cmd", "sh -x", "--user", "1:2", "-o", &tar,
    ];
    rdvm(&[&["pack"], &words[..], &[image]].concat()).exits(0);
    let text = rdvm(&["inspect", &tar]).exits(0).stdout();
    let json = rdvm(&["inspect", "--json", &tar]).exits(0).stdout();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let line = |name: &str| {
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().to_owned()
    };
    assert_eq!(json["schema"], 1);
    assert_eq!(json["image"], tar.as_str());
    for name in ["kind", "digest", "manifest", "id", "user"] {
        let absent = name == "manifest" && json[name].is_null();
        assert!(absent || json[name] == line(name), "{name}: {json}");
    }
    assert_eq!(json["cmd"], serde_json::json!(["sh", "-x"]));
    assert_eq!(json["layers"].as_array().unwrap().len(), 1);
    assert!(line("entries").starts_with(&json["entries"]["all"].to_string()));
    assert_eq!(json["has_init"], false);
    let terms = json["memory"]["terms"].as_array().unwrap();
    assert!(!terms.is_empty() && json["memory"]["total_bytes"].as_u64() > Some(1 << 20));
    // What is listed in the document is what there is.
    let document = std::fs::read_to_string("docs/images.md").unwrap();
    for field in json.as_object().unwrap().keys() {
        assert!(
            document.contains(&format!("`{field}`")),
            "{field} is not in docs/images.md"
        );
    }
}

#[test]
fn the_words_that_rdvm_sets_itself_are_refused_in_append() {
    let image = busybox().path().to_str().unwrap();
    for (words, name) in [
        ("rdinit=/nowhere root=/dev/nothing rootwait", "rdinit="),
        ("quiet init=/bin/sh", "init="),
        ("console=ttyS2", "console="),
    ] {
        let run = rdvm(&["run", "--engine", "qemu", "--append", words, image, "sh"]);
        run.exits(125)
            .says(&format!("rdvm: --append: {name} is set by rdvm; "));
    }
}

#[test]
fn man_pages_have_examples_environment_and_exit_status() {
    // cargo test builds it beside the tests' own directory.
    let mut man = std::env::current_exe().unwrap();
    man.pop();
    man.pop();
    let man = man.join("examples/man");
    if !man.exists() {
        return crate::support::missing("the example man (cargo test builds it)");
    }
    let dir = tempfile::tempdir().unwrap();
    let status = std::process::Command::new(man).arg(dir.path()).status();
    assert!(status.unwrap().success());
    let mut pages = 0;
    for page in std::fs::read_dir(dir.path()).unwrap().flatten() {
        let text = std::fs::read_to_string(page.path()).unwrap();
        for section in ["NAME", "SYNOPSIS", "\"EXIT STATUS\"", "ENVIRONMENT"] {
            let heading = format!(".SH {section}\n");
            assert!(text.contains(&heading), "{section}: {:?}", page.path());
        }
        let name = page.file_name().into_string().unwrap();
        assert!(
            text.contains(".SH EXAMPLES\n") || name == "rdvm-completions.1",
            "{name}"
        );
        pages += 1;
    }
    assert!(pages >= 10, "{pages} pages");
}

#[test]
fn help_names_every_verb_and_version_is_the_crates() {
    let help = rdvm(&["--help"]).exits(0).says_only("").stdout();
    for verb in [
        "run",
        "pack",
        "inspect",
        "pull",
        "images",
        "rmi",
        "kernel",
        "doctor",
        "completions",
    ] {
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
    let (before, _) = help.split_once("\nOptions:\n").unwrap();
    assert!(before.contains("\nArguments:\n"), "{help}");
    for group in ["Image", "Command", "Files", "Machine", "Limits", "Output"] {
        assert!(
            help.contains(&format!("\n{group}:\n")),
            "{group} is not in {help}"
        );
    }
    for verb in ["run", "pack", "inspect", "cache", "kernel", "doctor"] {
        let help = rdvm(&[verb, "--help"]).exits(0).stdout();
        assert!(help.contains("\nExamples:\n  "), "{verb}: {help}");
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
        (&["run", "-v", "/src:/src:rw", "x"], "--copy-out GUEST:HOST"),
        (&["run", "--mount", "type=bind", "x"], "--volume"),
        (&["run", "-p", "80", "x"], "PORT:GUESTPORT"),
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
