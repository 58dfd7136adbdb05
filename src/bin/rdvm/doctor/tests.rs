//! Whole diagnoses of invented hosts.

use super::diagnosis::*;
use super::facts::{Files, Folder, HostFacts, SandboxLimits, User};
use super::limits::{Limit, Limits};
use rdvm::level::Level;
use rdvm_confine::{Layer, LayerName};
use rdvm_hostfs::hostmem::{GroupLimit, Memory};
use rdvm_hostfs::units::ByteSize;
use rdvm_vmm::probe::{Cpu, Error, Extension, KvmState, Packages, QemuState};

/// An Intel host on which everything is as it should be, KVM engine included.
fn good_host() -> HostFacts {
    HostFacts {
        cpu: Cpu {
            vendor: "GenuineIntel".into(),
            model: "Intel(R) Xeon(R) Gold 6338".into(),
            extension: Some(Extension::Vmx),
            hypervisor: false,
        },
        cores: 8,
        kvm: KvmState::Usable,
        user: User {
            root: false,
            groups: vec!["ann".into(), "kvm".into()],
            promised: vec!["kvm".into()],
        },
        qemu: QemuState::Found {
            path: "/usr/bin/qemu-system-x86_64".into(),
            version: "7.2.22".into(),
            microvm: true,
        },
        packages: Packages::of("ID=debian"),
        memory: Memory {
            available: Some(ByteSize::mib(8000)),
            ..Memory::default()
        },
        limits: Limits {
            open_files: Limit {
                soft: Some(1024),
                hard: Some(4096),
            },
            processes: Limit::default(),
            file_size: Limit::default(),
            address_space: Limit::default(),
        },
        files: Files {
            memfd: Ok(()),
            temporary: folder("/tmp"),
            cache: Some(folder("/home/ann/.cache/rdvm")),
        },
        fences: SandboxLimits {
            layers: layers(None),
            user_namespaces: Ok(()),
        },
    }
}

/// The layers of a host whose Landlock is missing for this reason.
fn layers(no_landlock: Option<&str>) -> Vec<Layer> {
    let layer = |name, why: Option<&str>| Layer {
        name,
        on: why.is_none(),
        why: why.map(str::to_owned),
    };
    vec![
        layer(LayerName::Seccomp, None),
        layer(LayerName::Landlock, no_landlock),
        layer(LayerName::NoNewPrivs, None),
    ]
}

fn folder(path: &str) -> Folder {
    Folder {
        path: path.into(),
        writable: Ok(()),
    }
}

fn good_kernel() -> KernelFinding {
    KernelFinding {
        path: "/boot/vmlinuz-6.1.0".into(),
        usable: Ok(()),
        chosen: true,
        in_place: Some(Ok("by modules of /lib/modules/6.1.0".into())),
    }
}

fn unreadable_kernel() -> KernelFinding {
    KernelFinding {
        path: "/boot/vmlinuz-6.8.0-generic".into(),
        usable: Err("permission denied; sudo chmod +r /boot/vmlinuz-6.8.0-generic".into()),
        chosen: false,
        in_place: None,
    }
}

/// The diagnosis of a good host after `change`.
fn diagnosis(change: impl FnOnce(&mut HostFacts)) -> Diagnosis {
    let mut facts = good_host();
    change(&mut facts);
    examine(&facts, &[good_kernel()])
}

/// The findings of one area that are not as they should be: level, text, remedy.
fn wrong(diagnosis: &Diagnosis, area: &str) -> Vec<(Level, String, String)> {
    let findings = diagnosis.findings.iter();
    findings
        .filter(|finding| finding.area == area && finding.level != Level::Ok)
        .map(|finding| {
            let remedy = finding.remedy.clone().unwrap_or_default();
            (finding.level, finding.text.clone(), remedy)
        })
        .collect()
}

fn one(level: Level, text: &str, remedy: &str) -> Vec<(Level, String, String)> {
    vec![(level, text.into(), remedy.into())]
}

