//! Tab-separated tables of benches/results, as they are written: a head that says how it was measured, columns, rows.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::process::{self, command, read_lossy};
use crate::project::Project;

/// The first line of a table's head, the kind of its figures, and the day.
pub(crate) fn head(kind: &str) -> Result<String> {
    let date = process::output(&mut command(&["date", "-I"]))?;
    Ok(format!("# kind: {kind}\n# date: {}\n", date.trim()))
}

/// The head of a table that was measured on this machine by the clock: with the machine and the versions.
pub(crate) fn head_here(project: &Project, kind: &str) -> Result<String> {
    let cpuinfo = read_lossy(Path::new("/proc/cpuinfo"));
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown".to_owned(), |(_, name)| {
        name.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    let cpus = process::output(&mut command(&["nproc"]))?;
    let load = read_lossy(Path::new("/proc/loadavg"));
    let kernel = project.debian_kernel()?;
    Ok(format!(
        "{}# machine: {} CPUs, {model}, {}, load {}\n# with: Linux {}, QEMU {}, kernels {} and {}\n",
        head(kind)?,
        cpus.trim(),
        kvm(),
        load.split(' ').next().unwrap_or("?"),
        process::output(&mut command(&["uname", "-r"]))?.trim(),
        qemu()?
            .split("version ")
            .nth(1)
            .and_then(|rest| rest.split([' ', '(']).next())
            .unwrap_or("?"),
        release_of_name(&kernel),
        release_inside(&project.small_kernel()),
    ))
}

/// The state of KVM on this machine.
fn kvm() -> &'static str {
    let modules = fs::read_dir("/sys/module").into_iter().flatten().flatten();
    let is_pvm = |name: &str, path: &Path| {
        name == "kvm_pvm"
            || (name.starts_with("kvm") && read_lossy(&path.join("uevent")).contains("pvm"))
    };
    let mut modules = modules.map(|entry| {
        (
            entry.file_name().to_string_lossy().into_owned(),
            entry.path(),
        )
    });
    match Path::new("/dev/kvm").exists() {
        _ if modules.any(|(name, path)| is_pvm(&name, &path)) => "paravirtual KVM",
        true => "with /dev/kvm",
        false => "no /dev/kvm",
    }
}

/// The first line of what QEMU says of its version.
pub(crate) fn qemu() -> Result<String> {
    let text = process::output(&mut command(&["qemu-system-x86_64", "--version"]))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// The release in a kernel's file name.
pub(crate) fn release_of_name(kernel: &Path) -> String {
    let shown = kernel.display().to_string();
    shown
        .rsplit_once("/vmlinuz-")
        .map_or(shown.clone(), |(_, release)| release.to_owned())
}

/// The release that stands in an uncompressed kernel; empty where there is none.
pub(crate) fn release_inside(kernel: &Path) -> String {
    const START: &[u8] = b"Linux version ";
    let bytes = fs::read(kernel).unwrap_or_default();
    let at = bytes
        .windows(START.len())
        .position(|window| window == START);
    let rest = at.map_or(&[][..], |at| &bytes[at + START.len()..]);
    let release = rest.split(|byte| *byte == b' ').next().unwrap_or_default();
    String::from_utf8_lossy(release).into_owned()
}

/// Writes a table to benches/results and prints it.
pub(crate) fn save(name: &str, text: &str) -> Result<()> {
    let path = Path::new("benches/results").join(format!("{name}.tsv"));
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    print!("{text}");
    Ok(())
}

/// A row of fields.
pub(crate) fn row<S: AsRef<str>>(fields: &[S]) -> String {
    let fields: Vec<&str> = fields.iter().map(AsRef::as_ref).collect();
    fields.join("\t") + "\n"
}

/// A line that benches/timeline.rs prints: three labels, a phase, which nothing here needs, milliseconds.
#[derive(Debug)]
pub(crate) struct Phase<'a> {
    pub(crate) labels: [&'a str; 3],
    pub(crate) ms: f64,
}

/// The lines of benches/timeline.rs; others are left out.
pub(crate) fn phases(text: &str) -> Vec<Phase<'_>> {
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        let labels = [fields.next()?, fields.next()?, fields.next()?];
        let _phase = fields.next()?;
        Some(Phase {
            labels,
            ms: fields.next()?.trim_end().parse().ok()?,
        })
    });
    lines.collect()
}

/// Sums that are kept in the order in which their keys came first.
#[derive(Debug)]
pub(crate) struct Sums<K>(pub(crate) Vec<(K, f64)>);

impl<K: PartialEq> Sums<K> {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn add(&mut self, key: K, value: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == key) {
            Some((_, sum)) => *sum += value,
            None => self.0.push((key, value)),
        }
    }

    /// The sum of a key, zero where nothing was added.
    pub(crate) fn of(&self, key: &K) -> f64 {
        self.0
            .iter()
            .find(|(known, _)| known == key)
            .map_or(0.0, |(_, sum)| *sum)
    }
}

/// Three significant digits, as `%.3g` writes them, but never with an exponent.
pub(crate) fn three_digits(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let magnitude = value.abs().log10().floor() as i32;
    let unit = 10f64.powi(magnitude - 2);
    let rounded = (value / unit).round() * unit;
    let decimals = usize::try_from(2 - magnitude).unwrap_or(0);
    let text = format!("{rounded:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_as_printf_writes_them() {
        for value in [
            "0.00123", "0.5", "1.07", "9.99", "12.5", "250", "123", "0.0457",
        ] {
            assert_eq!(three_digits(value.parse().unwrap()), value);
        }
        assert_eq!(three_digits(1.004), "1");
        assert_eq!(three_digits(1523.0), "1520");
        assert_eq!(three_digits(999.4), "999");
        assert_eq!(three_digits(0.099_96), "0.1");
    }

    #[test]
    fn phases_are_read_and_summed_in_their_order() {
        let text =
            "KVM\tsmall kernel\thello\tkernel\t1.5\nnoise\nKVM\tsmall kernel\thello\tPID 1\t2\n";
        let mut sums = Sums::new();
        for phase in phases(text) {
            sums.add(phase.labels[2], phase.ms);
        }
        assert_eq!(sums.0, [("hello", 3.5)]);
        assert_eq!(sums.of(&"other"), 0.0);
    }

    #[test]
    fn the_release_of_a_kernel_is_in_its_name_and_inside() {
        assert_eq!(
            release_of_name(Path::new("/boot/vmlinuz-6.1.0-cloud")),
            "6.1.0-cloud"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"\x7fELF..Linux version 6.1.2 (gcc)").unwrap();
        assert_eq!(release_inside(file.path()), "6.1.2");
        assert_eq!(release_inside(Path::new("/nowhere")), "");
    }
}
