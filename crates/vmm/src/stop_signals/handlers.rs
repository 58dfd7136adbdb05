//! Signal handlers that are taken back: a process does with a signal after a run what it did before it.
//!
//! One handler serves all catchers of a process. It writes to a table of atomics and to sockets, both of which are
//! async-signal-safe (signal-safety(7)), and then calls the handler that was there before. signal-hook has no way to
//! remove its handler, so that a program would ignore Ctrl-C after its first run.

use std::cell::Cell;
use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Catchers at a time.
const CATCHERS: usize = 1024;
/// Signal numbers end at 64.
const SIGNALS: usize = 65;

/// A catcher as the handler sees it.
struct Slot {
    /// The signals that it catches, a bit for each; zero where the slot is free.
    wanted: AtomicU64,
    /// Those that came.
    came: AtomicU64,
    /// One more than the number of the socket whose other end becomes readable; zero for none.
    notify: AtomicI32,
}

static SLOTS: [Slot; CATCHERS] = [const {
    Slot {
        wanted: AtomicU64::new(0),
        came: AtomicU64::new(0),
        notify: AtomicI32::new(0),
    }
}; CATCHERS];

/// The highest slot ever used is below this: the handler looks at no others.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Handlers at work. A slot is free again when there are none that may still see it.
static AT_WORK: AtomicUsize = AtomicUsize::new(0);

/// The handler that was there before, for the handler to call: address and flags. Zero and one are `SIG_DFL` and `SIG_IGN`.
static BEFORE: [(AtomicUsize, AtomicI32); SIGNALS] =
    [const { (AtomicUsize::new(0), AtomicI32::new(0)) }; SIGNALS];

thread_local! {
    /// The signals whose handler this thread is in: one that was put over ours may call ours, and ours calls it.
    static WITHIN: Cell<u64> = const { Cell::new(0) };
}

/// The number of catchers of each signal, and what was in force before the first of them.
static CAUGHT: Mutex<[Option<(usize, libc::sigaction)>; SIGNALS]> = Mutex::new([None; SIGNALS]);

/// Catches some signals until it is dropped.
#[derive(Debug)]
pub(crate) struct Catcher {
    slot: usize,
    signals: Vec<c_int>,
    /// Open as long as the handler may write to it.
    _notify: Option<OwnedFd>,
}

impl Catcher {
    /// Catches `signals`. For each that comes a byte is written to `notify`, a socket.
    ///
    /// # Errors
    ///
    /// A number that is no signal or cannot be caught; 1024 others catch signals.
    pub(crate) fn new(signals: &[c_int], notify: Option<OwnedFd>) -> io::Result<Self> {
        let mut bits = 0;
        for &signal in signals {
            bits |= bit(signal).ok_or(io::ErrorKind::InvalidInput)?;
        }
        let mut caught = lock();
        let is_free = |slot: &Slot| slot.wanted.load(Ordering::SeqCst) == 0;
        let slot = SLOTS.iter().position(is_free);
        let slot = slot.ok_or_else(|| io::Error::from_raw_os_error(libc::ENFILE))?;
        let mut catcher = Self {
            slot,
            signals: Vec::new(),
            _notify: None,
        };
        let entry = &SLOTS[slot];
        let fd = notify.as_ref().map_or(0, |fd| fd.as_raw_fd() + 1);
        entry.notify.store(fd, Ordering::SeqCst);
        entry.came.store(0, Ordering::SeqCst);
        catcher._notify = notify;
        USED.fetch_max(slot + 1, Ordering::SeqCst);
        entry.wanted.store(bits, Ordering::SeqCst);
        for &signal in signals {
            if let Err(error) = catch(&mut caught, signal) {
                // Dropping it takes the lock.
                drop(caught);
                return Err(error);
            }
            catcher.signals.push(signal);
        }
        Ok(catcher)
    }

    /// True if `signal` came and has not been taken.
    pub(crate) fn has(&self, signal: c_int) -> bool {
        let bit = bit(signal).unwrap_or(0);
        SLOTS[self.slot].came.load(Ordering::SeqCst) & bit != 0
    }

    /// True if `signal` came since this was called last.
    pub(crate) fn take(&self, signal: c_int) -> bool {
        let bit = bit(signal).unwrap_or(0);
        SLOTS[self.slot].came.fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }
}

