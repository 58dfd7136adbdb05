//! `rdvm.toml`: named sets of run options, `[profile.NAME]` with the long options as keys, turned into the words that one
//! would type.
//!
//! Knows no option: what there is, and of which kind, the definition of the command line says, and what a value has to be
//! its parser does. Nothing of the file counts unless a profile is asked for by name.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ValueHint};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use rdvm_hostfs::escape::{escaped, reason, shown};

/// The file's name.
pub const NAME: &str = "rdvm.toml";
/// Options that say which profile, or print something and end: they have no place in one.
const NOT_IN_PROFILES: [&str; 4] = ["config", "profile", "help", "version"];
/// The largest file that is read, in bytes.
const SIZE_LIMIT: u64 = 1 << 20;

/// What a profile comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile {
    /// Its options, each `--name` or `--name=value`.
    pub options: Vec<OsString>,
    /// Its IMAGE.
    pub image: Option<OsString>,
    /// Its CMD and ARGs.
    pub command: Vec<OsString>,
}

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No file.
    #[error("--profile: there is no {NAME} here or above; write one, or name it with --config")]
    NoFile,
    /// The file cannot be read.
    #[error(
        "{}: {}; make it a text file that can be read",
        shown(path),
        reason(source)
    )]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of it.
    #[error("{}:{line}: {text}", shown(path))]
    Line {
        /// Which file.
        path: PathBuf,
        /// From 1 on.
        line: usize,
        /// What is wrong and what to do.
        text: String,
    },
    /// It has others.
    #[error("--profile: {} has no profile \"{}\"; {hint}", shown(path), escaped(name.as_bytes()))]
    Unknown {
        /// Which file.
        path: PathBuf,
        /// What was asked for.
        name: String,
        /// What there is.
        hint: String,
    },
}

