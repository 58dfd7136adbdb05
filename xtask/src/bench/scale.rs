//! The cost of packing and running over the number of files and over bytes, far beyond what images have.
//!
//! FILES (1000 10000 100000 1000000) and MIB (16 64 256 1024 2048) are the sizes. Packing is the least CPU time of ROUNDS (3), to
//! a file in /dev/shm, from a warm cache. Runs in QEMU are CPU time too, up to QEMU_FILES (100000) and QEMU_MIB (2048), for a
//! guest of a million files is emulated for minutes; runs on KVM are counted in the rig, up to KVM_FILES (100000) and KVM_MIB
//! (1024) of the same. From both the run of a single program is taken away. TMPDIR is where there are 4 GiB and a million
//! inodes. Some ten minutes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{Scratch, timed};
use crate::project::{Project, number_or, variable_or};
use crate::rig::{self, random_file, static_program};
use crate::tsv::{self, row};

/// The state that all rows are measured with.
struct Bench {
    rdvm: PathBuf,
    work: Scratch,
    packed: Packed,
    rounds: u64,
    /// CPU milliseconds of a program alone.
    hello: f64,
}

/// A large file in memory that goes with its owner.
struct Packed(PathBuf);

impl Drop for Packed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A row: over what, its key in the counted runs, and its fields.
struct Row {
    over: &'static str,
    key: String,
    fields: Vec<String>,
}

/// Measures all of it: scale.tsv.
pub(super) fn measure(project: Project) -> Result<()> {
    let work = Scratch::new("rdvm-scale", "/var/tmp")?;
    let name = work
        .path()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let mut bench = Bench {
        rdvm: project.release()?,
        packed: Packed(Path::new("/dev/shm").join(format!("{name}.cpio"))),
        rounds: number_or("ROUNDS", 3)?,
        hello: 0.0,
        work,
    };
    let mibs = numbers("MIB", "16 64 256 1024 2048")?;
    let dir = bench.work.path().to_owned();
    for name in ["hello", "archives"] {
        fs::create_dir(dir.join(name)).with_context(|| dir.display().to_string())?;
    }
    static_program(Path::new("scripts/hello.c"), &dir.join("hello/hello"))?;
    bench.hello = bench.running(&dir.join("hello"), 1)?;
    let mut rows = Vec::new();
    for count in numbers("FILES", "1000 10000 100000 1000000")? {
        rows.push(bench.entries(count)?);
    }
    for &mib in &mibs {
        rows.push(bench.bytes(mib)?);
    }
    let most = number_or("KVM_MIB", 1024)?;
    let mibs: Vec<u64> = mibs.into_iter().filter(|mib| *mib <= most).collect();
    let here = tsv::head_here(
        &project,
        &format!(
            "packing and QEMU: least CPU time of {} rounds; KVM: counted instructions in the rig",
            bench.rounds
        ),
    )?;
    let counted = rig::scale(project, &dir.join("archives"), &mibs).unwrap_or_else(|error| {
        eprintln!("bench-scale: the rig gave no figures, so those on KVM are missing: {error:#}");
        Vec::new()
    });
    let mut table = here
        + &row(&[
            "over",
            "entries",
            "MiB",
            "pack, CPU ms",
            "boot in QEMU, CPU ms",
            "boot on KVM, ms",
        ]);
    for Row {
        over,
        key,
        mut fields,
    } in rows
    {
        let on_kvm = counted
            .iter()
            .find(|(what, size, _)| what == over && *size == key);
        fields.push(on_kvm.map_or("-".to_owned(), |(_, _, ms)| format!("{ms:.1}")));
        table += &row(&fields);
    }
    tsv::save("scale", &table)
}

fn numbers(name: &str, default: &str) -> Result<Vec<u64>> {
    let text = variable_or(name, default);
    let numbers: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
    numbers.with_context(|| {
        format!("{name}: '{text}' is not a list of numbers; write it as in '{default}'")
    })
}

