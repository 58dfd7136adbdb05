//! The check that a kernel can have an image as a region of memory. It takes a search through the whole kernel, so the answer is
//! kept by the state of the kernel's file.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::check::config::Config;
use super::check::features::REGIONS;
use rdvm_hostfs::FileStamp;
use rdvm_hostfs::atomic::AtomicFile;
use rdvm_kernel::{Kernel, KernelImage};

/// The form of the answers.
const FORM: u32 = 1;
const YES: &[u8] = b"regions\n";

/// Returns true if all that regions need is built into the kernel; answers are kept below `cache`.
pub fn can_have_regions(kernel: &Kernel, cache: Option<&Path>) -> bool {
    let file = match &kernel.image {
        KernelImage::Elf { elf, bzimage, .. } => bzimage.as_ref().map_or(elf, |(file, _)| file),
        KernelImage::BzImage { bzimage, .. } => bzimage,
    };
    let stamp = FileStamp::of(file).ok().filter(FileStamp::is_settled);
    let note = cache.zip(stamp).map(|(cache, stamp)| {
        let directory = cache.join("kernel-features");
        directory.join(format!("{FORM}-{stamp}"))
    });
    if let Some(kept) = note.as_deref().and_then(|note| fs::read(note).ok()) {
        return kept == YES;
    }
    let config = Config::of(kernel);
    let can = config.is_ok_and(|config| REGIONS.iter().all(|need| config.value(need) == Some("y")));
    if let Some(note) = note {
        // Without it the kernel is searched again the next time.
        let _ = keep(&note, if can { YES } else { b"" });
    }
    can
}

fn keep(note: &Path, answer: &[u8]) -> std::io::Result<()> {
    note.parent().map_or(Ok(()), fs::create_dir_all)?;
    let draft = AtomicFile::beside(note)?;
    let mut file: &File = draft.file();
    file.write_all(answer)?;
    draft.put_in_place()
}
