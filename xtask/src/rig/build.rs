//! The test program and rdvm, compiled in one profile and with the features that `cargo test --workspace` gives them, so that
//! nothing is compiled twice; and the outer machine's image with both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Rig;
use super::outer::Machine;
use crate::process;
use crate::project::{Project, program, variable_or};

/// The programs that cargo has compiled.
#[derive(Debug)]
pub(super) struct Tests {
    /// The test program.
    pub(super) it: PathBuf,
    /// The rdvm that it tests.
    pub(super) rdvm: PathBuf,
}

/// Cargo, as `CARGO` names it.
pub(super) fn cargo() -> Command {
    Command::new(variable_or("CARGO", "cargo"))
}

/// Compiles the test program and rdvm.
pub(super) fn tests(project: &Project) -> Result<Tests> {
    let mut build = cargo();
    build.args(["test", "--workspace", "--no-run", "--test", "it"]);
    let output = build
        .stdin(Stdio::null())
        .output()
        .with_context(|| process::shown(&build))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprint!("{text}");
        bail!("{}: {}", process::shown(&build), output.status);
    }
    let it = executable(&text).context("cargo did not print where the test program is")?;
    let it = fs::canonicalize(project.top.join(it)).with_context(|| it.to_owned())?;
    Ok(Tests {
        it,
        rdvm: project.target.join("debug/rdvm"),
    })
}

/// The file in cargo's line for the test program.
fn executable(text: &str) -> Option<&str> {
    let mut lines = text.lines().map(str::trim);
    lines.find_map(|line| {
        line.strip_prefix("Executable tests/it/main.rs (")?
            .strip_suffix(')')
    })
}

/// A rig whose image has the test program, rdvm and the compiled programs of tests/programs.
pub(super) fn with_tests(project: Project, tests: &Tests, machine: Machine) -> Result<Rig> {
    let name = match machine {
        Machine::Qemu => "rig",
        Machine::Bochs(_) => "rig-vmx",
    };
    let rig = Rig::new(project, name, tests.rdvm.clone(), machine)?;
    let image = &rig.image;
    image.make_dir("programs")?;
    // The tests look for it where it is on the host.
    let inside = image.inside(&rig.rdvm);
    fs::create_dir_all(inside.parent().unwrap_or(&image.dir))
        .with_context(|| inside.display().to_string())?;
    image.strip(&tests.it, &image.path("rig/it"))?;
    image.strip(&rig.rdvm, &inside)?;
    image.link(&rig.rdvm, "bin/rdvm")?;
    image.copy(&program("strace")?, "bin/strace")?;
    image.add_libraries(&[&tests.it, &rig.rdvm, &image.path("bin/strace")])?;
    for entry in fs::read_dir("tests/programs").context("tests/programs")? {
        let source = entry.context("tests/programs")?.path();
        if let (Some("c"), Some(name)) = (
            source.extension().and_then(|end| end.to_str()),
            source.file_stem(),
        ) {
            static_program(&source, &image.path("programs").join(name))?;
        }
    }
    Ok(rig)
}

/// Compiles a program of one file, linked statically and small.
pub(crate) fn static_program(source: &Path, out: &Path) -> Result<()> {
    let mut gcc = Command::new("gcc");
    process::run(
        gcc.args(["-static", "-Os", "-s", "-o"])
            .arg(out)
            .arg(source),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_program_is_the_one_that_cargo_names() {
        let text = "   Compiling rdvm\n    Finished test\n  Executable tests/it/main.rs (target/debug/deps/it-12)\n";
        assert_eq!(executable(text), Some("target/debug/deps/it-12"));
        assert_eq!(executable("  Executable unittests src/lib.rs (x)\n"), None);
    }
}
