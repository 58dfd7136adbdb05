//! An image from its registry into the store: index, manifest, configuration, layers, and its name at last.

use sha2::{Digest as _, Sha256};

use crate::client::{Client, Patience};
use crate::config::credentials;
use crate::config::policy::{self, Policy};
use crate::config::registries::Registries;
use crate::document::{self, Document, LIMIT, Manifest, Part};
use crate::download::Download;
use crate::environment::Environment;
use crate::error::{Error, Result};
use crate::reference::{Reference, Version};
use crate::session::Session;
use crate::skopeo;
use crate::store::{ImageInUse, Store};
use rdvm_hostfs::Digest;
use rdvm_hostfs::progress::Progress;
use rdvm_hostfs::units::ByteSize;

/// The depth to which indexes may be nested.
const DEPTH: usize = 4;

/// Fetches images.
pub struct Puller<'a> {
    environment: &'a Environment,
    registries: &'a Registries,
    store: &'a Store,
    patience: Patience,
    progress: Progress,
}

/// A manifest, as it came.
struct Found {
    bytes: Vec<u8>,
    digest: Digest,
    manifest: Manifest,
    /// The digest of the first document, which may be an index.
    source: Digest,
}

impl<'a> Puller<'a> {
    /// Returns one for a store.
    pub fn new(environment: &'a Environment, registries: &'a Registries, store: &'a Store) -> Self {
        Self {
            environment,
            registries,
            store,
            patience: Patience::default(),
            progress: Progress::default(),
        }
    }

    /// Counts the bytes that come as the stage "pulling".
    pub fn with_progress(mut self, progress: &Progress) -> Self {
        self.progress = progress.clone();
        self
    }

    /// Puts up with as much as this.
    #[cfg(test)]
    pub(crate) fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// Fetches the first of several names that a registry has, or what is missing of it here.
    ///
    /// # Errors
    /// The last name's failure: it is not there, not accepted, or does not come; the store cannot be written to.
    pub fn pull(&self, names: &[Reference]) -> Result<ImageInUse> {
        let mut last = Error::Stopped;
        for name in names {
            match self.pull_one(name) {
                Err(error) if error.is_of_server() => last = error,
                result => return result,
            }
        }
        Err(last)
    }

    fn pull_one(&self, name: &Reference) -> Result<ImageInUse> {
        if let Policy::Signed(demand) = policy::demands(self.environment, name)? {
            return skopeo::fetch(self.environment, self.store, name, demand);
        }
        let endpoints = self.registries.endpoints(name)?;
        let client = Client::new(self.environment, self.registries, self.patience);
        // Nothing is removed while blobs come that no image has yet.
        let _lock = self.store.lock_shared()?;
        let mut last = Error::Stopped;
        for endpoint in &endpoints {
            let place = Reference {
                registry: match endpoint.host == crate::docker_hub::HOST {
                    true => crate::docker_hub::REGISTRY.to_owned(),
                    false => endpoint.host.clone(),
                },
                repository: endpoint.repository.clone(),
                version: name.version.clone(),
            };
            let credentials = credentials::of(self.environment, &place)?;
            let session = Session::new(&client, endpoint, name, credentials);
            match self.pull_from(&session, name) {
                Err(error) if error.is_of_server() => last = error,
                result => return result,
            }
        }
        Err(last)
    }

    fn pull_from(&self, session: &Session<'_>, name: &Reference) -> Result<ImageInUse> {
        self.progress.stage("pulling", None);
        let found = self.find(session, name)?;
        let download = Download::new(session, self.store, &self.progress);
        let config = found.manifest.config;
        if !self.store.has_blob(&config) {
            download.fetch(&[config])?;
        }
        let bytes = std::fs::read(self.store.blob(&config.digest))
            .map_err(|error| self.store.failed(error))?;
        document::check_platform(&bytes).map_err(|why| unusable(name, why))?;
        let missing: Vec<Part> = found
            .manifest
            .parts()
            .into_iter()
            .filter(|part| !self.store.has_blob(part))
            .collect();
        let total = missing
            .iter()
            .map(|part| part.size)
            .fold(0, u64::saturating_add);
        self.check_room(name, total)?;
        self.progress.stage("pulling", Some(total));
        download.fetch(&missing)?;
        let part = Part {
            digest: found.digest,
            size: found.bytes.len() as u64,
        };
        self.store.put(&part, &found.bytes)?;
        self.store.add(
            name,
            found.digest,
            found.source,
            document::media_type(&found.bytes),
        )
    }

    /// Goes from a name to a manifest for this platform.
    fn find(&self, session: &Session<'_>, name: &Reference) -> Result<Found> {
        let mut wanted = None;
        let mut source = None;
        for _ in 0..DEPTH {
            let (bytes, digest) = self.document(session, name, wanted)?;
            let source = *source.get_or_insert(digest);
            match Document::parse(&bytes).map_err(|why| unusable(name, why))? {
                Document::Manifest(manifest) => {
                    return Ok(Found {
                        bytes,
                        digest,
                        manifest,
                        source,
                    });
                }
                Document::Index(parts, others) => {
                    let first = parts.first().ok_or_else(|| {
                        let others = others.join(", ");
                        unusable(
                            name,
                            format!("there is none for linux/amd64 in it, only for {others}"),
                        )
                    })?;
                    wanted = Some(*first);
                }
            }
        }
        Err(unusable(
            name,
            format!("its indexes are nested more than {DEPTH} deep"),
        ))
    }

    /// Reads a document, `part` of an index or the one that the name means, and checks it.
    fn document(
        &self,
        session: &Session<'_>,
        name: &Reference,
        part: Option<Part>,
    ) -> Result<(Vec<u8>, Digest)> {
        let version = match part {
            Some(part) => part.digest.to_string(),
            None => name.version.to_string(),
        };
        let path = format!("manifests/{version}");
        let (bytes, answer) = session.document(&path, &document::accepted(), LIMIT)?;
        let found = Digest(Sha256::digest(&bytes).into());
        let announced = answer.headers.get("docker-content-digest");
        let announced = announced.and_then(|header| header.to_str().ok()?.parse().ok());
        let expected = match (&name.version, part) {
            (_, Some(part)) => Some(part.digest),
            (Version::Digest(digest), None) => Some(*digest),
            (Version::Tag(_), None) => announced,
        };
        let host = answer.host;
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(Error::Contents {
                host,
                expected,
                found,
            });
        }
        let size = bytes.len() as u64;
        match part.filter(|part| part.size != size) {
            None => Ok((bytes, found)),
            Some(part) => Err(Error::Size {
                host,
                digest: part.digest,
                expected: part.size,
                found: size,
            }),
        }
    }

    /// Checks that the file system has room for so many bytes.
    fn check_room(&self, name: &Reference, needed: u64) -> Result<()> {
        let Ok(system) = rustix::fs::statvfs(self.store.path()) else {
            return Ok(());
        };
        let available = system.f_bavail.saturating_mul(system.f_frsize);
        match needed <= available {
            true => Ok(()),
            false => Err(Error::Full {
                path: self.store.path().to_owned(),
                name: name.to_string(),
                needed: ByteSize(needed),
                available: ByteSize(available),
            }),
        }
    }
}

fn unusable(name: &Reference, why: String) -> Error {
    Error::Unusable {
        name: name.to_string(),
        why,
    }
}
