//! The files that QEMU inherits: kernel, initrd, regions, ACPI tables, and memory that is shared.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rdvm_confine::{Access, ChildLayers};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use vm_memory::{FileOffset, MmapRegion};

use rdvm_kernel::Boot;

use super::TIMER;
use super::args::{Fds, Line};
use super::error::Error;
use crate::acpi;
use crate::guest::rings::{RINGS, Rings};
use crate::machine::{Region, Scratch};

/// The places that a program reads beside its own files: libraries, firmware, facts about the CPUs and itself.
const INSTALLED: [&str; 14] = [
    "/usr",
    "/lib",
    "/lib64",
    "/bin",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/gcrypt",
    "/etc/ssl/openssl.cnf",
    "/proc",
    "/sys/devices/system",
    "/dev/urandom",
];

/// The files of one machine.
pub(super) struct Files {
    kernel: File,
    initrd: File,
    initrd_size: u64,
    regions: Vec<Region>,
    scratch: Option<Scratch>,
    tables: File,
    rings: Option<Arc<File>>,
}

impl Files {
    /// Makes the files of a machine with so many `cpus`. With `rings` some of the RAM is shared with us.
    ///
    /// # Errors
    ///
    /// `Host`.
    pub(super) fn new(
        boot: Boot,
        initrd: File,
        (regions, scratch): (Vec<Region>, Option<Scratch>),
        cpus: u8,
        rings: bool,
    ) -> Result<(Self, Option<Rings>), Error> {
        let initrd_size = initrd.metadata().map(|initrd| initrd.len());
        let initrd_size = initrd_size.map_err(Error::host("measuring the initrd"))?;
        let shared = rings.then(share).transpose();
        let (file, rings) = shared.map_err(Error::host("sharing memory"))?.unzip();
        let tables = tables(cpus).map_err(Error::host("writing the ACPI tables"))?;
        // QEMU has no 64-bit entry: an uncompressed kernel starts by its PVH entry, any other unpacks itself.
        let (Boot::Pvh(kernel, _) | Boot::BzImage(kernel, _)) = boot;
        let files = Self {
            kernel,
            initrd,
            initrd_size,
            regions,
            scratch,
            tables,
            rings: file,
        };
        Ok((files, rings))
    }

    /// Returns the descriptors for QEMU's arguments.
    pub(super) fn fds(&self, ports: [Line; 3]) -> Fds {
        let regions = self.regions.iter();
        Fds {
            tables: self.tables.as_raw_fd(),
            rings: self.rings.as_ref().map(AsRawFd::as_raw_fd),
            kernel: self.kernel.as_raw_fd(),
            initrd: (self.initrd.as_raw_fd(), self.initrd_size),
            regions: regions
                .map(|region| (region.file.as_raw_fd(), region.size))
                .collect(),
            scratch: self
                .scratch
                .as_ref()
                .map(|scratch| (scratch.file().as_raw_fd(), scratch.size())),
            ports,
        }
    }

    /// Returns the descriptors for QEMU to inherit.
    pub(super) fn inherited(&self) -> impl Iterator<Item = RawFd> {
        let files = [&self.kernel, &self.initrd, &self.tables];
        let regions = self.regions.iter().map(|region| &region.file);
        let scratch = self.scratch.iter().map(Scratch::file);
        let rings = self.rings.as_deref();
        let all = files.into_iter().chain(regions).chain(scratch).chain(rings);
        all.map(AsRawFd::as_raw_fd)
    }

    /// Returns the layers of confinement of a `program` that opens these files by its descriptors and is otherwise content with
    /// what is installed; `None` where there are to be none.
    pub(super) fn layers(&self, program: &Path) -> io::Result<Option<ChildLayers>> {
        let files = [&self.kernel, &self.initrd, &self.tables];
        let regions = self.regions.iter().map(|region| &region.file);
        let read = files.into_iter().chain(regions);
        let read = read.map(|file| (file.as_fd(), Access::Read));
        let scratch = self.scratch.iter().map(Scratch::file);
        let written = scratch.chain(self.rings.as_deref());
        let written = written.map(|file| (file.as_fd(), Access::Write));
        let open: Vec<_> = read.chain(written).collect();
        let mut places: Vec<PathBuf> = INSTALLED.iter().map(PathBuf::from).collect();
        places.push(program.to_owned());
        // One that is installed somewhere else has its firmware and its libraries beside it.
        let program = program.canonicalize().unwrap_or_default();
        if let Some(prefix) = program.parent().and_then(Path::parent) {
            places.extend(["share/qemu", "lib"].map(|name| prefix.join(name)));
        }
        let places: Vec<&Path> = places.iter().map(PathBuf::as_path).collect();
        ChildLayers::prepare(&places, &open)
    }

    /// Returns the scratch space.
    pub(super) fn scratch(&self) -> Option<&Scratch> {
        self.scratch.as_ref()
    }

    /// Returns the file that is used up once the guest has unpacked its initrd.
    pub(super) fn unpacked(&self) -> &File {
        &self.initrd
    }
}

/// Returns a file for the memory that is shared, and that memory.
fn share() -> io::Result<(Arc<File>, Rings)> {
    let file = File::from(memfd_create(
        "rdvm-rings",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?);
    file.set_len(RINGS)?;
    // A QEMU that was broken into cannot take away what we have mapped.
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    let file = Arc::new(file);
    let place = FileOffset::from_arc(Arc::clone(&file), 0);
    let region = MmapRegion::from_file(place, RINGS as usize).map_err(io::Error::other)?;
    Ok((file, Rings::new(region)))
}

/// Returns a file with the ACPI tables.
fn tables(cpus: u8) -> io::Result<File> {
    let file = File::from(memfd_create("rdvm-acpi", MemfdFlags::CLOEXEC)?);
    file.write_all_at(&acpi::tables(cpus, TIMER), 0)?;
    Ok(file)
}
