//! Time in an emulated machine is the host's, however little of the CPU the machine gets.
//!
//! `make test-load` has many more runs, beside busy loops.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::kept::kernel;
use crate::kernels::kernels;
use crate::support::{Rdvm, Run, busybox, engines, hold_up};

/// Two spans of time by the guest's own clock, without a process that would have to be started, then what the kernel has to say
/// of time. The first is a sleep of three seconds, and what the host sees of it begins before and ends after it; the second
/// lasts until the host's next line, and the host's begins after and ends before it. However late a byte or a line arrives,
/// the first is not longer than the host's and the second is not shorter: if a clock is wrong, one of the two fails.
const SPANS: &str = "busybox mkfifo /f; exec 3<>/f; printf r; read x
    read a x </proc/uptime; read -t 3 x <&3; read b x </proc/uptime; printf b
    read c x </proc/uptime; printf c; read x; read d x </proc/uptime
    echo; echo $a $b $c $d; busybox cat /sys/devices/system/clocksource/clocksource0/current_clocksource; dmesg";

/// The length of the second span on the host.
const PAUSE: Duration = Duration::from_secs(2);

/// The same span, in seconds, by two clocks.
#[derive(Debug)]
struct Span {
    host: f64,
    guest: f64,
}

/// The measurement of [`SPANS`].
struct Slept {
    /// The sleep, within what the host saw of it.
    sleep: Span,
    /// The pause of the host, within what the guest saw of it.
    pause: Span,
    said: String,
}

/// Measures [`SPANS`]. `booted` is called at the first byte.
fn watch(mut child: Child, booted: impl FnOnce()) -> Slept {
    let mut stdin = child.stdin.take().unwrap();
    let stdout = child.stdout.as_mut().unwrap();
    let mut is_next = |expected: u8| {
        let mut byte = [0];
        stdout.read_exact(&mut byte).is_ok() && byte[0] == expected
    };
    let ready = is_next(b'r');
    booted();
    let began = Instant::now();
    let sleeps = ready && stdin.write_all(b"\n").is_ok() && is_next(b'b');
    let sleep = began.elapsed();
    let waits = sleeps && is_next(b'c');
    let began = Instant::now();
    std::thread::sleep(PAUSE);
    let pause = began.elapsed();
    let answered = waits && stdin.write_all(b"\n").is_ok();
    let run = Run(child.wait_with_output().unwrap()).exits(0);
    assert!(answered, "{}", run.stdout());
    let said = run.stdout();
    let times = said.lines().nth(1).unwrap().split(' ');
    let times: Vec<f64> = times.map(|time| time.parse().unwrap()).collect();
    let span = |host: Duration, from: usize| Span {
        host: host.as_secs_f64(),
        guest: times[from + 1] - times[from],
    };
    Slept {
        sleep: span(sleep, 0),
        pause: span(pause, 2),
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
        .option("-i")
        .option("--timeout")
        .option("300s")
        .option("--cpus")
        .option(cpus)
        .option("-k")
        .option(kernel)
        .image(busybox().path())
        .sh(SPANS)
        .stdin(Stdio::piped())
        .spawn()
}

/// As a busy host would do it, whose load cannot be relied upon: QEMU stands still for most of the time, for longer at a time than a kernel
/// measures a clock. What it measured would be wrong by any factor, or it would have no timer at all. With one CPU and with two,
/// each on a kernel of its own; with `RDVM_LOAD` on both.
#[test]
fn a_machine_that_is_held_up_while_it_boots_has_the_right_time() {
    if !engines().contains(&"qemu") {
        return;
    }
    let is_long = std::env::var_os("RDVM_LOAD").is_some();
    for (at, kernel) in both_kernels().iter().enumerate() {
        let cpus = match is_long {
            true => &["1", "2"][..],
            false => &[["1", "2"][at]],
        };
        for cpus in cpus {
            let child = sleeping(kernel, cpus);
            let rdvm = child.id();
            let booted = AtomicBool::new(false);
            let slept = std::thread::scope(|scope| {
                scope.spawn(|| hold_up(rdvm, || booted.load(Ordering::Relaxed)));
                watch(child, || booted.store(true, Ordering::Relaxed))
            });
            right(&slept);
        }
    }
}

/// The largest part by which a clock that is right may seem to run too fast or too slow.
const RATE: f64 = 0.05;

/// The guest's clock is neither fast nor slow, and the guest kept to the counter.
#[track_caller]
fn right(slept: &Slept) {
    let Slept { sleep, pause, said } = slept;
    let fast = sleep.guest > sleep.host * (1.0 + RATE) + 0.02;
    let slow = pause.guest < pause.host * (1.0 - RATE) - 0.02;
    assert!(!fast && !slow, "{sleep:?}, {pause:?}: {said}");
    // It may end late, which is the host's doing, but never early.
    assert!(sleep.guest > 2.97, "{sleep:?}: {said}");
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

/// One run, or as many as `RDVM_LOAD` asks for, of which each must end, and its sleep within a fifth of its time.
#[test]
fn sleeps_end_in_their_time_beside_busy_loops() {
    if !engines().contains(&"qemu") {
        return;
    }
    let runs = std::env::var("RDVM_LOAD").map(|runs| runs.parse().unwrap());
    let (runs, loops) = runs.map_or((1, 2), |runs: usize| (runs, 6));
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
        worst = worst.max(slept.sleep.host / 3.0 - 1.0);
        if runs > 2 {
            let Slept { sleep, pause, .. } = &slept;
            eprintln!("{run} {} {cpus} {sleep:.2?} {pause:.2?}", kernel.display());
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
