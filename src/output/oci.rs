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
use sha2::{Digest as _, Sha256};

use super::compress::{Compression, through};
use super::config::{self, Settings};
use super::header::{BLOCK, Header, Type, pad};
use super::layer::Layer;
use super::tag::Tag;
use super::{Error, docker, tar};
use rdvm_hostfs::Digest;
use rdvm_image::manifest::{
    ARCHITECTURE, CONFIG, Descriptor, INDEX, LAYER, MANIFEST, NAMES, OS, Platform, blob_path,
};
use rdvm_initrd::Epoch;

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

/// Writes the image to `file`, from its start; returns its length.
///
/// # Errors
/// A file of a layer that cannot be read or changed meanwhile, by name; those of `file`.
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
    let mut digests = Vec::new();
    let mut descriptors = Vec::new();
    for layer in layers {
        let (diff_id, digest, size) = archive.layer(layer, plan)?;
        diff_ids.push(diff_id);
        digests.push(digest);
        descriptors.push(descriptor(&media_type, &digest, size));
    }
    let config = config::json(plan.settings, &diff_ids, plan.epoch).map_err(json_error)?;
    let config = archive.blob(&config)?;
    let docker = docker::manifest(&config.0, plan.tags, &digests);
    let manifest = json(&Manifest {
        schema_version: 2,
        media_type: MANIFEST,
        config: descriptor(CONFIG, &config.0, config.1),
        layers: descriptors,
    })?;
    let manifest = archive.blob(&manifest)?;
    let manifest = descriptor(MANIFEST, &manifest.0, manifest.1);
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

fn descriptor(media_type: &str, digest: &Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: Some(media_type.to_owned()),
        digest: digest.to_string(),
        size,
        annotations: None,
        platform: None,
    }
}

/// The manifest once for each name, or once without.
fn named(manifest: &Descriptor, tags: &[Tag]) -> Vec<Descriptor> {
    let with = |tag: Option<&Tag>| Descriptor {
        annotations: tag.map(|tag| {
            let names = [tag.full(), tag.tag().to_owned()];
            NAMES.map(str::to_owned).into_iter().zip(names).collect()
        }),
        platform: Some(Platform {
            architecture: ARCHITECTURE.to_owned(),
            os: OS.to_owned(),
            variant: None,
            os_features: None,
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
    blobs: HashSet<Digest>,
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

    /// Writes a blob that is not there yet; returns its digest and length.
    fn blob(&mut self, bytes: &[u8]) -> Result<(Digest, u64), Error> {
        let digest = Digest(Sha256::digest(bytes).into());
        if self.blobs.insert(digest) {
            self.file(&blob_path(&digest), bytes)?;
        }
        Ok((digest, bytes.len() as u64))
    }

    /// Writes a layer; returns the digest of its archive, the digest of that compressed, and the compressed length.
    fn layer(
        &mut self,
        layer: &Layer<'_>,
        plan: &Plan<'_>,
    ) -> Result<(Digest, Digest, u64), Error> {
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
        if self.blobs.insert(digest) {
            self.append(&Header::of_file(blob_path(&digest).as_bytes(), size).block())?;
            self.at += size;
            let padding = size.next_multiple_of(BLOCK as u64) - size;
            self.append(&[0; BLOCK][..padding as usize])?;
        }
        Ok((diff_id.unwrap_or(digest), digest, size))
    }
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

    fn digest(self) -> Digest {
        Digest(self.sum.finalize().into())
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
