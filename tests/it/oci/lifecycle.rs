//! The life of a container: create, start, kill, delete, and what is refused in between.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;

use super::bundle::Bundle;
use crate::support::{RDVM, any_engine, engines, is_alive, note_run};

#[test]
fn a_container_is_created_started_and_deleted() {
    for engine in engines() {
        let bundle =
            Bundle::sh(engine, "echo out; echo err >&2; exit 7").annotated("some.key", "value");
        let mut container = bundle.create("one");
        let state = container.state();
        assert_eq!(state["status"], "created");
        assert_eq!(
            (&state["id"], &state["pid"]),
            (&json!("one"), &json!(container.pid))
        );
        assert_eq!(state["annotations"]["some.key"], "value");
        let path = fs::canonicalize(bundle.path("")).unwrap();
        assert_eq!(state["bundle"], json!(path));
        assert!(state["ociVersion"].as_str().unwrap().starts_with("1."));
        assert_eq!(bundle.printed("out"), "", "the command ran before start");
        let state_dir = bundle.state_root().join("one");
        assert_eq!(
            fs::metadata(&state_dir).unwrap().permissions().mode() & 0o777,
            0o700
        );
        bundle.refuses(
            &["create", "-b", path.to_str().unwrap(), "one"],
            "exists already",
        );
        container.start();
        assert_eq!(container.wait(), 7);
        assert_eq!(
            (&*bundle.printed("out"), &*bundle.printed("err")),
            ("out\n", "err\n")
        );
        let state = container.state();
        assert_eq!(state["status"], "stopped");
        assert!(state.get("pid").is_none(), "{state}");
        bundle.refuses(&["start", "one"], "is stopped");
        bundle.refuses(&["kill", "one"], "container not running");
        bundle.refuses(&["kill", "--all", "one", "9"], "container not running");
        bundle.does(&["delete", "one"]);
        assert!(!state_dir.exists());
        bundle.refuses(&["delete", "one"], "does not exist");
        bundle.does(&["delete", "--force", "one"]);
        bundle.refuses(&["state", "one"], "does not exist");
    }
}

#[test]
fn a_command_starts_once_and_is_not_deleted_while_it_runs() {
    for engine in any_engine() {
        let bundle = Bundle::sh(engine, "echo up; sleep 1000; exit 3");
        let mut container = bundle.create("one");
        container.start();
        container.has_printed("up");
        assert_eq!(container.status(), "running");
        bundle.refuses(&["start", "one"], "is running, not created");
        bundle.refuses(&["delete", "one"], "is running, not stopped");
        bundle.refuses(&["resume", "one"], "is running, not paused");
        container.kill("KILL");
        assert_eq!(container.wait(), 128 + 9);
        bundle.does(&["delete", "one"]);
    }
}

#[test]
fn what_a_command_makes_of_a_signal_is_its_own_affair() {
    for engine in engines() {
        let script = "trap 'echo term; n=$((n+1)); [ $n = 2 ] && exit 9' TERM; trap 'echo usr1' USR1; trap 'echo rt' 37
            echo up; while :; do sleep 0.05; done";
        let bundle = Bundle::sh(engine, script);
        let mut container = bundle.create("one");
        container.start();
        container.has_printed("up");
        container.kill("SIGUSR1");
        container.has_printed("usr1");
        container.kill("RTMIN+3");
        container.has_printed("rt");
        container.kill("15");
        container.has_printed("term");
        assert_eq!(container.status(), "running");
        container.kill("TERM");
        assert_eq!(container.wait(), 9);
        bundle.refuses(&["kill", "one", "NOSUCH"], "no signal");
    }
}

#[test]
fn a_created_container_can_be_killed_or_deleted() {
    for engine in any_engine() {
        let bundle = Bundle::sh(engine, "echo ran");
        let mut container = bundle.create("one");
        container.kill("TERM");
        assert_eq!(container.wait(), 128 + 15);
        assert_eq!(container.status(), "stopped");
        bundle.does(&["delete", "one"]);
        let container = bundle.create("two");
        bundle.does(&["delete", "two"]);
        assert!(!is_alive(container.pid as u32));
        assert_eq!(bundle.printed("out"), "");
        assert_eq!(fs::read_dir(bundle.state_root()).unwrap().count(), 0);
    }
}

#[test]
fn a_container_is_paused_with_everything_of_its_machine() {
    for engine in engines() {
        let bundle = Bundle::sh(engine, "while :; do echo tick; sleep 0.02; done");
        let mut container = bundle.create("one");
        container.start();
        container.has_printed("tick");
        bundle.refuses(&["resume", "one"], "is running, not paused");
        bundle.does(&["pause", "one"]);
        assert_eq!(container.status(), "paused");
        bundle.refuses(&["pause", "one"], "is paused, not running");
        let pids: Vec<u32> =
            serde_json::from_str(&bundle.does(&["ps", "--format", "json", "one"])).unwrap();
        for pid in &pids {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            assert!(stat.contains(") T "), "{stat}");
        }
        let before = bundle.printed("out").len();
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(bundle.printed("out").len(), before);
        bundle.does(&["resume", "one"]);
        crate::support::eventually("more ticks", || bundle.printed("out").len() > before);
        bundle.does(&["pause", "one"]);
        container.kill("KILL");
        assert_eq!(container.wait(), 128 + 9);
        crate::support::eventually("nothing is left", || !pids.iter().any(|pid| is_alive(*pid)));
    }
}

