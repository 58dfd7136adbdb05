//! Signals by their names.

use signal_hook::consts as s;

use super::error::{Error, Result};

/// The names that kill(1) knows, without SIG.
const NAMES: [(&str, i32); 31] = [
    ("HUP", s::SIGHUP),
    ("INT", s::SIGINT),
    ("QUIT", s::SIGQUIT),
    ("ILL", s::SIGILL),
    ("TRAP", s::SIGTRAP),
    ("ABRT", s::SIGABRT),
    ("BUS", s::SIGBUS),
    ("FPE", s::SIGFPE),
    ("KILL", s::SIGKILL),
    ("USR1", s::SIGUSR1),
    ("SEGV", s::SIGSEGV),
    ("USR2", s::SIGUSR2),
    ("PIPE", s::SIGPIPE),
    ("ALRM", s::SIGALRM),
    ("TERM", s::SIGTERM),
    ("STKFLT", 16),
    ("CHLD", s::SIGCHLD),
    ("CONT", s::SIGCONT),
    ("STOP", s::SIGSTOP),
    ("TSTP", s::SIGTSTP),
    ("TTIN", s::SIGTTIN),
    ("TTOU", s::SIGTTOU),
    ("URG", s::SIGURG),
    ("XCPU", s::SIGXCPU),
    ("XFSZ", s::SIGXFSZ),
    ("VTALRM", s::SIGVTALRM),
    ("PROF", s::SIGPROF),
    ("WINCH", s::SIGWINCH),
    ("IO", s::SIGIO),
    ("PWR", 30),
    ("SYS", s::SIGSYS),
];

/// SIGRTMIN and SIGRTMAX of glibc and musl, which keep the first for themselves.
const REAL_TIME: [i32; 2] = [34, 64];

/// Reads a signal's number or name: `15`, `TERM`, `SIGTERM`, `RTMIN+3`.
///
/// # Errors
/// There is none of that name.
pub fn parse_signal(text: &str) -> Result<i32> {
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = name.parse().ok().or_else(|| {
        let known = NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, number)| *number).or_else(|| real_time(name))
    });
    let number = number.filter(|number| (1..=REAL_TIME[1]).contains(number));
    number.ok_or_else(|| Error::Signal {
        signal: text.to_owned(),
    })
}

fn real_time(name: &str) -> Option<i32> {
    let offset = |text: &str| match text {
        "" => Some(0),
        text => text.parse::<i32>().ok(),
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => REAL_TIME[0] + offset(rest)?,
        (_, Some(rest)) => REAL_TIME[1] + offset(rest)?,
        _ => return None,
    };
    (REAL_TIME[0]..=REAL_TIME[1])
        .contains(&number)
        .then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_by_number_and_name() {
        for (text, want) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGTERM", 15),
            ("sigterm", 15),
            ("winch", 28),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-2", 62),
            ("64", 64),
        ] {
            assert_eq!(parse_signal(text).unwrap(), want, "{text}");
        }
        for text in [
            "", "0", "65", "-1", "TERMS", "RTMIN-1", "RTMAX+1", "RTMIN+x", "SIG",
        ] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
