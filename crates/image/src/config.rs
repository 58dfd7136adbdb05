//! The settings that an image is run with: the JSON configuration of docker and OCI images → [`Config`].
//!
//! Takes the document's bytes, returns values that are known to be usable: what a caller could not
//! say either is an error here. Knows nothing of where the document was.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::reference::{BadUser, UserSpec};
use rdvm_hostfs::Digest;
use rdvm_hostfs::escape::escaped;

/// The settings that an image is run with; all empty for images without any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// The program if there is no entrypoint, else arguments that the user's replace.
    pub cmd: Vec<String>,
    /// `NAME=VALUE` entries.
    pub env: Vec<String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// The user to run as.
    pub user: Option<UserSpec>,
    /// Host name.
    pub hostname: Option<String>,
}

/// A configuration document.
#[derive(Debug)]
pub(super) struct ParsedConfig {
    /// The settings that the image is run with.
    pub(super) config: Config,
    /// `linux/amd64`, or nothing where it does not say.
    pub(super) platform: Option<String>,
    /// The digest of each layer, unpacked.
    pub(super) diff_ids: Vec<Digest>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// Not JSON, or not what it should say.
    #[error("the image's configuration is not what it should be: {source}; export the image again")]
    Json { source: serde_json::Error },
    /// A NUL byte, which no program can be given.
    #[error("the image's {field} has a NUL byte in it; build the image without")]
    Nul { field: &'static str },
    /// A variable without a value.
    #[error("the image's Env has \"{}\", which is not NAME=VALUE; build the image without", escaped(entry.as_bytes()))]
    Env { entry: String },
    /// A user that is none.
    #[error("the image's User is \"{}\", which is not USER or USER:GROUP", escaped(user.as_bytes()))]
    User { user: String },
    /// A layer's digest that is none.
    #[error("\"{}\" in rootfs.diff_ids is not a digest of sha256: and 64 hexadecimal digits; export the image again", escaped(digest.as_bytes()))]
    DiffId { digest: String },
    /// Layers that are not kept as layers.
    #[error("the image's rootfs is of the type \"{}\", and only layers is known; export the image again", escaped(kind.as_bytes()))]
    Rootfs { kind: String },
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    config: Option<Section>,
    #[serde(default)]
    rootfs: Option<Rootfs>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Section {
    #[serde(default)]
    entrypoint: Option<Words>,
    #[serde(default)]
    cmd: Option<Words>,
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    working_dir: Option<String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    hostname: Option<String>,
}

/// A list; docker has also written a single word.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    Many(Vec<String>),
    One(String),
}

impl From<Words> for Vec<String> {
    fn from(words: Words) -> Self {
        match words {
            Words::Many(words) => words,
            Words::One(word) => vec![word],
        }
    }
}

#[derive(Deserialize)]
struct Rootfs {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

/// Reads a configuration.
///
/// # Errors
/// It is not one, or has values that nothing can be started with.
pub(super) fn parse(bytes: &[u8]) -> Result<ParsedConfig, Error> {
    let document: Document =
        serde_json::from_slice(bytes).map_err(|source| Error::Json { source })?;
    let platform = match (document.os, document.architecture) {
        (Some(os), Some(architecture)) if !(os.is_empty() && architecture.is_empty()) => {
            Some(self::platform(&os, &architecture))
        }
        _ => None,
    };
    let mut diff_ids = Vec::new();
    if let Some(rootfs) = document.rootfs {
        if let Some(kind) = rootfs.kind.filter(|kind| kind != "layers") {
            return Err(Error::Rootfs { kind });
        }
        for digest in rootfs.diff_ids.unwrap_or_default() {
            let parsed = digest.parse();
            diff_ids.push(parsed.map_err(|_| Error::DiffId { digest })?);
        }
    }
    Ok(ParsedConfig {
        config: usable(document.config.unwrap_or_default())?,
        platform,
        diff_ids,
    })
}

/// `linux/amd64`, with other usual names for the same (`x86_64`), as containerd normalizes them.
pub(super) fn platform(os: &str, architecture: &str) -> String {
    let architecture = architecture.to_ascii_lowercase();
    let architecture = match architecture.as_str() {
        "x86_64" | "x86-64" => "amd64",
        other => other,
    };
    format!("{}/{architecture}", os.to_ascii_lowercase())
}

fn usable(section: Section) -> Result<Config, Error> {
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let user = some(section.user);
    let config = Config {
        entrypoint: section.entrypoint.map(Into::into).unwrap_or_default(),
        cmd: section.cmd.map(Into::into).unwrap_or_default(),
        env: section.env.unwrap_or_default(),
        workdir: some(section.working_dir),
        user: user.as_deref().map(parse_user).transpose()?,
        hostname: some(section.hostname),
    };
    for (field, words) in [
        ("Entrypoint", &config.entrypoint[..]),
        ("Cmd", &config.cmd),
        ("Env", &config.env),
        ("WorkingDir", config.workdir.as_slice()),
        ("User", user.as_slice()),
        ("Hostname", config.hostname.as_slice()),
    ] {
        if words.iter().any(|word| word.contains('\0')) {
            return Err(Error::Nul { field });
        }
    }
    let named = |entry: &&String| entry.find('=').is_none_or(|at| at == 0);
    match config.env.iter().find(named) {
        Some(entry) => Err(Error::Env {
            entry: entry.clone(),
        }),
        None => Ok(config),
    }
}

/// Reads a user as [`UserSpec`] does, but a colon without a group counts for nothing, as for docker.
fn parse_user(text: &str) -> Result<UserSpec, Error> {
    let spec = match text.split_once(':') {
        Some((user, "")) => user.parse(),
        _ => text.parse(),
    };
    spec.map_err(|_: BadUser| Error::User {
        user: text.to_owned(),
    })
}

/// Returns the entrypoint and the arguments of a command: those given over the image's, by docker's rule. A given entrypoint
/// also drops the image's arguments, which were meant for the image's program.
pub fn over<T>(
    given: (Option<T>, Option<T>),
    image: (Option<T>, Option<T>),
) -> (Option<T>, Option<T>) {
    match given {
        (None, None) => image,
        (None, arguments) => (image.0, arguments),
        given => given,
    }
}

/// Returns the variables, each name once: where it came first, with the value that it was set to last.
pub fn last_of_each<T: AsRef<[u8]>>(variables: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut places = HashMap::new();
    let mut kept: Vec<T> = Vec::new();
    for variable in variables {
        let name = variable.as_ref().split(|&byte| byte == b'=').next();
        let place = *places
            .entry(name.unwrap_or_default().to_vec())
            .or_insert(kept.len());
        match kept.get_mut(place) {
            Some(old) => *old = variable,
            None => kept.push(variable),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Id;

    fn config(section: &str) -> Result<Config, Error> {
        parse(format!(r#"{{"config":{section}}}"#).as_bytes()).map(|said| said.config)
    }

    #[test]
    fn everything_that_says_how_to_run_is_taken() {
        let said = parse(
            br#"{"architecture":"amd64","os":"linux","created":"x","config":{"Hostname":"box","User":"app:7",
                "Env":["PATH=/bin","A="],"Cmd":["-c","x y"],"Entrypoint":["/bin/sh"],"WorkingDir":"/srv",
                "Labels":{"a":"b"},"Volumes":null},"rootfs":{"type":"layers","diff_ids":
                ["sha256:0000000000000000000000000000000000000000000000000000000000000001"]},"history":[]}"#,
        )
        .unwrap();
        assert_eq!(said.platform.as_deref(), Some("linux/amd64"));
        assert_eq!(said.diff_ids[0].0[31], 1);
        assert_eq!(
            said.config,
            Config {
                entrypoint: vec!["/bin/sh".into()],
                cmd: vec!["-c".into(), "x y".into()],
                env: vec!["PATH=/bin".into(), "A=".into()],
                workdir: Some("/srv".into()),
                user: Some(UserSpec {
                    user: Id::Name("app".into()),
                    group: Some(Id::Number(7)),
                }),
                hostname: Some("box".into()),
            }
        );
    }

    #[test]
    fn what_is_empty_or_null_says_nothing() {
        for document in [
            "{}",
            r#"{"config":null,"rootfs":null,"os":"","architecture":""}"#,
            r#"{"config":{"Hostname":"","User":"","Env":null,"Cmd":null,"Entrypoint":null,"WorkingDir":""}}"#,
        ] {
            let said = parse(document.as_bytes()).unwrap();
            assert_eq!((said.config, said.platform), (Config::default(), None));
            assert!(said.diff_ids.is_empty());
        }
        let one = config(r#"{"Entrypoint":"/bin/app"}"#).unwrap();
        assert_eq!(one.entrypoint, ["/bin/app"]);
    }

    #[test]
    fn users_come_in_four_forms() {
        let name = |name: &str| Id::Name(name.to_owned());
        for (text, user, group) in [
            ("app", name("app"), None),
            ("1000", Id::Number(1000), None),
            ("app:staff", name("app"), Some(name("staff"))),
            ("0:65534", Id::Number(0), Some(Id::Number(65534))),
            ("app:", name("app"), None),
            ("4294967296", name("4294967296"), None),
        ] {
            assert_eq!(
                parse_user(text).unwrap(),
                UserSpec { user, group },
                "{text}"
            );
        }
        assert!(matches!(parse_user(":staff"), Err(Error::User { .. })));
    }

    #[test]
    fn what_no_program_can_be_given_is_refused() {
        for (section, words) in [
            (r#"{"Entrypoint":["a\u0000b"]}"#, "Entrypoint has a NUL"),
            (r#"{"Cmd":["a\u0000b"]}"#, "Cmd has a NUL"),
            (r#"{"Env":["A=\u0000"]}"#, "Env has a NUL"),
            (r#"{"WorkingDir":"/\u0000"}"#, "WorkingDir has a NUL"),
            (r#"{"User":"\u0000"}"#, "User has a NUL"),
            (r#"{"Hostname":"\u0000"}"#, "Hostname has a NUL"),
            (
                r#"{"Env":["A\u001b"]}"#,
                "\"A\\u{1b}\", which is not NAME=VALUE",
            ),
            (r#"{"Env":["=x"]}"#, "not NAME=VALUE"),
            (r#"{"User":":"}"#, "User is \":\""),
            (r#"{"Env":"A=b"}"#, "is not what it should be"),
            (r#"[]]"#, "is not what it should be"),
        ] {
            let error = config(section).unwrap_err().to_string();
            assert!(error.contains(words), "{section}: {error}");
        }
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert!(config(&deep).unwrap_err().to_string().contains("recursion"));
        let wrong = parse(br#"{"rootfs":{"type":"disk"}}"#).unwrap_err();
        assert!(wrong.to_string().contains("\"disk\""));
        let bad = parse(br#"{"rootfs":{"diff_ids":["sha256:../../x"]}}"#).unwrap_err();
        assert!(
            bad.to_string()
                .contains("\"sha256:../../x\" in rootfs.diff_ids")
        );
    }
}