#[test]
fn a_good_host_reads_so() {
    let expected = "\
ok    cpu      Intel(R) Xeon(R) Gold 6338 (GenuineIntel), cores: 8, vmx
ok    kvm      /dev/kvm: usable
ok    qemu     /usr/bin/qemu-system-x86_64, version 7.2.22
ok    kernel   /boot/vmlinuz-6.1.0, the one for a run
ok    kernel   large images in place: by modules of /lib/modules/6.1.0
ok    memory   8000 MiB available
ok    limits   open files 1024, processes unlimited, file size unlimited, address space unlimited
ok    files    temporary files in /tmp, cache in /home/ann/.cache/rdvm
ok    sandbox  seccomp, landlock, no_new_privs, user namespaces
a run will use: kvm (hardware), kernel /boot/vmlinuz-6.1.0
";
    assert_eq!(diagnosis(|_| {}).render(), expected);
}

#[test]
fn a_bad_host_reads_so() {
    let facts = HostFacts {
        cpu: Cpu {
            vendor: "AuthenticAMD".into(),
            model: String::new(),
            extension: None,
            hypervisor: true,
        },
        kvm: KvmState::Missing { extension: None },
        qemu: QemuState::Missing(Error::QemuMissing {
            program: "qemu-system-x86_64".into(),
            remedy: "sudo apt install qemu-system-x86".into(),
        }),
        memory: Memory {
            available: Some(ByteSize::mib(64)),
            ..Memory::default()
        },
        ..good_host()
    };
    let expected = "\
note  cpu      unknown (AuthenticAMD), cores: 8, neither vmx nor svm, a virtual machine itself
note  kvm      /dev/kvm: no such file, and the CPU shows neither vmx nor svm
               -> turn on virtualisation in the firmware, or nested virtualisation on the host of this machine
FAIL  qemu     qemu-system-x86_64: not found in PATH
               -> sudo apt install qemu-system-x86
FAIL  kernel   /boot/vmlinuz-6.8.0-generic: permission denied
               -> sudo chmod +r /boot/vmlinuz-6.8.0-generic
FAIL  memory   64 MiB available, a run needs at least 192 MiB
               -> ps aux --sort=-rss | head (shows who has the memory)
ok    limits   open files 1024, processes unlimited, file size unlimited, address space unlimited
ok    files    temporary files in /tmp, cache in /home/ann/.cache/rdvm
ok    sandbox  seccomp, landlock, no_new_privs, user namespaces
a run cannot work: 3 problems, marked FAIL
";
    assert_eq!(examine(&facts, &[unreadable_kernel()]).render(), expected);
}

#[test]
fn a_paravirtual_kvm_is_seen_and_a_run_takes_qemu() {
    let diagnosis = diagnosis(|facts| {
        facts.kvm = KvmState::Paravirtual;
        facts.cpu.extension = None;
    });
    assert_eq!(
        wrong(&diagnosis, "kvm"),
        one(
            Level::Note,
            "/dev/kvm: paravirtual (PVM), it cannot run an unmodified kernel",
            "take a host whose CPU shows vmx or svm"
        )
    );
    assert!(diagnosis.render().contains("a run will use: qemu"));
}

#[test]
fn a_denied_kvm_names_the_step_that_is_missing() {
    let remedy = |groups: &[&str], promised: &[&str]| {
        let diagnosis = diagnosis(|facts| {
            facts.kvm = KvmState::PermissionDenied {
                group: "kvm".into(),
                mode: 0o660,
            };
            facts.user.groups = groups.iter().map(|name| (*name).into()).collect();
            facts.user.promised = promised.iter().map(|name| (*name).into()).collect();
        });
        assert!(diagnosis.can_run(), "a run takes qemu instead");
        wrong(&diagnosis, "kvm").remove(0).2
    };
    assert!(remedy(&["ann"], &[]).starts_with("sudo usermod -aG kvm \"$USER\""));
    assert!(remedy(&["ann"], &["kvm"]).starts_with("newgrp kvm"));
    assert!(remedy(&["ann", "kvm"], &["kvm"]).starts_with("findmnt -T /dev/kvm"));
}

