//! One virtual CPU: set up from data, run, and its exits read out of the page that it shares with KVM.
//!
//! Knows no devices: what an exit means is `exits.rs`.

use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_EXIT_IO_IN, KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_UNINITIALIZED,
    kvm_coalesced_mmio, kvm_coalesced_mmio_ring, kvm_cpuid_entry2, kvm_run,
};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use rustix::io::Errno;

use super::Error;
use super::cpu::{self, Package};
use super::exits::Exit;
use super::load::Start;
use super::{given, kvm};
use rdvm_hostfs::units::PAGE;

/// A vCPU.
#[derive(Debug)]
pub(super) struct Vcpu {
    fd: VcpuFd,
    coalesces: bool,
    /// The time since which KVM has answered nothing but "again".
    again: Option<Instant>,
}

/// Time for which KVM may answer "again": it does once for a vCPU that another one starts.
const AGAIN: Duration = Duration::from_secs(1);

/// Writes that KVM keeps at most: what fits into the ring's page (`KVM_COALESCED_MMIO_MAX` in
/// include/uapi/linux/kvm.h).
const RING: usize =
    (PAGE as usize - size_of::<kvm_coalesced_mmio_ring>()) / size_of::<kvm_coalesced_mmio>();

/// As many writes as the ring holds. All vCPUs write to one ring, and go on doing so while it is read: with an end to that
/// one vCPU cannot keep the lock on the devices forever, and what was kept before an exit still comes before it.
fn one_ring<T>(reads: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    reads.take(RING)
}

/// The reason why `Vcpu::run` returned.
#[derive(Debug)]
pub(super) enum Reason {
    /// A signal.
    Interrupted,
    /// A vCPU that another one has just started; it is to be run again.
    Again,
    Io,
    Mmio,
    InternalError,
    /// An exit without data of its own.
    Plain(Exit<'static>),
}

impl Vcpu {
    /// Makes vCPU number `id`; the first one starts at `start`, the others wait until the guest starts them.
    ///
    /// # Errors
    ///
    /// Those of KVM, with what was being done.
    pub(super) fn new(
        vm: &VmFd,
        id: u8,
        package: Package,
        supported: &[kvm_cpuid_entry2],
        start: Start,
        coalesces: bool,
    ) -> Result<Self, Error> {
        let mut fd = kvm("making a vCPU", || vm.create_vcpu(id.into()))?;
        if coalesces {
            kvm("mapping the ring of port writes", || {
                fd.map_coalesced_mmio_ring()
            })?;
        }
        let cpuid = given(cpu::cpuid(supported, package, id))?;
        kvm("setting CPUID", || fd.set_cpuid2(&cpuid))?;
        let apic = kvm("reading a local APIC", || fd.get_lapic())?;
        let apic = cpu::local_apic(apic);
        kvm("setting a local APIC", || fd.set_lapic(&apic))?;
        let msrs = given(cpu::msrs())?;
        let count = kvm("setting MSRs", || fd.set_msrs(&msrs))?;
        // KVM stops at the first that it does not have.
        if count < msrs.as_slice().len() {
            return Err(Error::Unsupported {
                what: "MSRs for memory types and fast strings",
            });
        }
        if id == 0 {
            let sregs = kvm("reading system registers", || fd.get_sregs())?;
            let sregs = cpu::system_registers(sregs);
            kvm("setting system registers", || fd.set_sregs(&sregs))?;
            let regs = cpu::registers(start.entry, start.zero_page);
            kvm("setting registers", || fd.set_regs(&regs))?;
        }
        Ok(Self {
            fd,
            coalesces,
            again: None,
        })
    }

    /// Enters the guest until there is something to do.
    pub(super) fn run(&mut self) -> Reason {
        let reason = self.enter();
        match reason {
            Reason::Again => {
                let since = *self.again.get_or_insert_with(Instant::now);
                if since.elapsed() > AGAIN {
                    return Reason::Plain(Exit::Failed(Errno::AGAIN.raw_os_error()));
                }
            }
            _ => self.again = None,
        }
        reason
    }

