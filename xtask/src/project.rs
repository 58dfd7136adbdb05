//! The checkout and the places around it, as the environment names them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// The value of a variable that is set and not empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The value of a variable, or a default.
pub(crate) fn variable_or(name: &str, default: &str) -> String {
    variable(name).unwrap_or_else(|| default.to_owned())
}

/// The number in a variable, or a default.
pub(crate) fn number_or(name: &str, default: u64) -> Result<u64> {
    match variable(name) {
        None => Ok(default),
        Some(text) => text.parse().with_context(|| {
            format!("{name}: '{text}' is not a number; leave it out for {default}")
        }),
    }
}

/// Places that nothing changes while the program runs.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    /// The checkout, which is also the working directory.
    pub(crate) top: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) images: PathBuf,
    pub(crate) kernels: PathBuf,
    /// rdvm's cache.
    pub(crate) cache: PathBuf,
}

impl Project {
    /// The checkout that this program was built from; becomes the working directory.
    pub(crate) fn enter() -> Result<Self> {
        // Set by `cargo run`; a program that was copied with its target directory would else lead to the other checkout.
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let top = fs::canonicalize(manifest.join(".."))
            .with_context(|| manifest.display().to_string())?;
        env::set_current_dir(&top).with_context(|| top.display().to_string())?;
        let path =
            |name: &str, default: PathBuf| top.join(variable(name).map_or(default, PathBuf::from));
        let home = variable_or("HOME", "/root");
        let caches = variable("XDG_CACHE_HOME")
            .map_or_else(|| Path::new(&home).join(".cache"), PathBuf::from);
        Ok(Self {
            target: path("CARGO_TARGET_DIR", "target".into()),
            images: path("RDVM_TEST_IMAGES", "target/images".into()),
            kernels: path("RDVM_TEST_KERNELS", "target/kernels".into()),
            cache: path("RDVM_CACHE", caches.join("rdvm")),
            top,
        })
    }

    /// The images, which the measurements on the host have in `IMAGES`.
    pub(crate) fn bench_images(&self) -> PathBuf {
        variable("IMAGES").map_or_else(
            || self.top.join("target/images"),
            |path| self.top.join(path),
        )
    }

    /// The release build of rdvm, or what `RDVM` names.
    pub(crate) fn release(&self) -> Result<PathBuf> {
        let path = variable("RDVM").map_or_else(|| self.target.join("release/rdvm"), PathBuf::from);
        fs::canonicalize(&path)
            .with_context(|| format!("{}; make build compiles it", path.display()))
    }

    /// The small kernel as `rdvm kernel build` leaves it; need not exist.
    pub(crate) fn small_kernel(&self) -> PathBuf {
        self.cache.join("kernel/vmlinux")
    }

    /// The distribution's newest kernel, or what `KERNEL` names.
    pub(crate) fn debian_kernel(&self) -> Result<PathBuf> {
        if let Some(path) = variable("KERNEL") {
            return Ok(path.into());
        }
        let newest = kernels_of_boot()?.pop();
        newest
            .map(|release| Path::new("/boot").join(format!("vmlinuz-{release}")))
            .context("/boot: no readable kernel; name one with KERNEL=FILE")
    }
}

/// The releases of the readable kernels in /boot, oldest first.
pub(crate) fn kernels_of_boot() -> Result<Vec<String>> {
    let mut names = String::new();
    for entry in fs::read_dir("/boot").context("/boot")? {
        let entry = entry.context("/boot")?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(release) = name.strip_prefix("vmlinuz-")
            && fs::File::open(entry.path()).is_ok()
        {
            names += &format!("{release}\n");
        }
    }
    // Versions of kernels compare in a way that sort knows.
    let sorted = process::piped(Command::new("sort").arg("-V"), names.as_bytes())?;
    Ok(sorted.lines().map(str::to_owned).collect())
}

/// The file of a program on PATH or where administrators have theirs.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let mut files = places.map(|place: PathBuf| place.join(name));
    files
        .find(|file| file.is_file())
        .with_context(|| format!("{name} is missing; scripts/install-deps.sh test installs it"))
}
