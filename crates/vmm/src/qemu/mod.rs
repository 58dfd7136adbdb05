//! The QEMU engine: a child `qemu-system-x86_64` with software emulation and the same three ports.
//!
//! `args.rs` makes its arguments, `files.rs` the files that it inherits, `child.rs` owns the process, `session.rs` is the loop
//! that watches it, `halt.rs` finds out that nothing more is to come.

mod args;
mod chardevs;
#[allow(unsafe_code)]
mod child;
mod error;
mod files;
mod halt;
mod session;
#[allow(unsafe_code)]
mod tsc;

use std::os::fd::AsRawFd;
use std::path::PathBuf;

use rdvm_confine::Role;

pub(crate) use self::error::Error;

use self::args::Settings;
use self::chardevs::Chardevs;
use self::child::Process;
use self::files::Files;
use self::halt::HaltDetector;
use self::session::Session;
use crate::guest::GuestPorts;
use crate::guest::ending::Ending;
use crate::guest::rings::RINGS;
use crate::machine::{Machine, REGION_ALIGN, Scratch, Sizes};
use crate::probe;
use crate::stop_signals::StopSignals;
use rdvm_hostfs::hostmem::{Bound, Memory, OomWatch};
use rdvm_hostfs::units::ByteSize;

/// On one CPU a kernel removes its 9,000 lock
/// prefixes one by one, each with two changes of page tables; emulation of one CPU ignores the prefixes anyway
/// (`noreplace-smp`; 10 % of a small run). Pages are not cleared before they are overwritten, as most of a large
/// image's are (`init_on_alloc=0`; 3 % of a Debian, nothing of a small run). Emulated `cmpxchg16b` now and then
/// leaves garbage in the flags, which Linux 6.12 takes to heart: one boot in fifteen died of it on a busy machine,
/// none with the kernel told that there is no such instruction (`clearcpuid=141`, CX16); programs still see it.
///
/// Time comes from the host's counter (`tsc=reliable`): what a kernel would check it against are its own timer interrupts,
/// which come late and get lost wherever QEMU waits for the CPU. Timers are the PIT's, whose rate is known
/// (`nolapic_timer`): the local APICs' is measured for a tenth of a second, and a process that loses the CPU meanwhile gets
/// it wrong by as much, up to timers that never fire.
const CMDLINE: &str = "noreplace-smp init_on_alloc=0 clearcpuid=141 nolapic_timer tsc=reliable";

/// Words for a guest with one CPU, as in the KVM engine: the PC's first interrupt controller is enough.
const ONE_CPU: &str = " noapic";
/// Words for a guest with several: the timer's interrupt is known to arrive, and on a busy host the test of it fails.
const SEVERAL_CPUS: &str = " no_timer_check";

/// The pin of QEMU's IO-APIC that the timer is at.
const TIMER: u8 = 2;

/// The address of shared memory: between the first MiB and the kernels, which are loaded at 16 MiB. At RAM's end QEMU puts the
/// initrd, which the guest would have to move out of the way of it.
pub(super) const RINGS_AT: u64 = 8 << 20;

/// RAM in one piece ends here; the rest of it is from [`HIGH_RAM`] on.
const LOW_RAM: u64 = 3 << 30;
const HIGH_RAM: u64 = 4 << 30;
/// RAM above the regions, at least, and beside the initrd: QEMU puts that at the end of all, and it must not be theirs.
const ABOVE_REGIONS: u64 = 8 << 20;
const BESIDE_INITRD: u64 = 1 << 20;

/// Returns the RAM of a machine with so much of its own, and rings where it has any.
fn with_rings(memory: ByteSize, rings: bool) -> ByteSize {
    ByteSize(memory.0.saturating_add(if rings { RINGS } else { 0 }))
}

/// Returns the address of the first region beside so much RAM, which has an initrd of this length at its end: most of the RAM is
/// below, the rest above the last region.
fn regions_at(memory: ByteSize, initrd: u64) -> u64 {
    let above = ABOVE_REGIONS.max(initrd.saturating_add(BESIDE_INITRD));
    memory.0.saturating_sub(above) & !(REGION_ALIGN - 1)
}

