//! The parts of an outer machine in Bochs that need no Bochs: the CD that it boots, and what its output says.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{self, command};

/// The most that Bochs gives below its hole for PCI.
const MOST_MIB: u64 = 2048;

/// cryptomgr.notests alone halves the boot.
const WORDS: &str = "console=ttyS0 quiet panic=-1 cryptomgr.notests mitigations=off nokaslr tsc=reliable no_timer_check nowatchdog random.trust_cpu=on init_on_alloc=0";

/// Makes a CD in DIR that boots the kernel and DIR's initrd.
pub(super) fn iso(kernel: &Path, dir: &Path) -> Result<()> {
    let (cd, out, log) = (dir.join("cd"), dir.join("cd.iso"), dir.join("cd.log"));
    let below = cd.join("isolinux");
    fs::create_dir_all(&below).with_context(|| below.display().to_string())?;
    let files = [
        Path::new("/usr/lib/ISOLINUX/isolinux.bin"),
        Path::new("/usr/lib/syslinux/modules/bios/ldlinux.c32"),
    ];
    process::run(Command::new("cp").args(files).arg(&below))?;
    fs::copy(kernel, below.join("vmlinuz")).with_context(|| kernel.display().to_string())?;
    fs::rename(dir.join("initrd"), below.join("initrd")).context("the outer machine's initrd")?;
    let config = format!(
        "DEFAULT rig\nPROMPT 0\nLABEL rig\n KERNEL /isolinux/vmlinuz\n INITRD /isolinux/initrd\n APPEND {WORDS}\n"
    );
    fs::write(below.join("isolinux.cfg"), config).context("isolinux.cfg")?;
    let mut xorriso = command(&["xorriso", "-as", "mkisofs", "-quiet", "-o"]);
    xorriso.arg(&out).args([
        "-b",
        "isolinux/isolinux.bin",
        "-c",
        "isolinux/boot.cat",
        "-no-emul-boot",
    ]);
    xorriso
        .args(["-boot-load-size", "4", "-boot-info-table"])
        .arg(&cd);
    process::logged(&mut xorriso, &log)?;
    fs::remove_dir_all(&cd).with_context(|| cd.display().to_string())
}

/// The output of a serial port without the rig's last line, and the exit code in that.
pub(super) fn ending(serial: &str) -> (String, Option<i32>) {
    let code = serial
        .lines()
        .filter_map(|line| line.strip_prefix("rig-exit "))
        .next_back();
    let printed = serial.lines().filter(|line| !line.starts_with("rig-exit "));
    let printed: String = printed.map(|line| format!("{line}\n")).collect();
    (printed, code.and_then(|code| code.parse().ok()))
}

/// Mebibytes of a size as rdvm takes it, as far as Bochs can have them.
pub(super) fn mib(memory: &str) -> Result<u64> {
    let parsed = match (memory.strip_suffix('g'), memory.strip_suffix('m')) {
        (Some(gib), _) => gib.parse().map(|gib: u64| gib * 1024),
        (_, mib) => mib.unwrap_or(memory).parse(),
    };
    let mib = parsed
        .with_context(|| format!("RIG_MEMORY: '{memory}' is not a size; write it as in 2g"))?;
    Ok(mib.min(MOST_MIB))
}

/// The number behind the emulator's name.
pub(super) fn version(help: &str) -> Option<&str> {
    let behind = help.split("Bochs x86 Emulator ").nth(1)?;
    behind
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()
}

/// Million instructions that an outer machine has emulated, by the clock in Bochs's log.
pub(super) fn instructions(log: &str) -> Option<u64> {
    let clocks = log.lines().map(|line| line.trim_start_matches('0'));
    let digits = |line: &str| -> String { line.chars().take_while(char::is_ascii_digit).collect() };
    let last: u64 = clocks
        .filter_map(|line| digits(line).parse().ok())
        .next_back()?;
    Some(last / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_last_line_of_the_rig() {
        assert_eq!(ending("a\nrig-exit 3\nb\n"), ("a\nb\n".to_owned(), Some(3)));
        assert_eq!(
            ending("a\nno rig-exit 3"),
            ("a\nno rig-exit 3\n".to_owned(), None)
        );
    }

    #[test]
    fn memory_is_what_bochs_can_have() {
        let sizes = ["1g", "1500m", "5g", "512"].map(|size| mib(size).unwrap());
        assert_eq!(sizes, [1024, 1500, 2048, 512]);
        assert!(mib("lots").unwrap_err().to_string().contains("'lots'"));
    }

    #[test]
    fn version_and_instructions_stand_in_what_bochs_prints() {
        let help = "=====\n                        Bochs x86 Emulator 2.7\n";
        assert_eq!(version(help), Some("2.7"));
        let log = "00000000000i[      ] x\n03333000000i[CPU0  ] y\nno clock\n";
        assert_eq!(instructions(log), Some(3333));
        assert_eq!(instructions("none"), None);
    }
}
