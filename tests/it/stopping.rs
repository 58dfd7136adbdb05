//! What ends a command from outside asks it first, waits as long as was said, and loses nothing that was printed by then.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::support::{
    Image, RDVM, Rdvm, Run, any_engine, busybox, children_of, engines, eventually, first_bytes,
    is_alive, send, sized, while_sleeping,
};

/// Long enough for every machine to have started its command.
fn soon() -> &'static str {
    sized("6s", "20s")
}

/// Runs with a report; gives the run and the outcome's name.
fn reported(engine: &str, options: &[&str], script: &str) -> (Run, String) {
    let report = tempfile::NamedTempFile::new().unwrap();
    let rdvm = Rdvm::on(engine).option("--report").option(report.path());
    let rdvm = options
        .iter()
        .fold(rdvm, |rdvm, option| rdvm.option(option));
    let run = rdvm.image(busybox().path()).sh(script).run();
    (run, outcome(report.path()))
}

/// More seconds than any clock holds.
#[test]
fn a_time_out_may_be_as_long_as_it_likes() {
    const LONG: &str = "10000000000000000000";
    for engine in any_engine() {
        let options = ["--timeout", LONG, "--stop-timeout", LONG];
        let (run, outcome) = reported(engine, &options, "echo on; exit 3");
        run.exits(3).prints("on\n").says_only("");
        assert_eq!(outcome, "exited");
        // Where it is counted from the middle of the run.
        let options = ["--max-output", "1", "--stop-timeout", LONG];
        let (run, outcome) = reported(
            engine,
            &options,
            "trap 'exit 3' TERM; while :; do echo on; done",
        );
        run.exits(153).prints("o");
        assert_eq!(outcome, "output-limit");
    }
}

fn outcome(report: &Path) -> String {
    let text = std::fs::read(report).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&text).unwrap();
    report["outcome"].as_str().unwrap().to_owned()
}

#[test]
fn at_the_deadline_the_command_is_told_and_what_it_then_prints_arrives() {
    for engine in engines() {
        let script =
            "trap 'echo bye; echo err >&2; exit 3' TERM; echo on; while :; do sleep 0.1; done";
        let (run, outcome) = reported(engine, &["--timeout", soon()], script);
        run.exits(124)
            .prints("on\nbye\n")
            .says("err\nrdvm: sh: still ran when --timeout had passed");
        assert_eq!(outcome, "timed-out");
    }
}

#[test]
fn everything_that_the_command_started_is_told_too() {
    for engine in any_engine() {
        let script = "(trap 'echo child; exit' TERM; while :; do sleep 0.1; done) & trap : TERM; wait; wait; echo over";
        let (run, outcome) = reported(engine, &["--timeout", soon()], script);
        run.exits(124).prints("child\nover\n");
        assert_eq!(outcome, "timed-out");
    }
}

#[test]
fn the_command_has_as_long_to_end_as_was_said() {
    for engine in any_engine() {
        let script = "trap 'sleep 4; echo late; exit' TERM; echo on; while :; do sleep 0.1; done";
        for (patience, expected) in [("500ms", "on\n"), ("300s", "on\nlate\n")] {
            let options = ["--timeout", soon(), "--stop-timeout", patience];
            let (run, outcome) = reported(engine, &options, script);
            run.exits(124).prints(expected);
            assert_eq!(outcome, "timed-out");
        }
    }
}

#[test]
fn a_command_that_does_not_listen_goes_with_its_machine() {
    for engine in any_engine() {
        let script = "trap '' TERM INT HUP; echo on; while :; do sleep 0.1; done";
        let (run, outcome) = reported(engine, &["--timeout", soon()], script);
        run.exits(124)
            .prints("on\n")
            .says("rdvm: sh: still ran when --timeout had passed; the machine was stopped");
        assert_eq!(outcome, "timed-out");
    }
}

#[test]
fn a_guest_that_answers_nothing_goes_at_the_deadline() {
    let image = Image::empty().program("hog", "hog");
    for engine in engines() {
        let run = Rdvm::on(engine).option("--timeout").option(soon());
        let run = run.image(image.path()).command(&["/hog"]).run();
        run.exits(124).prints("on\n").says_only(
            "rdvm: /hog: still ran when --timeout had passed; the machine was stopped\n",
        );
    }
}

