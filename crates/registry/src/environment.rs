//! The surroundings that docker's and podman's files are found by: variables, the home directory, /etc.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The variables that are looked at.
const VARIABLES: &[&str] = &[
    "CONTAINERS_REGISTRIES_CONF",
    "DOCKER_CONFIG",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "PATH",
    "REGISTRY_AUTH_FILE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];
/// The longest configuration file in bytes.
const FILE_LIMIT: u64 = 4 << 20;

/// Variables and directories.
#[derive(Debug, Clone)]
pub struct Environment {
    variables: BTreeMap<&'static str, OsString>,
    etc: PathBuf,
    uid: u32,
}

impl Environment {
    /// Returns those of this process.
    pub fn of_process() -> Self {
        let value = |&name: &&'static str| Some((name, std::env::var_os(name)?));
        Self {
            variables: VARIABLES.iter().filter_map(value).collect(),
            etc: "/etc".into(),
            uid: rustix::process::getuid().as_raw(),
        }
    }

    /// Returns those of a user with this home directory and /etc, and with nothing else.
    #[cfg(test)]
    pub(crate) fn of_test(home: &Path) -> Self {
        Self {
            variables: BTreeMap::from([("HOME", home.into())]),
            etc: home.join("etc"),
            uid: 1000,
        }
    }

    #[cfg(test)]
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<OsString>) {
        self.variables.insert(name, value.into());
    }

    /// Returns a variable that is set and not empty.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        let value = self.variables.get(name).filter(|value| !value.is_empty())?;
        Some(value.into())
    }

    /// Returns the first of these variables that is set, not empty, and text.
    pub(crate) fn first(&self, names: &[&'static str]) -> Option<(&'static str, &str)> {
        names.iter().find_map(|&name| {
            let text = self.variables.get(name)?.to_str()?;
            (!text.is_empty()).then_some((name, text))
        })
    }

    /// Returns podman's directory for the user's configuration.
    pub(crate) fn user_containers(&self) -> Option<PathBuf> {
        let config = self.path("XDG_CONFIG_HOME");
        let config = config.or_else(|| Some(self.path("HOME")?.join(".config")))?;
        Some(config.join("containers"))
    }

    /// Returns a path below /etc.
    pub(crate) fn etc(&self, path: &str) -> PathBuf {
        self.etc.join(path)
    }

    /// Returns the files that podman and docker keep credentials in, the first one that has some counts.
    pub(crate) fn credential_files(&self) -> Vec<PathBuf> {
        if let Some(path) = self.path("REGISTRY_AUTH_FILE") {
            return vec![path];
        }
        let runtime = match self.path("XDG_RUNTIME_DIR") {
            Some(runtime) => runtime.join("containers/auth.json"),
            None => format!("/run/containers/{}/auth.json", self.uid).into(),
        };
        let user = self.user_containers().map(|dir| dir.join("auth.json"));
        let docker = self.path("DOCKER_CONFIG");
        let docker = docker.or_else(|| Some(self.path("HOME")?.join(".docker")));
        let docker = docker.map(|dir| dir.join("config.json"));
        [Some(runtime), user, docker]
            .into_iter()
            .flatten()
            .collect()
    }
}

/// Reads a configuration file; `None` where there is none.
pub(crate) fn read(path: &Path) -> Result<Option<String>> {
    let failed = |source| Error::ConfigFile {
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        file => file.map_err(failed)?,
    };
    let mut text = String::new();
    let read = file.take(FILE_LIMIT + 1).read_to_string(&mut text);
    if read.map_err(failed)? as u64 > FILE_LIMIT {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(Some(text))
}
