//! Where the time of a run in QEMU goes, by phase, and how fast bytes go in and out there. The same on KVM is
//! `cargo xtask rig timeline` and `ports`.
//!
//! RUNS (7) is how often.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{self, Scratch};
use crate::project::{Project, number_or};
use crate::rig::plan::{self, Engine};
use crate::rig::{compile_bench, random_file, static_program};
use crate::tsv::{self, row};

const MOST: u64 = 4_194_304;
const SIZES: [u64; 4] = [1_048_576, MOST, 16_777_216, 67_108_864];

/// Measures the phases: timeline-qemu.tsv.
pub(super) fn phases(project: &Project) -> Result<()> {
    let work = Scratch::new("rdvm-timeline", "/tmp")?;
    let dir = work.path();
    fs::create_dir(dir.join("hello")).context("the image of a program")?;
    static_program(Path::new("scripts/hello.c"), &dir.join("hello/hello"))?;
    let link = symlink(
        project.bench_images().join("debian"),
        dir.join("debian-image"),
    );
    link.context("a link to the Debian image")?;
    let (small, debian) = (project.small_kernel(), project.debian_kernel()?);
    let (small, debian) = (
        small.exists().then(|| small.display().to_string()),
        debian.display().to_string(),
    );
    let kernels = plan::kernels(small.as_deref(), &debian);
    let plan = plan::runs(
        Engine::Qemu,
        None,
        &dir.display().to_string(),
        &plan::images_in(dir),
        "",
        &kernels,
    );
    let (rounds, text) = timeline(project, dir, &plan)?;
    let kind = format!("medians of {rounds} rounds in turn, wall time, the guest is emulated");
    let table = tsv::head_here(project, &kind)?
        + &row(&["engine", "kernel", "image", "phase", "ms"])
        + &text.replace("\tdebian-image\t", "\tDebian\t");
    tsv::save("timeline-qemu", &table)
}

/// Measures the ways in and out: ports-qemu.tsv.
pub(super) fn ports(project: &Project) -> Result<()> {
    let work = Scratch::new("rdvm-timeline", "/tmp")?;
    let dir = work.path();
    for size in SIZES {
        random_file(&dir.join(format!("blob.{size}")), size)?;
    }
    symlink(project.bench_images().join("libs"), dir.join("libs"))
        .context("a link to the small image")?;
    let plan = plan::ports(Engine::Qemu, &dir.display().to_string(), &SIZES, MOST);
    let (rounds, text) = timeline(project, dir, &plan)?;
    let kind = format!(
        "medians of {rounds} rounds in turn, wall time above that of a run that carries nothing, the guest is emulated"
    );
    tsv::save(
        "ports-qemu",
        &(tsv::head_here(project, &kind)? + &plan::speeds(&text, 0.05)),
    )
}

/// Runs a plan by benches/timeline.rs; returns how often, and what it printed.
fn timeline(project: &Project, dir: &Path, plan: &str) -> Result<(u64, String)> {
    let rounds = number_or("RUNS", 7)?;
    let (program, file) = (dir.join("timeline"), dir.join("plan"));
    compile_bench("timeline", &program)?;
    fs::write(&file, plan).with_context(|| file.display().to_string())?;
    let mut run = Command::new(program);
    run.arg(rounds.to_string())
        .arg(file)
        .env("TMPDIR", dir)
        .env("PATH", path_with(&project.release()?)?);
    Ok((rounds, process::output(&mut run)?))
}

/// PATH with the directory of a program before the others.
fn path_with(program: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let first = program.parent().map(PathBuf::from);
    env::join_paths(first.into_iter().chain(env::split_paths(&path))).context("PATH")
}
