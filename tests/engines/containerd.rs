//! containerd, by ctr: its daemon with the configuration of examples/engines/containerd, and the table of commands.

use std::fs;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::lab::{
    Ended, IMAGE, RUNTIME, command, daemon, ended, eventually, is_alive, is_gone, lab, qemu_of,
    with,
};
use crate::table::{self, Engine, Streams};

/// Where the daemon listens.
pub(crate) const SOCKET: &str = "/run/containerd/containerd.sock";

/// Additions of the lab to the example: pods start from the image that is here, and no security module is looked for.
const LAB: &str = r#"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/applets:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
"#;

/// ctr on a running containerd that has the image.
pub(crate) struct Ctr;

/// containerd, which the first caller starts.
pub(crate) fn containerd() -> &'static Ctr {
    static CTR: OnceLock<Ctr> = OnceLock::new();
    CTR.get_or_init(|| {
        lab();
        let example = fs::read_to_string("examples/engines/containerd/config.toml").unwrap();
        fs::create_dir_all("/etc/containerd").unwrap();
        fs::write("/etc/containerd/config.toml", example + LAB).unwrap();
        daemon(command("containerd", &[]), "containerd.log");
        eventually("containerd answers", || ctr(&["version"]).code == 0);
        let archive = lab().archive.to_str().unwrap();
        for namespace in ["default", "k8s.io"] {
            let words = [
                "-n",
                namespace,
                "images",
                "import",
                "--snapshotter",
                "overlayfs",
                archive,
            ];
            ctr(&words).exits(0);
        }
        Ctr
    })
}

fn ctr(words: &[&str]) -> Ended {
    ended(command("ctr", words))
}

/// A name for a container that no other has.
fn name() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("ctr-{:04}", COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Engine for Ctr {
    fn container(&self, streams: Streams, words: &[&str]) -> Command {
        let run = command("ctr", &["run", "--rm", "--runc-binary", RUNTIME]);
        let terminal: &[&str] = match streams {
            Streams::Terminal => &["-t"],
            _ => &[],
        };
        with(with(with(run, terminal), &[IMAGE, &name()]), words)
    }

    /// ctr prints the runtime's message, and has one code for all of them.
    fn refusals(&self) -> [i32; 2] {
        [1, 1]
    }
}

#[test]
fn ctr_runs_the_table() {
    table::all(containerd());
}

#[test]
fn options_of_ctr_reach_the_machine() {
    containerd();
    let name = name();
    let options = ["--cwd", "/work", "--env", "A=b c"];
    let run = with(
        command("ctr", &["run", "--rm", "--runc-binary", RUNTIME]),
        &options,
    );
    let script = "pwd; echo \"$A\"";
    let run = with(run, &[IMAGE, &name, "sh", "-c", script]);
    ended(run).exits(0).prints("/work\nb c");
    is_gone(&name);
}

/// A task in the background: its container's name and its process.
fn task() -> (String, u32) {
    containerd();
    let name = name();
    let words = [
        "run",
        "-d",
        "--runc-binary",
        RUNTIME,
        IMAGE,
        &name,
        "sleep",
        "1000",
    ];
    ctr(&words).exits(0);
    let list = ctr(&["task", "ls"]).exits(0);
    let text = list.text();
    let line = text.lines().find(|line| line.starts_with(&name));
    let pid = line.and_then(|line| line.split_whitespace().nth(1));
    (
        name,
        pid.unwrap_or_else(|| panic!("{list}")).parse().unwrap(),
    )
}

#[test]
fn a_task_of_ctr_is_killed_and_removed() {
    let (name, pid) = task();
    let qemu = qemu_of(pid);
    ctr(&["task", "kill", "-s", "SIGKILL", &name]).exits(0);
    eventually("the machine is gone", || !is_alive(pid) && !is_alive(qemu));
    // The shim has to have noticed.
    eventually("the task is stopped", || status_of(&name) == "STOPPED");
    // It succeeds, and warns of the exit code.
    let removed = ctr(&["task", "rm", &name]).exits(0);
    assert!(removed.stderr.contains("exit code 137"), "{removed}");
    ctr(&["container", "rm", &name]).exits(0);
    is_gone(&name);
}

/// The status of a task, as ctr prints it.
fn status_of(name: &str) -> String {
    let text = ctr(&["task", "ls"]).exits(0).text();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(2).unwrap().to_owned()
}

#[test]
fn a_task_of_ctr_is_paused_and_resumed() {
    let (name, _) = task();
    let status = || status_of(&name);
    ctr(&["task", "pause", &name]).exits(0);
    assert_eq!(status(), "PAUSED");
    ctr(&["task", "resume", &name]).exits(0);
    assert_eq!(status(), "RUNNING");
    ctr(&["task", "exec", "--exec-id", "again", &name, "true"])
        .fails_with("a machine runs one command");
    ctr(&["task", "kill", "-s", "SIGKILL", &name]).exits(0);
    ended(command("ctr", &["task", "rm", "--force", &name]));
    ctr(&["container", "rm", &name]).exits(0);
    is_gone(&name);
}
