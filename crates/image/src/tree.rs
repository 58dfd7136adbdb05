//! The in-memory file system: what an image contains, independent of the form it came in.
//!
//! Takes entries in any order from a reader (`dir.rs`), returns them sorted, parents before children,
//! each at most once. Contents of all but small files are not held here: a file says where its bytes are, and they
//! are read once, when the initrd is written. Knows nothing of cpio.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use super::byte_source::{ByteSource, Span};
use super::host::HostFile;
use super::member::Extent;
use super::rules::{check_entry, check_links, check_places};
use rdvm_hostfs::escape::escaped;

pub use super::rules::Error;

/// The longest path the kernel's initramfs unpacker accepts, without the terminating NUL (`PATH_MAX` - 1).
pub(crate) const PATH_LIMIT: usize = 4095;
/// The longest single name a Linux file system accepts (`NAME_MAX`).
pub(crate) const NAME_LIMIT: usize = 255;

/// The one name at the top that the initramfs format cannot carry: it ends the archive.
pub(crate) const RESERVED_NAME: &[u8] = b"TRAILER!!!";

/// A path inside the image: relative to its root, components joined by `/`, no `.`, `..`, empty component or NUL.
/// The root itself is the empty path.
pub type ImagePath = Vec<u8>;

/// One file system object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is in the image.
    pub path: ImagePath,
    /// Permission bits including set-uid, set-gid and sticky (`0o7777` at most); no file type.
    pub mode: u16,
    /// Numeric owner in the guest.
    pub uid: u32,
    /// Numeric group in the guest.
    pub gid: u32,
    /// Modification time in seconds since the epoch, as the source has it.
    pub mtime: i64,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Its kind.
    pub kind: Kind,
}

/// Extended attributes: name with its namespace (`security.capability`) → value. Most entries have none.
pub(crate) type Xattrs = Option<Arc<BTreeMap<Vec<u8>, Vec<u8>>>>;

/// The kind of an entry, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File(FileBody),
    /// A symbolic link and its target, as bytes.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
    /// A unix socket's name.
    Socket,
}

/// The contents of a regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileBody {
    /// Length in bytes.
    pub size: u64,
    /// Where the bytes are.
    pub content: Content,
    /// Names of one file carry the same number; `None` where there is only this name.
    pub link: Option<LinkId>,
}

/// Identifies the set of names of one hard-linked file within a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// Where the bytes of a file are until they are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file on the host.
    Host(Box<HostFile>),
    /// Bytes in memory: made by rdvm, or of a file so small that it was read when it was found.
    Bytes(Arc<[u8]>),
    /// A stretch of an archive.
    Span(Span),
    /// Several stretches of an archive, sorted by where they are in the file, with holes around them.
    Sparse(Arc<[Extent]>),
}

impl Content {
    /// Returns all of the bytes, `size` of them.
    ///
    /// # Errors
    /// A file that cannot be read, or has changed since it was found.
    pub fn read(&self, size: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
        match self {
            Self::Host(file) => return file.read(),
            Self::Bytes(bytes) => return Ok(bytes.to_vec()),
            Self::Span(span) => span.store.read_exact(span.offset, &mut bytes)?,
            Self::Sparse(extents) => read_sparse(extents, 0, &mut bytes)?,
        }
        Ok(bytes)
    }
}

/// Fills `buffer`, which is all zero, with a sparse file's bytes from `from` on.
///
/// # Errors
/// As [`super::byte_source::ByteSource::read_exact`].
pub(crate) fn read_sparse(extents: &[Extent], from: u64, buffer: &mut [u8]) -> Result<(), Errno> {
    let end = from + buffer.len() as u64;
    let first = extents.partition_point(|extent| extent.at + extent.length <= from);
    for extent in extents[first..].iter().take_while(|extent| extent.at < end) {
        let (start, stop) = (extent.at.max(from), (extent.at + extent.length).min(end));
        let offset = extent.bytes.offset + (start - extent.at);
        let piece = &mut buffer[(start - from) as usize..(stop - from) as usize];
        extent.bytes.store.read_exact(offset, piece)?;
    }
    Ok(())
}

/// A whole file system: entries sorted by path, parents before their children, no path twice.
///
/// Paths are compared component by component, each as bytes, so that everything below a directory follows it
/// directly: `a`, `a/b`, `a-b`. The root's own entry (the empty path) may be missing, no other parent may.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    entries: Vec<Entry>,
    warnings: Vec<Warning>,
    stores: Stores,
}

/// The sources of archives' contents. Trees are equal whatever they came from.
#[derive(Debug, Clone, Default)]
struct Stores(Vec<Arc<ByteSource>>);

impl PartialEq for Stores {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Stores {}

impl Tree {
    /// Sorts entries that come in any order and checks everything the types alone do not promise.
    ///
    /// Errors name the offending path: not a plain path, too long, there twice, without a parent directory, a link
    /// target that Linux cannot hold, or names of one file that disagree.
    pub fn from_entries(mut entries: Vec<Entry>) -> Result<Self, Error> {
        if !entries.is_sorted_by(|a, b| compare(&a.path, &b.path).is_lt()) {
            entries.sort_by(|a, b| compare(&a.path, &b.path));
        }
        check_places(&entries)?;
        check_links(&entries)?;
        entries.iter().try_for_each(check_entry)?;
        Ok(Self {
            entries,
            warnings: Vec::new(),
            stores: Stores::default(),
        })
    }

