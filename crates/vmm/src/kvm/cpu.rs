//! The state in which the guest's CPUs start: CPUID, registers, MSRs, local APIC, as data.
//!
//! Everything here is computed; `vcpu.rs` hands it to KVM. Sources: `Documentation/arch/x86/boot.rst` (64-bit boot
//! protocol), Intel SDM volumes 2A (CPUID) and 3A, AMD APM volumes 2 and 3 (CPUID), KVM's `cpuid.rst`.

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, Msrs, kvm_cpuid_entry2, kvm_lapic_state, kvm_msr_entry,
    kvm_regs, kvm_segment, kvm_sregs,
};

use super::layout::{GDT, PML4};

/// The most that KVM describes (`KVM_MAX_CPUID_ENTRIES`).
pub(super) const CPUID_ENTRIES: usize = 256;

/// Descriptors of a flat 64-bit system with the selectors that the boot protocol wants: none, none, code, data.
pub(super) const GDT_ENTRIES: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;

const CR0: u64 = 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31; // PE, ET, NE, WP, PG
const CR4: u64 = 1 << 5; // PAE
const EFER: u64 = 1 << 8 | 1 << 10; // LME, LMA
const RFLAGS: u64 = 2; // the bit that is always set; interrupts are off

const MSR_MISC_ENABLE: u32 = 0x1a0;
/// Fast strings; no branch trace, no precise sampling.
const MISC: u64 = 1 | 1 << 11 | 1 << 12;
/// Memory is write-back where nothing else is said. A kernel that finds these registers off does without its PAT.
const MSR_MTRR_DEFAULT: u32 = 0x2ff;
const MTRR_ON_WRITE_BACK: u64 = 1 << 11 | 6;

const APIC_LVT_LINT0: usize = 0x350;
const APIC_LVT_LINT1: usize = 0x360;
const DELIVERY_EXT_INT: u32 = 7 << 8;
const DELIVERY_NMI: u32 = 4 << 8;

/// General registers at a 64-bit entry point: `rsi` points to the zero page.
pub(super) fn registers(entry: u64, zero_page: u64) -> kvm_regs {
    kvm_regs {
        rip: entry,
        rsi: zero_page,
        rflags: RFLAGS,
        ..Default::default()
    }
}

/// System registers for long mode with the tables of `layout.rs`, on top of what a CPU has after reset.
pub(super) fn system_registers(after_reset: kvm_sregs) -> kvm_sregs {
    let mut sregs = after_reset;
    sregs.gdt.base = GDT;
    sregs.gdt.limit = (size_of_val(&GDT_ENTRIES) - 1) as u16;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cs = segment(CODE, 0xb, true);
    let data = segment(DATA, 0x3, false);
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    (sregs.fs, sregs.gs) = (data, data);
    sregs.cr0 = CR0;
    sregs.cr3 = PML4;
    sregs.cr4 = CR4;
    sregs.efer = EFER;
    sregs
}

fn segment(selector: u16, kind: u8, code: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// The model-specific registers whose state after reset is not what firmware leaves behind.
pub(super) fn msrs() -> Result<Msrs, vmm_sys_util::fam::Error> {
    let entry = |index, data| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    };
    Msrs::from_entries(&[
        entry(MSR_MISC_ENABLE, MISC),
        entry(MSR_MTRR_DEFAULT, MTRR_ON_WRITE_BACK),
    ])
}

/// The local APIC with the 8259's interrupt at its first pin and the NMI at its second, as the ACPI tables say.
pub(super) fn local_apic(after_reset: kvm_lapic_state) -> kvm_lapic_state {
    let mut apic = after_reset;
    let mut set = |at: usize, delivery: u32| {
        for (byte, value) in apic.regs[at..at + 4].iter_mut().zip(delivery.to_le_bytes()) {
            *byte = value as std::ffi::c_char;
        }
    };
    set(APIC_LVT_LINT0, DELIVERY_EXT_INT);
    set(APIC_LVT_LINT1, DELIVERY_NMI);
    apic
}

/// The properties that the guest's CPUs have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Package {
    /// Number of CPUs; each is a core of one package.
    pub(super) cpus: u8,
    /// `KVM_CAP_TSC_DEADLINE_TIMER`: a timer that needs no calibration.
    pub(super) deadline_timer: bool,
}

