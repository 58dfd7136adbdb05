//! Many runs of one image at the same time: each has what is its own, and the image stays what it is.
//!
//! They share the host's page cache: of a directory's files, of an archive's kept image, of the kernel,
//! of rdvm and QEMU. What is written into a guest's RAM is its own: the initrd is copied there, since the guest's
//! kernel unpacks and then frees it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use sha2::{Digest, Sha256};

use crate::kept::{has_strace, kernel, settle};
use crate::support::{Image, RDVM, Run, any_engine, engines, note_run, sized};

/// What a small machine takes on the host, with QEMU: RAM that is used, and QEMU itself. 200 were seen to take 65 MiB each
/// by what they have for themselves and their share of the rest (PSS), one of that rdvm.
const MACHINE_MIB: u64 = 90;

/// How many boot at the same time; those before run on.
const BOOTING: usize = 16;

/// How many: as many as were asked for, or some that fit into the memory that is left.
fn count() -> usize {
    let wanted = std::env::var("RDVM_MANY").ok();
    let wanted = wanted.map_or_else(|| sized(8, 4), |many| many.parse().unwrap());
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap();
    let line = meminfo
        .lines()
        .find(|line| line.starts_with("MemAvailable:"));
    let kib: u64 = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let fit = (kib / 1024 / MACHINE_MIB).max(1) as usize;
    if fit < wanted {
        eprintln!(
            "{fit} at once instead of {wanted}: {} MiB are available",
            kib / 1024
        );
    }
    fit.min(wanted)
}

/// What there is to know of everything below a directory: inodes, modes, owners, bytes, and when it was changed. Of a cache
/// without the last: a file's time is when it was used.
fn state(dir: &Path, is_cache: bool) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let facts = path.symlink_metadata().unwrap();
        let bytes = match facts.is_file() {
            true => Sha256::digest(fs::read(&path).unwrap()).to_vec(),
            false => Vec::new(),
        };
        let changed = (!is_cache).then(|| (facts.mtime(), facts.mtime_nsec()));
        let who = (
            facts.ino(),
            facts.mode(),
            facts.uid(),
            facts.gid(),
            facts.size(),
        );
        all.insert(
            path.to_str().unwrap().to_owned(),
            format!("{who:?} {changed:?} {bytes:x?}"),
        );
        if facts.is_dir() {
            all.extend(state(&path, is_cache));
        }
    }
    all
}

/// A run that has written to its image and now waits for the end of its input.
struct Waiting {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

/// Starts as many as [`count`] says; when all of them are there, each says once more who it is.
fn all_at_once(engine: &str, image: &Path, start: impl Fn(usize) -> Command) {
    note_run(engine);
    let script = "echo $NUMBER >/number; echo $NUMBER >>/shared; echo here $NUMBER; cat; cat /number /shared";
    let begin = |number: usize| {
        let mut command = start(number);
        command.args(["run", "--engine", engine, "-i", "--root=erofs", "-e"]);
        command.arg(format!("NUMBER={number}"));
        command.arg(image).args(["sh", "-c", script]);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.stderr(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Waiting {
            child,
            stdin,
            stdout,
        }
    };
    let is_here = |number: usize, run: &mut Waiting| {
        let mut line = String::new();
        run.stdout.read_line(&mut line).unwrap();
        assert_eq!(line, format!("here {number}\n"));
    };
    let mut waiting: Vec<Waiting> = Vec::new();
    let count = count();
    for number in 0..count + BOOTING {
        if number < count {
            waiting.push(begin(number));
        }
        if let Some(booting) = number.checked_sub(BOOTING) {
            is_here(booting, &mut waiting[booting]);
        }
    }
    for (number, mut run) in waiting.into_iter().enumerate() {
        drop(run.stdin);
        let mut rest = String::new();
        run.stdout.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, format!("{number}\nof all\n{number}\n"));
        let run = Run(run.child.wait_with_output().unwrap());
        run.exits(0).says_only("");
    }
}

fn image() -> Image {
    Image::busybox().file("shared", 0o644, "of all\n")
}

#[test]
fn many_runs_of_one_directory_have_each_their_own_and_leave_it_as_it_was() {
    let image = image();
    let before = state(image.path(), false);
    for engine in engines() {
        all_at_once(engine, image.path(), |_| Command::new(RDVM));
    }
    assert_eq!(state(image.path(), false), before);
}

#[test]
fn many_runs_of_one_archive_use_one_kept_image() {
    any_engine();
    if !has_strace() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    let archive = path("image.tar");
    let pack = Command::new(RDVM)
        .args(["pack", "--owner", "keep", "-o"])
        .args([archive.as_path(), image().path()])
        .output();
    Run(pack.unwrap()).exits(0);
    settle(archive.to_str().unwrap());
    for engine in any_engine() {
        let own = |mut command: Command| {
            command.env("RDVM_CACHE", path(engine));
            command.env("RDVM_KERNEL", kernel());
            command
        };
        let first = own(Command::new(RDVM))
            .args(["run", "--engine", engine, "--root=erofs"])
            .args([
                archive.as_path(),
                Path::new("sh"),
                Path::new("-c"),
                Path::new("exit 3"),
            ])
            .output();
        Run(first.unwrap()).exits(3);
        let kept = state(&path(engine), true);
        all_at_once(engine, &archive, |number| {
            let mut strace = own(Command::new("strace"));
            strace.args(["-qq", "-e", "trace=openat", "-o"]);
            strace.arg(path(&format!("log.{number}"))).arg(RDVM);
            strace
        });
        // The one file, neither written anew nor joined by others; and nobody needed the archive.
        assert_eq!(state(&path(engine), true), kept);
        for number in 0..count() {
            let log = fs::read_to_string(path(&format!("log.{number}"))).unwrap();
            assert!(log.contains(".erofs\""), "{log}");
            let opened = format!("\"{}\"", archive.display());
            assert!(!log.contains(&opened), "{log}");
        }
    }
}
