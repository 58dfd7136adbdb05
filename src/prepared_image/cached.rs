//! File systems in the cache, found by the state of the files that they were made from.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};

use super::{ImageInfo, short};
use crate::cache::{Cache, CacheInputs, DEFAULT_LIMIT};
use crate::error::Result;
use crate::request::ImageRef;
use rdvm_erofs::{Layout, has_structure};
use rdvm_hostfs::escape::{reason, shown};
use rdvm_hostfs::progress::Progress;
use rdvm_image::Sources;
use rdvm_image::tree::Tree;
use rdvm_initrd::Epoch;
use rdvm_vmm::machine::{REGION_ALIGN, Region};

/// The form of cache entries; a change of how images are packed, or of [`ImageInfo`], needs a new one.
const FORM: u32 = 5;

/// Looks an image up by the state of its files, and compares that of its directories.
pub(super) fn find(
    cache: &Cache,
    inputs: &CacheInputs,
    sources: &Sources,
) -> Option<(ImageInfo, Region)> {
    let packed = cache.find(inputs)?;
    let states = packed.states()?;
    let mut states = &states[..];
    for path in inputs.directories() {
        let (length, rest) = states.split_first_chunk()?;
        let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
        let (state, rest) = rest.split_at_checked(length)?;
        sources.is_in_state(path, state).then_some(())?;
        states = rest;
    }
    let info: ImageInfo = serde_json::from_slice(&packed.facts).ok()?;
    // One that the disk has damaged is made anew. The contents of files are not looked at: that is what digests are for.
    has_structure(&packed.file, info.structure?).then_some(())?;
    let region = Region::new(packed.file, info.region?).ok()?;
    (region.size == packed.size).then_some((info, region))
}

/// Returns the inputs of what was read, with the states of the directories, each behind its length: the paths may have led
/// elsewhere `before`. `None` where that is so, and where a change may not show.
pub(super) fn inputs_of_what_was_read(
    image: &ImageRef,
    epoch: Epoch,
    sources: &Sources,
    before: &CacheInputs,
) -> Option<CacheInputs> {
    let mut inputs = inputs(image, epoch, sources).filter(|now| now == before)?;
    let mut states = Vec::new();
    for path in inputs.directories() {
        let state = sources.directory_state(path)?;
        states.extend((state.len() as u64).to_le_bytes());
        states.extend(state);
    }
    inputs.states = states;
    Some(inputs)
}

/// A file system about to be written.
pub(super) struct Packing<'a> {
    pub(super) layout: &'a Layout,
    pub(super) tree: &'a Tree,
    pub(super) progress: &'a Progress,
}

impl Packing<'_> {
    /// Writes it to its place in the cache, to a file without a name there if it has none, else to memory.
    pub(super) fn write(
        &self,
        info: &ImageInfo,
        cache: Option<&Cache>,
        inputs: Option<&CacheInputs>,
        warnings: &mut Vec<String>,
    ) -> Result<Region> {
        let size = self.layout.size().next_multiple_of(REGION_ALIGN);
        let kept = match (cache, inputs) {
            (Some(cache), Some(inputs)) => {
                let packed = cache.insert(inputs, size, DEFAULT_LIMIT, |file: &File| {
                    self.write_to(file)?;
                    Ok(serde_json::to_vec(info).map_err(io::Error::other)?)
                });
                packed.map(|packed| Some(packed.file))
            }
            (Some(cache), None) => cache.unnamed().map_or(Ok(None), |file| {
                file.set_len(size)?;
                self.write_to(&file)?;
                Ok(Some(file))
            }),
            (None, _) => Ok(None),
        };
        match (kept, cache) {
            (Ok(Some(file)), _) => return Region::new(file, size).map_err(short),
            (Err(Failed::Contents(error)), _) => return Err(error.into()),
            (Err(Failed::Cache(error)), Some(cache)) => warnings.push(format!(
                "{}: {}; the packed image is not kept",
                shown(cache.directory()),
                reason(&error)
            )),
            _ => {}
        }
        let file = memfd_create("rdvm-image", MemfdFlags::CLOEXEC);
        let file = File::from(file.map_err(io::Error::from).map_err(short)?);
        file.set_len(size).map_err(short)?;
        self.write_to(&file)?;
        Region::new(file, size).map_err(short)
    }

    fn write_to(&self, file: &File) -> std::result::Result<(), rdvm_erofs::Error> {
        let counted = || {
            self.progress.add(rdvm_initrd::BLOCK);
            false
        };
        self.layout.write(self.tree, &counted, file)
    }
}

/// Returns what the packed image depends on, with the state of files when `sources` opened them; `None` where stamps do not
/// show changes: of pipes, and of files that have changed just now. The states of directories are compared or added later.
pub(super) fn inputs(image: &ImageRef, epoch: Epoch, sources: &Sources) -> Option<CacheInputs> {
    let options = format!(
        "{FORM} {} {:?} {:?} {} {:?} {:?} {epoch:?}",
        env!("CARGO_PKG_VERSION"),
        image.format,
        image.owner.resolved(),
        image.is_layer,
        image.tag,
        // An entry that was made under wide limits is no answer under narrow ones.
        image.limits,
    );
    let mut inputs = CacheInputs::new(&options);
    let layers = image.layers.iter().map(|path| ("layer", path));
    let files = std::iter::once(("image", &image.path)).chain(layers);
    // A digest in the options says it all.
    let files = files.filter(|(role, _)| *role != "image" || image.stored.is_none());
    for (role, path) in files.chain(image.fakeroot.iter().map(|path| ("fakeroot", path))) {
        // Standard input, and not a file of that name.
        if path == Path::new("-") {
            return None;
        }
        // What has been checked counts; nothing else has to be opened to look it up.
        let metadata = sources.metadata(path).or_else(|| path.metadata().ok())?;
        match metadata.is_dir() {
            true => inputs.directory(role, path, &metadata),
            false => inputs.file(role, &metadata).ok()?,
        }
    }
    // What was changed a moment ago is read again, and kept the next time.
    inputs.is_settled().then_some(inputs)
}

/// Returns a path from the root, escaped.
pub(super) fn shown_absolute(path: &Path) -> String {
    shown(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
}

/// The reason why an image was not kept.
#[derive(Debug)]
enum Failed {
    Cache(io::Error),
    Contents(rdvm_erofs::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Cache(error)
    }
}

impl From<rdvm_erofs::Error> for Failed {
    fn from(error: rdvm_erofs::Error) -> Self {
        match error {
            // The cache's file system is full, or the like.
            rdvm_erofs::Error::Write { source, .. } => Self::Cache(source),
            error => Self::Contents(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_and_fresh_files_are_not_looked_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.tar");
        File::create(&path).unwrap();
        let inputs = |path: &Path| {
            let image = ImageRef {
                path: path.to_owned(),
                ..ImageRef::default()
            };
            inputs(&image, Epoch::default(), &Sources::default()).is_some()
        };
        assert!(!inputs(Path::new("-")));
        assert!(!inputs(&path), "made just now");
        assert!(!inputs(&dir.path().join("none")));
        assert!(inputs(Path::new("/usr/lib/os-release")));
    }
}