    fn enter(&mut self) -> Reason {
        match self.fd.run() {
            Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => Reason::Io,
            Ok(VcpuExit::MmioRead(..) | VcpuExit::MmioWrite(..)) => Reason::Mmio,
            Ok(VcpuExit::InternalError) => Reason::InternalError,
            Ok(VcpuExit::Intr) => Reason::Interrupted,
            Ok(VcpuExit::Shutdown) => Reason::Plain(Exit::Shutdown),
            Ok(VcpuExit::Hlt) => Reason::Plain(Exit::Halt),
            Ok(VcpuExit::SystemEvent(kind, _)) => Reason::Plain(Exit::SystemEvent(kind)),
            Ok(VcpuExit::FailEntry(reason, _)) => Reason::Plain(Exit::FailEntry { reason }),
            Ok(other) => Reason::Plain(Exit::Other(format!("{other:?}"))),
            Err(error) => match Errno::from_raw_os_error(error.errno()) {
                Errno::INTR => Reason::Interrupted,
                Errno::AGAIN => Reason::Again,
                errno => Reason::Plain(Exit::Failed(errno.raw_os_error())),
            },
        }
    }

    /// Hands over every port write that KVM has kept by now, oldest first: port, value of one byte.
    pub(super) fn drain(&mut self, mut take: impl FnMut(u16, u8)) {
        if self.coalesces {
            let reads = std::iter::from_fn(|| self.fd.coalesced_mmio_read().ok().flatten());
            for write in one_ring(reads) {
                take(write.phys_addr as u16, write.data[0]);
            }
        }
    }

    /// Returns the exit with its data, which KVM takes from where it stands when the vCPU runs again. `reason` is what `run`
    /// just gave.
    pub(super) fn exit(&mut self, reason: Reason) -> Option<Exit<'_>> {
        match reason {
            Reason::Interrupted | Reason::Again => None,
            Reason::Io => Some(self.io()),
            Reason::Mmio => Some(self.mmio()),
            Reason::InternalError => Some(self.internal_error()),
            Reason::Plain(exit) => Some(exit),
        }
    }

    fn io(&mut self) -> Exit<'_> {
        let run = self.fd.get_kvm_run();
        // SAFETY: the exit was KVM_EXIT_IO, so this is the field of the union that KVM has filled in.
        let io = unsafe { run.__bindgen_anon_1.io };
        let length = usize::from(io.size) * io.count as usize;
        let start = std::ptr::from_mut::<kvm_run>(run).cast::<u8>();
        // SAFETY: KVM puts the data at that offset of the mapping that `run` begins, all of it within the mapping
        // (api.rst, "KVM_EXIT_IO"). The mapping belongs to `self.fd`, which the result keeps borrowed, so nothing else
        // reaches it, and KVM only does so when the vCPU runs.
        let data =
            unsafe { std::slice::from_raw_parts_mut(start.add(io.data_offset as usize), length) };
        let (port, width) = (io.port, io.size);
        match u32::from(io.direction) == KVM_EXIT_IO_IN {
            true => Exit::In { port, width, data },
            false => Exit::Out { port, width, data },
        }
    }

    fn mmio(&mut self) -> Exit<'_> {
        // SAFETY: the exit was KVM_EXIT_MMIO, so this is the field of the union that KVM has filled in; any bytes are
        // good values for its fields.
        let mmio = unsafe { &mut self.fd.get_kvm_run().__bindgen_anon_1.mmio };
        let length = (mmio.len as usize).min(mmio.data.len());
        match mmio.is_write {
            0 => Exit::MmioRead(&mut mmio.data[..length]),
            _ => Exit::MmioWrite,
        }
    }

    fn internal_error(&mut self) -> Exit<'_> {
        // SAFETY: the exit was KVM_EXIT_INTERNAL_ERROR, so this is the field of the union that KVM has filled in.
        let internal = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal };
        let count = (internal.ndata as usize).min(internal.data.len());
        Exit::InternalError {
            suberror: internal.suberror,
            data: internal.data[..count].to_vec(),
            rip: self.fd.get_regs().map_or(0, |regs| regs.rip),
        }
    }

    /// True if it has halted with interrupts off, or was never started: then only another vCPU could wake it.
    pub(super) fn sleeps_for_good(&self) -> bool {
        const INTERRUPTS: u64 = 1 << 9;
        let state = self.fd.get_mp_state().map(|state| state.mp_state);
        match state {
            Ok(KVM_MP_STATE_HALTED) => {
                let regs = self.fd.get_regs();
                regs.is_ok_and(|regs| regs.rflags & INTERRUPTS == 0)
            }
            Ok(KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_that_is_filled_as_fast_as_it_is_read_is_left_after_its_size() {
        let mut kept = 0..RING * 3;
        assert_eq!(RING, 170);
        for round in 0..3 {
            let seen: Vec<_> = one_ring(kept.by_ref()).collect();
            assert_eq!((seen.len(), seen[0]), (RING, RING * round));
        }
        assert_eq!(one_ring(kept).count(), 0);
    }
}
