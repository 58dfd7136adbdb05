//! Manifests and indexes of registries: what they refer to, checked before anything is fetched.

use serde::Deserialize;

use rdvm_hostfs::Digest;
use rdvm_hostfs::escape::escaped;
use rdvm_image::manifest::{self, Descriptor};

/// The longest manifest, index or configuration in bytes. Readers of images take no longer ones.
pub(crate) const LIMIT: u64 = 4 << 20;
/// The most layers; docker's limit.
pub(crate) const LAYERS: usize = 127;
/// The most manifests of an index.
const MANIFESTS: usize = 4096;

/// docker's media types beside OCI's.
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// A document, as far as it matters.
#[derive(Debug)]
pub(crate) enum Document {
    /// The manifests for this platform, the best first.
    Index(Vec<Part>, Vec<String>),
    /// One image.
    Manifest(Manifest),
}

/// The parts of an image.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Part,
    pub(crate) layers: Vec<Part>,
}

/// A blob with its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    #[serde(default)]
    schema_version: u64,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

/// The media types that are asked for.
pub(crate) fn accepted() -> String {
    [
        manifest::INDEX,
        manifest::MANIFEST,
        DOCKER_INDEX,
        DOCKER_MANIFEST,
    ]
    .join(", ")
}

impl Document {
    /// Reads a document.
    ///
    /// # Errors
    /// Why it is no image that can be fetched.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let fields: Fields =
            serde_json::from_slice(bytes).map_err(|error| escaped(error.to_string().as_bytes()))?;
        match fields {
            Fields {
                manifests: Some(manifests),
                config: None,
                layers: None,
                ..
            } => {
                if manifests.len() > MANIFESTS {
                    return Err(format!("has more than {MANIFESTS} manifests"));
                }
                let (found, others) = manifest::for_this_platform(&manifests);
                let parts: Result<_, String> = found.into_iter().map(Part::of).collect();
                Ok(Self::Index(parts?, others))
            }
            Fields {
                manifests: None,
                config: Some(config),
                layers,
                ..
            } => Manifest::new(&config, &layers.unwrap_or_default()).map(Self::Manifest),
            Fields {
                manifests: Some(_), ..
            } => Err("is an index and a manifest at once".to_owned()),
            Fields {
                schema_version: 1, ..
            } => Err(
                "is a manifest of docker's version 1, which nothing checks; push the image again"
                    .to_owned(),
            ),
            _ => Err("is neither a manifest nor an index".to_owned()),
        }
    }
}

impl Manifest {
    fn new(config: &Descriptor, layers: &[Descriptor]) -> Result<Self, String> {
        let kind = config.media_type.as_deref().unwrap_or_default();
        if !["", manifest::CONFIG, DOCKER_CONFIG].contains(&kind) {
            return Err(format!(
                "is not a container image but {}",
                escaped(kind.as_bytes())
            ));
        }
        if layers.len() > LAYERS {
            return Err(format!(
                "has {} layers, and {LAYERS} is the limit",
                layers.len()
            ));
        }
        let foreign = |layer: &&Descriptor| {
            let kind = layer.media_type.as_deref().unwrap_or_default();
            kind.contains(".foreign.") || kind.contains(".nondistributable.")
        };
        if let Some(layer) = layers.iter().find(foreign) {
            return Err(format!(
                "has a layer that is to be had elsewhere only, {}",
                escaped(layer.digest.as_bytes())
            ));
        }
        let config = Part::of(config)?;
        if config.size > LIMIT {
            return Err(format!(
                "has a configuration of {} bytes, and {LIMIT} is the limit",
                config.size
            ));
        }
        let layers: Result<Vec<Part>, String> = layers.iter().map(Part::of).collect();
        Ok(Self {
            config,
            layers: layers?,
        })
    }

    /// Returns the configuration and the layers, each once.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::with_capacity(1 + self.layers.len());
        for part in std::iter::once(&self.config).chain(&self.layers) {
            if !parts.iter().any(|known| known.digest == part.digest) {
                parts.push(*part);
            }
        }
        parts
    }
}

impl Part {
    fn of(descriptor: &Descriptor) -> Result<Self, String> {
        let digest = descriptor.digest.parse();
        let digest = digest.map_err(|_| {
            format!(
                "has a digest that is not checked, {}",
                escaped(descriptor.digest.as_bytes())
            )
        })?;
        match descriptor.size <= i64::MAX as u64 {
            true => Ok(Self {
                digest,
                size: descriptor.size,
            }),
            false => Err("has a part of a length that no file has".to_owned()),
        }
    }
}

