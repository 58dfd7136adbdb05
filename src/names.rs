//! Images by name: `docker://NAME` and `NAME:TAG`, from the local store, else from their registry; and what rdvm.lock says of
//! them.
//!
//! The crate `rdvm-registry` does the work. Here is where rdvm keeps its store, and how a name becomes the file that the stages
//! after it read.

use std::path::{Path, PathBuf};

use crate::request::{Expectation, Format, ImageRef};
use crate::trust::{self, lock};
use rdvm_hostfs::escape::{escaped, shown};
use rdvm_hostfs::progress::Progress;
use rdvm_hostfs::units::ByteSize;
use rdvm_image::reference::Stored;
use rdvm_kernel::Search;
use rdvm_registry::{
    BadName, Environment, ImageInUse, ImageName, Puller, Reference, Registries, Store, TRANSPORT,
};

/// The variable with the most bytes that the store keeps.
const LIMIT_VARIABLE: &str = "RDVM_STORE_LIMIT";
/// The most bytes without it.
const LIMIT: ByteSize = ByteSize(32 << 30);

/// The occasions on which a registry is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// The image is not in the store.
    #[default]
    Missing,
    /// Each time.
    Always,
    /// None.
    Never,
}

/// A name that leads to no image.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
#[non_exhaustive]
pub enum Error {
    /// It is none.
    #[error("{}: {source}", escaped(name.as_bytes()))]
    Name { name: String, source: BadName },
    /// There is no place for images.
    #[error("no cache directory; set RDVM_CACHE, XDG_CACHE_HOME or HOME")]
    NoCache,
    /// The limit is none.
    #[error("{LIMIT_VARIABLE}: \"{}\" is not a size; write one as in 32g", escaped(value.as_bytes()))]
    Limit { value: String },
    /// It is not in the store, and may not be pulled.
    #[error("{name}: is not in the local store; rdvm pull {name} fetches it")]
    NotHere { name: String },
    /// An option for files.
    #[error("{name}: {option} is about files; leave it out")]
    OfFiles { name: String, option: &'static str },
    /// The registry or the store.
    #[error(transparent)]
    Registry(#[from] rdvm_registry::Error),
    /// The lock file.
    #[error(transparent)]
    Lock(#[from] trust::Error),
}

/// Returns the image that an argument names, where it is not a file: with `docker://`, a tag, a digest or a port.
///
/// # Errors
/// It begins with `docker://`, and is no name.
pub(crate) fn name_in(word: &Path) -> Result<Option<ImageName>, Error> {
    let Some(text) = word.to_str().filter(|text| text.contains([':', '@'])) else {
        return Ok(None);
    };
    if word.symlink_metadata().is_ok() {
        return Ok(None);
    }
    match text.parse() {
        Ok(name) => Ok(Some(name)),
        Err(source) if text.starts_with(TRANSPORT) => Err(Error::Name {
            name: text.to_owned(),
            source,
        }),
        Err(_) => Ok(None),
    }
}

/// Returns the name in an argument of a verb that takes names only.
///
/// # Errors
/// It is none.
pub fn parse(text: &str) -> Result<ImageName, Error> {
    text.parse().map_err(|source| Error::Name {
        name: text.to_owned(),
        source,
    })
}

/// Puts the image in the store in the place of a name, after a pull if `policy` wants one. Files are left as they are. Returns
/// a line about what was pulled.
///
/// # Errors
/// There is no such image, or it cannot be had.
pub fn resolve(
    image: &mut ImageRef,
    policy: PullPolicy,
    progress: &Progress,
) -> Result<Option<String>, Error> {
    let Some(name) = name_in(&image.path)? else {
        return Ok(None);
    };
    let wrong_option = match (&image.format, &image.tag) {
        (Some(format), _) if *format != Format::Oci => Some("--format"),
        (_, Some(_)) => Some("--tag"),
        _ => None,
    };
    if let Some(option) = wrong_option {
        return Err(Error::OfFiles {
            name: shown(&image.path),
            option,
        });
    }
    let images = Images::open()?;
    let mut names = images.registries.candidates(&name)?;
    let asked = names.clone();
    if image.expect == Expectation::Lock {
        names = locked(names)?;
    }
    let (used, line) = images.get(&names, policy, progress)?;
    // The name that was asked for, whatever digest it has led to.
    let found = used.image.name.as_str();
    let is_it = |name: &&Reference| name.to_string() == found;
    let name_asked = asked
        .iter()
        .find(is_it)
        .or(asked.first())
        .map_or(found.to_owned(), ToString::to_string);
    image.path = images.store.path().to_owned();
    image.format = Some(Format::Oci);
    image.tag = Some(used.image.manifest.to_string());
    image.stored = Some(Stored {
        name: name_asked,
        digest: used.image.manifest,
        _in_use: used.lock,
    });
    Ok(line)
}

/// Resolves the images of several steps, of which the last with a name has the expectations that count for it.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_all(
    images: &mut [ImageRef],
    policy: PullPolicy,
    progress: &Progress,
) -> Result<Vec<String>, Error> {
    let mut resolved: Vec<(PathBuf, ImageRef)> = Vec::new();
    let mut lines = Vec::new();
    for image in images.iter_mut().rev() {
        let path = image.path.clone();
        if let Some((_, known)) = resolved.iter().find(|(known, _)| *known == path) {
            image.path = known.path.clone();
            (image.format, image.tag) = (known.format, known.tag.clone());
            image.stored = known.stored.clone();
        } else {
            lines.extend(resolve(image, policy, progress)?);
            resolved.push((path, image.clone()));
        }
    }
    Ok(lines)
}

/// Returns the first name that the lock file has, with the digest there, else all of them.
fn locked(names: Vec<Reference>) -> Result<Vec<Reference>, Error> {
    for name in names.iter().filter(|name| name.digest().is_none()) {
        if let Some(digest) = lock::digest_of_name(name)? {
            return Ok(vec![name.at_digest(digest)]);
        }
    }
    Ok(names)
}

/// The store of this user's images, and the surroundings that they are pulled in.
pub struct Images {
    /// The images that are here.
    pub store: Store,
    /// The meaning of names.
    pub registries: Registries,
    environment: Environment,
    limit: ByteSize,
}

impl Images {
    /// Opens the store below the cache directory.
    ///
    /// # Errors
    /// There is no such directory; a configuration file cannot be used.
    pub fn open() -> Result<Self, Error> {
        let environment = Environment::of_process();
        let directory = directory().ok_or(Error::NoCache)?;
        let limit = match std::env::var(LIMIT_VARIABLE) {
            Ok(value) => value.parse().map_err(|_| Error::Limit { value })?,
            Err(_) => LIMIT,
        };
        Ok(Self {
            store: Store::open(&directory)?,
            registries: Registries::read(&environment)?,
            environment,
            limit,
        })
    }

    /// Returns the first of several names that is an image here, or is pulled, and a line about what was pulled.
    ///
    /// # Errors
    /// None is, and none can be pulled.
    pub fn get(
        &self,
        names: &[Reference],
        policy: PullPolicy,
        progress: &Progress,
    ) -> Result<(ImageInUse, Option<String>), Error> {
        if policy != PullPolicy::Always {
            for name in names {
                if let Some(found) = self.store.take(name)? {
                    return Ok((found, None));
                }
            }
        }
        if policy == PullPolicy::Never {
            let name = names.first().map(ToString::to_string);
            return Err(Error::NotHere {
                name: name.unwrap_or_default(),
            });
        }
        let puller =
            Puller::new(&self.environment, &self.registries, &self.store).with_progress(progress);
        let pulled = puller.pull(names)?;
        self.store
            .shrink(self.limit, Some(&pulled.image.manifest))?;
        let line = format!("pulled {}, {}", pulled.image.name, pulled.image.size);
        Ok((pulled, Some(line)))
    }
}

/// Returns the directory of the store, if there is a cache directory.
fn directory() -> Option<PathBuf> {
    Some(Search::from_env().cache?.join("oci"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_name_where_it_has_a_tag_and_there_is_no_such_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a:b");
        std::fs::write(&file, "").unwrap();
        for (word, is_name) in [
            ("debian:12", true),
            ("docker://debian", true),
            ("localhost:5000/app", true),
            ("debian", false),
            ("debian.tar", false),
            ("./debian:12", false),
            ("oci-Archive:x", false),
            ("-", false),
            (file.to_str().unwrap(), false),
        ] {
            let name = name_in(Path::new(word)).unwrap();
            assert_eq!(name.is_some(), is_name, "{word}");
        }
        let error = name_in(Path::new("docker://Debian")).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("docker://Debian: not an image's name")
        );
    }
}