/// A run whose standard output nobody reads; gives it when the command has begun to print.
fn unread(engine: &str, options: &[&str], script: &str) -> Child {
    let rdvm = Rdvm::on(engine);
    let rdvm = options
        .iter()
        .fold(rdvm, |rdvm, option| rdvm.option(option));
    let mut child = rdvm.image(busybox().path()).sh(script).spawn();
    first_bytes::<1>(&mut child);
    child
}

fn rest(mut child: Child) -> (usize, Option<i32>) {
    let mut rest = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
    (rest.len() + 1, child.wait().unwrap().code())
}

#[test]
fn the_deadline_is_kept_while_nobody_reads_the_output() {
    for engine in engines() {
        let options = ["--timeout", soon(), "--stop-timeout", "1s"];
        for script in ["yes", "trap '' TERM; yes"] {
            let mut child = unread(engine, &options, script);
            let mut ended = false;
            for _ in 0..12 {
                // Ten seconds each.
                ended = ended || patiently(|| child.try_wait().unwrap().is_some());
            }
            assert!(ended, "{script}");
            let (count, code) = rest(child);
            assert_eq!(code, Some(124));
            // What the pipe held is there; its 16 parts need not be full.
            assert!(count > 1 << 15, "{count}");
        }
    }
}

fn patiently(mut condition: impl FnMut() -> bool) -> bool {
    for _ in 0..1000 {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

#[test]
fn output_beyond_the_limit_ends_the_command_and_up_to_it_all_arrives() {
    const LIMIT: usize = 20 << 10;
    for engine in any_engine() {
        let flood = |count: usize, to: &str| format!("head -c {count} /dev/zero {to}");
        let options = ["--max-output", "20k"];
        for to in ["", ">&2"] {
            // Just as much is not too much, and each of the two may be so much.
            let script = format!("echo other {}; {}", other(to), flood(LIMIT, to));
            let (run, outcome) = reported(engine, &options, &script);
            let run = run.exits(0);
            assert_eq!(zeros(&run, to), LIMIT);
            assert_eq!(outcome, "exited");

            let script = format!("{}; sleep 1000", flood(LIMIT + 1, to));
            let (run, outcome) = reported(engine, &options, &script);
            let run = run
                .exits(153)
                .says("rdvm: sh: printed more than --max-output; the machine was stopped");
            assert_eq!(zeros(&run, to), LIMIT);
            assert_eq!(outcome, "output-limit");
        }
        // It is told: here it is the second one that ends it.
        let script = "trap 'exit 3' TERM; while :; do echo twelve bytes; done";
        let (run, outcome) = reported(engine, &options, script);
        let run = run.exits(153);
        assert_eq!(run.0.stdout.len(), LIMIT);
        assert_eq!(outcome, "output-limit");
    }
}

#[test]
fn output_beyond_the_limit_ends_an_init_of_the_users_own_too() {
    let script = "#!/bin/busybox sh\n/bin/busybox mount -t devtmpfs dev /dev\n/bin/busybox yes >/dev/ttyS1\n";
    let image = Image::busybox().directory("dev", 0o755);
    let init = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(init.path(), script).unwrap();
    for engine in any_engine() {
        let run = Rdvm::on(engine)
            .option("--max-output")
            .option("20k")
            .option("--rdinit")
            .option(init.path())
            .image(image.path())
            .run()
            .exits(153);
        assert_eq!(run.0.stdout.len(), 20 << 10);
    }
}

fn other(to: &str) -> &'static str {
    match to {
        "" => ">&2",
        _ => "",
    }
}

fn zeros(run: &Run, to: &str) -> usize {
    let stream = match to {
        "" => &run.0.stdout,
        _ => &run.0.stderr,
    };
    stream.iter().filter(|&&byte| byte == 0).count()
}

#[test]
fn a_reader_that_sleeps_still_gets_all_that_is_below_the_limit() {
    const LIMIT: usize = 100 << 10;
    for engine in engines() {
        let options = ["--max-output", "100k", "--stop-timeout", "100ms"];
        for script in ["yes", "trap '' TERM; yes"] {
            let mut child = unread(engine, &options, script);
            let stdout = child.stdout.as_mut().unwrap();
            // Our pipe fills up, and QEMU's. Then a little room makes rdvm take all of that, which is beyond the limit.
            std::thread::sleep(Duration::from_secs(3));
            let mut seen = vec![0; 8 << 10];
            stdout.read_exact(&mut seen).unwrap();
            std::thread::sleep(Duration::from_secs(1));
            assert!(child.try_wait().unwrap().is_none(), "it waits for us");
            let (count, code) = rest(child);
            assert_eq!((seen.len() + count, code), (LIMIT, Some(153)), "{script}");
        }
    }
}

/// The figure is told and not judged: what it takes depends on what else the host does.
#[test]
fn ctrl_c_leaves_nothing_behind_whatever_goes_on() {
    while_sleeping(engines(), |engine, child| {
        let machines = children_of(child.id());
        let began = Instant::now();
        send(child.id(), "INT");
        assert_eq!(child.wait().unwrap().code(), Some(130));
        eprintln!("{engine}: {:?} from Ctrl-C to the end", began.elapsed());
        assert!(!machines.iter().any(|&pid| is_alive(pid)));
    });
    for engine in engines() {
        // Input waits to be read and output to be taken, and the command would not listen.
        let options = ["-i", "--max-output", "1g", "--timeout", "1h"];
        let rdvm = Rdvm::on(engine);
        let rdvm = options
            .iter()
            .fold(rdvm, |rdvm, option| rdvm.option(option));
        let zero = std::fs::File::open("/dev/zero").unwrap();
        let script = "trap '' INT TERM; yes";
        let mut child = rdvm.stdin(zero).image(busybox().path()).sh(script).spawn();
        let stdout = child.stdout.as_mut().unwrap();
        stdout.read_exact(&mut [0]).unwrap();
        let machines = children_of(child.id());
        let began = Instant::now();
        send(child.id(), "INT");
        eventually("rdvm ends", || child.try_wait().unwrap().is_some());
        eprintln!(
            "{engine}: {:?} from Ctrl-C to the end of a flood",
            began.elapsed()
        );
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert!(!machines.iter().any(|&pid| is_alive(pid)));
    }
}

/// Reads a line that the command prints.
fn line(child: &mut Child) -> String {
    let stdout = child.stdout.as_mut().unwrap();
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        assert!(stdout.read(&mut byte).unwrap() > 0, "it ended: {line:?}");
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// Runs a script, and waits for the line that it prints first.
fn on(engine: &str, options: &[&str], script: &str) -> Child {
    let rdvm = Rdvm::on(engine);
    let rdvm = options
        .iter()
        .fold(rdvm, |rdvm, option| rdvm.option(option));
    let mut child = rdvm.image(busybox().path()).sh(script).spawn();
    assert_eq!(line(&mut child), "on\n");
    child
}

#[test]
fn a_signal_to_rdvm_is_the_commands_and_so_is_the_exit_code() {
    for engine in engines() {
        let script = "for s in HUP USR1 USR2 INT; do trap \"echo $s\" $s; done; trap 'echo TERM; exit 9' TERM
            echo on; while :; do sleep 0.1; done";
        let mut child = on(engine, &["--stop-timeout", "1h"], script);
        for signal in ["HUP", "USR1", "USR2", "USR1"] {
            send(child.id(), signal);
            assert_eq!(line(&mut child), format!("{signal}\n"));
        }
        send(child.id(), "TERM");
        assert_eq!(line(&mut child), "TERM\n");
        assert_eq!(child.wait().unwrap().code(), Some(9));
    }
}

#[test]
fn a_program_without_a_shell_and_its_children_get_signals_too() {
    let image = Image::empty().program("signals", "signals");
    for engine in any_engine() {
        let mut child = Rdvm::on(engine)
            .image(image.path())
            .command(&["/signals"])
            .spawn();
        assert_eq!(line(&mut child), "on\n");
        for (signal, number) in [("USR2", "12\n"), ("INT", "2\n")] {
            send(child.id(), signal);
            assert_eq!(line(&mut child), number);
        }
        // It has the time of --stop-timeout from the first one on, and a second one would end the machine.
        let (_, code) = rest(child);
        assert_eq!(code, Some(130));
        let mut child = Rdvm::on(engine)
            .image(image.path())
            .command(&["/signals"])
            .spawn();
        assert_eq!(line(&mut child), "on\n");
        send(child.id(), "TERM");
        assert_eq!(line(&mut child), "15\n");
        assert_eq!(child.wait().unwrap().code(), Some(7));
    }
}

#[test]
fn a_second_signal_ends_a_machine_whose_command_does_not_listen() {
    for engine in any_engine() {
        let script = "trap '' TERM INT; echo on; while :; do sleep 0.1; done";
        for (first, second, code) in [
            ("TERM", "TERM", 143),
            ("INT", "TERM", 143),
            ("TERM", "INT", 130),
        ] {
            let mut child = on(engine, &["--stop-timeout", "1h"], script);
            send(child.id(), first);
            std::thread::sleep(Duration::from_secs(1));
            assert!(child.try_wait().unwrap().is_none(), "it has its time");
            send(child.id(), second);
            eventually("rdvm ends", || child.try_wait().unwrap().is_some());
            assert_eq!(child.wait().unwrap().code(), Some(code));
        }
        // Or nobody is sent a second one.
        let mut child = on(engine, &["--stop-timeout", "1s"], script);
        send(child.id(), "TERM");
        eventually("rdvm ends", || child.try_wait().unwrap().is_some());
        assert_eq!(child.wait().unwrap().code(), Some(143));
    }
}

#[test]
fn a_kernel_that_hangs_goes_when_the_command_has_had_its_time() {
    let image = Image::empty().program("hog", "hog");
    for engine in any_engine() {
        let rdvm = Rdvm::on(engine).option("--stop-timeout").option("1s");
        let mut child = rdvm.image(image.path()).command(&["/hog"]).spawn();
        assert_eq!(line(&mut child), "on\n");
        send(child.id(), "TERM");
        eventually("rdvm ends", || child.try_wait().unwrap().is_some());
        assert_eq!(child.wait().unwrap().code(), Some(143));
    }
}

/// timeout(1) signals its process group, and a service manager all processes of the service: QEMU is among those.
#[test]
fn who_signals_all_processes_reaches_the_command_alone() {
    for engine in any_engine() {
        let script = "trap 'echo bye; exit 3' TERM; echo on; while :; do sleep 0.1; done";
        let mut child = on(engine, &["--stop-timeout", "1h"], script);
        for pid in children_of(child.id()).into_iter().chain([child.id()]) {
            send(pid, "TERM");
        }
        assert_eq!(line(&mut child), "bye\n");
        assert_eq!(child.wait().unwrap().code(), Some(3));
        let mut timeout = Command::new("timeout");
        timeout.arg(soon()).arg(RDVM);
        timeout.args(["run", "--engine", engine, "--stop-timeout", "1h"]);
        timeout.arg(busybox().path()).args(["sh", "-c", script]);
        let output = timeout.output().unwrap();
        assert_eq!(output.stdout, b"on\nbye\n", "{output:?}");
        // Its own code; busybox's has the program's.
        let code = output.status.code();
        assert!(matches!(code, Some(124 | 3)), "{output:?}");
    }
}

#[test]
fn files_are_copied_out_when_a_signal_has_ended_the_command() {
    let out = tempfile::tempdir().unwrap();
    for engine in any_engine() {
        // The second one does not listen, and is killed when it has had its time.
        for (name, trap, code) in [("asked", "exit 4", 4), ("killed", "", 137)] {
            let copy = format!("/kept:{}", out.path().join(name).display());
            let options = ["--copy-out", &copy, "--stop-timeout", "1s"];
            let script = format!(
                "trap '{trap}' TERM; echo {name} >/kept; echo on; while :; do sleep 0.1; done"
            );
            let mut child = on(engine, &options, &script);
            send(child.id(), "TERM");
            assert_eq!(child.wait().unwrap().code(), Some(code));
            let kept = std::fs::read_to_string(out.path().join(name)).unwrap();
            assert_eq!(kept, format!("{name}\n"));
        }
    }
}
