//! The KVM engine: a minimal machine in this process, for unmodified 64-bit Linux kernels.
//!
//! `boot` is the start-up in its order, one call a step; docs/architecture.md tells it as a story. What the machine
//! consists of: RAM (`ram.rs`, laid out by `layout.rs`, filled by `load.rs`), vCPUs (`vcpu.rs`, their first state in
//! `cpu.rs`, described to the guest in `../acpi.rs`), KVM's own interrupt controllers and timer, and the ports
//! (`bus.rs`) with three serial lines (`serial.rs`) and a clock (`cmos.rs`). It lives in `session.rs`,
//! its vCPUs on threads of their own (`threads.rs`).

mod bus;
mod cmos;
mod cpu;
mod devices;
mod error;
mod exits;
mod halt;
mod layout;
mod load;
#[allow(unsafe_code)]
mod ram;
mod serial;
mod session;
#[allow(unsafe_code)]
mod teardown;
mod threads;
#[allow(unsafe_code)]
mod vcpu;

use std::ffi::c_ulong;
use std::io;

use kvm_bindings::{
    KVM_API_VERSION, KVM_CAP_PMU_CAPABILITY, KVM_PIT_SPEAKER_DUMMY, KVM_PMU_CAP_DISABLE,
    kvm_enable_cap, kvm_pit_config,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};
use rustix::io::Errno;

pub(crate) use self::error::Error;

use self::cpu::Package;
use self::devices::Devices;
use self::ram::{Ram, Registered};
use self::session::Session;
use self::vcpu::Vcpu;
use crate::guest::ending::Ending;
use crate::guest::{GuestPorts, Port};
use crate::machine::Machine;
use crate::probe::KvmState;
use crate::stop_signals::StopSignals;

/// Words for the guest's kernel. Pages are not cleared before they are
/// overwritten, as most of a large image's are. Per-CPU areas are made of the pages that they need: a huge page each is what
/// they would take else (2.0 of 41 ms to user space in counted time, 1.8 MB of the host's memory).
const CMDLINE: &str = "init_on_alloc=0 percpu_alloc=page";

/// Words for a guest with one CPU, which needs no I/O APIC to spread interrupts: to set one up takes 550 exits, each of which KVM
/// must decode an instruction for. What is left is the PC's first interrupt controller, whose lines 3 and 4 are ours.
const ONE_CPU: &str = " noapic";

/// Returns words for the kernel of a guest with so many CPUs.
pub(super) fn cmdline(cpus: u8) -> String {
    let alone = if cpus == 1 { ONE_CPU } else { "" };
    format!("{CMDLINE}{alone}")
}

/// The address of the memory that is shared with the guest.
pub(super) const RINGS_AT: u64 = layout::RINGS;

/// Tries of a call that a signal interrupted or that KVM asks to repeat.
const TRIES: u32 = 100;

/// Runs the machine to its end; its memory and threads are gone when this returns.
pub(super) fn boot(
    mut machine: Machine,
    mut guest: GuestPorts,
    signals: &StopSignals,
) -> Result<(Ending, GuestPorts), Error> {
    let kvm_fd = open()?;
    let vm = new_machine(&kvm_fd)?;
    let mut ram = Ram::map(machine.memory.0).map_err(|source| Error::Memory {
        memory: machine.memory,
        source,
    })?;
    let loaded = load::load(&mut ram, &mut machine, &|| guest.is_over(signals));
    // Loading a large image takes its time; a part that cannot be loaded is still an error.
    if let Ok(_) | Err(Error::Initrd(rdvm_initrd::Error::Stopped)) = loaded
        && let Some(ending) = guest.steer(signals)
    {
        return Ok((ending, guest));
    }
    let start = loaded?;
    guest.machine_loaded();
    // Dropped at the end: after the vCPUs, whose threads `Session` ends even when it is unwound.
    let _ram: Registered = ram.register(&vm)?;
    let _regions = ram::map_regions(&vm, &machine)?;
    // It goes with the guest, which comes back when no vCPU is left.
    if machine.rings {
        guest.attach(ram::share(&vm)?);
    }
    let coalesces = coalesce(&vm)?;
    let package = Package {
        cpus: machine.cpus,
        deadline_timer: {
            let cap = Cap::TscDeadlineTimer as c_ulong;
            offers(|cap| kvm_fd.check_extension_raw(cap), cap)? != 0
        },
    };
    let supported = kvm("asking for CPUID", || {
        kvm_fd.get_supported_cpuid(cpu::CPUID_ENTRIES)
    })?;
    let vcpus = (0..machine.cpus)
        .map(|id| Vcpu::new(&vm, id, package, supported.as_slice(), start, coalesces))
        .collect::<Result<Vec<_>, _>>()?;
    guest.machine_starts();
    let mut devices = Devices::new(vm, guest);
    devices.bus.empty_pci = machine.region_sizes().next().is_some();
    let regions = std::mem::take(&mut machine.regions);
    let session = Session::start(devices, vcpus, regions, machine.scratch.take())?;
    // The guest has a copy of every byte: freeing thousands of entries costs nothing while it boots.
    drop(machine);
    session.run(signals)
}

