//! One kernel file: what its contents say it is, and its way to an uncompressed kernel.
//!
//! Takes a candidate, returns `KernelImage`. `Probe::new` reads headers only and is what `list` and `open` share;
//! `Probe::load` does the work. Leaves the choice among files to `find`.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use super::banner;
use super::bzimage::{self, BzImageFacts};
use super::elf::{self, ElfFacts};
use super::error::FileError;
use super::field::ParseError;
use super::file;
use super::find::{Candidate, Origin};
use super::unpack::{self, Compression};
use super::{KernelImage, cache};
use rdvm_hostfs::FileStamp;
use rdvm_hostfs::escape::{reason, shown};

/// The format of a kernel file.
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
    /// The flaw of the file.
    pub(super) fn new(candidate: &Candidate) -> Result<Self, FileError> {
        let file = match file::open(&candidate.path, candidate.links()) {
            // A cache that belongs to another user (sudo and su may leave HOME as it was) is none.
            Err(FileError::Unreadable) if candidate.origin == Origin::Built => {
                return Err(FileError::Missing);
            }
            opened => opened?,
        };
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
            return Err(ParseError::Other { what }.into());
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

    /// The same, and that of a vmlinux too, which is searched for it: up to 20 ms, so for `list` alone.
    pub(super) fn release_of_any_kind(&self) -> Option<String> {
        match &self.kind {
            Kind::Elf(_) => banner::release(&self.file),
            Kind::BzImage(..) => self.release().map(str::to_owned),
        }
    }

    /// Returns the format of the file.
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
    ) -> Result<(KernelImage, Option<String>), FileError> {
        let Self { file, kind } = self;
        let (facts, compression) = match kind {
            Kind::Elf(facts) => return Ok((elf_image(file, facts, None), None)),
            Kind::BzImage(facts, compression) => (facts, compression),
        };
        if !compression.is_supported() {
            let why = format!("its {} payload is not unpacked here", compression.name());
            return Ok((packed_image(file, facts, why), None));
        }
        let packed = facts.payload.end - facts.payload.start;
        let last = file::read_at(&file, facts.payload.end - 4, 4)?;
        let bytes = unpack::unpacked_size(compression, packed, &last, facts.init_size)?;
        if let Some(cache) = cache
            && let Some(elf) = cache::find_by_stamp(cache, &FileStamp::of(&file)?, bytes)
            && let Some(checked) = check_cached(&elf, bytes)
        {
            return Ok((elf_image(elf, checked, Some((file, facts))), None));
        }
        let (whole, stamp) = file::read_all(&file)?;
        // Checked once more in the bytes that are used: the header was another read.
        let facts = bzimage::parse(&whole, whole.len() as u64)?;
        let payload = &whole[facts.payload.start as usize..facts.payload.end as usize];
        let key = cache.map(|cache| (cache, cache::key(&whole)));
        if let Some((cache, key)) = &key
            && let Some(elf) = cache::find(cache, key, bytes)
            && let Some(checked) = check_cached(&elf, bytes)
        {
            cache::remember(cache, key, &stamp);
            return Ok((elf_image(elf, checked, Some((file, facts))), None));
        }
        let unpacked = unpack::unpack(payload, facts.init_size)?;
        let size = unpacked.len() as u64;
        let checked = elf::check(size, |offset, length| slice(&unpacked, offset, length))??;
        let (elf, warning) = match &key {
            Some((cache, key)) => keep(cache, key, &stamp, &unpacked),
            None => (cache::without_name(&unpacked), None),
        };
        let image = match elf {
            Ok(elf) => elf_image(elf, checked, Some((file, facts))),
            Err(error) => packed_image(
                file,
                facts,
                format!("no room for it unpacked: {}", reason(&error)),
            ),
        };
        Ok((image, warning))
    }
}

/// The unpacked kernel in the cache, or without a name and with a warning.
fn keep(
    cache: &Path,
    key: &str,
    stamp: &FileStamp,
    unpacked: &[u8],
) -> (io::Result<File>, Option<String>) {
    match cache::insert(cache, key, unpacked) {
        Ok(elf) => {
            cache::remember(cache, key, stamp);
            (Ok(elf), None)
        }
        Err(error) => {
            let warning = format!(
                "{}: the unpacked kernel is not kept, every run unpacks it again: {}",
                shown(cache),
                reason(&error)
            );
            (cache::without_name(unpacked), Some(warning))
        }
    }
}