#[test]
fn the_list_has_every_container() {
    for engine in any_engine() {
        let bundle = Bundle::sh(engine, "sleep 1000");
        assert_eq!(bundle.does(&["list", "-q"]), "");
        let container = bundle.create("one");
        let table = bundle.does(&["list"]);
        assert_eq!(table.lines().count(), 2, "{table}");
        assert!(
            table.contains("one") && table.contains("created"),
            "{table}"
        );
        assert_eq!(bundle.does(&["list", "-q"]), "one\n");
        let list: Vec<serde_json::Value> =
            serde_json::from_str(&bundle.does(&["list", "--format", "json"])).unwrap();
        assert_eq!(
            (&list[0]["id"], &list[0]["pid"]),
            (&json!("one"), &json!(container.pid))
        );
    }
}

#[test]
fn changes_of_the_configuration_after_create_have_no_effect() {
    for engine in any_engine() {
        let bundle = Bundle::sh(engine, "echo first");
        let mut container = bundle.create("one");
        fs::write(bundle.path("config.json"), "{}").unwrap();
        container.start();
        assert_eq!(container.wait(), 0);
        assert_eq!(bundle.printed("out"), "first\n");
    }
}

#[test]
fn run_does_everything_and_leaves_nothing() {
    for engine in any_engine() {
        let bundle = Bundle::sh(engine, "cat; echo done >&2; exit 5");
        bundle.write();
        let input = bundle.path("input");
        fs::write(&input, b"a\0b\r\n\xff").unwrap();
        let path = bundle.path("");
        let mut command = bundle.command(&["run", "-b", path.to_str().unwrap(), "one"]);
        let output = command
            .stdin(fs::File::open(input).unwrap())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(5));
        assert_eq!(output.stdout, b"a\0b\r\n\xff");
        assert_eq!(output.stderr, b"done\n");
        assert_eq!(fs::read_dir(bundle.state_root()).unwrap().count(), 0);
    }
}

#[test]
fn signals_to_run_are_passed_on() {
    for engine in any_engine() {
        let bundle = Bundle::sh(
            engine,
            "trap 'exit 4' TERM; echo up; while :; do sleep 0.05; done",
        );
        bundle.write();
        let path = bundle.path("");
        let mut command = bundle.command(&["run", "-b", path.to_str().unwrap(), "one"]);
        command.stdout(fs::File::create(bundle.path("out")).unwrap());
        let mut child = command.spawn().unwrap();
        crate::support::eventually("up", || bundle.printed("out").contains("up"));
        crate::support::send(child.id(), "TERM");
        assert_eq!(child.wait().unwrap().code(), Some(4));
        assert_eq!(fs::read_dir(bundle.state_root()).unwrap().count(), 0);
    }
}

#[test]
fn a_command_that_cannot_start_has_the_words_that_engines_know() {
    for engine in any_engine() {
        for (program, text, code) in [
            (
                "nosuch",
                "exec: \"nosuch\": executable file not found in $PATH",
                127,
            ),
            (
                "/bin/nosuch",
                "exec: \"/bin/nosuch\": stat /bin/nosuch: no such file or directory",
                127,
            ),
            ("/proc", "permission denied", 126),
        ] {
            let bundle = Bundle::new(engine, &[program]);
            if program != "/proc" {
                bundle.is_refused(text);
                let path = bundle.path("");
                let output = bundle.oci(&["run", "-b", path.to_str().unwrap(), "one"]);
                assert_eq!(output.status.code(), Some(code));
            }
        }
    }
}

#[test]
fn the_runtime_says_what_it_is_by_any_of_its_names() {
    note_run("none");
    let dir = tempfile::TempDir::new().unwrap();
    for name in ["rdvm-oci", "runc"] {
        let link = dir.path().join(name);
        std::os::unix::fs::symlink(RDVM, &link).unwrap();
        let output = Command::new(&link).arg("--version").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.starts_with("rdvm-oci version ") && text.contains("\nspec: 1."),
            "{text}"
        );
        let output = Command::new(&link).arg("features").output().unwrap();
        let features: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(features["ociVersionMin"], "1.0.0");
        assert!(
            features["hooks"]
                .as_array()
                .unwrap()
                .contains(&json!("prestart"))
        );
        assert!(
            features["linux"]["capabilities"]
                .as_array()
                .unwrap()
                .contains(&json!("CAP_BPF"))
        );
    }
    for verb in ["exec", "update", "events", "checkpoint"] {
        let output = Command::new(RDVM)
            .args(["oci", verb, "--any", "one"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text.starts_with(&format!("rdvm: {verb}: ")), "{text}");
    }
}