/// Returns the CPUID of CPU number `cpu`: what KVM supports here, with its number and the package's shape, without what
/// this machine does not have (nested virtualisation, performance counters, power states).
pub(super) fn cpuid(
    supported: &[kvm_cpuid_entry2],
    package: Package,
    cpu: u8,
) -> Result<CpuId, vmm_sys_util::fam::Error> {
    // AMD, and Hygon, whose CPUs are AMD's.
    let amd = [*b"cAMD", *b"uine"].map(u32::from_le_bytes);
    let amd = supported
        .iter()
        .any(|entry| entry.function == 0 && amd.contains(&entry.ecx));
    let mut entries: Vec<_> = supported
        .iter()
        .filter(|entry| !matches!(entry.function, LEAF_TOPOLOGY | LEAF_TOPOLOGY_V2))
        .copied()
        .collect();
    for entry in &mut entries {
        adapt(entry, package, u32::from(cpu), amd);
    }
    if supported
        .iter()
        .any(|entry| entry.function == 0 && entry.eax >= LEAF_TOPOLOGY)
    {
        entries.extend(topology(package, cpu));
    }
    CpuId::from_entries(&entries)
}

const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;

/// Bits of an APIC number that tell the cores of a package apart.
fn core_bits(cpus: u8) -> u32 {
    cpus.next_power_of_two().trailing_zeros()
}

fn adapt(entry: &mut kvm_cpuid_entry2, package: Package, cpu: u32, amd: bool) {
    let (cores, bits) = (u32::from(package.cpus), core_bits(package.cpus));
    match entry.function {
        1 => {
            let line = entry.ebx & 0xff00; // size of a cache line
            entry.ebx = cpu << 24 | (1 << bits) << 16 | line;
            entry.ecx &= !(1 << 3 | 1 << 5); // MONITOR, VMX
            entry.ecx |= 1 << 31; // a hypervisor is there: kernels look for kvm-clock
            if package.deadline_timer {
                entry.ecx |= 1 << 24;
            }
            entry.edx &= !(1 << 28);
            entry.edx |= u32::from(cores > 1) << 28; // EBX counts CPUs
        }
        // Caches: the last level is shared by all, the others are a core's own.
        4 if entry.eax & 0x1f != 0 => {
            let shared = if entry.eax >> 5 & 7 >= 3 {
                cores - 1
            } else {
                0
            };
            entry.eax = entry.eax & 0x3fff | shared << 14 | (cores - 1) << 26;
        }
        5 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0), // MONITOR
        0xa => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0), // counters
        0x8000_0001 => {
            entry.ecx &= !(1 << 2 | 1 << 23 | 1 << 24 | 1 << 28); // SVM, counters
            // Of several cores EBX of leaf 1 counts cores and not threads.
            entry.ecx = entry.ecx & !(1 << 1) | u32::from(amd && cores > 1) << 1;
        }
        0x8000_0008 if amd => entry.ecx = bits << 12 | (cores - 1),
        0x8000_0022 => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0), // counters
        0x8000_000a => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0), // SVM
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let shared = if entry.eax >> 5 & 7 >= 3 {
                cores - 1
            } else {
                0
            };
            entry.eax = entry.eax & 0x3fff | shared << 14;
        }
        0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (cpu, cpu, 0),
        _ => {}
    }
}

