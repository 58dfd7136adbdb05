//! Virtual machines with three serial ports, a clock, reset registers and regions of memory, on KVM in this process or in a QEMU
//! child.
//!
//! A [`Machine`] is data: kernel, initrd, command line, RAM, CPUs. [`GuestPorts`] are the streams of its ports. An [`Engine`]
//! takes both, runs the machine and returns its [`Ending`]. An engine knows no images, flags or exit codes. There are two, so
//! they are an enum and not a trait.
//!
//! ```no_run
//! use std::fs::File;
//! use std::time::Duration;
//!
//! use rdvm_vmm::guest::console::Console;
//! use rdvm_vmm::guest::control::Control;
//! use rdvm_vmm::guest::output_stream::OutputStream;
//! use rdvm_vmm::guest::{GuestPorts, ending::Ending};
//! use rdvm_vmm::machine::Machine;
//! use rdvm_vmm::stop_signals::StopSignals;
//! use rdvm_vmm::{Engine, EngineChoice};
//!
//! /// Runs a machine for at most a minute, its console in one file and its output in another.
//! fn run(machine: Machine) -> Result<Ending, Box<dyn std::error::Error>> {
//!     let stream = |path| File::create(path).map(|file| OutputStream::new(file.into()));
//!     let console = Console::new(stream("console")?, None, true);
//!     let guest = GuestPorts::new(stream("output")?, console, Control::text())
//!         .with_timeout(Some(Duration::from_secs(60)));
//!     let (engine, _) = Engine::choose(EngineChoice::Auto)?;
//!     let (ending, _) = engine.boot(machine, guest, &StopSignals::new()?)?;
//!     Ok(ending)
//! }
//! ```
//!
//! There are no other devices: no virtio, no queues, nothing that parses descriptors from a guest. No signal handler is
//! installed unless the caller asks for it ([`StopSignals::catch`]), apart from the one of SIGRTMIN, by which vCPUs are made to
//! leave the guest while machines run on KVM.

#![deny(unsafe_code)]

mod acpi;
mod event_loop;
pub mod guest;
mod kvm;
pub mod machine;
pub mod probe;
mod qemu;
pub mod stop_signals;
pub mod terminal;

use std::fmt;

use crate::guest::GuestPorts;
use crate::guest::ending::Ending;
use crate::machine::{Machine, Sizes};
use crate::probe::KvmState;
use crate::stop_signals::StopSignals;

/// There is no PCI bus to look for.
const NO_PCI: &str = "pci=off";
/// There is one with nothing on it. A kernel takes regions of memory into its list of resources when it has made sure of
/// its way to the bus's configuration (`pcibios_init` in arch/x86/pci/common.c), and this way is two ports that read as zero
/// (`pci_check_type2` in arch/x86/pci/direct.c).
const EMPTY_PCI: &str = "pci=conf2";
/// These ports.
const PCI_CONFIGURATION: [u16; 2] = [0xcf8, 0xcfa];

/// The choice of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineChoice {
    /// KVM where it can run an unmodified kernel, else QEMU.
    Auto,
    /// In process, on KVM.
    Kvm,
    /// A QEMU child process with software emulation.
    Qemu,
}

/// An engine, which runs machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// A machine in this process, on the CPU's own virtualisation.
    Kvm,
    /// A QEMU child with software emulation.
    Qemu(qemu::Qemu),
}

/// An error of choosing an engine, or of an engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine is not valid.
    #[error(transparent)]
    Machine(#[from] machine::Error),
    /// KVM was asked for and cannot be had.
    #[error(transparent)]
    Probe(#[from] probe::Error),
    /// KVM failed.
    #[error(transparent)]
    Kvm(#[from] kvm::Error),
    /// QEMU failed.
    #[error(transparent)]
    Qemu(#[from] qemu::Error),
}

/// A way out that is the caller's. Messages have no words for it, as they do not know what the user calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Use the other engine.
    OtherEngine,
    /// Give the machine fewer CPUs.
    FewerCpus,
    /// Give the machine less RAM.
    LessMemory,
    /// Give the machine more RAM.
    MoreMemory,
    /// Boot another kernel.
    OtherKernel,
    /// Examine the host.
    Examine,
    /// Examine the host, or use the other engine.
    ExamineOrOtherEngine,
    /// Boot another kernel, or examine the host.
    OtherKernelOrExamine,
}

impl Error {
    /// Returns the way out that the message leaves to the caller. It is in addition to one that the message may name.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::Machine(_) => None,
            Self::Probe(error) => error.remedy(),
            Self::Kvm(error) => error.remedy(),
            Self::Qemu(error) => error.remedy(),
        }
    }
}

impl Engine {
    /// Returns the engine that was chosen or, for `Auto`, the one that works, and a line on why that is not KVM.
    ///
    /// # Errors
    ///
    /// The choice cannot be met, with the reason and the remedy.
    pub fn choose(spec: EngineChoice) -> Result<(Self, Option<String>), Error> {
        let qemu = || qemu::Qemu::find().map(Self::Qemu);
        match spec {
            EngineChoice::Kvm => {
                probe::require_kvm(&probe::kvm())?;
                Ok((Self::Kvm, None))
            }
            EngineChoice::Qemu => Ok((qemu()?, None)),
            EngineChoice::Auto => match probe::kvm() {
                KvmState::Usable => Ok((Self::Kvm, None)),
                state => Ok((
                    qemu()?,
                    Some(format!("{}; running in QEMU, slower", state.reason())),
                )),
            },
        }
    }

    /// Returns words for the kernel command line of a machine with so many `cpus` and memory of these `sizes`; `rings` is the
    /// address of memory for streams.
    pub fn cmdline(&self, cpus: u8, rings: Option<u64>, sizes: &Sizes<'_>) -> String {
        let words = match self {
            Self::Kvm => kvm::cmdline(cpus),
            Self::Qemu(qemu) => qemu.cmdline(cpus, rings, sizes),
        };
        let pci = match sizes.has_regions() {
            true => EMPTY_PCI,
            false => NO_PCI,
        };
        format!("{pci} {words}")
    }

    /// Returns true if there is a place for memory of these sizes.
    pub fn fits(&self, sizes: &Sizes<'_>) -> bool {
        match self {
            Self::Kvm => true,
            Self::Qemu(_) => qemu::fits(sizes),
        }
    }

    /// Returns the guest-physical address of memory that is shared with the guest.
    pub fn rings_at(&self) -> u64 {
        match self {
            Self::Kvm => kvm::RINGS_AT,
            Self::Qemu(_) => qemu::RINGS_AT,
        }
    }

    /// Runs the machine to its end, and returns the ports. Everything it started is gone then. `signals` stop it.
    ///
    /// # Errors
    ///
    /// No engine could run the machine (more CPUs, RAM or command line than there may be); the engine itself failed. The
    /// guest's failures are endings.
    pub fn boot(
        &self,
        machine: Machine,
        guest: GuestPorts,
        signals: &StopSignals,
    ) -> Result<(Ending, GuestPorts), Error> {
        machine.check()?;
        match self {
            Self::Kvm => Ok(kvm::boot(machine, guest, signals)?),
            Self::Qemu(qemu) => Ok(qemu.boot(machine, guest, signals)?),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Qemu(_) => "qemu",
        })
    }
}
