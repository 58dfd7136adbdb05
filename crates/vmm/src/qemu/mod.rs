//! The QEMU engine: a child `qemu-system-x86_64` with software emulation and the same three ports.
//!
//! `args.rs` says what it is started with, `child.rs` owns the process, `session.rs` is the loop that watches it, `halt.rs`
//! sees that nothing more is to come.

mod args;
mod chardevs;
#[allow(unsafe_code)]
mod child;
mod halt;
mod session;
mod shared;
#[allow(unsafe_code)]
mod tsc;

use rdvm_hostfs::escape::reason;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use vm_memory::{FileOffset, MmapRegion};

use rustix::io::Errno;

use self::args::{Fds, Settings};
use self::chardevs::Chardevs;
use self::child::Process;
use self::halt::HaltDetector;
use self::session::Session;
use self::shared::Place;
use crate::guest::Listener;
use crate::guest::ending::Ending;
use crate::guest::rings::{RINGS, Rings};
use crate::machine::Machine;
use crate::watch::Watch;
use crate::{acpi, probe};
use rdvm_hostfs::hostmem::{Memory, OomKills};
use rdvm_hostfs::units::ByteSize;
use rdvm_kernel::Boot;

/// `microvm` has no PCI bus, and a kernel that looks for one complains. On one CPU a kernel removes its 9,000 lock
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
const CMDLINE: &str =
    "pci=off noreplace-smp init_on_alloc=0 clearcpuid=141 nolapic_timer tsc=reliable";

/// For a guest with one CPU, as in the KVM engine: the PC's first interrupt controller is enough.
const ONE_CPU: &str = " noapic";
/// For one with several, that the timer's interrupt arrives is known; on a busy host the test of it fails.
const SEVERAL_CPUS: &str = " no_timer_check";

/// The pin of QEMU's IO-APIC that the timer is at.
const TIMER: u8 = 2;

/// Where shared memory is: between the first MiB and the kernels, which are loaded at 16 MiB. At RAM's end QEMU puts the
/// initrd, which the guest would have to move out of the way of it.
pub(super) const RINGS_AT: u64 = 8 << 20;

const SIGKILL: i32 = 9;

/// A file for RAM of so many bytes, and what of it is shared with us.
fn share(memory: ByteSize) -> io::Result<(Arc<File>, Rings)> {
    let file = File::from(memfd_create(
        "rdvm-ram",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?);
    file.set_len(memory.0)?;
    // Whoever has broken into QEMU cannot take away what we have mapped.
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    let file = Arc::new(file);
    let place = FileOffset::from_arc(Arc::clone(&file), RINGS_AT);
    let region = MmapRegion::from_file(place, RINGS as usize).map_err(io::Error::other)?;
    Ok((file, Rings::new(region)))
}

/// A file with the ACPI tables.
fn tables(cpus: u8) -> io::Result<File> {
    let file = File::from(memfd_create("rdvm-acpi", MemfdFlags::CLOEXEC)?);
    file.write_all_at(&acpi::tables(cpus, TIMER), 0)?;
    Ok(file)
}

/// A QEMU that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    program: PathBuf,
    clock: tsc::Sample,
}

