//! Planned against least RAM by bisection with both kernels, some twenty minutes (benches/memory.rs).

use std::fs;
use std::io;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::process::{self, Scratch};
use crate::project::{Project, variable_or};
use crate::tsv::{self, row};

/// Measures it: memory.tsv. The bench fails when a plan is too large, which is no reason not to show it.
pub(super) fn measure(project: &Project) -> Result<ExitCode> {
    let work = Scratch::new("rdvm-memory", "/tmp")?;
    let one = work.path().join("one");
    let mut code = ExitCode::SUCCESS;
    let mut rows = String::new();
    for (kernel, name) in [
        (project.small_kernel(), "small kernel"),
        (project.debian_kernel()?, "Debian's kernel"),
    ] {
        if !kernel.exists() {
            continue;
        }
        let mut bench = Command::new(variable_or("CARGO", "cargo"));
        bench
            .args(["bench", "--quiet", "--bench", "memory"])
            .env("RDVM_KERNEL", &kernel);
        bench
            .env("RDVM_MEMORY_TSV", &one)
            .env("RDVM_TEST_IMAGES", project.bench_images());
        let status = bench.stdout(io::stderr()).status();
        if !status.with_context(|| process::shown(&bench))?.success() {
            code = ExitCode::FAILURE;
        }
        let text = fs::read_to_string(&one).with_context(|| one.display().to_string())?;
        rows += &with_kernel(&text, name);
    }
    let columns = [
        "image",
        "kernel",
        "initrd MiB",
        "planned MiB",
        "need MiB",
        "least with room MiB",
        "least that boots MiB",
    ];
    let head = tsv::head_here(project, "least RAM found by bisection to the mebibyte")?;
    tsv::save("memory", &(head + &row(&columns) + &rows))?;
    Ok(code)
}

/// The bench's rows with the kernel as their second column.
fn with_kernel(text: &str, kernel: &str) -> String {
    let rows = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once('\t'));
    rows.map(|(image, rest)| row(&[image, kernel, rest]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_the_second_column() {
        assert_eq!(
            with_kernel("image\tinitrd_mib\nlibs\t2\t3\n", "small"),
            "libs\tsmall\t2\t3\n"
        );
    }
}
