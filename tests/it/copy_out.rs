//! Files out: what a command leaves behind arrives whole or not at all, on every engine.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::support::{
    RDVM, Rdvm, any_engine, busybox, children_of, engines, eventually, is_alive, note_run, schema,
    send, sized,
};

/// A run with these `--copy-out`s.
fn copying(engine: &str, wishes: &[(&str, &Path)]) -> Rdvm {
    let run = Rdvm::on(engine).image(busybox().path());
    wishes.iter().fold(run, |run, (guest, host)| {
        run.option("--copy-out")
            .option(format!("{guest}:{}", host.display()))
    })
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_tree_comes_out_as_it_was_left_also_by_a_command_that_fails() {
    const SCRIPT: &str = "umask 022; mkdir -p /out/d/empty && cd /out
        i=0; while [ $i -lt 256 ]; do printf \"\\\\$(printf %o $i)\"; i=$((i+1)); done > bytes
        cp bytes d/exec; chmod 4751 d/exec; ln -s ../bytes d/link; ln -s nowhere dangling
        mkfifo fifo; : > 'a b'; chmod 0 'a b'; chown 77:88 bytes
        touch -d @1000000000 bytes d/exec 'a b'; touch -h -d @1100000000 d/link
        chmod 1777 d; touch -d @1200000000 d; cd /work; cp /out/bytes own; cat own; exit 3";
    for engine in engines() {
        let host = TempDir::new().unwrap();
        let new = host.path().join("new");
        let wishes: [(&str, &Path); 2] = [("/out", &new), ("own", host.path())];
        copying(engine, &wishes)
            .option("-w")
            .option("/work")
            .sh(SCRIPT)
            .run()
            .exits(3)
            .prints((0..=255).collect::<Vec<u8>>());
        assert_eq!(names(host.path()), ["new", "own"]);
        assert_eq!(names(&new), ["a b", "bytes", "d", "dangling"]);
        assert_eq!(names(&new.join("d")), ["empty", "exec", "link"]);
        let all_bytes: Vec<u8> = (0..=255).collect();
        for path in ["bytes", "d/exec", "../own"] {
            assert!(fs::read(new.join(path)).unwrap() == all_bytes, "{path}");
        }
        let target = |path: &str| fs::read_link(new.join(path)).unwrap();
        assert_eq!(target("d/link").as_os_str(), "../bytes");
        assert_eq!(target("dangling").as_os_str(), "nowhere");
        for (path, mode, time) in [
            ("bytes", 0o644, 1_000_000_000),
            ("d/exec", 0o751, 1_000_000_000),
            ("a b", 0, 1_000_000_000),
            ("d", 0o777, 1_200_000_000),
            ("d/link", 0o777, 1_100_000_000),
        ] {
            let meta = fs::symlink_metadata(new.join(path)).unwrap();
            assert_eq!((meta.mode() & 0o7777, meta.mtime()), (mode, time), "{path}");
            assert_eq!(meta.uid(), rustix::process::geteuid().as_raw(), "{path}");
        }
    }
}

#[test]
fn what_is_missing_has_a_line_of_its_own_and_the_code_is_the_commands() {
    for engine in any_engine() {
        for (code, then) in [(0, 125), (7, 7)] {
            let host = TempDir::new().unwrap();
            let (nothing, file) = (host.path().join("nothing"), host.path().join("file"));
            let report = host.path().join("report");
            let wishes: [(&str, &Path); 3] = [
                ("no\u{1b}", &nothing),
                ("/file", &file),
                ("/dev/null", &nothing),
            ];
            copying(engine, &wishes)
                .option("--report")
                .option(&report)
                .sh(&format!("echo content > /file; exit {code}"))
                .run()
                .exits(then)
                .says_only(
                    "rdvm: --copy-out: no\\u{1b}: not there when the command had ended (No such file or directory)\n\
                     rdvm: --copy-out: /dev/null: neither file nor directory; only those can be copied out\n",
                );
            assert_eq!(names(host.path()), ["file", "report"]);
            assert_eq!(fs::read(&file).unwrap(), b"content\n");
            let report: serde_json::Value =
                serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
            assert_eq!(report["code"], code);
            assert_eq!(report["copied"][1]["files"], 1);
            assert_eq!(report["copied"][1]["bytes"], 8);
            assert!(report["copied"][1]["error"].is_null());
            let error = report["copied"][0]["error"].as_str().unwrap();
            assert!(error.starts_with("not there"), "{error}");
        }
    }
}

#[test]
fn what_is_there_already_is_kept_unless_a_file_of_its_name_comes() {
    for engine in any_engine() {
        let host = TempDir::new().unwrap();
        let old = host.path().join("old");
        fs::create_dir_all(old.join("d/kept")).unwrap();
        fs::write(old.join("d/file"), "old").unwrap();
        fs::write(old.join("other"), "old").unwrap();
        fs::create_dir_all(host.path().join("in the way/file")).unwrap();
        let deep = host.path().join("made/on the way/");
        let wishes: [(&str, &Path); 3] = [
            ("/tree", &old),
            ("/tree/d", &host.path().join("in the way")),
            ("/tree/d", &deep),
        ];
        copying(engine, &wishes)
            .sh("mkdir -p /tree/d; echo new > /tree/d/file; echo new > /tree/d/more; exit 1")
            .run()
            .exits(1)
            .says("in the way: file is a directory and what came is none, so nothing was put into position");
        assert_eq!(names(host.path()), ["in the way", "made", "old"]);
        assert_eq!(names(&host.path().join("in the way")), ["file"]);
        assert_eq!(names(&deep.join("d")), ["file", "more"]);
        assert_eq!(names(&old), ["d", "other"]);
        assert_eq!(names(&old.join("d")), ["file", "kept", "more"]);
        assert_eq!(fs::read(old.join("d/file")).unwrap(), b"new\n");
        assert_eq!(fs::read(old.join("other")).unwrap(), b"old");
    }
}

#[test]
fn more_than_the_limit_is_not_received() {
    for engine in any_engine() {
        let host = TempDir::new().unwrap();
        let (small, large) = (host.path().join("small"), host.path().join("large"));
        let wishes: [(&str, &Path); 3] =
            [("/small", &small), ("/large", &large), ("/small", &large)];
        copying(engine, &wishes)
            .option("--copy-out-limit")
            .option("64k")
            .sh("head -c 60000 /dev/zero > /small; head -c 6000 /dev/zero > /large")
            .run()
            .exits(125)
            .says_only(
                "rdvm: --copy-out: /large: more than 64 KiB in all, which is the limit; allow more with --copy-out-limit\n\
                 rdvm: --copy-out: /small: more than 64 KiB in all, which is the limit; allow more with --copy-out-limit\n",
            );
        assert_eq!(names(host.path()), ["small"]);
        assert_eq!(fs::metadata(&small).unwrap().len(), 60_000);
    }
}

#[test]
fn files_come_out_after_the_time_is_up_too() {
    for engine in engines() {
        let host = TempDir::new().unwrap();
        let file = host.path().join("file");
        copying(engine, &[("/file", &file)])
            .option("--timeout")
            .option(sized("5s", "15s"))
            .sh("echo content > /file; trap '' TERM; while :; do sleep 1; done")
            .run()
            .exits(124);
        assert_eq!(fs::read(&file).unwrap(), b"content\n");
    }
}

#[test]
fn a_large_file_arrives_bit_for_bit() {
    for engine in engines() {
        let host = TempDir::new().unwrap();
        let file = host.path().join("file");
        let size = sized(64 << 20, 128 << 10);
        let run = copying(engine, &[("/file", &file)])
            .option("-m")
            .option("512m")
            .sh(&format!(
                "head -c {size} /dev/urandom > /file; sha256sum < /file"
            ))
            .run()
            .exits(0);
        let content = fs::read(&file).unwrap();
        assert_eq!(content.len(), size);
        let sum: String = Sha256::digest(&content)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(run.stdout(), format!("{sum}  -\n"));
    }
}

#[test]
fn a_place_that_cannot_be_written_to_is_told_before_anything_boots() {
    let host = TempDir::new().unwrap();
    let place = host.path().join("nowhere/new");
    for engine in any_engine() {
        copying(engine, &[("/file", &place)])
            .sh("echo ran")
            .run()
            .exits(125)
            .prints("")
            .says_only(&format!(
                "rdvm: --copy-out: {}: its directory is not there; make it, or end HOST in a slash to have it made\n",
                place.display()
            ));
    }
}

#[test]
fn a_link_that_leads_out_is_left_out_and_named_or_kept_as_it_is() {
    const SCRIPT: &str = "mkdir -p /out/d; echo content > /out/d/file; cd /out
        ln -s d/file fine; ln -s /etc/passwd absolute; ln -s d/../x behind; ln -s ../../x d/up";
    for engine in any_engine() {
        let host = TempDir::new().unwrap();
        let (new, report) = (host.path().join("new"), host.path().join("report"));
        let run = |options: &[&str], code: i32| {
            let rdvm = copying(engine, &[("/out", &new)]).option("--report");
            let rdvm = rdvm.option(&report);
            let rdvm = options
                .iter()
                .fold(rdvm, |rdvm, option| rdvm.option(option));
            rdvm.sh(&format!("{SCRIPT}; exit {code}")).run()
        };
        for (code, then) in [(0, 125), (7, 7)] {
            run(&[], code).exits(then).says_only(
                "rdvm: --copy-out: /out: left out links that lead out of it: absolute -> /etc/passwd, behind -> d/../x, \
                 d/up -> ../../x; all else is there, and --copy-links keep copies links as they are\n",
            );
            assert_eq!(names(&new), ["d", "fine"]);
            assert_eq!(names(&new.join("d")), ["file"]);
            assert_eq!(fs::read(new.join("fine")).unwrap(), b"content\n");
            let text = fs::read(&report).unwrap();
            let report: serde_json::Value = serde_json::from_slice(&text).unwrap();
            schema::conforms(&report);
            let copied = &report["copied"][0];
            assert_eq!(
                (&copied["links"], &copied["left_out"]),
                (&1.into(), &3.into())
            );
            assert_eq!(copied["links_left_out"], 3);
            assert_eq!(copied["left_links"][1]["path"], "behind");
            assert!(copied["error"].is_null());
        }
        run(&["--copy-links", "keep"], 0).exits(0).says_only("");
        assert_eq!(names(&new), ["absolute", "behind", "d", "fine"]);
        let target = fs::read_link(new.join("absolute")).unwrap();
        assert_eq!(target.as_os_str(), "/etc/passwd");
    }
}

/// The number of the system call that rdvm's writing thread is in.
fn call_of_writer(rdvm: u32) -> Option<u32> {
    let tasks = fs::read_dir(format!("/proc/{rdvm}/task")).ok()?;
    let paths = tasks.filter_map(|task| Some(task.ok()?.path()));
    let mut writers =
        paths.filter(|path| fs::read(path.join("comm")).is_ok_and(|name| name == b"copy-out\n"));
    let call = fs::read_to_string(writers.next()?.join("syscall")).ok()?;
    call.split(' ').next()?.parse().ok()
}

/// The system call hangs as on a file system that does not answer: strace(1) does not let it in.
#[test]
fn ctrl_c_ends_a_run_at_once_whose_files_are_written_where_nothing_answers() {
    // What makes the first directory, and what puts a whole thing into position.
    const CALLS: [(&str, u32); 2] = [("mkdirat", 258), ("renameat2", 316)];
    for engine in engines() {
        for (name, number) in CALLS {
            note_run(engine);
            let host = TempDir::new().unwrap();
            let mut strace = Command::new("strace");
            strace.args(["-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"]);
            strace.arg(format!("--trace={name}"));
            strace.arg(format!("--inject={name}:delay_enter=3600s"));
            strace.args([RDVM, "run", "--engine", engine, "--report"]);
            let report = host.path().join("report");
            strace.arg(&report).arg("--copy-out");
            strace.arg(format!("/file:{}", host.path().join("file").display()));
            strace.arg(busybox().path());
            strace.args(["sh", "-c", "echo content > /file"]);
            strace.stdin(Stdio::null()).stdout(Stdio::null());
            let mut strace = strace.stderr(Stdio::null()).spawn().unwrap();
            let rdvm = || children_of(strace.id()).first().copied();
            let mut hangs = false;
            for _ in 0..6000 {
                std::thread::sleep(std::time::Duration::from_millis(10));
                hangs = rdvm().and_then(call_of_writer) == Some(number);
                if hangs {
                    break;
                }
            }
            assert!(hangs, "{engine}: it never came to {name}");
            let rdvm = rdvm().unwrap();
            send(rdvm, "INT");
            eventually("rdvm ends", || !is_alive(rdvm));
            // It is of no use any more: it waits for the end of the time that the call was to take.
            strace.kill().unwrap();
            strace.wait().unwrap();
            let report = fs::read(report).unwrap();
            let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
            assert_eq!(report["outcome"], "interrupted", "{engine} {name}");
            assert_eq!(report["exit_code"], 130);
            assert!(report["copied"][0]["error"].is_string());
            assert!(!host.path().join("file").exists());
        }
    }
}