impl Drop for Catcher {
    fn drop(&mut self) {
        let mut caught = lock();
        for &signal in &self.signals {
            release(&mut caught, signal);
        }
        let slot = &SLOTS[self.slot];
        // A slot of no signals counts as free only when this lock is given up.
        slot.wanted.store(0, Ordering::SeqCst);
        slot.notify.store(0, Ordering::SeqCst);
        // A handler that is at work on another thread may hold the descriptor's number, which is about to be closed. It
        // does not wait for anything; one on this thread has returned.
        while AT_WORK.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
    }
}

fn lock() -> MutexGuard<'static, [Option<(usize, libc::sigaction)>; SIGNALS]> {
    CAUGHT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bit(signal: c_int) -> Option<u64> {
    (1..SIGNALS as c_int)
        .contains(&signal)
        .then(|| 1 << (signal - 1))
}

/// Puts the handler in place, if it is not.
fn catch(
    caught: &mut [Option<(usize, libc::sigaction)>; SIGNALS],
    signal: c_int,
) -> io::Result<()> {
    let index = signal as usize;
    if let Some((count, _)) = &mut caught[index] {
        *count += 1;
        return Ok(());
    }
    // First what to go on to, so that a signal that comes at once finds it.
    let before = disposition(signal)?;
    let (address, flags) = &BEFORE[index];
    flags.store(before.sa_flags, Ordering::SeqCst);
    address.store(before.sa_sigaction, Ordering::SeqCst);
    // SAFETY: all zero is a good value of this struct of integers and a signal set.
    let mut ours: libc::sigaction = unsafe { std::mem::zeroed() };
    ours.sa_sigaction = handle as extern "C" fn(_, _, _) as usize;
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
    set(signal, &ours)?;
    caught[index] = Some((1, before));
    Ok(())
}

/// Restores what was in force before, when no catcher of the signal is left. A handler that has been put in the place of ours
/// since stays.
fn release(caught: &mut [Option<(usize, libc::sigaction)>; SIGNALS], signal: c_int) {
    let entry = &mut caught[signal as usize];
    match entry {
        Some((count, _)) if *count > 1 => *count -= 1,
        Some((_, before)) => {
            let is_ours = disposition(signal)
                .is_ok_and(|now| now.sa_sigaction == handle as extern "C" fn(_, _, _) as usize);
            if is_ours {
                // It was in force before, so it can be again.
                let _ = set(signal, before);
            }
            *entry = None;
        }
        None => {}
    }
}

