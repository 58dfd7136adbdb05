//! `Machine` + `Listener` → `Ending`.
//!
//! An engine knows no images, flags or exit codes. There are two, so they are an enum and not a trait.

pub mod probe;
pub mod qemu;

use std::fmt;

use crate::guest::Listener;
use crate::guest::ending::Ending;
use crate::machine::Machine;
use crate::request::EngineWish;
use crate::watch::Watch;

/// What runs a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Engine {
    /// A QEMU child with software emulation.
    Qemu(qemu::Qemu),
}

/// Why no engine, or not this one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM was asked for and cannot be had.
    #[error(transparent)]
    Kvm(#[from] probe::Error),
    /// QEMU failed.
    #[error(transparent)]
    Qemu(#[from] qemu::Error),
}

impl Engine {
    /// Picks what the user wished or, for `auto`, what works.
    ///
    /// Errors: the wish cannot be met, with the reason and the remedy.
    pub fn choose(wish: EngineWish) -> Result<Self, Error> {
        match wish {
            EngineWish::Kvm => match probe::require_kvm(&probe::kvm()) {
                Err(error) => Err(error.into()),
                Ok(()) => Err(probe::Error::KvmNotBuilt.into()),
            },
            EngineWish::Auto | EngineWish::Qemu => Ok(Self::Qemu(qemu::Qemu::find()?)),
        }
    }

    /// What this engine's machine must be told on the kernel command line.
    pub fn cmdline(&self) -> String {
        match self {
            Self::Qemu(qemu) => qemu.cmdline(),
        }
    }

    /// Runs the machine to its end. Everything it started is gone when this returns.
    ///
    /// Errors: the engine itself failed; the guest's failures are endings.
    pub fn boot(
        &self,
        machine: Machine,
        listener: &mut Listener,
        watch: &Watch,
    ) -> Result<Ending, Error> {
        match self {
            Self::Qemu(qemu) => Ok(qemu.boot(machine, listener, watch)?),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qemu(_) => "qemu",
        })
    }
}
