//! The files that QEMU inherits: kernel, initrd, ACPI tables, and RAM where some of it is shared.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use vm_memory::{FileOffset, MmapRegion};

use rdvm_hostfs::units::ByteSize;
use rdvm_kernel::Boot;

use super::args::{Fds, Initrd, Line, Mapped};
use super::error::Error;
use super::shared::Place;
use super::{RINGS_AT, TIMER};
use crate::acpi;
use crate::guest::rings::{RINGS, Rings};

/// The files of one machine.
pub(super) struct Files<'a> {
    pub(super) kernel: File,
    /// The initrd; with `shared` the rest of it, and all RAM above the image.
    pub(super) initrd: File,
    /// An image that other machines have mapped too, and its place.
    pub(super) shared: Option<(&'a File, Place)>,
    tables: File,
    ram: Option<Arc<File>>,
}

impl<'a> Files<'a> {
    /// Makes the files of a machine with so much `memory` and so many `cpus`. With `rings` some of the RAM is shared with
    /// us.
    ///
    /// # Errors
    ///
    /// `Share` where the kernel cannot be told of a shared image; `Host`.
    pub(super) fn new(
        boot: Boot,
        initrd: File,
        shared: Option<(&'a File, Place)>,
        (memory, cpus): (ByteSize, u8),
        rings: bool,
    ) -> Result<(Self, Option<Rings>), Error> {
        let place = shared.map(|(_, place)| place);
        let kernel = kernel(boot, &initrd, place, memory)?;
        let below = place.map_or(memory, |place| ByteSize(place.at));
        let ram = rings.then(|| share(below)).transpose();
        let (ram, rings) = ram.map_err(Error::host("sharing memory"))?.unzip();
        let tables = tables(cpus).map_err(Error::host("writing the ACPI tables"))?;
        let files = Self {
            kernel,
            initrd,
            shared,
            tables,
            ram,
        };
        Ok((files, rings))
    }

    /// Returns the descriptors for QEMU's arguments.
    pub(super) fn fds(&self, ports: [Line; 3]) -> Fds {
        let initrd = self.initrd.as_raw_fd();
        Fds {
            tables: self.tables.as_raw_fd(),
            ram: self.ram.as_ref().map(AsRawFd::as_raw_fd),
            kernel: self.kernel.as_raw_fd(),
            initrd: match self.shared {
                None => Initrd::Read(initrd),
                Some((image, place)) => Initrd::Mapped(Mapped {
                    below: place.at,
                    shared: (image.as_raw_fd(), place.shared),
                    above: initrd,
                }),
            },
            ports,
        }
    }

    /// Returns the descriptors for QEMU to inherit.
    pub(super) fn inherited(&self) -> impl Iterator<Item = RawFd> {
        let files = [&self.kernel, &self.initrd, &self.tables];
        let shared = self.shared.map(|(image, _)| image);
        let ram = self.ram.as_deref();
        let all = files.into_iter().chain(shared).chain(ram);
        all.map(AsRawFd::as_raw_fd)
    }

    /// Returns the file that is used up once the guest has unpacked its initrd. A shared one is part of the RAM; then it is
    /// the copy of the kernel.
    pub(super) fn unpacked(&self) -> &File {
        match self.shared {
            None => &self.initrd,
            Some(_) => &self.kernel,
        }
    }
}

/// Returns the file of the kernel. QEMU has no 64-bit entry: an uncompressed kernel starts by its PVH entry, any other unpacks
/// itself.
fn kernel(
    boot: Boot,
    initrd: &File,
    place: Option<Place>,
    memory: ByteSize,
) -> Result<File, Error> {
    match (boot, place) {
        (Boot::Pvh(file, _) | Boot::BzImage(file, _), None) => Ok(file),
        (Boot::Pvh(file, facts), Some(place)) => {
            // The start of this file is the rest of the initrd; all of it is RAM.
            let made = initrd.set_len(place.above(memory));
            let entry = facts.pvh_entry.unwrap_or_default();
            let made = made.and_then(|()| place.hand_over(&file, entry, initrd));
            made.map_err(Error::host("handing over a shared image"))
        }
        (Boot::BzImage(..), Some(_)) => Err(Error::Share("the kernel unpacks itself")),
    }
}

/// Returns a file for RAM of so many bytes, and the part of it that is shared with us.
fn share(memory: ByteSize) -> io::Result<(Arc<File>, Rings)> {
    let file = File::from(memfd_create(
        "rdvm-ram",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?);
    file.set_len(memory.0)?;
    // A QEMU that was broken into cannot take away what we have mapped.
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    let file = Arc::new(file);
    let place = FileOffset::from_arc(Arc::clone(&file), RINGS_AT);
    let region = MmapRegion::from_file(place, RINGS as usize).map_err(io::Error::other)?;
    Ok((file, Rings::new(region)))
}

/// Returns a file with the ACPI tables.
fn tables(cpus: u8) -> io::Result<File> {
    let file = File::from(memfd_create("rdvm-acpi", MemfdFlags::CLOEXEC)?);
    file.write_all_at(&acpi::tables(cpus, TIMER), 0)?;
    Ok(file)
}
