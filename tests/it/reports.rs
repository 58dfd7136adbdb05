//! docs/report.schema.json is what reports are, and docs/report.md speaks of the same fields and outcomes.
//!
//! Every report that `endings` makes is held against the schema too.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::support::schema::{conforms, faults, report_schema};
use crate::support::{Rdvm, busybox, engines};

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
    for engine in engines() {
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