    /// The same tree with what the user should know about how it was read.
    pub(crate) fn with_warnings(mut self, warnings: Vec<Warning>) -> Self {
        self.warnings = warnings;
        self
    }

    /// The same tree with the stores that its contents are read from, for [`Self::check_unchanged`].
    pub(crate) fn with_stores(mut self, stores: Vec<Arc<ByteSource>>) -> Self {
        self.stores = Stores(stores);
        self
    }

    /// True if the archives are still what they were; to be asked when all contents have been read. (Files of a
    /// directory are looked at one by one, when they are read.)
    ///
    /// # Errors
    /// The name of an archive that is not, for messages.
    pub fn check_unchanged(&self) -> Result<(), String> {
        let changed = |store: &&Arc<ByteSource>| store.check_unchanged().is_err();
        match self.stores.0.iter().find(changed) {
            Some(store) => Err(store.shown().to_owned()),
            None => Ok(()),
        }
    }

    /// All entries, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns all entries, in order, to make another tree of them.
    pub(crate) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// The entry at exactly this path (no links are followed), if there is one.
    pub fn get(&self, path: &[u8]) -> Option<&Entry> {
        let index = self
            .entries
            .binary_search_by(|entry| compare(&entry.path, path))
            .ok()?;
        Some(&self.entries[index])
    }

    /// The entry that a process in the image finds at this path: links are followed, inside the tree, forty of them at most.
    pub fn find(&self, path: &[u8]) -> Option<&Entry> {
        /// As many as Linux follows for one name (`MAXSYMLINKS`).
        const HOPS: usize = 40;
        let mut hops = 0;
        let mut rest: VecDeque<Vec<u8>> = components(path).collect();
        let mut at: Vec<Vec<u8>> = Vec::new();
        let mut found = None;
        while let Some(name) = rest.pop_front() {
            if name == b".." {
                at.pop();
                continue;
            }
            at.push(name);
            let entry = self.get(&at.join(&b'/'))?;
            if let Kind::Symlink(target) = &entry.kind {
                hops += 1;
                if hops > HOPS {
                    return None;
                }
                match target.first() {
                    Some(b'/') => at.clear(),
                    _ => drop(at.pop()),
                }
                for name in components(target).rev() {
                    rest.push_front(name);
                }
            }
            found = self.get(&at.join(&b'/'));
        }
        found
    }

    /// Returns what was left out on purpose while the image was read.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

/// Something left out of the tree on purpose, or not known to be there, to be shown to the user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Warning {
    /// A tar archive that nothing proves to be whole.
    #[error(
        "{shown}: the archive has no end marker; should files be missing, it was cut off: get all of it"
    )]
    NoEndMarker { shown: String },
    /// Bytes that no program reads.
    #[error(
        "{shown}: what follows the end of the archive at offset {at} is left out; if several were put one behind the other, join them with tar --concatenate"
    )]
    BehindTheEnd { shown: String, at: u64 },
    /// Another file system is mounted on this directory.
    #[error(
        "{}: is a mount point, packed as an empty directory; copy its contents into the image if they are needed",
        escaped(path)
    )]
    MountPoint { path: ImagePath },
    /// The owners of a directory's files were not taken over.
    #[error("{shown}: read without root, so its files belong to root in the guest")]
    Owners { shown: String },
}

/// A path's components but `.`, each by itself.
fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    let parts = path.split(|&byte| byte == b'/');
    let parts = parts.filter(|part| !part.is_empty() && *part != b".");
    parts.map(<[u8]>::to_vec)
}

