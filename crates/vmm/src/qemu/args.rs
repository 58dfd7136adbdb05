//! `Machine` → QEMU's arguments. Pure.

use std::ffi::OsString;
use std::os::fd::RawFd;

use super::{RINGS_AT, gap, regions_at};
use crate::PCI_CONFIGURATION;
use crate::acpi::{ACPI, PM1_CONTROL};
use crate::guest::rings::RINGS;
use rdvm_hostfs::units::ByteSize;

/// The descriptors that QEMU inherits, by number.
#[derive(Debug, Clone)]
pub(super) struct Fds {
    pub(super) kernel: RawFd,
    /// And its length.
    pub(super) initrd: (RawFd, u64),
    /// The ACPI tables.
    pub(super) tables: RawFd,
    /// Console, stdout, status.
    pub(super) ports: [Line; 3],
    /// The memory that is shared, where any is.
    pub(super) rings: Option<RawFd>,
    /// The files of regions, and how much of each.
    pub(super) regions: Vec<(RawFd, u64)>,
    /// The file of the scratch space, likewise.
    pub(super) scratch: Option<(RawFd, u64)>,
}

/// The other end of a serial port.
#[derive(Debug, Clone, Copy)]
pub(super) enum Line {
    /// The write end of a pipe.
    Out(RawFd),
    /// QEMU's own standard input and output. Nothing else of it takes two pipes; its sockets cost twice as much a byte.
    Stdio,
    /// One end of a pair of sockets: for a port on which little is sent.
    Socket(RawFd),
}

/// The machine, beside its files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings<'a> {
    pub(super) cmdline: &'a str,
    pub(super) memory: ByteSize,
    pub(super) cpus: u8,
}

/// Emulation steps through `rep movsb` and `rep stosb` byte by byte, and a kernel that sees ERMS or FSRM copies and
/// clears with nothing else; without them it moves 8 bytes at a time. With them a run of the libs image takes 7 % more
/// CPU time, one of the debian image 19 % (docs/performance.md).
const CPU: &str = "max,-erms,-fsrm";

/// ACPI's tables are ours: by QEMU's own the machine has neither the timer nor the first interrupt controller of a PC
/// (`HW_REDUCED_ACPI`), and a kernel is left with the timers of its local APICs, whose rate it must measure. The clock
/// (`rtc=on`) is there because a kernel that finds none waits a second for it.
const MACHINE: &str =
    "microvm,acpi=off,auto-kernel-cmdline=off,rtc=on,pit=on,pic=on,isa-serial=off";

/// The device at the register by which ACPI's tables switch off: QEMU ends when something is written there.
const OFF_SWITCH: &str = "isa-debug-exit,iosize=2,iobase";

/// By the names of its threads it is seen which of them are CPUs (`halt.rs`).
const NAME: &str = "rdvm,debug-threads=on";

/// QEMU's own seccomp filter at its strictest: no new processes, no privileges, no obsolete calls.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// Returns the arguments for `memory` with what is shared of it and the regions in it: pieces where it has any, one behind the
/// other.
fn memory(memory: ByteSize, fds: &Fds) -> Vec<String> {
    let is_whole = fds.regions.is_empty() && fds.scratch.is_none();
    let path = |fd: RawFd, how: &str| format!(",mem-path=/proc/self/fd/{fd},{how}");
    let below = match is_whole {
        true => memory.0,
        false => regions_at(memory, fds.initrd.1),
    };
    let mut pieces = Vec::new();
    let mut at = 0;
    if let Some(rings) = fds.rings {
        pieces.push(("ram", RINGS_AT, String::new()));
        pieces.push(("file", RINGS, path(rings, "share=on")));
        at = RINGS_AT + RINGS;
    }
    pieces.push(("ram", below.saturating_sub(at), String::new()));
    for &(fd, size) in &fds.regions {
        // A private mapping: the guest writes to pages of its own.
        pieces.push(("file", size, path(fd, "share=off,readonly=on")));
    }
    let sizes = fds.regions.iter().map(|&(_, size)| size);
    // The kernel leaves the gap alone, and the host promises no page of a memfd before it is touched.
    let gap = gap(memory, sizes, fds.scratch.is_some());
    pieces.push(("memfd", gap, String::new()));
    pieces.push(("ram", memory.0 - below, String::new()));
    if let Some((fd, size)) = fds.scratch {
        pieces.push(("file", size, path(fd, "share=on")));
    }
    pieces.retain(|(_, size, _)| *size > 0);
    let all: u64 = pieces.iter().map(|(_, size, _)| size).sum();
    let mut args = vec!["-m".to_owned(), format!("size={}k", all >> 10)];
    if pieces.len() == 1 {
        return args;
    }
    for (index, (kind, size, how)) in pieces.iter().enumerate() {
        let (id, size) = (format!("ram{index}"), size >> 10);
        let backend = format!("memory-backend-{kind},id={id},size={size}k{how}");
        args.extend(["-object".to_owned(), backend]);
        // Nodes are what QEMU takes more than one piece of RAM for. Its tables do not mention them on this machine.
        args.extend(["-numa".to_owned(), format!("node,memdev={id}")]);
    }
    args
}

