//! An outer machine in QEMU, which rdvm boots, with a pulse.
//!
//! The pulse: QEMU's emulation of SVM clears a bit in its word of pending interrupts at every #VMEXIT, without its lock, and
//! now and then so loses what another thread sets there meanwhile (docs/testing.md). The outer kernel then never hears of a
//! timer that it set, and never sets another. Any later interrupt delivers the lost one too, so a byte comes in on a serial
//! port five times a second. With counted instructions the timers are of the same thread.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use super::Rig;
use super::outer::Outer;
use crate::process::{self, command};
use crate::project::{variable, variable_or};

/// The words for the outer kernel's command line.
///
/// idle=poll: from before the pulse, when without it the outer kernel slept for ever; both cores are busy anyway.
const WORDS: &str = "idle=poll tsc=reliable no_timer_check nokaslr nowatchdog";

/// The same with counted instructions.
///
/// tsc_early_khz: the TSC has 1 GHz then, whatever rdvm measured on the host. rcu_expedited: what is counted should be work,
/// and the end of a machine otherwise waits for several ticks of the outer kernel.
const WORDS_COUNTED: &str = " tsc_early_khz=1000000 rcupdate.rcu_expedited=1";

/// The environment of the tests inside; a name alone is passed on where it is set.
const VARIABLES: [&str; 11] = [
    "RDVM_CACHE=/cache",
    "RDVM_TEST_IMAGES=/images",
    "RDVM_TEST_PROGRAMS=/programs",
    "RDVM_TEST_KERNELS=/kernels",
    "RDVM_TEST_KERNEL_CACHE=/unpacked",
    "RDVM_TEST_BIG",
    "RDVM_TEST_ENGINES=kvm",
    "RDVM_TEST_SMALL=1",
    "CI=1",
    "RIG_THREADS",
    "RIG_PATIENCE",
];

/// Runs a command in an outer machine; returns its exit code.
pub(super) fn run(rig: &Rig, outer: &Outer<'_>) -> Result<i32> {
    let mut words = WORDS.to_owned();
    let mut qemu = Command::new(&rig.rdvm);
    let mut pulse = None;
    if outer.counted || variable("RIG_ICOUNT").is_some() {
        words += WORDS_COUNTED;
        qemu.env("RIG_ICOUNT", "1");
    } else if let Some(path) = &outer.shell {
        qemu.env("RIG_SHELL", path);
    } else if variable("RIG_SHELL").is_none() {
        let fifos = rig.dir.join(format!("pulse.{}", outer.name));
        qemu.env("RIG_PULSE", &fifos);
        pulse = Some(Pulse::start(&fifos)?);
    }
    let limit = variable_or("RIG_LIMIT", outer.limit.unwrap_or("1200s"));
    qemu.env("RDVM_QEMU", rig.project.top.join("tests/rig/qemu.sh"));
    qemu.args([
        "run",
        // The outer machine's QEMU is a script of ours with files of its own.
        "--no-sandbox",
        // Probes that count calls (uprobes) do not work on files that are mapped in place.
        "--root",
        "initrd",
        "--engine",
        "qemu",
        "--timeout",
        &limit,
        "-m",
        outer.memory,
        "-k",
    ]);
    qemu.arg(&rig.image.kernel)
        .args(["--append", &words, "--hostname", outer.name]);
    for variable in VARIABLES {
        qemu.args(["-e", variable]);
    }
    let flag = if pulse.is_some() {
        "RIG_PULSE=1"
    } else {
        "RIG_PULSE="
    };
    qemu.args(["-e", flag]).arg(&rig.image.dir);
    qemu.args(["sh", "/rig/start.sh"]).args(&outer.command);
    let (stdout, stderr) = outer.streams()?;
    let status = qemu
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .status();
    let status = status.with_context(|| process::shown(&qemu))?;
    drop(pulse);
    // By a signal it gave no exit code, and it is rdvm that has none to give.
    Ok(status.code().unwrap_or(125))
}

/// Makes the two FIFOs of a serial port; QEMU opens both.
pub(super) fn make_fifos(path: &Path) -> Result<[PathBuf; 2]> {
    let fifos = ["in", "out"].map(|end| PathBuf::from(format!("{}.{end}", path.display())));
    for fifo in &fifos {
        if fifo.exists() {
            fs::remove_file(fifo).with_context(|| fifo.display().to_string())?;
        }
    }
    process::run(command(&["mkfifo"]).args(&fifos))?;
    Ok(fifos)
}

/// A thread that writes a line five times a second.
#[derive(Debug)]
struct Pulse {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pulse {
    fn start(path: &Path) -> Result<Self> {
        const O_NONBLOCK: i32 = 0o4000;
        let [fifo, _] = make_fifos(path)?;
        // Open for both, so that it waits for no reader; a full one is full of pulses.
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(O_NONBLOCK)
            .open(&fifo)
            .with_context(|| fifo.display().to_string())?;
        let (stop, stopped) = channel();
        let thread = thread::spawn(move || {
            while let Err(RecvTimeoutError::Timeout) =
                stopped.recv_timeout(Duration::from_millis(200))
            {
                let _ = file.write(b"\n");
            }
        });
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_pulse_beats_until_it_is_dropped_even_when_nobody_reads() {
        let dir = tempfile::tempdir().unwrap();
        let pulse = Pulse::start(&dir.path().join("pulse")).unwrap();
        let mut reader = OpenOptions::new()
            .read(true)
            .write(true)
            .open(dir.path().join("pulse.in"))
            .unwrap();
        let mut two = [0; 2];
        reader.read_exact(&mut two).unwrap();
        assert_eq!(&two, b"\n\n");
        drop(pulse);
        assert!(dir.path().join("pulse.out").exists(), "QEMU wants both");
    }
}
