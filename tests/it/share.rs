//! `--share`: machines of one image have its packed form in common, and none of them can change it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::kept::kernel;
use crate::support::{Image, RDVM, Rdvm, Run, any_engine, busybox, children_of, engines, note_run};

/// How much the image has that is not in anybody's busybox.
const LARGE: usize = 24 << 20;

/// A directory with a large file, and a cache of its own.
struct Place {
    image: Image,
    cache: TempDir,
}

impl Place {
    fn new() -> Self {
        // No two pages are the same, and none is empty.
        let words = (0..LARGE as u64 / 8).flat_map(u64::to_le_bytes);
        let large: Vec<u8> = words.collect();
        Self {
            image: Image::busybox().file("large", 0o644, large),
            cache: TempDir::new().unwrap(),
        }
    }

    fn rdvm(&self, engine: &str, options: &[&str], script: &str) -> Command {
        note_run(engine);
        let mut command = Command::new(RDVM);
        command.env("RDVM_CACHE", self.cache.path());
        command.env("RDVM_KERNEL", kernel());
        command.args(["run", "--engine", engine]).args(options);
        command.arg(self.image.path()).args(["sh", "-c", script]);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, engine: &str, options: &[&str], script: &str) -> Run {
        Run(self.rdvm(engine, options, script).output().unwrap())
    }

    /// The kept images, and the checksum of each.
    fn kept(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let list = fs::read_dir(self.cache.path().join("images"));
        let paths = list.into_iter().flatten();
        let sum = |path: PathBuf| {
            let sum = Sha256::digest(fs::read(&path).unwrap()).to_vec();
            (path, sum)
        };
        paths.map(|entry| sum(entry.unwrap().path())).collect()
    }

    fn large(&self) -> String {
        let sum = Sha256::digest(fs::read(self.image.path().join("large")).unwrap());
        sum.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// KiB of a process and its children: what of the mappings of `file` is shared or could be, and what is their own.
fn mapped(pid: u32, file: &Path) -> (u64, u64) {
    let mut sums = (0, 0);
    for pid in [vec![pid], children_of(pid)].concat() {
        let Ok(maps) = fs::read_to_string(format!("/proc/{pid}/smaps")) else {
            continue;
        };
        let mut is_it = false;
        for line in maps.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [range, _, _, _, _, ref path @ ..] if range.contains('-') => {
                    is_it = path.first().is_some_and(|path| Path::new(path) == file);
                }
                ["Rss:", all, _] if is_it => sums.0 += all.parse::<u64>().unwrap(),
                ["Anonymous:", own, _] if is_it => sums.1 += own.parse::<u64>().unwrap(),
                _ => {}
            }
        }
    }
    sums
}

/// A run that goes on for long, and ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A run whose command has said a line.
fn until_it_speaks(mut command: Command) -> (Running, String) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let stdout = child.stdout.as_mut().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    (Running(child), line)
}

#[test]
fn a_dry_run_plans_what_the_run_gets_and_keeps_nothing() {
    let planned = |run: &Run| {
        let said = run.stderr();
        let line = said.lines().find(|line| line.starts_with("rdvm: ram "));
        line.unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    for engine in any_engine() {
        let place = Place::new();
        let copy = format!("{}:/copy", place.image.path().join("large").display());
        let plain = planned(&place.run(engine, &["--dry-run"], "true"));
        for options in [&["--copy-in", &copy][..], &["--share"]] {
            let dry = place.run(engine, &[options, &["--dry-run"]].concat(), "true");
            assert_eq!(place.kept(), [], "{options:?}");
            let run = place.run(engine, &[options, &["--verbose"]].concat(), "true");
            assert_eq!(planned(&run.exits(0)), planned(&dry), "{options:?}");
            assert_ne!(planned(&dry), plain, "{options:?}");
        }
    }
}

#[test]
fn machines_of_a_directory_have_one_file_mapped_and_it_stays_what_it_is() {
    for engine in engines() {
        let place = Place::new();
        // The last words of the image, and what is done to memory that the image was unpacked from.
        let script = "sha256sum /large | cut -c-64; sleep 1000";
        let start = || until_it_speaks(place.rdvm(engine, &["--share"], script));
        let (first, said) = start();
        assert_eq!(said, format!("{}\n", place.large()));
        let kept = place.kept();
        let [(file, _)] = &kept[..] else {
            panic!("{kept:?}")
        };
        let (second, said) = start();
        assert_eq!(said, format!("{}\n", place.large()));
        for child in [&first, &second] {
            let (all, own) = mapped(child.0.id(), file);
            assert!(all >= LARGE as u64 >> 10, "{engine}: {all} KiB are mapped");
            assert!(own < 64, "{engine}: {own} KiB were written to");
        }
        drop((first, second));
        assert_eq!(place.kept(), kept, "{engine}");
    }
}

#[test]
fn a_guest_that_fills_its_memory_changes_nothing_for_others() {
    for engine in engines() {
        let place = Place::new();
        place.run(engine, &["--share"], "exit 3").exits(3);
        let kept = place.kept();
        let fill = "dd if=/dev/zero of=/full bs=1M 2>/dev/null; cat /proc/cmdline";
        let run = place.run(engine, &["--share"], fill);
        let run = run.exits(0);
        assert!(run.stdout().contains("rdinit="), "{}", run.stdout());
        assert_eq!(place.kept(), kept, "{engine}");
        let run = place.run(engine, &["--share"], "sha256sum /large | cut -c-64");
        run.exits(0).prints(format!("{}\n", place.large()));
    }
}

#[test]
fn what_comes_behind_the_shared_part_arrives_too() {
    for engine in engines() {
        let place = Place::new();
        fs::write(place.cache.path().join("note"), "copied").unwrap();
        let copy = format!("{}/note:/note", place.cache.path().display());
        let script = "cat /note; tail -c 8 /large | od -An -t u8 | tr -d ' '; cat; echo $A";
        let options = [
            "--share",
            "-i",
            "--copy-in",
            &copy,
            "-e",
            "A=set",
            "--cpus",
            "2",
        ];
        let run = place.run(engine, &options, script);
        run.exits(0)
            .prints(format!("copied{}\nset\n", LARGE / 8 - 1));
    }
}

#[test]
fn a_change_of_the_directory_is_seen() {
    let place = Place::new();
    let engine = any_engine()[0];
    let path = place.image.path().join("word");
    for word in ["first", "second", "first"] {
        fs::write(&path, word).unwrap();
        let run = place.run(engine, &["--share"], "cat /word");
        run.exits(0).prints(word);
    }
}

#[test]
fn what_cannot_be_shared_is_refused() {
    let run = Rdvm::verb("run").option("--share").option("--rdinit");
    let run = run.option("/bin/true").image(busybox().path()).run();
    run.exits(125).says("--share: cannot be used with --rdinit");
    let place = Place::new();
    let cache = place.cache.path().join("images");
    fs::write(&cache, "not a directory").unwrap();
    let run = place.run(any_engine()[0], &["--share"], "true");
    run.exits(125).prints("").says("--share: ");
}
