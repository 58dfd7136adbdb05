//! An outer machine with Intel's VT-x, which is Bochs's: booted from a CD, since rdvm cannot boot it. What it prints comes over a
//! serial port, and its last line is the exit code.
//!
//! Variables: `VMX_MODEL` (corei7_haswell_4770), a CPU of `bochs --help cpu`; `VMX_IPS`, instructions in a second of its time;
//! `RIG_LIMIT`, seconds of CPU time after which an outer machine is given up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::bochs_parts::{ending, iso, mib, version};
use super::outer::Outer;
use super::{Rig, say};
use crate::process::{self, command, last_lines, quoted, read_lossy};
use crate::project::{variable, variable_or};

const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VGA: &str = "/usr/share/bochs/VGABIOS-lgpl-latest";

/// Limits and time in the outer machine where variables name none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Seconds of CPU time.
    pub(super) limit: &'static str,
    /// Instructions in a second.
    pub(super) ips: &'static str,
    /// The number of tries of a scenario, and the seconds for the tests of one kernel.
    pub(super) tries: Option<&'static str>,
    pub(super) patience: Option<&'static str>,
}

/// A Bochs with VT-x.
#[derive(Debug)]
pub(super) struct Bochs {
    program: PathBuf,
    display: &'static str,
    pub(super) version: String,
    pub(super) model: String,
    /// It has a debugger, which waits for a command.
    debugger: bool,
    pace: Pace,
    /// Debian's kernel alone is booted inside.
    pub(super) without_small_kernel: bool,
}

impl Bochs {
    /// The Bochs of this program; fails where it lacks the CPU. One without VT-x shows in tests/rig/start.sh.
    pub(super) fn choose(
        program: PathBuf,
        display: &'static str,
        pace: Pace,
        without_small_kernel: bool,
    ) -> Result<Self> {
        let model = variable_or("VMX_MODEL", "corei7_haswell_4770");
        let help = |words: &[&str]| {
            let output = Command::new(&program)
                .args(words)
                .stdin(Stdio::null())
                .output();
            let output = output.with_context(|| program.display().to_string())?;
            let all = [output.stdout, output.stderr].concat();
            anyhow::Ok(String::from_utf8_lossy(&all).into_owned())
        };
        let cpus = help(&["--help", "cpu"])?;
        let version = version(&cpus);
        if !cpus.lines().any(|line| line == model) {
            bail!(
                "Bochs {} has no CPU {model} with VT-x; Debian 12's 2.7 does, and make test-vmx builds one",
                version.unwrap_or("of this release")
            );
        }
        Ok(Self {
            display,
            version: version.unwrap_or_default().to_owned(),
            debugger: help(&["--help"])?.contains("-rc filename"),
            model,
            program,
            pace,
            without_small_kernel,
        })
    }

    /// The directory of an outer machine of that name.
    pub(super) fn dir(rig: &Rig, name: &str) -> PathBuf {
        rig.dir.join(format!("outer.{name}"))
    }

    /// Runs a command in an outer machine; returns its exit code. Time spent halted counts as well, so a machine that hangs
    /// ends at the limit.
    pub(super) fn run(&self, rig: &Rig, outer: &Outer<'_>) -> Result<i32> {
        let dir = Self::dir(rig, outer.name);
        process::run(command(&["rm", "-rf", "--one-file-system"]).arg(&dir))?;
        fs::create_dir_all(dir.join("root/rig")).with_context(|| dir.display().to_string())?;
        let write = |name: &str, text: String| {
            fs::write(dir.join(name), text).with_context(|| format!("{}/{name}", dir.display()))
        };
        write("root/rig/command", self.command_file(outer))?;
        self.initrd(rig, &dir)?;
        iso(&rig.image.kernel, &dir)?;
        write("bochsrc", self.bochsrc(&dir, mib(outer.memory)?))?;
        let seconds = self.boot(&dir, outer)?;
        let serial = read_lossy(&dir.join("serial")).replace('\r', "");
        let (printed, code) = ending(&serial);
        outer.print(&printed).context("standard output")?;
        let _ = fs::remove_file(dir.join("cd.iso"));
        if let Some(code) = code {
            return Ok(code);
        }
        for file in ["log", "out"] {
            outer
                .complain(&last_lines(&read_lossy(&dir.join(file)), 3))
                .context("standard error")?;
        }
        let (name, shown) = (outer.name, dir.display());
        outer
            .complain(&format!("rig: {name}: the outer machine came to no end in {seconds} s of CPU time, see {shown}\n"))
            .context("standard error")?;
        Ok(125)
    }

