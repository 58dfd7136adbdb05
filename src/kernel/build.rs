//! `rdvm kernel build`: the small kernel, from the distribution's source package to `CACHE/kernel/vmlinux`.
//!
//! Takes the source and the cache directory, returns the path of the kernel; says what it does through a function that
//! the caller passes in. Which options the kernel has is `fragment`, what it says of its build `identity`, how it
//! lies in memory `layout`, what we change in it `patches`, where its source is `source`, what must be installed
//! `tools`, the temporary directory and the programs run there `build_dir`, how far they are `compiled`, whether there
//! is anything to do `stamp`. All checks come before anything is unpacked, and the old kernel stays until the new one
//! is complete.

mod build_dir;
mod compiled;
mod error;
mod fragment;
mod identity;
mod layout;
mod patches;
mod source;
mod stamp;
mod tools;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

pub use error::Error;

use sha2::{Digest, Sha256};

use crate::request::KernelSpec;
use build_dir::BuildDir;
pub use build_dir::Catch;
use compiled::Compiled;
use rdvm_hostfs::atomic::AtomicFile;
use rdvm_hostfs::escape::shown;
use rdvm_hostfs::hex;
use rdvm_hostfs::progress::Progress;
use rdvm_hostfs::units::ByteSize;
use rdvm_kernel::{KernelImage, Search};
use source::Source;
use stamp::BuildStamp;

/// Where distributions put the source of their kernel.
const SOURCES: &str = "/usr/src";

/// The options of `rdvm kernel build`.
#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// The kernel's source, an archive or a directory; else the newest package in `/usr/src`.
    pub source: Option<PathBuf>,
    /// Build also when the kernel that is there came from the same source and options.
    pub force: bool,
    /// The counter of compiled files.
    pub progress: Progress,
}

/// Builds the small kernel below `cache`, if it is not there yet, and gives its path. Each line of progress goes to `say`.
/// `catch` is called when programs are about to run, which its signals end.
///
/// # Errors
/// [`Error`], with the remedy; the kernel that was there before stays.
pub fn build(
    options: &BuildOptions,
    cache: Option<&Path>,
    say: &dyn Fn(&str),
    catch: Catch,
) -> Result<PathBuf, Error> {
    let home = cache.ok_or(Error::NoCache)?.join("kernel");
    let source = Source::find(options.source.as_deref(), Path::new(SOURCES))?;
    let kernel = home.join("vmlinux");
    let _lock = build_dir::lock(&home, say)?;
    let stamp = BuildStamp::of(&source)?;
    if !options.force
        && let Some(release) = stamp.release_of(&home)
        && is_bootable(&kernel).is_ok()
    {
        say(&format!(
            "kernel {release} is up to date, same source and options; --force builds it again"
        ));
        return Ok(kernel);
    }
    tools::check(&source)?;
    let start = Instant::now();
    let build_dir = BuildDir::open(&home, source.space(), catch)?;
    say(&format!("kernel source {}", shown(source.path())));
    let (built, release) = make(&build_dir, &source, &options.progress, say)?;
    is_bootable(&built)?;
    let (bytes, digest) = put_in_place(&built, &kernel, || stamp.remove(&home))
        .and_then(|result| stamp.write(&home, &release).map(|()| result))
        .map_err(|source| Error::Host {
            what: shown(&kernel),
            source,
        })?;
    build_dir.forget_log();
    let seconds = start.elapsed().as_secs();
    say(&format!(
        "kernel {release} built in {seconds} s, {}, sha256 {digest}; it is the default from now on",
        ByteSize(bytes)
    ));
    Ok(kernel)
}

/// Unpacks, configures, compiles and strips. Gives the vmlinux, still in the workshop, and its release.
fn make(
    build_dir: &BuildDir,
    source: &Source,
    progress: &Progress,
    say: &dyn Fn(&str),
) -> Result<(PathBuf, String), Error> {
    let tree = source_tree(build_dir, source, say)?;
    let out = build_dir.directory("out")?;
    let identity = identity::settings(&tree).map_err(|source| Error::Host {
        what: shown(&tree.join("Makefile")),
        source,
    })?;
    let make = |words: &[&str]| {
        let mut make = Command::new("make");
        make.arg("--directory").arg(&tree);
        make.arg(prefixed("O=", &out))
            .arg("ARCH=x86_64")
            .args(&identity)
            .args(words);
        make
    };
    configure(build_dir, make(&["allnoconfig"]))?;

    build_dir.run("make vmlinux.lds", make(&[layout::SCRIPT]))?;
    let script = format!("out/{}", layout::SCRIPT);
    let compact = layout::compact(&build_dir.read(&script)?);
    build_dir.write(&script, compact.as_bytes())?;

    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    say(&format!(
        "compiling it with {jobs} jobs, some minutes; the log is {}",
        shown(build_dir.log())
    ));
    let compile = make(&[&format!("--jobs={jobs}"), "vmlinux"]);
    let files = compiled(build_dir, compile, progress, say)?;
    say(&format!("compiled {files} files"));
    let release = build_dir.read("out/include/config/kernel.release")?;
    let built = out.join("vmlinux.stripped");
    let mut strip = Command::new("strip");
    strip.arg("--strip-all").arg("-o").arg(&built);
    strip.arg(out.join("vmlinux"));
    build_dir.run("strip", strip)?;
    Ok((built, release.trim().to_owned()))
}

