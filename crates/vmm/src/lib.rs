//! `Machine` + `GuestPorts` → `Ending`.
//!
//! An engine knows no images, flags or exit codes. There are two, so they are an enum and not a trait.

#![deny(unsafe_code)]

mod acpi;
mod event_loop;
pub mod guest;
pub mod kvm;
pub mod machine;
pub mod probe;
pub mod qemu;
pub mod stop_signals;
pub mod terminal;

use std::fmt;

use self::probe::KvmState;
use crate::guest::GuestPorts;
use crate::guest::ending::Ending;
use crate::machine::Machine;

use crate::stop_signals::StopSignals;

/// Which engine runs the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineChoice {
    /// KVM where it can run an unmodified kernel, else QEMU.
    Auto,
    /// In process, on KVM.
    Kvm,
    /// A QEMU child process with software emulation.
    Qemu,
}

/// What runs a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// A machine in this process, on the CPU's own virtualisation.
    Kvm,
    /// A QEMU child with software emulation.
    Qemu(qemu::Qemu),
}

/// Why no engine, or not this one.
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

impl Engine {
    /// Picks what the user wished or, for `auto`, what works; with it, for `auto`, why that is not KVM.
    ///
    /// Errors: the wish cannot be met, with the reason and the remedy.
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

    /// What the machine with so many `cpus` must be told on the kernel command line; `rings` is where memory for streams is
    /// to be, `share` whether other machines have the initrd too.
    pub fn cmdline(&self, cpus: u8, rings: Option<u64>, share: bool) -> String {
        let mut words = match self {
            Self::Kvm => kvm::cmdline(cpus),
            Self::Qemu(qemu) => qemu.cmdline(cpus, rings),
        };
        // A kernel overwrites an initrd that it frees, page by page, and each of them would become the machine's own.
        if share {
            words += " retain_initrd";
        }
        words
    }

    /// The guest-physical address of memory that is shared with the guest.
    pub fn rings_at(&self) -> u64 {
        match self {
            Self::Kvm => kvm::RINGS_AT,
            Self::Qemu(_) => qemu::RINGS_AT,
        }
    }

    /// Runs the machine to its end. Everything it started is gone when this returns; the guest comes back.
    ///
    /// Errors: it is no machine that could run ([`Machine::check`]); the engine itself failed. The guest's failures are
    /// endings.
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
