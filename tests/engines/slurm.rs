//! Slurm with two nodes on this host: plain `srun rdvm run`, `srun --container` with the oci.conf of examples/engines/slurm, and
//! the job array there that grades submissions.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::lab::{
    Ended, RDVM, command, daemon, ended, eventually, fed, is_alive, kill_9, lab, qemu_of, with,
};
use crate::table::{self, Engine, Streams};

/// A cluster of two nodes, which are daemons of this host, and a third one that is to die. Each offers two CPUs, whatever there are.
const CONFIGURATION: &str = "\
ClusterName=lab
SlurmctldHost=rdvm-engines(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd-%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd-%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
MpiDefault=none
KillWait=5
NodeName=one NodeHostname=rdvm-engines NodeAddr=127.0.0.1 Port=17001 CPUs=2 RealMemory=4000 Weight=10
NodeName=two NodeHostname=rdvm-engines NodeAddr=127.0.0.1 Port=17002 CPUs=2 RealMemory=4000
NodeName=three NodeHostname=rdvm-engines NodeAddr=127.0.0.1 Port=17003 CPUs=2 RealMemory=4000
PartitionName=lab Nodes=one,two Default=YES MaxTime=INFINITE State=UP
PartitionName=frail Nodes=one,three MaxTime=INFINITE State=UP
";

/// Slurm has no use for cgroups here, and asks the host for them all the same unless it is told of a kind that it need not find.
const CGROUPS: &str = "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n";

/// A running cluster.
struct Slurm {
    /// An OCI bundle with the image.
    bundle: PathBuf,
    /// The daemon of the third node.
    third: u32,
}

fn slurm() -> &'static Slurm {
    static SLURM: OnceLock<Slurm> = OnceLock::new();
    SLURM.get_or_init(|| {
        let bundle = make_bundle();
        munge();
        fs::create_dir_all("/etc/slurm").unwrap();
        fs::write("/etc/slurm/slurm.conf", CONFIGURATION).unwrap();
        fs::write("/etc/slurm/cgroup.conf", CGROUPS).unwrap();
        fs::copy("examples/engines/slurm/oci.conf", "/etc/slurm/oci.conf").unwrap();
        fs::create_dir_all("/var/spool/slurmctld").unwrap();
        daemon(command("slurmctld", &["-D", "-c"]), "slurmctld.log");
        let [_, _, third] = ["one", "two", "three"].map(|node| {
            fs::create_dir_all(format!("/var/spool/slurmd-{node}")).unwrap();
            let slurmd = command("slurmd", &["-D", "-c", "-N", node]);
            daemon(slurmd, &format!("slurmd-{node}.log"))
        });
        let words = ["-h", "-N", "-t", "idle", "-o", "%N"];
        let idle = || ended(command("sinfo", &words)).text();
        eventually("all nodes are idle", || {
            idle().lines().collect::<BTreeSet<_>>().len() == 3
        });
        Slurm { bundle, third }
    })
}

/// A key, and the daemon that signs what Slurm's parts tell each other.
fn munge() {
    let script = "umask 077; mkdir -p /etc/munge /run/munge /var/lib/munge /var/log/munge
        head -c 1024 /dev/urandom >/etc/munge/munge.key
        chown -R munge: /etc/munge /run/munge /var/lib/munge /var/log/munge; chmod 755 /run/munge";
    ended(command("sh", &["-ec", script])).exits(0);
    let words = [
        "--reuid",
        "munge",
        "--regid",
        "munge",
        "--clear-groups",
        "munged",
        "--foreground",
        "--force",
    ];
    daemon(command("setpriv", &words), "munged.log");
    eventually("munge answers", || {
        ended(command("sh", &["-c", "munge -n | unmunge"])).code == 0
    });
}

/// The image as an OCI bundle, with runc's own idea of a config.json.
fn make_bundle() -> PathBuf {
    let bundle = lab().dir.join("bundle");
    fs::create_dir(&bundle).unwrap();
    let copy = with(
        command("cp", &["-a"]),
        &[&lab().root, &bundle.join("rootfs")],
    );
    ended(copy).exits(0);
    ended(with(command("runc", &["spec", "-b"]), &[&bundle])).exits(0);
    bundle
}

/// `srun rdvm run`: no runtime takes part.
struct Plain;

impl Engine for Plain {
    fn container(&self, streams: Streams, words: &[&str]) -> Command {
        slurm();
        let (pty, streams): (&[&str], &[&str]) = match streams {
            Streams::Output => (&[], &[]),
            Streams::Input => (&[], &["-i"]),
            Streams::Terminal => (&["--pty"], &["-it"]),
        };
        let run = with(with(command("srun", pty), &[RDVM, "run", "-q"]), streams);
        with(with(run, &[&lab().root]), &[&["--"], words].concat())
    }
}

/// `srun --container`.
struct Container;

impl Engine for Container {
    fn container(&self, _: Streams, words: &[&str]) -> Command {
        let bundle = slurm().bundle.to_str().unwrap();
        with(command("srun", &[&format!("--container={bundle}")]), words)
    }

    fn has_terminals(&self) -> bool {
        false
    }
}

#[test]
fn srun_of_rdvm_runs_the_table() {
    table::all(&Plain);
}

#[test]
fn srun_with_a_container_runs_the_table() {
    table::all(&Container);
}

