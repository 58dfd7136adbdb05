//! Any bytes as a kernel file: found, checked and unpacked as `rdvm run -k FILE` does it, without a cache.
//!
//! What comes out must keep what the check promises to those who load it, and no input may take a second of CPU time,
//! which unlike time on the clock does not depend on what else runs. Begins with the samples of the unit tests.

#![no_main]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use rdvm_kernel::{Compression, ElfFacts, KernelImage, KernelSpec, Search, samples};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::time::{ClockId, clock_gettime};

fuzz_target!(init: write_seeds(), |bytes: &[u8]| {
    let file = File::from(memfd_create("kernel", MemfdFlags::CLOEXEC).unwrap());
    file.write_all_at(bytes, 0).unwrap();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let before = cpu_seconds();
    if let Ok(kernel) = rdvm_kernel::open(&KernelSpec::File(path.into()), None, &Search::default()) {
        check(kernel.image, bytes.len() as u64);
    }
    assert!(cpu_seconds() - before < 1.0, "more than a second of CPU time");
});

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn check(image: KernelImage, bytes: u64) {
    match image {
        KernelImage::Elf {
            elf,
            facts,
            bzimage,
        } => {
            check_elf(&facts, elf.metadata().unwrap().len());
            if let Some((_, facts)) = bzimage {
                assert!(elf.metadata().unwrap().len() <= facts.init_size);
                assert!(facts.payload.end <= bytes);
            }
        }
        KernelImage::BzImage { facts, .. } => {
            assert!(facts.payload.start < facts.payload.end && facts.payload.end <= bytes);
            assert!(facts.initrd_addr_max > facts.pref_address + facts.init_size);
        }
    }
}

fn check_elf(facts: &ElfFacts, bytes: u64) {
    let loaded = facts.load_start..facts.load_end;
    assert!(facts.load_start >= 1 << 20 && facts.load_end <= 4 << 30);
    assert!(loaded.contains(&facts.entry));
    assert!(facts.pvh_entry.is_none_or(|entry| loaded.contains(&entry)));
    assert!(facts.file_bytes <= bytes && facts.file_bytes <= facts.memory_bytes);
    assert!(facts.memory_bytes <= facts.load_end - facts.load_start);
}

/// One sample of each kind, beside what earlier runs found.
fn write_seeds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/kernel_load");
    fs::create_dir_all(&corpus).unwrap();
    let seed = |name: &str, bytes: &[u8]| fs::write(corpus.join(name), bytes).unwrap();
    seed("vmlinux", &samples::vmlinux());
    for compression in [
        Compression::None,
        Compression::Gzip,
        Compression::Lz4,
        Compression::Zstd,
        Compression::Xz,
        Compression::Lzma,
        Compression::Bzip2,
    ] {
        let payload = samples::pack(compression, &samples::vmlinux());
        seed(compression.name(), &samples::bzimage(&payload));
    }
}