/// The levels of CPUs: one thread in a core, all cores in the package, and the end of the list.
fn topology(package: Package, cpu: u8) -> [kvm_cpuid_entry2; 3] {
    let level = |index, shift, count, kind: u32| kvm_cpuid_entry2 {
        function: LEAF_TOPOLOGY,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: kind << 8 | index,
        edx: u32::from(cpu),
        ..Default::default()
    };
    let cores = u32::from(package.cpus);
    [
        level(0, 0, 1, 1),
        level(1, core_bits(package.cpus), cores, 2),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32, values: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = values;
        kvm_cpuid_entry2 {
            function,
            index,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        }
    }

    /// A made-up host: six CPUs, all features.
    fn host(vendor: &[u8; 4]) -> Vec<kvm_cpuid_entry2> {
        let full = [u32::MAX; 4];
        vec![
            leaf(0, 0, [0x1f, 0, u32::from_le_bytes(*vendor), 0]),
            leaf(1, 0, [0x906ed, 0x0510_0800, u32::MAX, u32::MAX]),
            leaf(4, 0, [0x1c00_4121, 1, 2, 3]),
            leaf(4, 3, [0x1c03_c163, 1, 2, 3]),
            leaf(4, 4, [0; 4]),
            leaf(0xa, 0, full),
            leaf(0xb, 0, full),
            leaf(0x1f, 0, full),
            leaf(0x4000_0001, 0, [0x0100_7efb, 0, 0, 0]),
            leaf(0x8000_0001, 0, full),
            leaf(0x8000_0008, 0, full),
            leaf(0x8000_000a, 0, full),
            leaf(0x8000_001e, 0, full),
        ]
    }

    fn get(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let found = cpuid
            .as_slice()
            .iter()
            .filter(|e| e.function == function && e.index == index);
        let found: Vec<_> = found.collect();
        assert_eq!(found.len(), 1, "leaf {function:#x}.{index}");
        *found[0]
    }

    #[test]
    fn each_cpu_knows_its_number_and_how_many_there_are() {
        for (cpus, cpu, bits) in [(1, 0, 0), (2, 1, 1), (5, 4, 3), (16, 15, 4)] {
            let package = Package {
                cpus,
                deadline_timer: false,
            };
            for vendor in [b"ntel", b"cAMD"] {
                let cpuid = cpuid(&host(vendor), package, cpu).unwrap();
                let one = get(&cpuid, 1, 0);
                assert_eq!(one.ebx, u32::from(cpu) << 24 | 1 << (16 + bits) | 0x800);
                assert_eq!(one.edx >> 28 & 1, u32::from(cpus > 1));
                let cores = get(&cpuid, 0xb, 1);
                assert_eq!(
                    (cores.eax, cores.ebx, cores.edx),
                    (bits, cpus.into(), cpu.into())
                );
                assert_eq!(get(&cpuid, 0xb, 0).ebx, 1);
                assert_eq!(get(&cpuid, 0xb, 2).ebx, 0);
                assert_eq!(get(&cpuid, 4, 0).eax >> 14, u32::from(cpus - 1) << 12);
                assert_eq!(get(&cpuid, 4, 3).eax >> 14 & 0xfff, u32::from(cpus - 1));
                assert_eq!(get(&cpuid, 0x8000_001e, 0).eax, u32::from(cpu));
            }
        }
    }

    #[test]
    fn the_guest_sees_a_hypervisor_and_neither_nested_virtualisation_nor_counters() {
        let package = Package {
            cpus: 2,
            deadline_timer: true,
        };
        let cpuid = cpuid(&host(b"cAMD"), package, 0).unwrap();
        let one = get(&cpuid, 1, 0);
        assert_eq!(
            (
                one.ecx >> 31,
                one.ecx >> 24 & 1,
                one.ecx >> 5 & 1,
                one.ecx >> 3 & 1
            ),
            (1, 1, 0, 0)
        );
        assert_eq!(get(&cpuid, 0x8000_0001, 0).ecx & 1 << 2, 0);
        assert_eq!(get(&cpuid, 0x8000_000a, 0).eax, 0);
        assert_eq!(get(&cpuid, 0xa, 0).eax, 0);
        assert_eq!(get(&cpuid, 0x8000_0008, 0).ecx, 1 << 12 | 1);
        assert_eq!(
            get(&cpuid, 0x4000_0001, 0).eax,
            0x0100_7efb,
            "kvm-clock stays"
        );
        assert!(cpuid.as_slice().iter().all(|entry| entry.function != 0x1f));
    }

    #[test]
    fn an_old_cpu_gets_no_leaf_that_it_does_not_have() {
        let old = [leaf(0, 0, [4, 0, 0, 0]), leaf(1, 0, [0; 4])];
        let package = Package {
            cpus: 1,
            deadline_timer: false,
        };
        let cpuid = cpuid(&old, package, 0).unwrap();
        assert_eq!(cpuid.as_slice().len(), 2);
        assert_eq!(get(&cpuid, 1, 0).ecx >> 24 & 1, 0);
    }

    #[test]
    fn the_boot_cpu_starts_in_long_mode_with_interrupts_off() {
        let sregs = system_registers(kvm_sregs {
            cr0: 0x6000_0010,
            ..Default::default()
        });
        assert_eq!(
            (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer),
            (0x8001_0031, PML4, 0x20, 0x500)
        );
        assert_eq!((sregs.cs.selector, sregs.cs.l, sregs.cs.db), (0x10, 1, 0));
        assert_eq!((sregs.ss.selector, sregs.gdt.limit), (0x18, 31));
        let regs = registers(0x100_0000, 0x7000);
        assert_eq!((regs.rip, regs.rsi, regs.rflags), (0x100_0000, 0x7000, 2));
    }

    #[test]
    fn the_local_apic_takes_the_8259_and_the_nmi() {
        let apic = local_apic(kvm_lapic_state::default());
        assert_eq!((apic.regs[0x351], apic.regs[0x361]), (7, 4));
    }
}
