//! Trees written, and read again: by GNU tar, by bsdtar, and by a naive model of what layers mean.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use proptest::prelude::*;
use rustix::fs::getxattr;

use super::layer::{Layer, link};
use super::*;
use rdvm_image::tree::{Content, Entry, FileBody, Kind, LinkId};

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

fn dir(path: &str) -> Entry {
    entry(path, Kind::Directory)
}

fn file(path: &str, bytes: &str) -> Entry {
    linked(path, bytes, None)
}

fn linked(path: &str, bytes: &str, link: Option<u64>) -> Entry {
    let body = FileBody {
        size: bytes.len() as u64,
        content: Content::Bytes(bytes.as_bytes().into()),
        link: link.map(LinkId),
    };
    entry(path, Kind::File(body))
}

fn symlink(path: &str, target: &str) -> Entry {
    entry(path, Kind::Symlink(target.into()))
}

fn tree(entries: &[Entry]) -> Tree {
    Tree::from_entries(entries.to_vec()).unwrap()
}

fn tar_of(layer: &Layer<'_>, epoch: u32) -> Vec<u8> {
    let mut out = Vec::new();
    tar::write(layer, Epoch(epoch), &mut out).unwrap();
    out
}

/// The names in a tar archive of ours, in its order.
fn names(archive: &[u8]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tar");
    fs::write(&path, archive).unwrap();
    let output = run(Command::new("tar")
        .args(["--quoting-style=escape", "-tf"])
        .arg(path));
    output.lines().map(str::to_owned).collect()
}

