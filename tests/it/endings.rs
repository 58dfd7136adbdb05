//! Every way a run can end has one exit code and one word in the report, and leaves nothing behind.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{
    Image, RDVM, Rdvm, Run, any_engine, busybox, children_of, engines, eventually, first_bytes,
    is_alive, large_image, left_out, note_run, send, while_reading, while_sleeping,
};

/// Runs with a report; gives the run, the outcome's name and the whole report.
fn reported(
    engine: &str,
    options: &[&str],
    image: &Path,
    command: &[&str],
) -> (Run, String, serde_json::Value) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("report.json");
    let mut rdvm = Rdvm::on(engine).option("--report").option(&path);
    for option in options {
        rdvm = rdvm.option(option);
    }
    let run = rdvm.image(image).command(command).run();
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(
        report["exit_code"].as_i64(),
        run.0.status.code().map(i64::from),
        "{report}"
    );
    crate::support::schema::conforms(&report);
    let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(
        files.len(),
        1,
        "something was left beside the report: {files:?}"
    );
    let outcome = report["outcome"].as_str().unwrap().to_owned();
    (run, outcome, report)
}

fn sh(engine: &str, options: &[&str], script: &str) -> (Run, String) {
    let (run, outcome, _) = reported(engine, options, busybox().path(), &["sh", "-c", script]);
    (run, outcome)
}

#[test]
fn exit_codes_are_the_commands_own() {
    // All 256 are tried on rdinit alone, in init.rs; these pass the whole path.
    for engine in engines() {
        for code in [0, 125, 255] {
            let (run, outcome) = sh(engine, &[], &format!("exit {code}"));
            run.exits(code);
            assert_eq!(outcome, "exited");
        }
    }
}

#[test]
fn a_killed_command_exits_with_128_plus_the_signal() {
    // All that are deadly are tried on rdinit alone, in init.rs.
    for engine in engines() {
        for signal in [9, 34] {
            let (run, outcome) = sh(engine, &[], &format!("kill -{signal} $$"));
            run.exits(128 + signal).says_only("");
            assert_eq!(outcome, "killed");
        }
    }
}

#[test]
fn what_is_not_found_is_127_and_what_cannot_run_is_126() {
    let image = Image::busybox()
        .file("data", 0o644, "text")
        .file("garbage", 0o755, [1, 2, 3, 4])
        .file("orphan", 0o755, "#!/nowhere/sh\n");
    let cases = [
        (
            &["no-such-command"][..],
            127,
            "not-found",
            "not found in the image",
        ),
        (
            &["/no/such/file"],
            127,
            "not-found",
            "/no/such/file: not found",
        ),
        (&[""], 127, "not-found", "not found"),
        (&["/data"], 126, "cannot-run", "Permission denied"),
        (&["/bin"], 126, "cannot-run", "Permission denied"),
        (&["/garbage"], 126, "cannot-run", "Exec format error"),
        (
            &["/orphan"],
            126,
            "cannot-run",
            "its interpreter or dynamic loader is not in the image",
        ),
    ];
    for engine in any_engine() {
        for (command, code, outcome, words) in cases {
            let (run, seen, _) = reported(engine, &[], image.path(), command);
            run.exits(code).prints("").says(words);
            assert_eq!(seen, outcome, "{command:?}");
        }
    }
}

#[test]
fn an_image_without_init_needs_a_command() {
    for engine in any_engine() {
        let (run, outcome, _) = reported(engine, &[], busybox().path(), &[]);
        run.exits(127)
            .says("rdvm: /init: not in the image; name a command after IMAGE");
        assert_eq!(outcome, "not-found");
    }
}