#[test]
fn a_missing_qemu_stops_runs_only_where_kvm_cannot_be_used() {
    let without_qemu = |usable: bool| {
        diagnosis(|facts| {
            if !usable {
                facts.kvm = KvmState::Paravirtual;
            }
            facts.qemu = QemuState::Missing(Error::QemuNotAProgram { path: "/q".into() });
        })
    };
    let text = "RDVM_QEMU: /q is not a program that can be run";
    let remedy = "correct it or unset RDVM_QEMU";
    assert_eq!(
        wrong(&without_qemu(true), "qemu"),
        one(Level::Note, text, remedy)
    );
    assert!(without_qemu(true).can_run());
    assert_eq!(
        wrong(&without_qemu(false), "qemu"),
        one(Level::Problem, text, remedy)
    );
    assert!(!without_qemu(false).can_run());
}

#[test]
fn a_qemu_that_does_not_answer_is_to_be_installed_anew() {
    let diagnosis = diagnosis(|facts| {
        facts.kvm = KvmState::Paravirtual;
        facts.qemu = QemuState::Broken {
            path: "/usr/bin/q\n".into(),
            why: "--version: exit status: 1".into(),
        };
    });
    assert_eq!(
        wrong(&diagnosis, "qemu"),
        one(
            Level::Problem,
            "/usr/bin/q\\n: --version: exit status: 1",
            "sudo apt install qemu-system-x86 (or name another with RDVM_QEMU)"
        )
    );
}

#[test]
fn no_kernel_is_a_problem_with_a_command_for_this_distribution() {
    let diagnosis = examine(&good_host(), &[]);
    assert_eq!(
        wrong(&diagnosis, "kernel"),
        one(
            Level::Problem,
            "none found",
            "sudo apt install linux-image-cloud-amd64 (or name one with --kernel FILE or RDVM_KERNEL)"
        )
    );
    assert!(!diagnosis.can_run());
}

#[test]
fn an_unreadable_kernel_is_a_note_beside_a_good_one() {
    let beside = examine(&good_host(), &[unreadable_kernel(), good_kernel()]);
    let text = "/boot/vmlinuz-6.8.0-generic: permission denied";
    let remedy = "sudo chmod +r /boot/vmlinuz-6.8.0-generic";
    assert_eq!(wrong(&beside, "kernel"), one(Level::Note, text, remedy));
    assert!(beside.can_run());
    let alone = examine(&good_host(), &[unreadable_kernel()]);
    assert_eq!(wrong(&alone, "kernel"), one(Level::Problem, text, remedy));
    assert!(!alone.can_run());
}

#[test]
fn a_chosen_kernel_that_cannot_boot_is_a_problem_whatever_else_there_is() {
    let chosen = KernelFinding {
        path: "/k".into(),
        usable: Err("is not a kernel".into()),
        chosen: true,
        in_place: Some(Ok("by modules of /lib/modules/6.1.0".into())),
    };
    let other = KernelFinding {
        chosen: false,
        ..good_kernel()
    };
    let diagnosis = examine(&good_host(), &[chosen, other]);
    let remedy = "name another with --kernel FILE or RDVM_KERNEL";
    assert_eq!(
        wrong(&diagnosis, "kernel"),
        one(Level::Problem, "/k: is not a kernel", remedy)
    );
}

#[test]
fn the_limit_of_a_control_group_counts_like_the_memory_of_the_host() {
    let with = |limit, left| {
        diagnosis(|facts| {
            facts.memory.group = Some(GroupLimit {
                limit: ByteSize::mib(limit),
                left: ByteSize::mib(left),
            });
        })
    };
    assert!(wrong(&with(4096, 4000), "memory").is_empty());
    let (level, text, _) = wrong(&with(1024, 400), "memory").remove(0);
    assert_eq!(level, Level::Note);
    assert_eq!(
        text,
        "control group: limit 1024 MiB, 400 MiB left, too little for large images"
    );
    assert!(with(1024, 192).can_run());
    assert!(!with(1024, 191).can_run());
}

#[test]
fn a_low_limit_comes_with_the_command_that_raises_it() {
    let with_files = |soft, hard| diagnosis(|facts| facts.limits.open_files = Limit { soft, hard });
    let text = "open files limited to 63, a run needs at least 64";
    assert_eq!(
        wrong(&with_files(Some(63), Some(4096)), "limits"),
        one(Level::Problem, text, "ulimit -n 1024")
    );
    assert_eq!(
        wrong(&with_files(Some(63), Some(1023)), "limits"),
        one(Level::Problem, text, "sudo prlimit --pid $$ --nofile=1024")
    );
    assert!(wrong(&with_files(Some(64), Some(64)), "limits").is_empty());
    assert!(wrong(&with_files(None, None), "limits").is_empty());
}

