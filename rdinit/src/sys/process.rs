//! Limits, free memory, signals to others, terminals and serial ports.

use crate::arch::*;
use rdvm_proto::Capabilities;

use super::{O_CLOEXEC, O_NOCTTY, O_RDWR, Result, call, call3, open};

/// Sets a resource limit of this process and those it starts.
pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = [soft, hard];
    call3(
        __NR_setrlimit,
        resource as usize,
        &raw const limit as usize,
        0,
    )
    .map(drop)
}

/// `prctl(2)`, with an option and two arguments.
fn control(option: usize, a: usize, b: usize) -> Result<usize> {
    call(__NR_prctl, [option, a, b, 0, 0, 0])
}

/// True if the kernel has a capability of this number.
pub(crate) fn is_capability(number: usize) -> bool {
    const PR_CAPBSET_READ: usize = 23;
    control(PR_CAPBSET_READ, number, 0).is_ok()
}

/// Takes a capability out of the bounding set of this process.
pub(crate) fn drop_bounding(number: usize) -> Result<()> {
    const PR_CAPBSET_DROP: usize = 24;
    control(PR_CAPBSET_DROP, number, 0).map(drop)
}

/// Keeps the permitted capabilities when this process becomes another user's.
pub(crate) fn keep_capabilities() -> Result<()> {
    const PR_SET_KEEPCAPS: usize = 8;
    control(PR_SET_KEEPCAPS, 1, 0).map(drop)
}

/// Puts a capability into the ambient set of this process, which has it as a permitted and an inheritable one.
pub(crate) fn raise_ambient(number: usize) -> Result<()> {
    const PR_CAP_AMBIENT: usize = 47;
    const PR_CAP_AMBIENT_RAISE: usize = 2;
    control(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number).map(drop)
}

/// Keeps this process, and those it starts, from gaining privileges by executing a file.
pub(crate) fn no_new_privileges() -> Result<()> {
    const PR_SET_NO_NEW_PRIVS: usize = 38;
    control(PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// Sets the effective, permitted and inheritable capabilities of this process.
pub(crate) fn set_capabilities(sets: &Capabilities) -> Result<()> {
    // _LINUX_CAPABILITY_VERSION_3, and zero for this process.
    let head = [0x2008_0522u32, 0];
    let sets = [sets.effective, sets.permitted, sets.inheritable];
    // The lower halves of all three, then the upper ones.
    let halves = [0, 32].map(|shift| sets.map(|set| (set >> shift) as u32));
    let (head, halves) = (&raw const head as usize, &raw const halves as usize);
    call3(__NR_capset, head, halves, 0).map(drop)
}

/// RAM and swap space that nobody uses, in bytes.
pub(crate) fn free_memory() -> (u64, u64) {
    // struct sysinfo: word 5 is freeram and 9 freeswap, in the units of word 13.
    let mut words = [0u64; 14];
    match call3(__NR_sysinfo, words.as_mut_ptr() as usize, 0, 0) {
        Ok(_) => {
            let unit = words[13] & 0xffff_ffff;
            let bytes = |word: usize| words[word].saturating_mul(unit);
            (bytes(5), bytes(9))
        }
        Err(_) => (0, 0),
    }
}

/// Sends a signal to a process group.
pub(crate) fn kill_group(leader: i32, signal: usize) -> Result<()> {
    call3(__NR_kill, leader.wrapping_neg() as usize, signal, 0).map(drop)
}

/// A new pseudoterminal: its master side, which closes on exec, and its slave side.
pub(crate) fn pseudoterminal() -> Result<(i32, i32)> {
    const TIOCSPTLCK: usize = 0x4004_5431;
    let master = open(b"/dev/ptmx\0", O_RDWR | O_NOCTTY | O_CLOEXEC)?;
    let unlocked = 0i32;
    call3(
        __NR_ioctl,
        master as usize,
        TIOCSPTLCK,
        &raw const unlocked as usize,
    )?;
    Ok((master, open_slave(master)?))
}

/// Opens the slave side of a pseudoterminal.
pub(crate) fn open_slave(master: i32) -> Result<i32> {
    const TIOCGPTPEER: usize = 0x5441;
    let flags = O_RDWR | O_NOCTTY | O_CLOEXEC;
    call3(__NR_ioctl, master as usize, TIOCGPTPEER, flags).map(|slave| slave as i32)
}

/// Gives an open file to a user.
pub(crate) fn give_to(fd: i32, uid: u32) -> Result<()> {
    const SAME: u32 = u32::MAX;
    call3(__NR_fchown, fd as usize, uid as usize, SAME as usize).map(drop)
}

/// Sets the permissions of an open file.
pub(crate) fn set_open_mode(fd: i32, mode: u32) -> Result<()> {
    call3(__NR_fchmod, fd as usize, mode as usize, 0).map(drop)
}

/// Makes a terminal this session's own.
pub(crate) fn take_terminal(fd: i32) -> Result<()> {
    const TIOCSCTTY: usize = 0x540e;
    call3(__NR_ioctl, fd as usize, TIOCSCTTY, 0).map(drop)
}

/// Tells a terminal how large it is.
pub(crate) fn set_window(fd: i32, [rows, columns]: [u16; 2]) -> Result<()> {
    const TIOCSWINSZ: usize = 0x5414;
    let size = [rows, columns, 0, 0];
    call(
        __NR_ioctl,
        [fd as usize, TIOCSWINSZ, &raw const size as usize, 0, 0, 0],
    )
    .map(drop)
}

/// Sets a terminal to pass every byte both ways as it is, eight bits, 115200 baud, modem lines ignored.
///
/// `struct termios` of `asm-generic/termbits.h`: four flag words, line discipline, nineteen control characters.
pub(crate) fn set_raw(fd: i32) -> Result<()> {
    #[repr(C)]
    struct Termios([u32; 4], [u8; 20]);
    const B115200_CS8_CREAD_CLOCAL: u32 = 0o010002 | 0o60 | 0o200 | 0o4000;
    let mut termios = Termios([0, 0, B115200_CS8_CREAD_CLOCAL, 0], [0; 20]);
    const VMIN: usize = 6;
    termios.1[1 + VMIN] = 1;
    call3(__NR_ioctl, fd as usize, 0x5402, &raw const termios as usize).map(drop)
}

/// True if everything written to a serial port has left it, or `fd` is not a serial port.
pub(crate) fn has_drained(fd: i32) -> bool {
    const TIOCOUTQ: usize = 0x5411;
    const TIOCSERGETLSR: usize = 0x5459;
    let (mut queued, mut line) = (0u32, 0u32);
    let queued_known = call3(__NR_ioctl, fd as usize, TIOCOUTQ, &raw mut queued as usize).is_ok();
    let line_known = call3(
        __NR_ioctl,
        fd as usize,
        TIOCSERGETLSR,
        &raw mut line as usize,
    )
    .is_ok();
    !(queued_known && queued > 0 || line_known && line & 1 == 0)
}
