//! A command line that was refused: the report that it asks for all the same.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};

use super::Cli;

/// The file that `rdvm run`'s words ask a report to be written to. Only what must be an option of rdvm's is looked at: words
/// from IMAGE on are the command's, and so may be those behind an option that is not known.
pub fn report_of(words: impl IntoIterator<Item = OsString>) -> Option<PathBuf> {
    let mut words = words.into_iter().skip(1);
    if words.next()? != "run" {
        return None;
    }
    let cli = Cli::command();
    let run = cli.find_subcommand("run")?;
    let mut found = None;
    while let Some(word) = words.next() {
        let bytes = word.as_bytes();
        if bytes == b"--" || bytes == b"-" || !bytes.starts_with(b"-") {
            break;
        }
        let mut parts = bytes.splitn(2, |&byte| byte == b'=');
        let name = parts.next().unwrap_or_default();
        let mut value = parts.next().map(|value| OsString::from_vec(value.to_vec()));
        if value.is_none() && wants_next(run, &word) {
            value = words.next();
        }
        if name == b"--report" {
            found = value;
        }
    }
    found
        .map(PathBuf::from)
        .filter(|path| path != Path::new("-"))
}

/// True if the value of this option, the last of its letters for short ones, is the next word.
fn wants_next(run: &Command, option: &OsStr) -> bool {
    let Some(text) = option.to_str() else {
        return false;
    };
    let takes_value =
        |arg: &clap::Arg| arg.get_action().takes_values() && arg.get_num_args() != Some(0.into());
    if let Some(long) = text.strip_prefix("--") {
        let is_it = |arg: &&clap::Arg| {
            arg.get_long() == Some(long)
                || arg.get_all_aliases().is_some_and(|all| all.contains(&long))
        };
        return run.get_arguments().find(is_it).is_some_and(takes_value);
    }
    let letters: Vec<char> = text.chars().skip(1).collect();
    let first = letters.iter().position(|letter| {
        let mut args = run.get_arguments();
        args.find(|arg| arg.get_short() == Some(*letter))
            .is_some_and(takes_value)
    });
    // What stands behind the letter is the value otherwise.
    first.is_some_and(|at| at + 1 == letters.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(words: &[&str]) -> Option<String> {
        let words = ["rdvm", "run"].iter().chain(words).map(OsString::from);
        report_of(words).map(|path| path.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_report_of_a_refused_line_is_found_wherever_it_stands_before_the_image() {
        for words in [
            &["--report", "r", "-m", "lots", "img"][..],
            &["-m", "lots", "--report", "r", "img"],
            &["-mlots", "--report", "r", "img"],
            &["-it", "--mem", "lots", "--report", "r", "img"],
            &["-d", "--report", "r", "img"],
            &["--report=r", "--memroy", "1g", "img"],
            &["--memroy=1g", "--report", "r", "img"],
            &["--bogus", "--report", "r", "img"],
            &["--report", "old", "--report", "r"],
            &["--report", "r", "--cpus"],
        ] {
            assert_eq!(report(words).as_deref(), Some("r"), "{words:?}");
        }
    }

    #[test]
    fn a_file_of_the_commands_is_never_taken_for_it() {
        for words in [
            &["--bogus", "img", "--report", "r"][..],
            &["--bogus", "img", "--", "--report", "r"],
            &["--bogus", "--", "img", "--report", "r"],
            &["--memroy", "1g", "--report", "r", "img"],
            &["-m", "lots", "img", "cmd", "--report=r"],
            &["-m", "lots", "-", "cmd", "--report=r"],
            &["--env", "--report", "img", "r"],
            &["--report", "-", "--cpus"],
            &["--report"],
        ] {
            assert_eq!(report(words), None, "{words:?}");
        }
        assert_eq!(
            report_of(["rdvm", "pack", "--report", "r"].map(OsString::from)),
            None
        );
    }
}
