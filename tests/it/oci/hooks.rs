//! Hooks, in the order of the specification, with the state on standard input.

use std::fs;

use serde_json::{Value, json};

use super::bundle::Bundle;
use crate::support::any_engine;

/// A hook that adds its name and the state to a file, and does something more.
fn hook(file: &std::path::Path, name: &str, more: &str) -> Value {
    let script = format!("echo \"{name} $(cat)\" >>{}; {more}", file.display());
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]})
}

#[test]
fn hooks_are_called_in_their_order_with_the_state() {
    for engine in any_engine() {
        let bundle = Bundle::sh(engine, "exit 0");
        let file = bundle.path("called");
        let of = |name: &str| {
            json!([
                hook(&file, name, "true"),
                hook(&file, &format!("{name}-2"), "exit 0")
            ])
        };
        let mut bundle = bundle;
        for name in ["prestart", "createRuntime", "poststart", "poststop"] {
            bundle = bundle.with(&format!("/hooks/{name}"), of(name));
        }
        let mut container = bundle.create("one");
        let called = |bundle: &Bundle| fs::read_to_string(bundle.path("called")).unwrap();
        assert_eq!(called(&bundle).lines().count(), 4);
        container.start();
        container.wait();
        bundle.does(&["delete", "one"]);
        let called = called(&bundle);
        let names: Vec<&str> = called
            .lines()
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "prestart",
                "prestart-2",
                "createRuntime",
                "createRuntime-2",
                "poststart",
                "poststart-2",
                "poststop",
                "poststop-2"
            ]
        );
        let states: Vec<Value> = called
            .lines()
            .map(|line| serde_json::from_str(line.split_once(' ').unwrap().1).unwrap())
            .collect();
        for (state, status) in states.iter().zip([
            "creating", "creating", "creating", "creating", "running", "running", "stopped",
            "stopped",
        ]) {
            assert_eq!(
                (&state["id"], &state["status"]),
                (&json!("one"), &json!(status))
            );
            let pid = state.get("pid").map(|pid| pid.as_i64().unwrap());
            assert_eq!(
                pid,
                (status != "stopped").then_some(i64::from(container.pid)),
                "{state}"
            );
        }
    }
}

#[test]
fn a_hook_that_fails_before_the_start_undoes_the_container() {
    for engine in any_engine() {
        for kind in ["prestart", "createRuntime"] {
            let bundle = Bundle::sh(engine, "exit 0");
            let file = bundle.path("called");
            let failing = json!([
                hook(&file, "first", "echo because >&2; exit 3"),
                hook(&file, "second", "true")
            ]);
            let bundle = bundle
                .with(&format!("/hooks/{kind}"), failing)
                .with("/hooks/poststop", json!([hook(&file, "poststop", "true")]));
            bundle.is_refused(&format!("hooks.{kind}: /bin/sh: exit status: 3: because"));
            let called = fs::read_to_string(&file).unwrap();
            let names: Vec<&str> = called
                .lines()
                .map(|line| line.split(' ').next().unwrap())
                .collect();
            assert_eq!(names, ["first", "poststop"]);
        }
    }
}

#[test]
fn a_hook_that_fails_later_is_a_warning() {
    for engine in any_engine() {
        let bundle = Bundle::sh(engine, "exit 0");
        let (file, log) = (bundle.path("called"), bundle.path("log"));
        let of = |name: &str| {
            json!([
                hook(&file, name, "exit 3"),
                hook(&file, &format!("{name}-2"), "true")
            ])
        };
        let mut bundle = bundle
            .with("/hooks/poststart", of("poststart"))
            .with("/hooks/poststop", of("poststop"));
        bundle.options = ["--log", log.to_str().unwrap()].map(str::to_owned).to_vec();
        assert_eq!(bundle.run().0, 0);
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 4);
        let log = fs::read_to_string(&log).unwrap();
        assert_eq!(log.matches("msg=\"hooks.post").count(), 2, "{log}");
    }
}