/// Starts a job of this name, and cancels it when its command runs. The machine ends.
fn cancelled(job: Command, name: &str) -> Ended {
    std::thread::scope(|scope| {
        let run = scope.spawn(|| ended(job));
        let words = ["-h", "-t", "running", "-n", name, "-o", "%i"];
        let id = || ended(command("squeue", &words)).text().trim().to_owned();
        eventually("the job runs", || !id().is_empty());
        let id = id();
        let qemu = qemu_of(step_of(&format!("{id}.0")));
        ended(command("scancel", &[&id])).exits(0);
        eventually("the machine is gone", || !is_alive(qemu));
        run.join().unwrap()
    })
}

/// The process of Slurm that looks after a step, `JOB.STEP`.
fn step_of(step: &str) -> u32 {
    let title = format!(r"slurmstepd: \[{step}\]");
    let mut found = None;
    eventually("the job's step runs", || {
        let words = ["-f", &title];
        found = ended(command("pgrep", &words)).text().trim().parse().ok();
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn scancel_ends_the_machine_of_a_job() {
    slurm();
    let job = command("srun", &["-J", "plain", RDVM, "run", "-q"]);
    let job = with(with(job, &[&lab().root]), &["--", "sleep", "1000"]);
    assert_ne!(cancelled(job, "plain").code, 0);
}

#[test]
fn scancel_ends_the_machine_of_a_container() {
    let bundle = slurm().bundle.to_str().unwrap();
    let words = [
        "-J",
        "container",
        &format!("--container={bundle}"),
        "sleep",
        "1000",
    ];
    assert_ne!(cancelled(command("srun", &words), "container").code, 0);
    let state = PathBuf::from("/run/rdvm-slurm");
    eventually("no state is left", || {
        fs::read_dir(&state).map_or(0, Iterator::count) == 0
    });
}

/// Every kind of submission once, over both nodes, and its verdict.
#[test]
fn a_job_array_grades_submissions_on_all_nodes() {
    slurm();
    let class = lab().dir.join("class");
    let script = r#"
        mkdir -p "$1/submissions"
        cp examples/grading/submissions/*.c "$1/submissions"
        seq 100000 200000 >"$1/input"
        seq 100000 200000 | awk '{ sum += $1 } END { printf "%.0f\n", sum }' >"$1/expected"
        examples/toolchain.sh "$1/toolchain""#;
    ended(with(command("sh", &["-euc", script, "sh"]), &[&class])).exits(0);
    let grade = || {
        let mut all = command("examples/engines/slurm/grade-all", &[]);
        for name in ["submissions", "input", "expected", "results"] {
            all.arg(class.join(name));
        }
        all.env("RDVM", RDVM).env("IMAGE", class.join("toolchain"));
        ended(all).exits(0).text()
    };
    grade();
    for (kind, deserved) in [
        ("right", "accepted"),
        ("wrong", "wrong answer"),
        ("crash", "crashed"),
        ("endless", "time limit"),
        ("hungry", "memory limit"),
        ("talkative", "output limit"),
        ("broken", "does not compile"),
        ("cheat", "wrong answer"),
    ] {
        let result = fs::read(class.join(format!("results/{kind}.c.json"))).unwrap();
        let result: serde_json::Value = serde_json::from_slice(&result).unwrap();
        assert_eq!(result["verdict"], deserved, "{result}");
    }
    let logs: String = (1..=8)
        .map(|task| fs::read_to_string(class.join(format!("results/{task}.log"))).unwrap())
        .collect();
    assert!(
        logs.contains(" on one\n") && logs.contains(" on two\n"),
        "{logs}"
    );

    // The second time only what has no result is graded.
    fs::remove_file(class.join("results/right.c.json")).unwrap();
    fs::write(class.join("results/wrong.c.json"), r#"{"verdict": "kept"}"#).unwrap();
    let summary = grade();
    assert!(
        summary.contains("1 accepted") && summary.contains("1 kept"),
        "{summary}"
    );
}

/// The whole node: its daemon, the step, and the machine. Another one runs the job again.
#[test]
fn a_job_whose_node_dies_runs_on_another() {
    let third = slurm().third;
    let log = lab().dir.join("frail.log");
    let script = r#"#!/bin/sh
        echo "on $SLURMD_NODENAME"
        time=1000
        [ -z "${SLURM_RESTART_COUNT:-}" ] || time=0
        "$RDVM" run -q "$IMAGE" -- sh -c "echo runs; sleep $time; echo ends""#;
    let words = [
        "--parsable",
        "-p",
        "frail",
        "--requeue",
        "--open-mode=append",
        "-o",
    ];
    let mut sbatch = with(command("sbatch", &words), &[&log]);
    sbatch.env("RDVM", RDVM).env("IMAGE", &lab().root);
    let job = fed(sbatch, script.as_bytes())
        .exits(0)
        .text()
        .trim()
        .to_owned();
    let has = |text: &str| fs::read_to_string(&log).unwrap_or_default().contains(text);
    eventually("the job runs", || has("runs"));

    let step = step_of(&format!("{job}.batch"));
    let qemu = qemu_of(step);
    for pid in [third, step, qemu] {
        kill_9(pid);
    }
    let down = ["update", "nodename=three", "state=down", "reason=dead"];
    ended(command("scontrol", &down)).exits(0);
    // Slurm waits two minutes before it starts such a job again.
    let now = ["update", &format!("jobid={job}"), "starttime=now"];
    ended(command("scontrol", &now)).exits(0);
    eventually("the job has ended", || has("ends"));
    let text = fs::read_to_string(&log).unwrap();
    let nodes: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("on "))
        .collect();
    assert_eq!(nodes, ["on three", "on one"], "{text}");
}
