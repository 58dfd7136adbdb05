//! The search for QEMU, and its answers about itself.
//!
//! [`qemu_path`] only looks; [`qemu`] runs the program, without a shell and with a time limit.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Access, OFlags};
use rustix::process::{Pid, Signal};

use super::packages::as_root;
use super::{Error, Packages};
use rdvm_hostfs::escape::{escaped, reason};

const PROGRAM: &str = "qemu-system-x86_64";
/// An answer takes 15 ms here; a cold disk or a loaded machine may take seconds.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);

/// The state of QEMU on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QemuState {
    /// Not there; the error says what to do.
    Missing(Error),
    /// There, but it does not answer as a QEMU does.
    Broken {
        /// The program.
        path: PathBuf,
        /// The thing it did instead of answering.
        why: String,
    },
    /// There.
    Found {
        /// The program.
        path: PathBuf,
        /// As in `7.2.22`.
        version: String,
        /// True if it has `-M microvm`.
        microvm: bool,
    },
}

/// Finds QEMU: what `RDVM_QEMU` names (a path, or a name looked up in `PATH`), else
/// `qemu-system-x86_64` in `PATH`. Starts no process.
pub fn qemu_path() -> Result<PathBuf, Error> {
    let spec = env::var_os("RDVM_QEMU").filter(|spec| !spec.is_empty());
    let search = env::var_os("PATH").unwrap_or_default();
    find(spec.as_deref(), &search, is_program)
}

/// Finds QEMU and asks it for its version and its machines; waits at most ten seconds for each answer.
pub fn qemu() -> QemuState {
    let path = match qemu_path() {
        Ok(path) => path,
        Err(error) => return QemuState::Missing(error),
    };
    let answers = ask(&path, &["--version"], PATIENCE)
        .and_then(|version| Ok((version, ask(&path, &["-M", "help"], PATIENCE)?)));
    match answers {
        Ok((version, machines)) => judge(path, &version, &machines),
        Err(why) => QemuState::Broken { path, why },
    }
}

/// Reads the two answers.
fn judge(path: PathBuf, version: &str, machines: &str) -> QemuState {
    let number = version
        .split_once("QEMU emulator version ")
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .filter(|number| number.starts_with(|letter: char| letter.is_ascii_digit()));
    match number {
        Some(number) => QemuState::Found {
            path,
            version: escaped(number.as_bytes()),
            microvm: machines.lines().any(|line| line.starts_with("microvm")),
        },
        None => QemuState::Broken {
            path,
            why: "--version does not name a QEMU".into(),
        },
    }
}

/// The search as a function of what it depends on. Entries of `PATH` that are not absolute are
/// passed over: nothing in the working directory is ever started by accident.
fn find(
    spec: Option<&OsStr>,
    search: &OsStr,
    is_program: impl Fn(&Path) -> bool,
) -> Result<PathBuf, Error> {
    let name = spec.unwrap_or(OsStr::new(PROGRAM));
    if name.as_bytes().contains(&b'/') {
        return match is_program(Path::new(name)) {
            true => Ok(name.into()),
            false => Err(Error::QemuNotAProgram {
                path: escaped(name.as_bytes()),
            }),
        };
    }
    env::split_paths(search)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|path| is_program(path))
        .ok_or_else(|| missing(name.into(), spec.is_some()))
}

fn missing(name: OsString, wished: bool) -> Error {
    let remedy = match Packages::here() {
        _ if wished => "correct it or unset RDVM_QEMU".into(),
        Some(packages) => as_root(rustix::process::geteuid().is_root(), packages.qemu),
        None => format!("install the package that holds {PROGRAM}"),
    };
    Error::QemuMissing {
        program: escaped(name.as_bytes()),
        remedy,
    }
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok()
}

/// Runs the program and returns its standard output, at most what a pipe holds. The
/// error is the problem, without the path.
fn ask(path: &Path, arguments: &[&str], patience: Duration) -> Result<String, String> {
    let mut child = Command::new(path)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0) // so that a wrapper script's children end with it
        .spawn()
        .map_err(|error| format!("cannot be run: {}", reason(&error)))?;
    let asked = arguments.join(" ");
    let status = wait(&mut child, patience)
        .map_err(|error| reason(&error))?
        .ok_or_else(|| format!("{asked}: no answer within {} s", patience.as_secs()))?;
    if !status.success() {
        return Err(format!("{asked}: {status}"));
    }
    let output = child.stdout.take().map(read_what_is_there);
    output
        .unwrap_or(Ok(String::new()))
        .map_err(|error| reason(&error))
}