fn run(command: &mut Command) -> String {
    let output = command
        .env("TZ", "UTC")
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn changes(base: &[Entry], new: &[Entry], epoch: u32) -> Vec<String> {
    let (base, new) = (tree(base), tree(new));
    let layer = Layer::diff(&base, &new, Epoch(epoch)).unwrap();
    let names = names(&tar_of(&layer, epoch));
    assert_eq!(names.is_empty(), layer.is_empty());
    names
}

#[test]
fn a_layer_has_what_differs_below_its_directories_and_what_is_gone() {
    let base = [
        dir(""),
        dir("a"),
        file("a/gone", "1"),
        file("a/same", "1"),
        file("a/text", "old"),
        dir("b"),
        dir("b/c"),
        file("b/c/d", "deep"),
        file("top", "x"),
        dir("untouched"),
        file("untouched/f", "y"),
    ];
    let new = [
        dir(""),
        dir("a"),
        file("a/new", "1"),
        file("a/same", "1"),
        file("a/text", "new"),
        dir("b"),
        dir("untouched"),
        file("untouched/f", "y"),
    ];
    let expected = [
        ".wh.top",
        "a/",
        "a/.wh.gone",
        "a/new",
        "a/text",
        "b/",
        "b/.wh.c",
    ];
    assert_eq!(changes(&base, &new, 0), expected);
    assert_eq!(changes(&base, &base, 0), [""; 0]);
    assert_eq!(changes(&new, &base, 0).len(), 8, "and back");
}

#[test]
fn another_type_takes_the_place_without_a_whiteout() {
    let kinds = [
        vec![dir("x"), file("x/y", "1")],
        vec![file("x", "1")],
        vec![symlink("x", "y")],
        vec![entry("x", Kind::Fifo)],
        vec![entry("x", Kind::CharDevice { major: 1, minor: 3 })],
        vec![entry("x", Kind::BlockDevice { major: 1, minor: 3 })],
    ];
    for (one, base) in kinds.iter().enumerate() {
        for (other, new) in kinds.iter().enumerate() {
            let names = changes(base, new, 0);
            match (one == other, other) {
                (true, _) => assert_eq!(names, [""; 0]),
                (false, 0) => assert_eq!(names, ["x/", "x/y"]),
                (false, _) => assert_eq!(names, ["x"]),
            }
        }
    }
}

#[test]
fn every_attribute_counts_and_times_as_far_as_they_are_written() {
    let base = [dir(""), file("f", "1")];
    let differs = |change: fn(&mut Entry), epoch| {
        let mut new = base.clone();
        change(&mut new[1]);
        !changes(&base, &new, epoch).is_empty()
    };
    assert!(differs(|f| f.mode = 0o4755, 0));
    assert!(differs(|f| f.uid = 1, 0));
    assert!(differs(|f| f.gid = 1, 0));
    let value = |f: &mut Entry| f.xattrs = Some(Arc::new([(b"user.a".to_vec(), vec![1])].into()));
    assert!(differs(value, 0));
    assert!(!differs(|f| f.xattrs = Some(Arc::new(BTreeMap::new())), 0));
    assert!(!differs(|f| f.mtime = 5, 0));
    assert!(differs(|f| f.mtime = 5, 5));
    assert!(!differs(|f| f.mtime = -5, 5));
    let mut root = base.clone();
    root[0].mode = 0o700;
    assert_eq!(changes(&base, &root, 0), ["./"]);
}

#[test]
fn all_names_of_a_file_are_in_a_layer_or_none() {
    let base = [
        linked("a", "1", Some(1)),
        linked("b", "1", Some(1)),
        file("c", "1"),
    ];
    let two = [
        linked("a", "2", Some(9)),
        linked("b", "2", Some(9)),
        file("c", "1"),
    ];
    let three = ["a", "b", "c"].map(|name| linked(name, "1", Some(4)));
    let apart = ["a", "b", "c"].map(|name| file(name, "1"));
    assert_eq!(changes(&base, &base, 0), [""; 0]);
    assert_eq!(changes(&base, &two, 0), ["a", "b"]);
    assert_eq!(changes(&base, &three, 0), ["a", "b", "c"]);
    assert_eq!(changes(&base, &apart, 0), ["a", "b"]);
    assert_eq!(changes(&three, &base, 0), ["a", "b", "c"]);
    assert_eq!(changes(&base, &base[1..], 0), [".wh.a", "b"]);
    let one_name_with_number = [linked("a", "1", Some(7))];
    assert_eq!(
        changes(&[file("a", "1")], &one_name_with_number, 0),
        [""; 0]
    );
}

#[test]
fn sockets_are_left_out_and_told_and_whiteouts_are_no_names() {
    let socket = [file("a", "1"), entry("s", Kind::Socket)];
    let with = tree(&socket);
    let layer = Layer::plain(&with);
    assert_eq!(names(&tar_of(&layer, 0)), ["a"]);
    assert_eq!(layer.left_out().collect::<Vec<_>>(), [b"s"]);
    assert_eq!(
        changes(&[file("a", "1"), file("s", "1")], &socket, 0),
        [".wh.s"]
    );
    assert_eq!(changes(&socket, &[file("a", "1")], 0), [""; 0]);

    let bad = tree(&[dir("d"), file("d/.wh.x", "")]);
    assert_eq!(names(&tar_of(&Layer::plain(&bad), 0)), ["d/", "d/.wh.x"]);
    for refused in [
        Layer::whole(&bad),
        Layer::diff(&bad, &with, Epoch(0)),
        Layer::diff(&with, &bad, Epoch(0)),
    ] {
        let error = refused.unwrap_err().to_string();
        assert!(error.starts_with("d/.wh.x: "), "{error}");
    }
}

#[test]
fn a_whiteout_of_the_longest_name_is_still_written() {
    let long = "n".repeat(255);
    let names = changes(&[file(&long, "1"), file("a", "")], &[file("a", "")], 0);
    assert_eq!(names, [format!(".wh.{long}")]);
}

#[test]
fn contents_are_whole_whatever_their_length_and_place() {
    let lengths = [
        0,
        1,
        511,
        512,
        513,
        (256 << 10) - 512,
        256 << 10,
        (256 << 10) + 1,
        3_000_000,
    ];
    let text = |length: usize| "0123456789abcde".repeat(length / 15 + 1)[..length].to_owned();
    let files = lengths.map(|length| file(&format!("{length:07}"), &text(length)));
    let archive = tar_of(&Layer::plain(&tree(&files)), 0);
    assert_eq!(archive.len() % 512, 0);
    let dir = tempfile::tempdir().unwrap();
    unpacked(&archive, dir.path(), "tar", &[]);
    for length in lengths {
        let bytes = fs::read(dir.path().join(format!("{length:07}"))).unwrap();
        assert!(bytes == text(length).as_bytes(), "{length}");
    }
}

#[test]
fn a_layer_that_is_there_twice_is_written_once() {
    let (one, other) = (tree(&[file("a", "1")]), tree(&[file("a", "2")]));
    let layers = [&one, &other, &one].map(|tree| Layer::whole(tree).unwrap());
    let plan = oci::Plan {
        form: oci::OciForm::Docker,
        compression: Compression::None,
        settings: &Settings::default(),
        tags: &[],
        epoch: Epoch(0),
    };
    let file = tempfile::tempfile().unwrap();
    let lz4 = oci::Plan {
        compression: Compression::Lz4,
        ..plan
    };
    let error = oci::write(&layers, &lz4, &file).unwrap_err();
    assert!(matches!(error, Error::Lz4Layer), "{error}");
    let length = oci::write(&layers, &plan, &file).unwrap();
    file.set_len(length).unwrap();
    let mut archive = vec![0; length as usize];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut archive, 0).unwrap();
    let names = names(&archive);
    let blobs = names.iter().filter(|name| name.len() == 13 + 64).count();
    assert_eq!(
        blobs, 4,
        "two layers, a configuration, a manifest: {names:?}"
    );
    let text = String::from_utf8_lossy(&archive);
    let manifest = text
        .lines()
        .find_map(|line| line.split("\"Layers\":").nth(1))
        .unwrap();
    assert_eq!(manifest.matches("blobs/sha256/").count(), 3, "{manifest}");
}