/// The facts of a cached kernel; one that is spoiled is no reason to fail, it is unpacked anew.
fn check_cached(elf: &File, bytes: u64) -> Option<ElfFacts> {
    let read = |offset, length| file::read_at(elf, offset, length);
    elf::check(bytes, read).ok()?.ok()
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

/// Returns the probable kind of a file that is neither bzImage nor ELF, to follow "not a kernel but".
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    use super::super::samples::{bzimage, pack, program_header, put, vmlinux};
    use super::*;

    fn probe(path: &Path) -> Result<Probe, FileError> {
        Probe::new(&Candidate {
            path: path.into(),
            origin: Origin::Asked,
        })
    }

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn kernel(&self, bytes: &[u8]) -> PathBuf {
            let path = self.0.path().join("kernel");
            fs::write(&path, bytes).unwrap();
            path
        }

        fn cache(&self) -> PathBuf {
            self.0.path().join("cache")
        }
    }

    fn problem(bytes: &[u8]) -> String {
        probe(&Files::new().kernel(bytes)).unwrap_err().to_string()
    }

    /// The bytes of the ELF file, its inode, and whether a bzImage is there too.
    fn unpacked(image: KernelImage) -> (Vec<u8>, u64, bool) {
        let KernelImage::Elf { elf, bzimage, .. } = image else {
            panic!("not unpacked: {image:?}");
        };
        let meta = elf.metadata().unwrap();
        let bytes = file::read_at(&elf, 0, meta.len() as usize).unwrap();
        (bytes, meta.ino(), bzimage.is_some())
    }

    #[test]
    fn files_that_are_no_kernel_are_called_what_they_are() {
        let mut gzipped = pack(Compression::Gzip, &vmlinux());
        gzipped.resize(9000, 0);
        let mut arm = vec![0; 9000];
        arm[..2].copy_from_slice(b"MZ");
        arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
        let mut zboot = vec![0; 9000];
        zboot[..8].copy_from_slice(b"MZ\0\0zimg");
        let table: [(&[u8], &str); 7] = [
            (b"", "an empty file"),
            (
                b"hello, this is text\n",
                "something else (no HdrS at 0x202, no ELF header)",
            ),
            (b"#!/bin/sh\n", "a script"),
            (&gzipped, "a gzip file; gunzip it first"),
            (&arm, "a kernel for arm64"),
            (&zboot, "an EFI zboot image"),
            (
                b"MZ, but nothing else",
                "an EFI program without the bzImage header",
            ),
        ];
        for (bytes, what) in table {
            assert_eq!(
                problem(bytes),
                format!("not an x86-64 Linux kernel but {what}")
            );
        }
        let mut elf = vmlinux();
        put(&mut elf, 18, 2, 0xb7);
        assert_eq!(problem(&elf), "e_machine is 0xb7, must be 0x3e (x86-64)");
    }

    #[test]
    fn of_a_file_of_a_terabyte_only_the_headers_are_read() {
        let files = Files::new();
        let huge = |bytes: &[u8]| {
            let path = files.kernel(bytes);
            let file = File::options().write(true).open(&path).unwrap();
            file.set_len(1 << 40).unwrap();
            path
        };
        let no_kernel = probe(&huge(b"zeros")).unwrap_err().to_string();
        assert!(no_kernel.contains("something else"), "{no_kernel}");
        let mut notes = vmlinux();
        put(&mut notes, program_header(2) + 32, 8, 64 << 20);
        let flaw = probe(&huge(&notes)).unwrap_err().to_string();
        assert_eq!(flaw, "PT_NOTE p_filesz is 67108864, must be at most 65536");
        let (image, _) = probe(&huge(&vmlinux())).unwrap().load(None).unwrap();
        assert!(matches!(image, KernelImage::Elf { bzimage: None, .. }));
        let packed = huge(&bzimage(&pack(Compression::Xz, &vmlinux())));
        let problem = probe(&packed).unwrap().load(None).unwrap_err();
        assert!(matches!(problem, FileError::TooLarge { bytes } if bytes == 1 << 40));
    }

    #[test]
    fn a_file_that_changes_after_its_headers_were_checked_is_checked_again_or_called_changed() {
        let files = Files::new();
        let good = bzimage(&pack(Compression::Xz, &vmlinux()));
        let mut spoiled = good.clone();
        put(&mut spoiled, 0x230, 4, 0);
        for (then, want) in [
            (&good[..good.len() / 2], "changed while it was read"),
            (&[][..], "changed while it was read"),
            (&spoiled[..], "kernel_alignment is 0x0"),
        ] {
            let path = files.kernel(&good);
            let probe = probe(&path).unwrap();
            fs::write(&path, then).unwrap();
            let problem = probe.load(None).unwrap_err().to_string();
            assert!(problem.starts_with(want), "{problem}");
        }
    }

    #[test]
    fn a_vmlinux_is_given_as_it_is() {
        let files = Files::new();
        let path = files.kernel(&vmlinux());
        let probe = probe(&path).unwrap();
        assert_eq!(probe.format().to_string(), "vmlinux");
        let (image, warning) = probe.load(Some(&files.cache())).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        assert_eq!(unpacked(image), (vmlinux(), inode, false));
        assert_eq!(warning, None);
        assert!(!files.cache().exists());
    }

    #[test]
    fn a_bzimage_is_unpacked_once_and_then_comes_from_the_cache() {
        for compression in [
            Compression::None,
            Compression::Gzip,
            Compression::Lz4,
            Compression::Zstd,
            Compression::Xz,
            Compression::Lzma,
        ] {
            let files = Files::new();
            let path = files.kernel(&bzimage(&pack(compression, &vmlinux())));
            let load = || probe(&path).unwrap().load(Some(&files.cache())).unwrap();
            let (first, warning) = load();
            assert_eq!(warning, None);
            let (bytes, inode, both) = unpacked(first);
            assert!(bytes == vmlinux() && both, "{compression:?}");
            assert_eq!(unpacked(load().0).1, inode, "{compression:?}");
        }
    }

    #[test]
    fn a_cached_kernel_that_was_cut_or_overwritten_is_unpacked_anew() {
        let files = Files::new();
        let path = files.kernel(&bzimage(&pack(Compression::Lz4, &vmlinux())));
        let load = || unpacked(probe(&path).unwrap().load(Some(&files.cache())).unwrap().0).0;
        load();
        let entry = fs::read_dir(files.cache().join("vmlinux")).unwrap().next();
        let entry = entry.unwrap().unwrap().path();
        let bytes = fs::read(&entry).unwrap();
        for spoiled in [
            bytes[..bytes.len() - 1].to_vec(),
            vec![0; bytes.len()],
            vec![],
        ] {
            fs::write(&entry, &spoiled).unwrap();
            assert!(load() == vmlinux());
            assert!(fs::read(&entry).unwrap() == bytes);
        }
    }

    #[test]
    fn without_a_cache_the_kernel_is_unpacked_in_memory_and_only_a_useless_cache_is_mentioned() {
        let files = Files::new();
        let path = files.kernel(&bzimage(&pack(Compression::Lz4, &vmlinux())));
        let (image, warning) = probe(&path).unwrap().load(None).unwrap();
        assert_eq!((unpacked(image).0, warning), (vmlinux(), None));
        // A file is where the cache directory should be.
        let (image, warning) = probe(&path).unwrap().load(Some(&path)).unwrap();
        assert_eq!(unpacked(image).0, vmlinux());
        let warning = warning.unwrap();
        assert!(
            warning.contains("the unpacked kernel is not kept"),
            "{warning}"
        );
    }

    #[test]
    fn a_payload_that_cannot_be_unpacked_here_stays_a_bzimage() {
        let files = Files::new();
        let path = files.kernel(&bzimage(&pack(Compression::Bzip2, b"")));
        let (image, _) = probe(&path).unwrap().load(Some(&files.cache())).unwrap();
        let KernelImage::BzImage { why, .. } = image else {
            panic!("{image:?}");
        };
        assert_eq!(why, "its bzip2 payload is not unpacked here");
    }

    #[test]
    fn a_payload_that_is_damaged_or_holds_no_kernel_is_refused_and_not_kept() {
        let mut foreign = vmlinux();
        put(&mut foreign, program_header(0) + 24, 8, 0);
        let mut damaged = pack(Compression::Lz4, &vmlinux());
        damaged[4] ^= 0xff; // the length of the first block
        for (payload, want) in [
            (
                pack(Compression::Gzip, &foreign),
                "p_paddr is 0x0, must be at least 0x100000",
            ),
            (
                pack(Compression::Gzip, b"\x7fELF, but no more"),
                "EI_CLASS is 0x2c, must be 0x2 (64-bit)",
            ),
            (damaged, "the lz4 payload is damaged: "),
        ] {
            let files = Files::new();
            let path = files.kernel(&bzimage(&payload));
            let problem = probe(&path)
                .unwrap()
                .load(Some(&files.cache()))
                .unwrap_err();
            assert!(problem.to_string().starts_with(want), "{problem}");
            assert!(!files.cache().exists());
        }
    }

    #[test]
    fn a_bzimage_that_was_left_alone_is_not_read_again() {
        // The link for its stamp is made to lead to another kernel: what comes out tells which way was taken.
        let files = Files::new();
        let path = files.kernel(&bzimage(&pack(Compression::Lz4, &vmlinux())));
        let load = || unpacked(probe(&path).unwrap().load(Some(&files.cache())).unwrap().0).0;
        load();
        let entry = fs::read_dir(files.cache().join("vmlinux")).unwrap().next();
        let entry = entry.unwrap().unwrap().path();
        let mut other = vmlinux();
        other[0x1300] = 1;
        let name = format!("at-{}", FileStamp::of(File::open(&path).unwrap()).unwrap());
        let elsewhere = "e".repeat(64);
        fs::write(entry.with_file_name(&elsewhere), &other).unwrap();
        std::os::unix::fs::symlink(&elsewhere, entry.with_file_name(name)).unwrap();
        assert!(load() == other);
        let again = fs::read(&path).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30));
        fs::write(&path, again).unwrap();
        assert!(load() == vmlinux());
    }
}
