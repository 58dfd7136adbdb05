//! The system calls PID 1 needs, each behind a safe function. x86-64 Linux only.
//!
//! Numbers: `arch/x86_64.rs`. Structures: `include/uapi/` of the Linux source.
//! Every path argument is a byte string that ends in NUL; `path` checks that once.

mod constants;
mod files;
mod process;
#[allow(unsafe_code)]
mod shared;
mod sockets;

use core::arch::asm;

use crate::arch::*;

pub(crate) use constants::*;
pub(crate) use files::*;
pub(crate) use process::*;
pub(crate) use shared::*;
pub(crate) use sockets::*;

/// The result of a system call.
pub(crate) type Result<T> = core::result::Result<T, Errno>;

/// A system call's refusal: the errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub i32);

/// An element of a `poll` set.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct PollFd {
    /// Descriptor; negative elements are passed over.
    pub fd: i32,
    /// The events to wait for.
    pub events: i16,
    /// The report.
    pub revents: i16,
}

impl PollFd {
    /// Waits for `events` on `fd`.
    pub(crate) fn new(fd: i32, events: i16) -> Self {
        Self {
            fd,
            events,
            revents: 0,
        }
    }
}

/// The parts of `struct rusage` that are reported.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    /// User time, microseconds.
    pub user_us: u64,
    /// System time, microseconds.
    pub system_us: u64,
    /// Largest resident set, KiB.
    pub max_rss_kib: u64,
}

fn call(number: usize, a: [usize; 6]) -> Result<usize> {
    let result: isize;
    // SAFETY: the syscall instruction changes rax, rcx and r11 only, all declared; what the kernel does to memory
    // through the arguments is the promise of each caller below, which passes pointers into live objects only.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result,
             in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5],
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    if (-4095..0).contains(&result) {
        return Err(Errno(-result as i32));
    }
    Ok(result as usize)
}

fn call3(number: usize, a: usize, b: usize, c: usize) -> Result<usize> {
    call(number, [a, b, c, 0, 0, 0])
}

/// The address of a path, which must end in NUL; anything else is `EINVAL`.
fn path(bytes: &[u8]) -> Result<usize> {
    match bytes.last() {
        Some(0) => Ok(bytes.as_ptr() as usize),
        _ => Err(EINVAL),
    }
}

/// Reads; gives the number of bytes, zero at the end of the file.
pub(crate) fn read(fd: i32, buffer: &mut [u8]) -> Result<usize> {
    call3(
        __NR_read,
        fd as usize,
        buffer.as_mut_ptr() as usize,
        buffer.len(),
    )
}

/// Writes; gives the number of bytes taken.
pub(crate) fn write(fd: i32, bytes: &[u8]) -> Result<usize> {
    call3(
        __NR_write,
        fd as usize,
        bytes.as_ptr() as usize,
        bytes.len(),
    )
}

/// Opens `name`.
pub(crate) fn open(name: &[u8], flags: usize) -> Result<i32> {
    call3(__NR_open, path(name)?, flags, 0).map(|fd| fd as i32)
}

/// Closes a descriptor; there is nothing to be done about an error.
pub(crate) fn close(fd: i32) {
    let _ = call3(__NR_close, fd as usize, 0, 0);
}

/// `st_mode` of what `name` is, links not followed.
pub(crate) fn lstat_mode(name: &[u8]) -> Result<u32> {
    stat_mode(__NR_lstat, name)
}

fn stat_mode(number: usize, name: &[u8]) -> Result<u32> {
    let mut stat = [0u64; 18];
    call3(number, path(name)?, stat.as_mut_ptr() as usize, 0)?;
    Ok(stat[3] as u32)
}

/// The length of an open file.
pub(crate) fn file_size(fd: i32) -> Result<usize> {
    let mut stat = [0u64; 18];
    call3(__NR_fstat, fd as usize, stat.as_mut_ptr() as usize, 0)?;
    Ok(stat[6] as usize)
}

/// The number of the device that an open file is; zero for what is none.
pub(crate) fn device_number(fd: i32) -> Result<u64> {
    let mut stat = [0u64; 18];
    call3(__NR_fstat, fd as usize, stat.as_mut_ptr() as usize, 0)?;
    Ok(stat[5])
}

/// Waits until something in the set happens or `timeout_ms` have passed (negative: for ever).
pub(crate) fn poll(set: &mut [PollFd], timeout_ms: i32) -> Result<usize> {
    call3(
        __NR_poll,
        set.as_mut_ptr() as usize,
        set.len(),
        timeout_ms as usize,
    )
}

/// Fresh zeroed memory, never given back.
pub(crate) fn allocate(length: usize) -> Result<&'static mut [u8]> {
    let address = call(__NR_mmap, [0, length, 3, 0x22, usize::MAX, 0])?;
    // SAFETY: the kernel has just made this private anonymous mapping of `length` bytes at `address`; nobody else
    // knows it and it is never unmapped, so a unique reference for ever is right.
    Ok(unsafe { core::slice::from_raw_parts_mut(address as *mut u8, length) })
}

