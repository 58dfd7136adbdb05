//! The RAM plan against the least RAM that boots, and whether the plan keeps its promise: that the command can write the
//! room which the plan names.
//!
//! The least is found by bisection, to the mebibyte, on the same kernel, initrd and command line. Prints the table of
//! docs/performance.md and a line for each case to the file that `RDVM_MEMORY_TSV` names; fails when a promise is broken or
//! a plan is too large: more than 1.25 times the least that boots and writes the room, for the Debian image 1.15 times the
//! least that boots, for a small image and a small kernel more than 96 MiB.
//!
//!     cargo bench --bench memory -- [PART OF A NAME...]

use std::fs::File;
use std::io::Write;
use std::path::Path;

use clap::Parser;
use rdvm::cli::{Cli, Verb};
use rdvm::memory::SMALL_ROOM;
use rdvm::pipeline::{self, StopSignals, Streams};
use rdvm::report::Outcome;
use rdvm_hostfs::units::ByteSize;

/// The plan against what it promises, and the Debian image's against what boots.
const LIMIT: f64 = 1.25;
const BOOT_LIMIT: f64 = 1.15;
/// A small image with a small kernel.
const HELLO_LIMIT: u64 = 96;

fn main() {
    let only: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let mut table = std::env::var_os("RDVM_MEMORY_TSV").map(|path| {
        let mut file = File::create(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        writeln!(
            file,
            "image\tinitrd_mib\tplanned_mib\tneed_mib\tleast_mib\tboots_mib"
        )
        .expect("a line");
        file
    });
    println!(
        "| image | initrd MiB | root | planned MiB | need MiB | room MiB | least with room MiB | need / least | least that boots MiB | need / that |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut faults = Vec::new();
    for (name, make) in cases() {
        if !only.is_empty() && !only.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let image = make(dir.path());
        let ready = prepare(&image, "true");
        let (planned, need) = (mib(ready.memory.total), mib(ready.memory.need));
        let terms = &ready.memory.terms;
        let room = terms
            .iter()
            .find(|(name, _)| name.contains("room to write"));
        let room = mib(room.expect("a plan has room").1);
        let write = format!(
            "dd if=/dev/zero of=/written bs=64k count={} 2>/dev/null",
            room * 16
        );
        if !works(&image, &write, ready.memory.need) {
            faults.push(format!(
                "{name}: {need} MiB do not boot and let {room} MiB be written"
            ));
            println!("| {name} | | | {planned} | {need} | {room} | **broken** | | | |");
            continue;
        }
        let least = least(&image, &write, need);
        let boots = least_between(&image, "true", 16, least);
        let root = ready.machine.cmdline.split("rootfstype=").nth(1);
        let root = root.and_then(|rest| rest.split(' ').next()).unwrap_or("?");
        let over = |least: u64| need as f64 / least as f64;
        let initrd = ready.machine.initrd.size().div_ceil(1 << 20);
        println!(
            "| {name} | {initrd} | {root} | {planned} | {need} | {room} | {least} | {:.2} | {boots} | {:.2} |",
            over(least),
            over(boots)
        );
        if let Some(table) = &mut table {
            writeln!(
                table,
                "{name}\t{initrd}\t{planned}\t{need}\t{least}\t{boots}"
            )
            .expect("a line");
        }
        if over(least) > LIMIT {
            faults.push(format!(
                "{name}: more than {LIMIT} times the least with its room"
            ));
        }
        if name.starts_with("debian") && planned as f64 / boots as f64 > BOOT_LIMIT {
            faults.push(format!(
                "{name}: more than {BOOT_LIMIT} times the least that boots"
            ));
        }
        let is_small = ByteSize::mib(room) < SMALL_ROOM && name.starts_with("libs");
        if is_small && planned > HELLO_LIMIT {
            faults.push(format!("{name}: more than {HELLO_LIMIT} MiB"));
        }
    }
    for fault in &faults {
        println!("\n{fault}");
    }
    std::process::exit(i32::from(!faults.is_empty()));
}

fn mib(size: ByteSize) -> u64 {
    size.0 >> 20
}

type Make = Box<dyn Fn(&Path) -> std::path::PathBuf>;

fn cases() -> Vec<(String, Make)> {
    let mut cases: Vec<(String, Make)> = Vec::new();
    for size in [0, 1u64, 4, 8, 16, 64, 256, 1024] {
        let make = move |dir: &Path| {
            busybox(dir);
            for part in 0..4 {
                let file = File::create(dir.join(format!("part{part}"))).expect("a file");
                file.set_len(size << 18).expect("its length");
            }
            dir.to_owned()
        };
        cases.push((format!("{size} MiB in 4 files"), Box::new(make)));
    }
    for count in [5_000, 50_000] {
        let make = move |dir: &Path| {
            busybox(dir);
            for at in 0..count {
                let below = dir.join(format!("d{}", at / 250));
                if at % 250 == 0 {
                    std::fs::create_dir(&below).expect("a directory");
                }
                std::fs::write(below.join(format!("f{at}")), b"some bytes").expect("a file");
            }
            dir.to_owned()
        };
        cases.push((format!("{count} small files"), Box::new(make)));
    }
    let images = std::env::var_os("RDVM_TEST_IMAGES")
        .map_or_else(|| "target/images".into(), std::path::PathBuf::from);
    for name in ["libs", "debian"] {
        let path = images.join(name);
        if path.join("bin").exists() {
            cases.push((
                format!("{name} (reference)"),
                Box::new(move |_| path.clone()),
            ));
        } else {
            println!(
                "skipped {name}: {} is not there; make images",
                path.display()
            );
        }
    }
    cases
}

fn busybox(dir: &Path) {
    std::fs::create_dir(dir.join("bin")).expect("a directory");
    std::fs::copy("/bin/busybox", dir.join("bin/busybox")).expect("busybox-static is installed");
    std::os::unix::fs::symlink("busybox", dir.join("bin/sh")).expect("a link");
}

fn request(image: &Path, script: &str) -> rdvm::request::Request {
    let words =
        ["rdvm", "run", "--engine", "qemu", "--timeout", "30s"].map(std::ffi::OsString::from);
    let words =
        words
            .into_iter()
            .chain([image.into(), "/bin/sh".into(), "-c".into(), script.into()]);
    match Cli::parse_from(words).verb {
        Verb::Run(args) => args.into_request().expect("a request"),
        other => panic!("{other:?}"),
    }
}

fn prepare(image: &Path, script: &str) -> pipeline::Ready {
    pipeline::prepare(&request(image, script)).unwrap_or_else(|error| panic!("{error}"))
}

/// The least RAM with which the script succeeds, in mebibytes; with `good` it does.
fn least(image: &Path, script: &str, good: u64) -> u64 {
    // Far below half of the plan not even the kernel fits; hopeless boots wait for the deadline.
    least_between(image, script, good * 2 / 5, good)
}

fn least_between(image: &Path, script: &str, mut fails: u64, mut good: u64) -> u64 {
    while good - fails > 1 {
        let middle = (fails + good) / 2;
        match works(image, script, ByteSize::mib(middle)) {
            true => good = middle,
            false => fails = middle,
        }
    }
    good
}

fn works(image: &Path, script: &str, memory: ByteSize) -> bool {
    let request = request(image, script);
    let mut ready = prepare(image, script);
    ready.machine.memory = memory;
    let null = || {
        File::options()
            .write(true)
            .open("/dev/null")
            .expect("/dev/null")
            .into()
    };
    let finished = pipeline::boot(
        &request,
        ready,
        Streams {
            stdin: None,
            stdout: null(),
            stderr: null(),
        },
        None,
        StopSignals::new,
    );
    finished.is_ok_and(|finished| {
        finished.report.outcome == Outcome::Exited && finished.report.exit_code == 0
    })
}
