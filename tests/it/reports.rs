//! docs/report.schema.json is what reports are, and docs/report.md speaks of the same fields and outcomes.
//!
//! Every report that `endings` makes is held against the schema too.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::{Command, Stdio};

use rdvm::copyout::{Copied, LeftLink};
use rdvm::network::{NetworkFacts, PublishedPort};
use rdvm::report::{Guest, Loss, MachineFacts, Outcome, Report, SCHEMA, Timeline, Timings};
use rdvm_confine::{Layer, LayerName};
use rdvm_proxy::{Reached, Refused};
use rdvm_vmm::guest::Counts;
use rdvm_vmm::guest::console::Gaps;
use serde_json::{Value, json};

use crate::support::schema::{conforms, faults, report_schema};
use crate::support::{RDVM, Rdvm, Run, any_engine, busybox, first_bytes, note_run};

/// The outcomes of the code, as they are written.
fn outcomes() -> BTreeSet<String> {
    let source = fs::read_to_string("src/report.rs").unwrap();
    let (_, body) = source.split_once("pub enum Outcome {").unwrap();
    let (body, _) = body.split_once('}').unwrap();
    let variants = body
        .lines()
        .filter_map(|line| line.trim().strip_suffix(','));
    let kebab = |name: &str| {
        let word = |letter: char| match letter.is_uppercase() {
            true => format!("-{}", letter.to_lowercase()),
            false => letter.to_string(),
        };
        let words: String = name.chars().map(word).collect();
        words.trim_start_matches('-').to_owned()
    };
    variants
        .filter(|name| !name.starts_with("//"))
        .map(kebab)
        .collect()
}

