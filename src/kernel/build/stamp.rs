//! The source and options that a built kernel came from: `vmlinux.stamp` beside it, three lines of text.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::Error;
use super::source::Source;
use super::{fragment, patches};
use rdvm_hostfs::atomic::{AtomicFile, remove_if_there};
use rdvm_hostfs::escape::{escaped, shown};
use rdvm_hostfs::hex;

/// The identity of a build: a kernel with the same one need not be built again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BuildStamp {
    /// `None` for a directory, in which anything may have changed: always built anew.
    identity: Option<String>,
}

impl BuildStamp {
    /// That of a source with the options of this program. An archive is known by name, size and time: dpkg sets the
    /// time to that of the package, and hashing 130 MB would take longer than all else that is done when nothing is to
    /// be done.
    ///
    /// # Errors
    /// The source has gone.
    pub(super) fn of(source: &Source) -> Result<Self, Error> {
        let Source::Archive { path, .. } = source else {
            return Ok(Self { identity: None });
        };
        let meta = path.metadata().map_err(|source| Error::Host {
            what: shown(path),
            source,
        })?;
        let mut hash = Sha256::new_with_prefix(fragment::plain());
        patches::all().for_each(|patch| hash.update(patch));
        let hash = hex::encode(&hash.finalize());
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let name = escaped(name);
        let (bytes, modified) = (meta.len(), meta.mtime());
        Ok(Self {
            identity: Some(format!(
                "source {name} {bytes} {modified}\noptions {hash}\n"
            )),
        })
    }

    /// The release of the kernel in `home`, if it came from this source and these options.
    pub(super) fn release_of(&self, home: &Path) -> Option<String> {
        let text = fs::read_to_string(file(home)).ok()?;
        let (release, identity) = text.strip_prefix("release ")?.split_once('\n')?;
        (Some(identity) == self.identity.as_deref()).then(|| release.to_owned())
    }

    /// Writes it for the kernel in `home`.
    ///
    /// # Errors
    /// Those of writing.
    pub(super) fn write(&self, home: &Path, release: &str) -> io::Result<()> {
        let Some(identity) = &self.identity else {
            return Ok(());
        };
        let draft = AtomicFile::beside(&file(home))?;
        write!(draft.file(), "release {release}\n{identity}")?;
        draft.put_in_place()
    }

    /// Removes it, so that at no time it stands beside a kernel that it does not speak of.
    ///
    /// # Errors
    /// Those of removing a file that is there.
    pub(super) fn remove(&self, home: &Path) -> io::Result<()> {
        remove_if_there(&file(home))
    }
}

fn file(home: &Path) -> PathBuf {
    home.join("vmlinux.stamp")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_up_to_date_until_its_source_changes() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("linux-source-6.1.tar.xz");
        let stamp = || {
            BuildStamp::of(&Source::Archive {
                path: path.clone(),
                unpacker: ("xz", "xz-utils"),
            })
            .unwrap()
        };
        fs::write(&path, "one").unwrap();
        assert_eq!(stamp().release_of(home.path()), None);
        stamp().write(home.path(), "6.1.9-rdvm").unwrap();
        assert_eq!(stamp().release_of(home.path()), Some("6.1.9-rdvm".into()));
        let old = stamp();
        fs::write(&path, "other").unwrap();
        assert_eq!(stamp().release_of(home.path()), None);
        assert_eq!(old.release_of(home.path()), Some("6.1.9-rdvm".into()));
        old.remove(home.path()).unwrap();
        assert_eq!(old.release_of(home.path()), None);
        old.remove(home.path()).unwrap();
    }

    #[test]
    fn a_directory_is_always_built_anew() {
        let home = tempfile::tempdir().unwrap();
        let stamp = BuildStamp::of(&Source::Directory(home.path().into())).unwrap();
        stamp.write(home.path(), "6.1").unwrap();
        assert_eq!(stamp.release_of(home.path()), None);
    }
}
