//! The layers of an image: unpacked and checked by two threads, applied in order.
//!
//! An uncompressed layer stays where it is. Knows neither docker nor OCI, only regions and what their digests have to
//! be.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use sha2::{Digest as _, Sha256};

use super::blobs::{ParseError, check, unreadable};
use super::byte_source::Region;
use super::config::Config;
use super::fs::{FileSystem, Rules};
use super::limit::{Budget, Counter};
use super::stream::{self, Compression, RegionReader};
use super::{Error, start_of, tar};
use rdvm_hostfs::Digest;
use rdvm_hostfs::progress::Progress;

/// The most layers an image may have; docker's limit is 127.
pub(super) const LIMIT: usize = 1024;
/// Threads that unpack and check, as many as this project's machines have at least.
const WORKERS: usize = 2;
/// Bytes that are read and hashed at a time.
const PIECE: usize = 256 << 10;

/// An image before its layers are read.
#[derive(Debug, Clone)]
pub(super) struct LayeredImage {
    /// The configuration that it is run with.
    pub(super) config: Config,
    /// The manifest's digest, where there is a manifest with one.
    pub(super) manifest: Option<Digest>,
    /// The configuration's digest.
    pub(super) id: Digest,
    /// From the lowest on.
    pub(super) layers: Vec<Layer>,
}

/// A layer before it is read.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    /// Its name in the archive.
    pub(super) name: String,
    /// Where it is.
    pub(super) region: Region,
    /// The digest of what is there, if it is known.
    pub(super) digest: Option<Digest>,
    /// The digest of what it unpacks to, if it is known.
    pub(super) diff_id: Option<Digest>,
}

/// A layer that was applied, for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFacts {
    /// The digest of what is in the archive, compressed or not, if the archive names it so.
    pub digest: Option<Digest>,
    /// The digest of the tar archive that it is.
    pub diff_id: Digest,
    /// Its length in the archive in bytes.
    pub size: u64,
    /// The number of its members.
    pub members: u64,
}

/// True if a manifest's layers and a configuration's digests can belong together.
///
/// # Errors
/// Not as many, or too many.
pub(super) fn check_count(layers: usize, diff_ids: usize) -> Result<(), ParseError> {
    if layers > LIMIT {
        return Err(ParseError::TooManyLayers {
            layers,
            limit: LIMIT,
        });
    }
    match layers == diff_ids {
        true => Ok(()),
        false => Err(ParseError::LayerCount { layers, diff_ids }),
    }
}

/// Unpacks, checks and applies `layers` to `system`, in order.
///
/// `shown` is the archive in messages, escaped. Gives what is known of each layer, and where its members' contents are.
///
/// # Errors
/// The first layer, by order, that cannot be read, does not match its digests, or cannot be applied.
pub(super) fn apply(
    layers: &[Layer],
    system: &mut FileSystem,
    shown: &str,
    budget: &Budget,
    members: &Counter,
) -> Result<Vec<(LayerFacts, Region)>, Error> {
    let total = layers.iter().map(|layer| layer.region.length).sum();
    budget.progress.stage("reading", Some(total));
    let first = first_of_each(layers);
    let next = AtomicUsize::new(0);
    let stopped = AtomicBool::new(false);
    let work = |sender: mpsc::Sender<_>| {
        while !stopped.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(layer) = layers.get(index) else {
                return;
            };
            if first[index] == index {
                // The receiver only leaves after a failure.
                let _ = sender.send((index, load(layer, shown, budget)));
            }
        }
    };
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..WORKERS.min(layers.len()) {
            let sender = sender.clone();
            scope.spawn(|| work(sender));
        }
        drop(sender);
        let mut loaded = BTreeMap::new();
        let mut applied: Vec<(LayerFacts, Region)> = Vec::with_capacity(layers.len());
        for (index, result) in receiver {
            loaded.insert(index, result);
            while let Some(&same) = first.get(applied.len()) {
                let result = match applied.get(same) {
                    // Listed again: it was read and checked then.
                    Some((facts, region)) => Ok((region.clone(), facts.diff_id)),
                    None => match loaded.remove(&same) {
                        Some(result) => result,
                        None => break,
                    },
                };
                let number = applied.len() + 1;
                let layer = &layers[applied.len()];
                let done = result.and_then(|(region, diff_id)| {
                    let put = put(&region, system, members);
                    let (members, end) = put.map_err(|source| Error::Layer {
                        number,
                        count: layers.len(),
                        source: Box::new(source),
                    })?;
                    if layer.diff_id.is_none() {
                        // Nothing else shows that it is whole.
                        let warning = end.warning(&named(shown, &layer.name));
                        system.warnings.extend(warning);
                    }
                    Ok((members, region, diff_id))
                });
                let (members, region, diff_id) = done.inspect_err(|_| {
                    stopped.store(true, Ordering::Relaxed);
                })?;
                let facts = LayerFacts {
                    digest: layer.digest,
                    diff_id,
                    size: layer.region.length,
                    members,
                };
                applied.push((facts, region));
            }
        }
        Ok(applied)
    })
}