/// Fresh memory for `length` pointers, all null, never given back.
pub(crate) fn allocate_pointers(length: usize) -> Result<&'static mut [usize]> {
    let address = call(__NR_mmap, [0, length.max(1) * 8, 3, 0x22, usize::MAX, 0])?;
    // SAFETY: as in `allocate`; the mapping is page-aligned, zeroed, and `length * 8` bytes long at least.
    Ok(unsafe { core::slice::from_raw_parts_mut(address as *mut usize, length) })
}

/// The contents of an open file as a private mapping, never given back. Empty files are `EINVAL`.
pub(crate) fn map_file(fd: i32) -> Result<&'static [u8]> {
    let length = file_size(fd)?;
    let address = call(__NR_mmap, [0, length, 3, 0x02, fd as usize, 0])?;
    // SAFETY: a private mapping of `length` bytes that is never unmapped; PID 1 is the only process when it is made
    // and unlinks the file at once, so nobody can cut it short.
    Ok(unsafe { core::slice::from_raw_parts(address as *const u8, length) })
}

/// Looks at the contents of an open file through a mapping that is gone again afterwards. Empty files are `EINVAL`.
pub(crate) fn with_mapped_file<T>(fd: i32, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
    let length = file_size(fd)?;
    let address = call(__NR_mmap, [0, length, 1, 0x02, fd as usize, 0])?;
    // SAFETY: a private mapping of `length` bytes which nobody else knows, and which stays until `look` is done with it:
    // its result cannot hold on to a slice whose lifetime it must not know. PID 1 is the only process, so nobody cuts the
    // file short meanwhile.
    let result = look(unsafe { core::slice::from_raw_parts(address as *const u8, length) });
    let _ = call3(__NR_munmap, address, length, 0);
    Ok(result)
}

/// Sets an extended attribute of what `name` is, links not followed. `attribute` ends in NUL like the path.
pub(crate) fn set_attribute(name: &[u8], attribute: &[u8], value: &[u8]) -> Result<()> {
    let (name, attribute) = (path(name)?, path(attribute)?);
    call(
        __NR_lsetxattr,
        [name, attribute, value.as_ptr() as usize, value.len(), 0, 0],
    )
    .map(drop)
}

/// Blocks every signal.
pub(crate) fn block_signals() -> Result<()> {
    let all = u64::MAX;
    call(
        __NR_rt_sigprocmask,
        [0, &raw const all as usize, 0, 8, 0, 0],
    )
    .map(drop)
}

/// Lets every signal through again.
pub(crate) fn unblock_signals() -> Result<()> {
    let none = 0u64;
    call(
        __NR_rt_sigprocmask,
        [2, &raw const none as usize, 0, 8, 0, 0],
    )
    .map(drop)
}

/// Gives every signal its default meaning again; ignored ones would stay so over exec.
pub(crate) fn default_signals() {
    // struct sigaction of the kernel: handler (SIG_DFL is null), flags, restorer, mask.
    let default = [0u64; 4];
    for signal in 1..=64 {
        let _ = call(
            __NR_rt_sigaction,
            [signal, &raw const default as usize, 0, 8, 0, 0],
        );
    }
}

/// A descriptor that is readable when a child has changed state.
pub(crate) fn child_signal_fd() -> Result<i32> {
    let mask = 1u64 << (SIGCHLD - 1);
    let flags = O_NONBLOCK | O_CLOEXEC;
    call(
        __NR_signalfd4,
        [usize::MAX, &raw const mask as usize, 8, flags, 0, 0],
    )
    .map(|fd| fd as i32)
}

/// A pipe: read end, write end, both close-on-exec.
pub(crate) fn pipe() -> Result<(i32, i32)> {
    let mut ends = [0i32; 2];
    call3(__NR_pipe2, ends.as_mut_ptr() as usize, O_CLOEXEC, 0)?;
    Ok((ends[0], ends[1]))
}

/// Makes reads and writes of a descriptor return `EAGAIN` instead of blocking.
pub(crate) fn set_nonblocking(fd: i32) -> Result<()> {
    call3(__NR_fcntl, fd as usize, 4, O_NONBLOCK).map(drop)
}

/// Makes `to` another name of `from`, inherited over exec.
pub(crate) fn duplicate(from: i32, to: i32) -> Result<()> {
    call3(__NR_dup2, from as usize, to as usize, 0).map(drop)
}

/// Forks; `None` in the child, which is PID 1 of a new namespace if that is wanted.
pub(crate) fn fork(new_pids: bool) -> Result<Option<i32>> {
    const CLONE_NEWPID: u64 = 0x2000_0000;
    let flags = SIGCHLD | if new_pids { CLONE_NEWPID } else { 0 };
    match call(__NR_clone, [flags as usize, 0, 0, 0, 0, 0])? {
        0 => Ok(None),
        pid => Ok(Some(pid as i32)),
    }
}

