//! What ends a command from outside asks it first, waits as long as was said, and loses nothing that was printed by then.

use std::io::Read;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::support::{
    Image, Rdvm, Run, any_engine, busybox, children_of, engines, eventually, first_bytes, is_alive,
    send, sized, while_sleeping,
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