#[test]
fn what_the_image_tells_is_told_before_anything_boots_or_is_packed() {
    // Nothing can boot here: the engine is a program that does nothing, and a kernel is only looked at.
    let image = Image::busybox()
        .file("data", 0o644, "text")
        .file("opt/tool", 0o755, "#!/bin/sh\necho tool\n")
        .link("../opt/tool", "bin/alias");
    let run = |options: &[&str], command: &[&str]| {
        let rdvm = Rdvm::verb("run").option("--engine").option("qemu");
        let rdvm = rdvm.with_variable("RDVM_QEMU", "/bin/false");
        let rdvm = options.iter().fold(rdvm, Rdvm::option);
        rdvm.image(image.path()).command(command).run()
    };
    let absent = "nonsense: not found in the image";
    for options in [
        &[][..],
        &["--dry-run"],
        &["-e", "PATH=/opt"],
        &["-w", "/opt"],
    ] {
        run(options, &["nonsense"]).exits(127).says(absent);
    }
    run(&["-e", "PATH=/opt"], &["alias"]).exits(127);
    run(&[], &["/data"]).exits(126).says("Permission denied");
    run(&[], &[]).exits(127).says("name a command after IMAGE");
    let late = run(&[], &["--memory", "1g", "alias"]).exits(127);
    late.says("--memory: not found in the image; options of rdvm stand before IMAGE");
    let dir = tempfile::tempdir().unwrap();
    let (report, out) = (dir.path().join("report"), dir.path().join("out"));
    let out = format!("/x:{}", out.display());
    let options = ["--report", report.to_str().unwrap(), "--copy-out", &out];
    run(&options, &["nonsense"]).exits(127);
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    crate::support::schema::conforms(&report);
    assert_eq!(report["outcome"], "not-found");
    assert_eq!(
        report["copied"].as_array().map(Vec::len),
        Some(1),
        "{report}"
    );
    // What may be there is left to the guest, which this engine never starts.
    let copy = format!("{}:/bin/nonsense", image.path().join("opt/tool").display());
    run(&["--copy-in", &copy], &["nonsense"]).exits(125);
    run(&["-e", "PATH=:/bin", "-w", "/opt"], &["tool"]).exits(125);
    run(&[], &["alias"]).exits(125);
}

#[test]
fn orphans_end_with_the_command_and_what_they_wrote_before_is_kept() {
    for engine in any_engine() {
        let script =
            "(trap '' TERM HUP; echo orphan; exec sleep 1000) & sleep 1; echo main; exit 4";
        let started = Instant::now();
        let (run, outcome) = sh(engine, &[], script);
        run.exits(4).prints("orphan\nmain\n");
        assert_eq!(outcome, "exited");
        assert!(
            started.elapsed() < Duration::from_secs(500),
            "the orphan was waited for"
        );
    }
}

#[test]
fn a_command_that_forks_as_it_exits_is_over_when_it_has_exited() {
    for engine in any_engine() {
        let script = "f() { sleep 0.01; f & }; f & f & f & exit 6";
        sh(engine, &[], script).0.exits(6);
    }
}

#[test]
fn a_command_that_kills_everything_it_may_still_has_an_exit_code() {
    for engine in any_engine() {
        let (run, outcome) = sh(engine, &[], "sleep 100 & kill -9 -1; echo alive; exit 5");
        run.exits(5).prints("alive\n");
        assert_eq!(outcome, "exited");
        let (run, _) = sh(engine, &[], "kill -9 1; kill -15 1; echo still; exit 5");
        run.exits(5).prints("still\n");
    }
}

#[test]
fn a_guest_that_resets_the_machine_has_no_exit_code_and_that_is_125() {
    for engine in engines() {
        for how in ["reboot -f", "poweroff -f", "halt -f"] {
            // A machine that is gone sends nothing: PID 1 gets time to pass the line on.
            let script = format!("echo before; sleep 1; busybox {how}; sleep 100");
            let (run, outcome) = sh(engine, &[], &script);
            let run = run.exits(125).prints("before\n");
            assert_eq!(outcome, "machine-died", "{how}");
            if how == "halt -f" {
                run.says("the machine halted for good before it ended; there is no exit status");
            }
        }
    }
}

/// A PID 1 of one's own, which says nothing by which rdvm would know it.
#[test]
fn a_machine_that_stops_for_good_before_the_command_runs_ends_the_run_with_a_reason() {
    for engine in engines() {
        let halts = Image::busybox().file("stop", 0o755, "#!/bin/sh\nexec busybox halt -f\n");
        let dies = Image::busybox().file("stop", 0o755, "#!/bin/sh\nexit 0\n");
        let died = "panic before the command ran: Attempted to kill init! exitcode=0x00000000;";
        for (image, append, words) in [
            (
                &halts,
                "",
                "machine: halted for good before the command ran",
            ),
            // The kernel stays where it panicked, computing.
            (&dies, "panic=0", died),
        ] {
            let rdinit = image.path().join("stop");
            let options = ["--append", append, "--rdinit", rdinit.to_str().unwrap()];
            let (run, _, _) = reported(engine, &options, image.path(), &[]);
            run.exits(125).prints("").says(words);
        }
    }
}

