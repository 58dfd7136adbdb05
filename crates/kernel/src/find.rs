//! Which files may be the kernel, in which order, and which of them it is.
//!
//! Takes the wish and the places (`Search`, plain data), returns paths; looks into directories, but into no file: what a
//! file is good for is asked of a function that the caller passes in.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::error::{Error, FileError};
use super::file::{self, Links};
use crate::KernelSpec;
use rdvm_hostfs::escape::shown;

/// Where kernels are looked for. Plain data: tests make their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search {
    /// `RDVM_KERNEL`, read as the argument of `-k` is.
    pub kernel: Option<OsString>,
    /// rdvm's cache directory, which need not exist; nothing is kept without one.
    pub cache: Option<PathBuf>,
    /// Why nothing new can be kept, where that is the user's home and no accident; one line.
    pub keeps_nothing: Option<String>,
    /// Directories with a small kernel for all users, in this order.
    pub shared: Vec<PathBuf>,
    /// The host's kernels, normally `/boot`.
    pub boot: PathBuf,
    /// The release of the host's running kernel, as `uname -r` prints it.
    pub release: String,
}

/// Where a small kernel for all users is looked for: an administrator's own, then a package's.
const SHARED: [&str; 2] = ["/usr/local/lib/rdvm", "/usr/lib/rdvm"];

