//! What the command writes is what comes out: every byte, in order, while it runs, and nothing else.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::support::{
    Image, RDVM, Rdvm, Run, any_engine, busybox, engines, note_run, schema, sized,
};

#[test]
fn every_byte_value_arrives_on_stdout_and_on_stderr_as_it_was_written() {
    let all: Vec<u8> = (0..=255).chain(b"\r\n\n\r\r\n".iter().copied()).collect();
    let image = Image::busybox().file("bytes", 0o644, &all);
    for engine in engines() {
        let run = Rdvm::on(engine)
            .image(image.path())
            .sh("cat /bytes; cat /bytes >&2")
            .run()
            .exits(0)
            .prints(&all);
        assert_eq!(run.0.stderr, all);
    }
}

#[test]
fn sixty_four_mebibytes_arrive_with_the_same_checksum() {
    // A file that no period of the path's buffers divides, sent 64 times.
    let length = sized(1u32 << 20, 2 << 10);
    let block: Vec<u8> = (0..length / 4)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let image = Image::busybox().file("block", 0o644, &block);
    let mut expected = Sha256::new();
    (0..64).for_each(|_| expected.update(&block));
    let script = "i=0; while [ $i -lt 64 ]; do cat /block; i=$((i+1)); done";
    for engine in engines() {
        let mut child = Rdvm::on(engine).image(image.path()).sh(script).spawn();
        let mut stdout = child.stdout.take().unwrap();
        let (mut seen, mut received, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
        loop {
            let count = stdout.read(&mut buffer).unwrap();
            if count == 0 {
                break;
            }
            seen.update(&buffer[..count]);
            received += count;
        }
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert_eq!(received, 64 * block.len());
        assert!(
            seen.finalize() == expected.clone().finalize(),
            "the contents differ"
        );
    }
}

#[test]
fn output_streams_while_the_command_runs() {
    for engine in engines() {
        let mut child = Rdvm::on(engine)
            .image(busybox().path())
            .sh("echo first; sleep 60")
            .spawn();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "first\n");
        assert!(
            child.try_wait().unwrap().is_none(),
            "the command still sleeps"
        );
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn output_is_kept_when_the_command_fails() {
    for engine in any_engine() {
        let run = Rdvm::on(engine)
            .image(busybox().path())
            .sh("echo out; echo err >&2; exit 9")
            .run();
        run.exits(9).prints("out\n").says_only("err\n");
    }
}

#[test]
fn a_slow_reader_loses_nothing() {
    for engine in engines() {
        let count = sized(300_000, 80_000);
        let script = format!("head -c {count} /dev/zero; echo end");
        let mut child = Rdvm::on(engine).image(busybox().path()).sh(&script).spawn();
        std::thread::sleep(std::time::Duration::from_secs(3));
        let mut all = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), count + 4);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

/// Whatever way the bytes take.
const WAYS: [&str; 2] = ["auto", "uart"];

#[test]
fn much_output_streams_too_and_a_reader_that_sleeps_stops_its_own_stream_only() {
    for engine in engines() {
        for way in WAYS {
            let script = "head -c 20000 /dev/zero; echo mark; head -c 300000 /dev/zero >&2 & sleep 1; echo more; sleep 60";
            let mut child = Rdvm::on(engine)
                .option("--ports")
                .option(way)
                .image(busybox().path())
                .sh(script)
                .spawn();
            let mut seen = vec![1; 20010];
            child
                .stdout
                .as_mut()
                .unwrap()
                .read_exact(&mut seen)
                .unwrap();
            assert!(seen.ends_with(b"\0mark\nmore\n"), "{way}");
            assert!(child.try_wait().unwrap().is_none(), "it still sleeps");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

#[test]
fn what_was_printed_arrives_although_the_machine_has_died() {
    for engine in engines() {
        let count = 900_000;
        let script = format!("head -c {count} /dev/zero; sleep 1; reboot -f; sleep 60");
        let mut child = Rdvm::on(engine).image(busybox().path()).sh(&script).spawn();
        // Nobody reads before it is dead.
        std::thread::sleep(std::time::Duration::from_secs(sized(4, 12)));
        let mut all = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), count);
        assert_eq!(child.wait().unwrap().code(), Some(125));
    }
}

#[test]
fn both_ways_bring_the_same_bytes_and_lines_that_are_short() {
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo end >&2";
    let expected: String = (0..3000).map(|at| format!("line {at}\n")).collect();
    for engine in any_engine() {
        for way in WAYS {
            let run = Rdvm::on(engine)
                .option("--ports")
                .option(way)
                .image(busybox().path())
                .sh(script)
                .run();
            run.exits(0).prints(expected.as_str()).says_only("end\n");
        }
    }
}

#[test]
fn stdout_is_no_terminal_to_the_command() {
    for engine in any_engine() {
        let script = "[ -t 1 ] || [ -t 2 ] || [ -t 0 ] || echo none";
        Rdvm::on(engine)
            .image(busybox().path())
            .sh(script)
            .run()
            .exits(0)
            .prints("none\n")
            .says_only("");
    }
}

#[test]
fn standard_input_is_at_its_end() {
    for engine in any_engine() {
        Rdvm::on(engine)
            .image(busybox().path())
            .sh("wc -c")
            .run()
            .exits(0)
            .prints("0\n");
    }
}

#[test]
fn the_kernel_is_quiet_unless_it_is_to_be_shown() {
    for engine in engines() {
        Rdvm::on(engine)
            .image(busybox().path())
            .command(&["busybox", "true"])
            .run()
            .exits(0)
            .prints("")
            .says_only("");
        let shown = Rdvm::on(engine)
            .option("--show-boot")
            .image(busybox().path())
            .command(&["busybox", "true"])
            .run();
        shown.exits(0).prints("").says("Linux version");
    }
}

#[test]
fn the_console_goes_to_a_file_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    for engine in engines() {
        let run = Rdvm::on(engine)
            .option("--console")
            .option(&path)
            .option("--append")
            .option("loglevel=7");
        // A kernel that may speak also does so later, about its clock for example.
        run.image(busybox().path())
            .sh("echo mine >&2")
            .run()
            .exits(0)
            .says("mine\n");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(
            text.contains("Linux version") && text.contains("mine\n"),
            "{text}"
        );
    }
}

#[test]
fn when_the_machine_dies_before_the_command_the_last_console_lines_are_shown() {
    let init = Image::empty().file("init", 0o755, "#!/bin/sh\nexit 3\n");
    for engine in engines() {
        let run = Rdvm::on(engine)
            .option("--rdinit")
            .option(init.path().join("init"));
        let run = run
            .image(busybox().path())
            .command(&["busybox", "true"])
            .run()
            .exits(125)
            .prints("");
        let text = run.stderr();
        assert!(
            text.contains("rdvm: console: ") && text.contains("Kernel panic"),
            "{text}"
        );
        assert!(
            text.lines()
                .last()
                .unwrap()
                .starts_with("rdvm: guest kernel: panic before the command ran"),
            "{text}"
        );
    }
}

/// More than the pipe and rdvm hold while the output is not read.
const FLOOD: usize = 200_000;

#[test]
fn a_console_that_is_not_read_for_a_while_has_a_gap_and_what_comes_after_it() {
    for engine in any_engine() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, report) = (dir.path().join("fifo"), dir.path().join("report"));
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, mode).unwrap();
        // Both ends, so that neither side waits for the other to be opened.
        let mut reader = File::options().read(true).write(true).open(&fifo).unwrap();
        let script = format!(
            "head -c {FLOOD} /dev/zero >&2; echo flooded; read line; echo \"$line\" >&2; exit 3"
        );
        let rdvm = Rdvm::on(engine)
            .option("-i")
            .option("--console")
            .option(&fifo);
        let rdvm = rdvm
            .option("--report")
            .option(&report)
            .stdin(Stdio::piped());
        let mut child = rdvm.image(busybox().path()).sh(&script).spawn();
        // Not to be waited for: all of it comes by the other way as well.
        let mut stderr = child.stderr.take().unwrap();
        let stderr = std::thread::spawn(move || {
            let mut all = Vec::new();
            stderr.read_to_end(&mut all).map(|_| all).unwrap()
        });
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "flooded\n");
        let mut stdin = child.stdin.take().unwrap();
        let reading = std::thread::spawn(move || {
            let (mut seen, mut buffer) = (Vec::new(), [0; 1 << 16]);
            while !seen
                .windows(5)
                .rev()
                .take(1 << 16)
                .any(|text| text == b"late\n")
            {
                let count = reader.read(&mut buffer).unwrap();
                seen.extend_from_slice(&buffer[..count]);
            }
            seen
        });
        // It is read now: what comes from here on has room.
        std::thread::sleep(std::time::Duration::from_secs(1));
        stdin.write_all(b"late\n").unwrap();
        let seen = reading.join().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(3));
        let stderr = stderr.join().unwrap();
        let report: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        schema::conforms(&report);
        let lost = report["console_lost"]["bytes"].as_u64().unwrap();
        let zeros = |bytes: &[u8]| bytes.iter().filter(|&&byte| byte == 0).count();
        assert_eq!(zeros(&stderr), FLOOD);
        assert_eq!(
            zeros(&seen) + lost as usize,
            FLOOD,
            "nothing else is missing"
        );
        assert!(lost > 0);
        let message = report["console_lost"]["message"].as_str().unwrap();
        let said = String::from_utf8_lossy(&stderr).into_owned();
        assert!(said.contains(&format!("rdvm: {message}\n")), "{message}");
    }
}

/// A socket cannot be opened anew, and others may write to it as well.
#[test]
fn a_socket_is_as_good_as_a_pipe_for_both_streams() {
    for engine in any_engine() {
        let run = |script: &str, stdout: UnixStream| {
            note_run(engine);
            let stdout = Stdio::from(OwnedFd::from(stdout));
            let mut rdvm = Command::new(RDVM);
            rdvm.args(["run", "--engine", engine]).arg(busybox().path());
            rdvm.args(["sh", "-c", script]).stdin(Stdio::null());
            rdvm.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap()
        };
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let child = run("head -c 70000 /dev/zero; echo end; exit 3", theirs);
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            ours.read_to_end(&mut all).map(|_| all).unwrap()
        });
        Run(child.wait_with_output().unwrap())
            .exits(3)
            .says_only("");
        let all = reading.join().unwrap();
        assert!(
            all.len() == 70_004 && all.ends_with(b"end\n"),
            "{}",
            all.len()
        );
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        let child = run("yes", theirs);
        Run(child.wait_with_output().unwrap())
            .exits(141)
            .says_only("");
    }
}