/// Executes a program; returns only when that failed.
///
/// `argv` and `envp` are addresses of NUL-terminated strings and end in a zero.
pub(crate) fn execve(program: &[u8], argv: &[usize], envp: &[usize]) -> Errno {
    let ends = |list: &[usize]| list.last() == Some(&0);
    match path(program) {
        Ok(program) if ends(argv) && ends(envp) => call3(
            __NR_execve,
            program,
            argv.as_ptr() as usize,
            envp.as_ptr() as usize,
        )
        .err()
        .unwrap_or(EINVAL),
        _ => EINVAL,
    }
}

/// Ends this process.
pub fn exit(code: i32) -> ! {
    loop {
        let _ = call3(__NR_exit_group, code as usize, 0, 0);
    }
}

/// Reaps one child if one is waiting: its pid, its wait status and the usage of it and its children.
pub(crate) fn reap() -> Result<Option<(i32, i32, Usage)>> {
    let mut status = 0i32;
    let mut usage = [0u64; 18];
    let (status_at, usage_at) = (&raw mut status as usize, usage.as_mut_ptr() as usize);
    let pid = call(__NR_wait4, [usize::MAX, status_at, 1, usage_at, 0, 0])? as i32;
    let usage = Usage {
        user_us: usage[0] * 1_000_000 + usage[1],
        system_us: usage[2] * 1_000_000 + usage[3],
        max_rss_kib: usage[4],
    };
    Ok((pid != 0).then_some((pid, status, usage)))
}

/// Sends a signal to every process but this one.
pub(crate) fn kill_all_others(signal: usize) {
    let _ = call3(__NR_kill, usize::MAX, signal, 0);
}

/// Mounts what has no other source than its kind; `kind` and `data` end in NUL like the paths.
pub(crate) fn mount(kind: &[u8], target: &[u8], flags: usize, data: &[u8]) -> Result<()> {
    mount_from(kind, target, kind, flags, data)
}

/// Mounts `source`.
pub(crate) fn mount_from(
    source: &[u8],
    target: &[u8],
    kind: &[u8],
    flags: usize,
    data: &[u8],
) -> Result<()> {
    let (source, target, kind) = (path(source)?, path(target)?, path(kind)?);
    call(__NR_mount, [source, target, kind, flags, path(data)?, 0]).map(drop)
}

/// Takes what is mounted at `target` away from there; who uses it keeps it.
pub(crate) fn unmount(target: &[u8]) -> Result<()> {
    const MNT_DETACH: usize = 2;
    call3(__NR_umount2, path(target)?, MNT_DETACH, 0).map(drop)
}

/// Lets the kernel swap to a device.
pub(crate) fn swap_on(device: &[u8]) -> Result<()> {
    call3(__NR_swapon, path(device)?, 0, 0).map(drop)
}

/// Loads a module into the kernel, without parameters.
pub(crate) fn init_module(module: &[u8]) -> Result<()> {
    let parameters = path(b"\0")?;
    call3(
        __NR_init_module,
        module.as_ptr() as usize,
        module.len(),
        parameters,
    )
    .map(drop)
}

/// Becomes the leader of a new session.
pub(crate) fn setsid() {
    let _ = call3(__NR_setsid, 0, 0, 0);
}

/// Sets the supplementary groups, four bytes each.
pub(crate) fn setgroups(groups: &[u8]) -> Result<()> {
    let count = groups.len() / 4;
    call3(__NR_setgroups, count, groups.as_ptr() as usize, 0).map(drop)
}

/// Takes on a group for good.
pub(crate) fn setgid(gid: u32) -> Result<()> {
    call3(__NR_setresgid, gid as usize, gid as usize, gid as usize).map(drop)
}

/// Takes on a user for good.
pub(crate) fn setuid(uid: u32) -> Result<()> {
    call3(__NR_setresuid, uid as usize, uid as usize, uid as usize).map(drop)
}

/// Sets the file mode mask.
pub(crate) fn umask(mask: usize) {
    let _ = call3(__NR_umask, mask, 0, 0);
}

/// Sets the host name.
pub(crate) fn sethostname(name: &[u8]) -> Result<()> {
    call3(__NR_sethostname, name.as_ptr() as usize, name.len(), 0).map(drop)
}

/// Resets the machine. Returns when the kernel refuses; in a PID namespace it kills the namespace instead.
pub(crate) fn restart() {
    let _ = call(
        __NR_reboot,
        [0xfee1_dead, 672_274_793, 0x0123_4567, 0, 0, 0],
    );
}

/// The time since boot in nanoseconds.
pub(crate) fn boot_clock() -> u64 {
    let mut time = [0u64; 2];
    match call3(__NR_clock_gettime, 7, time.as_mut_ptr() as usize, 0) {
        Ok(_) => time[0] * 1_000_000_000 + time[1],
        Err(_) => 0,
    }
}

/// Copies the kernel's log into `buffer`; gives how much it is.
pub(crate) fn kernel_log(buffer: &mut [u8]) -> Result<usize> {
    call3(__NR_syslog, 3, buffer.as_mut_ptr() as usize, buffer.len())
}

/// Gives up the processor for a moment.
pub(crate) fn pause_ms(milliseconds: u64) {
    let time = [milliseconds / 1000, milliseconds % 1000 * 1_000_000];
    let _ = call3(__NR_nanosleep, &raw const time as usize, 0, 0);
}
