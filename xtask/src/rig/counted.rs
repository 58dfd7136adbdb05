//! Measurements with counted instructions in the rig.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use super::measured::{add_qemu, head, machine, random_file};
use super::outer::Outer;
use super::plan::{Engine, ports as plan_ports, speeds};
use super::{Rig, code, say};
use crate::figures;
use crate::process::{self, command, read_lossy};
use crate::project::{Project, variable_or};
use crate::tsv::{self, row};

/// Measures rdvm beside QEMU's machines (benches/boot.rs).
pub(super) fn peers(project: Project) -> Result<ExitCode> {
    let rig = machine(project)?;
    add_qemu(&rig)?;
    let (out, debian) = (
        rig.dir.join("peers"),
        rig.image.debian.display().to_string(),
    );
    let words = [
        "/rig/boot",
        "all",
        &debian,
        "/cache/kernel/vmlinux",
        "/bench/bzimage",
        "/bench/initrd",
        "/bench/guest",
        "/bench/dir",
    ];
    rig.outer_into(&out, Outer::new("bench", "1g", &words).counted())?;
    let table = head(
        &rig,
        "counted instructions on KVM in the rig, one a nanosecond; guest RAM 144 MiB",
    )? + &row(&[
        "what",
        "exec to user space, ms",
        "exec to exit, ms",
        "a byte of output, us",
    ]) + &read_lossy(&out);
    tsv::save("peers", &table)?;
    Ok(ExitCode::SUCCESS)
}

/// Measures how fast bytes go in and out on KVM.
pub(super) fn ports(project: Project) -> Result<ExitCode> {
    let sizes = [4096, 65536, 1_048_576, 16_777_216];
    let rig = machine(project)?;
    for size in sizes {
        random_file(&rig.image.path(&format!("bench/blob.{size}")), size)?;
    }
    rig.image.write(
        "bench/plan",
        plan_ports(Engine::Kvm, "/bench", &sizes, 1_048_576),
    )?;
    let out = rig.dir.join("phases.ports");
    let outer = Outer::new("ports", "2g", &["/rig/timeline", "0", "/bench/plan"]);
    rig.outer_into(&out, outer.counted().limited("1800s"))?;
    let kind =
        "counted instructions on KVM in the rig; time of a run above one that carries nothing";
    tsv::save(
        "ports-kvm",
        &(head(&rig, kind)? + &speeds(&read_lossy(&out), 0.0)),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the phases of any runs on KVM; the plan is as benches/timeline.rs says, words of sh go before.
pub(super) fn any(project: Project, plan: &Path, words: &str) -> Result<ExitCode> {
    let rig = machine(project)?;
    rig.image.copy(plan, "bench/plan")?;
    let script = format!("{words}\nexec /rig/timeline 0 /bench/plan");
    let memory = variable_or("RIG_MEMORY", "2g");
    let outer = Outer::new("plan", &memory, &["sh", "-c", &script]);
    rig.outer(&outer.counted().limited("1800s")).map(code)
}

/// Writes the table of what a start costs now; a second time when a machine came to no end (docs/testing.md).
fn counted(project: Project) -> Result<PathBuf> {
    let rig = machine(project)?;
    let file = rig.dir.join("counts.tsv");
    if let Err(error) = counts(&rig, &file) {
        say!("not counted to the end; once more: {error:#}");
        counts(&rig, &file)?;
    }
    Ok(file)
}

/// The table of benches/counts.rs, below a head that says what it depends on.
fn counts(rig: &Rig, file: &Path) -> Result<()> {
    let listed = process::output(Command::new("ldd").arg(&rig.rdvm))?;
    let libc = listed
        .split_whitespace()
        .find(|word| word.starts_with('/') && word.ends_with("/libc.so.6"));
    let libc =
        libc.context("rdvm has no C library of its own name; count it where it is linked to one")?;
    let symbols = process::output(command(&["nm", "-D", "--defined-only"]).arg(libc))?;
    let mut words = vec!["/rig/counts", libc];
    for name in ["malloc", "calloc", "realloc", "posix_memalign"] {
        words.push(address(&symbols, name).with_context(|| format!("{libc} has no {name}"))?);
    }
    let out = rig.dir.join("counts");
    rig.outer_into(&out, Outer::new("counts", "1g", &words).counted())?;
    let kind =
        "counted on KVM in the rig: instructions as ms, exits, and what rdvm asks of the host";
    fs::write(file, head(rig, kind)? + &read_lossy(&out))
        .with_context(|| file.display().to_string())
}

/// The address of a function, in hexadecimal, by what nm prints.
fn address<'a>(symbols: &'a str, name: &str) -> Option<&'a str> {
    symbols.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next()?;
        let symbol = words.nth(1)?;
        (symbol.split('@').next() == Some(name)).then_some(address)
    })
}

/// Compares what a start costs now with what is committed; fails when a figure has grown by more than 5 %.
pub(super) fn check(project: Project) -> Result<ExitCode> {
    let measured = counted(project)?;
    figures::command::check(Path::new("benches/results/counts.tsv"), &measured)
}

/// Makes what a start costs now what is committed.
pub(super) fn accept(project: Project) -> Result<ExitCode> {
    let measured = counted(project)?;
    fs::copy(&measured, "benches/results/counts.tsv").context("benches/results/counts.tsv")?;
    say!("benches/results/counts.tsv is written; make bench-draw shows it in docs/performance.md");
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_that_of_the_first_version_of_a_function() {
        let symbols = "0000000000097a30 T malloc@@GLIBC_2.2.5\n0000000000012345 W calloc@GLIBC\n1 T xmalloc\n";
        assert_eq!(address(symbols, "malloc"), Some("0000000000097a30"));
        assert_eq!(address(symbols, "calloc"), Some("0000000000012345"));
        assert_eq!(address(symbols, "free"), None);
    }
}
