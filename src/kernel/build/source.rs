//! The kernel's source: which archive or directory, and what it takes to build from it. Reads no contents.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::Error;
use rdvm_hostfs::escape::shown;
use rdvm_hostfs::units::ByteSize;
use rdvm_kernel::file::Links;
use rdvm_kernel::find;

/// Unpacked it is 1.4 GiB in Linux 6.1, and grows; see `OUT`.
const TREE: ByteSize = ByteSize::mib(2048);
/// Objects and programs of a build, 150 MiB in Linux 6.1, with room to spare.
const OUT: ByteSize = ByteSize::mib(512);

/// The end of an archive's name, the program that unpacks it, and the package that has that.
pub(super) const PACKINGS: [(&str, &str, &str); 4] = [
    (".tar.xz", "xz", "xz-utils"),
    (".tar.bz2", "bzip2", "bzip2"),
    (".tar.gz", "gzip", "gzip"),
    (".tar.zst", "zstd", "zstd"),
];

/// The source of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// A tar archive, all of it below one directory.
    Archive {
        path: PathBuf,
        /// The program that tar needs for it, and its package.
        unpacker: (&'static str, &'static str),
    },
    /// Unpacked already; nothing is written into it.
    Directory(PathBuf),
}

impl Source {
    /// Returns the source that was asked for, else the newest of the distribution's archives in `place`.
    ///
    /// # Errors
    /// `Source` or `NoSource`.
    pub(super) fn find(asked: Option<&Path>, place: &Path) -> Result<Self, Error> {
        if let Some(path) = asked {
            return Self::open(path).map_err(|what| Error::Source {
                path: shown(path),
                what,
            });
        }
        find::newest_first(place, Links::Follow, &["linux-source-"])
            .into_iter()
            .find_map(Self::archive)
            .ok_or_else(|| Error::NoSource {
                place: shown(place),
            })
    }

    fn open(path: &Path) -> Result<Self, String> {
        // The programs that work on it run in another directory.
        let path = path.canonicalize().map_err(|error| text(&error))?;
        if path.is_dir() {
            return match path.join("Makefile").is_file() {
                true => Ok(Self::Directory(path)),
                false => Err("holds no Makefile".into()),
            };
        }
        fs::File::open(&path).map_err(|error| text(&error))?;
        Self::archive(path).ok_or_else(|| "is neither a directory nor an archive known here".into())
    }

    /// A file whose name is that of an archive.
    fn archive(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (_, program, package) = PACKINGS.iter().find(|(end, ..)| name.ends_with(end))?;
        let unpacker = (*program, *package);
        path.is_file().then_some(Self::Archive { path, unpacker })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Archive { path, .. } | Self::Directory(path) => path,
        }
    }

    /// Room that a build needs for a while.
    pub(super) fn space(&self) -> ByteSize {
        match self {
            Self::Archive { .. } => ByteSize(TREE.0 + OUT.0),
            Self::Directory(_) => OUT,
        }
    }
}

fn text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_archive_of_the_distribution_is_taken_unless_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path();
        let none = Source::find(None, place).unwrap_err().to_string();
        let want = format!(
            "kernel source: no {}/linux-source-*.tar.* is there; ",
            shown(place)
        );
        assert!(none.starts_with(&want), "{none}");
        assert!(none.contains("sudo apt install linux-source"), "{none}");
        for name in [
            "linux-source-6.9.tar.xz",
            "linux-source-6.10.tar.bz2",
            "linux-source-6.11.dsc",
        ] {
            fs::write(place.join(name), "").unwrap();
        }
        fs::create_dir(place.join("linux-source-6.12.tar.xz")).unwrap();
        let found = Source::find(None, place).unwrap();
        assert_eq!(found.path(), place.join("linux-source-6.10.tar.bz2"));
        let asked = place.join("linux-source-6.9.tar.xz");
        let found = Source::find(Some(&asked), place).unwrap();
        let Source::Archive { path, unpacker } = found else {
            panic!("{found:?}");
        };
        assert_eq!(path, asked.canonicalize().unwrap());
        assert_eq!(unpacker, ("xz", "xz-utils"));
    }

    #[test]
    fn what_cannot_be_a_source_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("source.zip"), "").unwrap();
        for (name, what) in [
            ("none", "no such file or directory"),
            ("", "holds no Makefile"),
            (
                "source.zip",
                "is neither a directory nor an archive known here",
            ),
        ] {
            let path = dir.path().join(name);
            let error = Source::find(Some(&path), Path::new("/nowhere")).unwrap_err();
            let want = format!("--source: {}: {what}; name a ", shown(&path));
            assert!(error.to_string().starts_with(&want), "{error}");
        }
    }
}
