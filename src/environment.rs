//! `-e` and `--env-file`: from what the user wrote to the variables of the command.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::escape::{escaped, shown};

/// What cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read.
    #[error("--env-file: {}: {source}", shown(path))]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A variable without a name.
    #[error("--env: \"{entry}\" has no name before the \"=\"; write NAME=VALUE")]
    Name {
        /// What was written.
        entry: String,
    },
}

/// The variables of the files, then those of the flags. A name alone passes on our own value, if there is one.
///
/// Errors: a file that cannot be read, an entry without a name.
pub fn collect(files: &[PathBuf], flags: &[OsString]) -> Result<Vec<OsString>, Error> {
    let mut entries = Vec::new();
    for path in files {
        let text = std::fs::read(path).map_err(|source| Error::File {
            path: path.clone(),
            source,
        })?;
        let lines = text
            .split(|&byte| byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let lines = lines.filter(|line| !line.trim_ascii().is_empty() && !line.starts_with(b"#"));
        entries.extend(lines.map(|line| OsString::from_vec(line.to_vec())));
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
}
