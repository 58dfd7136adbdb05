//! podman's containers from create to delete: options, the background, stop, kill, pause, and machines that die.

use std::fs;

use crate::lab::{eventually, is_alive, is_gone, kill_9, lab, qemu_of};
use crate::podman::{Podman, root, rootless};

/// A command that says that it runs, and goes on.
const TICKS: &str = "i=0; while true; do echo tick $i; i=$((i + 1)); sleep 0.1; done";

/// Waits until the container's log has a line that begins so; returns the log.
fn log_with(podman: &Podman, id: &str, start: &str) -> String {
    let mut log = String::new();
    eventually(&format!("{start:?} is in the log"), || {
        log = podman.run(&["logs", id]).exits(0).text();
        log.lines().any(|line| line.starts_with(start))
    });
    log
}

/// Removes a container that has ended; its runtime must have left nothing.
fn removed(podman: &Podman, id: &str) {
    podman.run(&["rm", id]).exits(0);
    is_gone(id);
}

#[test]
fn options_reach_the_machine() {
    let podman = root();
    let script = "id -u; id -g; pwd; echo \"$A\"; hostname; grep -c box /etc/hosts";
    let options = ["-u", "1000:100", "-w", "/work", "-e", "A=b  c", "-h", "box"];
    let run = podman.container_with(&options, &["sh", "-c", script]);
    run.exits(0).prints("1000\n100\n/work\nb  c\nbox\n1");
}

#[test]
fn memory_is_the_commands_own() {
    // 90 MiB fit into a container of 120 MiB, whatever its machine needs itself, and not into one of 60.
    let words = ["dd", "if=/dev/zero", "of=/dev/null", "bs=90M", "count=1"];
    root().container_with(&["-m", "120m"], &words).exits(0);
    let run = root().container_with(&["-m", "60m"], &words);
    // Refused by its allocator, or killed by its kernel.
    assert!(run.code == 1 || run.code == 137, "{run}");
}

#[test]
fn a_volume_shows_what_a_directory_held() {
    let podman = root();
    let dir = lab().dir.join("volume");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("old"), "old\n").unwrap();
    let dir = dir.to_str().unwrap();
    let script = "cat /v/old; echo no 2>/dev/null >/v/new || echo read-only";
    let run = podman.container_with(&["-v", &format!("{dir}:/v:ro")], &["sh", "-c", script]);
    run.exits(0).prints("old\nread-only");

    // A volume that may be written is refused by name, unless it may be copied back.
    let volume = format!("{dir}:/v");
    let run = podman.container_with(&["-v", &volume], &["true"]);
    run.fails_with("/v: the guest cannot write");
    let options = ["--annotation", "org.rdvm.volumes=copy", "-v", &volume];
    let script = "echo new >/v/new; echo more >>/v/old";
    let run = podman.container_with(&options, &["sh", "-c", script]);
    run.exits(0);
    assert_eq!(fs::read_to_string(format!("{dir}/new")).unwrap(), "new\n");
    assert_eq!(
        fs::read_to_string(format!("{dir}/old")).unwrap(),
        "old\nmore\n"
    );
}

#[test]
fn a_network_is_refused_by_name() {
    let words = [
        "run",
        "--rm",
        "--network=host",
        "--pull=never",
        crate::lab::IMAGE,
        "true",
    ];
    root()
        .run(&words)
        .fails_with("a machine has no network card");
}

fn stop_runs_the_handler(podman: &Podman) {
    let script = format!("trap 'echo TERM; exit 9' TERM; {TICKS}");
    let id = podman.detached(&[], &["sh", "-c", &script]);
    log_with(podman, &id, "tick 3");
    assert_eq!(podman.inspect(&id, ".State.Status"), "running");
    podman.run(&["stop", "-t", "60", &id]).exits(0);
    podman.run(&["wait", &id]).exits(0).prints("9");
    assert_eq!(podman.inspect(&id, ".State.ExitCode"), "9");
    let log = podman.run(&["logs", &id]).exits(0).text();
    assert_eq!(log.lines().last(), Some("TERM"), "{log}");
    removed(podman, &id);
}

#[test]
fn stop_runs_the_commands_own_handler() {
    stop_runs_the_handler(root());
}

#[test]
fn stop_runs_the_handler_of_a_users_command() {
    stop_runs_the_handler(rootless());
}