    /// The file that tests/rig/init.sh reads: variables, the host's name, and the command.
    fn command_file(&self, outer: &Outer<'_>) -> String {
        let mut text = String::new();
        let given = [
            ("RDVM_TEST_BIG", None),
            ("RIG_THREADS", None),
            ("RIG_PATIENCE", self.pace.patience),
            ("RIG_TRIES", self.pace.tries),
        ];
        for (name, default) in given {
            // RIG_TRIES is fixed where a second try would hide a failure.
            let value = match name {
                "RIG_TRIES" if default.is_some() => default.map(str::to_owned),
                _ => variable(name).or(default.map(str::to_owned)),
            };
            if let Some(value) = value {
                text += &format!("export {name}={}\n", quoted(&value));
            }
        }
        let words: Vec<String> = outer.command.iter().map(|word| quoted(word)).collect();
        text + &format!("hostname {}\nset -- {}\n", outer.name, words.join(" "))
    }

    /// The rig's image and behind it what is of this machine alone.
    fn initrd(&self, rig: &Rig, dir: &Path) -> Result<()> {
        process::run(command(&["install", "tests/rig/init.sh"]).arg(dir.join("root/init")))?;
        let initrd = dir.join("initrd");
        let packed = process::run(
            Command::new(&rig.rdvm)
                .args(["pack", "--owner", "root", "-o"])
                .arg(&initrd)
                .arg(&rig.image.dir),
        );
        packed.context("the outer machine's image could not be packed")?;
        const SCRIPT: &str =
            r#"cd "$1" && find . -mindepth 1 | cpio -o -H newc -R 0:0 --quiet >>"$2""#;
        process::run(
            command(&["bash", "-o", "pipefail", "-c", SCRIPT, "initrd"])
                .arg(dir.join("root"))
                .arg(&initrd),
        )
    }

    /// Bochs's configuration.
    fn bochsrc(&self, dir: &Path, memory: u64) -> String {
        let (model, display, dir) = (&self.model, self.display, dir.display());
        let ips = variable_or("VMX_IPS", self.pace.ips);
        format!(
            "cpu: model={model}, count=1, ips={ips}, reset_on_triple_fault=0
memory: guest={memory}, host={memory}
romimage: file={BIOS}
vgaromimage: file={VGA}
boot: cdrom
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path={dir}/cd.iso, status=inserted
com1: enabled=1, mode=file, dev={dir}/serial
display_library: {display}
clock: sync=none
log: {dir}/log
panic: action=fatal
error: action=ignore
info: action=report
debug: action=ignore
"
        )
    }

    /// Runs Bochs to its end, whatever that is; returns its seconds of CPU time.
    fn boot(&self, dir: &Path, outer: &Outer<'_>) -> Result<String> {
        let limit = variable("RIG_LIMIT")
            .unwrap_or_else(|| outer.limit.unwrap_or(self.pace.limit).to_owned());
        let mut words = vec![
            self.program.display().to_string(),
            "-q".into(),
            "-f".into(),
            format!("{}/bochsrc", dir.display()),
        ];
        if self.debugger && self.display != "nogui" {
            let file = dir.join("debugger");
            fs::write(&file, "c\n").with_context(|| file.display().to_string())?;
            words.extend(["-rc".into(), file.display().to_string()]);
        }
        // Debian's draws on a terminal.
        if self.display != "nogui" {
            let line: Vec<String> = words.iter().map(|word| quoted(word)).collect();
            words = vec![
                "script".into(),
                "-qfc".into(),
                format!("exec {}", line.join(" ")),
                "/dev/null".into(),
            ];
        }
        const SCRIPT: &str = r#"limit=$1 dir=$2; shift 2; TIMEFORMAT='%0U'
            { time { (ulimit -t "$limit"; TERM=vt100 exec "$@") >"$dir/out" 2>&1 </dev/null; }; } 2>"$dir/seconds""#;
        let mut bash = command(&["bash", "-c", SCRIPT, "bochs", limit.trim_end_matches('s')]);
        bash.arg(dir).args(words).stdin(Stdio::null());
        // Bochs ends with any code; what counts is the machine's.
        bash.status().context("bash")?;
        Ok(read_lossy(&dir.join("seconds")).trim().to_owned())
    }
}

/// Says how a Bochs did.
pub(super) fn summary(
    bochs: &Bochs,
    good: usize,
    runs: usize,
    release: &str,
    dir: &Path,
    ticks: u64,
) {
    let (version, model) = (&bochs.version, &bochs.model);
    let seconds = read_lossy(&dir.join("seconds"));
    say!(
        "{good} of {runs} runs on kvm-intel were right: Bochs {version}, {model}, Linux {release}; {} s of CPU time, {ticks} million instructions",
        seconds.trim()
    );
}
