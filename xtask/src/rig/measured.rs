//! The outer machine for measurements: the release build of rdvm, and what it is measured with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::Rig;
use super::build::{cargo, static_program};
use super::outer::Machine;
use crate::process::{self, command};
use crate::project::{Project, program};
use crate::tsv;

/// rdvm in an image for measuring, below /bin whatever this directory is called, and what is measured: benches/guest.c as a PID 1
/// in an initrd and beside a directory, the small image, files to pack.
pub(super) fn machine(project: Project) -> Result<Rig> {
    process::run(cargo().args(["build", "--quiet", "--release"]))?;
    let rdvm = project.target.join("release/rdvm");
    let rig = Rig::new(project, "rig-bench", rdvm, Machine::Qemu)?;
    let image = &rig.image;
    image.copy(&rig.rdvm, "bin/rdvm")?;
    image.add_libraries(&[&rig.rdvm])?;
    for name in ["boot", "counts", "timeline"] {
        let out = image.path("rig").join(name);
        compile_bench(name, &out)?;
        image.add_libraries(&[&out])?;
    }
    for name in ["bench/dir", "bench/many", "bench/libs/bin", "bench/hello"] {
        image.make_dir(name)?;
    }
    let guest = rig.dir.join("guest");
    fs::create_dir_all(&guest).with_context(|| guest.display().to_string())?;
    const FLAGS: &str = "-Wall -Os -s -static -nostdlib -fno-stack-protector -fno-builtin -Wl,--build-id=none -Wl,-z,noseparate-code -Wl,-z,norelro";
    let mut gcc = Command::new("gcc");
    process::run(
        gcc.args(FLAGS.split(' '))
            .arg("-o")
            .arg(image.path("bench/guest"))
            .arg("benches/guest.c"),
    )?;
    image.write("bench/dir/file", "An image must not be empty.\n")?;
    fs::copy(image.path("bench/guest"), guest.join("init")).context("the guest as an init")?;
    process::run(
        Command::new(&rig.rdvm)
            .arg("pack")
            .arg(&guest)
            .arg("-o")
            .arg(image.path("bench/initrd")),
    )?;
    image.link(&image.debian, "bench/debian")?;
    image.copy(&image.kernel, "bench/bzimage")?;
    static_program(
        Path::new("scripts/hello.c"),
        &image.path("bench/hello/hello"),
    )?;
    image.copy(&image.path("bin/busybox"), "bench/libs/bin/busybox")?;
    for directory in 0..20 {
        let name = format!("bench/many/{directory:02}");
        image.make_dir(&name)?;
        for number in 0..100 {
            image.write(
                &format!("{name}/file{number:03}"),
                format!("{}\n", number + 1),
            )?;
        }
    }
    Ok(rig)
}

/// Compiles a program of benches that is a single file.
pub(crate) fn compile_bench(name: &str, out: &Path) -> Result<()> {
    let mut rustc = command(&[
        "rustc",
        "--edition",
        "2024",
        "-O",
        "-C",
        "strip=symbols",
        "-o",
    ]);
    process::run(rustc.arg(out).arg(format!("benches/{name}.rs")))
}

/// Puts Debian's QEMU, with its libraries and firmware, into the image.
pub(super) fn add_qemu(rig: &Rig) -> Result<()> {
    let install =
        |from: &Path, to: PathBuf| process::run(command(&["install", "-D"]).arg(from).arg(to));
    let qemu = rig.image.path("usr/bin/qemu-system-x86_64");
    install(&program("qemu-system-x86_64")?, qemu.clone())?;
    rig.image.add_libraries(&[&qemu])?;
    for name in ["pvh", "linuxboot", "linuxboot_dma", "kvmvapic"] {
        let file = PathBuf::from(format!("/usr/share/qemu/{name}.bin"));
        install(&file, rig.image.inside(&file))?;
    }
    for name in ["256k", "microvm"] {
        let file = PathBuf::from(format!("/usr/share/seabios/bios-{name}.bin"));
        install(&file, rig.image.inside(&file))?;
    }
    Ok(())
}

/// The head of a table of results, without the machine: counted figures do not depend on it, but on the versions.
pub(super) fn head(rig: &Rig, kind: &str) -> Result<String> {
    let rustc = process::output(&mut command(&["rustc", "--version"]))?;
    let rustc: Vec<&str> = rustc.split(' ').take(2).collect();
    let small = rig
        .image
        .small
        .as_deref()
        .map(tsv::release_inside)
        .unwrap_or_default();
    Ok(format!(
        "{}# with: {}, Linux {}, small kernel {small}, {}\n",
        tsv::head(kind)?,
        tsv::qemu()?.replacen(" emulator version", "", 1),
        tsv::release_of_name(&rig.image.kernel),
        rustc.join(" ")
    ))
}

/// Writes a file of bytes that nothing can compress.
pub(crate) fn random_file(path: &Path, size: u64) -> Result<()> {
    use std::io::{Read, copy};
    let shown = || path.display().to_string();
    let mut file = fs::File::create(path).with_context(shown)?;
    let random = fs::File::open("/dev/urandom").context("/dev/urandom")?;
    copy(&mut random.take(size), &mut file).with_context(shown)?;
    Ok(())
}
