//! `policy.json`: the images that a user or an administrator accepts. containers-policy.json(5).
//!
//! Signatures are not checked here: where they are demanded, skopeo has to fetch the image.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use rdvm_hostfs::escape::escaped;

use crate::environment::{self, Environment};
use crate::error::{Error, Result};
use crate::reference::Reference;

#[derive(Deserialize)]
struct File {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

#[derive(Deserialize)]
struct Requirement {
    #[serde(rename = "type")]
    kind: String,
}

/// The verdict on an image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Any image of that name.
    Anything,
    /// Only one with a signature that skopeo can check.
    Signed(Demand),
}

/// The demand of a file, as a message for hosts without skopeo.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) path: PathBuf,
    pub(crate) kind: String,
}

/// Returns what the user's file, else the system's, demands of an image.
///
/// # Errors
/// It is rejected; the file cannot be read or understood.
pub(crate) fn demands(environment: &Environment, reference: &Reference) -> Result<Policy> {
    let user = environment
        .user_containers()
        .map(|dir| dir.join("policy.json"));
    let system = environment.etc("containers/policy.json");
    for path in user.into_iter().chain([system]) {
        let Some(text) = environment::read(&path)? else {
            continue;
        };
        let wrong = |why: String| Error::Config {
            path: path.clone(),
            why,
        };
        let file: File = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        let requirements = file.requirements(reference);
        if requirements.is_empty() {
            return Err(wrong(
                "an empty list of requirements accepts nothing".to_owned(),
            ));
        }
        if requirements.iter().any(|it| it.kind == "reject") {
            return Err(Error::Rejected {
                name: reference.to_string(),
                path,
            });
        }
        let other = requirements
            .iter()
            .find(|it| it.kind != "insecureAcceptAnything");
        return Ok(match other {
            None => Policy::Anything,
            Some(other) => Policy::Signed(Demand {
                path,
                kind: escaped(other.kind.as_bytes()),
            }),
        });
    }
    Ok(Policy::Anything)
}

impl File {
    /// The requirements of the longest scope that has the image.
    fn requirements(&self, reference: &Reference) -> &[Requirement] {
        let Some(scopes) = self.transports.get("docker") else {
            return &self.default;
        };
        let found = scopes_of(reference)
            .into_iter()
            .find_map(|scope| scopes.get(&scope));
        found.unwrap_or(&self.default)
    }
}

/// The image's name and everything above it: directories, the host, the host's domains, all.
fn scopes_of(reference: &Reference) -> Vec<String> {
    let name = reference.name();
    let mut scopes = vec![reference.to_string()];
    let mut rest = Some(name.as_str());
    while let Some(scope) = rest {
        scopes.push(scope.to_owned());
        rest = scope.rsplit_once('/').map(|(above, _)| above);
    }
    let host = reference.registry.split(':').next().unwrap_or_default();
    let dots = host
        .match_indices('.')
        .map(|(at, _)| format!("*{}", &host[at..]));
    scopes.extend(dots);
    scopes.push(String::new());
    scopes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str, name: &str) -> Result<Policy> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/containers/policy.json");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        demands(&Environment::of_test(dir.path()), &name.parse().unwrap())
    }

    const TEXT: &str = r#"{
        "default": [{"type": "reject"}],
        "transports": {"docker": {
            "docker.io": [{"type": "insecureAcceptAnything"}],
            "docker.io/signed": [{"type": "signedBy", "keyPath": "/k"}],
            "*.lan": [{"type": "insecureAcceptAnything"}],
            "docker.io/signed/but:1": [{"type": "insecureAcceptAnything"}]
        }}
    }"#;

    #[test]
    fn the_longest_scope_decides() {
        for name in [
            "docker.io/library/debian:12",
            "a.b.lan/x:1",
            "docker.io/signed/but:1",
        ] {
            assert_eq!(verdict(TEXT, name).unwrap(), Policy::Anything, "{name}");
        }
        let signed = verdict(TEXT, "docker.io/signed/app:1").unwrap();
        assert!(matches!(signed, Policy::Signed(demand) if demand.kind == "signedBy"));
        let rejected = verdict(TEXT, "other.example/x:1");
        assert!(
            matches!(rejected, Err(Error::Rejected { .. })),
            "{rejected:?}"
        );
    }

    #[test]
    fn no_file_accepts_anything_and_a_broken_one_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let environment = Environment::of_test(dir.path());
        let name = "docker.io/library/x:1".parse().unwrap();
        assert_eq!(demands(&environment, &name).unwrap(), Policy::Anything);
        for text in ["", "{}", r#"{"default": []}"#] {
            let verdict = verdict(text, "docker.io/library/x:1");
            assert!(matches!(verdict, Err(Error::Config { .. })), "{text}");
        }
    }
}