/// Returns the bytes between the last region and the rest of the RAM. With scratch space the latter ends where RAM in one piece
/// does: behind that comes what may have any size.
fn gap(memory: ByteSize, regions: impl Iterator<Item = u64>, has_scratch: bool) -> u64 {
    let used = regions.fold(memory.0, u64::saturating_add);
    match has_scratch {
        true => LOW_RAM.saturating_sub(used),
        false => 0,
    }
}

/// Returns true if regions and RAM of these sizes are one piece below the devices.
pub(super) fn fits(sizes: &Sizes<'_>) -> bool {
    let regions = sizes.regions.iter().copied();
    let all = regions.fold(sizes.memory.0, u64::saturating_add);
    !sizes.has_regions() || all.saturating_add(RINGS) <= LOW_RAM
}

const SIGBUS: i32 = 7;
const SIGKILL: i32 = 9;

/// The host's memory when QEMU was started: what bounds it, and what the kernel has done for want of it.
struct HostMemory {
    kills: OomWatch,
    bound: Option<Bound>,
}

/// Confines this thread, before it has read a byte of the guest's: QEMU, which has that process number, runs already.
fn confine(qemu: u32) -> Result<(), Error> {
    if !rdvm_confine::is_asked() {
        return Ok(());
    }
    rdvm_confine::set_network(rdvm_confine::shares_network(qemu))?;
    rdvm_confine::add_child(qemu);
    rdvm_confine::enter(Role::EventLoop).map_err(Error::host("confining a thread"))
}

/// A QEMU that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    program: PathBuf,
    clock: tsc::Sample,
}

impl Qemu {
    /// Looks for `qemu-system-x86_64`.
    ///
    /// # Errors
    ///
    /// It is not installed.
    pub(crate) fn find() -> Result<Self, Error> {
        Ok(Self {
            program: probe::qemu_path()?,
            clock: tsc::Sample::take(),
        })
    }

    /// Returns words for the kernel command line of such a machine.
    pub(super) fn cmdline(&self, cpus: u8, rings: Option<u64>, sizes: &Sizes<'_>) -> String {
        let several = if cpus == 1 { ONE_CPU } else { SEVERAL_CPUS };
        let mut words = format!("{CMDLINE}{several}");
        if let Some(khz) = self.clock.khz() {
            words += &format!(" tsc_early_khz={khz}");
        }
        let memory = with_rings(sizes.memory, rings.is_some());
        let mut at = regions_at(memory, sizes.initrd);
        for size in sizes.regions {
            words += &format!(" memmap={}K!{at:#x}", size >> 10);
            at += size;
        }
        if let Some(size) = sizes.scratch {
            let gap = gap(memory, sizes.regions.iter().copied(), true);
            if gap > 0 {
                words += &format!(" memmap={}K${at:#x}", gap >> 10);
            }
            words += &format!(" memmap={}K!{HIGH_RAM:#x}", size >> 10);
        }
        // RAM that the kernel leaves alone (Documentation/admin-guide/kernel-parameters.txt).
        if let Some(at) = rings {
            words += &format!(" memmap={}K${at:#x}", RINGS >> 10);
        }
        words
    }

    /// Runs the machine to its end; the child is gone when this returns.
    pub(super) fn boot(
        &self,
        machine: Machine,
        mut guest: GuestPorts,
        signals: &StopSignals,
    ) -> Result<(Ending, GuestPorts), Error> {
        let stopped = || guest.is_over(signals);
        let initrd = machine.initrd.to_file(&stopped);
        // Writing a large image takes its time; one that cannot be written is still an error.
        if let Ok(_) | Err(rdvm_initrd::Error::Stopped) = initrd
            && let Some(ending) = guest.steer(signals)
        {
            return Ok((ending, guest));
        }
        let initrd = initrd?;
        guest.machine_loaded();
        guest.machine_starts();
        let memory = with_rings(machine.memory, machine.rings);
        let (boot, cpus) = (machine.kernel.into_boot()?, machine.cpus);
        let regions = (machine.regions, machine.scratch);
        let (files, rings) = Files::new(boot, initrd, regions, cpus, machine.rings)?;
        if let Some(rings) = rings {
            guest.attach(rings);
        }
        let settings = Settings {
            cmdline: &machine.cmdline,
            memory,
            cpus,
        };
        self.start(&files, &settings, guest, signals)
    }

