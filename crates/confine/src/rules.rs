//! The calls that the threads of each role may make. Everything else ends the process.
//!
//! Found by tracing runs of every kind, not by reading a libc: a call is in the table because a run makes it.

use libc::c_long;

/// The role of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Waits for the guest and the host, and reports the end.
    EventLoop,
    /// Runs a vCPU on KVM, and handles its exits.
    Vcpu,
    /// Reads or writes one descriptor whose calls may wait.
    Stream,
    /// Writes the files that the guest sends below directories.
    CopyOut,
    /// Reads files of one directory in /proc.
    Watcher,
    /// Takes orders on a socket that listens already.
    Control,
    /// Carries the guest's connections to hosts: the program `rdvm_proxy`.
    Proxy,
}

/// A condition on the arguments of a call.
#[derive(Debug, Clone)]
pub(crate) enum Only {
    /// None.
    Any,
    /// The 32 bits of the argument of this number are one of these.
    OneOf(u8, Vec<u32>),
    /// Those that a mask leaves of them are one of these.
    Masked(u8, u32, Vec<u32>),
    /// The pointer of this number is null.
    Null(u8),
}

/// A call, by its number, and a condition.
pub(crate) type Call = (c_long, Only);

/// Facts of this process that rules depend on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The process itself.
    pub(crate) process: u32,
    /// Its children.
    pub(crate) children: Vec<u32>,
    /// A file is to get its name at the end.
    pub(crate) has_report: bool,
}

/// Calls of every thread: memory that holds no code, locks, clocks, its own signals and its end, and descriptors that it has.
const ANY: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_munmap,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Calls of those who handle the guest's input and output.
const PORTS: &[c_long] = &[
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_recvfrom,
];

/// Calls of the thread that reports the end: files that are open are written, handlers of signals are taken back.
const CONCLUDE: &[c_long] = &[
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_rt_sigaction,
];

/// Calls that give the report's file its name, where there is one.
const NAMING: &[c_long] = &[libc::SYS_linkat, libc::SYS_rename, libc::SYS_unlink];

/// Calls that make, open, move and remove files. Landlock says which.
const FILES: &[c_long] = &[
    libc::SYS_faccessat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fstat,
    libc::SYS_getdents64,
    libc::SYS_mkdirat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_symlinkat,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
];

