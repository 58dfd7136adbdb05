//! `rdvm.toml`: named sets of run options, `[profile.NAME]` with the long options as keys, turned into the words that one
//! would type.
//!
//! Knows no option: clap's definition of the command line has their names and kinds, and its parsers check the values.
//! The file is read only when a profile is asked for by name.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ValueHint};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use rdvm_hostfs::escape::{escaped, reason, shown};
use rdvm_registry::ImageName;

/// The file's name.
pub(crate) const NAME: &str = "rdvm.toml";
/// Options that choose a profile, print something and exit, or leave rdvm without protection: they are rejected in one.
const NOT_IN_PROFILES: [&str; 5] = ["config", "profile", "help", "version", "no-sandbox"];
/// The largest file that is read, in bytes.
const SIZE_LIMIT: u64 = 1 << 20;

/// A profile as words of the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Profile {
    /// Its options, each `--name` or `--name=value`.
    pub(crate) options: Vec<OsString>,
    /// Its IMAGE.
    pub(crate) image: Option<OsString>,
    /// Its CMD and ARGs.
    pub(crate) command: Vec<OsString>,
}

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no file.
    #[error("--profile: there is no {NAME} here or above; write one, or name it with --config")]
    NoFile,
    /// The file cannot be read.
    #[error(
        "{}: {}; make it a text file that can be read",
        shown(path),
        reason(source)
    )]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A line of the file is wrong.
    #[error("{}:{line}: {text}", shown(path))]
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1 on.
        line: usize,
        /// The error and the way out.
        text: String,
    },
    /// The file has no profile of that name.
    #[error("--profile: {} has no profile \"{}\"; {hint}", shown(path), escaped(name.as_bytes()))]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The name.
        name: String,
        /// The names that it has.
        hint: String,
    },
}

/// Returns the file of the directory `here`, or the nearest above, as a path from `here`.
pub(crate) fn find(here: &Path) -> Option<PathBuf> {
    let mut up = PathBuf::new();
    for directory in here.ancestors() {
        if directory.join(NAME).is_file() {
            return Some(up.join(NAME));
        }
        up.push("..");
    }
    None
}

/// Reads the profile `name` of the file at `path`. `run` defines the options. Paths in the file are relative to its
/// directory, and come out relative to the working directory.
///
/// # Errors
/// The file or its profile cannot be used.
pub(crate) fn read(path: &Path, name: &str, run: &clap::Command) -> Result<Profile, Error> {
    let text = text(path).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })?;
    let at_line = |(at, why): ParseError| Error::Line {
        path: path.to_owned(),
        line: 1 + text.as_bytes()[..at.min(text.len())]
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count(),
        text: why,
    };
    let file = DeTable::parse(&text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        at_line((at, escaped(error.message().as_bytes())))
    })?;
    let profiles = profiles(file.get_ref()).map_err(at_line)?;
    let Some(found) = profiles.iter().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = profiles.iter().map(|(name, _)| *name).collect();
        return Err(Error::Unknown {
            path: path.to_owned(),
            name: name.to_owned(),
            hint: hint(name, &names, "write [profile.NAME] into it"),
        });
    };
    let base = path.parent().unwrap_or(Path::new(""));
    let reader = ProfileReader { run, base };
    reader.profile(found.1).map_err(at_line)
}

/// A position in the text, in bytes, and what is wrong there.
type ParseError = (usize, String);

fn text(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(SIZE_LIMIT + 1).read_to_string(&mut text)?;
    match text.len() as u64 > SIZE_LIMIT {
        true => Err(std::io::Error::other(format!(
            "has more than {SIZE_LIMIT} bytes"
        ))),
        false => Ok(text),
    }
}

