//! Programs that are run to success, or to an error that names them.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use anyhow::{Context, Result, bail};

/// A command of these words.
pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(words: &[S]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// The words of a command, for messages.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    let all = words.join(" ");
    match all.char_indices().nth(200) {
        Some((at, _)) => format!("{}...", &all[..at]),
        None => all,
    }
}

/// Runs a command; fails when it does not succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| shown(command))?;
    succeeded(command, status)
}

/// Runs a command; returns what it wrote to standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| shown(command))?;
    succeeded(command, output.status)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command with these bytes as its standard input; returns what it wrote to standard output.
pub(crate) fn piped(command: &mut Command, input: &[u8]) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| shown(command))?;
    let stdin = child.stdin.take();
    let output = thread::scope(|scope| {
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input)));
        child.wait_with_output()
    });
    let output = output.with_context(|| shown(command))?;
    succeeded(command, output.status)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command with standard output and standard error in a file; shows the file's end when it fails.
pub(crate) fn logged(command: &mut Command, log: &Path) -> Result<()> {
    let file = File::create(log).with_context(|| log.display().to_string())?;
    let copy = file
        .try_clone()
        .with_context(|| log.display().to_string())?;
    let status = command
        .stdin(Stdio::null())
        .stdout(copy)
        .stderr(file)
        .status();
    let status = status.with_context(|| shown(command))?;
    if !status.success() {
        eprint!("{}", last_lines(&read_lossy(log), 20));
    }
    succeeded(command, status)
}

/// Runs a command as bash's `time` does, without input and output.
pub(crate) fn timed(command: &Command, log: &Path) -> Result<Times> {
    const SCRIPT: &str = r#"log=$1; shift; TIMEFORMAT='%R %U %S'; { time "$@" </dev/null >/dev/null 2>"$log"; } 2>&1"#;
    let mut bash = Command::new("bash");
    bash.args(["-c", SCRIPT, "time"]).arg(log);
    bash.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bash.env(name, value),
            None => bash.env_remove(name),
        };
    }
    let output = bash.output().context("bash")?;
    if !output.status.success() {
        bail!(
            "{}: {}; {}",
            shown(command),
            output.status,
            read_lossy(log).trim()
        );
    }
    Times::parse(&String::from_utf8_lossy(&output.stdout)).with_context(|| shown(command))
}

/// Seconds that a command and its children took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Times {
    pub(crate) wall: f64,
    pub(crate) user: f64,
    pub(crate) system: f64,
}

impl Times {
    fn parse(text: &str) -> Result<Self> {
        let numbers: Result<Vec<f64>, _> = text.split_whitespace().map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[wall, user, system]) => Ok(Self { wall, user, system }),
            _ => bail!("'{text}' is not what bash's time prints"),
        }
    }

    /// User and system time.
    pub(crate) fn cpu(self) -> f64 {
        self.user + self.system
    }
}

fn succeeded(command: &Command, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("{}: {status}", shown(command));
    }
    Ok(())
}

/// The text of a file, empty where there is none.
pub(crate) fn read_lossy(path: &Path) -> String {
    fs::read(path).map_or_else(
        |_| String::new(),
        |bytes| String::from_utf8_lossy(&bytes).into_owned(),
    )
}

/// The last lines of a text.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(count);
    lines[from..]
        .iter()
        .map(|line| format!("{line}\n"))
        .collect()
}

/// A directory below TMPDIR that goes with its owner.
#[derive(Debug)]
pub(crate) struct Scratch(std::path::PathBuf);

impl Scratch {
    /// An empty directory whose name begins with `name`, below `place` where TMPDIR names none.
    pub(crate) fn new(name: &str, place: &str) -> Result<Self> {
        let below = crate::project::variable_or("TMPDIR", place);
        let path = output(command(&["mktemp", "-d"]).arg(format!("{below}/{name}.XXXXXX")))?;
        Ok(Self(path.trim().into()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left is in a temporary directory.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Quotes a word for sh.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_through_sh_as_they_are() {
        for word in [
            "",
            "plain",
            "two words",
            "it's",
            "$(no) `no` \\ \"x\"",
            "a\nb",
        ] {
            let script = format!("printf %s {}", quoted(word));
            assert_eq!(output(&mut command(&["sh", "-c", &script])).unwrap(), word);
        }
    }

    #[test]
    fn times_are_those_of_the_command_and_its_children() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let times = timed(&command(&["sh", "-c", "sleep 0.2; :"]), log.path()).unwrap();
        assert!(times.wall >= 0.2 && times.cpu() < times.wall, "{times:?}");
        let error = timed(&command(&["sh", "-c", "echo why >&2; exit 3"]), log.path());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("exit status: 3; why"), "{error}");
    }

    #[test]
    fn the_end_of_a_text_is_its_last_lines() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last_lines("a", 2), "a\n");
    }
}
