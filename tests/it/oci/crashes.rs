//! Anything may be killed at any moment: never a success, nothing left, and the next call is right.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use super::bundle::Bundle;
use crate::support::{any_engine, children_of, engines, eventually, is_alive, send};

#[test]
fn a_killed_machine_is_never_a_success() {
    for engine in engines() {
        let bundle = Bundle::sh(engine, "echo up; sleep 1000; exit 0");
        let mut container = bundle.create("one");
        container.start();
        container.has_printed("up");
        let pid = container.pid as u32;
        let below = children_of(pid);
        // In QEMU the machine is a process of its own; on KVM it is the container's.
        let (killed, code) = match below.first() {
            Some(&qemu) => (qemu, 125),
            None => (pid, 128 + 9),
        };
        send(killed, "KILL");
        assert_eq!(container.wait(), code);
        eventually("all are gone", || !below.iter().any(|pid| is_alive(*pid)));
        assert_eq!(container.status(), "stopped");
        bundle.does(&["delete", "one"]);
    }
}

#[test]
fn a_container_whose_process_was_killed_takes_its_machine_along() {
    for engine in engines() {
        let bundle = Bundle::sh(engine, "echo up; sleep 1000; exit 0");
        let mut container = bundle.create("one");
        container.start();
        container.has_printed("up");
        let pids: Vec<u32> =
            serde_json::from_str(&bundle.does(&["ps", "-f", "json", "one"])).unwrap();
        send(container.pid as u32, "KILL");
        assert_eq!(container.wait(), 128 + 9);
        eventually("all are gone", || !pids.iter().any(|pid| is_alive(*pid)));
    }
}

#[test]
fn a_machine_that_dies_before_the_start_is_stopped() {
    for engine in any_engine() {
        let bundle = Bundle::sh(engine, "echo ran");
        let mut container = bundle.create("one");
        let killed = children_of(container.pid as u32)
            .first()
            .copied()
            .unwrap_or(container.pid as u32);
        send(killed, "KILL");
        assert_ne!(container.wait(), 0);
        bundle.refuses(&["start", "one"], "is stopped, not created");
        assert_eq!(bundle.printed("out"), "");
    }
}

#[test]
fn a_create_that_was_killed_leaves_nothing_that_matters() {
    for engine in any_engine() {
        let bundle = Bundle::sh(engine, "exit 0").with(
            "/hooks/prestart",
            json!([{"path": "/bin/sleep", "args": ["sleep", "0.05"]}]),
        );
        bundle.write();
        let path = bundle.path("");
        // At twenty moments of it, from the first instruction to the end and beyond.
        for moment in 0..20 {
            let mut command = bundle.command(&["create", "-b", path.to_str().unwrap(), "one"]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let mut create = command.spawn().unwrap();
            std::thread::sleep(Duration::from_millis(moment * 8));
            let _ = create.kill();
            let below = children_of(create.id());
            create.wait().unwrap();
            let state = bundle.oci(&["state", "one"]);
            let text = String::from_utf8_lossy(&state.stdout).into_owned();
            let is_whole = text.contains("\"created\"");
            assert!(is_whole || !text.contains("running"), "{text}");
            if !is_whole {
                eventually("its process ends", || {
                    !below.iter().any(|pid| is_alive(*pid))
                });
            }
            bundle.does(&["delete", "--force", "one"]);
            eventually("nothing is left", || {
                !below.iter().any(|pid| is_alive(*pid))
            });
            assert_eq!(
                fs::read_dir(bundle.state_root()).map_or(0, |names| names.count()),
                0
            );
        }
        assert_eq!(bundle.run().0, 0);
    }
}

#[test]
fn of_two_that_do_the_same_at_once_one_succeeds() {
    for engine in any_engine() {
        let bundle = Bundle::sh(engine, "exit 0");
        bundle.write();
        let path = bundle.path("");
        let path = path.to_str().unwrap();
        let all = |words: &[&str]| {
            let children: Vec<_> = (0..4)
                .map(|_| {
                    bundle
                        .command(words)
                        .stdout(Stdio::null())
                        .stderr(Stdio::null())
                        .spawn()
                        .unwrap()
                })
                .collect();
            let codes = children
                .into_iter()
                .map(|mut child| child.wait().unwrap().code());
            codes.filter(|code| *code == Some(0)).count()
        };
        assert_eq!(all(&["create", "-b", path, "one"]), 1);
        assert_eq!(all(&["start", "one"]), 1);
        bundle.does(&["delete", "--force", "one"]);
        let _container = bundle.create("two");
        assert_eq!(all(&["delete", "--force", "two"]), 4);
    }
}

#[test]
fn the_process_has_no_descriptors_of_the_engines() {
    for engine in any_engine() {
        let bundle = Bundle::sh(engine, "sleep 1000");
        bundle.write();
        let path = bundle.path("");
        let (pid_file, kept) = (bundle.path("pid"), bundle.path("kept"));
        fs::write(&kept, "").unwrap();
        // As a shell leaves it open for what it starts.
        let mut command = std::process::Command::new("sh");
        let words = bundle.command(&["create", "-b", path.to_str().unwrap(), "--pid-file"]);
        let words: Vec<_> = words.get_args().map(|word| word.to_owned()).collect();
        command
            .args(["-c", "exec 7<\"$0\"; exec \"$@\""])
            .arg(&kept)
            .arg(crate::support::RDVM);
        command
            .args(words)
            .arg(&pid_file)
            .arg("one")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        assert!(command.status().unwrap().success());
        let pid = fs::read_to_string(pid_file).unwrap();
        let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        let links: Vec<_> = links
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .collect();
        assert!(!links.contains(&kept), "{links:?}");
        bundle.does(&["delete", "--force", "one"]);
    }
}