/// Returns the tables of all profiles by name.
fn profiles<'a, 'i>(file: &'a DeTable<'i>) -> Result<Vec<(&'a str, &'a DeTable<'i>)>, ParseError> {
    let wrong = |key: &Key<'_>, prefix: &str, why: &str| {
        let key_shown = shown_key(key);
        (key.span().start, format!("{prefix}{key_shown}: {why}"))
    };
    let mut found = Vec::new();
    for (key, value) in file {
        let DeValue::Table(all) = value.get_ref() else {
            return Err(wrong(key, "", NO_PROFILE));
        };
        if key.get_ref() != "profile" {
            return Err(wrong(key, "", NO_PROFILE));
        }
        for (name, value) in all {
            let DeValue::Table(table) = value.get_ref() else {
                let why = "is no profile; write [profile.NAME] before its options";
                return Err(wrong(name, "profile.", why));
            };
            found.push((&**name.get_ref(), table));
        }
    }
    Ok(found)
}

const NO_PROFILE: &str = "stands in no profile; write [profile.NAME] before it";

type Key<'i> = Spanned<toml::de::DeString<'i>>;

fn shown_key(key: &Key<'_>) -> String {
    escaped(key.get_ref().as_bytes())
}

/// Turns one profile into words.
struct ProfileReader<'a> {
    run: &'a clap::Command,
    /// The directory that paths are relative to.
    base: &'a Path,
}

impl ProfileReader<'_> {
    fn profile(&self, table: &DeTable<'_>) -> Result<Profile, ParseError> {
        let mut profile = Profile::default();
        for (key, value) in table {
            let wrong_at = |at| move |why| (at, format!("{}: {why}", shown_key(key)));
            let wrong = wrong_at(value.span().start);
            match (&**key.get_ref(), value.get_ref()) {
                ("image", value) => {
                    profile.image = Some(self.image(&scalar(value).map_err(wrong)?));
                }
                ("command", value) => profile.command = list(value).map_err(wrong)?,
                (other, value) => {
                    let arg = self.option(other).map_err(wrong_at(key.span().start))?;
                    let words = self.words(arg, value).and_then(|words| {
                        words.iter().try_for_each(|word| self.check(word))?;
                        Ok(words)
                    });
                    profile.options.extend(words.map_err(wrong)?);
                }
            }
        }
        Ok(profile)
    }

    /// Returns the option that a key names.
    fn option(&self, key: &str) -> Result<&Arg, String> {
        let known = |arg: &&Arg| {
            let long = arg.get_long();
            long.is_some_and(|long| !NOT_IN_PROFILES.contains(&long))
        };
        let mut options = self.run.get_arguments().filter(known);
        let found = options.find(|arg| arg.get_long() == Some(key));
        found.ok_or_else(|| {
            let shown = self.run.get_arguments().filter(known);
            let shown = shown.filter(|arg| !arg.is_hide_set());
            let names = shown.filter_map(Arg::get_long).chain(["image", "command"]);
            let hint = match nearest(key, &names.collect::<Vec<_>>()) {
                Some(near) => format!("is it {near}?"),
                None => "rdvm run --help lists them".to_owned(),
            };
            format!("rdvm run has no such option; {hint}")
        })
    }

    /// Returns the words that an option and its value stand for.
    fn words(&self, arg: &Arg, value: &DeValue<'_>) -> Result<Vec<OsString>, String> {
        let name = arg.get_long().unwrap_or_default();
        let form = arg.get_value_names().and_then(|names| names.first());
        let form = form.map_or("", |name| name.as_str());
        let word = |value: &str| {
            let mut word = OsString::from(format!("--{name}="));
            word.push(self.placed(arg, form, value));
            word
        };
        // Options of the form NAME=VALUE may be written as tables.
        let is_pair = form.starts_with("NAME");
        let lists = match is_pair {
            true => "write a list of texts, or a table of NAME = \"VALUE\"",
            false => "write a text, or a list of them",
        };
        match (arg.get_action(), value) {
            (ArgAction::SetTrue, DeValue::Boolean(true)) => Ok(vec![format!("--{name}").into()]),
            (ArgAction::SetTrue, DeValue::Boolean(false)) => Ok(Vec::new()),
            (ArgAction::SetTrue, _) => Err("is a switch; write true or false".to_owned()),
            (ArgAction::Append, DeValue::Array(values)) => {
                let values = values.iter().map(|value| scalar(value.get_ref()));
                values.map(|value| Ok(word(&value?))).collect()
            }
            (ArgAction::Append, DeValue::Table(values)) if is_pair => values
                .iter()
                .map(|(name, value)| {
                    let value = scalar(value.get_ref())?;
                    Ok(word(&format!("{}={value}", name.get_ref())))
                })
                .collect(),
            (ArgAction::Append, value) => Ok(vec![word(&scalar(value).map_err(|_| lists)?)]),
            (_, value) => Ok(vec![word(&scalar(value)?)]),
        }
    }

    /// Returns a value whose path, where it is or has one, is relative to the file's directory.
    fn placed(&self, arg: &Arg, form: &str, value: &str) -> OsString {
        let is_name = |value: &str| !value.contains('/') && !self.base.join(value).exists();
        let (before, path, behind) = match (form, arg.get_value_hint()) {
            ("HOST:GUEST", _) => match value.rfind(':') {
                Some(at) => ("", &value[..at], &value[at..]),
                None => (value, "", ""),
            },
            ("GUEST:HOST", _) => match value.find(':') {
                Some(at) => (&value[..=at], &value[at + 1..], ""),
                None => (value, "", ""),
            },
            // A name unless there is such a file, or a slash makes it a path.
            ("PATH|NAME", _) if is_name(value) => (value, "", ""),
            (_, ValueHint::FilePath | ValueHint::DirPath | ValueHint::AnyPath) => ("", value, ""),
            _ => (value, "", ""),
        };
        let mut word = OsString::from(before);
        word.push(self.path(path));
        word.push(behind);
        word
    }

    /// Returns a path of the file as one of the working directory. Standard input is no path.
    fn path(&self, value: &str) -> OsString {
        match value {
            "" | "-" => value.into(),
            path => self.base.join(path).into(),
        }
    }

    /// Returns an image: a path of the file, unless it is a registry's name and there is no such file.
    fn image(&self, value: &str) -> OsString {
        let path = self.path(value);
        let is_name = value.contains([':', '@']) && value.parse::<ImageName>().is_ok();
        match is_name && Path::new(&path).symlink_metadata().is_err() {
            true => value.into(),
            false => path,
        }
    }

    /// Lets clap check one word.
    fn check(&self, word: &OsStr) -> Result<(), String> {
        let words = [OsStr::new("run"), word, OsStr::new("IMAGE")];
        let Err(error) = self.run.clone().try_get_matches_from(words) else {
            return Ok(());
        };
        let text = error.render().to_string();
        let lines = text.lines().take_while(|line| !line.trim().is_empty());
        let text = lines.map(str::trim).collect::<Vec<_>>().join(" ");
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        Err(escaped(text.as_bytes()))
    }
}

