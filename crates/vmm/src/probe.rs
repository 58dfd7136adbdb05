//! The engines that this host has: the state of /dev/kvm, and the place of QEMU.
//!
//! [`kvm()`] and [`qemu_path`] are cheap enough for every run: they start no process and make no
//! ioctl. [`qemu()`] asks the program itself. Leaves to others: choosing an
//! engine, KVM's API version (the KVM engine), judging the whole host (`doctor`).

mod cpu;
mod kvm;
mod packages;
mod qemu;

pub use cpu::{Cpu, Extension};
pub use kvm::{KvmFacts, KvmNode, KvmState, kvm};
pub use packages::Packages;
pub use qemu::{QemuState, qemu, qemu_path};

pub use kvm::group_entry;
pub use packages::as_root;

use crate::Remedy;

/// An engine that cannot run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// KVM was asked for on a host whose KVM cannot be used; the state says why, and one way out.
    #[error("{state}")]
    KvmNotUsable {
        /// Anything but [`KvmState::Usable`].
        state: KvmState,
    },
    /// No QEMU of that name.
    #[error("{program}: not found in PATH; {remedy}")]
    QemuMissing {
        /// The name that was looked for, escaped.
        program: String,
        /// The way out: a command to type.
        remedy: String,
    },
    /// `RDVM_QEMU` names a path where there is no program.
    #[error("RDVM_QEMU: {path} is not a program that can be run; correct it or unset RDVM_QEMU")]
    QemuNotAProgram {
        /// The path as given, escaped.
        path: String,
    },
}

impl Error {
    pub(crate) fn remedy(&self) -> Option<Remedy> {
        matches!(self, Self::KvmNotUsable { .. }).then_some(Remedy::OtherEngine)
    }
}

/// Checks that `state` is usable.
pub fn require_kvm(state: &KvmState) -> Result<(), Error> {
    match state {
        KvmState::Usable => Ok(()),
        state => Err(Error::KvmNotUsable {
            state: state.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kvm_engine_is_refused_with_the_reason_and_the_way_out() {
        assert_eq!(require_kvm(&KvmState::Usable), Ok(()));
        let refusal = require_kvm(&KvmState::Paravirtual).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "/dev/kvm: paravirtual (PVM), it cannot run an unmodified kernel; \
             take a host whose CPU shows vmx or svm"
        );
    }
}
