//! The mounts of every container: kernel file systems, device names, temporary directories. A table.
//!
//! Nothing here can fail the start: an image whose `/tmp` is a file still runs, without a usable `/tmp`. The
//! three mount points that the kernel's file systems need are made even where the image has something else
//! there (debootstrap run in a container leaves `/proc -> /proc`).

use crate::sys;

const NOSUID: usize = 2;
const NODEV: usize = 4;
const NOEXEC: usize = 8;
const REMOUNT: usize = 32;
const BIND: usize = 4096;

const SHM: &[u8] = b"/dev/shm\0";

struct Mount {
    kind: &'static [u8],
    target: &'static [u8],
    flags: usize,
    data: &'static [u8],
}

const MOUNTS: [Mount; 6] = [
    Mount {
        kind: b"proc\0",
        target: b"/proc\0",
        flags: NOSUID | NODEV | NOEXEC,
        data: b"\0",
    },
    Mount {
        kind: b"sysfs\0",
        target: b"/sys\0",
        flags: NOSUID | NODEV | NOEXEC,
        data: b"\0",
    },
    Mount {
        kind: b"devtmpfs\0",
        target: b"/dev\0",
        flags: NOSUID,
        // Half of the RAM by default, which nothing but a mistake would use.
        data: b"mode=755,size=1m,nr_inodes=2048\0",
    },
    Mount {
        kind: b"devpts\0",
        target: b"/dev/pts\0",
        flags: NOSUID | NOEXEC,
        // Group tty: without it grantpt(3) of a glibc before 2.33 refuses every user but root.
        data: b"gid=5,mode=620,ptmxmode=666\0",
    },
    Mount {
        kind: b"mqueue\0",
        target: b"/dev/mqueue\0",
        flags: NOSUID | NODEV | NOEXEC,
        data: b"\0",
    },
    Mount {
        kind: b"cgroup2\0",
        target: b"/sys/fs/cgroup\0",
        flags: NOSUID | NODEV | NOEXEC,
        data: b"\0",
    },
];

/// The last is in every kernel's own initramfs.
const DIRECTORIES: [(&[u8], usize); 3] =
    [(b"/tmp\0", 0o1777), (b"/run\0", 0o755), (b"/root\0", 0o700)];

const LINKS: [(&[u8], &[u8]); 5] = [
    (b"/proc/self/fd\0", b"/dev/fd\0"),
    (b"/proc/self/fd/0\0", b"/dev/stdin\0"),
    (b"/proc/self/fd/1\0", b"/dev/stdout\0"),
    (b"/proc/self/fd/2\0", b"/dev/stderr\0"),
    // devtmpfs has a device of that name.
    (b"pts/ptmx\0", b"/dev/ptmx\0"),
];

/// The first two are docker's: every user may listen on any port, and ping. The third is systemd's: a process's own limit is
/// the one that counts, where the kernel's for all of them is low in a small machine.
const SETTINGS: [(&[u8], &[u8]); 3] = [
    (b"/proc/sys/net/ipv4/ip_unprivileged_port_start\0", b"0"),
    (b"/proc/sys/net/ipv4/ping_group_range\0", b"0 2147483647"),
    (b"/proc/sys/fs/file-max\0", b"9223372036854775807"),
];

/// For kernels without devtmpfs (`Documentation/admin-guide/devices.txt`).
const DEVICES: [(&[u8], usize, usize, usize); 9] = [
    (b"/dev/null\0", 0o666, 1, 3),
    (b"/dev/zero\0", 0o666, 1, 5),
    (b"/dev/full\0", 0o666, 1, 7),
    (b"/dev/random\0", 0o666, 1, 8),
    (b"/dev/urandom\0", 0o666, 1, 9),
    (b"/dev/tty\0", 0o666, 5, 0),
    (b"/dev/ttyS0\0", 0o600, 4, 64),
    (b"/dev/ttyS1\0", 0o600, 4, 65),
    (b"/dev/ttyS2\0", 0o600, 4, 66),
];

/// Mounts what is needed to mount the root: processes, for the kernel's settings, and devices.
pub(crate) fn early() {
    let [proc, _, dev, ..] = &MOUNTS;
    for mount in [proc, dev] {
        let _ = mount.make();
    }
}

impl Mount {
    fn make(&self) -> sys::Result<()> {
        ensure_directory(self.target);
        sys::mount(self.kind, self.target, self.flags, self.data)
    }
}

/// Mounts and makes all of the above. Where the root is a region's, the working directory is to be `/dev/shm`.
pub(crate) fn make(in_region: bool) {
    if !in_region {
        enter_shared_memory();
    }
    for mount in &MOUNTS {
        let done = mount.make();
        if done.is_err() && mount.kind == b"devtmpfs\0" {
            let _ = sys::mount(b"tmpfs\0", b"/dev\0", NOSUID, b"mode=755\0");
            for (name, mode, major, minor) in DEVICES {
                let _ = sys::mknod_char(name, mode, major, minor);
            }
        }
    }
    mount_shared_memory();
    for (target, name) in LINKS {
        let _ = sys::symlink(target, name);
    }
    for (name, value) in SETTINGS {
        if let Ok(fd) = sys::open(name, sys::O_WRONLY | sys::O_CLOEXEC) {
            let _ = sys::write(fd, value);
            sys::close(fd);
        }
    }
    for (name, mode) in DIRECTORIES {
        // Made only where there is nothing at all: a link to elsewhere is the image's own choice.
        if sys::lstat_mode(name) == Err(sys::ENOENT) {
            let _ = sys::mkdir(name, mode);
        }
    }
}

/// Enters the directory of the root that is to be `/dev/shm`, where soon another `/dev` hides it.
fn enter_shared_memory() {
    ensure_directory(b"/dev\0");
    ensure_directory(SHM);
    let _ = sys::set_mode(SHM, 0o1777);
    let _ = sys::chdir(SHM);
}

/// Mounts the working directory as `/dev/shm`. A tmpfs of its own, with half of the RAM as its limit, could not be full
/// at the same time as the root.
fn mount_shared_memory() {
    ensure_directory(SHM);
    match sys::mount(b".\0", SHM, BIND, b"\0") {
        Ok(()) => {
            let flags = BIND | REMOUNT | NOSUID | NODEV;
            let _ = sys::mount(b".\0", SHM, flags, b"\0");
        }
        Err(_) => {
            let _ = sys::mount(b"tmpfs\0", SHM, NOSUID | NODEV, b"mode=1777\0");
        }
    }
    let _ = sys::chdir(b"/\0");
}

/// Mounts `/proc` anew, with the processes of the caller's PID namespace.
pub(crate) fn proc_of_this_namespace() {
    let [proc, ..] = &MOUNTS;
    let _ = sys::unmount(proc.target);
    let _ = sys::mount(proc.kind, proc.target, proc.flags, proc.data);
}

/// Makes this process's standard input, a terminal, `/dev/console` as well, as runc does.
pub(crate) fn terminal_as_console() {
    let _ = sys::mount(b"/proc/self/fd/0\0", b"/dev/console\0", BIND, b"\0");
}

/// Makes `name` a directory whatever it was. Links go too: mounting over where they lead would hide that.
fn ensure_directory(name: &[u8]) {
    const TYPE: u32 = 0o170000;
    const DIRECTORY: u32 = 0o040000;
    if sys::lstat_mode(name).is_ok_and(|mode| mode & TYPE == DIRECTORY) {
        return;
    }
    let _ = sys::unlink(name);
    let _ = sys::mkdir(name, 0o755);
}
