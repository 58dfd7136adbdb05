//! Extended attributes, which newc cannot hold: the table that goes beside the archive, and what is said of those that
//! are lost.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::Arc;

use rdvm_proto::{Attribute, Attributes, AttributesLost, AttributesTable};
use serde::Serialize;

use super::Error;
use rdvm_hostfs::escape::escaped;
use rdvm_image::tree::{Entry, FileBody, Kind, Tree};

/// The longest name the kernel takes (`XATTR_NAME_MAX` of `linux/limits.h`).
const NAME_LIMIT: usize = 255;
/// The longest value the kernel takes (`XATTR_SIZE_MAX`).
const VALUE_LIMIT: usize = 65_536;
/// The attribute that makes a program run with capabilities.
const CAPABILITY: &[u8] = b"security.capability";
const EOPNOTSUPP: i32 = 95;

/// The table of a tree's extended attributes; `None` where it has none. Names of one file are in it once.
///
/// # Errors
/// An attribute that Linux cannot have, by name.
pub fn table(tree: &Tree) -> Result<Option<Arc<[u8]>>, Error> {
    let mut table = AttributesTable::default();
    for (entry, list) in with_attributes(tree) {
        let bad = |name: &[u8], value: &[u8]| {
            let name_fits = (1..=NAME_LIMIT).contains(&name.len()) && !name.contains(&0);
            !name_fits || value.len() > VALUE_LIMIT
        };
        if let Some((name, value)) = list.iter().find(|(name, value)| bad(name, value)) {
            return Err(Error::BadAttribute {
                path: entry.path.clone(),
                name: name.clone(),
                bytes: value.len(),
            });
        }
        let path: &[u8] = match &entry.path[..] {
            b"" => b".",
            path => path,
        };
        table.push(
            path,
            list.iter().map(|(name, value)| (&name[..], &value[..])),
        );
    }
    Ok(table.finish().map(Into::into))
}

/// Entries that have attributes, with these; of a hard-linked file's names the first.
fn with_attributes(tree: &Tree) -> impl Iterator<Item = (&Entry, &BTreeMap<Vec<u8>, Vec<u8>>)> {
    let mut seen = HashSet::new();
    let mut is_first = move |entry: &Entry| match &entry.kind {
        Kind::File(FileBody {
            link: Some(link), ..
        }) => seen.insert(*link),
        _ => true,
    };
    tree.entries().iter().filter_map(move |entry| {
        let list = entry.xattrs.as_deref().filter(|list| !list.is_empty())?;
        is_first(entry).then_some((entry, list))
    })
}

/// Extended attributes that are not there in the guest, as the report has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// The number of attributes.
    pub attributes: u32,
    /// The number of files that they belong to.
    pub files: u32,
    /// The number of file capabilities among them.
    pub capabilities: u32,
    /// The line for stderr: the first of them, why, and what to do.
    pub message: String,
}

impl Loss {
    /// The guest's numbers with the host's words. `table` is what the guest was given.
    pub fn of(table: &[u8], lost: &AttributesLost) -> Self {
        Self {
            attributes: lost.attributes,
            files: lost.files,
            capabilities: lost.capabilities,
            message: lost_in_guest(table, lost),
        }
    }
}

fn lost_in_guest(table: &[u8], lost: &AttributesLost) -> String {
    let table = Attributes::decode(table);
    // The guest's word: there may be no such attribute.
    let first = table.and_then(|table| table.iter().nth(lost.first as usize));
    let bare = |text: &'_ [u8]| text.strip_suffix(b"\0").unwrap_or(text).to_vec();
    let which = first.map_or(String::new(), |Attribute { path, name, .. }| {
        format!(
            ", the first {} of {}",
            escaped(&bare(name)),
            shown(&bare(path))
        )
    });
    let name = first.map_or(&b""[..], |attribute| attribute.name);
    let (why, way_out) = match lost.errno {
        EOPNOTSUPP if name.starts_with(b"user.") => (
            "this kernel's tmpfs has none of that kind".to_owned(),
            "use Linux 6.6 or newer",
        ),
        EOPNOTSUPP => (
            "this kernel's tmpfs has none of that kind".to_owned(),
            "use a kernel with CONFIG_TMPFS_XATTR and CONFIG_TMPFS_POSIX_ACL",
        ),
        errno => (
            io::Error::from_raw_os_error(errno).to_string(),
            "remove them from the image if they are not needed",
        ),
    };
    let count = counted(
        lost.attributes.into(),
        lost.files.into(),
        lost.capabilities.into(),
    );
    format!("{count} could not be set in the guest{which}: {why}; {way_out}")
}

/// The line about attributes that go nowhere, since `what` has no place for them; `None` where the tree has none.
pub fn left_out(tree: &Tree, what: &str) -> Option<String> {
    let (mut attributes, mut files, mut capabilities) = (0, 0, 0);
    let mut which = None;
    for (entry, list) in with_attributes(tree) {
        files += 1;
        attributes += list.len() as u64;
        for name in list.keys() {
            capabilities += u64::from(name == CAPABILITY);
            which.get_or_insert((name, &entry.path));
        }
    }
    let (name, path) = which?;
    Some(format!(
        "{} left out, the first {} of {}: {what}",
        counted(attributes, files, capabilities),
        escaped(name),
        shown(path)
    ))
}

