//! Kernels of /boot, and the modules of KVM for the one that the outer machine boots.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{self, command};
use crate::project::kernels_of_boot;

/// The newest kernel of /boot that has the module; a cloud kernel starts faster than others.
pub(super) fn outer_release(module: &str) -> Result<String> {
    let releases = kernels_of_boot()?;
    let with: Vec<String> = releases
        .into_iter()
        .filter(|release| needed(release, module).is_ok_and(|files| !files.is_empty()))
        .collect();
    let newest = newest(&with);
    newest.with_context(|| {
        format!("no kernel in /boot has the modules kvm and {module}; apt install linux-image-cloud-amd64")
    })
}

/// The last cloud kernel of a sorted list, else the last of all.
fn newest(releases: &[String]) -> Option<String> {
    let cloud = releases.iter().rfind(|release| release.contains("cloud"));
    cloud.or(releases.last()).cloned()
}

/// The files of a module and of what it needs, itself first; none where the kernel has no such module.
fn needed(release: &str, module: &str) -> Result<Vec<PathBuf>> {
    let dir = Path::new("/lib/modules").join(release);
    let list = dir.join("modules.dep");
    let text = fs::read_to_string(&list).with_context(|| list.display().to_string())?;
    Ok(files_of(&text, module)
        .into_iter()
        .map(|file| dir.join(file))
        .collect())
}

fn files_of<'a>(dep: &'a str, module: &str) -> Vec<&'a str> {
    let start = format!("/{module}.ko");
    let lines = dep.lines().filter_map(|line| line.split_once(':'));
    for (file, others) in lines {
        let Some(at) = file.find(&start) else {
            continue;
        };
        let ending = &file[at + start.len()..];
        if ending
            .chars()
            .all(|c| c == '.' || c.is_ascii_alphanumeric())
        {
            return std::iter::once(file)
                .chain(others.split_whitespace())
                .collect();
        }
    }
    Vec::new()
}

/// Puts KVM's module and what it needs into a directory, uncompressed, with a file `order` to load them by.
pub(super) fn add(release: &str, module: &str, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let files = needed(release, module)?;
    if files.is_empty() {
        bail!("/lib/modules/{release} has no module {module}; name another kernel with RIG_KERNEL");
    }
    let mut order = Vec::new();
    for file in &files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{}.ko", name.split(".ko").next().unwrap_or_default());
        let out = dir.join(&name);
        let unpack: &[&str] = match file.extension().and_then(|end| end.to_str()) {
            Some("xz") => &["xz", "-dc"],
            Some("zst") => &["zstd", "-qdc"],
            Some("gz") => &["gzip", "-dc"],
            _ => &["cat"],
        };
        let into = File::create(&out).with_context(|| out.display().to_string())?;
        process::run(command(unpack).arg(file).stdout(into))?;
        process::run(Command::new("strip").arg("-g").arg(&out))?;
        order.push(name);
    }
    order.reverse(); // what is needed stands last
    let list = dir.join("order");
    fs::write(&list, order.join("\n") + "\n").with_context(|| list.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_found_with_what_it_needs_compressed_or_not() {
        let dep = "kernel/arch/x86/kvm/kvm.ko: kernel/virt/lib/irqbypass.ko\n\
            kernel/arch/x86/kvm/kvm-amd.ko.xz: kernel/drivers/ccp.ko.xz kernel/arch/x86/kvm/kvm.ko.xz\n";
        assert_eq!(
            files_of(dep, "kvm-amd"),
            [
                "kernel/arch/x86/kvm/kvm-amd.ko.xz",
                "kernel/drivers/ccp.ko.xz",
                "kernel/arch/x86/kvm/kvm.ko.xz"
            ]
        );
        assert_eq!(
            files_of(dep, "kvm"),
            ["kernel/arch/x86/kvm/kvm.ko", "kernel/virt/lib/irqbypass.ko"]
        );
        assert!(files_of(dep, "kvm-intel").is_empty());
    }

    #[test]
    fn a_cloud_kernel_is_taken_before_newer_others() {
        let list = |names: &[&str]| {
            newest(
                &names
                    .iter()
                    .map(|name| (*name).to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(
            list(&["5-cloud", "6-cloud", "7"]).as_deref(),
            Some("6-cloud")
        );
        assert_eq!(list(&["6", "7"]).as_deref(), Some("7"));
        assert_eq!(list(&[]), None);
    }
}
