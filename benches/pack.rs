//! `cargo bench --bench pack`: rdvm's packer beside find|sort|cpio, bsdcpio and GNU tar, as a markdown table.
//!
//! All write to /dev/shm from a warm cache, one after the other in interleaved rounds; medians are compared. rdvm's
//! packer is called in this process, the others are started by `sh`, which costs them 2 ms or so.
//! `RDVM_BENCH_DEBIAN=DIR` names a debootstrap'd tree, without it one of about the same shape is made.
//! `RDVM_BENCH_ROUNDS=N` changes the number of rounds. `pack DIR FILE` packs once and says where the time goes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rdvm::request::{ImageRef, Ownership};
use rdvm_initrd::{Epoch, Layout};

/// What a row of the table runs: `sh` command lines in the tree, with the archive's path in `$OUT`.
const OTHERS: [(&str, &str, &str); 4] = [
    (
        "find, sort, cpio",
        "cpio",
        "find . -print0 | LC_ALL=C sort -z | cpio -0 -o -H newc --quiet >$OUT",
    ),
    (
        "find, sort, cpio -C 1 MiB",
        "cpio",
        "find . -print0 | LC_ALL=C sort -z | cpio -0 -o -H newc --quiet -C 1048576 >$OUT",
    ),
    (
        "find, sort, bsdcpio",
        "bsdcpio",
        "find . -print0 | LC_ALL=C sort -z | bsdcpio -0 -o -H newc --quiet >$OUT",
    ),
    ("GNU tar", "tar", "tar -cf $OUT ."),
];

fn main() {
    let args: Vec<OsString> = std::env::args_os()
        .skip(1)
        .filter(|arg| arg != "--bench")
        .collect();
    if let [tree, out] = &args[..] {
        return once(Path::new(tree), Path::new(out));
    }
    let rounds = std::env::var("RDVM_BENCH_ROUNDS")
        .map_or(9, |text| text.parse().expect("a number of rounds"));
    let scratch = Scratch::new();
    let debian = match std::env::var_os("RDVM_BENCH_DEBIAN") {
        Some(dir) => (
            format!("Debian, {}", Path::new(&dir).display()),
            PathBuf::from(dir),
        ),
        None => (
            "like Debian (synthetic; RDVM_BENCH_DEBIAN=DIR for a real one)".into(),
            debian_like(&scratch.0),
        ),
    };
    let small = (
        "50,000 small files in 200 directories".into(),
        small_files(&scratch.0),
    );
    for (name, tree) in [debian, small] {
        compare(&name, &tree, &scratch.0.join("out"), rounds);
    }
}

/// A directory in memory, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = PathBuf::from(format!("/dev/shm/rdvm-bench-{}", std::process::id()));
        fs::create_dir(&path).expect("a directory in /dev/shm");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing can be done about it here, and the next boot empties it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Packs once, and prints how long each step took.
fn once(tree: &Path, out: &Path) {
    let start = Instant::now();
    let tree = rdvm_image::open(&image_ref(tree)).expect("a tree").tree;
    let walked = Instant::now();
    let layout = Layout::of(&tree, Epoch(0)).expect("a layout");
    let laid_out = Instant::now();
    layout
        .write(&File::create(out).expect("an archive"), 0)
        .expect("an archive");
    let written = Instant::now();
    println!(
        "{} entries, {} bytes: walk {:?}, layout {:?}, write {:?}, all {:?}",
        layout.contents().entries,
        layout.packed_size(),
        walked - start,
        laid_out - walked,
        written - laid_out,
        written - start
    );
}

fn image_ref(path: &Path) -> ImageRef {
    ImageRef {
        path: path.to_owned(),
        owner: Ownership::Root,
        ..ImageRef::default()
    }
}

/// What `rdvm pack` does between its arguments and its exit.
fn rdvm(tree: &Path, out: &Path) {
    let tree = rdvm_image::open(&image_ref(tree)).expect("a tree").tree;
    let layout = Layout::of(&tree, Epoch(0)).expect("a layout");
    layout
        .write(&File::create(out).expect("an archive"), 0)
        .expect("an archive");
}

