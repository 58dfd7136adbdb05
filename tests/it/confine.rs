//! Confinement: what a machine's threads may still do, each forbidden call tried by a thread of rdvm itself.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::stubs::CONFINED;
use crate::support::{
    Rdvm, Run, any_engine, busybox, children_of, engines, eventually, while_sleeping,
};

const SIGSYS: i32 = 31;

/// Calls that a thread tries, as crates/confine/src/attack.rs has them.
const CALLS: [&str; 21] = [
    "open",
    "openat",
    "openat2",
    "socket",
    "connect",
    "execve",
    "ptrace",
    "kill",
    "tgkill",
    "mount",
    "ioctl",
    "io_uring_setup",
    "clone3",
    "fork",
    "mprotect",
    "mmap",
    "process_vm_readv",
    "memfd_create",
    "unshare",
    "bpf",
    "prctl",
];

const ATTACK: &str = "RDVM_TEST_ATTACK";

fn attacked(engine: &str, call: &str, option: Option<&str>) -> Run {
    let mut run = Rdvm::on(engine).with_variable(ATTACK, format!("event-loop:{call}"));
    if let Some(option) = option {
        run = run.option(option);
    }
    run.image(busybox().path()).sh("echo on").run()
}

#[test]
fn an_event_loop_that_has_turned_hostile_dies_of_each_call_that_is_not_its_own() {
    for engine in engines() {
        // Calls that would be harmless or fail anyway show that they are made at all.
        for call in ["openat", "socket"] {
            let run = attacked(engine, call, Some("--no-sandbox"));
            run.says(&format!("attack: {call}: ALLOWED")).exits(0);
        }
        for call in CALLS {
            let run = attacked(engine, call, None);
            assert_eq!(
                run.0.status.signal(),
                Some(SIGSYS),
                "{call}: {}",
                run.stderr()
            );
            assert!(!run.stderr().contains("attack:"), "{}", run.stderr());
        }
    }
}

/// Runs tests of this program whose names have `filter` in them in a process of their own, with confined machines.
fn stubs(filter: &[&str], attack: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(filter).env(CONFINED, "1").env(ATTACK, attack);
    command.output().unwrap()
}

fn has_kvm() -> bool {
    crate::support::scenario::this_is_none();
    fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}

#[test]
fn stubs_run_on_kvm_under_confinement_as_they_do_without() {
    if !has_kvm() {
        return crate::support::missing("a /dev/kvm that can be opened");
    }
    let output = stubs(&["stubs::"], "");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {text}", output.status);
    assert!(text.contains("test result: ok. "), "{text}");
    assert!(!text.contains("result: ok. 0 passed"), "{text}");
}

#[test]
fn a_vcpu_that_has_turned_hostile_dies_of_each_call_that_is_not_its_own() {
    if !has_kvm() {
        return crate::support::missing("a /dev/kvm that can be opened");
    }
    const STUB: &[&str] = &[
        "--exact",
        "stubs::the_clock_has_no_update_in_progress_and_tells_the_year",
    ];
    for role in ["vcpu", "event-loop"] {
        for call in CALLS {
            let output = stubs(STUB, &format!("{role}:{call}"));
            let text = String::from_utf8_lossy(&output.stdout);
            assert_eq!(
                output.status.signal(),
                Some(SIGSYS),
                "{role}: {call}: {text}"
            );
        }
    }
}

/// A field of /proc/PID/task/TID/status of each thread, with the thread's name.
fn of_threads(pid: u32, field: &str) -> Vec<(String, String)> {
    let value = |status: &str, name: &str| {
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_default().trim().to_owned()
    };
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let statuses = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    statuses
        .map(|status| (value(&status, "Name"), value(&status, field)))
        .collect()
}

#[test]
fn every_thread_of_rdvm_and_of_its_qemu_is_confined_while_the_guest_runs() {
    while_sleeping(&["kvm", "qemu"], |_, child| {
        let pid = child.id();
        let mut processes = children_of(pid);
        processes.push(pid);
        for pid in processes {
            for (field, wanted) in [("Seccomp", "2"), ("NoNewPrivs", "1")] {
                let threads = of_threads(pid, field);
                assert!(!threads.is_empty());
                let rest: Vec<_> = threads
                    .iter()
                    .filter(|(_, value)| value != wanted)
                    .collect();
                assert!(rest.is_empty(), "{field}: {rest:?}");
            }
            let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            let core = limits
                .lines()
                .find(|line| line.starts_with("Max core file size"));
            let values = core.unwrap().split_whitespace().skip(4).take(2);
            assert_eq!(values.collect::<Vec<_>>(), ["0", "0"]);
        }
        for qemu in children_of(pid) {
            let network = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
            assert_ne!(network(qemu), network(std::process::id()));
        }
    });
}