/// A path as the guest has it.
fn shown(path: &[u8]) -> String {
    match path {
        b"." => "/".to_owned(),
        path => format!("/{}", escaped(path)),
    }
}

/// "3 extended attributes of 2 files (1 of them a file capability)".
fn counted(attributes: u64, files: u64, capabilities: u64) -> String {
    let plural = |count: u64| if count == 1 { "" } else { "s" };
    let mut text = format!(
        "{attributes} extended attribute{} of {files} file{}",
        plural(attributes),
        plural(files)
    );
    match capabilities {
        0 => {}
        1 => text.push_str(" (1 a file capability)"),
        n => text.push_str(&format!(" ({n} of them file capabilities)")),
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdvm_image::tree::{Content, LinkId};

    fn entry(path: &str, kind: Kind, list: &[(&str, &[u8])]) -> Entry {
        let list = list
            .iter()
            .map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec()));
        Entry {
            path: path.into(),
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: Some(Arc::new(list.collect())),
            kind,
        }
    }

    fn name_of_one_file() -> Kind {
        Kind::File(FileBody {
            size: 0,
            content: Content::Bytes(Arc::default()),
            link: Some(LinkId(1)),
        })
    }

    fn tree() -> Tree {
        let capability: &[(&str, &[u8])] = &[("security.capability", b"c"), ("user.\u{1b}", b"")];
        Tree::from_entries(vec![
            entry("", Kind::Directory, &[("trusted.r", b"r")]),
            entry("a", name_of_one_file(), capability),
            entry("b", name_of_one_file(), capability),
            entry("c", Kind::Fifo, &[]),
        ])
        .unwrap()
    }

    #[test]
    fn names_of_one_file_are_in_the_table_once_and_the_root_is_a_dot() {
        let table = table(&tree()).unwrap().unwrap();
        let table = Attributes::decode(&table).unwrap();
        let seen: Vec<_> = table.iter().map(|a| (a.path, a.name, a.value)).collect();
        assert_eq!(
            seen,
            [
                (&b".\0"[..], &b"trusted.r\0"[..], &b"r"[..]),
                (b"a\0", b"security.capability\0", b"c"),
                (b"a\0", b"user.\x1b\0", b""),
            ]
        );
    }

    #[test]
    fn without_attributes_there_is_no_table() {
        let plain = Tree::from_entries(vec![entry("c", Kind::Fifo, &[])]).unwrap();
        assert_eq!(table(&plain).unwrap(), None);
        assert_eq!(left_out(&plain, "x"), None);
    }

    #[test]
    fn what_linux_cannot_keep_is_refused_by_name() {
        let long = "user.".to_owned() + &"n".repeat(250);
        let one = |name: &str, value: &[u8]| {
            let entries = vec![entry("f", Kind::Fifo, &[(name, value)])];
            table(&Tree::from_entries(entries).unwrap())
        };
        assert!(one(&long, &[0; 65_536]).is_ok());
        for (name, value) in [
            ("", &b""[..]),
            ("user.a\0b", b""),
            (&(long + "n"), b""),
            ("user.\u{1b}", &[0; 65_537]),
        ] {
            let error = one(name, value).unwrap_err().to_string();
            let words = format!(
                "f: extended attribute \"{}\" of {} bytes",
                escaped(name.as_bytes()),
                value.len()
            );
            assert!(error.starts_with(&words), "{error}");
        }
    }

    #[test]
    fn a_loss_is_told_with_its_reason_and_a_way_out() {
        let table = table(&tree()).unwrap().unwrap();
        let lost = |first, errno| {
            let lost = AttributesLost {
                attributes: 2,
                files: 1,
                capabilities: 1,
                first,
                errno,
            };
            Loss::of(&table, &lost).message
        };
        assert_eq!(
            lost(1, EOPNOTSUPP),
            "2 extended attributes of 1 file (1 a file capability) could not be set in the guest, \
             the first security.capability of /a: this kernel's tmpfs has none of that kind; \
             use a kernel with CONFIG_TMPFS_XATTR and CONFIG_TMPFS_POSIX_ACL"
        );
        for (first, errno, words) in [
            (
                0,
                EOPNOTSUPP,
                "the first trusted.r of /: this kernel's tmpfs has none of that kind; use a kernel with",
            ),
            (
                2,
                EOPNOTSUPP,
                "the first user.\\u{1b} of /a: this kernel's tmpfs has none of that kind; use Linux 6.6",
            ),
            (1, 28, "of /a: No space left on device"),
            // No such attribute: the guest may say what it likes.
            (
                u32::MAX,
                i32::MIN,
                "could not be set in the guest: Unknown error",
            ),
        ] {
            let line = lost(first, errno);
            assert!(line.contains(words), "{line}");
        }
        assert_eq!(
            left_out(&tree(), "no place").unwrap(),
            "3 extended attributes of 2 files (1 a file capability) left out, the first trusted.r of /: no place"
        );
    }
}