fn compare(name: &str, tree: &Path, out: &Path, rounds: usize) {
    let others: Vec<_> = OTHERS
        .iter()
        .filter(|(_, tool, _)| installed(tool))
        .collect();
    let mut times: BTreeMap<usize, Vec<Duration>> = BTreeMap::new();
    let mut sizes: BTreeMap<usize, u64> = BTreeMap::new();
    // Round 0 warms the cache.
    for round in 0..=rounds {
        for turn in 0..=others.len() {
            // Memory is dearer for whoever needs it first: everyone has a turn at that.
            let row = (turn + round) % (others.len() + 1);
            let _ = fs::remove_file(out);
            let start = Instant::now();
            match row.checked_sub(1).map(|other| others[other]) {
                None => rdvm(tree, out),
                Some((_, _, line)) => shell(line, tree, out),
            }
            let time = start.elapsed();
            sizes.insert(row, fs::metadata(out).expect("an archive").len());
            if round > 0 {
                times.entry(row).or_default().push(time);
            }
        }
    }
    println!("\n{name}: median of {rounds} interleaved rounds\n");
    println!(
        "| packer | ms | fastest to slowest | MB | time against rdvm | system calls |\n|---|---|---|---|---|---|"
    );
    let own = median(&mut times.get_mut(&0).expect("rows")[..]);
    for (row, times) in &mut times {
        let middle = median(times);
        let (label, line) = match row.checked_sub(1).map(|other| others[other]) {
            None => (
                "rdvm",
                format!("{} '{}' $OUT", this_program(), tree.display()),
            ),
            Some((label, _, line)) => (*label, (*line).to_owned()),
        };
        println!(
            "| {label} | {:.1} | {:.1} to {:.1} | {:.1} | {:.2} | {} |",
            ms(middle),
            ms(times[0]),
            ms(times[times.len() - 1]),
            sizes[row] as f64 / 1e6,
            ms(middle) / ms(own),
            calls(&line, tree, out)
        );
    }
}

fn this_program() -> String {
    std::env::current_exe()
        .expect("a path")
        .display()
        .to_string()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn installed(tool: &str) -> bool {
    let found = Command::new(tool)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !found {
        println!("skipped: {tool} is not installed");
    }
    found
}

fn shell(line: &str, tree: &Path, out: &Path) {
    let status = Command::new("sh")
        .args(["-c", line])
        .current_dir(tree)
        .env("OUT", out)
        .status()
        .expect("sh");
    assert!(status.success(), "{line}: {status}");
}

/// How many system calls a command line makes, from `strace -c -f`; a dash where there is no strace.
fn calls(line: &str, tree: &Path, out: &Path) -> String {
    let strace = Command::new("strace")
        .args(["-c", "-f", "-U", "calls,name", "sh", "-c", line])
        .current_dir(tree)
        .env("OUT", out)
        .stdout(Stdio::null())
        .output();
    let summary = match strace {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stderr).into_owned()
        }
        _ => return "-".into(),
    };
    let total = summary.lines().find_map(|line| {
        line.trim()
            .strip_suffix("total")?
            .trim()
            .parse::<u64>()
            .ok()
    });
    total.map_or("-".into(), |total| total.to_string())
}

/// 50,000 files of 0 to 63 bytes.
fn small_files(scratch: &Path) -> PathBuf {
    let root = scratch.join("small");
    for dir in 0..200 {
        let dir_path = root.join(format!("dir{dir:03}"));
        fs::create_dir_all(&dir_path).expect("a directory");
        for file in 0..250usize {
            fs::write(
                dir_path.join(format!("file{file:05}.txt")),
                &[b'x'; 64][..file % 64],
            )
            .expect("a file");
        }
    }
    root
}

/// About 9,000 entries and 200 MB: mostly small files, some large ones, links, a few levels.
fn debian_like(scratch: &Path) -> PathBuf {
    let root = scratch.join("debian");
    // A plain linear generator: the same tree each time.
    let mut state = 1u64;
    let mut random = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for dir in 0..900 {
        let path = root.join(format!("usr/share/p{}/q{}/d{dir}", dir % 9, dir % 90));
        fs::create_dir_all(&path).expect("a directory");
        for file in 0..9 {
            let name = path.join(format!("some-file-{file}.conf"));
            let size = match random(100) {
                0..10 => {
                    symlink("../some/where/else", name).expect("a link");
                    continue;
                }
                10..70 => random(4 << 10),
                70..95 => random(40 << 10),
                95..99 => random(400 << 10),
                _ => random(3 << 20),
            };
            let mut out = File::create(name).expect("a file");
            out.write_all(&vec![b'x'; size as usize])
                .expect("its bytes");
        }
    }
    root
}
