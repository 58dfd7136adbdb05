//! The KVM rig: an outer machine on emulated hardware, in which Linux's own KVM runs. The scenario tests and the measurements
//! of the KVM engine run in it, wherever the host's /dev/kvm is (docs/testing.md). The hardware is QEMU's with AMD's SVM,
//! booted by rdvm; for `vmx` and `test-vmx` it is Bochs's with Intel's VT-x.

mod bochs;
mod bochs_parts;
mod build;
mod counted;
mod image;
mod measured;
mod modules;
mod outer;
mod own_bochs;
pub(crate) mod plan;
mod qemu;
mod report;
mod scale;
mod scenarios;
mod shell;
mod tests_here;
mod vmx;
mod whole;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::project::Project;
use image::Image;
use outer::{Machine, Outer};
use tests_here::Scenarios;

pub(crate) use build::static_program;
pub(crate) use measured::{compile_bench, random_file};
pub(crate) use scale::scale;
pub(crate) use whole::copy_lean_debian;

const USAGE: &str = "usage: cargo xtask rig VERB

  test [FILTER]     the scenarios on KVM, side by side in two outer machines
  vmx               four runs of Debian's kernel on VT-x, in the Bochs of Debian's packages
  test-vmx [FILTER] the scenarios on VT-x, in a faster Bochs that is built first; some hours
  native [FILTER]   the scenarios on the host's own KVM, where it is real
  list [FILTER]     the names of the scenarios
  bench             rdvm beside QEMU's machines on KVM, in counted instructions: benches/results/peers.tsv
  timeline          whole runs of three images, by phase: benches/results/timeline-kvm.tsv, whole.tsv
  ports             throughput of the ways in and out: benches/results/ports-kvm.tsv
  scale DIR OUT     runs of the archives in DIR and of images of KVM_MIB MiB, for cargo xtask bench scale
  plan FILE [WORDS] the phases of any runs on KVM; FILE as benches/timeline.rs says, WORDS of sh go before
  check             what a start costs rdvm, in all that can be counted, against benches/results/counts.tsv
  accept            takes what is measured now as the new benches/results/counts.tsv
  run COMMAND...    a command of sh in the outer machine
  shell             a shell in it

FILTER is part of a test's name, as for cargo test. Variables: OUTERS (2), how many outer machines share the tests;
RIG_MEMORY (5g), RAM of each; RIG_AGAIN (2), how many scenarios may pass only the second time; RIG_LIMIT, when an outer
machine is given up; RIG_KERNEL, the outer machine's kernel; RIG_GUEST, the kernel that boots inside instead of the small one.
docs/testing.md has the others.";

/// Prints a line of the rig's own.
macro_rules! say {
    ($($text:tt)*) => { println!("rig: {}", format_args!($($text)*)) };
}
pub(crate) use say;

/// The things that all verbs work with: the checkout, and a directory of the rig's own below target.
#[derive(Debug)]
struct Rig {
    project: Project,
    dir: PathBuf,
    image: Image,
    machine: Machine,
    /// The rdvm that boots outer machines and unpacks kernels.
    rdvm: PathBuf,
}

impl Rig {
    /// A rig in `target/NAME` around an rdvm that is there.
    fn new(project: Project, name: &str, rdvm: PathBuf, machine: Machine) -> Result<Self> {
        let dir = project.target.join(name);
        let image = Image::base(
            &project,
            dir.join("image"),
            machine.module(),
            &rdvm,
            machine.guest(&project),
        )?;
        Ok(Self {
            project,
            dir,
            image,
            machine,
            rdvm,
        })
    }

    /// Runs a command in an outer machine; returns its exit code.
    fn outer(&self, outer: &Outer<'_>) -> Result<i32> {
        match &self.machine {
            Machine::Qemu => qemu::run(self, outer),
            Machine::Bochs(bochs) => bochs.run(self, outer),
        }
    }

    /// Runs a command in an outer machine with standard output in a file; fails when it does.
    fn outer_into(&self, file: &Path, outer: Outer<'_>) -> Result<()> {
        let name = outer.name;
        match self.outer(&outer.into_file(file)?)? {
            0 => Ok(()),
            code => bail!(
                "{name}: exit code {code} in the outer machine, see {}",
                file.display()
            ),
        }
    }
}

/// Runs the verb that the words name.
pub(crate) fn main(words: &[&str]) -> Result<ExitCode> {
    let started = Instant::now();
    let project = Project::enter()?;
    match words {
        ["test"] => scenarios::on_kvm(project, "", started),
        ["test", filter] => scenarios::on_kvm(project, filter, started),
        ["vmx"] => vmx::check(project),
        ["test-vmx"] => vmx::scenarios(project, "", started),
        ["test-vmx", filter] => vmx::scenarios(project, filter, started),
        ["native"] => scenarios::native(&project, ""),
        ["native", filter] => scenarios::native(&project, filter),
        ["list"] => list(&project, ""),
        ["list", filter] => list(&project, filter),
        ["bench"] => counted::peers(project),
        ["timeline"] => whole::timeline(project),
        ["ports"] => counted::ports(project),
        ["scale", archives, out] => scale::scale_to(project, Path::new(archives), Path::new(out)),
        ["plan", file] => counted::any(project, Path::new(file), ""),
        ["plan", file, words] => counted::any(project, Path::new(file), words),
        ["check"] => counted::check(project),
        ["accept"] => counted::accept(project),
        ["run", command @ ..] => shell::run(project, &command.join(" ")),
        ["shell"] => shell::shell(project),
        _ => bail!("{USAGE}"),
    }
}

fn list(project: &Project, filter: &str) -> Result<ExitCode> {
    let tests = build::tests(project)?;
    let Scenarios { names, any, .. } = tests_here::scenarios(project, &tests, filter)?;
    for name in names.into_iter().chain(any) {
        println!("{name}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The exit code of this program for one of a command.
fn code(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}
