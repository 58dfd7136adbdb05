//! dockerd with the configuration of examples/engines/docker, on the containerd of the lab, and docker's client.
//!
//! The daemon has no firewall and no bridge to make, and its containers no network.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::OnceLock;

use crate::containerd::{SOCKET, containerd};
use crate::lab::{Ended, IMAGE, command, daemon, ended, eventually, is_gone, lab, with};
use crate::table::{self, Engine, Streams};

/// docker's client on a running daemon that has the image.
struct Docker;

fn docker() -> &'static Docker {
    static DOCKER: OnceLock<Docker> = OnceLock::new();
    DOCKER.get_or_init(|| {
        containerd();
        let words = [
            "--config-file",
            "examples/engines/docker/daemon.json",
            "--containerd",
            SOCKET,
        ];
        let own = [
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
            "--storage-driver=vfs",
        ];
        let cgroups = ["--exec-opt", "native.cgroupdriver=cgroupfs"];
        daemon(
            with(with(command("dockerd", &words), &own), &cgroups),
            "dockerd.log",
        );
        eventually("dockerd answers", || run(&["version"]).code == 0);
        run(&["load", "-q", "-i", lab().archive.to_str().unwrap()]).exits(0);
        Docker
    })
}

/// `docker WORDS`, run to its end.
fn run(words: &[&str]) -> Ended {
    ended(command("docker", words))
}

impl Engine for Docker {
    fn container(&self, streams: Streams, words: &[&str]) -> Command {
        let run = command(
            "docker",
            &["run", "--rm", "--runtime=rdvm", "--network=none"],
        );
        let options: &[&str] = match streams {
            Streams::Output => &[],
            Streams::Input => &["-i"],
            Streams::Terminal => &["-it"],
        };
        with(with(with(run, options), &[IMAGE]), words)
    }
}

#[test]
fn docker_runs_the_table() {
    table::all(docker());
}

/// The daemon keeps a container's network namespace by a file, which is made in the hook that it has the runtime call: the state on the hook's
/// standard input says which process it is.
#[test]
fn the_hook_of_docker_is_called() {
    docker();
    let words = [
        "run",
        "-d",
        "--runtime=rdvm",
        "--network=none",
        IMAGE,
        "sleep",
        "1000",
    ];
    let id = run(&words).exits(0).text().trim().to_owned();
    let words = ["inspect", "-f", "{{.NetworkSettings.SandboxKey}}", &id];
    let path = run(&words).exits(0).text().trim().to_owned();
    let kept = fs::metadata(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let words = ["inspect", "-f", "{{.State.Pid}}", &id];
    let pid = run(&words).exits(0).text().trim().to_owned();
    let own = fs::metadata(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(kept.ino(), own.ino(), "{path}");
    run(&["rm", "-f", &id]).exits(0);
    is_gone(&id);
}

#[test]
fn docker_stops_a_container_with_its_handler() {
    docker();
    let script = "trap 'exit 9' TERM; echo on; while true; do sleep 0.1; done";
    let words = [
        "run",
        "-d",
        "--runtime=rdvm",
        "--network=none",
        IMAGE,
        "sh",
        "-c",
        script,
    ];
    let id = run(&words).exits(0).text().trim().to_owned();
    eventually("the command runs", || {
        run(&["logs", &id]).text().contains("on")
    });
    let exec = run(&["exec", &id, "true"]).exits(126);
    assert!(exec.text().contains("a machine runs one command"), "{exec}");
    run(&["stop", "-t", "60", &id]).exits(0);
    run(&["inspect", "-f", "{{.State.ExitCode}}", &id])
        .exits(0)
        .prints("9");
    run(&["rm", &id]).exits(0);
    is_gone(&id);
}
