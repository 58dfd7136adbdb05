//! Layers → an OCI image layout in a tar archive; with docker's `manifest.json` in it, it is what `docker save` writes.
//!
//! Each layer is written once, right where it stays: its header, which has its digest for a name, is written when its
//! end has been reached. So the file must be one in which any place can be written to. The same layers and settings
//! give the same bytes. Format: OCI image specification, "Image Layout"; docker's is `docker.rs`.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::compress::{Compression, through};
use super::config::{self, ARCHITECTURE, OS, Settings};
use super::header::{BLOCK, Header, Type, pad};
use super::layer::Layer;
use super::tag::Tag;
use super::{Error, docker, tar};
use rdvm_initrd::Epoch;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Which archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OciForm {
    /// The layout alone.
    Oci,
    /// With what `docker load` looks for.
    Docker,
}

/// Everything about an image but its layers.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) form: OciForm,
    pub(super) compression: Compression,
    pub(super) settings: &'a Settings,
    pub(super) tags: &'a [Tag],
    pub(super) epoch: Epoch,
}

/// A blob as manifests refer to it.
#[derive(Debug, Clone, Serialize)]
struct Descriptor {
    #[serde(rename = "mediaType")]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Annotations>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
}

/// The names by which containerd, and everybody else, finds an image in a layout.
#[derive(Debug, Clone, Serialize)]
struct Annotations {
    #[serde(rename = "io.containerd.image.name")]
    name: String,
    #[serde(rename = "org.opencontainers.image.ref.name")]
    tag: String,
}

#[derive(Debug, Clone, Serialize)]
struct Platform {
    architecture: &'static str,
    os: &'static str,
}

