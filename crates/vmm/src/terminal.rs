//! A terminal while it is the guest's: raw from the command's start on, what it was before when the run is over.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

use crate::stop_signals::StopSignals;

/// The terminal that a command is given.
#[derive(Debug)]
pub struct Terminal {
    /// Where it is typed; none where standard input is no terminal or not the command's.
    typed: Option<OwnedFd>,
    before: Settings,
    /// The size has not been read since it was put into the start record, and may have changed.
    is_new: bool,
}

/// The settings of a terminal before it became a guest's, while it is.
#[derive(Debug, Clone, Default)]
pub struct Settings(Arc<Mutex<Option<(OwnedFd, Termios)>>>);

impl Terminal {
    /// The terminal that this process has on standard output, and on standard input where that is the command's. Either
    /// may be missing: the command has its own all the same.
    ///
    /// # Errors
    ///
    /// No descriptors left.
    pub fn of_process(interactive: bool) -> io::Result<Self> {
        let stdin = io::stdin();
        let typed = (interactive && isatty(&stdin)).then(|| stdin.as_fd().try_clone_to_owned());
        Ok(Self {
            typed: typed.transpose()?,
            before: Settings::default(),
            is_new: true,
        })
    }

    /// Returns the settings to restore, for a panic that ends the process without unwinding it.
    pub fn settings(&self) -> Settings {
        self.before.clone()
    }

    /// True if the command's standard input is typed.
    pub(crate) fn is_typed(&self) -> bool {
        self.typed.is_some()
    }

    /// Returns rows and columns, the first time and once after every change.
    pub(crate) fn changed_window(&mut self, signals: &StopSignals) -> Option<[u16; 2]> {
        let is_new = std::mem::take(&mut self.is_new);
        match signals.take_window_change() || is_new {
            true => window(),
            false => None,
        }
    }

    /// Returns rows and columns for a command that is about to start.
    pub(crate) fn window(&mut self) -> Option<[u16; 2]> {
        self.is_new = false;
        window()
    }

    /// Makes every key the guest's from now on, Ctrl-C too, until this is dropped.
    pub(crate) fn hand_over(&self) {
        if let Some(fd) = &self.typed {
            self.before.make_raw(fd);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.before.restore();
    }
}

impl Settings {
    fn make_raw(&self, fd: &OwnedFd) {
        // The guest says when, and may say it again: what was before would then be what we made of it.
        if self.lock().is_some() {
            return;
        }
        let Ok(before) = tcgetattr(fd) else { return };
        let Ok(copy) = fd.try_clone() else { return };
        let mut raw = before.clone();
        raw.make_raw();
        // First the settings to go back to: a panic may come at any time.
        *self.lock() = Some((copy, before));
        // Where it fails the terminal stays as it is, which is good enough to work with.
        let _ = tcsetattr(fd, OptionalActions::Now, &raw);
    }

    /// Makes the terminal what it was, if it is not. May be called at any time and from any thread.
    pub(crate) fn restore(&self) {
        if let Some((fd, before)) = self.lock().take() {
            let _ = tcsetattr(fd, OptionalActions::Now, &before);
        }
    }

    /// Restores them in the hook of panics, before the hook that is installed now. For a program of one machine.
    pub fn restore_on_panic(self) {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            self.restore();
            hook(panic);
        }));
    }

    fn lock(&self) -> MutexGuard<'_, Option<(OwnedFd, Termios)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns rows and columns of the terminal that this process has, if it has one that knows.
pub fn window() -> Option<[u16; 2]> {
    let (stdout, stdin) = (io::stdout(), io::stdin());
    let size = tcgetwinsize(&stdout)
        .or_else(|_| tcgetwinsize(&stdin))
        .ok()?;
    Some([size.ws_row, size.ws_col])
}

#[cfg(test)]
mod tests {
    use rustix::fs::{Mode, OFlags, open};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    /// The work of a panic's hook, from any thread.
    #[test]
    fn restoring_gives_back_what_was_there_and_does_nothing_otherwise() {
        let window = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&window).unwrap();
        unlockpt(&window).unwrap();
        let name = ptsname(&window, Vec::new()).unwrap();
        let programs = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let settings = || format!("{:?}", tcgetattr(&programs).unwrap());
        let before = settings();
        let saved = Settings::default();
        saved.restore();
        assert_eq!(settings(), before);
        saved.make_raw(&programs);
        assert_ne!(settings(), before);
        let hook = saved.clone();
        std::thread::spawn(move || hook.restore()).join().unwrap();
        assert_eq!(settings(), before);
        // Nothing is there to go back to any more: what others set meanwhile stays.
        let mut other = tcgetattr(&programs).unwrap();
        other.make_raw();
        tcsetattr(&programs, OptionalActions::Now, &other).unwrap();
        saved.restore();
        assert_ne!(settings(), before);
    }

    #[test]
    fn each_terminal_has_settings_of_its_own() {
        let pty = || {
            let window = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
            grantpt(&window).unwrap();
            unlockpt(&window).unwrap();
            let name = ptsname(&window, Vec::new()).unwrap();
            let programs = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
            (window, programs)
        };
        let settings = |fd: &OwnedFd| format!("{:?}", tcgetattr(fd).unwrap());
        let ((_first, one), (_second, two)) = (pty(), pty());
        let before = settings(&one);
        let terminal = |fd: &OwnedFd| Terminal {
            typed: Some(fd.try_clone().unwrap()),
            before: Settings::default(),
            is_new: true,
        };
        let (first, second) = (terminal(&one), terminal(&two));
        first.hand_over();
        second.hand_over();
        drop(first);
        assert_eq!(settings(&one), before);
        assert_ne!(settings(&two), before);
        drop(second);
        assert_eq!(settings(&two), before);
    }
}