#[test]
fn every_limit_is_looked_at() {
    let low = Limit {
        soft: Some(2),
        hard: None,
    };
    let all = |root| {
        diagnosis(|facts| {
            facts.user.root = root;
            facts.limits = Limits {
                open_files: low,
                processes: low,
                file_size: low,
                address_space: low,
            };
        })
    };
    assert_eq!(wrong(&all(false), "limits").len(), 4);
    let root = wrong(&all(true), "limits");
    assert_eq!(
        root.len(),
        3,
        "the kernel does not count root's processes: {root:?}"
    );
    let some = diagnosis(|facts| {
        facts.limits.file_size = Limit {
            soft: Some(1 << 30),
            hard: None,
        };
    });
    let text = "file size limited to 1024 MiB";
    assert_eq!(
        wrong(&some, "limits"),
        one(Level::Note, text, "ulimit -f unlimited")
    );
}

#[test]
fn a_run_needs_one_place_for_files() {
    let denied = || Err("Permission denied".to_owned());
    let without_temporary = diagnosis(|facts| facts.files.temporary.writable = denied());
    assert_eq!(
        wrong(&without_temporary, "files"),
        one(
            Level::Note,
            "temporary files: /tmp: Permission denied",
            "export TMPDIR=/var/tmp"
        )
    );
    let without_any = diagnosis(|facts| {
        facts.files.temporary.writable = denied();
        facts.files.memfd = denied();
    });
    assert!(!without_any.can_run());
}

#[test]
fn a_cache_that_cannot_be_written_is_only_slow() {
    for cache in [
        None,
        Some(Folder {
            path: "/root/.cache/rdvm".into(),
            writable: Err("no".into()),
        }),
    ] {
        let diagnosis = diagnosis(|facts| facts.files.cache = cache);
        assert_eq!(wrong(&diagnosis, "files")[0].0, Level::Note);
        assert!(diagnosis.can_run());
    }
}

#[test]
fn forbidden_user_namespaces_come_with_the_switch() {
    let diagnosis = diagnosis(|facts| facts.fences.user_namespaces = Err("sysctl a=b"));
    let (level, _, remedy) = wrong(&diagnosis, "sandbox").remove(0);
    assert_eq!((level, remedy.as_str()), (Level::Note, "sudo sysctl a=b"));
}

#[test]
fn a_layer_that_is_missing_is_told_with_the_reason() {
    let diagnosis = diagnosis(|facts| facts.fences.layers = layers(Some("too old")));
    let expected = one(Level::Note, "landlock off: too old", "");
    assert_eq!(wrong(&diagnosis, "sandbox"), expected);
    let text = "seccomp, no_new_privs, user namespaces";
    assert!(diagnosis.render().contains(text), "{}", diagnosis.render());
    assert!(diagnosis.can_run());
}

#[test]
fn the_json_form_says_the_same() {
    let diagnosis = diagnosis(|facts| facts.memory.available = Some(ByteSize::mib(64)));
    let json = serde_json::to_value(&diagnosis).unwrap();
    assert_eq!(json["can_run"], false);
    assert_eq!(json["verdict"], "a run cannot work: 1 problem, marked FAIL");
    assert_eq!(json["findings"][5]["area"], "memory");
    assert_eq!(json["findings"][5]["level"], "problem");
    assert_eq!(json["findings"][0]["remedy"], serde_json::Value::Null);
}

/// `cargo test this_machine -- --nocapture` shows the text.
#[test]
fn this_machine_is_examined_in_every_area() {
    let text = examine(&HostFacts::gather(), &[good_kernel()]).render();
    println!("{text}");
    for area in [
        "cpu", "kvm", "qemu", "kernel", "memory", "limits", "files", "sandbox",
    ] {
        let line = format!("  {area:<7}  ");
        assert!(text.contains(&line), "no {area} in\n{text}");
    }
}
