//! The KVM engine: a minimal machine in this process, for unmodified 64-bit Linux kernels.
//!
//! `boot` is the start-up in its order, one call a step; docs/architecture.md tells it as a story. What the machine
//! consists of: RAM (`ram.rs`, laid out by `layout.rs`, filled by `load.rs`), vCPUs (`vcpu.rs`, their first state in
//! `cpu.rs`, described to the guest in `acpi.rs`), KVM's own interrupt controllers and timer, and the ports
//! (`bus.rs`) with three serial lines (`serial.rs`) and a clock (`cmos.rs`). It lives in `session.rs`.

mod acpi;
mod bus;
mod cmos;
mod cpu;
mod devices;
mod exits;
mod layout;
mod load;
#[allow(unsafe_code)]
mod ram;
mod serial;
mod session;
#[allow(unsafe_code)]
mod vcpu;

use std::io;
use std::path::PathBuf;

use kvm_bindings::{KVM_API_VERSION, kvm_pit_config};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};
use rustix::io::Errno;

use self::cpu::Package;
use self::devices::Devices;
use self::ram::{Ram, Registered};
use self::session::Session;
use self::vcpu::Vcpu;
use crate::engine::probe::KvmState;
use crate::escape::shown;
use crate::guest::ending::Ending;
use crate::guest::{Listener, Port};
use crate::initrd;
use crate::machine::Machine;
use crate::units::ByteSize;
use crate::watch::Watch;

/// What the guest's kernel is to be told: there is no PCI bus to look for. Pages are not cleared before they are
/// overwritten, as most of a large image's are.
pub(super) const CMDLINE: &str = "pci=off init_on_alloc=0";

/// Tries of a call that a signal interrupted or that KVM asks to repeat.
const TRIES: u32 = 100;

/// Why KVM could not run the machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// /dev/kvm is not, or not any more, what it was found to be.
    #[error("{0}, or use --engine qemu")]
    Unusable(KvmState),
    /// This KVM lacks something.
    #[error("/dev/kvm: offers no {what}; boot a newer host kernel, or use --engine qemu")]
    Lacks {
        /// What.
        what: &'static str,
    },
    /// A call to KVM failed.
    #[error("kvm engine: {what}: {source}; see rdvm doctor, or use --engine qemu")]
    Call {
        /// What was being done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The host refused something else.
    #[error("kvm engine: {what}: {source}; see rdvm doctor")]
    Host {
        /// What was being done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The host has no address space for the guest's RAM.
    #[error(
        "kvm engine: {memory} of guest RAM cannot be mapped: {source}; raise ulimit -v, or give the guest less with -m"
    )]
    Memory {
        /// How much.
        memory: ByteSize,
        /// Why.
        source: io::Error,
    },
    /// The kernel does not fit.
    #[error(
        "{}: reaches up to {end:#x}, the guest's RAM ends at {ram_end:#x}; give it more with -m",
        shown(kernel)
    )]
    KernelPlace {
        /// Its file.
        kernel: PathBuf,
        /// First address above it.
        end: u64,
        /// First address above the RAM below 4 GiB.
        ram_end: u64,
    },
    /// The kernel's file could be checked but not loaded.
    #[error(
        "{}: cannot be loaded: {source}; try another kernel (-k)",
        shown(kernel)
    )]
    Kernel {
        /// Its file.
        kernel: PathBuf,
        /// Why.
        source: linux_loader::loader::Error,
    },
    /// There is no place for the initrd.
    #[error("initrd: its {} do not fit between the kernel's end {kernel_end:#x} and {} in {memory} of RAM; give the guest more with -m, or use a kernel that takes an initrd anywhere (Linux 3.8 or later)", ByteSize(*size), limit_name(*limit))]
    InitrdPlace {
        /// Its length in bytes.
        size: u64,
        /// First address above the kernel.
        kernel_end: u64,
        /// First address that the kernel does not take.
        limit: u64,
        /// The guest's RAM.
        memory: ByteSize,
    },
    /// The initrd cannot be made.
    #[error(transparent)]
    Initrd(#[from] initrd::Error),
    /// A part lies outside of the guest's RAM.
    #[error("kvm engine: the guest's RAM has no room for its tables; give it more with -m")]
    Place,
}

