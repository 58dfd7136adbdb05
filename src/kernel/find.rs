//! Which files may be the kernel, in which order, and which of them it is.
//!
//! Takes the wish and the places (`Search`, plain data), gives paths; looks into directories, but into no file: what a
//! file is good for is asked of a function that the caller passes in.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::error::{Error, Problem, shown};
use super::file::{self, Links};
use crate::request::KernelWish;

/// Where kernels are looked for. Plain data: tests make their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search {
    /// `RDVM_KERNEL`, read as the argument of `-k` is.
    pub kernel: Option<OsString>,
    /// rdvm's cache directory, which need not exist; nothing is kept without one.
    pub cache: Option<PathBuf>,
    /// The host's kernels, normally `/boot`.
    pub boot: PathBuf,
    /// The release of the host's running kernel, as `uname -r` prints it.
    pub release: String,
}

/// Why a file is the kernel, or might have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `--kernel`.
    Asked,
    /// `RDVM_KERNEL`.
    Environment,
    /// `rdvm kernel build`.
    Built,
    /// The image's own /boot.
    Image,
    /// The host's running kernel.
    Running,
    /// The newest of the host's kernels that can be used.
    Newest,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Asked => "named by --kernel",
            Self::Environment => "named by RDVM_KERNEL",
            Self::Built => "built by rdvm kernel build",
            Self::Image => "newest in the image's /boot",
            Self::Running => "the host's running kernel",
            Self::Newest => "newest readable on the host",
        })
    }
}

/// A file that may be the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) path: PathBuf,
    pub(super) origin: Origin,
}

impl Candidate {
    /// The user named it, so that nothing else will do.
    pub(super) fn is_named(&self) -> bool {
        matches!(self.origin, Origin::Asked | Origin::Environment)
    }

    /// Only an image's files are somebody else's.
    pub(super) fn links(&self) -> Links {
        match self.origin {
            Origin::Image => Links::Refuse,
            _ => Links::Follow,
        }
    }
}

impl Search {
    /// The places of this process: its environment, `/boot` and `uname`.
    pub fn from_env() -> Self {
        let cache = cache_dir(|name| env::var_os(name).filter(|value| !value.is_empty()));
        let uname = rustix::system::uname();
        Self {
            kernel: env::var_os("RDVM_KERNEL").filter(|value| !value.is_empty()),
            cache,
            boot: "/boot".into(),
            release: uname.release().to_string_lossy().into_owned(),
        }
    }

    /// Every file that `wish` allows, best first. Files in directories exist, the others may be missing.
    pub(super) fn candidates(
        &self,
        wish: &KernelWish,
        image_boot: Option<&Path>,
    ) -> Vec<Candidate> {
        let asked = match wish {
            KernelWish::Search => None,
            KernelWish::File(path) => Some(path.clone()),
            KernelWish::Named(name) => Some(self.resolve(name)),
        };
        if let Some(path) = asked {
            let origin = Origin::Asked;
            return vec![Candidate { path, origin }];
        }
        let mut list = Vec::new();
        let mut add = |path, origin| list.push(Candidate { path, origin });
        if let Some(name) = &self.kernel {
            add(self.resolve(name), Origin::Environment);
        }
        if let Some(cache) = &self.cache {
            add(cache.join("kernel/vmlinux"), Origin::Built);
            add(cache.join("kernel/bzImage"), Origin::Built);
        }
        if let Some(boot) = image_boot {
            for path in newest_first(boot, Links::Refuse, &["vmlinuz-", "vmlinux-"]) {
                add(path, Origin::Image);
            }
        }
        let running = self.boot.join(format!("vmlinuz-{}", self.release));
        add(running.clone(), Origin::Running);
        for path in newest_first(&self.boot, Links::Follow, &["vmlinuz-"]) {
            if path != running {
                add(path, Origin::Newest);
            }
        }
        list
    }

    /// What `-k NAME` means: a path when it has a slash or is there, else a release in the host's boot directory.
    fn resolve(&self, name: &OsStr) -> PathBuf {
        let is_path = name.as_encoded_bytes().contains(&b'/') || Path::new(name).exists();
        if is_path {
            return name.into();
        }
        let mut file = OsString::from("vmlinuz-");
        file.push(name);
        self.boot.join(file)
    }

