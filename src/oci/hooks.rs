//! Hooks: programs that the engine wants to be called at certain points, with the container's state on standard input.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use super::spec::Hook;
use rdvm_hostfs::atomic;
use rdvm_hostfs::escape::reason;

/// The time between two looks at a hook with a time-out.
const GLANCE: Duration = Duration::from_millis(5);
/// The bytes of a hook's standard error that an error shows.
const SHOWN: u64 = 400;

/// Calls hooks one after the other.
///
/// # Errors
/// The first that cannot be started, ends with another code than 0, or takes too long; those after it are not called.
pub(super) fn call(kind: &'static str, hooks: &[Hook], state: &str) -> Result<()> {
    for hook in hooks {
        run(hook, state).map_err(|reason| Error::Hook {
            kind,
            path: hook.path.clone(),
            reason,
        })?;
    }
    Ok(())
}

fn run(hook: &Hook, state: &str) -> std::result::Result<(), String> {
    let variables = hook.env.iter().filter_map(|entry| entry.split_once('='));
    let mut command = Command::new(&hook.path);
    if let [name, arguments @ ..] = &hook.args[..] {
        command.arg0(name).args(arguments);
    }
    command.env_clear().envs(variables);
    // A file and not a pipe: what a hook leaves behind may keep it open.
    let errors =
        atomic::unnamed(&std::env::temp_dir()).and_then(|file| Ok((file.try_clone()?, file)));
    let (theirs, mut ours) = errors.map_err(|error| reason(&error))?;
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(theirs);
    let mut child = command.spawn().map_err(|error| reason(&error))?;
    // A hook need not read it.
    let stdin = child.stdin.take();
    let state = state.to_owned();
    thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(state.as_bytes())));
    let limit = hook
        .timeout
        .map(|seconds| Duration::from_secs(seconds as u64));
    let ended = wait(&mut child, limit);
    let ended = ended.map_err(|error| reason(&error))?;
    match ended {
        None => Err("did not end in its time and was killed".to_owned()),
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("{status}: {}", last_words(&mut ours))),
    }
}

/// Returns the beginning of what was written to a file.
fn last_words(file: &mut File) -> String {
    let mut text = Vec::new();
    let _ = file.rewind();
    let _ = file.take(SHOWN).read_to_end(&mut text);
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// Waits for a process; `None` if it was killed because its time was up.
fn wait(child: &mut Child, limit: Option<Duration>) -> io::Result<Option<ExitStatus>> {
    let Some(limit) = limit else {
        return child.wait().map(Some);
    };
    let since = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if since.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(GLANCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str) -> Hook {
        Hook {
            path: "/bin/sh".to_owned(),
            args: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: vec!["A=b=c".to_owned()],
            timeout: None,
        }
    }

    #[test]
    fn a_hook_has_the_state_and_its_own_environment() {
        let checks = r#"read line; test "$line" = state && test "$A" = b=c && test -z "$HOME""#;
        call("prestart", &[hook(checks)], "state\n").unwrap();
        call("prestart", &[hook("exit 0")], &"x".repeat(1 << 20)).unwrap();
    }

    #[test]
    fn the_first_that_fails_is_named_and_the_last() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let touch = format!("echo x >> {}", file.path().display());
        let hooks = [hook(&touch), hook("echo why >&2; exit 3"), hook(&touch)];
        let error = call("prestart", &hooks, "").unwrap_err().to_string();
        assert_eq!(error, "hooks.prestart: /bin/sh: exit status: 3: why");
        assert_eq!(std::fs::read(file.path()).unwrap(), b"x\n");
        let mut missing = hook("");
        missing.path = "/nonexistent/hook".to_owned();
        assert!(call("poststop", &[missing], "").is_err());
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed() {
        let mut slow = hook("sleep 1000");
        slow.timeout = Some(1);
        let error = call("prestart", &[slow], "").unwrap_err().to_string();
        assert!(
            error.ends_with("did not end in its time and was killed"),
            "{error}"
        );
    }
}
