//! The in-memory file system: what an image contains, independent of the form it came in.
//!
//! Takes entries in any order from a reader (`dir.rs`), gives them back sorted, parents before children,
//! each at most once. File contents are not held here: a regular file says where its bytes are, and they are
//! read once, when the initrd is written. Knows nothing of cpio.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use super::host::HostDir;

/// The longest path the kernel's initramfs unpacker accepts, without the terminating NUL (`PATH_MAX` - 1).
pub const PATH_LIMIT: usize = 4095;
/// The longest single name a Linux file system accepts (`NAME_MAX`).
pub const NAME_LIMIT: usize = 255;

/// The one name at the top that the initramfs format cannot carry: it ends the archive.
pub const RESERVED_NAME: &[u8] = b"TRAILER!!!";

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
    /// What it is.
    pub kind: Kind,
}

/// What an entry is, with what only that kind has.
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
    /// A file on the host, and what `stat` said when it was found.
    Host {
        /// The directory it is in, always reached from the image's held root.
        dir: Arc<HostDir>,
        /// Its name there.
        name: Box<[u8]>,
        /// What must still be true when it is read.
        stamp: Stamp,
    },
    /// Bytes made by rdvm itself.
    Bytes(Arc<[u8]>),
}

/// What identifies one state of one host file: any difference means that it changed while it was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Length in bytes.
    pub size: u64,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i128,
    /// Change time, nanoseconds since the epoch.
    pub ctime_ns: i128,
}

/// A whole file system: entries sorted by path, parents before their children, no path twice.
///
/// Paths are compared component by component, each as bytes, so that everything below a directory follows it
/// directly: `a`, `a/b`, `a-b`. The root's own entry (the empty path) may be missing, no other parent may.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    entries: Vec<Entry>,
    warnings: Vec<Warning>,
}

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
        })
    }

    /// The same tree with what the user should know about how it was read.
    pub fn with_warnings(mut self, warnings: Vec<Warning>) -> Self {
        self.warnings = warnings;
        self
    }

    /// All entries, in order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry at exactly this path (no links are followed), if there is one.
    pub fn get(&self, path: &[u8]) -> Option<&Entry> {
        let index = self
            .entries
            .binary_search_by(|entry| compare(&entry.path, path))
            .ok()?;
        Some(&self.entries[index])
    }

    /// What was left out on purpose while the image was read.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

/// Something left out of the tree on purpose, to be shown to the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// Another file system is mounted on this directory.
    #[error(
        "{}: is a mount point, packed as an empty directory; copy its contents into the image if they are needed",
        escaped(path)
    )]
    MountPoint {
        /// Where, in the image.
        path: ImagePath,
    },
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

/// The path of the directory that holds `path`, and the name in it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[], path),
    }
}

/// Every path is a plain name in a directory that came before it.
///
/// Since the parent was checked first, only the last component has to be looked at.
fn check_places(sorted: &[Entry]) -> Result<(), Error> {
    let mut parents: Vec<&Entry> = Vec::new();
    let mut previous: Option<&Entry> = None;
    for entry in sorted {
        let path = &entry.path;
        if previous.is_some_and(|previous| previous.path == *path) {
            return Err(Error::Duplicate { path: path.clone() });
        }
        previous = Some(entry);
        if path.is_empty() {
            if entry.kind != Kind::Directory {
                return Err(Error::RootNotDirectory);
            }
            continue;
        }
        let (parent, name) = split(path);
        check_name(path, name)?;
        while parents.last().is_some_and(|above| above.path != parent) {
            parents.pop();
        }
        if parents.is_empty() && !parent.is_empty() {
            return Err(Error::NoParent { path: path.clone() });
        }
        if entry.kind == Kind::Directory {
            parents.push(entry);
        }
    }
    Ok(())
}

/// One name is one that Linux accepts; `path` is the whole of it.
fn check_name(path: &[u8], name: &[u8]) -> Result<(), Error> {
    if path.len() > PATH_LIMIT {
        return Err(Error::PathTooLong {
            start: path[..64].to_vec(),
            bytes: path.len(),
        });
    }
    if name.len() > NAME_LIMIT {
        return Err(Error::NameTooLong {
            path: path.to_vec(),
            bytes: name.len(),
        });
    }
    if path == RESERVED_NAME {
        return Err(Error::Reserved);
    }
    if matches!(name, b"" | b"." | b"..") || name.contains(&0) || path[0] == b'/' {
        return Err(Error::BadName {
            path: path.to_vec(),
        });
    }
    Ok(())
}