/// Why a file is the kernel, or might have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// `--kernel`.
    Asked,
    /// `RDVM_KERNEL`.
    Environment,
    /// `rdvm kernel build`.
    Built,
    /// The same, installed for all users.
    Shared,
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
            Self::Shared => "installed for all users",
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

    /// Only an image's files belong to others.
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
        let (cache, keeps_nothing) =
            cache_dir(|name| env::var_os(name).filter(|value| !value.is_empty()));
        let uname = rustix::system::uname();
        Self {
            kernel: env::var_os("RDVM_KERNEL").filter(|value| !value.is_empty()),
            cache,
            keeps_nothing,
            shared: SHARED.map(PathBuf::from).to_vec(),
            boot: "/boot".into(),
            release: uname.release().to_string_lossy().into_owned(),
        }
    }

    /// Every file that `spec` allows, best first. Files in directories exist, the others may be missing.
    pub(super) fn candidates(
        &self,
        spec: &KernelSpec,
        image_boot: Option<&Path>,
    ) -> Vec<Candidate> {
        let asked = match spec {
            KernelSpec::Search => None,
            KernelSpec::File(path) => Some(path.clone()),
            KernelSpec::Named(name) => Some(self.resolve(name)),
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
        for shared in &self.shared {
            add(shared.join("vmlinux"), Origin::Shared);
            add(shared.join("bzImage"), Origin::Shared);
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

    /// Returns the file that `-k NAME` means: a path when it has a slash or is there, else a release in the host's boot directory.
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
        let places = built.iter().chain(&self.shared).map(PathBuf::as_path);
        let places = places.chain(image_boot).chain([self.boot.as_path()]);
        let places: Vec<_> = places.map(shown).collect();
        places.join(", ")
    }
}

/// `RDVM_CACHE`, else `rdvm` in the user's cache directory as the XDG specification finds it; and why nothing can be kept
/// there. A home that does not exist is not made.
fn cache_dir(var: impl Fn(&str) -> Option<OsString>) -> (Option<PathBuf>, Option<String>) {
    if let Some(own) = var("RDVM_CACHE") {
        return (Some(own.into()), None);
    }
    // The specification wants a relative path to be ignored.
    let xdg = var("XDG_CACHE_HOME").map(PathBuf::from);
    if let Some(base) = xdg.filter(|path| path.is_absolute()) {
        return (Some(base.join("rdvm")), None);
    }
    let Some(home) = var("HOME").map(PathBuf::from) else {
        return (None, None);
    };
    let note = |what: &str| {
        format!(
            "cache: HOME is {}, which {what}; nothing is kept there: RDVM_CACHE names another directory",
            shown(&home)
        )
    };
    if !home.is_dir() {
        return (None, Some(note("is no directory")));
    }
    let cache = home.join(".cache/rdvm");
    let nearest = cache.ancestors().find(|path| path.exists());
    let writable = nearest
        .is_none_or(|path| rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok());
    // What is there already is used all the same.
    (
        Some(cache),
        (!writable).then(|| note("cannot be written to")),
    )
}

/// The first candidate that `probe` accepts, what it gave, and a line for each broken file that was passed over.
///
/// # Errors
/// A file that was named and is not accepted; an unreadable one when nothing else is there; `None`.
pub(super) fn choose<T>(
    candidates: Vec<Candidate>,
    host: &Search,
    image_boot: Option<&Path>,
    probe: impl Fn(&Candidate) -> Result<T, FileError>,
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
            (Err(FileError::Missing), _) => {}
            (Err(FileError::Unreadable), _) => {
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
        let problem = FileError::Unreadable;
        return Err(Error::File { path, problem });
    }
    let unusable: String = broken.iter().map(|line| format!(", {line}")).collect();
    let places = host.places(image_boot);
    Err(Error::None { places, unusable })
}

/// The files in `directory` whose names begin with a prefix, by the version that follows it, newest first.
pub fn newest_first(directory: &Path, links: Links, prefixes: &[&str]) -> Vec<PathBuf> {
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
        [b'~', ..] | [b'-', b'r', b'c'] => Piece::Before(run[1..].to_vec()),
        [b'0'..=b'9', ..] => {
            let zeros = run.iter().take_while(|&&digit| digit == b'0').count();
            Piece::Number(run.len() - zeros, run[zeros..].to_vec())
        }
        _ => Piece::Text(run.to_vec()),
    };
    runs.map(piece).chain([Piece::End]).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn sorted(names: &[&str]) -> Vec<String> {
        let mut names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        names.sort_by_key(|name| version_key(name.as_bytes()));
        names
    }

    #[test]
    fn versions_are_compared_as_numbers_and_candidates_come_before_releases() {
        let order = [
            "linux-lts",
            "0-rescue-3f2a",
            "5.19.0-50-generic",
            "6.1.0-9-amd64",
            "6.1.0-10-amd64",
            "6.1.0-056-amd64",
            "6.1.0-56-cloud-amd64",
            "6.2.0~rc3-1",
            "6.2.0-rc4",
            "6.2.0",
            "6.2.0-1",
            "6.2.0.1",
            "6.10.0",
        ];
        let mut shuffled = order;
        shuffled.reverse();
        shuffled.swap(2, 7);
        assert_eq!(sorted(&shuffled), order);
    }

    #[test]
    fn the_cache_directory_is_found_as_the_xdg_specification_says() {
        let of = |vars: &[(&str, &str)]| {
            let find = |name: &str| vars.iter().find(|(key, _)| *key == name);
            cache_dir(|name| find(name).map(|(_, value)| value.into())).0
        };
        let home = tempfile::tempdir().unwrap();
        let home = home.path().to_str().unwrap();
        let at_home = Some(Path::new(home).join(".cache/rdvm"));
        let all = [
            ("RDVM_CACHE", "/r"),
            ("XDG_CACHE_HOME", "/x"),
            ("HOME", home),
        ];
        assert_eq!(of(&all), Some("/r".into()));
        assert_eq!(of(&all[1..]), Some("/x/rdvm".into()));
        assert_eq!(of(&all[2..]), at_home);
        assert_eq!(of(&[("XDG_CACHE_HOME", "x"), ("HOME", home)]), at_home);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_home_that_is_not_there_has_no_cache_and_one_that_is_has() {
        let dir = tempfile::tempdir().unwrap();
        let of = |home: &Path| cache_dir(|name| (name == "HOME").then(|| home.into()));
        assert_eq!(of(dir.path()), (Some(dir.path().join(".cache/rdvm")), None));
        let gone = dir.path().join("gone");
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        for home in [&gone, &file] {
            let (cache, note) = of(home);
            assert_eq!(cache, None);
            let note = note.unwrap();
            assert!(note.contains(home.to_str().unwrap()), "{note}");
            assert!(note.contains("is no directory; nothing is kept"), "{note}");
        }
    }

    /// A host with three kernels, running the middle one, and an image with two.
    fn host(dir: &Path) -> (Search, PathBuf) {
        let (boot, image) = (dir.join("host"), dir.join("image"));
        let files = [
            "vmlinuz-6.1.0-9",
            "vmlinuz-6.1.0-10",
            "vmlinuz-6.1.0-8",
            "config-6.1.0-9",
        ];
        for (directory, names) in [
            (&boot, &files[..]),
            (
                &image,
                &[
                    "vmlinuz-5.10.0",
                    "vmlinux-5.10.2",
                    "vmlinuz-6.0.old",
                    "vmlinuz",
                ],
            ),
        ] {
            fs::create_dir(directory).unwrap();
            for name in names {
                fs::write(directory.join(name), "").unwrap();
            }
        }
        let search = Search {
            cache: Some("/cache".into()),
            shared: vec!["/shared".into()],
            boot,
            release: "6.1.0-9".into(),
            ..Search::default()
        };
        (search, image)
    }

    #[test]
    fn the_search_goes_from_what_the_user_named_to_what_the_host_happens_to_have() {
        let dir = tempfile::tempdir().unwrap();
        let (mut host, image) = host(dir.path());
        host.kernel = Some("/env/bzImage".into());
        let list = host.candidates(&KernelSpec::Search, Some(&image));
        let boot = &host.boot;
        let want = [
            ("/env/bzImage".into(), Origin::Environment),
            ("/cache/kernel/vmlinux".into(), Origin::Built),
            ("/cache/kernel/bzImage".into(), Origin::Built),
            ("/shared/vmlinux".into(), Origin::Shared),
            ("/shared/bzImage".into(), Origin::Shared),
            (image.join("vmlinux-5.10.2"), Origin::Image),
            (image.join("vmlinuz-5.10.0"), Origin::Image),
            (boot.join("vmlinuz-6.1.0-9"), Origin::Running),
            (boot.join("vmlinuz-6.1.0-10"), Origin::Newest),
            (boot.join("vmlinuz-6.1.0-8"), Origin::Newest),
        ];
        let want = want.map(|(path, origin)| Candidate { path, origin });
        assert_eq!(list, want);
    }

    #[test]
    fn a_name_is_a_path_when_it_has_a_slash_or_is_there_and_else_a_release() {
        let dir = tempfile::tempdir().unwrap();
        let (host, _) = host(dir.path());
        let of = |name: &str| {
            let spec = KernelSpec::Named(name.into());
            let mut list = host.candidates(&spec, None);
            (list.len(), list.remove(0).path)
        };
        assert_eq!(of("./bzImage"), (1, "./bzImage".into()));
        assert_eq!(of("Cargo.toml"), (1, "Cargo.toml".into()));
        assert_eq!(of("6.1.0-8"), (1, host.boot.join("vmlinuz-6.1.0-8")));
        assert_eq!(of("no-such"), (1, host.boot.join("vmlinuz-no-such")));
    }

    fn chosen(
        spec: &KernelSpec,
        image: Option<&Path>,
        host: &Search,
        probe: impl Fn(&str) -> Result<(), FileError>,
    ) -> Result<(String, Vec<String>), String> {
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let probe = |candidate: &Candidate| probe(&name(&candidate.path));
        match choose(host.candidates(spec, image), host, image, probe) {
            Ok((candidate, (), broken)) => Ok((name(&candidate.path), broken)),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn unreadable_kernels_are_passed_over_and_named_only_when_nothing_else_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (host, image) = host(dir.path());
        let (spec, image) = (KernelSpec::Search, Some(image.as_path()));
        let only = |name: &'static str| {
            move |asked: &str| match asked {
                "vmlinux" | "bzImage" => Err(FileError::Missing),
                asked if asked == name => Ok(()),
                _ => Err(FileError::Unreadable),
            }
        };
        let found = chosen(&spec, image, &host, only("vmlinuz-6.1.0-8"));
        assert_eq!(found, Ok(("vmlinuz-6.1.0-8".into(), vec![])));
        let error = chosen(&spec, image, &host, only("")).unwrap_err();
        let running = host.boot.join("vmlinuz-6.1.0-9");
        let want = format!("{}: permission denied; sudo chmod a+r ", running.display());
        assert!(error.starts_with(&want), "{error}");
    }

    #[test]
    fn a_broken_kernel_is_passed_over_with_a_word_unless_it_was_named() {
        let dir = tempfile::tempdir().unwrap();
        let (mut host, _) = host(dir.path());
        let probe = |name: &str| match name {
            "vmlinuz-6.1.0-9" => Err(FileError::Changed),
            "vmlinux" | "bzImage" => Err(FileError::Missing),
            _ => Ok(()),
        };
        let (name, broken) = chosen(&KernelSpec::Search, None, &host, probe).unwrap();
        assert_eq!(name, "vmlinuz-6.1.0-10");
        assert!(broken[0].ends_with("vmlinuz-6.1.0-9: changed while it was read"));
        host.kernel = Some("6.1.0-9".into());
        assert!(chosen(&KernelSpec::Search, None, &host, probe).is_err());
        let asked = KernelSpec::Named("6.1.0-10".into());
        assert!(chosen(&asked, None, &host, probe).is_ok());
    }

    #[test]
    fn when_there_is_no_kernel_at_all_the_error_says_where_it_looked_and_what_to_install() {
        let dir = tempfile::tempdir().unwrap();
        let host = Search {
            cache: Some("/c".into()),
            boot: dir.path().join("boot"),
            ..Search::default()
        };
        let missing = |_: &str| Err(FileError::Missing);
        let error = chosen(&KernelSpec::Search, Some(Path::new("/i")), &host, missing);
        let want = format!(
            "kernel: none found in /c/kernel, /i, {}; sudo apt install linux-image-cloud-amd64 (Debian) or \
             linux-image-kvm (Ubuntu), or name one with -k FILE",
            host.boot.display()
        );
        assert_eq!(error, Err(want));
    }
}
