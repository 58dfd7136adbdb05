//! Runs of ever more files and ever more bytes on KVM, with counted instructions.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use super::measured::machine;
use super::outer::Outer;
use crate::process::read_lossy;
use crate::project::{Project, variable_or};
use crate::tsv::{Sums, phases, row};

/// Writes lines of what, how many, and milliseconds above those of a program alone, for runs of the archives of files in a
/// directory and of images of `KVM_MIB` MiB.
pub(super) fn scale_to(project: Project, archives: &Path, out: &Path) -> Result<ExitCode> {
    let sizes: Result<Vec<u64>, _> = variable_or("KVM_MIB", "")
        .split_whitespace()
        .map(str::parse)
        .collect();
    let rows = scale(
        project,
        archives,
        &sizes.context("KVM_MIB is a list of numbers, as in '16 64'")?,
    )?;
    let lines: String = rows
        .iter()
        .map(|(what, size, ms)| row(&[what, size, &format!("{ms:.1}")]))
        .collect();
    fs::write(out, lines).with_context(|| out.display().to_string())?;
    Ok(ExitCode::SUCCESS)
}

/// Runs of archives and of images of so many MiB, made inside, as far as the outer machine's memory goes.
pub(crate) fn scale(
    project: Project,
    archives: &Path,
    mibs: &[u64],
) -> Result<Vec<(String, String, f64)>> {
    let rig = machine(project)?;
    let image = &rig.image;
    image.make_dir("bench/archives")?;
    let run = |what: &str, size: &str, path: &str| {
        row(&[
            "KVM", what, size, "rdvm", "run", "-q", "--engine", "kvm", "--report", "REPORT", path,
            "/hello",
        ])
    };
    let mut plan = run("hello", "0", "/bench/hello");
    let mut counts: Vec<u64> = Vec::new();
    for entry in fs::read_dir(archives).with_context(|| archives.display().to_string())? {
        let name = entry
            .with_context(|| archives.display().to_string())?
            .file_name();
        counts.extend(
            name.to_string_lossy()
                .strip_suffix(".cpio")
                .and_then(|size| size.parse::<u64>().ok()),
        );
    }
    counts.sort_unstable();
    let (mut most, mut all) = (0, 0);
    for count in counts {
        let name = format!("bench/archives/{count}.cpio");
        image.copy(&archives.join(format!("{count}.cpio")), &name)?;
        plan += &run("entries", &count.to_string(), &format!("/{name}"));
        most = count * 6 / 1024;
    }
    let mut script = String::new();
    for mib in mibs {
        script += &format!(
            "mkdir /bench/{mib}; cp /bench/hello/hello /bench/{mib}; for part in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of=/bench/{mib}/$part bs=128k count={mib} 2>/dev/null; done; "
        );
        plan += &run("bytes", &mib.to_string(), &format!("/bench/{mib}"));
        all += mib;
        most = most.max(mib * 5 / 2);
    }
    image.write("bench/plan", plan)?;
    let (out, memory) = (
        rig.dir.join("phases.scale"),
        format!("{}m", 1024 + all + most),
    );
    script += "exec /rig/timeline 0 /bench/plan";
    let outer = Outer::new("scale", &memory, &["sh", "-c", &script]);
    rig.outer_into(&out, outer.counted().limited("3600s"))?;
    Ok(above_hello(&read_lossy(&out)))
}

/// The sums of phases above those of a program alone.
fn above_hello(text: &str) -> Vec<(String, String, f64)> {
    let mut hello = 0.0;
    let mut sums = Sums::new();
    for phase in phases(text) {
        match phase.labels {
            [_, "hello", _] => hello += phase.ms,
            [_, what, size] => sums.add((what.to_owned(), size.to_owned()), phase.ms),
        }
    }
    let rows = sums.0.into_iter();
    rows.map(|((what, size), sum)| (what, size, sum - hello))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_above_those_of_a_program_alone() {
        let text = "KVM\thello\t0\ta\t1\nKVM\thello\t0\tb\t2\nKVM\tentries\t9\ta\t5\nKVM\tentries\t9\tb\t5.5\n";
        assert_eq!(
            above_hello(text),
            [("entries".to_owned(), "9".to_owned(), 7.5)]
        );
    }
}
