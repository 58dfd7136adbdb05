//! rdvm side by side, in one run, with what one would use instead:
//!
//! - packing: find | sort | cpio, bsdcpio and GNU tar, on the Debian image and on 50,000 small files
//! - a whole run: the cookbook's recipe (scripts/cookbook.sh) with the same tree and kernel, on both images
//!
//! RUNS (10) is how often. Files are in the page cache, output goes to a file in TMPDIR.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::median;
use crate::process::{Scratch, Times, command, timed};
use crate::project::{Project, number_or};
use crate::tsv::{self, row};

/// Both comparisons.
pub(super) fn both(project: &Project) -> Result<()> {
    packing(project)?;
    runs(project)
}

/// Compares packing.
pub(super) fn packing(project: &Project) -> Result<()> {
    let work = Scratch::new("rdvm-bench", "/tmp")?;
    let small = work.path().join("small");
    for directory in 1..=250 {
        let dir = small.join(directory.to_string());
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        for number in 0..200 {
            fs::write(
                dir.join(format!("file{number:03}")),
                format!("{}\n", number + 1),
            )
            .context("a small file")?;
        }
    }
    let rdvm = project.release()?.display().to_string();
    let packed = work.path().join("packed").display().to_string();
    let mut rows = String::new();
    for (task, dir) in [
        ("the Debian image", project.bench_images().join("debian")),
        ("50,000 small files", small),
    ] {
        let dir = dir.display();
        let list = format!("cd {dir} && find . -print0 | LC_ALL=C sort -z");
        rows += &compare(
            task,
            &[
                ("rdvm pack", format!("{rdvm} pack {dir} -o {packed}")),
                (
                    "GNU tar",
                    format!("tar -C {dir} --sort=name -cf {packed} ."),
                ),
                (
                    "find, sort, bsdcpio",
                    format!("{list} | bsdcpio -0 -o -H newc --quiet >{packed}"),
                ),
                (
                    "find, sort, cpio",
                    format!("{list} | cpio -0 -o -H newc --quiet >{packed}"),
                ),
            ],
            work.path(),
        )?;
    }
    save(project, "packing", &rows)
}

/// Compares whole runs: rdvm as it comes, with the small kernel where that is built, and with the cookbook's kernel.
pub(super) fn runs(project: &Project) -> Result<()> {
    let work = Scratch::new("rdvm-bench", "/tmp")?;
    let rdvm = project.release()?.display().to_string();
    let kernel = project.debian_kernel()?.display().to_string();
    let cookbook = project
        .top
        .join("scripts/cookbook.sh")
        .display()
        .to_string();
    let mut rows = String::new();
    for name in ["libs", "debian"] {
        let image = project.bench_images().join(name).display().to_string();
        let run = format!("timeout 120 {rdvm} run --engine qemu");
        rows += &compare(
            name,
            &[
                ("rdvm run", format!("{run} {image}")),
                (
                    "rdvm run, Debian's kernel",
                    format!("{run} --kernel {kernel} {image}"),
                ),
                ("the cookbook", format!("{cookbook} {image} {kernel}")),
            ],
            work.path(),
        )?;
    }
    save(project, "runs", &rows)
}

/// Rows of medians; ratios are to the last command, and below 1 is faster. The commands take turns, in reverse order in every
/// second round, so that a busy machine slows all of them alike.
fn compare(task: &str, commands: &[(&str, String)], work: &Path) -> Result<String> {
    let mut times: Vec<Vec<Times>> = vec![Vec::new(); commands.len()];
    for round in 0..=number_or("RUNS", 10)? {
        for turn in 0..commands.len() {
            let at = if round % 2 == 1 {
                commands.len() - 1 - turn
            } else {
                turn
            };
            let taken = timed(
                &command(&["bash", "-c", &commands[at].1]),
                &work.join("log"),
            )?;
            // The first round only warms the caches.
            if round > 0 {
                times[at].push(taken);
            }
        }
    }
    let names = commands.iter().map(|(name, _)| *name);
    Ok(rows(task, &names.zip(times).collect::<Vec<_>>()))
}

fn rows(task: &str, measured: &[(&str, Vec<Times>)]) -> String {
    let medians = |times: &[Times]| {
        let wall = median(times.iter().map(|times| times.wall));
        (wall, median(times.iter().map(|times| times.cpu())))
    };
    let Some((_, reference)) = measured.last() else {
        return String::new();
    };
    let reference = medians(reference);
    let mut text = String::new();
    for (name, times) in measured {
        let (wall, cpu) = medians(times);
        let walls = times.iter().map(|times| times.wall * 1e3);
        let (least, most) = walls.fold((f64::INFINITY, 0.0), |(least, most): (f64, f64), wall| {
            (least.min(wall), most.max(wall))
        });
        text += &row(&[
            (*name).to_owned(),
            task.to_owned(),
            format!("{:.0}", wall * 1e3),
            format!("{least:.0}..{most:.0}"),
            format!("{:.0}", cpu * 1e3),
            format!("{:.2}", wall / reference.0),
            format!("{:.2}", cpu / reference.1),
        ]);
    }
    text
}

fn save(project: &Project, name: &str, rows: &str) -> Result<()> {
    let rounds = number_or("RUNS", 10)?;
    let kind = format!(
        "medians of {rounds} rounds in turn, wall and CPU time of all processes; in CPU time the guest, emulated"
    );
    let columns = row(&[
        "what",
        "task",
        "wall, ms",
        "least..most",
        "CPU, ms",
        "wall ratio",
        "CPU ratio",
    ]);
    tsv::save(name, &(tsv::head_here(project, &kind)? + &columns + rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_the_last_row() {
        let times = |wall: f64| Times {
            wall,
            user: wall / 4.0,
            system: wall / 4.0,
        };
        let measured = [("a", vec![times(1.0), times(3.0)]), ("b", vec![times(4.0)])];
        assert_eq!(
            rows("t", &measured),
            "a\tt\t2000\t1000..3000\t1000\t0.50\t0.50\nb\tt\t4000\t4000..4000\t2000\t1.00\t1.00\n"
        );
    }
}