/// It sleeps as long as a machine that has halted is given, and is held up by signals as well.
#[test]
fn a_machine_that_sleeps_or_was_stopped_is_not_taken_for_one_that_has_halted() {
    for engine in engines() {
        let sleeps = "#!/bin/sh\nbusybox mount -t devtmpfs dev /dev\nbusybox sleep 12\necho 7 >/dev/ttyS2\nexec busybox sleep 1000\n";
        let image = Image::busybox()
            .directory("dev", 0o755)
            .file("sleeps", 0o755, sleeps);
        let rdinit = image.path().join("sleeps");
        let own = Rdvm::on(engine).option("--rdinit").option(&rdinit);
        let own = own.image(image.path()).spawn();
        let mut child = Rdvm::on(engine).image(busybox().path());
        child = child.option("-q");
        let mut child = child.sh("echo on; sleep 12; exit 8").spawn();
        first_bytes::<3>(&mut child);
        let processes = || children_of(child.id()).into_iter().chain([child.id()]);
        for process in processes() {
            send(process, "STOP");
            std::thread::sleep(Duration::from_secs(7));
            send(process, "CONT");
        }
        Run(child.wait_with_output().unwrap())
            .exits(8)
            .says_only("");
        Run(own.wait_with_output().unwrap()).exits(7);
    }
}

#[test]
fn a_kernel_panic_is_125_with_the_kernels_words() {
    for engine in engines() {
        let (run, outcome) = sh(
            engine,
            &["--timeout", "60s"],
            "echo before; sleep 1; echo c > /proc/sysrq-trigger; sleep 100",
        );
        run.exits(125)
            .prints("before\n")
            .says("rdvm: guest kernel: panic while the command ran: ");
        assert_eq!(outcome, "kernel-panic");
    }
}

#[test]
fn a_command_that_exhausts_memory_is_killed_and_the_report_says_why() {
    for engine in engines() {
        let (run, outcome, report) = reported(
            engine,
            &["--timeout", "120s"],
            busybox().path(),
            &["busybox", "tail", "/dev/zero"],
        );
        run.exits(137).says("the guest ran out of memory");
        assert_eq!(outcome, "out-of-memory");
        assert!(report["guest"]["oom_kills"].as_u64() >= Some(1), "{report}");
    }
}

#[test]
fn a_command_that_fills_the_disk_is_told_so_or_killed_and_the_report_comes() {
    for engine in any_engine() {
        let script = "dd if=/dev/zero of=/big bs=1M; echo code $?";
        let (run, outcome) = sh(engine, &["--timeout", "120s"], script);
        run.exits(0)
            .prints("code 1\n")
            .says("No space left on device");
        assert_eq!(outcome, "exited");
    }
}

#[test]
fn a_fork_bomb_is_contained_and_ends_with_the_deadline() {
    for engine in any_engine() {
        let started = Instant::now();
        let (run, _) = sh(
            engine,
            &["--timeout", "8s"],
            "b() { b | b & }; b; sleep 1000",
        );
        assert!(
            [124, 137].contains(&run.0.status.code().unwrap()),
            "{:?}",
            run.0.status
        );
        assert!(started.elapsed() < Duration::from_secs(100));
    }
}

#[test]
fn a_command_that_never_ends_is_stopped_at_the_deadline() {
    for engine in engines() {
        let (run, outcome) = sh(engine, &["--timeout", "4s"], "echo on; while :; do :; done");
        run.exits(124).says("when --timeout had passed");
        assert_eq!(outcome, "timed-out");
    }
}

#[test]
fn a_machine_that_never_starts_the_command_is_stopped_at_the_deadline() {
    let init = Image::empty().file("init", 0o755, "#!/bin/sh\nexec /bin/busybox sleep 1000\n");
    let init = init.path().join("init");
    for engine in engines() {
        // A PID 1 that never says anything.
        let options = ["--timeout", "6s", "--rdinit", init.to_str().unwrap()];
        let (run, outcome) = sh(engine, &options, "true");
        run.exits(124).prints("").says("had not started yet");
        assert_eq!(outcome, "timed-out");
    }
}

#[test]
fn a_signal_to_rdvm_stops_the_machine_with_128_plus_its_number() {
    // SIGINT: stopping.rs; SIGTERM: below, where nobody reads.
    for (signal, code) in [("HUP", 129), ("QUIT", 131)] {
        while_sleeping(engines(), |_, child| {
            let machines = children_of(child.id());
            send(child.id(), signal);
            assert_eq!(child.wait().unwrap().code(), Some(code));
            assert!(
                !machines.iter().any(|&pid| is_alive(pid)),
                "a child process is left"
            );
        });
    }
}

