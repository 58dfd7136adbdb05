//! The RAM plan against the least RAM that keeps its promise: the machine boots, the command runs and writes 64 MiB.
//!
//! The least is found by bisection, to the mebibyte, on the same kernel, initrd and command line. Prints the table of
//! docs/performance.md and fails when a plan is more than 1.25 times the least.
//!
//!     cargo bench --bench memory

use std::fs::File;
use std::path::Path;

use clap::Parser;
use rdvm::cli::{Cli, Verb};
use rdvm::pipeline::{self, Streams};
use rdvm::report::Outcome;
use rdvm::units::ByteSize;

const WRITE_64_MIB: &str = "dd if=/dev/zero of=/written bs=64k count=1024 2>/dev/null";
const LIMIT: f64 = 1.25;

fn main() {
    let only: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    println!(
        "| image | initrd MiB | root | planned MiB | least MiB | planned / least | least that boots MiB |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut worst: f64 = 0.0;
    for (name, make) in cases() {
        if !only.is_empty() && !only.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let image = make(dir.path());
        let planned = prepare(&image, "true").memory.total;
        let least = least(&image, WRITE_64_MIB, planned);
        let boots = least_or_dash(&image, "true", planned);
        let ready = prepare(&image, "true");
        let root = ready
            .machine
            .cmdline
            .split("rootfstype=")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        let ratio = planned.0 as f64 / least.0 as f64;
        worst = worst.max(ratio);
        let initrd = ready.machine.initrd.size().div_ceil(1 << 20);
        let (planned, least) = (planned.0 >> 20, least.0 >> 20);
        println!(
            "| {name} | {initrd} | {} | {planned} | {least} | {ratio:.2} | {boots} |",
            root.unwrap_or("?")
        );
    }
    println!("\nlargest ratio: {worst:.2} (limit {LIMIT})");
    if worst > LIMIT {
        std::process::exit(1);
    }
}

type Make = Box<dyn Fn(&Path) -> std::path::PathBuf>;

fn cases() -> Vec<(String, Make)> {
    let mut cases: Vec<(String, Make)> = Vec::new();
    for size in [1u64, 4, 16, 64, 256, 1024] {
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
    let words = ["rdvm", "run", "--timeout", "30s"].map(std::ffi::OsString::from);
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

/// The least RAM with which the script succeeds, to the mebibyte.
fn least(image: &Path, script: &str, planned: ByteSize) -> ByteSize {
    assert!(
        works(image, script, planned),
        "the plan itself does not keep its promise"
    );
    // Far below half of the plan not even the kernel fits; hopeless boots wait for the deadline.
    let (mut fails, mut good) = ((planned.0 >> 20) * 2 / 5, planned.0 >> 20);
    while good - fails > 1 {
        let middle = (fails + good) / 2;
        if works(image, script, ByteSize::mib(middle)) {
            good = middle
        } else {
            fails = middle
        }
    }
    ByteSize::mib(good)
}

fn least_or_dash(image: &Path, script: &str, planned: ByteSize) -> String {
    (least(image, script, planned).0 >> 20).to_string()
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
    );
    finished.is_ok_and(|finished| {
        finished.report.outcome == Outcome::Exited && finished.report.exit_code == 0
    })
}