/// Waits for the end of the child; kills it and returns `None` when that takes too long.
fn wait(child: &mut Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    while start.elapsed() < patience {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(PAUSE);
    }
    let _ = rustix::process::kill_process_group(Pid::from_child(child), Signal::KILL);
    child.wait()?;
    Ok(None)
}

/// Empties the pipe of a program that has ended, without waiting for others that may still hold it.
fn read_what_is_there(mut pipe: ChildStdout) -> io::Result<String> {
    rustix::fs::fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
    let mut answer = Vec::new();
    match pipe.read_to_end(&mut answer) {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(spec: Option<&str>, search: &str, programs: &[&str]) -> Result<PathBuf, Error> {
        find(spec.map(OsStr::new), OsStr::new(search), |path| {
            programs.iter().any(|program| Path::new(program) == path)
        })
    }

    #[test]
    fn qemu_is_the_first_in_the_search_path() {
        let programs = ["/usr/bin/qemu-system-x86_64", "/opt/qemu-system-x86_64"];
        assert_eq!(
            found(None, "/bin:/opt:/usr/bin", &programs),
            Ok(programs[1].into())
        );
    }

    #[test]
    fn nothing_is_taken_from_the_working_directory() {
        let programs = [
            "qemu-system-x86_64",
            "./qemu-system-x86_64",
            "bin/qemu-system-x86_64",
        ];
        assert!(found(None, ":.:bin", &programs).is_err());
    }

    #[test]
    fn the_variable_names_a_path_or_a_name() {
        let programs = ["/opt/q", "/usr/bin/mine", "/usr/bin/qemu-system-x86_64"];
        assert_eq!(found(Some("/opt/q"), "", &programs), Ok("/opt/q".into()));
        assert_eq!(
            found(Some("mine"), "/usr/bin", &programs),
            Ok("/usr/bin/mine".into())
        );
    }

    #[test]
    fn a_wrong_variable_is_an_error_even_when_there_is_another_qemu() {
        let programs = ["/usr/bin/qemu-system-x86_64"];
        assert_eq!(
            found(Some("/opt/\n"), "/usr/bin", &programs)
                .unwrap_err()
                .to_string(),
            "RDVM_QEMU: /opt/\\n is not a program that can be run; correct it or unset RDVM_QEMU"
        );
        assert_eq!(
            found(Some("mine"), "/usr/bin", &programs)
                .unwrap_err()
                .to_string(),
            "mine: not found in PATH; correct it or unset RDVM_QEMU"
        );
    }

    #[test]
    fn the_version_is_read_from_the_banner() {
        let banner = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright\n";
        assert_eq!(
            judge(
                "/q".into(),
                banner,
                "Supported machines are:\nmicrovm   microvm (i386)\n"
            ),
            QemuState::Found {
                path: "/q".into(),
                version: "7.2.22".into(),
                microvm: true
            }
        );
    }

    #[test]
    fn a_program_that_is_not_qemu_is_broken() {
        for banner in ["", "true (GNU coreutils) 9.1\n", "QEMU emulator version \n"] {
            let state = judge("/q".into(), banner, "");
            assert!(
                matches!(state, QemuState::Broken { .. }),
                "{banner:?} {state:?}"
            );
        }
    }

    #[test]
    fn an_answer_is_taken_and_a_failure_named() {
        let long = Duration::from_secs(60);
        assert_eq!(
            ask(Path::new("/bin/echo"), &["a", "b"], long),
            Ok("a b\n".into())
        );
        let failure = ask(Path::new("/bin/false"), &["--version"], long).unwrap_err();
        assert_eq!(failure, "--version: exit status: 1");
        let failure = ask(Path::new("/etc/passwd"), &[], long).unwrap_err();
        assert!(failure.starts_with("cannot be run: "), "{failure}");
    }

    #[test]
    fn a_program_that_gives_no_answer_is_killed() {
        let answer = ask(
            Path::new("/bin/sleep"),
            &["1000"],
            Duration::from_millis(50),
        );
        assert_eq!(answer, Err("1000: no answer within 0 s".into()));
    }

    #[test]
    fn a_program_that_never_stops_writing_does_not_fill_the_memory() {
        let answer = ask(Path::new("/usr/bin/yes"), &[], Duration::from_millis(100));
        assert!(answer.unwrap_err().contains("no answer"));
    }
}
