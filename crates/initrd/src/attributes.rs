//! Extended attributes, which newc cannot hold: the table that goes beside the archive, and the words for lost ones.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use rdvm_proto::AttributesTable;

use super::Error;
use rdvm_hostfs::escape::escaped;
use rdvm_image::tree::{Entry, FileBody, Kind, Tree};

/// The longest name the kernel takes (`XATTR_NAME_MAX` of `linux/limits.h`).
const NAME_LIMIT: usize = 255;
/// The longest value the kernel takes (`XATTR_SIZE_MAX`).
const VALUE_LIMIT: usize = 65_536;
/// The attribute that makes a program run with capabilities.
const CAPABILITY: &[u8] = b"security.capability";

/// Returns the table of a tree's extended attributes; `None` where it has none. Hard links share one entry.
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

/// Returns the entries that have attributes; of a hard-linked file's names the first.
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

/// Returns the line about attributes that are lost, since `what` has no place for them; `None` where the tree has none.
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

/// Returns a path of the table as one from the guest's root.
pub fn shown(path: &[u8]) -> String {
    match path {
        b"." => "/".to_owned(),
        path => format!("/{}", escaped(path)),
    }
}

/// Returns the counts in words: "3 extended attributes of 2 files (1 a file capability)".
pub fn counted(attributes: u64, files: u64, capabilities: u64) -> String {
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
    use rdvm_proto::Attributes;

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
    fn attributes_that_are_left_out_are_counted_and_the_first_is_named() {
        assert_eq!(
            left_out(&tree(), "no place").unwrap(),
            "3 extended attributes of 2 files (1 a file capability) left out, the first trusted.r of /: no place"
        );
    }
}