/// On KVM: stubs.rs.
#[test]
fn a_signal_or_the_deadline_ends_a_run_whose_image_is_being_written_for_qemu() {
    if !engines().contains(&"qemu") {
        left_out("it is about QEMU alone");
        return;
    }
    let (image, file) = large_image();
    let mut rdvm = Command::new(RDVM);
    rdvm.args([
        "run",
        "--root",
        "initrd",
        "--engine",
        "qemu",
        "--timeout",
        "2s",
    ]);
    rdvm.arg(image.path()).args(["busybox", "true"]);
    for (inject, code, words) in [
        (
            "signal=TERM:when=5",
            143,
            "rdvm: signal 15: the machine was stopped\n",
        ),
        (
            "delay_enter=3000000:when=5",
            124,
            "rdvm: busybox: had not started yet when --timeout had passed; the machine was stopped\n",
        ),
    ] {
        let (run, reads) = while_reading(&file, inject, &rdvm);
        run.exits(code).prints("").says_only(words);
        assert!(reads < 64, "{inject}: {reads} of 128");
    }
}

#[test]
fn a_signal_gets_through_while_nobody_reads_the_output() {
    for engine in engines() {
        let mut child = Rdvm::on(engine).image(busybox().path()).sh("yes").spawn();
        first_bytes::<1>(&mut child);
        std::thread::sleep(Duration::from_secs(1));
        send(child.id(), "TERM");
        eventually("rdvm ends", || child.try_wait().unwrap().is_some());
        assert_eq!(child.wait().unwrap().code(), Some(143));
    }
}

#[test]
fn when_rdvm_is_killed_the_machine_dies_with_it() {
    while_sleeping(engines(), |engine, child| {
        let machines = children_of(child.id());
        assert!(
            engine != "qemu" || !machines.is_empty(),
            "QEMU is a child process"
        );
        child.kill().unwrap();
        child.wait().unwrap();
        eventually("the machine is gone", || {
            !machines.iter().any(|&pid| is_alive(pid))
        });
    });
}

#[test]
fn a_reader_that_goes_away_ends_the_run_like_any_pipe() {
    for engine in engines() {
        let mut child = Rdvm::on(engine).image(busybox().path()).sh("yes").spawn();
        let line = first_bytes::<2>(&mut child);
        assert_eq!(&line, b"y\n");
        drop(child.stdout.take());
        eventually("rdvm ends", || child.try_wait().unwrap().is_some());
        assert_eq!(child.wait().unwrap().code(), Some(141));
    }
}

#[test]
fn a_full_disk_under_stdout_is_an_error_and_not_silence() {
    for engine in any_engine() {
        note_run(engine);
        let full = std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let output = Command::new(RDVM)
            .args(["run", "--engine", engine])
            .arg(busybox().path())
            .args(["busybox", "echo", "x"])
            .stdout(full)
            .output()
            .unwrap();
        Run(output)
            .exits(125)
            .says("rdvm: standard output: No space left on device");
    }
}

#[test]
fn an_own_init_is_the_images_where_it_has_one_of_that_name() {
    let script = include_bytes!("../../scripts/rdinit-cookbook.sh");
    let image = Image::busybox().directory("dev", 0o755);
    let image = image.file("init", 0o755, "#!/bin/sh\nexit 42\n");
    let image = image.file("sbin/own-init", 0o755, script);
    for engine in any_engine() {
        let run = Rdvm::on(engine).option("--rdinit").option("/sbin/own-init");
        run.image(image.path()).run().exits(42).says_only("");
    }
    // Both have it; an engine that does nothing is enough to see which is taken.
    let run = Rdvm::verb("run").option("--engine").option("qemu");
    let run = run.with_variable("RDVM_QEMU", "/bin/false");
    let run = run.option("--rdinit").option("/bin/sh").image(image.path());
    run.run()
        .exits(125)
        .says("rdvm: --rdinit: /bin/sh: taken from the image");
}

#[test]
fn a_users_own_init_reports_the_code_as_text() {
    let script = include_bytes!("../../scripts/rdinit-cookbook.sh");
    let image = Image::busybox().directory("dev", 0o755).file(
        "init",
        0o755,
        "#!/bin/sh\necho from init\nexit 42\n",
    );
    let init = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(init.path(), script).unwrap();
    for engine in engines() {
        let run = Rdvm::on(engine)
            .option("--rdinit")
            .option(init.path())
            .image(image.path())
            .run();
        let run = run.exits(42);
        assert_eq!(run.stdout().replace('\r', ""), "from init\n");
        // One that says nothing is an error, whatever its own end looks like.
        let mute = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(mute.path(), "#!/bin/sh\n/bin/busybox reboot -f\n").unwrap();
        let run = Rdvm::on(engine)
            .option("--rdinit")
            .option(mute.path())
            .image(image.path())
            .run();
        run.exits(125).says("rdvm: ");
    }
}
