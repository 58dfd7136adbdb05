//! The cost of files in and out, side by side in one run, in turn: each figure is the least of ROUNDS (3).
//!
//! 1. MIB (64) MiB out: by standard output, and by --copy-out (time from the command's end to rdvm's); the second by the ports
//!    too, where the kernel gives PID 1 no /dev/mem.
//! 2. The same in by standard input.
//! 3. 10,000 files in: a run with --copy-in against one without, beside rdvm pack of the same files.
//! 4. Ctrl-C (SIGINT) to the end of rdvm, while the command floods standard output and while it sleeps.

use std::fs::{self, File};
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::Least;
use crate::process::{self, Scratch, command, read_lossy};
use crate::project::{Project, number_or};
use crate::rig::random_file;
use crate::tsv::{self, row};

/// rdvm, the image, and a directory for the files.
struct Bench {
    rdvm: PathBuf,
    image: PathBuf,
    work: Scratch,
}

/// Measures all of it: copies.tsv.
pub(super) fn measure(project: &Project) -> Result<()> {
    let (rounds, mib) = (number_or("ROUNDS", 3)?, number_or("MIB", 64)?);
    let bench = Bench {
        rdvm: project.release()?,
        image: project.bench_images().join("libs"),
        work: Scratch::new("rdvm-bench", "/tmp")?,
    };
    bench.make_files(mib)?;
    let mut least = Least::default();
    for _ in 0..rounds {
        bench.round(&mut least)?;
    }
    let kind =
        format!("least of {rounds} rounds in turn, wall time, the default engine and kernel");
    let mut table = tsv::head_here(project, &kind)? + &row(&["what", "figure"]);
    for (what, name) in [
        ("MiB out by standard output", "stdout"),
        ("MiB out by `--copy-out`", "copy-out"),
        ("MiB in by `-i`, through sha256sum", "stdin"),
        ("MiB through sha256sum from a file in the guest", "sum"),
    ] {
        let speed = mib as f64 * 1.048_576 * 1e3 / least.of(name);
        table += &row(&[format!("{mib} {what}"), format!("{speed:.1} MB/s")]);
    }
    for (what, name) in [
        ("host's side of a run", "plain"),
        (
            "host's side of a run with 10,000 files copied in",
            "copy-in",
        ),
        ("`rdvm pack` of the same files", "pack"),
        ("Ctrl-C to the end, the command floods", "flood"),
        ("Ctrl-C to the end, the command sleeps", "sleep"),
    ] {
        table += &row(&[
            what,
            &format!("{} ms", (least.of(name) * 1e3).round() / 1e3),
        ]);
    }
    tsv::save("copies", &table)
}

impl Bench {
    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join(name)
    }

    fn make_files(&self, mib: u64) -> Result<()> {
        random_file(&self.path("blob"), mib << 20)?;
        let many = self.path("many");
        fs::create_dir(&many).with_context(|| many.display().to_string())?;
        for at in 0..10_000 {
            fs::write(many.join(format!("file{at}")), format!("content of {at}\n"))
                .context("a small file")?;
        }
        Ok(())
    }

    fn round(&self, least: &mut Least) -> Result<()> {
        let blob = File::open(self.path("blob")).context("blob")?;
        least.add(
            "stdout",
            self.run(
                &["--copy-in", "blob:/blob"],
                "busybox cat /blob",
                "seen",
                None,
            )?
            .command,
        );
        self.is_same("seen", "blob")?;
        let both = ["--copy-in", "blob:/blob", "--copy-out", "/blob:seen"];
        least.add(
            "copy-out",
            self.run(&both, "busybox true", "out", None)?.stop,
        );
        self.is_same("seen", "blob")?;
        least.add(
            "stdin",
            self.run(&["-i"], "busybox sha256sum", "out", Some(blob))?
                .command,
        );
        least.add(
            "sum",
            self.run(
                &["--copy-in", "blob:/blob"],
                "busybox sha256sum /blob",
                "out",
                None,
            )?
            .command,
        );
        least.add("plain", self.run(&[], "busybox true", "out", None)?.pack);
        least.add(
            "copy-in",
            self.run(&["--copy-in", "many:/many"], "busybox true", "out", None)?
                .pack,
        );
        let from = Instant::now();
        let mut pack = Command::new(&self.rdvm);
        process::run(
            pack.args(["pack", "-o", "many.cpio", "many"])
                .current_dir(self.work.path()),
        )?;
        least.add("pack", ms_since(from));
        least.add("flood", self.interrupt(&["busybox", "yes"])?);
        least.add(
            "sleep",
            self.interrupt(&["busybox", "sh", "-c", "echo on; sleep 1000"])?,
        );
        Ok(())
    }

    /// Runs rdvm with a report and with standard output in a file; returns the phases.
    fn run(&self, options: &[&str], words: &str, out: &str, stdin: Option<File>) -> Result<Phases> {
        let mut run = Command::new(&self.rdvm);
        run.current_dir(self.work.path())
            .args(["run", "-q", "--report", "report"])
            .args(options);
        run.arg(&self.image).arg("--").args(words.split(' '));
        run.stdin(stdin.map_or_else(Stdio::null, Stdio::from));
        process::run(run.stdout(File::create(self.path(out)).with_context(|| out.to_owned())?))?;
        Phases::of(&read_lossy(&self.path("report")))
    }

    fn is_same(&self, one: &str, other: &str) -> Result<()> {
        process::run(command(&["cmp", one, other]).current_dir(self.work.path()))
    }

    /// Sends SIGINT when the command has printed something; returns the milliseconds that rdvm then takes.
    fn interrupt(&self, words: &[&str]) -> Result<f64> {
        let mut run = Command::new(&self.rdvm);
        run.args(["run", "-q"])
            .arg(&self.image)
            .arg("--")
            .args(words);
        run.stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = run.spawn().with_context(|| process::shown(&run))?;
        let mut stdout = child.stdout.take().context("no standard output")?;
        stdout
            .read_exact(&mut [0])
            .context("the command prints nothing")?;
        let from = Instant::now();
        process::run(command(&["kill", "-INT"]).arg(child.id().to_string()))?;
        child.wait().with_context(|| process::shown(&run))?;
        Ok(ms_since(from))
    }
}

fn ms_since(from: Instant) -> f64 {
    from.elapsed().as_secs_f64() * 1e3
}

/// Milliseconds of a run's phases, by its report.
#[derive(Debug, PartialEq)]
struct Phases {
    pack: f64,
    command: f64,
    stop: f64,
}

impl Phases {
    fn of(report: &str) -> Result<Self> {
        Ok(Self {
            pack: field(report, "pack")?,
            command: field(report, "command")?,
            stop: field(report, "stop")?,
        })
    }
}

/// The number of a field that stands in a line of its own.
fn field(report: &str, name: &str) -> Result<f64> {
    let start = format!("\"{name}\":");
    let mut values = report
        .lines()
        .filter_map(|line| line.trim().strip_prefix(&start));
    let number = values.find_map(|value| value.trim().trim_end_matches(',').parse().ok());
    match number {
        Some(number) => Ok(number),
        None => bail!("the report has no number {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_stand_in_the_report() {
        let report = "{\n  \"command\": [\"true\"],\n  \"phases\": {\n    \"pack\": 1.5,\n    \"command\": 20,\n    \"stop\": 3\n  }\n}";
        assert_eq!(
            Phases::of(report).unwrap(),
            Phases {
                pack: 1.5,
                command: 20.0,
                stop: 3.0
            }
        );
        assert!(Phases::of("{}").unwrap_err().to_string().contains("pack"));
    }
}
