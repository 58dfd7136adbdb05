//! Emulated VT-x: a check in minutes, and all scenarios in hours.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};

use super::bochs::{self, Bochs, Pace};
use super::outer::{Machine, Outer};
use super::scenarios::{Defaults, in_outers};
use super::{Rig, bochs_parts, build, own_bochs};
use crate::process::read_lossy;
use crate::project::{Project, program};

/// The check's runs (tests/rig/vmx.sh).
const RUNS: usize = 4;
/// Million emulated instructions that the check may take: they guard its price, and unlike seconds do not depend on the host.
const LIMIT: u64 = 5000;

/// Boots Debian's kernel, unmodified, in four machines on kvm-intel; what is tried is in tests/rig/vmx.sh.
pub(super) fn check(project: Project) -> Result<ExitCode> {
    let pace = Pace {
        limit: "300",
        ips: "50000000",
        tries: None,
        patience: None,
    };
    let bochs = Bochs::choose(program("bochs")?, "term", pace, true)?;
    let rdvm = build::tests(&project)?.rdvm;
    let rig = Rig::new(project, "rig-vmx", rdvm, Machine::Bochs(bochs))?;
    let image = &rig.image;
    image.strip(&rig.rdvm, &image.path("bin/rdvm"))?;
    image.add_libraries(&[&rig.rdvm])?;
    image.make_dir("tree/bin")?;
    image.copy(&image.path("bin/busybox"), "tree/bin/busybox")?;
    image.link("busybox", "tree/bin/sh")?;
    let bytes: Vec<u8> = (0..=255).collect();
    image.write("tree/bytes", bytes)?;
    let (out, debian) = (rig.dir.join("vmx.out"), image.debian.display().to_string());
    let outer = Outer::new("vmx", "1g", &["sh", "/rig/vmx.sh", &debian]).into_file(&out)?;
    let status = rig.outer(&outer)?;
    let printed = read_lossy(&out);
    print!("{printed}");
    let good = printed
        .lines()
        .filter(|line| line.starts_with("rig-vmx good: "))
        .count();
    let dir = Bochs::dir(&rig, "vmx");
    let ticks = bochs_parts::instructions(&read_lossy(&dir.join("log"))).unwrap_or(0);
    if let Machine::Bochs(bochs) = &rig.machine {
        let release = debian.split_once('-').map_or("", |(_, release)| release);
        bochs::summary(bochs, good, RUNS, release, &dir, ticks);
    }
    if status != 0 || good != RUNS {
        bail!("rdvm on emulated VT-x failed, or did not run (exit code {status})");
    }
    if ticks > LIMIT {
        bail!(
            "more than {LIMIT} million instructions are too many for make test; find out which grew"
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the scenarios on kvm-intel. No interrupt gets lost here, so each has to pass the first time. The second of this machine
/// has as many instructions as the tests' deadlines expect.
pub(super) fn scenarios(project: Project, filter: &str, started: Instant) -> Result<ExitCode> {
    let pace = Pace {
        limit: "21600",
        ips: "200000000",
        tries: Some("1"),
        patience: Some("3600"),
    };
    let bochs = Bochs::choose(own_bochs::build(&project)?, "nogui", pace, false)?;
    let defaults = Defaults {
        memory: "2g",
        all: true,
        again: 0, // whatever RIG_AGAIN says: there is no second try
        limit: None,
    };
    in_outers(project, filter, Machine::Bochs(bochs), defaults, started)
}