fn schema_outcomes() -> BTreeSet<String> {
    let list = report_schema()["properties"]["outcome"]["enum"]
        .as_array()
        .unwrap();
    list.iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn schema_and_document_have_the_outcomes_of_the_code() {
    let outcomes = outcomes();
    assert!(
        outcomes.len() > 10 && outcomes.contains("out-of-memory"),
        "{outcomes:?}"
    );
    assert_eq!(schema_outcomes(), outcomes);
    let document = fs::read_to_string("docs/report.md").unwrap();
    for outcome in &outcomes {
        assert!(
            document.contains(&format!("\n| `{outcome}` |")),
            "docs/report.md has no {outcome}"
        );
    }
}

#[test]
fn the_document_has_every_field_of_the_schema_and_a_report_that_conforms() {
    fn fields(schema: &Value, names: &mut BTreeSet<String>) {
        for (name, rule) in schema["properties"].as_object().into_iter().flatten() {
            names.insert(name.clone());
            fields(rule, names);
            fields(&rule["items"], names);
        }
    }
    let document = fs::read_to_string("docs/report.md").unwrap();
    let mut names = BTreeSet::new();
    fields(report_schema(), &mut names);
    for name in names {
        assert!(
            document.contains(&format!("`{name}`")),
            "docs/report.md has no {name}"
        );
    }
    let start = document.find("    {\n").unwrap();
    let end = start + document[start..].find("\n    }\n").unwrap() + "\n    }".len();
    conforms(&serde_json::from_str(&document[start..end]).unwrap());
}

/// A report with every field. The literals are whole, so that a new field has to be added here.
fn full_report() -> Report {
    let ms = Some(1.0);
    Report {
        schema: SCHEMA,
        outcome: Outcome::Exited,
        exit_code: 3,
        code: Some(3),
        signal: Some(9),
        message: Some("m".into()),
        guest: Some(Guest {
            stdout_bytes: 0,
            stderr_bytes: 0,
            oom_kills: 0,
            user_ms: 0.0,
            system_ms: 0.0,
            max_rss_kib: 0,
            root_bytes: 0,
            root_free_bytes: 0,
            root_full: false,
        }),
        attributes_lost: Some(Loss {
            attributes: 1,
            files: 1,
            capabilities: 0,
            message: "m".into(),
        }),
        console_lost: Some(Gaps {
            bytes: 1,
            message: "m".into(),
        }),
        confinement: vec![Layer {
            name: LayerName::Seccomp,
            on: false,
            why: Some("m".into()),
        }],
        network: Some(NetworkFacts {
            reached: vec![Reached {
                host: "a".into(),
                port: 80,
                connections: 1,
                sent: 0,
                received: 0,
            }],
            refused: vec![Refused {
                host: "a".into(),
                port: 80,
                reason: "r".into(),
                rule: "a".into(),
                times: 1,
            }],
            published: vec![PublishedPort {
                address: "a:1".into(),
                guest_port: 1,
            }],
            overridden: vec!["n".into()],
            fault: Some("f".into()),
        }),
        copied: vec![Copied {
            guest: "/g".into(),
            host: "h".into(),
            files: 0,
            directories: 0,
            links: 0,
            bytes: 0,
            left_out: 1,
            links_left_out: 1,
            left_links: vec![LeftLink {
                path: "p".into(),
                target: "t".into(),
            }],
            error: Some("e".into()),
        }],
        machine: Some(MachineFacts {
            engine: "kvm".into(),
            kernel: "k".into(),
            memory: 1,
            memory_needed: 1,
            cpus: 1,
            entries: 1,
            initrd: 1,
            counts: Some(Counts {
                exits: 1,
                stray_bytes: 0,
                lost_bytes: 0,
            }),
        }),
        timings: Some(Timings {
            pack: 1.0,
            start: ms,
            kernel: ms,
            unpack: ms,
            init: ms,
            command: ms,
            stop: ms,
            total: 1.0,
        }),
        timeline: Some(Timeline {
            loaded: ms,
            machine_start: ms,
            first_exit: ms,
            guest_clock: ms,
            unpack_begin: ms,
            unpack_end: ms,
            rdinit: ms,
            command: ms,
            last_byte: ms,
            command_end: ms,
            end: 1.0,
        }),
    }
}

#[test]
fn the_schema_has_every_field_of_the_code_and_no_other() {
    fn of_schema(schema: &Value, at: &str, names: &mut BTreeSet<String>) {
        for (name, rule) in schema["properties"].as_object().into_iter().flatten() {
            let name = format!("{at}.{name}");
            of_schema(rule, &name, names);
            of_schema(&rule["items"], &name, names);
            names.insert(name);
        }
    }
    fn of_report(report: &Value, at: &str, names: &mut BTreeSet<String>) {
        for item in report.as_array().into_iter().flatten() {
            of_report(item, at, names);
        }
        for (name, value) in report.as_object().into_iter().flatten() {
            let name = format!("{at}.{name}");
            of_report(value, &name, names);
            names.insert(name);
        }
    }
    let report = serde_json::to_value(full_report()).unwrap();
    conforms(&report);
    let (mut schema_names, mut names) = (BTreeSet::new(), BTreeSet::new());
    of_schema(report_schema(), "", &mut schema_names);
    of_report(&report, "", &mut names);
    assert_eq!(schema_names, names);
}

#[test]
fn what_is_no_report_does_not_conform() {
    let good = json!({"schema": 1, "outcome": "error", "exit_code": 125, "message": "m"});
    conforms(&good);
    let wrong = [
        ("schema", json!(2)),
        ("outcome", json!("fine")),
        ("outcome", json!("exited")),
        ("outcome", json!("timed-out")),
        ("exit_code", json!(0)),
        ("exit_code", json!(256)),
        ("exit_code", json!("125")),
        ("message", Value::Null),
        ("mesage", json!("m")),
        ("guest", json!({})),
        ("copied", json!([{"guest": "/a", "host": "a"}])),
    ];
    for (field, value) in wrong {
        let mut report = good.clone();
        report[field] = value;
        assert!(!faults(report_schema(), &report).is_empty(), "{report}");
    }
    for field in ["schema", "outcome", "exit_code", "message"] {
        let mut report = good.clone();
        report.as_object_mut().unwrap().remove(field);
        assert!(
            !faults(report_schema(), &report).is_empty(),
            "without {field}"
        );
    }
}

#[test]
fn a_report_of_every_kind_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.json");
    let cases: [(&[&str], &str, &str); 5] = [
        (&[], "exit 3", "exited"),
        (&[], "kill -9 $$", "killed"),
        (&["-w", "/bin/busybox"], "true", "setup-failed"),
        (&["--timeout", "5s"], "while :; do :; done", "timed-out"),
        (&["-m", "8m"], "true", "error"),
    ];
    for engine in any_engine() {
        for (options, script, outcome) in cases {
            let mut rdvm = Rdvm::on(engine).option("--report").option(&path);
            for option in options {
                rdvm = rdvm.option(option);
            }
            rdvm.image(busybox().path()).sh(script).run();
            let report: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            assert_eq!(report["outcome"], outcome, "{report:#}");
            conforms(&report);
        }
    }
}

/// A line that is refused, and one that fails later.
const WRONG: [&[&str]; 7] = [
    &["-m", "lots", "/nowhere"],
    &["--memroy", "1g", "/nowhere"],
    &["--cpus"],
    &[],
    &["--profile", "none", "--config", "/nowhere"],
    &["--rdinit", "/bin/sh", "--tty", "/nowhere"],
    &["/nowhere"],
];

