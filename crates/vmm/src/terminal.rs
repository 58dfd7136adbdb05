//! Our terminal while it is the guest's: raw from the command's start on, what it was before when the run is over.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use signal_hook::consts::SIGWINCH;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use crate::watch::{Catcher, Watch};

/// What the terminal was, while it is not. Of the process, since it has one terminal and a panic must find it.
static BEFORE: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);

/// The terminal that a command is given.
#[derive(Debug)]
pub struct Terminal {
    /// Where it is typed; none where standard input is no terminal or not the command's.
    typed: Option<OwnedFd>,
    resized: Catcher,
    /// The size has not been read since it was put into the start record, and may have changed.
    is_new: AtomicBool,
}

impl Terminal {
    /// The terminal that this process has on standard output, and on standard input where that is the command's. Either
    /// may be missing: the command has its own all the same.
    ///
    /// Errors: no descriptors left; changes of size cannot be heard of.
    pub fn of_process(interactive: bool, watch: &Watch) -> io::Result<Self> {
        let stdin = io::stdin();
        let typed = (interactive && isatty(&stdin)).then(|| stdin.as_fd().try_clone_to_owned());
        let typed = typed.transpose()?;
        Ok(Self {
            typed,
            resized: watch.notice(SIGWINCH)?,
            is_new: AtomicBool::new(true),
        })
    }

    /// Whether somebody types.
    pub fn is_typed(&self) -> bool {
        self.typed.is_some()
    }

    /// Rows and columns, the first time and once after every change.
    pub fn changed_window(&self) -> Option<[u16; 2]> {
        let is_new = self.is_new.swap(false, Ordering::Relaxed);
        match self.resized.take(SIGWINCH) || is_new {
            true => window(),
            false => None,
        }
    }

    /// From now on every key is the guest's, Ctrl-C too. Until this is dropped.
    pub fn hand_over(&self) {
        if let Some(fd) = &self.typed {
            make_raw(fd);
        }
    }
}

fn make_raw(fd: &OwnedFd) {
    // The guest says when, and may say it again: what was before would then be what we made of it.
    if lock().is_some() {
        return;
    }
    let Ok(before) = tcgetattr(fd) else { return };
    let Ok(copy) = fd.try_clone() else { return };
    let mut raw = before.clone();
    raw.make_raw();
    // First what to go back to: a panic may come at any time.
    *lock() = Some((copy, before));
    // Where it fails the terminal stays as it is, which is good enough to work with.
    let _ = tcsetattr(fd, OptionalActions::Now, &raw);
}

/// Rows and columns of the terminal that this process has, if it has one that knows.
pub fn window() -> Option<[u16; 2]> {
    let (stdout, stdin) = (io::stdout(), io::stdin());
    let size = tcgetwinsize(&stdout)
        .or_else(|_| tcgetwinsize(&stdin))
        .ok()?;
    Some([size.ws_row, size.ws_col])
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes the terminal what it was, if it is not. May be called at any time, from a panic's hook too.
pub fn restore() {
    if let Some((fd, before)) = lock().take() {
        let _ = tcsetattr(fd, OptionalActions::Now, &before);
    }
}

fn lock() -> std::sync::MutexGuard<'static, Option<(OwnedFd, Termios)>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, OFlags, open};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    /// What a panic's hook does, from whatever thread. Of the process: no other test in it has a terminal taken over.
    #[test]
    fn restoring_gives_back_what_was_there_and_does_nothing_otherwise() {
        let window = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&window).unwrap();
        unlockpt(&window).unwrap();
        let name = ptsname(&window, Vec::new()).unwrap();
        let programs = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let settings = || format!("{:?}", tcgetattr(&programs).unwrap());
        let before = settings();
        restore();
        assert_eq!(settings(), before);
        make_raw(&programs);
        assert_ne!(settings(), before);
        std::thread::spawn(restore).join().unwrap();
        assert_eq!(settings(), before);
        // Nothing is there to go back to any more: what others set meanwhile stays.
        let mut other = tcgetattr(&programs).unwrap();
        other.make_raw();
        tcsetattr(&programs, OptionalActions::Now, &other).unwrap();
        restore();
        assert_ne!(settings(), before);
    }
}
