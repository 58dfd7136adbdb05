//! Many machines of one image: what each further one takes of the host's memory, and how many start in a second.
//!
//! ENGINE (qemu); MACHINES (100 in place, 10 others), how many are there at once for the memory; RUNS (24), how many are
//! started for the rates; MODES (initrd erofs), the image's way to the root.
//!
//! Memory: machines of the Debian image without documents and apt's lists (107 MB) whose command has started and waits, one after
//! another. What is counted is PSS of rdvm and QEMU: what a process has for itself, and its part of what it shares. A further
//! machine takes (all of N - all of one) / (N - 1). Stops before less than 2 GiB are available.
//!
//! Rates: machines of the libs image whose command is busybox's true, so many at a time, from the first start to the last end; and
//! for what sharing costs, the Debian image one at a time.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::process::{self, Scratch, read_lossy};
use crate::project::{Project, number_or, variable_or};
use crate::rig::copy_lean_debian;
use crate::tsv::{self, row};

/// KiB that are to be left.
const LEAST_AVAILABLE: u64 = 2 << 20;

struct Bench {
    rdvm: PathBuf,
    engine: String,
}

/// Measures both: density.tsv and starts.tsv.
pub(super) fn measure(project: &Project) -> Result<()> {
    let work = Scratch::new("rdvm-density", "/tmp")?;
    let debian = work.path().join("debian");
    copy_lean_debian(&project.bench_images().join("debian"), &debian)?;
    // What changed in the last ten seconds is not kept, and each machine would have a file of its own.
    std::thread::sleep(std::time::Duration::from_secs(12));
    let bench = Bench {
        rdvm: project.release()?,
        engine: variable_or("ENGINE", "qemu"),
    };
    let (modes, runs) = (variable_or("MODES", "initrd erofs"), number_or("RUNS", 24)?);
    let head =
        "PSS of rdvm and QEMU, commands that wait; the Debian image without documents (107 MB)";
    let mut table = tsv::head_here(project, head)?
        + &row(&["mode", "machines", "MiB (PSS) for each further machine"]);
    for mode in modes.split(' ') {
        table += &bench.memory(mode, &debian)?;
    }
    tsv::save("density", &table)?;
    let head = "wall time; true in the libs image, and in the Debian image of 107 MB";
    let mut table = tsv::head_here(project, head)?
        + &row(&["mode", "image", "at a time", "machines per second"]);
    let libs = project.bench_images().join("libs");
    for (name, image, words, at_a_time) in [
        ("libs", &libs, &["busybox", "true"][..], &[1, 2, 4, 8][..]),
        ("Debian", &debian, &["true"], &[1]),
    ] {
        for mode in modes.split(' ') {
            for &at_a_time in at_a_time {
                let rate = bench.rate(mode, at_a_time, runs, image, words)?;
                table += &row(&[mode, name, &at_a_time.to_string(), &format!("{rate:.2}")]);
            }
        }
    }
    tsv::save("starts", &table)
}

impl Bench {
    fn command(&self, mode: &str, options: &[&str], image: &Path) -> Command {
        let mut run = Command::new(&self.rdvm);
        run.args(["run", "-q", "--engine", &self.engine]);
        run.args(["--root", mode]).args(options).arg(image);
        run
    }

    /// A row of the table of memory.
    fn memory(&self, mode: &str, image: &Path) -> Result<String> {
        let most = number_or("MACHINES", if mode == "erofs" { 100 } else { 10 })?;
        let mut machines = Machines(vec![self.machine(mode, image)?]);
        let (first, before) = (machines.pss(), available());
        while (machines.0.len() as u64) < most {
            if available() < LEAST_AVAILABLE {
                eprintln!(
                    "bench-density: {} machines: less than 2 GiB are left",
                    machines.0.len()
                );
                break;
            }
            machines.0.push(self.machine(mode, image)?);
        }
        let further = machines.0.len() as f64 - 1.0;
        if further < 1.0 {
            bail!("there is no room for a second machine; free 2 GiB of memory");
        }
        let each = (machines.pss() - first) / further;
        let less = before.saturating_sub(available()) as f64 / 1024.0 / further;
        eprintln!(
            "bench-density: {mode}: the first {first:.1} MiB (PSS), {less:.0} MiB less available for each further one"
        );
        Ok(row(&[
            mode,
            &machines.0.len().to_string(),
            &format!("{each:.1}"),
        ]))
    }

    /// A machine whose command runs.
    fn machine(&self, mode: &str, image: &Path) -> Result<Child> {
        let mut run = self.command(mode, &["-i"], image);
        run.args(["--", "sh", "-c", "echo here; cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = run.spawn().with_context(|| process::shown(&run))?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("no standard output")?;
        BufReader::new(stdout)
            .read_line(&mut line)
            .with_context(|| process::shown(&run))?;
        if line != "here\n" {
            bail!("{}: its command has not started", process::shown(&run));
        }
        Ok(child)
    }

    /// Machines a second, so many at a time.
    fn rate(
        &self,
        mode: &str,
        at_a_time: u64,
        runs: u64,
        image: &Path,
        words: &[&str],
    ) -> Result<f64> {
        let (from, next) = (Instant::now(), AtomicU64::new(0));
        let run_in_turn = || {
            while next.fetch_add(1, Ordering::Relaxed) < runs {
                process::run(
                    self.command(mode, &[], image)
                        .args(words)
                        .stdin(Stdio::null()),
                )?;
            }
            anyhow::Ok(())
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..at_a_time).map(|_| scope.spawn(run_in_turn)).collect();
            let mut ended = threads.into_iter().map(|thread| thread.join());
            ended.try_for_each(|ended| ended.unwrap_or_else(|_| bail!("a thread has panicked")))
        })?;
        Ok(runs as f64 / from.elapsed().as_secs_f64())
    }
}

/// Running machines, which end with their input.
struct Machines(Vec<Child>);

impl Machines {
    /// MiB of all of them, and of what each has started.
    fn pss(&self) -> f64 {
        let all = self.0.iter().flat_map(|machine| {
            let id = machine.id();
            let children = read_lossy(Path::new(&format!("/proc/{id}/task/{id}/children")));
            let children: Vec<u32> = children
                .split_whitespace()
                .filter_map(|id| id.parse().ok())
                .collect();
            children.into_iter().chain([id])
        });
        let kib: u64 = all
            .map(|id| {
                kib_of(
                    &read_lossy(Path::new(&format!("/proc/{id}/smaps_rollup"))),
                    "Pss:",
                )
            })
            .sum();
        kib as f64 / 1024.0
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for machine in &mut self.0 {
            drop(machine.stdin.take());
        }
        for machine in &mut self.0 {
            // There is nothing to be done about one that is gone.
            let _ = machine.wait();
        }
    }
}

/// KiB that the host could give out.
fn available() -> u64 {
    kib_of(&read_lossy(Path::new("/proc/meminfo")), "MemAvailable:")
}

/// The number behind a name at the beginning of a line.
fn kib_of(text: &str, name: &str) -> u64 {
    let mut values = text.lines().filter_map(|line| line.strip_prefix(name));
    let number = values
        .next()
        .and_then(|value| value.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_the_number_behind_its_name() {
        let text = "Rss:   12 kB\nPss:   34 kB\nPss_Dirty:  5 kB\n";
        assert_eq!(kib_of(text, "Pss:"), 34);
        assert_eq!(kib_of(text, "Swap:"), 0);
        assert!(available() > 0);
    }
}