#[test]
fn an_old_report_does_not_survive_an_error_of_any_kind() {
    let dir = tempfile::tempdir().unwrap();
    let (path, link) = (dir.path().join("report.json"), dir.path().join("link"));
    std::os::unix::fs::symlink("report.json", &link).unwrap();
    for words in WRONG {
        for target in [&path, &link] {
            fs::write(&path, "old").unwrap();
            let mut rdvm = Rdvm::verb("run").option("--report").option(target);
            for word in words {
                rdvm = rdvm.option(word);
            }
            let stderr = rdvm.run().exits(125).stderr();
            let report: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            conforms(&report);
            let message = report["message"].as_str().unwrap();
            assert!(stderr.contains(message), "{message} is not in {stderr}");
            assert!(link.is_symlink(), "{words:?}");
        }
    }
}

#[test]
fn an_old_report_does_not_survive_a_run_that_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.json");
    for engine in any_engine() {
        fs::write(&path, "old").unwrap();
        let rdvm = Rdvm::on(engine).option("--report").option(&path);
        let mut child = rdvm
            .image(busybox().path())
            .sh("echo on; sleep 1000")
            .spawn();
        first_bytes::<3>(&mut child);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

/// `rdvm run WORDS` by a shell that has its descriptors as `redirections` say.
fn redirected(dir: &Path, redirections: &str, words: &[&str]) -> Run {
    let output = Command::new("sh")
        .args(["-c", &format!("\"$@\" {redirections}"), "sh", RDVM, "run"])
        .args(words)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output();
    Run(output.unwrap())
}

#[test]
fn a_report_to_what_is_open_already_goes_where_that_stands_and_replaces_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let check = |before: &str| {
        let text = fs::read_to_string(&log).unwrap();
        let (start, json) = text.split_at(text.find("{\n").expect("there is a report"));
        assert_eq!(start, before);
        let (json, after) = json.split_at(json.rfind("}\n").unwrap() + 2);
        assert_eq!(after, "after\n");
        conforms(&serde_json::from_str(json).unwrap());
    };
    let refused = ["-m", "1k", "/nowhere"];
    for (target, stream) in [
        ("/dev/stdout", ">&3"),
        ("/proc/self/fd/1", ">&3"),
        ("/dev/fd/7", "7>&3 2>/dev/null"),
        ("link", "7>&3 2>/dev/null"),
    ] {
        let link = dir.path().join("link");
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink("/dev/fd/7", &link).unwrap();
        let shell = format!("exec 3>log; echo before >&3; \"$@\" {stream}; echo after >&3");
        let output = Command::new("sh")
            .args(["-c", &shell, "sh", RDVM, "run", "--report", target])
            .args(refused)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .output();
        assert!(output.unwrap().status.success());
        check("before\n");
    }
    let image = busybox().path().to_str().unwrap();
    for engine in any_engine() {
        note_run(engine);
        let words = ["--engine", engine, "--report", "/dev/stdout", image];
        let words = [&words[..], &["sh", "-c", "echo out"]].concat();
        redirected(dir.path(), ">log && echo after >>log", &words).exits(0);
        check("out\n");
    }
}

#[test]
fn a_report_to_a_pipe_or_a_device_is_written_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let reader = "mkfifo pipe; cat pipe >copy & \"$@\"; wait";
    let output = Command::new("sh")
        .args([
            "-c", reader, "sh", RDVM, "run", "--report", "pipe", "/nowhere",
        ])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .output();
    assert!(output.unwrap().status.success());
    let copy = fs::read(dir.path().join("copy")).unwrap();
    conforms(&serde_json::from_slice(&copy).unwrap());
    assert!(
        fs::metadata(dir.path().join("pipe"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    let words = ["--report", "/dev/null", "/nowhere"];
    redirected(dir.path(), "", &words).exits(125).prints("");
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn standard_output_takes_the_report_only_where_there_is_no_command() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["--report", "-", "/nowhere", "true"];
    redirected(dir.path(), "", &words).exits(125).prints("").says_only(
        "rdvm: --report: -: standard output is the command's; name a file, a pipe or /dev/stderr\n",
    );
    let dry = redirected(dir.path(), "", &[&["--dry-run"], &words[..]].concat()).exits(125);
    conforms(&serde_json::from_str(&dry.stdout()).unwrap());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_console_on_an_open_descriptor_is_written_behind_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let image = busybox().path().to_str().unwrap();
    for engine in any_engine() {
        note_run(engine);
        let words = ["--engine", engine, "--console", "/dev/fd/7", image];
        let words = [&words[..], &["sh", "-c", "echo shown >&2"]].concat();
        let output = Command::new("sh")
            .args([
                "-c",
                "exec 7>log; echo before >&7; \"$@\"; echo after >&7",
                "sh",
            ])
            .args([RDVM, "run"])
            .args(words)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .output();
        assert!(output.unwrap().status.success());
        let text = fs::read_to_string(dir.path().join("log")).unwrap();
        assert!(text.starts_with("before\n"), "{text}");
        assert!(
            text.ends_with("after\n") && text.contains("shown"),
            "{text}"
        );
    }
}