    /// The places as text, for the error that says that there is nothing in them.
    fn places(&self, image_boot: Option<&Path>) -> String {
        let built = self.cache.as_ref().map(|cache| cache.join("kernel"));
        let places = [built.as_deref(), image_boot, Some(self.boot.as_path())];
        let places: Vec<_> = places.into_iter().flatten().map(shown).collect();
        places.join(", ")
    }
}

/// `RDVM_CACHE`, else `rdvm` in the user's cache directory as the XDG specification finds it.
fn cache_dir(var: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(own) = var("RDVM_CACHE") {
        return Some(own.into());
    }
    // The specification wants a relative path to be ignored.
    let xdg = var("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || var("HOME").map(|home| Path::new(&home).join(".cache"));
    let base = xdg.filter(|path| path.is_absolute()).or_else(home)?;
    Some(base.join("rdvm"))
}

/// The first candidate that `probe` accepts, what it gave, and a line for each broken file that was passed over.
///
/// # Errors
/// A file that was named and is not accepted; an unreadable one when nothing else is there; `None`.
pub(super) fn choose<T>(
    candidates: Vec<Candidate>,
    host: &Search,
    image_boot: Option<&Path>,
    probe: impl Fn(&Candidate) -> Result<T, Problem>,
) -> Result<(Candidate, T, Vec<String>), Error> {
    let mut unreadable = None;
    let mut broken = Vec::new();
    for candidate in candidates {
        match (probe(&candidate), candidate.is_named()) {
            (Ok(found), _) => return Ok((candidate, found, broken)),
            (Err(problem), true) => {
                let path = candidate.path;
                return Err(Error::File { path, problem });
            }
            (Err(Problem::Missing), _) => {}
            (Err(Problem::Unreadable), _) => {
                // The host's kernels come last and are the ones that chmod is for.
                let better = |old: &Candidate| {
                    old.origin == Origin::Image && candidate.origin != Origin::Image
                };
                if unreadable.as_ref().is_none_or(better) {
                    unreadable = Some(candidate);
                }
            }
            (Err(problem), _) => broken.push(format!("{}: {problem}", shown(&candidate.path))),
        }
    }
    if let Some(Candidate { path, .. }) = unreadable {
        let problem = Problem::Unreadable;
        return Err(Error::File { path, problem });
    }
    let unusable: String = broken.iter().map(|line| format!(", {line}")).collect();
    let places = host.places(image_boot);
    Err(Error::None { places, unusable })
}

/// The files in `directory` whose names begin with a prefix, by the version that follows it, newest first.
fn newest_first(directory: &Path, links: Links, prefixes: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in file::names(directory, links).unwrap_or_default() {
        let bytes = name.as_encoded_bytes();
        let mut versions = prefixes
            .iter()
            .filter_map(|p| bytes.strip_prefix(p.as_bytes()));
        if let Some(version) = versions.next().filter(|version| !is_leftover(version)) {
            // Of two with one version the first in the alphabet: vmlinux needs no unpacking.
            found.push((std::cmp::Reverse(version_key(version)), name.clone()));
        }
    }
    found.sort();
    found
        .into_iter()
        .map(|(_, name)| directory.join(name))
        .collect()
}

/// Copies that `make install` and dpkg leave beside a kernel, and its signatures.
fn is_leftover(version: &[u8]) -> bool {
    let ends = [
        ".old",
        ".bak",
        ".dpkg-new",
        ".dpkg-tmp",
        ".dpkg-bak",
        ".sig",
        ".hmac",
    ];
    ends.iter().any(|end| version.ends_with(end.as_bytes()))
}

/// One piece of a version. The order of the variants is the order of versions: 6.1-rc2 < 6.1 < 6.1-3 < 6.1.1.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    Before(Vec<u8>),
    End,
    Text(Vec<u8>),
    /// Its length without leading zeros, then its digits: so 9 < 10.
    Number(usize, Vec<u8>),
}

fn version_key(version: &[u8]) -> Vec<Piece> {
    let runs = version.chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit());
    let piece = |run: &[u8]| match run {
        [b'~', ..] | [b'-', b'r', b'c'] => Piece::Before(run.to_vec()),
        [b'0'..=b'9', ..] => {
            let zeros = run.iter().take_while(|&&digit| digit == b'0').count();
            Piece::Number(run.len() - zeros, run[zeros..].to_vec())
        }
        _ => Piece::Text(run.to_vec()),
    };
    runs.map(piece).chain([Piece::End]).collect()
}