fn disposition(signal: c_int) -> io::Result<libc::sigaction> {
    // SAFETY: all zero is a good value of this struct of integers and a signal set.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: no new disposition is given, and the old one goes to a variable of its type.
    match unsafe { libc::sigaction(signal, ptr::null(), &mut now) } {
        0 => Ok(now),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set(signal: c_int, disposition: &libc::sigaction) -> io::Result<()> {
    // SAFETY: the disposition is either `handle`, which is async-signal-safe and of the type that SA_SIGINFO asks for, or
    // one that the kernel has told us.
    match unsafe { libc::sigaction(signal, disposition, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The handler. Async-signal-safe: atomics, `send`, and the handler of before, which had to be.
extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let bit = bit(signal).unwrap_or(0);
    let within = WITHIN.get();
    if within & bit != 0 {
        return;
    }
    WITHIN.set(within | bit);
    // SAFETY: the location of this thread's errno is valid as long as the thread runs.
    let errno = unsafe { *libc::__errno_location() };
    AT_WORK.fetch_add(1, Ordering::SeqCst);
    let used = USED.load(Ordering::SeqCst).min(CATCHERS);
    for slot in &SLOTS[..used] {
        if slot.wanted.load(Ordering::SeqCst) & bit == 0 {
            continue;
        }
        slot.came.fetch_or(bit, Ordering::SeqCst);
        let notify = slot.notify.load(Ordering::SeqCst) - 1;
        if notify >= 0 {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            // SAFETY: one byte of a constant is read. The socket is open: its owner closes it only when no handler is at
            // work. A socket that is full is readable, which is all that is wanted.
            unsafe { libc::send(notify, c"!".as_ptr().cast(), 1, flags) };
        }
    }
    AT_WORK.fetch_sub(1, Ordering::SeqCst);
    go_on(signal, info, context);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    WITHIN.set(within);
}

/// Calls the handler of before, if there was one.
fn go_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some((address, flags)) = BEFORE.get(signal as usize) else {
        return;
    };
    let (address, flags) = (address.load(Ordering::SeqCst), flags.load(Ordering::SeqCst));
    if address == libc::SIG_DFL || address == libc::SIG_IGN {
        return;
    }
    if flags & libc::SA_SIGINFO != 0 {
        // SAFETY: the kernel had this address as a handler with SA_SIGINFO, so it is a function of this type.
        let before: extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            unsafe { std::mem::transmute(address) };
        before(signal, info, context);
    } else {
        // SAFETY: the kernel had this address as a handler without SA_SIGINFO, so it is a function of this type.
        let before: extern "C" fn(c_int) = unsafe { std::mem::transmute(address) };
        before(signal);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    static SEEN: AtomicI32 = AtomicI32::new(0);

    extern "C" fn theirs(signal: c_int) {
        SEEN.store(signal, Ordering::SeqCst);
    }

    fn raise(signal: c_int) {
        // SAFETY: the signal has a handler.
        assert_eq!(unsafe { libc::raise(signal) }, 0);
    }

    /// Of the process: no other test uses these signals.
    #[test]
    fn a_programs_own_handler_is_called_meanwhile_and_in_force_afterwards() {
        let signal = libc::SIGRTMIN() + 20;
        // SAFETY: all zero is a good value.
        let mut own: libc::sigaction = unsafe { std::mem::zeroed() };
        own.sa_sigaction = theirs as extern "C" fn(_) as usize;
        set(signal, &own).unwrap();
        let (ours, notify) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let first = Catcher::new(&[signal], Some(notify.into())).unwrap();
        let second = Catcher::new(&[signal, signal + 1], None).unwrap();
        assert_eq!((first.has(signal), first.take(signal)), (false, false));
        raise(signal);
        assert_eq!(SEEN.swap(0, Ordering::SeqCst), signal);
        assert_eq!(io::Read::read(&mut &ours, &mut [0; 9]).unwrap(), 1);
        drop(second);
        assert!(first.has(signal));
        assert!(first.take(signal) && !first.take(signal));
        raise(signal);
        assert!(first.take(signal));
        drop(first);
        assert_eq!(disposition(signal).unwrap().sa_sigaction, own.sa_sigaction);
        assert_eq!(disposition(signal + 1).unwrap().sa_sigaction, libc::SIG_DFL);
        assert_eq!(io::Read::read(&mut &ours, &mut [0; 9]).unwrap(), 1);
        // Its end: nothing of ours holds the other one any more.
        assert_eq!(io::Read::read(&mut &ours, &mut [0; 9]).unwrap(), 0);
    }

    #[test]
    fn a_handler_that_was_put_in_the_place_of_ours_stays() {
        let signal = libc::SIGRTMIN() + 22;
        let catcher = Catcher::new(&[signal], None).unwrap();
        // SAFETY: all zero is a good value.
        let mut own: libc::sigaction = unsafe { std::mem::zeroed() };
        own.sa_sigaction = theirs as extern "C" fn(_) as usize;
        set(signal, &own).unwrap();
        drop(catcher);
        assert_eq!(disposition(signal).unwrap().sa_sigaction, own.sa_sigaction);
        // Theirs that calls ours, which calls theirs.
        own.sa_sigaction = handle as extern "C" fn(_, _, _) as usize;
        own.sa_flags = libc::SA_SIGINFO;
        set(signal, &own).unwrap();
        let catcher = Catcher::new(&[signal], None).unwrap();
        raise(signal);
        assert!(catcher.take(signal));
    }

    #[test]
    fn what_cannot_be_caught_is_an_error_and_leaves_nothing() {
        let signal = libc::SIGRTMIN() + 24;
        for bad in [0, 65, -1, libc::SIGKILL] {
            assert!(Catcher::new(&[signal, bad], None).is_err(), "{bad}");
            assert_eq!(disposition(signal).unwrap().sa_sigaction, libc::SIG_DFL);
        }
    }
}