/// Why QEMU could not run the machine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none.
    #[error(transparent)]
    Missing(#[from] probe::Error),
    /// The initrd cannot be made.
    #[error(transparent)]
    Initrd(#[from] rdvm_initrd::Error),
    /// The kernel cannot be started by QEMU.
    #[error(transparent)]
    Kernel(#[from] rdvm_kernel::Error),
    /// QEMU cannot have this image in common with others.
    #[error("--share: {0}, and QEMU has no other way; leave it out, or use --engine kvm")]
    Share(&'static str),
    /// It could not be started.
    #[error("{}: cannot be started: {}; see rdvm doctor", program.display(), reason(source))]
    Start {
        /// Which program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The host refused something.
    #[error("qemu engine: {what}: {}; see rdvm doctor", reason(source))]
    Host {
        /// What was being done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It ended before the guest said anything.
    #[error("{}: ended before the machine ran: {said}; try it with another kernel (-k), or see rdvm doctor", program.display())]
    Refused {
        /// Which program.
        program: PathBuf,
        /// What it said.
        said: String,
    },
}

impl Qemu {
    /// Looks for `qemu-system-x86_64`.
    ///
    /// Errors: there is none, with the remedy.
    pub fn find() -> Result<Self, Error> {
        Ok(Self {
            program: probe::qemu_path()?,
            clock: tsc::Sample::take(),
        })
    }

    /// What this machine's kernel must be told.
    pub(super) fn cmdline(&self, cpus: u8, rings: Option<u64>) -> String {
        let several = if cpus == 1 { ONE_CPU } else { SEVERAL_CPUS };
        let mut words = format!("{CMDLINE}{several}");
        if let Some(khz) = self.clock.khz() {
            words += &format!(" tsc_early_khz={khz}");
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
        mut listener: Listener,
        watch: &Watch,
    ) -> Result<(Ending, Listener), Error> {
        let shared = machine.initrd.shared_part().filter(|_| machine.share);
        let mapped = shared.map_or(0, |(_, mapped)| mapped);
        let initrd = machine.initrd.to_file_from(mapped, &|| watch.is_over());
        // Writing a large image takes its time; one that cannot be written is still an error.
        if let Ok(_) | Err(rdvm_initrd::Error::Stopped) = initrd
            && let Some(ending) = listener.steer(watch)
        {
            return Ok((ending, listener));
        }
        let initrd = initrd?;
        listener.machine_loaded();
        listener.machine_starts();
        let memory = match machine.rings {
            true => ByteSize(machine.memory.0.saturating_add(RINGS)),
            false => machine.memory,
        };
        let place = shared.map(|(_, shared)| {
            let place = Place::new(
                machine.kernel.load_end(),
                shared,
                machine.initrd.size(),
                memory,
            );
            place.ok_or(Error::Share("the image has no place in RAM below 3 GiB"))
        });
        let place = place.transpose()?;
        let host_error = |what| move |source| Error::Host { what, source };
        // QEMU has no 64-bit entry: an uncompressed kernel starts by its PVH entry, any other unpacks itself.
        let kernel = match (machine.kernel.into_boot()?, &place) {
            (Boot::Pvh(file, _) | Boot::BzImage(file, _), None) => file,
            (Boot::Pvh(file, facts), Some(place)) => {
                // The start of this file is the rest of the initrd; all of it is RAM.
                let made = initrd.set_len(place.above(memory));
                let entry = facts.pvh_entry.unwrap_or_default();
                let made = made.and_then(|()| place.hand_over(&file, entry, &initrd));
                made.map_err(host_error("handing over a shared image"))?
            }
            (Boot::BzImage(..), Some(_)) => {
                return Err(Error::Share("the kernel unpacks itself"));
            }
        };
        let settings = Settings {
            cmdline: &machine.cmdline,
            memory,
            cpus: machine.cpus,
        };
        let host = |what| {
            move |errno: Errno| Error::Host {
                what,
                source: errno.into(),
            }
        };
        let chardevs = Chardevs::lay(listener.speaks()).map_err(host("making pipes"))?;
        let below = place.map_or(memory, |place| ByteSize(place.at));
        let ram = machine.rings.then(|| share(below)).transpose();
        let ram = ram.map_err(host_error("sharing memory"))?;
        let (ram, rings) = ram.unzip();
        if let Some(rings) = rings {
            listener.attach(rings);
        }
        let tables = tables(machine.cpus).map_err(host_error("writing the ACPI tables"))?;
        let fds = Fds {
            tables: tables.as_raw_fd(),
            ram: ram.as_ref().map(AsRawFd::as_raw_fd),
            kernel: kernel.as_raw_fd(),
            initrd: match shared.zip(place) {
                None => args::Initrd::Read(initrd.as_raw_fd()),
                Some(((image, _), place)) => args::Initrd::Mapped(args::Mapped {
                    below: place.at,
                    shared: (image.as_raw_fd(), place.shared),
                    above: initrd.as_raw_fd(),
                }),
            },
            ports: chardevs.lines(),
        };
        let mut inherit = vec![fds.kernel, initrd.as_raw_fd(), fds.tables];
        inherit.extend(shared.map(|(image, _)| image.as_raw_fd()));
        inherit.extend(fds.ram);
        inherit.extend(chardevs.theirs.iter().map(AsRawFd::as_raw_fd));
        let start = |source| Error::Start {
            program: self.program.clone(),
            source,
        };
        let args = args::args(&settings, &fds);
        let Chardevs {
            ports,
            writers,
            theirs,
            stdio,
            ..
        } = chardevs;
        let kills = OomKills::so_far();
        let mut process = Process::start(&self.program, &args, inherit, stdio).map_err(start)?;
        drop(theirs);
        let ending = Session {
            ports,
            writers,
            listener: &mut listener,
            watch,
            halt_detector: HaltDetector::new(process.id(), machine.cpus),
            // One that is shared is part of the RAM; then the copy of the kernel is what has been used up.
            unpacked: Some(if shared.is_none() { &initrd } else { &kernel }),
        }
        .run()
        .map_err(host("waiting for the machine"))?;
        let ending = self
            .conclude(ending, &mut process, &mut listener, kills)
            .map_or_else(|| self.refused(process), Ok)?;
        Ok((ending, listener))
    }

    /// What the end of the ports means; `None` when QEMU itself gave up.
    fn conclude(
        &self,
        ending: Option<Ending>,
        process: &mut Process,
        listener: &mut Listener,
        kills: OomKills,
    ) -> Option<Ending> {
        if ending.is_some() {
            return ending;
        }
        let signal = process.wait();
        if let Some(ending) = listener.outcome() {
            return Some(ending);
        }
        let timestamps = listener.timestamps();
        if signal == Some(SIGKILL) && OomKills::so_far().have_risen_since(kills) {
            return Some(Ending::Starved {
                started: timestamps.started.is_some(),
                bound: Memory::gather().bound(),
            });
        }
        let spoke = timestamps.ready.is_some() || !listener.console().last_lines(1).is_empty();
        let panic = listener.console().panic();
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