impl Bench {
    /// That many files of ten bytes, 250 in a directory.
    fn entries(&self, count: u64) -> Result<Row> {
        let tree = self.tree()?;
        for at in 0..count {
            let dir = tree.join((at / 250).to_string());
            if at % 250 == 0 {
                fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
            }
            fs::write(dir.join(format!("file{at}")), format!("{at:09}\n"))
                .with_context(|| dir.display().to_string())?;
        }
        let mib = count as f64 * 10.0 / 1_048_576.0;
        let row = self.row("entries", count, mib, &tree, &count.to_string())?;
        if count <= number_or("KVM_FILES", 100_000)? {
            let archive = self.work.path().join(format!("archives/{count}.cpio"));
            self.cpu(
                Command::new(&self.rdvm)
                    .arg("pack")
                    .arg("-o")
                    .arg(archive)
                    .arg(&tree),
            )?;
        }
        remove(&tree)?;
        Ok(row)
    }

    /// So many MiB in eight files, of bytes that nothing can leave out.
    fn bytes(&self, mib: u64) -> Result<Row> {
        let tree = self.tree()?;
        for part in 1..=8 {
            random_file(&tree.join(part.to_string()), mib << 17)?;
        }
        let row = self.row("bytes", 8, mib as f64, &tree, &mib.to_string())?;
        remove(&tree)?;
        Ok(row)
    }

    /// A directory with the program that is run.
    fn tree(&self) -> Result<PathBuf> {
        let tree = self.work.path().join("tree");
        fs::create_dir(&tree).with_context(|| tree.display().to_string())?;
        fs::copy(self.work.path().join("hello/hello"), tree.join("hello")).context("hello")?;
        Ok(tree)
    }

    /// A row of a tree that was made.
    fn row(
        &self,
        over: &'static str,
        entries: u64,
        mib: f64,
        tree: &Path,
        key: &str,
    ) -> Result<Row> {
        let pack = self.packing(tree)?;
        let fits = entries <= number_or("QEMU_FILES", 100_000)?
            && mib as u64 <= number_or("QEMU_MIB", 2048)?;
        let run = match fits {
            true => format!(
                "{:.0}",
                (self.running(tree, mib as u64)? - self.hello).max(0.0)
            ),
            false => "-".to_owned(),
        };
        let mib = if over == "entries" {
            format!("{mib:.2}")
        } else {
            format!("{mib:.0}")
        };
        let fields = vec![
            over.to_owned(),
            entries.to_string(),
            mib,
            format!("{pack:.0}"),
            run,
        ];
        eprint!("{}", row(&fields));
        Ok(Row {
            over,
            key: key.to_owned(),
            fields,
        })
    }

    fn packing(&self, tree: &Path) -> Result<f64> {
        self.least(|| {
            self.cpu(
                Command::new(&self.rdvm)
                    .arg("pack")
                    .arg("-o")
                    .arg(&self.packed.0)
                    .arg(tree),
            )
        })
    }

    fn running(&self, tree: &Path, mib: u64) -> Result<f64> {
        self.least(|| {
            self.touch(mib)?;
            self.cpu(
                Command::new(&self.rdvm)
                    .args(["run", "-q", "--engine", "qemu"])
                    .arg(tree)
                    .arg("/hello"),
            )
        })
    }

    fn least(&self, measure: impl Fn() -> Result<f64>) -> Result<f64> {
        let mut least = f64::INFINITY;
        for _ in 0..self.rounds {
            least = least.min(measure()?);
        }
        Ok(least)
    }

    /// Milliseconds of user and system time.
    fn cpu(&self, command: &mut Command) -> Result<f64> {
        Ok((timed(command, &self.work.path().join("log"))?.cpu() * 1e3).round())
    }

    /// Has memory for a run of so many MiB touched and given back. Where this machine is itself a virtual one, what it has not
    /// used for a while is not there, and each first touch costs ten times what a page of its own kernel does.
    fn touch(&self, mib: u64) -> Result<()> {
        let file = &self.packed.0;
        let block = vec![0; 1 << 20];
        let mut out = fs::File::create(file).with_context(|| file.display().to_string())?;
        for _ in 0..mib * 3 + 1024 {
            std::io::Write::write_all(&mut out, &block)
                .with_context(|| file.display().to_string())?;
        }
        fs::remove_file(file).with_context(|| file.display().to_string())
    }
}

fn remove(tree: &Path) -> Result<()> {
    fs::remove_dir_all(tree).with_context(|| tree.display().to_string())
}