/// Returns the media type of a manifest, as an index names it.
pub(crate) fn media_type(bytes: &[u8]) -> &'static str {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Kind {
        media_type: Option<String>,
    }
    let kind: Option<Kind> = serde_json::from_slice(bytes).ok();
    match kind.and_then(|kind| kind.media_type).as_deref() {
        Some(DOCKER_MANIFEST) => DOCKER_MANIFEST,
        _ => manifest::MANIFEST,
    }
}

/// Checks that a configuration is for this platform.
///
/// # Errors
/// The platform that it is for.
pub(crate) fn check_platform(config: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Platform {
        #[serde(default)]
        os: String,
        #[serde(default)]
        architecture: String,
    }
    let config: Platform = serde_json::from_slice(config).map_err(|error| {
        format!(
            "its configuration: {}",
            escaped(error.to_string().as_bytes())
        )
    })?;
    match manifest::other_platform(&config.os, &config.architecture) {
        None => Ok(()),
        Some(other) => Err(format!(
            "is for {} only; name an image for {}/{}",
            escaped(other.as_bytes()),
            manifest::OS,
            manifest::ARCHITECTURE
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> String {
        format!("sha256:{}", format!("{n:02x}").repeat(32))
    }

    fn manifest(layers: usize) -> String {
        let layer = |n: usize| {
            format!(
                r#"{{"mediaType":"x.tar","digest":"{}","size":{n}}}"#,
                digest(n as u8)
            )
        };
        let layers: Vec<String> = (0..layers).map(layer).collect();
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{}","size":2}},"layers":[{}]}}"#,
            manifest::CONFIG,
            digest(255),
            layers.join(",")
        )
    }

    #[test]
    fn a_manifests_parts_are_listed_once() {
        let text = manifest(3).replace(&digest(1), &digest(0));
        let Ok(Document::Manifest(found)) = Document::parse(text.as_bytes()) else {
            panic!("{text}");
        };
        assert_eq!(found.layers.len(), 3);
        assert_eq!(found.parts().len(), 3);
    }

    #[test]
    fn an_index_lists_what_can_run_here_the_plainest_first() {
        let one = |n: u8, platform: &str| {
            format!(
                r#"{{"digest":"{}","size":1,"platform":{platform}}}"#,
                digest(n)
            )
        };
        let text = format!(
            r#"{{"manifests":[{},{},{},{}]}}"#,
            one(1, r#"{"os":"linux","architecture":"arm64"}"#),
            one(2, r#"{"os":"linux","architecture":"amd64","variant":"v3"}"#),
            one(3, r#"{"os":"linux","architecture":"amd64"}"#),
            one(4, r#"{"os":"unknown","architecture":"unknown"}"#)
        );
        let Ok(Document::Index(found, others)) = Document::parse(text.as_bytes()) else {
            panic!("{text}");
        };
        let digests: Vec<String> = found.iter().map(|part| part.digest.to_string()).collect();
        assert_eq!(digests, [digest(3), digest(2)]);
        assert_eq!(others, ["linux/arm64"]);
    }

    #[test]
    fn what_cannot_be_fetched_is_refused() {
        let good = manifest(1);
        for (text, why) in [
            (manifest(128), "has 128 layers, and 127 is the limit"),
            (manifest(1000), "has 1000 layers, and 127 is the limit"),
            (
                good.replace(manifest::CONFIG, "helm"),
                "is not a container image but helm",
            ),
            (good.replace("x.tar", "a.foreign.tar"), "elsewhere only"),
            (
                good.replace(&digest(0), "sha256:../../x"),
                "a digest that is not checked, sha256:../../x",
            ),
            (
                good.replace("\"size\":2", "\"size\":99999999"),
                "a configuration of 99999999 bytes",
            ),
            (
                good.replace("\"size\":0", "\"size\":18446744073709551615"),
                "no file has",
            ),
            (good.replace("\"size\":0", "\"size\":-1"), "invalid value"),
            (
                good.replacen('{', r#"{"manifests":[],"#, 1),
                "an index and a manifest at once",
            ),
            (r#"{"schemaVersion":1}"#.to_owned(), "docker's version 1"),
            ("{}".to_owned(), "neither"),
            (format!("{{\"x\":{}", "[".repeat(100_000)), "EOF"),
        ] {
            let error = Document::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_configuration_names_its_platform() {
        check_platform(br#"{"os":"linux","architecture":"amd64"}"#).unwrap();
        check_platform(b"{}").unwrap();
        let error = check_platform(br#"{"os":"windows","architecture":"amd64"}"#).unwrap_err();
        assert!(error.starts_with("is for windows/amd64 only"), "{error}");
        assert!(check_platform(b"").is_err());
    }
}