#[test]
fn wait_returns_the_exit_code_of_a_command_that_ended_by_itself() {
    let podman = root();
    let id = podman.detached(&[], &["sh", "-c", "echo out; echo err >&2; exit 3"]);
    podman.run(&["wait", &id]).exits(0).prints("3");
    let logs = podman.run(&["logs", &id]).exits(0);
    assert_eq!(
        (logs.text(), logs.stderr.trim()),
        ("out\n".into(), "err"),
        "{logs}"
    );
    removed(podman, &id);
}

#[test]
fn kill_ends_the_machine_at_once() {
    let podman = root();
    let id = podman.detached(&[], &["sh", "-c", TICKS]);
    log_with(podman, &id, "tick 1");
    let pid = podman.pid(&id);
    let qemu = qemu_of(pid);
    podman.run(&["kill", &id]).exits(0);
    podman.run(&["wait", &id]).exits(0).prints("137");
    eventually("the machine is gone", || !is_alive(pid) && !is_alive(qemu));
    removed(podman, &id);
}

#[test]
fn rm_force_removes_a_running_container() {
    let podman = root();
    let id = podman.detached(&[], &["sh", "-c", TICKS]);
    log_with(podman, &id, "tick 1");
    let qemu = qemu_of(podman.pid(&id));
    podman.run(&["rm", "-f", "-t", "0", &id]).exits(0);
    eventually("the machine is gone", || !is_alive(qemu));
    is_gone(&id);
}

#[test]
fn pause_stops_the_command_and_unpause_lets_it_go_on() {
    let podman = root();
    let id = podman.detached(&[], &["sh", "-c", TICKS]);
    log_with(podman, &id, "tick 2");
    podman.run(&["pause", &id]).exits(0);
    assert_eq!(podman.inspect(&id, ".State.Status"), "paused");
    // What was under way comes out within a moment; then nothing more does.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let paused = podman.run(&["logs", &id]).text().lines().count();
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(podman.run(&["logs", &id]).text().lines().count(), paused);
    podman.run(&["unpause", &id]).exits(0);
    log_with(podman, &id, &format!("tick {}", paused + 2));
    podman.run(&["rm", "-f", "-t", "0", &id]).exits(0);
    is_gone(&id);
}

#[test]
fn a_machine_that_is_killed_is_no_success() {
    let podman = root();
    let id = podman.detached(&[], &["sh", "-c", TICKS]);
    log_with(podman, &id, "tick 1");
    kill_9(qemu_of(podman.pid(&id)));
    podman.run(&["wait", &id]).exits(0).prints("125");
    assert_eq!(podman.inspect(&id, ".State.ExitCode"), "125");
    removed(podman, &id);
}

#[test]
fn a_runtime_that_is_killed_takes_its_machine_with_it() {
    let podman = root();
    let id = podman.detached(&[], &["sh", "-c", TICKS]);
    log_with(podman, &id, "tick 1");
    let pid = podman.pid(&id);
    let qemu = qemu_of(pid);
    kill_9(pid);
    podman.run(&["wait", &id]).exits(0).prints("137");
    eventually("the machine is gone", || !is_alive(qemu));
    removed(podman, &id);
}

#[test]
fn exec_is_refused_with_the_reason() {
    let podman = root();
    let id = podman.detached(&[], &["sh", "-c", TICKS]);
    log_with(podman, &id, "tick 1");
    podman
        .run(&["exec", &id, "true"])
        .fails_with("a machine runs one command");
    assert_eq!(podman.inspect(&id, ".State.Status"), "running");
    podman.run(&["rm", "-f", "-t", "0", &id]).exits(0);
    is_gone(&id);
}

#[test]
fn build_is_refused_with_the_reason() {
    let dir = lab().dir.join("build");
    fs::create_dir(&dir).unwrap();
    let text = format!("FROM {}\nRUN echo made >/made\n", crate::lab::IMAGE);
    fs::write(dir.join("Containerfile"), text).unwrap();
    let words = [
        "build",
        "--isolation",
        "oci",
        "--network=none",
        "--pull=never",
        "-t",
        "built",
    ];
    let build = root().command(&words);
    let run = crate::lab::ended(crate::lab::with(build, &[dir.to_str().unwrap()]));
    run.fails_with("build with another runtime");
    root().run(&["image", "exists", "built"]).exits(1);
}