/// Opens /dev/kvm and checks that it can do what is needed.
fn open() -> Result<Kvm, Error> {
    let kvm_fd = Kvm::new();
    let kvm_fd = kvm_fd.map_err(|error| Error::Unusable(KvmState::of_open_error(errno(error))))?;
    let version = kvm("asking for the API version", || {
        match kvm_fd.get_api_version() {
            -1 => Err(kvm_ioctls::Error::last()),
            version => Ok(version),
        }
    })?;
    if version != KVM_API_VERSION as i32 {
        return Err(Error::Unusable(KvmState::OldApi { version }));
    }
    let needs = [
        (Cap::UserMemory, "memory regions"),
        (Cap::Irqchip, "interrupt controllers"),
        (Cap::Pit2, "timer"),
        (Cap::ExtCpuid, "CPUID"),
        (Cap::SetTssAddr, "place for its task state segment"),
        (Cap::SetIdentityMapAddr, "place for its identity map"),
        (Cap::MpState, "state of halted CPUs"),
    ];
    for (cap, what) in needs {
        if offers(|cap| kvm_fd.check_extension_raw(cap), cap as c_ulong)? == 0 {
            return Err(Error::Unsupported { what });
        }
    }
    Ok(kvm_fd)
}

/// Returns KVM's answer for a capability: 0 when it does not have it.
fn offers(ask: impl Fn(c_ulong) -> i32, cap: c_ulong) -> Result<i32, Error> {
    kvm("asking what it offers", || match ask(cap) {
        -1 => Err(kvm_ioctls::Error::last()),
        answer => Ok(answer),
    })
}

/// Makes a machine with interrupt controllers and a timer, and without CPUs and RAM.
fn new_machine(kvm_fd: &Kvm) -> Result<VmFd, Error> {
    let vm = kvm("making a machine", || kvm_fd.create_vm())?;
    // Of AMD's counters CPUID cannot say that they are not there.
    let cap = c_ulong::from(KVM_CAP_PMU_CAPABILITY);
    let can = offers(|cap| vm.check_extension_raw(cap), cap)?;
    if can as u32 & KVM_PMU_CAP_DISABLE != 0 {
        let mut without = kvm_enable_cap {
            cap: KVM_CAP_PMU_CAPABILITY,
            ..Default::default()
        };
        without.args[0] = KVM_PMU_CAP_DISABLE.into();
        kvm("switching the counters off", || vm.enable_cap(&without))?;
    }
    kvm("placing the identity map", || {
        vm.set_identity_map_address(layout::IDENTITY_MAP)
    })?;
    kvm("placing the task state segment", || {
        vm.set_tss_address(layout::TSS as usize)
    })?;
    kvm("making the interrupt controllers", || vm.create_irq_chip())?;
    // For kernels that know no kvm-clock. Its port 0x61 answers as well, where they look for the timer's output.
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    kvm("making the timer", || vm.create_pit2(pit))?;
    Ok(vm)
}

/// Has KVM keep what is written to the data ports of stdout and status until the next exit: a byte then costs half.
/// Returns false where it cannot.
///
/// Their driver always comes to a read soon. The console has a second one that waits for each byte.
fn coalesce(vm: &VmFd) -> Result<bool, Error> {
    let cap = Cap::CoalescedPio as c_ulong;
    if offers(|cap| vm.check_extension_raw(cap), cap)? == 0 {
        return Ok(false);
    }
    for (port, base, _) in bus::PORTS {
        if port != Port::Console {
            let address = IoEventAddress::Pio(base.into());
            kvm("having port writes kept", || {
                vm.register_coalesced_mmio(address, 1)
            })?;
        }
    }
    Ok(true)
}

/// Calls KVM, again where it was interrupted or asks for that.
///
/// # Errors
///
/// Any other error, with the operation.
fn kvm<T>(
    what: &'static str,
    mut call: impl FnMut() -> Result<T, kvm_ioctls::Error>,
) -> Result<T, Error> {
    let mut tries = TRIES;
    loop {
        tries -= 1;
        match call() {
            Ok(value) => return Ok(value),
            Err(error) if tries > 0 && is_passing(error) => {}
            Err(error) => {
                let source = io::Error::from_raw_os_error(error.errno());
                return Err(Error::Call { what, source });
            }
        }
    }
}

fn is_passing(error: kvm_ioctls::Error) -> bool {
    matches!(errno(error), Errno::INTR | Errno::AGAIN)
}

fn errno(error: kvm_ioctls::Error) -> Errno {
    Errno::from_raw_os_error(error.errno())
}

/// A list for KVM that is longer than its format allows; none of ours is.
fn given<T>(list: Result<T, vmm_sys_util::fam::Error>) -> Result<T, Error> {
    list.map_err(|_| Error::Unsupported {
        what: "room for a list this long",
    })
}