/// The directory to build from; an archive is unpacked and patched.
fn source_tree(
    build_dir: &BuildDir,
    source: &Source,
    say: &dyn Fn(&str),
) -> Result<PathBuf, Error> {
    match source {
        Source::Directory(path) => {
            say(
                "the directory stays as it is: without rdvm's own changes (kernels/patches), unless it has them",
            );
            Ok(path.clone())
        }
        Source::Archive { path, .. } => {
            say("unpacking it");
            let tree = build_dir.directory("source")?;
            let mut tar = Command::new("tar");
            tar.arg("--extract")
                .arg("--strip-components=1")
                .arg("--no-same-owner");
            tar.arg("--file").arg(path).arg("--directory").arg(&tree);
            build_dir.run("tar", tar)?;
            patches::apply(build_dir, &tree, say)?;
            Ok(tree)
        }
    }
}

/// Sets the options that are wanted, and checks that this kernel has them all.
fn configure(build_dir: &BuildDir, mut make: Command) -> Result<(), Error> {
    let wanted = build_dir.write("options", fragment::plain().as_bytes())?;
    make.arg(prefixed("KCONFIG_ALLCONFIG=", &wanted));
    build_dir.run("make allnoconfig", make)?;
    let missing = fragment::missing(&build_dir.read("out/.config")?);
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Error::Options {
            names: missing.join(", "),
        }),
    }
}

/// Runs the compilation and shows how far it is; returns the number of files.
fn compiled(
    build_dir: &BuildDir,
    compile: Command,
    progress: &Progress,
    say: &dyn Fn(&str),
) -> Result<u64, Error> {
    let mut compiled = Compiled::default();
    progress.stage_of_files("compiled", Compiled::about());
    let mut look = |output: &[u8]| {
        progress.add(compiled.read(output));
        if let Some(line) = compiled.tenth().filter(|_| !progress.is_shown()) {
            say(&line);
        }
    };
    build_dir.run_watched("make vmlinux", compile, &mut look)?;
    progress.finish();
    Ok(compiled.files())
}

fn prefixed(name: &str, path: &Path) -> std::ffi::OsString {
    let mut word = std::ffi::OsString::from(name);
    word.push(path);
    word
}

/// True if both engines can start it.
fn is_bootable(file: &Path) -> Result<(), Error> {
    let nothing = Search::default();
    let unusable = |error: rdvm_kernel::Error| match error {
        rdvm_kernel::Error::File { problem, .. } => Error::Unusable { problem },
        none => Error::Host {
            what: shown(file),
            source: io::Error::other(none.to_string()),
        },
    };
    let kernel =
        rdvm_kernel::open(&KernelSpec::File(file.into()), None, &nothing).map_err(unusable)?;
    match &kernel.image {
        KernelImage::Elf { .. } => kernel.into_boot().map(|_| ()).map_err(unusable),
        KernelImage::BzImage { .. } => Err(Error::Unusable {
            problem: rdvm_kernel::FileError::NoPvh,
        }),
    }
}

/// Copies `built` to `kernel`, which appears whole or not at all; `before` runs when nothing but the renaming is left.
/// Gives its size and SHA-256 in hexadecimal.
fn put_in_place(
    built: &Path,
    kernel: &Path,
    before: impl FnOnce() -> io::Result<()>,
) -> io::Result<(u64, String)> {
    let draft = AtomicFile::beside(kernel)?;
    let (mut from, mut hash, mut bytes) = (File::open(built)?, Sha256::new(), 0);
    let mut piece = vec![0; 1 << 20];
    loop {
        let length = from.read(&mut piece)?;
        if length == 0 {
            break;
        }
        hash.update(&piece[..length]);
        draft.file().write_all(&piece[..length])?;
        bytes += length as u64;
    }
    draft.file().sync_all()?;
    before()?;
    draft.put_in_place()?;
    Ok((bytes, hex::encode(&hash.finalize())))
}