/// The file that counts in the directory `here`: its own, or the nearest above; as a path from `here`.
pub fn find(here: &Path) -> Option<PathBuf> {
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
/// Errors: [`Error`], with the line.
pub fn read(path: &Path, name: &str, run: &clap::Command) -> Result<Profile, Error> {
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

/// Where in the text, in bytes, and what is wrong there.
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

/// The tables of all profiles by name.
fn profiles<'a, 'i>(file: &'a DeTable<'i>) -> Result<Vec<(&'a str, &'a DeTable<'i>)>, ParseError> {
    let mut found = Vec::new();
    for (key, value) in file {
        let DeValue::Table(all) = value.get_ref() else {
            return Err(unknown_table(key));
        };
        if key.get_ref() != "profile" {
            return Err(unknown_table(key));
        }
        for (name, value) in all {
            let DeValue::Table(table) = value.get_ref() else {
                let text = "is no profile; write [profile.NAME] before its options".to_owned();
                return Err((
                    name.span().start,
                    format!("profile.{}: {text}", shown_key(name)),
                ));
            };
            found.push((&**name.get_ref(), table));
        }
    }
    Ok(found)
}

fn unknown_table(key: &Key<'_>) -> ParseError {
    let key_shown = shown_key(key);
    let text = format!("{key_shown}: stands in no profile; write [profile.NAME] before it");
    (key.span().start, text)
}

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
            let name = shown_key(key);
            let at = value.span().start;
            let wrong = |why: String| (at, format!("{name}: {why}"));
            match &**key.get_ref() {
                "image" => {
                    let image = scalar(value.get_ref()).map_err(wrong)?;
                    profile.image = Some(self.path(&image));
                }
                "command" => profile.command = list(value.get_ref()).map_err(wrong)?,
                other => {
                    let arg = self
                        .option(other)
                        .map_err(|why| (key.span().start, format!("{name}: {why}")))?;
                    let words = self.words(arg, other, value.get_ref()).map_err(wrong)?;
                    for word in &words {
                        self.check(word).map_err(wrong)?;
                    }
                    profile.options.extend(words);
                }
            }
        }
        Ok(profile)
    }

    /// The option that a key names.
    fn option(&self, key: &str) -> Result<&Arg, String> {
        let known = |arg: &&Arg| {
            let long = arg.get_long();
            long.is_some_and(|long| !NOT_IN_PROFILES.contains(&long))
        };
        let mut options = self.run.get_arguments().filter(known);
        options
            .find(|arg| arg.get_long() == Some(key))
            .ok_or_else(|| {
                let shown = self.run.get_arguments().filter(known);
                let shown = shown.filter(|arg| !arg.is_hide_set());
                let mut names: Vec<&str> = shown.filter_map(Arg::get_long).collect();
                names.extend(["image", "command"]);
                let hint = nearest(key, &names)
                    .map_or("rdvm run --help lists them".to_owned(), |near| {
                        format!("is it {near}?")
                    });
                format!("rdvm run has no such option; {hint}")
            })
    }

    /// The words that a key and its value stand for.
    fn words(&self, arg: &Arg, key: &str, value: &DeValue<'_>) -> Result<Vec<OsString>, String> {
        let form = arg.get_value_names().and_then(|names| names.first());
        let form = form.map_or("", |name| name.as_str());
        let word = |value: &str| {
            let value = self.placed(arg, form, value);
            [OsStr::new("--"), OsStr::new(key), OsStr::new("="), &value]
                .into_iter()
                .collect::<OsString>()
        };
        match (arg.get_action(), value) {
            (ArgAction::SetTrue, DeValue::Boolean(true)) => Ok(vec![format!("--{key}").into()]),
            (ArgAction::SetTrue, DeValue::Boolean(false)) => Ok(Vec::new()),
            (ArgAction::SetTrue, _) => Err("is a switch; write true or false".to_owned()),
            (ArgAction::Append, DeValue::Array(values)) => values
                .iter()
                .map(|value| Ok(word(&scalar(value.get_ref())?)))
                .collect(),
            // What is written NAME=VALUE may be a table as well.
            (ArgAction::Append, DeValue::Table(values)) if form.starts_with("NAME") => values
                .iter()
                .map(|(name, value)| {
                    let value = scalar(value.get_ref())?;
                    Ok(word(&format!("{}={value}", name.get_ref())))
                })
                .collect(),
            (ArgAction::Append, value) => {
                Ok(vec![word(&scalar(value).map_err(
                    |_| match form.starts_with("NAME") {
                        true => "write a list of texts, or a table of NAME = \"VALUE\"",
                        false => "write a text, or a list of them",
                    },
                )?)])
            }
            (_, value) => Ok(vec![word(&scalar(value)?)]),
        }
    }

    /// A value with its path, where it is or has one, relative to the file's directory.
    fn placed(&self, arg: &Arg, form: &str, value: &str) -> OsString {
        let sides = match form {
            "HOST:GUEST" => value.rsplit_once(':'),
            "GUEST:HOST" => value.split_once(':'),
            _ => None,
        };
        match (form, sides) {
            ("HOST:GUEST", Some((host, guest))) if !host.is_empty() => [
                self.path(host).as_os_str(),
                OsStr::new(":"),
                OsStr::new(guest),
            ]
            .into_iter()
            .collect(),
            ("GUEST:HOST", Some((guest, host))) if !host.is_empty() => [
                OsStr::new(guest),
                OsStr::new(":"),
                self.path(host).as_os_str(),
            ]
            .into_iter()
            .collect(),
            _ => match arg.get_value_hint() {
                // A name unless it is there, or says by a slash that it is a path.
                ValueHint::FilePath | ValueHint::AnyPath
                    if form.ends_with("|NAME")
                        && !value.contains('/')
                        && !self.base.join(value).exists() =>
                {
                    value.into()
                }
                ValueHint::FilePath
                | ValueHint::DirPath
                | ValueHint::AnyPath
                | ValueHint::ExecutablePath => self.path(value),
                _ => value.into(),
            },
        }
    }

    /// A path of the file as one of the working directory. Standard input is no path.
    fn path(&self, value: &str) -> OsString {
        match value {
            "" | "-" => value.into(),
            path => self.base.join(path).into(),
        }
    }

    /// Whether the command line takes the word.
    fn check(&self, word: &OsStr) -> Result<(), String> {
        let words = [OsStr::new("run"), word, OsStr::new("IMAGE")];
        match self.run.clone().try_get_matches_from(words) {
            Ok(_) => Ok(()),
            Err(error) => {
                let text = error.render().to_string();
                let lines = text.lines().take_while(|line| !line.trim().is_empty());
                let lines: Vec<&str> = lines.map(str::trim).collect();
                let text = lines.join(" ");
                let text = text.strip_prefix("error: ").unwrap_or(&text);
                Err(escaped(text.as_bytes()))
            }
        }
    }
}

/// A text or a number, as it would be typed.
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

/// A list of words.
fn list(value: &DeValue<'_>) -> Result<Vec<OsString>, String> {
    match value {
        DeValue::Array(words) => words
            .iter()
            .map(|word| scalar(word.get_ref()).map(OsString::from))
            .collect(),
        _ => Err("write a list of words, as in [\"make\", \"check\"]".to_owned()),
    }
}

/// What to say to a name that is none of `names`.
fn hint(name: &str, names: &[&str], none: &str) -> String {
    match (nearest(name, names), names) {
        (Some(near), _) => format!("is it {}?", escaped(near.as_bytes())),
        (None, []) => none.to_owned(),
        (None, names) => format!("it has {}", escaped(names.join(", ").as_bytes())),
    }
}

/// The name that is most like `name`, if one is at all.
fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let with = names.iter().map(|other| (distance(name, other), *other));
    let (changes, near) = with.min()?;
    let letters = name.chars().count().max(near.chars().count());
    (changes * 2 <= letters).then_some(near)
}

/// How many letters have to be put in, taken out or changed to make `a` of `b`.
fn distance(a: &str, b: &str) -> usize {
    // Names are short; what is not is near to nothing.
    if a.len() > 100 || b.len() > 100 {
        return usize::MAX / 3;
    }
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let changed = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(corner + 1);
        }
    }
    row[b.chars().count()]
}
