//! Which options of a kernel each feature of rdvm needs: the table that `kernels/README.md` shows and `kernel check`
//! goes by.

/// The weight of a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// Without it no image runs.
    Required,
    /// Without it an option of rdvm, or a kind of program, does not work.
    Useful,
}

/// One thing that rdvm does, or that commands in it do.
#[derive(Debug)]
pub(super) struct Feature {
    pub(super) name: &'static str,
    pub(super) weight: Weight,
    /// All of these must be built in, without `CONFIG_`, but for [`REGION_MODULES`]. `A>=3` is a number.
    pub(super) needs: &'static [&'static str],
    /// The consequence of its absence.
    pub(super) without: &'static str,
}

const fn required(
    name: &'static str,
    needs: &'static [&'static str],
    without: &'static str,
) -> Feature {
    Feature {
        name,
        weight: Weight::Required,
        needs,
        without,
    }
}

const fn useful(
    name: &'static str,
    needs: &'static [&'static str],
    without: &'static str,
) -> Feature {
    Feature {
        name,
        weight: Weight::Useful,
        needs,
        without,
    }
}

/// The options by which an image is a region of memory that is mounted in place. Those of [`REGION_MODULES`] may be modules.
pub(crate) const REGIONS: &[&str] = &[
    "X86_PMEM_LEGACY",
    "BLK_DEV_PMEM",
    "NVDIMM_PFN",
    "ZONE_DEVICE",
    "PCI",
    "FS_DAX",
    "EROFS_FS",
    "EROFS_FS_XATTR",
    "OVERLAY_FS",
    "SHMEM",
    "TMPFS",
    "TMPFS_XATTR",
];

/// The options by which the kernel swaps to a region of memory. Those of [`REGION_MODULES`] may be modules.
pub(crate) const SCRATCH: &[&str] = &[
    "SWAP",
    "X86_PMEM_LEGACY",
    "BLK_DEV_PMEM",
    "NVDIMM_PFN",
    "PCI",
    "SHMEM",
    "TMPFS",
];

/// The modules by which a kernel has regions of memory, where these options are not built in: PID 1 loads them.
pub(crate) const REGION_MODULES: &[(&str, &str)] = &[
    ("X86_PMEM_LEGACY", "nd_e820"),
    ("BLK_DEV_PMEM", "nd_pmem"),
    ("EROFS_FS", "erofs"),
    ("OVERLAY_FS", "overlay"),
];

/// All of them, what is required first.
pub(super) const FEATURES: &[Feature] = &[
    required(
        "image as initrd",
        &["BLK_DEV_INITRD"],
        "the kernel finds no root file system and panics",
    ),
    required(
        "PID 1",
        &["64BIT", "BINFMT_ELF", "SIGNALFD", "PROC_FS"],
        "it cannot start, or not learn of the command's end",
    ),
    required(
        "three ports",
        &[
            "TTY",
            "SERIAL_8250",
            "SERIAL_8250_NR_UARTS>=3",
            "SERIAL_8250_SHARE_IRQ",
        ],
        "standard output and the exit code have no way out",
    ),
    required(
        "boot on KVM",
        &["ACPI"],
        "the machine describes its CPUs and interrupts by ACPI alone",
    ),
    required(
        "boot on QEMU",
        &["ACPI", "PCI", "SERIAL_8250_PNP"],
        "microvm describes itself by ACPI alone, and no port gets its interrupt",
    ),
    useful(
        "quick boot on QEMU",
        &["PVH"],
        "the kernel unpacks itself in emulation; a bare vmlinux does not start there at all",
    ),
    useful(
        "quick boot on KVM",
        &["HYPERVISOR_GUEST", "PARAVIRT", "KVM_GUEST"],
        "the clock is measured at every start, and spin locks wait for CPUs that do not run",
    ),
    useful(
        "words of a dying kernel, --show-boot",
        &["PRINTK", "SERIAL_8250_CONSOLE"],
        "a panic is told without its words",
    ),
    useful(
        "--timings",
        &["PRINTK", "PRINTK_TIME"],
        "when the initrd was unpacked is not known",
    ),
    useful(
        "--cpus",
        &["SMP"],
        "there is one CPU whatever the option says",
    ),
    useful(
        "root with a limit",
        &["SHMEM", "TMPFS"],
        "the root is a ramfs, which grows until memory is gone, and there is no /dev/shm",
    ),
    useful(
        "large images in place",
        REGIONS,
        "every image is unpacked into memory at the start",
    ),
    useful("--scratch", SCRATCH, "the root is no larger than the RAM"),
    useful(
        "file capabilities and attributes",
        &["TMPFS_XATTR"],
        "the image's are lost, which a line says",
    ),
    useful(
        "access control lists",
        &["TMPFS_POSIX_ACL"],
        "the image's are lost, which a line says",
    ),
    useful(
        "times of files",
        &["INITRAMFS_PRESERVE_MTIME"],
        "all files are of the time of the start",
    ),
    useful(
        "streams, copies and connections by shared memory",
        &["DEVMEM"],
        "the ports carry the first two, at some 100 KB/s, and there is no network",
    ),
    useful(
        "--interactive on a terminal",
        &["UNIX98_PTYS"],
        "the command has no terminal",
    ),
    useful("--user", &["MULTIUSER"], "every command is root"),
    useful(
        "scripts",
        &["BINFMT_SCRIPT"],
        "files that begin with #! cannot be run",
    ),
    useful(
        "telling a lack of memory",
        &["VM_EVENT_COUNTERS"],
        "a command that the kernel killed for memory is told as killed, without the reason",
    ),
    useful(
        "/dev and /sys",
        &["DEVTMPFS", "SYSFS"],
        "/dev has a dozen names, /sys is empty",
    ),
    useful(
        "loopback",
        &["NET", "UNIX", "INET", "IPV6"],
        "programs that talk to themselves fail",
    ),
    useful(
        "namespaces",
        &["UTS_NS", "IPC_NS", "PID_NS", "NET_NS", "USER_NS"],
        "sandboxes and containers inside of the machine fail",
    ),
    useful(
        "control groups",
        &[
            "CGROUPS",
            "MEMCG",
            "CGROUP_PIDS",
            "CFS_BANDWIDTH",
            "CGROUP_BPF",
        ],
        "groups of processes have no limits, and runc and crun fail",
    ),
    useful(
        "overlays",
        &["OVERLAY_FS"],
        "container tools copy whole trees, or fail",
    ),
    useful(
        "mounting ext4 images",
        &["BLK_DEV_LOOP", "EXT4_FS"],
        "mount -o loop fails",
    ),
    useful(
        "mounting squashfs images",
        &["BLK_DEV_LOOP", "SQUASHFS", "SQUASHFS_XZ", "SQUASHFS_ZSTD"],
        "mount -o loop fails",
    ),
    useful(
        "file systems that are programs",
        &["FUSE_FS"],
        "fusermount fails",
    ),
    useful(
        "programs that lock themselves in",
        &["SECCOMP_FILTER"],
        "apt, man and ssh do without, others fail",
    ),
    useful(
        "event loops",
        &["EPOLL", "EVENTFD", "TIMERFD", "INOTIFY_USER", "IO_URING"],
        "node and others do not start, or are slower",
    ),
    useful(
        "kernel check of a kernel by itself",
        &["IKCONFIG"],
        "its configuration has to be found beside it",
    ),
];