/// Runs the machine to its end; its memory and threads are gone when this returns.
pub(super) fn boot(
    mut machine: Machine,
    mut listener: Listener,
    watch: &Watch,
) -> Result<(Ending, Listener), Error> {
    let kvm_fd = open()?;
    let vm = new_machine(&kvm_fd)?;
    let mut ram = Ram::map(machine.memory.0).map_err(|source| Error::Memory {
        memory: machine.memory,
        source,
    })?;
    let start = load::load(&mut ram, &mut machine)?;
    // Dropped after the vCPUs and the machine: locals go in reverse order.
    let _ram: Registered = ram.register(&vm)?;
    let coalesces = coalesce(&vm)?;
    let package = Package {
        cpus: machine.cpus,
        deadline_timer: kvm_fd.check_extension(Cap::TscDeadlineTimer),
    };
    let supported = kvm("asking for CPUID", || {
        kvm_fd.get_supported_cpuid(cpu::CPUID_ENTRIES)
    })?;
    let vcpus = (0..machine.cpus)
        .map(|id| Vcpu::new(&vm, id, package, supported.as_slice(), start, coalesces))
        .collect::<Result<Vec<_>, _>>()?;
    listener.machine_starts();
    let session = Session::start(Devices::new(vm, listener), vcpus)?;
    // The guest has a copy of every byte: freeing thousands of entries costs nothing while it boots.
    drop(machine);
    session.run(watch)
}

/// Opens /dev/kvm and sees that it can do what is needed.
fn open() -> Result<Kvm, Error> {
    let kvm = Kvm::new().map_err(|error| Error::Unusable(KvmState::of_open_error(errno(error))))?;
    let version = kvm.get_api_version();
    if version < 0 {
        return Err(Error::Call {
            what: "asking for the API version",
            source: io::Error::last_os_error(),
        });
    }
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
    match needs
        .into_iter()
        .find(|(cap, _)| !kvm.check_extension(*cap))
    {
        Some((_, what)) => Err(Error::Lacks { what }),
        None => Ok(kvm),
    }
}

/// A machine with interrupt controllers and a timer, and without CPUs and RAM.
fn new_machine(kvm_fd: &Kvm) -> Result<VmFd, Error> {
    let vm = kvm("making a machine", || kvm_fd.create_vm())?;
    kvm("placing the identity map", || {
        vm.set_identity_map_address(layout::IDENTITY_MAP)
    })?;
    kvm("placing the task state segment", || {
        vm.set_tss_address(layout::TSS as usize)
    })?;
    kvm("making the interrupt controllers", || vm.create_irq_chip())?;
    // For kernels that know no kvm-clock. Its port 0x61 answers as well, where they look for the timer's output.
    kvm("making the timer", || {
        vm.create_pit2(kvm_pit_config::default())
    })?;
    Ok(vm)
}

/// Has KVM keep what is written to stdout's data port until the next exit: a byte then costs half. Tells whether it can.
///
/// Only that port: its driver always comes to a read soon, and nobody else has so much to say.
fn coalesce(vm: &VmFd) -> Result<bool, Error> {
    if !vm.check_extension(Cap::CoalescedPio) {
        return Ok(false);
    }
    for (port, base, _) in bus::PORTS {
        if port == Port::Stdout {
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
/// Errors: what it says otherwise, with what was being done.
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
    list.map_err(|_| Error::Lacks {
        what: "room for a list this long",
    })
}

fn limit_name(limit: u64) -> String {
    match limit {
        u64::MAX => "the end".to_owned(),
        limit => format!("{limit:#x}, its limit"),
    }
}
