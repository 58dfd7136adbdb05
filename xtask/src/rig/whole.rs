//! Whole runs of three images on KVM, rdvm's by phase, beside QEMU's: with counted instructions.

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use super::Rig;
use super::measured::{add_qemu, head, machine};
use super::outer::Outer;
use super::plan::{self, Engine};
use crate::process::{self, read_lossy};
use crate::project::{Project, variable_or};
use crate::tsv::{self, Sums, phases, row};

const NAMES: [&str; 3] = ["hello", "debian-image", "files"];

/// A row that measures nothing. The clock of the rig is behind the times of the images' files.
const SETTLE: &str = "settle\t-\t-\tdate\t-s\t2030-01-01 00:00\n";

/// Measures them: benches/results/timeline-kvm.tsv and whole.tsv.
pub(super) fn timeline(project: Project) -> Result<ExitCode> {
    let rig = machine(project)?;
    add_qemu(&rig)?;
    add_images(&rig)?;
    let debian = rig.image.debian.display().to_string();
    let small = rig.image.small.as_ref().map(|_| "/cache/kernel/vmlinux");
    let kernels = plan::kernels(small, &debian);
    // The archives are those that QEMU gets, so that nothing of a directory is packed.
    let unpacked = Some("rdvm, unpacked");
    let unpacked = plan::runs(Engine::Kvm, unpacked, "/bench", &NAMES, "", &kernels);
    // What has changed in the last ten seconds is not kept.
    let plan = SETTLE.to_owned()
        + &plan::runs(Engine::Kvm, None, "/bench", &NAMES, "", &kernels)
        + &unpacked.replace("\trun\t", "\trun\t--root\tinitrd\t")
        + &plan::runs(
            Engine::Kvm,
            Some("rdvm of the archive"),
            "/bench",
            &NAMES,
            ".cpio",
            &kernels,
        )
        + &plan::peers("/bench", &NAMES, &kernels);
    // benches/timeline.rs says why.
    rig.image.write(
        "bench/plan",
        plan.replace("\trun\t", "\trun\t--timeout\t10s\t"),
    )?;
    let (out, memory) = (rig.dir.join("phases"), variable_or("RIG_MEMORY", "4g"));
    let outer = Outer::new("timeline", &memory, &["/rig/timeline", "1", "/bench/plan"]);
    rig.outer_into(&out, outer.counted().limited("1800s"))?;
    let text = read_lossy(&out)
        .replace("\tdebian-image\t", "\tDebian\t")
        .replace("\tfiles\t", "\t50,000 files\t");
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with("settle\t"))
        .map(|line| format!("{line}\n"))
        .collect();
    let kvm = text.lines().filter(|line| line.starts_with("KVM\t"));
    let kvm: String = kvm.map(|line| format!("{line}\n")).collect();
    let table = head(
        &rig,
        "counted instructions on KVM in the rig, one a nanosecond",
    )? + &row(&["engine", "kernel", "image", "phase", "ms"])
        + &kvm;
    fs::write("benches/results/timeline-kvm.tsv", table)
        .context("benches/results/timeline-kvm.tsv")?;
    let kind = "counted instructions on KVM in the rig, from exec to exit, ms; rdvm packs while it runs, for QEMU the archive was ready; second run";
    tsv::save("whole", &(head(&rig, kind)? + &whole(&text)))?;
    Ok(ExitCode::SUCCESS)
}

/// Three images, and archives of them for QEMU with benches/guest.c as PID 1: a program alone, the Debian image without what
/// apt and dpkg could do without (107 MB), 50,000 files of ten bytes in 200 directories.
fn add_images(rig: &Rig) -> Result<()> {
    let image = &rig.image;
    image.make_dir("bench/files")?;
    image.copy(&image.path("bench/hello/hello"), "bench/files/hello")?;
    for directory in 0..200 {
        let name = format!("bench/files/{directory:03}");
        image.make_dir(&name)?;
        for number in 0..250 {
            image.write(
                &format!("{name}/file{number:03}"),
                format!("{:09}\n", number + 1),
            )?;
        }
    }
    add_debian(rig)?;
    let init = fs::read(image.path("bench/initrd")).context("the initrd of the guest")?;
    for name in NAMES {
        let archive = image.path(&format!("bench/{name}.cpio"));
        let mut pack = Command::new(&rig.rdvm);
        process::run(
            pack.arg("pack")
                .arg(image.path(&format!("bench/{name}")))
                .arg("-o")
                .arg(&archive),
        )?;
        let mut file = fs::File::options()
            .append(true)
            .open(&archive)
            .with_context(|| archive.display().to_string())?;
        std::io::Write::write_all(&mut file, &init)
            .with_context(|| archive.display().to_string())?;
    }
    Ok(())
}

fn add_debian(rig: &Rig) -> Result<()> {
    let (from, to) = (
        rig.project.images.join("debian"),
        rig.image.path("bench/debian-image"),
    );
    copy_lean_debian(&from, &to)
}

/// Copies the Debian image without documents and apt's lists.
pub(crate) fn copy_lean_debian(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let copied = process::run(Command::new("cp").arg("-a").arg(from).arg(to));
    copied.with_context(|| {
        format!(
            "{} is missing; scripts/make-images.sh makes it",
            from.display()
        )
    })?;
    for name in [
        "usr/share/doc",
        "usr/share/man",
        "var/cache/apt",
        "var/lib/apt/lists",
    ] {
        let dir = to.join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
        }
    }
    Ok(())
}

/// The sums of the phases: a row for each program and kernel, a column for each image.
fn whole(text: &str) -> String {
    let mut table = row(&[
        "what",
        "hello",
        "Debian",
        "50,000 files",
        "Debian above hello",
        "50,000 files above hello",
    ]);
    let mut rows: Vec<(String, Sums<&str>)> = Vec::new();
    for phase in phases(text) {
        let [engine, kernel, image] = phase.labels;
        let name = format!(
            "{}, {kernel}",
            if engine == "KVM" { "rdvm" } else { engine }
        );
        if !rows.iter().any(|(known, _)| *known == name) {
            rows.push((name.clone(), Sums::new()));
        }
        if let Some((_, sums)) = rows.iter_mut().find(|(known, _)| *known == name) {
            sums.add(image, phase.ms);
        }
    }
    for (name, sums) in rows {
        let [hello, tree, files] = ["hello", "Debian", "50,000 files"].map(|image| sums.of(&image));
        let figures = [hello, tree, files, tree - hello, files - hello];
        let mut fields = vec![name];
        fields.extend(figures.map(|figure| format!("{figure:.1}")));
        table += &row(&fields);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_runs_are_the_sums_of_their_phases() {
        let text = "KVM\tk\thello\ta\t1\nKVM\tk\thello\tb\t1.5\nKVM\tk\tDebian\ta\t10\nKVM\tk\t50,000 files\ta\t20\n\
            QEMU microvm\tk\thello\twhole run\t4\n";
        let table = whole(text);
        let lines: Vec<&str> = table.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "rdvm, k\t2.5\t10.0\t20.0\t7.5\t17.5",
                "QEMU microvm, k\t4.0\t0.0\t0.0\t-4.0\t-4.0"
            ]
        );
    }
}
