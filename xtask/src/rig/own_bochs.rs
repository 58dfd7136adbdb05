//! A Bochs without debugger and SMP, three times as fast as Debian's; built once, from the source package of trixie.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::say;
use crate::process::{self, command};
use crate::project::Project;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const FLAGS: &str = "-O3 -march=native -fomit-frame-pointer -pipe -w";
const OPTIONS: &str = "--with-nogui --enable-cpu-level=6 --enable-x86-64 --enable-vmx=2 --enable-avx --enable-evex --enable-fpu \
    --enable-pci --enable-all-optimizations --disable-plugins --disable-smp --disable-debugger --disable-gdb-stub \
    --disable-docbook --enable-show-ips";
/// Fixed upstream in 3.1 (#556): KVM's posted interrupt descriptor is aligned to 64 bytes, not to a page.
const FIX: &str = r"s/if (! IsValidPageAlignedPhyAddr(vm->pid_addr))/if (! IsValidPhyAddr(vm->pid_addr) || (vm->pid_addr \& 63))/";

/// Builds it where it is not there; returns the program.
pub(super) fn build(project: &Project) -> Result<PathBuf> {
    let dir = project.target.join("bochs");
    let program = dir.join("bochs");
    if program.exists() {
        return Ok(program);
    }
    if !Path::new(KEYRING).exists() {
        bail!("{KEYRING} is missing; install debian-archive-keyring");
    }
    let mirror = process::output(&mut command(&["scripts/mirror.sh"]))?;
    let (new, log) = (
        project.target.join("bochs.new"),
        project.target.join("bochs.log"),
    );
    process::run(command(&["rm", "-rf", "--one-file-system"]).args([&dir, &new]))?;
    for name in [
        "state/lists/partial",
        "archives/partial",
        "sources",
        "src",
        "package",
    ] {
        fs::create_dir_all(new.join(name)).with_context(|| new.display().to_string())?;
    }
    let source = format!(
        "deb-src [signed-by={KEYRING}] {} trixie main\n",
        mirror.trim()
    );
    for (name, text) in [("status", ""), ("sources/trixie.list", &source)] {
        fs::write(new.join(name), text).with_context(|| new.display().to_string())?;
    }
    say!(
        "building Bochs from the source in {}, some minutes; see {}",
        mirror.trim(),
        log.display()
    );
    let built = process::run(&mut script(&new, &log)?);
    built.with_context(|| format!("Bochs could not be built, see {}", log.display()))?;
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    fs::rename(new.join("src/bochs"), &program).with_context(|| program.display().to_string())?;
    process::run(command(&["rm", "-rf", "--one-file-system"]).arg(&new))?;
    Ok(program)
}

/// The commands that fetch, patch and compile it below a directory. apt keeps lists and packages of its own there, and needs no
/// root.
fn script(new: &Path, log: &Path) -> Result<Command> {
    const SCRIPT: &str = r#"
        new=$1 fix=$2 flags=$3 options=$4
        private=(-q -o "Dir::State=$new/state" -o "Dir::State::status=$new/status" -o "Dir::Cache=$new"
            -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$new/sources" -o "APT::Sandbox::User=$(id -un)"
            -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null -o Acquire::Languages=none)
        apt-get "${private[@]}" update
        # The archive with the source is what counts; a mirror that has not the .dsc will do. apt has checked its sum.
        (cd "$new/package" && apt-get "${private[@]}" source --download-only bochs) || true
        tar xf "$new"/package/bochs_3.*.orig.tar.xz -C "$new/src" --strip-components=1
        cd "$new/src"
        sed -i "$fix" cpu/vmx.cc
        CFLAGS=$flags CXXFLAGS=$flags ./configure $options
        make -j"$(nproc)"
        [ -x bochs ]"#;
    let file = fs::File::create(log).with_context(|| log.display().to_string())?;
    let copy = file
        .try_clone()
        .with_context(|| log.display().to_string())?;
    let mut bash = command(&["bash", "-euo", "pipefail", "-c", SCRIPT, "bochs"]);
    bash.arg(new).args([FIX, FLAGS, OPTIONS]);
    bash.stdin(Stdio::null()).stdout(copy).stderr(file);
    Ok(bash)
}