/// Returns a text or a number as it would be typed.
fn scalar(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) if text.contains('\0') => Err("a word has no NUL".to_owned()),
        DeValue::String(text) => Ok(text.clone().into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map(|number| number.to_string())
            .map_err(|_| "is too large; write a smaller number".to_owned()),
        _ => Err("write a text in quotes, or a whole number".to_owned()),
    }
}

fn list(value: &DeValue<'_>) -> Result<Vec<OsString>, String> {
    let DeValue::Array(words) = value else {
        return Err("write a list of words, as in [\"make\", \"check\"]".to_owned());
    };
    let words = words.iter().map(|word| scalar(word.get_ref()));
    words.map(|word| Ok(word?.into())).collect()
}

/// Returns the way out for a name that is none of `names`.
fn hint(name: &str, names: &[&str], none: &str) -> String {
    match (nearest(name, names), names) {
        (Some(near), _) => format!("is it {}?", escaped(near.as_bytes())),
        (None, []) => none.to_owned(),
        (None, names) => format!("it has {}", escaped(names.join(", ").as_bytes())),
    }
}

/// Returns the name that is most like `name`, by the measure that clap uses for options.
fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let alike = names
        .iter()
        .map(|other| (strsim::jaro(name, other), *other));
    let alike = alike.filter(|(alike, _)| *alike > 0.7);
    let nearest = alike.max_by(|(a, _), (b, _)| a.total_cmp(b));
    nearest.map(|(_, near)| near)
}