/// For each layer the place of the first that is the same bytes with the same digests: layers may be listed twice.
fn first_of_each(layers: &[Layer]) -> Vec<usize> {
    let mut seen = HashMap::new();
    let key = |layer: &Layer| {
        let region = &layer.region;
        let store = Arc::as_ptr(&region.store) as usize;
        let digests = [layer.digest, layer.diff_id].map(|digest| digest.map(|digest| digest.0));
        (store, region.offset, region.length, digests)
    };
    let layers = layers.iter().enumerate();
    layers
        .map(|(index, layer)| *seen.entry(key(layer)).or_insert(index))
        .collect()
}

/// Applies one layer's members; returns how many there are and how the layer ends.
fn put(
    region: &Region,
    system: &mut FileSystem,
    members: &Counter,
) -> Result<(u64, tar::End), Error> {
    system.begin_layer(Rules::Layer);
    let mut count = 0;
    let end = tar::read(region, members, &mut |member| {
        count += 1;
        system.put(member).map_err(|source| Error::Member {
            shown: region.store.shown().to_owned(),
            source,
        })
    })?;
    Ok((count, end))
}

/// A layer's name in messages.
fn named(shown: &str, name: &str) -> String {
    format!("{shown}: {}", rdvm_hostfs::escape::escaped(name.as_bytes()))
}

/// The tar archive that a layer is, with all digests checked, and its own digest.
fn load(layer: &Layer, shown: &str, budget: &Budget) -> Result<(Region, Digest), Error> {
    let Layer {
        name,
        region,
        digest,
        diff_id,
    } = layer;
    let flawed = |flaw| Error::Bundle {
        shown: shown.to_owned(),
        flaw: Box::new(flaw),
    };
    let start = start_of(region).map_err(unreadable(name)).map_err(flawed)?;
    let compression = stream::compression(&start);
    if compression == Compression::None {
        let found = hash(region, &budget.progress)
            .map_err(unreadable(name))
            .map_err(flawed)?;
        if let Some(digest) = digest {
            check(name, *digest, found).map_err(flawed)?;
        }
        check_diff_id(name, *diff_id, found).map_err(flawed)?;
        return Ok((region.clone(), found));
    }
    let mut input = Hashing {
        reader: RegionReader::new(region.clone()),
        progress: &budget.progress,
        // Without a promised digest none is computed.
        sum: digest.map(|_| Sha256::new()),
    };
    let mut sum = Sha256::new();
    let what = named(shown, name);
    let unpacked = stream::unpack(&mut input, compression, &what, budget, &mut |bytes| {
        sum.update(bytes);
    });
    if let (Some(digest), Some(sum)) = (digest, input.finish().map_err(Error::read(&what))?) {
        // Damage is told by the digest before the decoder gets to say what it looked like.
        check(name, *digest, sum).map_err(flawed)?;
    }
    let region = Region::whole(Arc::new(unpacked?));
    let start = start_of(&region)
        .map_err(unreadable(name))
        .map_err(flawed)?;
    if stream::compression(&start) != Compression::None {
        return Err(flawed(ParseError::Nested { name: name.clone() }));
    }
    let found = Digest(sum.finalize().into());
    check_diff_id(name, *diff_id, found).map_err(flawed)?;
    Ok((region, found))
}

fn check_diff_id(name: &str, expected: Option<Digest>, found: Digest) -> Result<(), ParseError> {
    match expected {
        None => Ok(()),
        Some(expected) if expected == found => Ok(()),
        Some(expected) => Err(ParseError::DiffId {
            name: name.to_owned(),
            expected,
            found,
        }),
    }
}

/// The digest of a region.
fn hash(region: &Region, progress: &Progress) -> Result<Digest, rustix::io::Errno> {
    let mut sum = Sha256::new();
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    while at < region.length {
        let count = (region.length - at).min(PIECE as u64) as usize;
        region.read_exact(at, &mut piece[..count])?;
        sum.update(&piece[..count]);
        progress.add(count as u64);
        at += count as u64;
    }
    Ok(Digest(sum.finalize().into()))
}

/// Hashes what is read through it.
struct Hashing<'a, R> {
    reader: R,
    progress: &'a Progress,
    sum: Option<Sha256>,
}

impl<R: Read> Read for Hashing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.progress.add(count as u64);
        if let Some(sum) = &mut self.sum {
            sum.update(&buffer[..count]);
        }
        Ok(count)
    }
}

impl<R: Read> Hashing<'_, R> {
    /// The digest of all there is to read, also of what has not been read yet.
    fn finish(mut self) -> std::io::Result<Option<Digest>> {
        if self.sum.is_some() {
            let mut rest = vec![0; PIECE];
            while self.read(&mut rest)? > 0 {}
        }
        Ok(self.sum.map(|sum| Digest(sum.finalize().into())))
    }
}
