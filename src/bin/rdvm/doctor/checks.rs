//! The judgements, one function for each area: facts in, findings out, nothing else touched.
//! Memory and limits are judged beside their types.

use rdvm_hostfs::escape::{escaped, shown};
use rdvm_vmm::probe::{KvmState, QemuState, as_root};

use super::diagnosis::{Finding, KernelFinding};
use super::facts::{Folder, HostFacts};
use rdvm::level::Level;

pub(super) fn cpu(facts: &HostFacts) -> Vec<Finding> {
    let known = |text: &str| match text.is_empty() {
        true => "unknown".to_owned(),
        false => escaped(text.as_bytes()),
    };
    let (level, extension) = match facts.cpu.extension {
        Some(extension) => (Level::Ok, extension.flag()),
        None => (Level::Note, "neither vmx nor svm"),
    };
    let text = format!(
        "{} ({}), cores: {}, {extension}{}",
        known(&facts.cpu.model),
        known(&facts.cpu.vendor),
        facts.cores,
        if facts.cpu.hypervisor {
            ", a virtual machine itself"
        } else {
            ""
        },
    );
    vec![Finding::new("cpu", level, text, None)]
}

/// True if `auto` chooses the KVM engine.
pub(super) fn runs_on_kvm(facts: &HostFacts) -> bool {
    facts.kvm == KvmState::Usable
}

pub(super) fn kvm(facts: &HostFacts) -> Vec<Finding> {
    let path = |what: &str| format!("/dev/kvm: {what}");
    let (level, text, remedy) = match &facts.kvm {
        KvmState::Usable => (Level::Ok, path("usable"), None),
        KvmState::PermissionDenied { group, .. } => {
            (Level::Note, path(&facts.kvm.what()), access(facts, group))
        }
        state => (Level::Note, path(&state.what()), state.remedy()),
    };
    vec![Finding::new("kvm", level, text, remedy)]
}

/// Returns the remedy for a denial, given the groups that the user has already.
fn access(facts: &HostFacts, group: &String) -> Option<String> {
    if facts.user.groups.contains(group) {
        return Some(format!(
            "findmnt -T /dev/kvm (this session is in group {group} already: look for nodev, or a security policy)"
        ));
    }
    if facts.user.promised.contains(group) {
        return Some(format!(
            "newgrp {group} (or log in again: this session began before the user joined)"
        ));
    }
    facts.kvm.remedy()
}

pub(super) fn qemu(facts: &HostFacts) -> Vec<Finding> {
    let missed = match runs_on_kvm(facts) {
        true => Level::Note,
        false => Level::Problem,
    };
    let found = match &facts.qemu {
        QemuState::Missing(error) => {
            let (what, way_out) = split(&error.to_string());
            Finding::new("qemu", missed, what, way_out)
        }
        QemuState::Broken { path, why } => {
            let text = format!("{}: {}", shown(path), escaped(why.as_bytes()));
            let command = facts
                .packages
                .map(|packages| as_root(facts.user.root, packages.qemu));
            let remedy = command.unwrap_or("install QEMU anew".into());
            Finding::new(
                "qemu",
                missed,
                text,
                Some(format!("{remedy} (or name another with RDVM_QEMU)")),
            )
        }
        QemuState::Found {
            path,
            version,
            microvm,
        } => {
            let (level, machine) = match microvm {
                true => (Level::Ok, ""),
                false => (Level::Note, ", without -M microvm"),
            };
            Finding::new(
                "qemu",
                level,
                format!("{}, version {version}{machine}", shown(path)),
                None,
            )
        }
    };
    vec![found]
}

/// The kernel that a run would boot.
pub(super) fn chosen(kernels: &[KernelFinding]) -> Option<&KernelFinding> {
    kernels
        .iter()
        .find(|kernel| kernel.chosen && kernel.usable.is_ok())
}

pub(super) fn kernels(facts: &HostFacts, kernels: &[KernelFinding]) -> Vec<Finding> {
    let bad = match chosen(kernels) {
        Some(_) => Level::Note,
        None => Level::Problem,
    };
    let findings = kernels.iter().flat_map(|kernel| {
        let in_place = kernel.in_place.as_ref().map(in_place_finding);
        [kernel_finding(kernel, bad)].into_iter().chain(in_place)
    });
    let mut findings: Vec<Finding> = findings.collect();
    if kernels.is_empty() {
        let command = facts
            .packages
            .map(|packages| as_root(facts.user.root, packages.kernel));
        let remedy = command.unwrap_or("install a kernel".into());
        findings.push(Finding::new(
            "kernel",
            Level::Problem,
            "none found".into(),
            Some(format!(
                "{remedy} (or name one with --kernel FILE or RDVM_KERNEL)"
            )),
        ));
    } else if bad == Level::Problem && findings.iter().all(|finding| finding.level == Level::Ok) {
        let text = "none of these is chosen".into();
        findings.push(Finding::new(
            "kernel",
            bad,
            text,
            Some("name one with --kernel FILE".into()),
        ));
    }
    findings
}