#[derive(Serialize)]
struct Manifest {
    #[serde(rename = "schemaVersion")]
    schema_version: u8,
    #[serde(rename = "mediaType")]
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Serialize)]
struct Index {
    #[serde(rename = "schemaVersion")]
    schema_version: u8,
    #[serde(rename = "mediaType")]
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

/// Writes the image to `file`, from its start; gives its length.
///
/// Errors: a file of a layer that cannot be read or changed meanwhile, by name; those of `file`.
pub(super) fn write(layers: &[Layer<'_>], plan: &Plan<'_>, file: &File) -> Result<u64, Error> {
    let media_type = match plan.compression {
        Compression::None => LAYER.to_owned(),
        Compression::Gzip => format!("{LAYER}+gzip"),
        Compression::Zstd => format!("{LAYER}+zstd"),
        Compression::Lz4 | Compression::Lz4Legacy => return Err(Error::Lz4Layer),
    };
    let mut archive = Archive {
        file,
        at: 0,
        blobs: HashSet::new(),
    };
    archive.directory("blobs/")?;
    archive.directory("blobs/sha256/")?;
    let mut diff_ids = Vec::new();
    let mut descriptors = Vec::new();
    for layer in layers {
        let (diff_id, digest, size) = archive.layer(layer, plan)?;
        diff_ids.push(diff_id);
        descriptors.push(descriptor(media_type.clone(), digest, size));
    }
    let config = config::json(plan.settings, &diff_ids, plan.epoch).map_err(json_error)?;
    let config = archive.blob(CONFIG, &config)?;
    let docker = docker::manifest(&config.digest, plan.tags, digests(&descriptors));
    let manifest = json(&Manifest {
        schema_version: 2,
        media_type: MANIFEST,
        config,
        layers: descriptors,
    })?;
    let manifest = archive.blob(MANIFEST, &manifest)?;
    let index = json(&Index {
        schema_version: 2,
        media_type: INDEX,
        manifests: named(&manifest, plan.tags),
    })?;
    archive.file("index.json", &index)?;
    if plan.form == OciForm::Docker {
        archive.file("manifest.json", &docker.map_err(json_error)?)?;
    }
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.append(&[0; 2 * BLOCK])?;
    Ok(archive.at)
}

fn descriptor(media_type: String, digest: String, size: u64) -> Descriptor {
    Descriptor {
        media_type,
        digest,
        size,
        annotations: None,
        platform: None,
    }
}

fn digests(descriptors: &[Descriptor]) -> impl Iterator<Item = &str> {
    descriptors.iter().map(|layer| &*layer.digest)
}

/// The manifest once for each name, or once without.
fn named(manifest: &Descriptor, tags: &[Tag]) -> Vec<Descriptor> {
    let with = |tag: Option<&Tag>| Descriptor {
        annotations: tag.map(|tag| Annotations {
            name: tag.full(),
            tag: tag.tag().to_owned(),
        }),
        platform: Some(Platform {
            architecture: ARCHITECTURE,
            os: OS,
        }),
        ..manifest.clone()
    };
    match tags {
        [] => vec![with(None)],
        tags => tags.iter().map(|tag| with(Some(tag))).collect(),
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(json_error)
}

fn json_error(error: serde_json::Error) -> Error {
    Error::Write {
        source: error.into(),
    }
}

/// A tar archive in the making, and what blobs it has.
struct Archive<'a> {
    file: &'a File,
    /// Its length so far: always whole blocks.
    at: u64,
    blobs: HashSet<String>,
}

impl Archive<'_> {
    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = self.file.write_all_at(bytes, self.at);
        written.map_err(|source| Error::Write { source })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn directory(&mut self, name: &str) -> Result<(), Error> {
        let header = Header {
            kind: Type::Directory,
            mode: 0o755,
            ..Header::of_file(name.as_bytes(), 0)
        };
        self.append(&header.block())
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let mut whole = Header::of_file(name.as_bytes(), bytes.len() as u64)
            .block()
            .to_vec();
        whole.extend_from_slice(bytes);
        pad(&mut whole);
        self.append(&whole)
    }

    fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, Error> {
        let digest = shown(&Sha256::digest(bytes));
        if self.blobs.insert(digest.clone()) {
            self.file(&blob_path(&digest), bytes)?;
        }
        Ok(descriptor(
            media_type.to_owned(),
            digest,
            bytes.len() as u64,
        ))
    }

    /// Writes a layer; gives the digest of its archive, the digest of that compressed, and the compressed length.
    fn layer(
        &mut self,
        layer: &Layer<'_>,
        plan: &Plan<'_>,
    ) -> Result<(String, String, u64), Error> {
        let start = self.at + BLOCK as u64;
        let mut blob = Hashed::new(At {
            file: self.file,
            offset: start,
        });
        let diff_id = through(plan.compression, &mut blob, |out| match plan.compression {
            Compression::None => tar::write(layer, plan.epoch, out).map(|()| None),
            _ => {
                let mut diff = Hashed::new(out);
                tar::write(layer, plan.epoch, &mut diff)?;
                Ok(Some(diff.digest()))
            }
        })?;
        let size = blob.inner.offset - start;
        let digest = blob.digest();
        // What is there already is written over by what comes next.
        if self.blobs.insert(digest.clone()) {
            self.append(&Header::of_file(blob_path(&digest).as_bytes(), size).block())?;
            self.at += size;
            let padding = size.next_multiple_of(BLOCK as u64) - size;
            self.append(&[0; BLOCK][..padding as usize])?;
        }
        Ok((diff_id.unwrap_or_else(|| digest.clone()), digest, size))
    }
}

/// `sha256:` and the digest in hexadecimal.
fn shown(digest: &[u8]) -> String {
    let digits = digest.iter().map(|byte| format!("{byte:02x}"));
    format!("sha256:{}", digits.collect::<String>())
}

/// Where in an archive the blob of this digest is.
pub(super) fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// A file from some place on.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Write for At<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write_at(bytes, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream whose bytes are summed up on their way.
struct Hashed<W> {
    inner: W,
    sum: Sha256,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            sum: Sha256::new(),
        }
    }

    fn digest(self) -> String {
        shown(&self.sum.finalize())
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.sum.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
