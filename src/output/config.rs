//! The program that a container of the image runs, and the configuration that holds it.
//!
//! Takes what the options said, typed; returns JSON, the same bytes for the same options. Format: OCI image
//! specification, "Image Configuration", which docker's own is a superset of.

use std::collections::BTreeMap;

use serde::Serialize;

use rdvm_hostfs::Digest;
use rdvm_hostfs::civil::timestamp;
use rdvm_image::config::{self, Config};
use rdvm_image::manifest::{ARCHITECTURE, OS};
use rdvm_initrd::Epoch;

/// The settings of the options; `None` and empty lists leave the image's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Program and first arguments. Setting it drops the image's own command, as docker does.
    pub entrypoint: Option<Vec<String>>,
    /// The arguments that follow, or the program and its arguments where there is no entry point.
    pub cmd: Option<Vec<String>>,
    /// `NAME=VALUE`, later ones win.
    pub env: Vec<String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// `USER[:GROUP]`, numbers or names.
    pub user: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl From<&Config> for Settings {
    /// Returns the settings of an image that was read.
    fn from(config: &Config) -> Self {
        let some = |words: &Vec<String>| (!words.is_empty()).then(|| words.clone());
        Self {
            entrypoint: some(&config.entrypoint),
            cmd: some(&config.cmd),
            env: config.env.clone(),
            workdir: config.workdir.clone(),
            user: config.user.as_ref().map(ToString::to_string),
            labels: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// Returns these settings on top of `image`'s own.
    pub(crate) fn over(self, image: Self) -> Self {
        let (entrypoint, cmd) =
            config::over((self.entrypoint, self.cmd), (image.entrypoint, image.cmd));
        let mut labels = image.labels;
        labels.extend(self.labels);
        Self {
            entrypoint,
            cmd,
            env: image.env.into_iter().chain(self.env).collect(),
            workdir: self.workdir.or(image.workdir),
            user: self.user.or(image.user),
            labels,
        }
    }
}

#[derive(Serialize)]
struct Image<'a> {
    created: &'a str,
    architecture: &'a str,
    os: &'a str,
    config: Run<'a>,
    rootfs: RootFs<'a>,
    history: Vec<Step<'a>>,
}

#[derive(Serialize)]
struct Run<'a> {
    #[serde(rename = "User", skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(rename = "Env", skip_serializing_if = "Vec::is_empty")]
    env: Vec<&'a str>,
    #[serde(rename = "Entrypoint", skip_serializing_if = "<[_]>::is_empty")]
    entrypoint: &'a [String],
    #[serde(rename = "Cmd", skip_serializing_if = "<[_]>::is_empty")]
    cmd: &'a [String],
    #[serde(rename = "WorkingDir", skip_serializing_if = "Option::is_none")]
    workdir: Option<&'a str>,
    #[serde(rename = "Labels", skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct RootFs<'a> {
    r#type: &'a str,
    diff_ids: &'a [Digest],
}

#[derive(Serialize)]
struct Step<'a> {
    created: &'a str,
    created_by: &'a str,
}

/// The configuration as JSON. `diff_ids` are the digests of the uncompressed layers, lowest first.
///
/// # Errors
/// None that these types can have.
pub(super) fn json(
    settings: &Settings,
    diff_ids: &[Digest],
    epoch: Epoch,
) -> serde_json::Result<Vec<u8>> {
    let created = timestamp(epoch.0.into());
    let step = |_| Step {
        created: &created,
        created_by: "rdvm pack",
    };
    serde_json::to_vec(&Image {
        created: &created,
        architecture: ARCHITECTURE,
        os: OS,
        config: Run {
            user: settings.user.as_deref(),
            env: config::last_of_each(settings.env.iter().map(String::as_str)),
            entrypoint: settings.entrypoint.as_deref().unwrap_or_default(),
            cmd: settings.cmd.as_deref().unwrap_or_default(),
            workdir: settings.workdir.as_deref(),
            labels: &settings.labels,
        },
        rootfs: RootFs {
            r#type: "layers",
            diff_ids,
        },
        history: diff_ids.iter().map(step).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_go_before_the_image_and_an_entry_point_drops_its_command() {
        let words = |words: &[&str]| Some(words.iter().map(|&word| word.to_owned()).collect());
        let image = Settings {
            entrypoint: words(&["/old"]),
            cmd: words(&["serve"]),
            env: vec!["A=1".into(), "B=2".into()],
            ..Settings::default()
        };
        let over = |settings: Settings| settings.over(image.clone());
        assert_eq!(over(Settings::default()), image);
        let entry = over(Settings {
            entrypoint: words(&["/new"]),
            env: vec!["A=3".into(), "AB=4".into(), "A=5".into()],
            ..Settings::default()
        });
        assert_eq!(
            (entry.entrypoint.clone(), entry.cmd.clone()),
            (words(&["/new"]), None)
        );
        let variables = config::last_of_each(entry.env.iter().map(String::as_str));
        assert_eq!(variables, ["A=5", "B=2", "AB=4"]);
        let cmd = over(Settings {
            cmd: words(&["check"]),
            ..Settings::default()
        });
        assert_eq!(
            (cmd.entrypoint, cmd.cmd),
            (words(&["/old"]), words(&["check"]))
        );
    }

    #[test]
    fn what_is_not_set_is_not_there() {
        let json = json(&Settings::default(), &[Digest([0x11; 32])], Epoch(0)).unwrap();
        let digest = format!("sha256:{}", "1".repeat(64));
        assert_eq!(
            String::from_utf8(json)
                .unwrap()
                .replace(&digest, "sha256:1"),
            "{\"created\":\"1970-01-01T00:00:00Z\",\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{},\
             \"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:1\"]},\
             \"history\":[{\"created\":\"1970-01-01T00:00:00Z\",\"created_by\":\"rdvm pack\"}]}"
        );
    }
}