fn kernel_finding(kernel: &KernelFinding, bad: Level) -> Finding {
    let path = shown(&kernel.path);
    match &kernel.usable {
        Ok(()) if kernel.chosen => Finding::new(
            "kernel",
            Level::Ok,
            format!("{path}, the one for a run"),
            None,
        ),
        Ok(()) => Finding::new("kernel", Level::Ok, path, None),
        Err(error) => {
            let (what, way_out) = split(error);
            let remedy = way_out.or(Some(
                "name another with --kernel FILE or RDVM_KERNEL".into(),
            ));
            Finding::new("kernel", bad, format!("{path}: {what}"), remedy)
        }
    }
}

fn in_place_finding(found: &Result<String, String>) -> Finding {
    let feature = "large images in place";
    match found {
        Ok(place) => Finding::new("kernel", Level::Ok, format!("{feature}: {place}"), None),
        Err(reason) => Finding::new(
            "kernel",
            Level::Note,
            format!("{feature}: no, each is unpacked into memory: {reason}"),
            Some("rdvm kernel build (makes a kernel that has all)".into()),
        ),
    }
}

pub(super) fn files(facts: &HostFacts) -> Vec<Finding> {
    let files = &facts.files;
    let one_place = files.memfd.is_ok() || files.temporary.writable.is_ok();
    let bad = if one_place {
        Level::Note
    } else {
        Level::Problem
    };
    let mut findings = Vec::new();
    if let Err(error) = &files.memfd {
        let remedy = "leave the sandbox that forbids memfd_create";
        let text = format!("no files in memory: {}", escaped(error.as_bytes()));
        findings.push(Finding::new("files", bad, text, Some(remedy.into())));
    }
    if let Some(text) = unwritable(&files.temporary) {
        let remedy = "export TMPDIR=/var/tmp";
        findings.push(Finding::new(
            "files",
            bad,
            format!("temporary files: {text}"),
            Some(remedy.into()),
        ));
    }
    let cacheless = match &files.cache {
        None => Some("neither HOME nor XDG_CACHE_HOME names a directory".into()),
        Some(cache) => unwritable(cache),
    };
    if let Some(text) = cacheless {
        let text = format!("cache: {text}; each run prepares the kernel anew");
        let remedy = "export XDG_CACHE_HOME=\"$(mktemp -d)\"";
        findings.push(Finding::new(
            "files",
            Level::Note,
            text,
            Some(remedy.into()),
        ));
    }
    if findings.is_empty() {
        let cache = files
            .cache
            .as_ref()
            .map(|cache| shown(&cache.path))
            .unwrap_or_default();
        let text = format!(
            "temporary files in {}, cache in {cache}",
            shown(&files.temporary.path)
        );
        findings.push(Finding::new("files", Level::Ok, text, None));
    }
    findings
}

fn unwritable(folder: &Folder) -> Option<String> {
    let error = folder.writable.as_ref().err()?;
    Some(format!(
        "{}: {}",
        shown(&folder.path),
        escaped(error.as_bytes())
    ))
}

pub(super) fn fences(facts: &HostFacts) -> Vec<Finding> {
    let layers = facts.fences.layers.iter();
    let on = layers.clone().filter(|layer| layer.on);
    let mut on: Vec<String> = on.map(|layer| layer.name.to_string()).collect();
    let off = layers.filter(|layer| !layer.on);
    let off = off.map(|layer| Finding::new("sandbox", Level::Note, layer.to_string(), None));
    let off: Vec<Finding> = off.collect();
    let own = match facts.fences.user_namespaces {
        Ok(()) => {
            on.push("user namespaces".into());
            Finding::new("sandbox", Level::Ok, on.join(", "), None)
        }
        Err(command) => {
            let text = format!(
                "{}, no user namespaces (`unshare -r chroot` fails, and QEMU shares this host's network)",
                on.join(", ")
            );
            let remedy = Some(as_root(facts.user.root, command));
            Finding::new("sandbox", Level::Note, text, remedy)
        }
    };
    std::iter::once(own).chain(off).collect()
}

/// An error text of ours, escaped already, as what went wrong and the way out.
fn split(error: &str) -> (String, Option<String>) {
    match error.split_once("; ") {
        Some((what, way_out)) => (what.into(), Some(way_out.into())),
        None => (error.into(), None),
    }
}
