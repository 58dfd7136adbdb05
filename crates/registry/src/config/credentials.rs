//! Names and passwords of registries: the files of `podman login` and `docker login`, and the programs that docker's file names.
//! containers-auth.json(5).

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::docker_hub;
use crate::environment::{self, Environment};
use crate::error::{Error, Result, quoted};
use crate::reference::Reference;

/// The longest answer of a program in bytes.
const ANSWER_LIMIT: u64 = 64 << 10;
/// The name that a program gives a token instead of a user.
const TOKEN_USER: &str = "<token>";

/// The right to use a registry.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A token that is exchanged for others.
    IdentityToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// Returns the value of a header for the scheme Basic; `None` for a token.
    pub(crate) fn basic(&self) -> Option<String> {
        match self {
            Self::Password { user, password } => Some(format!(
                "Basic {}",
                STANDARD.encode(format!("{user}:{password}"))
            )),
            Self::IdentityToken(_) => None,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// Returns the credentials of the first file that has some for an image.
///
/// # Errors
/// A file cannot be read or understood; a program fails.
pub(crate) fn of(environment: &Environment, reference: &Reference) -> Result<Option<Credentials>> {
    for path in environment.credential_files() {
        let Some(text) = environment::read(&path)? else {
            continue;
        };
        let file: File = match text.trim().is_empty() {
            true => File::default(),
            false => {
                serde_json::from_str(&text).map_err(|error| wrong(&path, &error.to_string()))?
            }
        };
        if let Some(found) = file.find(environment, &path, reference)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn wrong(path: &Path, why: &str) -> Error {
    Error::Config {
        path: path.to_owned(),
        why: why.to_owned(),
    }
}

impl File {
    fn find(
        &self,
        environment: &Environment,
        path: &Path,
        reference: &Reference,
    ) -> Result<Option<Credentials>> {
        let server = match reference.registry.as_str() {
            docker_hub::REGISTRY => docker_hub::CREDENTIALS,
            other => other,
        };
        let helper = self
            .cred_helpers
            .get(&reference.registry)
            .or(self.cred_helpers.get(server));
        if let Some(helper) = helper {
            return ask(environment, helper, server);
        }
        if let Some(entry) = self.entry(reference)
            && let Some(credentials) = entry.credentials(path)?
        {
            return Ok(Some(credentials));
        }
        match self
            .creds_store
            .as_deref()
            .filter(|store| !store.is_empty())
        {
            Some(store) => ask(environment, store, server),
            None => Ok(None),
        }
    }

    /// The entry of the image, or of the nearest name above it.
    fn entry(&self, reference: &Reference) -> Option<&Entry> {
        let name = reference.name();
        let mut scope = Some(name.as_str());
        while let Some(key) = scope {
            if let Some(entry) = self.auths.get(key) {
                return Some(entry);
            }
            scope = key.rsplit_once('/').map(|(above, _)| above);
        }
        // docker's own keys are URLs.
        let is_it = |key: &&String| registry_of(key) == reference.registry;
        let key = self.auths.keys().find(is_it)?;
        self.auths.get(key)
    }
}

/// The registry that a key of docker's means: `https://HOST/v1/` is `HOST`.
fn registry_of(key: &str) -> &str {
    let Some((_, rest)) = key.split_once("://") else {
        return "";
    };
    match rest.split('/').next().unwrap_or(rest) {
        docker_hub::OLD_REGISTRY | docker_hub::HOST => docker_hub::REGISTRY,
        host => host,
    }
}

impl Entry {
    fn credentials(&self, path: &Path) -> Result<Option<Credentials>> {
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credentials::IdentityToken(self.identitytoken.clone())));
        }
        if !self.auth.is_empty() {
            let decoded = STANDARD.decode(self.auth.trim()).ok();
            let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
            let pair = text.as_deref().and_then(|text| text.split_once(':'));
            let (user, password) =
                pair.ok_or_else(|| wrong(path, "an \"auth\" is not USER:PASSWORD in base64"))?;
            return Ok(Some(Credentials::Password {
                user: user.to_owned(),
                // docker has written NULs behind it.
                password: password.trim_end_matches('\0').to_owned(),
            }));
        }
        let is_given = !self.username.is_empty();
        Ok(is_given.then(|| Credentials::Password {
            user: self.username.clone(),
            password: self.password.clone(),
        }))
    }
}

/// Asks `docker-credential-HELPER` for a server's credentials; `None` if it has none.
fn ask(environment: &Environment, helper: &str, server: &str) -> Result<Option<Credentials>> {
    let program = format!("docker-credential-{helper}");
    let failed = |why: String| Error::Helper {
        program: program.clone(),
        why,
    };
    if !helper
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    {
        return Err(Error::Helper {
            program: quoted(&program),
            why: "is no name of a program".to_owned(),
        });
    }
    let mut command = Command::new(&program);
    if let Some(path) = environment.path("PATH") {
        command.env("PATH", path);
    }
    let spawned = command
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(|error| failed(rdvm_hostfs::escape::reason(&error)))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that reads nothing says why by its exit status.
        let _ = stdin.write_all(server.as_bytes());
    }
    let mut text = String::new();
    if let Some(stdout) = child.stdout.take() {
        let read = stdout.take(ANSWER_LIMIT).read_to_string(&mut text);
        read.map_err(|error| failed(rdvm_hostfs::escape::reason(&error)))?;
    }
    let status = child.wait();
    let status = status.map_err(|error| failed(rdvm_hostfs::escape::reason(&error)))?;
    if !status.success() {
        return match text.contains("credentials not found") {
            true => Ok(None),
            false => Err(failed(format!("fails: {}", quoted(&text)))),
        };
    }
    let answer: HelperAnswer = serde_json::from_str(&text)
        .map_err(|_| failed("does not answer as it should".to_owned()))?;
    Ok(match (answer.username.as_str(), answer.secret) {
        (_, secret) if secret.is_empty() => None,
        (TOKEN_USER, secret) => Some(Credentials::IdentityToken(secret)),
        (user, password) => Some(Credentials::Password {
            user: user.to_owned(),
            password,
        }),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn password(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    /// A home with this text in docker's file and this program.
    struct Home(tempfile::TempDir);

    impl Home {
        fn new(text: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join(".docker")).unwrap();
            fs::write(dir.path().join(".docker/config.json"), text).unwrap();
            Self(dir)
        }

        fn program(self, name: &str, script: &str) -> Self {
            let path = self.0.path().join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
            self
        }

        fn of(&self, name: &str) -> Result<Option<Credentials>> {
            let mut environment = Environment::of_test(self.0.path());
            environment.set("XDG_RUNTIME_DIR", self.0.path().join("run"));
            environment.set("PATH", format!("{}:/usr/bin:/bin", self.0.path().display()));
            of(&environment, &name.parse().unwrap())
        }
    }

    #[test]
    fn the_nearest_entry_above_an_image_is_its() {
        // u:p, a:b and h:0, in base64.
        let home = Home::new(
            r#"{"auths": {"r.example/ns": {"auth": "dTpw"}, "r.example": {"auth": "YTpi"},
                "https://index.docker.io/v1/": {"auth": "aDow"}, "t.example": {"identitytoken": "tok"},
                "n.example": {"username": "n", "password": "q"}, "e.example": {}}}"#,
        );
        for (name, expected) in [
            ("r.example/ns/app:1", password("u", "p")),
            ("r.example/other:1", password("a", "b")),
            ("docker.io/library/debian:1", password("h", "0")),
            (
                "t.example/x:1",
                Some(Credentials::IdentityToken("tok".into())),
            ),
            ("n.example/x:1", password("n", "q")),
            ("e.example/x:1", None),
            ("other.example/x:1", None),
            ("evil.r.example/x:1", None),
        ] {
            assert_eq!(home.of(name).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn podmans_file_comes_before_dockers_and_an_empty_one_has_nothing() {
        let home = Home::new(r#"{"auths": {"r.example": {"auth": "YTpi"}}}"#);
        fs::create_dir_all(home.0.path().join("run/containers")).unwrap();
        let own = home.0.path().join("run/containers/auth.json");
        fs::write(&own, "").unwrap();
        assert_eq!(home.of("r.example/x:1").unwrap(), password("a", "b"));
        fs::write(&own, r#"{"auths": {"r.example": {"auth": "dTpw"}}}"#).unwrap();
        assert_eq!(home.of("r.example/x:1").unwrap(), password("u", "p"));
        fs::write(&own, r#"{"auths": {"r.example": {"auth": "!!"}}}"#).unwrap();
        assert!(matches!(
            home.of("r.example/x:1"),
            Err(Error::Config { .. })
        ));
    }

    #[test]
    fn programs_are_asked_for_their_servers() {
        let answer = r#"read server; [ "$1" = get ] && printf '{"ServerURL":"%s","Username":"%s","Secret":"s"}' "$server" "$server""#;
        let home = Home::new(r#"{"credHelpers": {"r.example": "own"}, "credsStore": "all"}"#)
            .program(
                "docker-credential-own",
                r#"echo '{"Username":"<token>","Secret":"s"}'"#,
            )
            .program("docker-credential-all", answer);
        assert_eq!(
            home.of("r.example/x:1").unwrap(),
            Some(Credentials::IdentityToken("s".into()))
        );
        assert_eq!(
            home.of("docker.io/library/x:1").unwrap(),
            password("https://index.docker.io/v1/", "s")
        );
    }

    #[test]
    fn a_program_may_have_nothing_but_not_fail() {
        for (script, expected) in [
            (
                "echo credentials not found in native keychain; exit 1",
                Ok(None),
            ),
            (
                "echo locked; exit 1",
                Err("docker-credential-x: fails: locked; correct it, or log in again"),
            ),
            (
                "echo what",
                Err(
                    "docker-credential-x: does not answer as it should; correct it, or log in again",
                ),
            ),
        ] {
            let home = Home::new(r#"{"credsStore": "x"}"#).program("docker-credential-x", script);
            let found = home.of("r.example/x:1").map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{script}");
        }
        let home = Home::new(r#"{"credsStore": "../x"}"#);
        assert!(matches!(
            home.of("r.example/x:1"),
            Err(Error::Helper { .. })
        ));
    }
}