/// Calls of the proxy: sockets of the Internet, look-ups of names and the files that those read, threads.
const PROXY: &[c_long] = &[
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_fstat,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_rt_sigaction,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_statx,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Commands of ioctl(2) for terminals and other streams.
const TERMINALS: [u32; 6] = [
    libc::TCGETS as u32,
    libc::TCSETS as u32,
    libc::TCSETSW as u32,
    libc::TIOCGWINSZ as u32,
    libc::FIONREAD as u32,
    libc::FIONBIO as u32,
];
/// The same as glibc 2.42 and musl ask for it (`TCGETS2`, `TCSETS2`, `TCSETSW2`).
const TERMINALS_2: [u32; 3] = [0x802c_542a, 0x402c_542b, 0x402c_542c];

/// Commands of KVM while a machine runs (include/uapi/linux/kvm.h): `KVM_RUN`, `KVM_GET_REGS`, `KVM_GET_MP_STATE`, `KVM_IRQ_LINE`.
const KVM: [u32; 4] = [0xae80, 0x8090_ae81, 0x8004_ae98, 0x4008_ae61];
/// The one among them that belongs to the machine, not to a vCPU.
const KVM_IRQ_LINE: u32 = KVM[3];

/// Flags of clone(2) that every thread of a process has.
const THREAD: u32 = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u32;

/// Returns the calls of a role.
pub(crate) fn calls(role: Role, facts: &Facts) -> Vec<Call> {
    let mut calls = all(ANY);
    calls.extend([
        (libc::SYS_mmap, mapping(role)),
        (libc::SYS_mprotect, Only::Masked(2, EXECUTE, vec![0])),
        (libc::SYS_mremap, Only::Any),
        (libc::SYS_fcntl, Only::OneOf(1, DESCRIPTORS.to_vec())),
        (libc::SYS_tgkill, Only::OneOf(0, vec![facts.process])),
        (libc::SYS_prctl, Only::OneOf(0, NAMES.to_vec())),
    ]);
    let ours = facts.children.clone();
    match role {
        Role::EventLoop => {
            calls.extend(all(PORTS));
            calls.extend(all(CONCLUDE));
            if facts.has_report {
                calls.extend(all(NAMING));
            }
            calls.push(ioctl(&[KVM_IRQ_LINE]));
            calls.push(SEND);
            if !ours.is_empty() {
                calls.push((libc::SYS_kill, Only::OneOf(0, ours.clone())));
                calls.push((libc::SYS_wait4, Only::OneOf(0, ours)));
            }
        }
        Role::Vcpu => {
            calls.extend(all(PORTS));
            calls.push(ioctl(&KVM));
            calls.push(SEND);
        }
        Role::Stream => calls.extend([SEND, ioctl(&[])]),
        Role::CopyOut => {
            calls.extend(all(FILES));
            // What limits there are, and no other ones.
            calls.push((libc::SYS_prlimit64, Only::Null(2)));
            calls.extend([SEND, ioctl(&[])]);
        }
        Role::Watcher => {
            let files = [libc::SYS_openat, libc::SYS_fstat, libc::SYS_newfstatat];
            calls.extend(all(&files));
            calls.extend(all(&[
                libc::SYS_statx,
                libc::SYS_getdents64,
                libc::SYS_lseek,
            ]));
            calls.extend([SEND, ioctl(&[])]);
        }
        Role::Control => {
            calls.extend(all(&[libc::SYS_accept4, libc::SYS_mkdir]));
            calls.extend(all(&[
                libc::SYS_recvfrom,
                libc::SYS_statx,
                libc::SYS_rt_sigaction,
            ]));
            calls.extend([SEND, ioctl(&[])]);
        }
        Role::Proxy => {
            calls.extend(all(PROXY));
            calls.push(ioctl(&[]));
            let families = [
                libc::AF_INET,
                libc::AF_INET6,
                libc::AF_UNIX,
                libc::AF_NETLINK,
            ];
            let families = families.map(|family| family as u32).to_vec();
            calls.push((libc::SYS_socket, Only::OneOf(0, families)));
            // Two ends that are connected to one another and can never be to anything else.
            let streams = vec![libc::SOCK_STREAM as u32];
            calls.push((libc::SYS_socketpair, Only::Masked(1, 0xf, streams)));
            // clone3(2) has its flags in memory, where no filter sees them; it is refused, and libc takes clone(2).
            calls.push((libc::SYS_clone, Only::Masked(0, THREAD, vec![THREAD])));
            calls.push((libc::SYS_clone3, Only::Any));
        }
    }
    calls
}

/// Returns the calls that fail with `ENOSYS`, as on an old kernel, instead of ending the process: a libc tries them and has another
/// way.
pub(crate) fn refused(role: Role) -> Vec<Call> {
    match role {
        Role::Proxy => {
            // A look-up asks services of this host first, and does without them. Others are there for administrators.
            let local = vec![libc::AF_UNIX as u32];
            let local = (libc::SYS_socket, Only::OneOf(0, local));
            vec![(libc::SYS_clone3, Only::Any), local]
        }
        _ => Vec::new(),
    }
}

/// Commands of prctl(2) that name the thread, and memory (`PR_SET_VMA`), as glibc does.
const NAMES: [u32; 2] = [libc::PR_SET_NAME as u32, 0x5356_4d41];

const WRITE: u32 = libc::PROT_WRITE as u32;
const EXECUTE: u32 = libc::PROT_EXEC as u32;

/// Returns what may be mapped: nothing that is executed; for the proxy, whose look-ups load libraries, nothing that is both written
/// and executed.
fn mapping(role: Role) -> Only {
    match role {
        Role::Proxy => Only::Masked(2, WRITE | EXECUTE, vec![0, WRITE, EXECUTE]),
        _ => Only::Masked(2, EXECUTE, vec![0]),
    }
}

/// Commands of fcntl(2) that duplicate descriptors and ask about them.
const DESCRIPTORS: [u32; 5] = [
    libc::F_DUPFD_CLOEXEC as u32,
    libc::F_GETFD as u32,
    libc::F_SETFD as u32,
    libc::F_GETFL as u32,
    libc::F_SETFL as u32,
];

/// send(2): to the other end of a socket that is connected.
const SEND: Call = (libc::SYS_sendto, Only::Null(4));

fn all(numbers: &[c_long]) -> Vec<Call> {
    numbers.iter().map(|&number| (number, Only::Any)).collect()
}

fn ioctl(more: &[u32]) -> Call {
    let commands = TERMINALS.iter().chain(&TERMINALS_2).chain(more);
    (libc::SYS_ioctl, Only::OneOf(1, commands.copied().collect()))
}
