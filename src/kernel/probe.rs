//! One kernel file: what its contents say it is, and its way to an uncompressed kernel.
//!
//! Takes a candidate, gives `KernelImage`. `Probe::new` reads headers only and is what `list` and `open` share;
//! `Probe::load` does the work. Leaves the choice among files to `find`.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use super::bzimage::{self, BzImageFacts};
use super::elf::{self, ElfFacts};
use super::error::{Problem, shown};
use super::field::Flaw;
use super::find::Candidate;
use super::unpack::{self, Compression};
use super::{KernelImage, cache, file};

/// How a kernel file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An uncompressed ELF file.
    Vmlinux,
    /// A bzImage with a payload of this kind.
    BzImage(Compression),
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vmlinux => f.write_str("vmlinux"),
            Self::BzImage(compression) => write!(f, "bzImage {}", compression.name()),
        }
    }
}

/// An open file whose headers are those of a kernel.
#[derive(Debug)]
pub(super) struct Probe {
    file: File,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Elf(ElfFacts),
    BzImage(BzImageFacts, Compression),
}

impl Probe {
    /// Opens the file and checks its headers.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub(super) fn new(candidate: &Candidate) -> Result<Self, Problem> {
        let file = file::open(&candidate.path, candidate.links())?;
        let bytes = file.metadata()?.len();
        let head = file::read_at(&file, 0, bytes.min(bzimage::HEAD_BYTES) as usize)?;
        let kind = if bzimage::recognise(&head) {
            let facts = bzimage::parse(&head, bytes)?;
            let magic = file::read_at(&file, facts.payload.start, 8)?;
            Kind::BzImage(facts, Compression::of(&magic))
        } else if head.starts_with(b"\x7fELF") {
            let read = |offset, length| file::read_at(&file, offset, length);
            Kind::Elf(elf::check(bytes, read)??)
        } else {
            let what = guess(&head);
            return Err(Flaw::Other { what }.into());
        };
        Ok(Self { file, kind })
    }

    /// The kernel's release, if the file says so.
    pub(super) fn release(&self) -> Option<&str> {
        match &self.kind {
            Kind::Elf(_) => None,
            Kind::BzImage(facts, _) => facts.release.as_deref(),
        }
    }

    /// What kind of file it is.
    pub(super) fn format(&self) -> Format {
        match self.kind {
            Kind::Elf(_) => Format::Vmlinux,
            Kind::BzImage(_, compression) => Format::BzImage(compression),
        }
    }

    /// The kernel, unpacked where that is possible, and a warning when the cache could not take it.
    ///
    /// # Errors
    /// A payload that is damaged or holds no kernel; those of reading.
    pub(super) fn load(
        self,
        cache: Option<&Path>,
    ) -> Result<(KernelImage, Option<String>), Problem> {
        let Self { file, kind } = self;
        let (facts, compression) = match kind {
            Kind::Elf(facts) => return Ok((elf_image(file, facts, None), None)),
            Kind::BzImage(facts, compression) => (facts, compression),
        };
        if !compression.is_supported() {
            let why = format!("its {} payload is not unpacked here", compression.name());
            return Ok((packed_image(file, facts, why), None));
        }
        let whole = file::read_all(&file)?;
        // Checked once more in the bytes that are used: the header was another read.
        let facts = bzimage::parse(&whole, whole.len() as u64)?;
        let payload = &whole[facts.payload.start as usize..facts.payload.end as usize];
        let bytes = unpack::unpacked_size(payload, facts.init_size)?;

        let key = cache.map(|cache| (cache, cache::key(&whole)));
        let hit = key.as_ref().and_then(|(cache, key)| {
            let elf = cache::find(cache, key, bytes)?;
            let read = |offset, length| file::read_at(&elf, offset, length);
            let checked = elf::check(bytes, read).ok()?.ok()?;
            Some((elf, checked))
        });
        if let Some((elf, checked)) = hit {
            return Ok((elf_image(elf, checked, Some((file, facts))), None));
        }
        let unpacked = unpack::unpack(payload, facts.init_size)?;
        let checked = elf::check(bytes, |offset, length| slice(&unpacked, offset, length))??;
        let (elf, warning) = match &key {
            Some((cache, key)) => keep(cache, key, &unpacked),
            None => (cache::without_name(&unpacked), None),
        };
        let image = match elf {
            Ok(elf) => elf_image(elf, checked, Some((file, facts))),
            Err(error) => packed_image(file, facts, format!("no room for it unpacked: {error}")),
        };
        Ok((image, warning))
    }
}

/// The unpacked kernel in the cache, or without a name and with a warning.
fn keep(cache: &Path, key: &str, unpacked: &[u8]) -> (io::Result<File>, Option<String>) {
    match cache::insert(cache, key, unpacked) {
        Ok(elf) => (Ok(elf), None),
        Err(error) => {
            let warning = format!(
                "{}: the unpacked kernel is not kept, every run unpacks it again: {error}",
                shown(cache)
            );
            (cache::without_name(unpacked), Some(warning))
        }
    }
}

fn elf_image(elf: File, facts: ElfFacts, bzimage: Option<(File, BzImageFacts)>) -> KernelImage {
    KernelImage::Elf {
        elf,
        facts,
        bzimage,
    }
}

fn packed_image(bzimage: File, facts: BzImageFacts, why: String) -> KernelImage {
    KernelImage::BzImage {
        bzimage,
        facts,
        why,
    }
}

fn slice(bytes: &[u8], offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let rest = bytes.get(offset as usize..).unwrap_or_default();
    let part = rest.get(..length).ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(part.to_vec())
}

/// What a file that is neither bzImage nor ELF probably is, to follow "not a kernel but".
fn guess(head: &[u8]) -> &'static str {
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|b| b.starts_with(magic));
    match head {
        [] => "an empty file",
        [0x1f, 0x8b, ..] => "a gzip file; gunzip it first",
        _ if at(0x38, b"ARM\x64") => "a kernel for arm64",
        _ if at(4, b"zimg") => "an EFI zboot image",
        [b'M', b'Z', ..] => "an EFI program without the bzImage header",
        [b'#', b'!', ..] => "a script",
        _ => "something else (no HdrS at 0x202, no ELF header)",
    }
}