#[test]
fn the_threads_of_copies_of_the_network_and_of_slow_streams_are_confined_too() {
    let Some(engine) = any_engine().first() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let run = Rdvm::on(engine).option("--copy-out");
    let run = run.option(format!("/etc:{}/out", dir.path().display()));
    let run = run.option("--allow").option("192.0.2.1:80").option("-i");
    // A thread reads it, and waits for a command that does not.
    let input = fs::File::open("/dev/zero").unwrap();
    let image = busybox();
    let script = "echo on; sleep 1000";
    let mut child = run.image(image.path()).sh(script).stdin(input).spawn();
    crate::support::first_bytes::<3>(&mut child);
    let pid = child.id();
    let mut processes = children_of(pid);
    processes.push(pid);
    let threads: Vec<_> = processes
        .iter()
        .flat_map(|pid| of_threads(*pid, "Seccomp"))
        .collect();
    child.kill().unwrap();
    child.wait().unwrap();
    for wanted in ["copy-out", "reader"] {
        let is_there = threads.iter().any(|(name, _)| name == wanted);
        assert!(is_there, "no {wanted} in {threads:?}");
    }
    let free: Vec<_> = threads.iter().filter(|(_, mode)| mode != "2").collect();
    assert!(free.is_empty(), "{free:?}");
    eventually("its children end", || {
        !Path::new(&format!("/proc/{pid}")).exists()
    });
}

#[test]
fn the_report_has_each_layer() {
    let Some(engine) = any_engine().first() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.json");
    for (option, layers) in [("--require-sandbox", true), ("--no-sandbox", false)] {
        let run = Rdvm::on(engine)
            .option(option)
            .option("--report")
            .option(&path);
        run.image(busybox().path()).sh("true").run().exits(0);
        let report: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        crate::support::schema::conforms(&report);
        let all = report["confinement"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let has = |name: &str| {
            all.iter()
                .any(|layer| layer["name"] == name && layer["on"] == true)
        };
        for name in ["seccomp", "landlock", "no_new_privs"] {
            assert_eq!(has(name), layers, "{report}");
        }
        assert_eq!(has("network_namespace"), layers && *engine == "qemu");
    }
}

/// rdvm on a host where a call fails, as strace(1) has it, with one option more.
fn where_it_fails(inject: &[&str], option: &str, engine: &str) -> Run {
    crate::support::note_run(engine);
    let mut strace = Command::new("strace");
    strace.args(["-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"]);
    strace.args(inject);
    strace.args([
        env!("CARGO_BIN_EXE_rdvm"),
        "run",
        "--engine",
        engine,
        option,
    ]);
    strace.arg(busybox().path()).args(["sh", "-c", "echo on"]);
    Run(strace.stdin(Stdio::null()).output().unwrap())
}

#[test]
fn a_host_without_a_layer_has_a_line_of_it_or_is_refused() {
    let Some(engine) = any_engine().first() else {
        return;
    };
    if !crate::kept::has_strace() {
        return;
    }
    const LANDLOCK: &[&str] = &[
        "--trace=landlock_create_ruleset",
        "--inject=landlock_create_ruleset:error=EOPNOTSUPP",
    ];
    const SECCOMP: &[&str] = &[
        "--trace-path=/proc/sys/kernel/seccomp/actions_avail",
        "--trace=openat",
        "--inject=openat:error=ENOENT",
    ];
    for (inject, line) in [
        (LANDLOCK, "confinement: landlock off: it is switched off"),
        (
            SECCOMP,
            "confinement: seccomp off: the kernel has no seccomp",
        ),
    ] {
        let run = where_it_fails(inject, "--verbose", engine);
        run.says(line).exits(0).prints("on\n");
        let run = where_it_fails(inject, "--require-sandbox", engine);
        run.says(line)
            .says("leave out --require-sandbox")
            .exits(125);
    }
}

#[test]
fn what_is_open_when_rdvm_starts_is_not_handed_on_to_qemu() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    for engine in engines().iter().filter(|engine| **engine == "qemu") {
        crate::support::note_run(engine);
        let image = busybox();
        let mut shell = Command::new("sh");
        let line = r#"exec 9<"$1"; shift; exec "$@""#;
        shell.args(["-c", line, "sh"]).arg(secret.path());
        shell.args([env!("CARGO_BIN_EXE_rdvm"), "run", "--engine", engine]);
        shell
            .arg(image.path())
            .args(["sh", "-c", "echo on; sleep 1000"]);
        let mut child = shell.stdout(Stdio::piped()).spawn().unwrap();
        crate::support::first_bytes::<3>(&mut child);
        let open = |pid: u32| {
            let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
            let mut links = links.filter_map(|link| fs::read_link(link.path()).ok());
            links.any(|target| target == secret.path())
        };
        let (ours, theirs) = (open(child.id()), open(children_of(child.id())[0]));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((ours, theirs), (true, false));
    }
}
