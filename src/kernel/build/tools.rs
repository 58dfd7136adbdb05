//! The tools that a kernel is built with, and which Debian and Ubuntu package has it. Only looks; installs and runs nothing.

use std::env;
use std::ffi::OsStr;
use std::path::Path;

use super::error::Error;
use super::source::Source;

/// Program and package.
const PROGRAMS: [(&str, &str); 9] = [
    ("make", "make"),
    ("gcc", "gcc"),
    ("ld", "binutils"),
    ("strip", "binutils"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("tar", "tar"),
    ("patch", "patch"),
];

/// Header and package. objtool, which checks and completes every object of an x86-64 kernel, reads them with libelf.
const HEADERS: [(&str, &str); 2] = [("stdio.h", "libc6-dev"), ("gelf.h", "libelf-dev")];

/// Checks that all of it is here.
///
/// # Errors
/// `Tools`, which names everything that is missing at once.
pub(super) fn check(source: &Source) -> Result<(), Error> {
    let unpacker = match source {
        Source::Archive { unpacker, .. } => Some(*unpacker),
        Source::Directory(_) => None,
    };
    let path = env::var_os("PATH").unwrap_or_default();
    let programs = PROGRAMS.into_iter().chain(unpacker);
    let programs = programs.filter(|(program, _)| !is_on(&path, program));
    let headers = HEADERS.into_iter();
    let headers = headers.filter(|(header, _)| !Path::new("/usr/include").join(header).exists());
    match missing(programs.chain(headers)) {
        None => Ok(()),
        Some((what, packages)) => Err(Error::Tools { what, packages }),
    }
}

fn is_on(path: &OsStr, program: &str) -> bool {
    env::split_paths(path).any(|directory| directory.join(program).is_file())
}

/// The names as the start of a sentence, and the packages, each once.
fn missing(list: impl Iterator<Item = (&'static str, &'static str)>) -> Option<(String, String)> {
    let (names, mut packages): (Vec<_>, Vec<_>) = list.unzip();
    packages.dedup();
    let verb = match names.len() {
        0 => return None,
        1 => "is",
        _ => "are",
    };
    Some((format!("{} {verb}", names.join(", ")), packages.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_missing_is_named_at_once_with_its_package() {
        assert_eq!(missing([].into_iter()), None);
        let one = missing([("flex", "flex")].into_iter()).unwrap();
        assert_eq!(one, ("flex is".into(), "flex".into()));
        let three = [
            ("ld", "binutils"),
            ("strip", "binutils"),
            ("gelf.h", "libelf-dev"),
        ];
        let three = missing(three.into_iter()).unwrap();
        assert_eq!(
            three,
            ("ld, strip, gelf.h are".into(), "binutils libelf-dev".into())
        );
    }

    #[test]
    fn a_program_is_looked_for_in_every_directory_of_the_path() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("flex"), "").unwrap();
        let path = env::join_paths([Path::new("/nowhere"), dir.path()]).unwrap();
        assert!(is_on(&path, "flex"));
        assert!(!is_on(&path, "bison"));
    }
}
