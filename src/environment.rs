//! `-e` and `--env-file`: from what the user wrote to the variables of the command.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rdvm_hostfs::escape::{escaped, reason, shown};

/// A variable or file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read.
    #[error("--env-file: {}: {}", shown(path), reason(source))]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A line of a file.
    #[error("{}:{line}: {why}", shown(path))]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1 on.
        line: usize,
        /// The error and the way out.
        why: &'static str,
    },
    /// A variable without a name.
    #[error("--env: \"{entry}\" has no name before the \"=\"; write NAME=VALUE")]
    Name {
        /// The entry.
        entry: String,
    },
}

/// The variables of the files, then those of the flags. A name alone passes on our own value, if there is one.
///
/// Files are read by docker's rules: empty lines and those that begin with `#` say nothing, blanks before a name do not
/// count, and everything behind the first `=` is the value as it stands, quotes, blanks and all.
///
/// Errors: a file that cannot be read, an entry without a name.
pub(crate) fn collect(files: &[PathBuf], flags: &[OsString]) -> Result<Vec<OsString>, Error> {
    let mut entries = Vec::new();
    for path in files {
        let text = std::fs::read(path).map_err(|source| Error::File {
            path: path.clone(),
            source,
        })?;
        // As the first bytes of a text that some editors write.
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let line = line.strip_suffix(b"\r").unwrap_or(line).trim_ascii_start();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            check(line).map_err(|why| Error::Line {
                path: path.clone(),
                line: index + 1,
                why,
            })?;
            entries.push(OsString::from_vec(line.to_vec()));
        }
    }
    entries.extend(flags.iter().cloned());
    let mut variables = Vec::new();
    for entry in entries {
        match entry.as_bytes().iter().position(|&byte| byte == b'=') {
            Some(0) => {
                return Err(Error::Name {
                    entry: escaped(entry.as_bytes()),
                });
            }
            Some(_) => variables.push(entry),
            None => {
                if let Some(value) = std::env::var_os(&entry) {
                    variables.push(
                        [entry.as_os_str(), OsStr::new("="), &value]
                            .into_iter()
                            .collect(),
                    );
                }
            }
        }
    }
    Ok(variables)
}

/// Checks that a file's line is a variable.
fn check(line: &[u8]) -> Result<(), &'static str> {
    let end = line.iter().position(|&byte| byte == b'=');
    let name = &line[..end.unwrap_or(line.len())];
    if name.is_empty() {
        Err("there is no name before the \"=\"; write NAME=VALUE")
    } else if name.iter().any(u8::is_ascii_whitespace) {
        Err("a name has no blanks in it; write NAME=VALUE, without export")
    } else if line.contains(&0) {
        Err("a variable has no NUL; make it a text file")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_passes_on_our_variable_and_an_empty_name_is_refused() {
        let env = |entry: &str| collect(&[], &[entry.into()]);
        assert_eq!(env("A=b=c").unwrap(), ["A=b=c"]);
        assert_eq!(env("RDVM_TEST_NO_SUCH_VARIABLE").unwrap(), [""; 0]);
        assert!(env("PATH").unwrap()[0].as_bytes().starts_with(b"PATH="));
        assert!(env("=x").is_err());
    }

    #[test]
    fn a_file_is_read_by_dockers_rules() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let collect = |text: &[u8]| {
            std::fs::write(file.path(), text).unwrap();
            collect(&[file.path().to_owned()], &["LAST=1".into()])
        };
        let text = b"\xef\xbb\xbfA=1\r\n\n  # no comment = 1\n\tB=\"q\" 'x' # y \nC=\nD==\nRDVM_NOT_SET\nE=\xff\nA=2";
        let read = collect(text).unwrap();
        let expected: [&[u8]; 7] = [
            b"A=1",
            b"B=\"q\" 'x' # y ",
            b"C=",
            b"D==",
            b"E=\xff",
            b"A=2",
            b"LAST=1",
        ];
        let read: Vec<&[u8]> = read.iter().map(|entry| entry.as_bytes()).collect();
        assert_eq!(read, expected);
        for (text, line) in [
            (&b"A=1\n=x\n"[..], 2),
            (b"export A=1", 1),
            (b"\n\nA B", 3),
            (b"A\t=1", 1),
            (b"A=\0", 1),
        ] {
            let error = collect(text).unwrap_err().to_string();
            let place = format!("{}:{line}: ", file.path().display());
            assert!(error.starts_with(&place), "{error}");
        }
    }
}
