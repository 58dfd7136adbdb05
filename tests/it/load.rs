//! Time in an emulated machine is the host's, however little of the CPU the machine gets.
//!
//! `make test-load` has many more runs, beside busy loops.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::kept::kernel;
use crate::kernels::kernels;
use crate::support::{Rdvm, Run, busybox, children_of, engines, send};

/// A sleep between two bytes, by the guest's own clock as well, and without a process that would have to be started; then what
/// the kernel has to say of time.
const SLEEP: &str = "busybox mkfifo /f; exec 3<>/f; read a x </proc/uptime; printf a; read -t 3 x <&3; printf b; read b x </proc/uptime
    echo; echo $a $b; busybox cat /sys/devices/system/clocksource/clocksource0/current_clocksource; dmesg";

/// The measurement of such a sleep.
struct Slept {
    on_the_host: f64,
    in_the_guest: f64,
    said: String,
}

/// Reads what [`SLEEP`] prints. `booted` is called at the first byte.
fn watch(mut child: Child, booted: impl FnOnce()) -> Slept {
    let stdout = child.stdout.as_mut().unwrap();
    let mut byte = [0];
    let first = stdout.read_exact(&mut byte);
    booted();
    let from = Instant::now();
    let second = first.and_then(|()| stdout.read_exact(&mut byte));
    let on_the_host = from.elapsed().as_secs_f64();
    let run = Run(child.wait_with_output().unwrap()).exits(0);
    second.unwrap();
    let said = run.stdout();
    let times = said.lines().nth(1).unwrap().split(' ');
    let times: Vec<f64> = times.map(|time| time.parse().unwrap()).collect();
    Slept {
        on_the_host,
        in_the_guest: times[1] - times[0],
        said,
    }
}

/// The kernels to try: the one that a run takes, and one of a distribution.
fn both_kernels() -> Vec<PathBuf> {
    let stock = kernels().iter().rev().find(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.contains("cloud")
    });
    [kernel().to_owned()]
        .into_iter()
        .chain(stock.cloned())
        .collect()
}

fn sleeping(kernel: &PathBuf, cpus: &str) -> Child {
    Rdvm::on("qemu")
        .option("-q")
        .option("--timeout")
        .option("300s")
        .option("--cpus")
        .option(cpus)
        .option("-k")
        .option(kernel)
        .image(busybox().path())
        .sh(SLEEP)
        .spawn()
}

/// As a busy host would do it, whose load cannot be relied upon: QEMU stands still for most of the time, for longer at a time than a kernel
/// measures a clock. What it measured would be wrong by any factor, or it would have no timer at all.
#[test]
fn a_machine_that_is_held_up_while_it_boots_has_the_right_time() {
    if !engines().contains(&"qemu") {
        return;
    }
    for kernel in both_kernels() {
        for cpus in ["1", "2"] {
            let child = sleeping(&kernel, cpus);
            let rdvm = child.id();
            let booted = AtomicBool::new(false);
            let slept = std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !booted.load(Ordering::Relaxed) {
                        std::thread::sleep(Duration::from_millis(40));
                        let Some(&qemu) = children_of(rdvm).first() else {
                            continue;
                        };
                        send(qemu, "STOP");
                        std::thread::sleep(Duration::from_millis(150));
                        send(qemu, "CONT");
                    }
                });
                watch(child, || booted.store(true, Ordering::Relaxed))
            });
            right(&slept);
        }
    }
}

/// By both clocks the same time passed, and the guest kept to the counter.
#[track_caller]
fn right(slept: &Slept) {
    let Slept {
        on_the_host,
        in_the_guest,
        said,
    } = slept;
    let ratio = on_the_host / in_the_guest;
    assert!(
        (0.7..1.4).contains(&ratio),
        "{on_the_host} s of the host were {in_the_guest} s: {said}"
    );
    for words in [
        "TSC unstable",
        "APIC frequency too slow",
        "Switched to clocksource refined-jiffies",
    ] {
        assert!(!said.contains(words), "{words}: {said}");
    }
    let clock = said.lines().nth(2);
    assert!(matches!(clock, Some("tsc" | "tsc-early")), "{clock:?}");
}

/// Ended with the test.
struct Loops(Vec<Child>);

impl Loops {
    fn start(count: usize) -> Self {
        let endless = |_| {
            let mut sh = Command::new("sh");
            sh.args(["-c", "while :; do :; done"]);
            sh.stdin(Stdio::null()).spawn().unwrap()
        };
        Self((0..count).map(endless).collect())
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Two runs, or as many as `RDVM_LOAD` asks for, of which each must end, and its sleep within a fifth of its time.
#[test]
fn sleeps_end_in_their_time_beside_busy_loops() {
    if !engines().contains(&"qemu") {
        return;
    }
    let runs = std::env::var("RDVM_LOAD").map(|runs| runs.parse().unwrap());
    let (runs, loops) = runs.map_or((2, 2), |runs: usize| (runs, 6));
    let kernels = both_kernels();
    let _loops = Loops::start(loops);
    let mut worst = 0.0f64;
    for run in 0..runs {
        let cpus = if run / kernels.len() % 4 == 3 {
            "2"
        } else {
            "1"
        };
        let kernel = &kernels[run % kernels.len()];
        let slept = watch(sleeping(kernel, cpus), || {});
        right(&slept);
        worst = worst.max((slept.on_the_host / 3.0 - 1.0).abs());
        if runs > 2 {
            let (host, guest) = (slept.on_the_host, slept.in_the_guest);
            eprintln!("{run} {} {cpus} {host:.3} {guest:.3}", kernel.display());
        }
    }
    if runs > 2 {
        eprintln!(
            "{runs} runs; the sleep that was off the most was so by {:.1} %",
            worst * 100.0
        );
        assert!(worst < 0.2, "by {worst}");
    }
}