fn unpacked(archive: &[u8], dir: &Path, tool: &str, options: &[&str]) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(archive).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let mut command = Command::new(tool);
    run(command
        .args(options)
        .args(["-xpf", "-", "-C"])
        .arg(dir)
        .stdin(file));
}

#[test]
fn extended_attributes_are_what_gnu_tar_reads() {
    let mut with = file("f", "1");
    let value = b"\0=\n\xff".to_vec();
    with.xattrs = Some(Arc::new([(b"user.rdvm".to_vec(), value.clone())].into()));
    let archive = tar_of(&Layer::plain(&tree(&[with])), 0);
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    for (tool, options) in [("tar", &["--xattrs"][..]), ("bsdtar", &["--xattrs"])] {
        unpacked(&archive, dir.path(), tool, options);
        let mut read = [0; 16];
        let count = getxattr(dir.path().join("f"), "user.rdvm", &mut read[..]).unwrap();
        assert_eq!(read[..count], value[..], "{tool}");
        fs::remove_file(dir.path().join("f")).unwrap();
    }
}

/// Names of all sorts and lengths, few enough to meet.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => "[a-d]",
        2 => "[ -.0-~é日]{1,6}",
        1 => "[a-z]{90,200}",
    ]
    .prop_filter("no dots, no whiteouts, nothing reserved", |name| {
        !name.trim_start_matches('.').is_empty()
            && !name.starts_with(".wh.")
            && name != "TRAILER!!!"
            && name.len() <= 255
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    let body = |(length, letter, link): (usize, bool, Option<u64>)| {
        let number = 10_000 * u64::from(letter) + length as u64;
        Kind::File(FileBody {
            size: length as u64,
            content: Content::Bytes(vec![b'x' + u8::from(letter); length].into()),
            link: link.map(|link| LinkId(link * 100_000 + number)),
        })
    };
    prop_oneof![
        4 => Just(Kind::Directory),
        4 => (0..3_usize, any::<bool>(), prop::option::of(0..2_u64)).prop_map(body),
        1 => (0..2000_usize).prop_map(move |length| body((length, false, None))),
        1 => "[a-z/é]{1,150}".prop_map(|target| Kind::Symlink(target.into_bytes())),
        1 => Just(Kind::Fifo),
        1 => (0..5000_u32, 0..2_000_000_u32)
            .prop_map(|(major, minor)| Kind::CharDevice { major, minor }),
    ]
}

prop_compose! {
    fn trees()(
        drafts in prop::collection::vec(
            (prop::collection::vec(name(), 1..4), kind(), prop_oneof![4 => Just(0), 1 => 0..3_u16], prop_oneof![6 => Just(0), 1 => 0..3_u32, 1 => 2_097_150..2_097_154_u32]),
            0..25,
        ),
    ) -> Tree {
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        for (path, kind, mode, owner) in drafts {
            let (name, parents) = path.split_last().unwrap();
            let mut above = String::new();
            let mut fits = true;
            for parent in parents {
                above = if above.is_empty() { parent.clone() } else { format!("{above}/{parent}") };
                let parent = entries.entry(above.clone()).or_insert_with(|| dir(&above));
                fits = parent.kind == Kind::Directory;
                if !fits {
                    break;
                }
            }
            let whole = if above.is_empty() { name.clone() } else { format!("{above}/{name}") };
            if fits && !entries.contains_key(&whole) {
                // Names of one file agree on everything.
                let (mode, owner) = if matches!(&kind, Kind::File(f) if f.link.is_some()) { (0, 0) } else { (mode, owner) };
                let made = Entry { mode: 0o600 + mode, uid: owner, gid: owner, ..entry(&whole, kind) };
                entries.insert(whole, made);
            }
        }
        Tree::from_entries(entries.into_values().collect()).unwrap()
    }
}

/// A tree without numbers that mean nothing: links as the first name of their file.
fn meaning(tree: &[Entry]) -> BTreeMap<Vec<u8>, Entry> {
    let mut first = BTreeMap::new();
    let mut all = BTreeMap::new();
    for (index, entry) in tree.iter().enumerate() {
        let mut entry = entry.clone();
        let number = link(&entry).map(|link| *first.entry(link).or_insert(index));
        if let Kind::File(file) = &mut entry.kind {
            file.link = number.map(|number| LinkId(number as u64));
        }
        all.insert(entry.path.clone(), entry);
    }
    // Numbers depend on what else is there, and a name alone needs none.
    let mut names: BTreeMap<LinkId, Vec<Vec<u8>>> = BTreeMap::new();
    for entry in all.values() {
        if let Some(link) = link(entry) {
            names.entry(link).or_default().push(entry.path.clone());
        }
    }
    for (_, paths) in names {
        let number = all.keys().position(|path| *path == paths[0]).unwrap();
        for path in &paths {
            if let Some(Entry {
                kind: Kind::File(file),
                ..
            }) = all.get_mut(path)
            {
                file.link = (paths.len() > 1).then_some(LinkId(number as u64));
            }
        }
    }
    all
}

/// The image specification, word for word: whiteouts hide what is below, entries take the place of what is there.
fn applied(base: &Tree, layer: &Layer<'_>) -> BTreeMap<Vec<u8>, Entry> {
    let mut all: BTreeMap<Vec<u8>, Entry> = base
        .entries()
        .iter()
        .map(|entry| {
            let mut entry = entry.clone();
            if let Kind::File(FileBody {
                link: Some(link), ..
            }) = &mut entry.kind
            {
                link.0 += 1 << 32;
            }
            (entry.path.clone(), entry)
        })
        .collect();
    let below = |path: &[u8], top: &[u8]| {
        path == top || path.starts_with(top) && path.get(top.len()) == Some(&b'/')
    };
    for (parent, gone) in &layer.gone {
        for name in gone {
            let path = if parent.is_empty() {
                name.to_vec()
            } else {
                [parent, *name].join(&b'/')
            };
            all.retain(|other, _| !below(other, &path));
        }
    }
    for entry in &layer.entries {
        let is_directory = entry.kind == Kind::Directory;
        if !(is_directory
            && all
                .get(&entry.path)
                .is_some_and(|old| old.kind == Kind::Directory))
        {
            all.retain(|other, _| !below(other, &entry.path));
        }
        all.insert(entry.path.clone(), (*entry).clone());
    }
    meaning(&all.into_values().collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn a_layer_on_its_base_is_the_new_tree(base in trees(), new in trees()) {
        let layer = Layer::diff(&base, &new, Epoch(0)).unwrap();
        prop_assert_eq!(applied(&base, &layer), meaning(new.entries()));
        // And it has nothing that could be left away.
        let empty = Layer::diff(&new, &new, Epoch(0)).unwrap();
        prop_assert!(empty.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn gnu_tar_and_bsdtar_list_what_was_written(tree in trees()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tar");
        let archive = tar_of(&Layer::plain(&tree), 0);
        File::create(&path).unwrap().write_all(&archive).unwrap();
        let mut first = BTreeMap::new();
        let mut expected = Vec::new();
        let mut plain = Vec::new();
        for entry in tree.entries() {
            let name = String::from_utf8(entry.path.clone()).unwrap();
            let first = link(entry).map_or(name.clone(), |link| first.entry(link).or_insert(name.clone()).clone());
            let (letter, size, rest) = match &entry.kind {
                Kind::Directory => ('d', "0".to_owned(), "/".to_owned()),
                Kind::File(_) if first != name => ('h', "0".to_owned(), format!(" link to {first}")),
                Kind::File(file) => ('-', file.size.to_string(), String::new()),
                Kind::Symlink(target) => ('l', "0".to_owned(), format!(" -> {}", String::from_utf8_lossy(target))),
                Kind::CharDevice { major, minor } => ('c', format!("{major},{minor}"), String::new()),
                _ => ('p', "0".to_owned(), String::new()),
            };
            expected.push(format!("{letter} {:o} {}/{} {size} {name}{rest}", entry.mode, entry.uid, entry.gid));
            plain.push(if letter == 'd' { format!("{name}/") } else { name });
        }
        let listed = run(Command::new("tar").args(["--numeric-owner", "--quoting-style=literal", "-tvf"]).arg(&path));
        let listed: Vec<String> = listed.lines().map(|line| {
            let mut words = line.splitn(2, ' ');
            let mode = words.next().unwrap();
            let bits = mode[1..].chars().fold(0, |bits, c| bits << 1 | u32::from(c != '-'));
            let (owner, rest) = words.next().unwrap().split_once(' ').unwrap();
            let (size, rest) = rest.trim_start().split_once(' ').unwrap();
            let name = rest.strip_prefix("1970-01-01 00:00 ").unwrap();
            format!("{} {bits:o} {owner} {size} {name}", &mode[..1])
        }).collect();
        prop_assert_eq!(listed, expected);
        let output = Command::new("bsdtar").arg("-tf").arg(&path).env("LC_ALL", "C.UTF-8").output().unwrap();
        prop_assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        let listed = String::from_utf8(output.stdout).unwrap();
        // bsdtar writes a backslash twice.
        let plain: Vec<String> = plain.iter().map(|name| name.replace('\\', "\\\\")).collect();
        prop_assert_eq!(listed.lines().collect::<Vec<_>>(), plain);
    }
}