    /// Starts QEMU and waits for its end.
    fn start(
        &self,
        files: &Files,
        settings: &Settings<'_>,
        mut guest: GuestPorts,
        signals: &StopSignals,
    ) -> Result<(Ending, GuestPorts), Error> {
        let chardevs = Chardevs::new(guest.speaks()).map_err(Error::host("making pipes"))?;
        let args = args::args(settings, &files.fds(chardevs.lines()));
        let theirs = chardevs.theirs.iter().map(AsRawFd::as_raw_fd);
        let inherit = files.inherited().chain(theirs).collect();
        let host = HostMemory {
            kills: OomWatch::start(),
            bound: Memory::gather().bound(),
        };
        let layers = files
            .layers(&self.program)
            .map_err(Error::host("confining QEMU"))?;
        let process = Process::start(&self.program, &args, inherit, chardevs.stdio, layers);
        let mut process = process.map_err(|source| Error::Start {
            program: self.program.clone(),
            source,
        })?;
        drop(chardevs.theirs);
        let session = Session {
            ports: chardevs.ports,
            writers: chardevs.writers,
            guest: &mut guest,
            signals,
            halt_detector: HaltDetector::new(process.id()).map_err(Error::host("watching QEMU"))?,
            unpacked: Some(files.unpacked()),
        };
        confine(process.id())?;
        let ending = session.run();
        let ending = ending.map_err(Error::host("waiting for the machine"))?;
        let ending = self
            .conclude(ending, &mut process, &mut guest, (&host, files.scratch()))
            .map_or_else(|| self.refused(process), Ok)?;
        Ok((ending, guest))
    }

    /// Returns the ending that the end of the ports means; `None` when QEMU itself gave up.
    fn conclude(
        &self,
        ending: Option<Ending>,
        process: &mut Process,
        guest: &mut GuestPorts,
        (host, scratch): (&HostMemory, Option<&Scratch>),
    ) -> Option<Ending> {
        if ending.is_some() {
            return ending;
        }
        let signal = process.wait();
        if let Some(ending) = guest.outcome() {
            return Some(ending);
        }
        let timestamps = guest.timestamps();
        if signal == Some(SIGKILL) && host.kills.has_seen_a_kill() {
            return Some(Ending::Starved {
                started: timestamps.started.is_some(),
                bound: host.bound,
            });
        }
        if signal == Some(SIGBUS)
            && let Some(error) = scratch.and_then(Scratch::refusal)
        {
            return Some(Ending::no_room(timestamps.started.is_some(), &error));
        }
        let spoke = timestamps.ready.is_some() || !guest.console().last_lines(1).is_empty();
        let panic = guest.console().panic();
        spoke.then_some(Ending::Died {
            started: timestamps.started.is_some(),
            panic,
            how: signal.map(|signal| format!("lost its QEMU to signal {signal}")),
        })
    }

    fn refused(&self, process: Process) -> Result<Ending, Error> {
        match process.finish() {
            (Some(status), said) if status.success() && said.is_empty() => Ok(Ending::Died {
                started: false,
                panic: None,
                how: None,
            }),
            (status, said) => {
                let status = status.map_or_else(String::new, |status| status.to_string());
                let said = if said.is_empty() { status } else { said };
                let said = rdvm_hostfs::escape::escaped(said.as_bytes());
                Err(Error::Refused {
                    program: self.program.clone(),
                    said,
                })
            }
        }
    }
}