/// The order of a tree: by components. Equal to comparing bytes if `/` were the smallest of all.
fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    match (a.get(same), b.get(same)) {
        (Some(b'/'), Some(_)) => Ordering::Less,
        (Some(_), Some(b'/')) => Ordering::Greater,
        (x, y) => x.cmp(&y),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry {
            path: path.into(),
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: None,
            kind,
        }
    }

    fn tree(paths: &[(&str, Kind)]) -> Result<Tree, Error> {
        Tree::from_entries(
            paths
                .iter()
                .map(|(path, kind)| entry(path, kind.clone()))
                .collect(),
        )
    }

    fn order(tree: &Tree) -> Vec<&str> {
        tree.entries()
            .iter()
            .map(|entry| str::from_utf8(&entry.path).unwrap())
            .collect()
    }

    use Kind::{Directory, Fifo};

    #[test]
    fn everything_below_a_directory_follows_it_and_every_path_is_found_again() {
        let names = [
            "a-b", "a/b", "a", "a/b/c", "a.d/x", "a.d", "", "a/b-", "\u{1}", "a0", "A",
        ];
        let kinds = names.map(|name| {
            (
                name,
                if ["", "a", "a/b", "a.d"].contains(&name) {
                    Directory
                } else {
                    Fifo
                },
            )
        });
        let tree = tree(&kinds).unwrap();
        assert_eq!(
            order(&tree),
            [
                "", "\u{1}", "A", "a", "a/b", "a/b/c", "a/b-", "a-b", "a.d", "a.d/x", "a0"
            ]
        );
        for name in names {
            assert_eq!(tree.get(name.as_bytes()).unwrap().path, name.as_bytes());
        }
        for missing in ["b", "a/", "a/b/", "a-", "a/b/d", "/"] {
            assert_eq!(tree.get(missing.as_bytes()), None, "{missing}");
        }
    }

    #[test]
    fn a_path_that_is_not_plain_is_refused() {
        for bad in [
            "..", ".", "/x", "d/..", "d/.", "d//x", "d/", "d/x\0y", "x\0",
        ] {
            let error = tree(&[("d", Directory), (bad, Fifo)]).expect_err(bad);
            assert!(
                matches!(error, Error::BadName { .. } | Error::NoParent { .. }),
                "{bad:?}: {error}"
            );
        }
        for bad in ["..", ".", "/x", "d/..", "d/.", "d/", "d/x\0y"] {
            assert!(
                matches!(
                    tree(&[("d", Directory), (bad, Fifo)]),
                    Err(Error::BadName { .. })
                ),
                "{bad:?}"
            );
        }
        assert!(matches!(
            tree(&[("../x", Fifo)]),
            Err(Error::NoParent { .. })
        ));
        assert_eq!(tree(&[("TRAILER!!!", Fifo)]), Err(Error::Reserved));
        assert!(tree(&[("d", Directory), ("d/TRAILER!!!", Fifo), ("-x", Fifo)]).is_ok());
    }

    #[test]
    fn limits_are_the_last_lengths_that_linux_takes() {
        let name = "n".repeat(NAME_LIMIT);
        assert!(tree(&[(&name, Fifo)]).is_ok());
        assert!(matches!(
            tree(&[(&(name.clone() + "n"), Fifo)]),
            Err(Error::NameTooLong { bytes: 256, .. })
        ));

        let deep: Vec<String> = (1..=16)
            .map(|depth| vec![name.as_str(); depth].join("/"))
            .collect();
        let mut dirs: Vec<(&str, Kind)> =
            deep.iter().map(|path| (path.as_str(), Directory)).collect();
        assert_eq!(deep[15].len(), PATH_LIMIT);
        assert!(tree(&dirs).is_ok());
        let over = deep[15].clone() + "/x";
        dirs.push((&over, Fifo));
        assert!(matches!(
            tree(&dirs),
            Err(Error::PathTooLong { bytes: 4097, .. })
        ));

        for (length, good) in [
            (0, false),
            (1, true),
            (PATH_LIMIT, true),
            (PATH_LIMIT + 1, false),
        ] {
            assert_eq!(
                tree(&[("l", Kind::Symlink(vec![b't'; length]))]).is_ok(),
                good,
                "{length}"
            );
        }
    }

    #[test]
    fn links_are_followed_inside_the_tree_when_asked_for() {
        let link = |target: &str| Kind::Symlink(target.into());
        let tree = tree(&[
            ("etc", link("/usr/./etc")),
            ("usr", Directory),
            ("usr/etc", Directory),
            ("usr/etc/passwd", link("../../../../data//p")),
            ("data", Directory),
            ("data/p", Fifo),
            ("loop", link("loop/x")),
        ]);
        let tree = tree.unwrap();
        let found = |path: &str| tree.find(path.as_bytes()).map(|entry| entry.path.clone());
        assert_eq!(found("/etc/passwd"), Some(b"data/p".to_vec()));
        assert_eq!(found("data/../data/p"), Some(b"data/p".to_vec()));
        for missing in ["/etc/group", "loop", "data/p/x", "nothing/../data"] {
            assert_eq!(found(missing), None, "{missing}");
        }
    }

    #[test]
    fn an_entry_needs_a_directory_above_it_and_a_path_of_its_own() {
        assert!(matches!(
            tree(&[("a/b", Fifo)]),
            Err(Error::NoParent { .. })
        ));
        assert!(matches!(
            tree(&[("a", Fifo), ("a/b", Fifo)]),
            Err(Error::NoParent { .. })
        ));
        assert!(matches!(
            tree(&[("a", Fifo), ("a", Directory)]),
            Err(Error::Duplicate { .. })
        ));
        assert_eq!(tree(&[("", Fifo)]), Err(Error::RootNotDirectory));
    }

    #[test]
    fn names_of_one_file_must_agree_on_its_length() {
        let name = |size: u64| {
            Kind::File(FileBody {
                size,
                content: Content::Bytes(vec![0; size as usize].into()),
                link: Some(LinkId(7)),
            })
        };
        assert!(tree(&[("a", name(3)), ("b", name(3))]).is_ok());
        assert!(matches!(
            tree(&[("a", name(3)), ("b", name(4))]),
            Err(Error::LinksDiffer { .. })
        ));
    }
}
