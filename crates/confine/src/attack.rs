//! A thread of the machine's that has turned hostile, for tests: it tries one call that no role has. Not in programs that are
//! compiled without debug assertions.

use std::sync::Mutex;

use crate::rules::Role;

/// The variable that says who tries what, as in `vcpu:execve`.
const VARIABLE: &str = "RDVM_TEST_ATTACK";

/// Tries the call that the variable names for this role, once. Says on standard error that it was allowed if it was.
pub fn attack(role: Role) {
    static DONE: Mutex<bool> = Mutex::new(false);
    let Ok(text) = std::env::var(VARIABLE) else {
        return;
    };
    let mut done = DONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let name = match role {
        Role::Vcpu => "vcpu",
        _ => "event-loop",
    };
    let call = text.split_once(':').filter(|(who, _)| *who == name);
    if let Some((_, call)) = call
        && !std::mem::replace(&mut *done, true)
    {
        eprintln!("attack: {call}: {}", attempt(call));
    }
}

/// Makes the call; returns what came of it.
fn attempt(call: &str) -> String {
    let zero = 0usize;
    let path = c"/".as_ptr() as usize;
    let true_path = c"/bin/true".as_ptr() as usize;
    let page = 4096usize;
    let how = [0u64; 3];
    let clone_args = [0u64; 11];
    let ring = [0u8; 120];
    let at = libc::AT_FDCWD as usize;
    let pid = std::process::id() as usize;
    let (number, arguments): (libc::c_long, [usize; 6]) = match call {
        "open" => (libc::SYS_open, [path, zero, 0, 0, 0, 0]),
        "openat" => (libc::SYS_openat, [at, path, 0, 0, 0, 0]),
        "openat2" => (
            libc::SYS_openat2,
            [at, path, how.as_ptr() as usize, 24, 0, 0],
        ),
        "socket" => (libc::SYS_socket, [2, 1, 0, 0, 0, 0]),
        "connect" => (libc::SYS_connect, [0, path, 16, 0, 0, 0]),
        "execve" => (libc::SYS_execve, [true_path, 0, 0, 0, 0, 0]),
        "ptrace" => (libc::SYS_ptrace, [0, 0, 0, 0, 0, 0]),
        "kill" => (libc::SYS_kill, [1, 0, 0, 0, 0, 0]),
        "tgkill" => (libc::SYS_tgkill, [1, 1, 0, 0, 0, 0]),
        "mount" => (libc::SYS_mount, [path, path, path, 0, 0, 0]),
        // TIOCSTI: types into a terminal.
        "ioctl" => (libc::SYS_ioctl, [0, 0x5412, path, 0, 0, 0]),
        "io_uring_setup" => (
            libc::SYS_io_uring_setup,
            [1, ring.as_ptr() as usize, 0, 0, 0, 0],
        ),
        "clone3" => (
            libc::SYS_clone3,
            [clone_args.as_ptr() as usize, 88, 0, 0, 0, 0],
        ),
        "fork" => (libc::SYS_fork, [0; 6]),
        "mprotect" => (libc::SYS_mprotect, [path & !(page - 1), page, 5, 0, 0, 0]),
        "mmap" => (libc::SYS_mmap, [0, page, 7, 0x22, usize::MAX, 0]),
        "process_vm_readv" => (libc::SYS_process_vm_readv, [pid, 0, 0, 0, 0, 0]),
        "memfd_create" => (libc::SYS_memfd_create, [path, 0, 0, 0, 0, 0]),
        "unshare" => (libc::SYS_unshare, [0; 6]),
        "bpf" => (libc::SYS_bpf, [0; 6]),
        "prctl" => (libc::SYS_prctl, [4, 1, 0, 0, 0, 0]),
        _ => return "is no call of this list".to_owned(),
    };
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: every pointer leads to memory of this function or of the program that is longer than the call reads; no call of the
    // list writes to memory but io_uring_setup, to a buffer that is as long as its structure. A call that is not refused ends the
    // process (execve) or leaves a second one (fork), as a test wants to see; otherwise it changes nothing that Rust code relies on.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    match result {
        -1 => format!("failed ({})", std::io::Error::last_os_error()),
        _ => "ALLOWED".to_owned(),
    }
}