/// What an entry says of itself can be true.
fn check_entry(entry: &Entry) -> Result<(), Error> {
    let path = || entry.path.clone();
    if entry.mode & !0o7777 != 0 {
        return Err(Error::BadMode {
            path: path(),
            mode: entry.mode,
        });
    }
    match &entry.kind {
        Kind::Symlink(target)
            if target.is_empty() || target.len() > PATH_LIMIT || target.contains(&0) =>
        {
            Err(Error::BadTarget {
                path: path(),
                bytes: target.len(),
            })
        }
        Kind::File(FileBody {
            size,
            content: Content::Bytes(bytes),
            ..
        }) if *size != bytes.len() as u64 => Err(Error::LinksDiffer { path: path() }),
        _ => Ok(()),
    }
}

/// All names of one file agree on its length.
fn check_links(entries: &[Entry]) -> Result<(), Error> {
    let mut sizes = HashMap::new();
    for entry in entries {
        if let Kind::File(FileBody {
            size,
            link: Some(link),
            ..
        }) = &entry.kind
            && sizes.insert(link, size).is_some_and(|other| other != size)
        {
            return Err(Error::LinksDiffer {
                path: entry.path.clone(),
            });
        }
    }
    Ok(())
}

/// A path for messages: printable text as it is, everything else (control characters, bytes that are not UTF-8,
/// the backslash itself) as an escape, so that a name cannot act on a terminal or break a line.
pub fn escaped(path: &[u8]) -> String {
    let mut shown = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\\' => shown.push_str("\\\\"),
                // `char::escape_debug` knows what is printable, but would also escape quotes.
                '\'' | '"' => shown.push(letter),
                _ => shown.extend(letter.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown
}

/// Why entries do not make a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A path the kernel's unpacker would skip.
    #[error(
        "{}…: the path has {bytes} bytes, {PATH_LIMIT} is the limit; use shorter names or fewer levels",
        escaped(start)
    )]
    PathTooLong {
        /// Its first bytes.
        start: ImagePath,
        /// Its length.
        bytes: usize,
    },
    /// A name no Linux file system takes.
    #[error(
        "{}: the name has {bytes} bytes, {NAME_LIMIT} is the limit; use a shorter one",
        escaped(path)
    )]
    NameTooLong {
        /// The whole path.
        path: ImagePath,
        /// Length of the last name.
        bytes: usize,
    },
    /// An empty component, `.`, `..` or one with a NUL byte.
    #[error(
        "{}: not a plain path inside the image; remove the entry",
        escaped(path)
    )]
    BadName {
        /// The path as it came.
        path: ImagePath,
    },
    /// The end mark of the archive as a file name.
    #[error("TRAILER!!!: the initrd format uses this name as its end mark; rename the file")]
    Reserved,
    /// A path that is there twice.
    #[error("{}: is there twice; keep one of them", escaped(path))]
    Duplicate {
        /// Which.
        path: ImagePath,
    },
    /// An entry whose directory is missing, or not a directory.
    #[error(
        "{}: there is no directory to hold it; add the directory before it",
        escaped(path)
    )]
    NoParent {
        /// The entry.
        path: ImagePath,
    },
    /// The root is something else than a directory.
    #[error("the image's root is not a directory; use a directory that holds a root file system")]
    RootNotDirectory,
    /// A target that is empty, too long, or has a NUL byte.
    #[error(
        "{}: a link target of {bytes} bytes cannot be kept, 1 to {PATH_LIMIT} without NUL can; remove the link",
        escaped(path)
    )]
    BadTarget {
        /// The link.
        path: ImagePath,
        /// Length of the target.
        bytes: usize,
    },
    /// More than permission bits.
    #[error("{}: {mode:o} is not a mode; keep it within 7777", escaped(path))]
    BadMode {
        /// Which.
        path: ImagePath,
        /// What it says.
        mode: u16,
    },
    /// Names of one file, or a file and its bytes, that do not agree on the length.
    #[error(
        "{}: its length is not that of the file it is a name of; pack it again while nothing changes it",
        escaped(path)
    )]
    LinksDiffer {
        /// One of the names.
        path: ImagePath,
    },
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

    #[test]
    fn messages_never_carry_raw_control_bytes() {
        assert_eq!(
            escaped(b"a b\n\x1b[2J\xff\\\"'"),
            "a b\\n\\u{1b}[2J\\xff\\\\\"'"
        );
        assert_eq!(escaped("é/日本\u{202e}".as_bytes()), "é/日本\\u{202e}");
    }
}