/// Returns the arguments for the two ports by which a kernel finds a PCI bus with nothing on it.
fn pci() -> Vec<String> {
    let port = |port: u16| {
        let device = format!("isa-debugcon,chardev=pci{port:x},readback=0,iobase={port:#x}");
        let chardev = format!("null,id=pci{port:x}");
        ["-chardev".to_owned(), chardev, "-device".to_owned(), device]
    };
    PCI_CONFIGURATION.into_iter().flat_map(port).collect()
}

/// All CPUs of a machine share a thread. With a thread for each, QEMU 7.2 resets 4 of 60 starts of the small kernel with 4 CPUs:
/// they see stale code while the kernel patches itself.
fn accelerator(cpus: u8) -> &'static str {
    match cpus {
        1 => "tcg,thread=multi",
        _ => "tcg,thread=single",
    }
}

/// Returns the arguments.
///
/// `microvm` has no firmware to speak of and starts an uncompressed kernel at its PVH entry.
pub(super) fn args(machine: &Settings<'_>, fds: &Fds) -> Vec<OsString> {
    let mut args = vec![
        "-name".into(),
        NAME.into(),
        "-accel".into(),
        accelerator(machine.cpus).into(),
        "-M".into(),
        MACHINE.into(),
        "-cpu".into(),
        CPU.into(),
        "-smp".into(),
        machine.cpus.to_string(),
    ];
    args.extend(memory(machine.memory, fds));
    if !fds.regions.is_empty() || fds.scratch.is_some() {
        args.extend(pci());
    }
    let fixed = [
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-sandbox",
        SANDBOX,
    ];
    args.extend(fixed.map(str::to_owned));
    for (index, line) in fds.ports.into_iter().enumerate() {
        args.push("-chardev".into());
        args.push(match line {
            Line::Out(fd) => format!("file,id=port{index},path=/proc/self/fd/{fd}"),
            Line::Stdio => format!("stdio,id=port{index},signal=off"),
            Line::Socket(fd) => format!("socket,id=port{index},fd={fd}"),
        });
        args.push("-device".into());
        args.push(format!("isa-serial,chardev=port{index},index={index}"));
    }
    let tables = format!(
        "loader,file=/proc/self/fd/{},addr={ACPI:#x},force-raw=on",
        fds.tables
    );
    args.extend(["-device".into(), tables]);
    args.extend(["-device".into(), format!("{OFF_SWITCH}={PM1_CONTROL:#x}")]);
    args.extend(["-kernel".into(), format!("/proc/self/fd/{}", fds.kernel)]);
    args.extend(["-initrd".into(), format!("/proc/self/fd/{}", fds.initrd.0)]);
    args.extend(["-append".into(), machine.cmdline.to_owned()]);
    args.into_iter().map(OsString::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: [Line; 3] = [Line::Out(9), Line::Out(10), Line::Socket(11)];

    #[test]
    fn memory_is_in_pieces_one_behind_the_other() {
        let machine = Settings {
            cmdline: "quiet",
            memory: ByteSize::mib(101),
            cpus: 1,
        };
        let ring = RINGS >> 10;
        let rest = 94208 - 8192 - ring;
        let low = format!(
            "memory-backend-ram,id=ram0,size=8192k -numa node,memdev=ram0 -object memory-backend-file,id=ram1,size={ring}k,mem-path=/proc/self/fd/12,share=on -numa node,memdev=ram1 -object memory-backend-ram,id=ram2,size={rest}k"
        );
        for (rings, low, first) in [
            (
                None,
                "memory-backend-ram,id=ram0,size=94208k -numa node,memdev=ram0",
                1,
            ),
            (Some(12), low.as_str(), 3),
        ] {
            let fds = Fds {
                kernel: 7,
                initrd: (8, 1 << 20),
                tables: 14,
                rings,
                regions: vec![(15, 6 << 20), (16, 2 << 20)],
                scratch: None,
                ports: PORTS,
            };
            let args = args(&machine, &fds);
            let args: Vec<_> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
            let text = args.join(" ");
            let (second, last) = (first + 1, first + 2);
            for part in [
                low,
                "-m size=111616k",
                &format!(
                    "id=ram{first},size=6144k,mem-path=/proc/self/fd/15,share=off,readonly=on"
                ),
                &format!(
                    "id=ram{second},size=2048k,mem-path=/proc/self/fd/16,share=off,readonly=on"
                ),
                &format!("id=ram{last},size=9216k -numa node,memdev=ram{last}"),
                "-device isa-debugcon,chardev=pcicfa,readback=0,iobase=0xcfa",
            ] {
                assert!(text.contains(part), "{part} is not in {text}");
            }
        }
    }

    #[test]
    fn scratch_space_lies_above_all_that_is_below_the_devices_and_the_initrd_in_ram() {
        let machine = Settings {
            cmdline: "quiet",
            memory: ByteSize::mib(192),
            cpus: 1,
        };
        let fds = Fds {
            kernel: 7,
            initrd: (8, 30 << 20),
            tables: 14,
            rings: None,
            regions: vec![(15, 6 << 20)],
            scratch: Some((16, 4 << 30)),
            ports: PORTS,
        };
        let args = args(&machine, &fds);
        let args: Vec<_> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
        let text = args.join(" ");
        for part in [
            "-m size=7340032k",
            "memory-backend-ram,id=ram0,size=163840k -numa",
            "id=ram1,size=6144k,mem-path=/proc/self/fd/15,share=off,readonly=on -numa",
            "memory-backend-memfd,id=ram2,size=2942976k -numa",
            "memory-backend-ram,id=ram3,size=32768k -numa",
            "id=ram4,size=4194304k,mem-path=/proc/self/fd/16,share=on -numa node,memdev=ram4",
            "-device isa-debugcon,chardev=pcicfa",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn cpus_never_run_at_the_same_time() {
        assert_eq!(accelerator(1), "tcg,thread=multi");
        assert_eq!(accelerator(2), "tcg,thread=single");
    }

    #[test]
    fn a_machine_becomes_these_arguments() {
        let machine = Settings {
            cmdline: "console=ttyS0 a,b",
            memory: ByteSize::mib(150),
            cpus: 2,
        };
        let args = args(
            &machine,
            &Fds {
                kernel: 7,
                initrd: (8, 1 << 20),
                tables: 14,
                rings: None,
                regions: Vec::new(),
                scratch: None,
                ports: PORTS,
            },
        );
        let args: Vec<_> = args.iter().map(|arg| arg.to_str().unwrap()).collect();
        let text = args.join(" ");
        for part in [
            "-M microvm,acpi=off,",
            "-device loader,file=/proc/self/fd/14,addr=0xe0000,force-raw=on",
            "-device isa-debug-exit,iosize=2,iobase=0x604",
            "-smp 2 -m size=153600k",
            "-chardev file,id=port1,path=/proc/self/fd/10 -device isa-serial,chardev=port1,index=1",
            "-chardev socket,id=port2,fd=11",
            "-kernel /proc/self/fd/7 -initrd /proc/self/fd/8",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(
            args.last(),
            Some(&"console=ttyS0 a,b"),
            "a comma in it is not special to -append"
        );
    }
}
