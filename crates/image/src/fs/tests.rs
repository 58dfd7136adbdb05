//! The in-memory file system against GNU tar in a chroot, against the OCI image specification's own cases, and against a
//! model that takes every whiteout first.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::samples::{is_here, listing, member, tar};

const PLENTY: u64 = 1_000_000;

/// Applies members to one layer of plain tar.
fn put(members: &[Member]) -> Result<FileSystem, Error> {
    let mut system = FileSystem::new(PLENTY);
    members
        .iter()
        .try_for_each(|member| system.put(member.clone()))?;
    Ok(system)
}

fn members(lines: &[&str]) -> Vec<Member> {
    lines.iter().map(|line| member(line)).collect()
}

fn tree(lines: &[&str]) -> Vec<String> {
    listing(&put(&members(lines)).unwrap().into_tree().unwrap())
}

/// Applies layers by the image specification.
fn layers(layers: &[&[&str]]) -> Vec<String> {
    let mut system = FileSystem::new(PLENTY);
    for layer in layers {
        system.begin_layer(Rules::Layer);
        members(layer)
            .into_iter()
            .for_each(|member| system.put(member).unwrap());
    }
    listing(&system.into_tree().unwrap())
}

/// GNU tar and the libraries it needs, to be used inside of a chroot.
struct Oracle {
    tar: tempfile::TempDir,
    enter: Vec<&'static str>,
}

impl Oracle {
    /// `None`, and why, where it cannot be used.
    fn new() -> Option<Self> {
        if !is_here("tar") {
            return None;
        }
        let enter = match rustix::process::geteuid().is_root() {
            true => vec!["chroot"],
            false => vec!["unshare", "-r", "chroot"],
        };
        let dir = tempfile::tempdir().unwrap();
        let ldd = Command::new("ldd").arg("/usr/bin/tar").output().unwrap();
        let libraries = String::from_utf8(ldd.stdout).unwrap();
        let libraries = libraries
            .split_whitespace()
            .filter(|word| word.starts_with('/'));
        for file in libraries.chain(["/usr/bin/tar"]) {
            let name = Path::new(file).file_name().unwrap();
            let name = match name.to_str().unwrap().starts_with("ld-") {
                true => "ld.so".as_ref(),
                false => name,
            };
            fs::copy(file, dir.path().join(name)).unwrap();
        }
        let oracle = Self { tar: dir, enter };
        match oracle.extract(&tar(&members(&["d a"]))) {
            Ok(found) if found == ["d 755 a"] => Some(oracle),
            other => {
                crate::skips::missing(&format!("tar in a chroot ({other:?})"));
                None
            }
        }
    }

    /// The result of tar for an archive, as [`listing`] has it, or its message.
    fn extract(&self, archive: &[u8]) -> Result<Vec<String>, String> {
        let root = tempfile::tempdir().unwrap();
        let tools = root.path().join(".oracle");
        fs::create_dir(&tools).unwrap();
        for entry in fs::read_dir(self.tar.path()).unwrap().flatten() {
            let target = tools.join(entry.file_name());
            if fs::hard_link(entry.path(), &target).is_err() {
                fs::copy(entry.path(), target).unwrap();
            }
        }
        let mut child = Command::new(self.enter[0])
            .args(&self.enter[1..])
            .arg(root.path())
            .args([
                "/.oracle/ld.so",
                "--library-path",
                "/.oracle",
                "/.oracle/tar",
            ])
            .args(["-xpPf", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(archive).unwrap();
        let output = child.wait_with_output().unwrap();
        match output.status.success() {
            true => Ok(host_listing(root.path())),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

/// [`listing`] of a directory on the host.
fn host_listing(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            if entry.file_name() == ".oracle" {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                waiting.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    let mut firsts: BTreeMap<u64, String> = BTreeMap::new();
    let lines = found.iter().map(|path| {
        let stat = path.symlink_metadata().unwrap();
        let kind = stat.file_type();
        let path_in = path.strip_prefix(root).unwrap().display().to_string();
        let mode = stat.mode() & 0o7777;
        if !kind.is_dir() {
            assert_eq!(stat.mtime(), 1000, "{path_in}");
        }
        if kind.is_symlink() {
            return format!("s {path_in} -> {}", fs::read_link(path).unwrap().display());
        }
        if kind.is_dir() {
            return format!("d {mode:o} {path_in}");
        }
        if kind.is_fifo() {
            return format!("p {mode:o} {path_in}");
        }
        let text = fs::read_to_string(path).unwrap();
        let first = firsts.entry(stat.ino()).or_insert(path_in.clone());
        match *first == path_in {
            true => format!("f {mode:o} {path_in} {text}"),
            false => format!("f {mode:o} {path_in} {text} = {first}"),
        }
    });
    lines.map(|line| line.trim_end().to_owned()).collect()
}

/// The part that GNU tar must agree on.
const CASES: &[&[&str]] = &[
    // Names (a1).
    &["f ./a//b/./c x", "d 700 a/", "f //e/f y", "d 711 ."],
    // Links as parents, also absolute ones and such that go up (a2).
    &[
        "d real",
        "s l -> real",
        "f l/x text",
        "d 700 l/sub",
        "f l/sub/y z",
    ],
    &["d etc", "s etc/up -> ../../..", "f etc/up/x out?"],
    &[
        "d a",
        "d a/b",
        "s abs -> /a/b",
        "f abs/x text",
        "s a/b/c -> ../../abs",
        "f a/b/c/y 1",
    ],
    &["d tmp", "s l -> /tmp/../tmp/./", "f l/x text"],
    &["s l -> nowhere", "f l/x text"],
    &["d real", "s l -> real/nowhere", "f l/x text"],
    &["d real", "s l -> real", "f l/deep/x text"],
    // Loops (a3).
    &["s l -> l", "f l/x text"],
    &["s a -> b", "s b -> a", "d a/c"],
    &["s l -> l", "d l", "f l/x text"],
    // Hard links (a4).
    &["h x = nope"],
    &["d y", "h x = y"],
    &["f y text", "s l -> y", "h x = l"],
    &["h x = y", "f y text"],
    &["f y text", "h y = y"],
    &["f y text", "h ./y = y"],
    &["f y text", "f x other", "h x = y", "h n/z = /x"],
    &["f y one", "h x = y", "f y two", "h z = y"],
    &["d r", "f r/y text", "s l -> r", "h x = l/y", "h l/z = x"],
    &["f c/a text", "s a -> ../c", "h a = a/a"],
    &["d a", "s m -> a", "s l -> m/gone", "f l/x text"],
    &["d a", "s m -> a", "s l -> m", "f l/new/x text"],
    &["p pipe", "h other = pipe"],
    // Replaced by another kind (a7).
    &["f x text", "d 700 x", "f x/y text"],
    &["p x", "d 700 x"],
    &[
        "d real",
        "f real/a text",
        "s l -> real",
        "d 700 l",
        "f l/b text",
    ],
    &["d real", "s l -> real", "d 700 l/sub", "d 705 l"],
    &["f y text", "s x -> y", "d 700 x"],
    &["s l -> nowhere", "d 700 l", "f l/x text"],
    &["f y text", "s x -> y", "f x new"],
    &["f y text", "h x = y", "f x new"],
    &["d 700 a", "f a/x text", "d 750 a"],
    &["f y text", "f y/z text"],
    &["p y", "f y/z text"],
    &["f x text", "f ."],
];

#[test]
fn what_tar_extracts_in_a_chroot_is_what_the_tree_has() {
    let Some(oracle) = Oracle::new() else { return };
    for case in CASES {
        let members = members(case);
        let ours = put(&members).map(|system| listing(&system.into_tree().unwrap()));
        match (ours, oracle.extract(&tar(&members))) {
            (Ok(ours), Ok(theirs)) => assert_eq!(ours, theirs, "{case:?}"),
            (Err(_), Err(_)) => {}
            (ours, theirs) => panic!("{case:?}: {ours:?} against {theirs:?}"),
        }
    }
}

/// GNU tar gives up where a directory that is not empty is to become something else; here the last one wins.
#[test]
fn a_directory_goes_with_all_below_it_when_something_else_takes_its_name() {
    let table: &[(&[&str], &[&str])] = &[
        (&["d x", "f x/y text", "d x/z", "f x new"], &["f 644 x new"]),
        (&["d x", "f x/y text", "s x -> z"], &["s x -> z"]),
        (&["d x", "f x/y text", "p x"], &["p 644 x"]),
        (
            &["d x", "f x/y text", "f z other", "h x = z"],
            &["f 644 x other", "f 644 z other = x"],
        ),
        (
            &["d x", "f x/y text", "h z = x/y", "f x new", "d x"],
            &["d 755 x", "f 644 z text"],
        ),
    ];
    for (input, output) in table {
        assert_eq!(tree(input), *output, "{input:?}");
    }
    let gone = put(&members(&["d x", "f x/z text", "h x = x/z"])).unwrap_err();
    assert!(matches!(gone, Error::LinkMissing { .. }));
}

/// Short paths over few names, so that they meet.
fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
        .prop_map(|names| names.join("/"))
}

fn any_member() -> impl Strategy<Value = String> {
    let target = prop_oneof![
        path(),
        path().prop_map(|path| format!("/{path}")),
        path().prop_map(|path| format!("../{path}")),
        Just("..".to_owned())
    ];
    prop_oneof![
        3 => path().prop_map(|path| format!("d {path}")),
        1 => path().prop_map(|path| format!("d 700 {path}")),
        3 => (path(), "[a-z]{0,3}").prop_map(|(path, text)| format!("f {path} {text}")),
        2 => (path(), target).prop_map(|(path, target)| format!("s {path} -> {target}")),
        1 => (path(), path()).prop_map(|(path, target)| format!("h {path} = {target}")),
        1 => path().prop_map(|path| format!("p {path}")),
    ]
}

/// Where they differ on purpose: a directory with something in it has this name. And where tar loses its way: what it
/// replaces is a link on the way there.
fn is_special(members: &[Member], next: &Member) -> bool {
    let mut system = put(members).unwrap();
    let Ok(Some((parent, last))) = system.place(&next.name) else {
        return false;
    };
    system.names.find(parent, last).is_some_and(|node| {
        let full =
            system.names.children(node).next().is_some() && next.what != EntryKind::Directory;
        let link = matches!(system.kind(node), Kind::Symlink(_));
        full || link && system.names.path(node) != next.name
    })
}

/// How many sequences are tried; `make soak` sets many.
fn cases() -> u32 {
    let spec = std::env::var("PROPTEST_CASES").ok();
    spec.map_or(300, |number| number.parse().unwrap())
}

/// Members one by one: those that cannot be put where they say are left out, and the rest is what tar extracts.
#[test]
fn any_sequence_of_members_comes_to_what_tar_extracts() {
    let Some(oracle) = Oracle::new() else { return };
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let sequences = prop::collection::vec(any_member(), 1..14);
    let result = runner.run(&sequences, |lines| {
        let mut good: Vec<Member> = Vec::new();
        for line in &lines {
            let next = member(line);
            if is_special(&good, &next) {
                continue;
            }
            good.push(next);
            if put(&good).is_err() {
                prop_assert!(
                    oracle.extract(&tar(&good)).is_err(),
                    "tar takes {line} after {good:?}"
                );
                good.pop();
            }
        }
        let ours = listing(&put(&good).unwrap().into_tree().unwrap());
        let theirs = oracle.extract(&tar(&good));
        prop_assert_eq!(Ok(ours), theirs);
        Ok(())
    });
    result.unwrap();
}

#[test]
fn members_that_cannot_be_put_where_they_say_are_named() {
    let table: &[(&[&str], &str)] = &[
        (&["f ../x"], "../x: has \"..\" in its name"),
        (&["f a/../../x"], "a/../../x: has \"..\""),
        (&["f a/.."], "has \"..\""),
        (&["f y", "h x = ../y"], "../y: has \"..\""),
        (&["f ."], ".: is the root's name and no directory"),
        (&["s / -> x"], "is the root's name"),
        (&["f y", "h ./ = y"], "is the root's name"),
        (&["s l -> l", "f l/x"], "l/x: more than 40 symbolic links"),
        (&["s l -> l", "h x = l/y"], "x: more than 40 symbolic links"),
        (&["f y", "f y/z/w"], "y/z/w: y is not a directory"),
        (
            &["d d", "s l -> d/gone", "f l/x"],
            "l/x: the link l leads nowhere",
        ),
        (&["h x = y"], "x: hard link to y, which is not there"),
        (
            &["d y", "h x = y"],
            "x: hard link to y, which is a directory",
        ),
        (&["h x = /"], "x: hard link to /, which is a directory"),
        (&["f a\0b"], "a\\0b: not a plain path"),
        (&["h x = a\0b"], "a\\0b: not a plain path"),
    ];
    for (lines, message) in table {
        let error = put(&members(lines)).expect_err(message).to_string();
        assert!(error.contains(message), "{lines:?}: {error}");
    }
    let escaped = put(&members(&["f y", "f y/\x1b[2J\n"])).unwrap_err();
    assert!(
        escaped.to_string().starts_with("y/\\u{1b}[2J\\n: "),
        "{escaped}"
    );
}

#[test]
fn a_link_may_be_followed_forty_times_and_no_more() {
    let chain = |length: usize| {
        let mut lines = vec!["d l0".to_owned()];
        lines.extend((1..=length).map(|n| format!("s l{n} -> l{}", n - 1)));
        lines.push(format!("f l{length}/x text"));
        let members: Vec<_> = lines.iter().map(|line| member(line)).collect();
        put(&members).map(|system| system.into_tree().unwrap())
    };
    assert!(chain(40).unwrap().get(b"l0/x").is_some());
    assert!(matches!(chain(41), Err(Error::Loop { hops: 40, .. })));
}

#[test]
fn lengths_that_linux_cannot_hold_are_refused_before_they_are_kept() {
    let long = format!("f {}", "n".repeat(256));
    let error = put(&members(&["d d", &long.replace("f ", "f d/")])).unwrap_err();
    assert!(
        matches!(&error, Error::Name(tree::Error::NameTooLong { bytes: 256, path })
        if path.len() == 258)
    );
    // Links make a path longer than any name in the archive.
    let step = ["d/".repeat(1000) + "d", "d/".repeat(1000) + "l"];
    let mut lines = vec![format!("d {}", step[0]), format!("s {} -> /", step[1])];
    lines.push("s m -> ".to_owned() + &step[0]);
    lines.push(format!("d m/{}", step[0]));
    lines.push(format!("s n -> m/{}", step[0]));
    lines.push("f n/x/y text".to_owned());
    let system: Vec<_> = lines[..5].iter().map(|line| member(line)).collect();
    assert!(put(&system).is_ok());
    let system: Vec<_> = lines.iter().map(|line| member(line)).collect();
    assert!(put(&system).is_ok(), "{} bytes", 4003 + 4);
    lines.push(format!("f n/{}", "x".repeat(95)));
    let system: Vec<_> = lines.iter().map(|line| member(line)).collect();
    assert!(matches!(
        put(&system),
        Err(Error::Name(tree::Error::PathTooLong { bytes: 4099, .. }))
    ));
}

#[test]
fn directories_that_no_member_made_count_against_the_limit() {
    let mut system = FileSystem::new(4);
    system.put(member("f a/b/c x")).unwrap();
    system.put(member("f a/b/d x")).unwrap();
    let error = system.put(member("h a/b/e = a/b/d")).unwrap_err();
    let message = error.to_string();
    assert!(
        message.starts_with("a/b/e: ") && message.contains("more than the 4 there may be"),
        "{message}"
    );
    // So do those that replace each other.
    let mut system = FileSystem::new(4);
    let result = (0..5).try_for_each(|_| system.put(member("f x y")));
    assert!(matches!(result, Err(Error::TooMany { limit: 4, .. })));
}

#[test]
fn depth_costs_no_stack() {
    let mut system = FileSystem::new(PLENTY);
    let deep = "d/".repeat(2047);
    let thread = std::thread::Builder::new().stack_size(64 << 10);
    let work = move || {
        for round in 0..10 {
            let name = format!("f {deep}{round} x");
            assert!(system.put(member(&name)).is_ok());
            assert!(system.put(member("f d x")).is_ok());
            assert!(system.put(member("d d")).is_ok());
        }
        system.put(member(&format!("f {deep}x x"))).unwrap();
        system.begin_layer(Rules::Layer);
        system.put(member(&format!("f {deep}y y"))).unwrap();
        system.put(member("f .wh.d")).unwrap();
        system.into_tree().unwrap().entries().len()
    };
    assert_eq!(thread.spawn(work).unwrap().join().unwrap(), 2049);
}

#[test]
fn the_root_has_the_attributes_of_its_own_member() {
    let tree = put(&members(&["f a x", "d 700 ./"])).unwrap().into_tree();
    assert_eq!(tree.unwrap().get(b"").unwrap().mode, 0o700);
    let tree = put(&members(&["f a x"])).unwrap().into_tree().unwrap();
    let root = tree.get(b"").unwrap();
    assert_eq!((root.mode, root.uid, root.mtime), (0o755, 0, 0));
}

/// As for a directory on the host: labels of the policy of whoever wrote the archive mean nothing in the guest.
#[test]
fn attributes_of_an_archive_are_those_that_a_directory_would_have() {
    let list = |names: &[&str]| -> Xattrs {
        let list = names
            .iter()
            .map(|name| (name.as_bytes().to_vec(), b"x".to_vec()));
        Some(std::sync::Arc::new(list.collect()))
    };
    let mut system = FileSystem::new(PLENTY);
    for (name, names) in [
        (
            "some",
            &[
                "security.capability",
                "security.selinux",
                "user.a",
                "trusted.overlay.opaque",
            ][..],
        ),
        ("none", &["security.selinux"]),
    ] {
        let xattrs = list(names);
        system
            .put(Member {
                xattrs,
                ..member(&format!("f {name} x"))
            })
            .unwrap();
    }
    let tree = system.into_tree().unwrap();
    assert_eq!(
        tree.get(b"some").unwrap().xattrs,
        list(&["security.capability", "user.a"])
    );
    assert_eq!(tree.get(b"none").unwrap().xattrs, None);
}

#[test]
fn a_tar_without_layers_takes_whiteouts_as_names() {
    let lines = ["d a", "f a/.wh.b x", "f a/.wh..wh..opq", "f .wh. y"];
    assert_eq!(
        tree(&lines),
        [
            "f 644 .wh. y",
            "d 755 a",
            "f 644 a/.wh..wh..opq",
            "f 644 a/.wh.b x"
        ]
    );
}

#[test]
fn files_with_one_number_are_one_file_wherever_the_bytes_are() {
    for with_data in 0..3 {
        let mut system = FileSystem::new(PLENTY);
        for (index, name) in ["a", "b", "c"].iter().enumerate() {
            let text = if index == with_data { "text" } else { "" };
            let mut member = member(&format!("f {name} {text}"));
            let EntryKind::File { link, .. } = &mut member.what else {
                unreachable!()
            };
            *link = 7;
            system.put(member).unwrap();
        }
        let expected = ["f 644 a text", "f 644 b text = a", "f 644 c text = a"];
        assert_eq!(listing(&system.into_tree().unwrap()), expected);
    }
}

#[test]
fn numbers_of_files_are_those_of_one_layer() {
    let mut system = FileSystem::new(PLENTY);
    for line in ["f a 1", "f b 2"] {
        system.begin_layer(Rules::Layer);
        let mut member = member(line);
        let EntryKind::File { link, .. } = &mut member.what else {
            unreachable!()
        };
        *link = 7;
        system.put(member).unwrap();
    }
    let tree = system.into_tree().unwrap();
    assert_eq!(listing(&tree), ["f 644 a 1", "f 644 b 2"]);
}

/// The cases of the image specification's chapter on layers, and those of row a6.
#[test]
fn whiteouts_hide_what_lower_layers_have_and_nothing_else() {
    let base: &[&str] = &["d a", "d a/b", "d a/b/c", "f a/b/c/bar 1", "f a/f 1"];
    let foo = ["d 755 a", "d 755 a/b", "d 755 a/b/c", "f 644 a/b/c/foo 2"];
    for opaque_at in 0..5 {
        let mut upper = vec!["d a", "d a/b", "d a/b/c", "f a/b/c/foo 2"];
        upper.insert(opaque_at, "f a/.wh..wh..opq");
        assert_eq!(layers(&[base, &upper]), foo, "{upper:?}");
    }
    let spec: &[&str] = &[
        "d etc",
        "f etc/conf 1",
        "d bin",
        "f bin/tool 1",
        "f bin/app 1",
    ];
    let change: &[&str] = &[
        "d etc/d",
        "f etc/d/default 2",
        "f bin/tool 2",
        "f etc/.wh.conf",
    ];
    assert_eq!(
        layers(&[spec, change]),
        [
            "d 755 bin",
            "f 644 bin/app 1",
            "f 644 bin/tool 2",
            "d 755 etc",
            "d 755 etc/d",
            "f 644 etc/d/default 2"
        ]
    );
    let table: &[(&[&[&str]], &[&str])] = &[
        (&[base, &["f .wh.a"]], &[]),
        (&[base, &["d a", "f a/.wh..wh..opq"]], &["d 755 a"]),
        (&[base, &["f a/.wh..wh..opq"]], &["d 755 a"]),
        (&[base, &["f .wh..wh..opq"]], &[]),
        // What the same layer brought stays, before and after.
        (&[base, &["f .wh.a", "f a 2"]], &["f 644 a 2"]),
        (&[base, &["f a 2", "f .wh.a"]], &["f 644 a 2"]),
        (&[base, &["d 700 a", "f .wh.a"]], &["d 700 a"]),
        (&[base, &["f .wh.a", "d 700 a"]], &["d 700 a"]),
        // A directory that is only on the way to something new is made anew.
        (
            &[&["d 700 a", "f a/f 1"], &["f a/g 2", "f .wh.a"]],
            &["d 755 a", "f 644 a/g 2"],
        ),
        (
            &[&["d 700 a", "f a/f 1"], &["f .wh.a", "f a/g 2"]],
            &["d 755 a", "f 644 a/g 2"],
        ),
        // Through a link, that stays.
        (
            &[&["d a", "f a/f 1", "f a/g 1", "s l -> /a"], &["f l/.wh.f"]],
            &["d 755 a", "f 644 a/g 1", "s l -> /a"],
        ),
        // The link itself.
        (&[&["d a", "s l -> /a"], &["f .wh.l"]], &["d 755 a"]),
        // What is not there.
        (&[&["d a"], &["f a/.wh.x", "f .wh.y"]], &["d 755 a"]),
        // One of two names.
        (&[&["f x 1", "h y = x"], &["f .wh.x"]], &["f 644 y 1"]),
        // Any kind of member, as containerd has it.
        (&[&["f x 1"], &["d .wh.x"]], &[]),
        (&[&["f x 1", "f y 1"], &["h .wh.x = y"]], &["f 644 y 1"]),
        // In the first layer there is nothing below.
        (&[&["f x 1", "f .wh.x", "f .wh..wh..opq"]], &["f 644 x 1"]),
        // Two layers up.
        (&[&["f x 1"], &["f .wh.x"], &["f x 3"]], &["f 644 x 3"]),
        (&[&["f x 1"], &["f x 2"], &["f .wh.x"]], &[]),
        // aufs's own, which hard links may need.
        (
            &[
                &[
                    "d .wh..wh.plnk",
                    "f .wh..wh.plnk/1.2 1",
                    "h x = .wh..wh.plnk/1.2",
                    "f .wh..wh.aufs",
                ],
                &["f y 2"],
            ],
            &["f 644 x 1", "f 644 y 2"],
        ),
    ];
    for (input, output) in table {
        assert_eq!(layers(input), *output, "{input:?}");
    }
}

#[test]
fn a_whiteout_that_names_nothing_is_refused() {
    for bad in ["f .wh.", "f a/.wh..", "f a/.wh..."] {
        let mut system = FileSystem::new(PLENTY);
        system.put(member("f a/b")).unwrap();
        system.begin_layer(Rules::Layer);
        let error = system.put(member(bad)).unwrap_err();
        assert!(matches!(error, Error::BadWhiteout { .. }), "{bad}");
    }
}

#[test]
fn layers_replace_and_merge_as_the_specification_says() {
    let table: &[(&[&[&str]], &[&str])] = &[
        // Directory on directory: contents stay, attributes are new.
        (
            &[&["d a", "f a/x 1"], &["d 700 a"]],
            &["d 700 a", "f 644 a/x 1"],
        ),
        // Anything else replaces, links too, in both directions.
        (
            &[&["d real", "s lib -> real"], &["d lib", "f lib/x 2"]],
            &["d 755 lib", "f 644 lib/x 2", "d 755 real"],
        ),
        (&[&["d a", "f a/x 1"], &["s a -> b"]], &["s a -> b"]),
        (
            &[&["f a 1"], &["d a", "f a/x 2"]],
            &["d 755 a", "f 644 a/x 2"],
        ),
        (
            &[&["s a -> b", "f b 1"], &["f a 2"]],
            &["f 644 a 2", "f 644 b 1"],
        ),
        // Through a link that a lower layer has.
        (
            &[&["d usr", "d usr/lib", "s lib -> usr/lib"], &["f lib/x 2"]],
            &[
                "s lib -> usr/lib",
                "d 755 usr",
                "d 755 usr/lib",
                "f 644 usr/lib/x 2",
            ],
        ),
        // Where the link leads nowhere, the place is made, as containerd does.
        (
            &[&["s l -> opt/app"], &["f l/x 2"]],
            &[
                "s l -> opt/app",
                "d 755 opt",
                "d 755 opt/app",
                "f 644 opt/app/x 2",
            ],
        ),
        // A hard link to a lower layer's file; replacing that leaves it.
        (
            &[&["f x 1"], &["h y = x", "f x 2"]],
            &["f 644 x 2", "f 644 y 1"],
        ),
    ];
    for (input, output) in table {
        assert_eq!(layers(input), *output, "{input:?}");
    }
}

/// Whiteouts by a model: paths in a map; a layer's whiteouts first, then its members.
fn model(layers: &[Vec<String>]) -> Vec<String> {
    type Files = BTreeMap<String, String>;
    let below = |files: &mut Files, path: &str| {
        let inside = format!("{path}/");
        files.retain(|name, _| !name.starts_with(&inside));
    };
    let mut files = Files::new();
    for layer in layers {
        for line in layer.iter().filter(|line| line.contains(".wh.")) {
            let path = line.split(' ').nth(1).unwrap();
            let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
            let join = |name: &str| format!("{dir}/{name}").trim_start_matches('/').to_owned();
            match name {
                ".wh..wh..opq" if dir.is_empty() => files.clear(),
                ".wh..wh..opq" => below(&mut files, dir),
                _ => {
                    let victim = join(name.strip_prefix(".wh.").unwrap());
                    files.remove(&victim);
                    below(&mut files, &victim);
                }
            }
        }
        for line in layer.iter().filter(|line| !line.contains(".wh.")) {
            let mut words = line.split(' ');
            let (kind, path) = (words.next().unwrap(), words.next().unwrap());
            let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
            for parent in parents {
                let parent = files.entry(parent.to_owned()).or_insert("d 755".to_owned());
                assert!(parent.starts_with('d'));
            }
            if kind == "f" {
                below(&mut files, path);
            }
            let text = words.next().unwrap_or_default();
            files.insert(
                path.to_owned(),
                match kind {
                    "d" => "d 755".to_owned(),
                    _ => format!("f 644 {text}"),
                },
            );
        }
    }
    let lines = files
        .iter()
        .map(|(path, what)| match what.split_once(" 644 ") {
            Some((_, text)) => format!("f 644 {path} {text}"),
            None => format!("d 755 {path}"),
        });
    let mut lines: Vec<String> = lines.collect();
    lines.sort_by_key(|line| line.split(' ').nth(2).map(|path| path.replace('/', "\0")));
    lines
}

fn any_layer() -> impl Strategy<Value = Vec<String>> {
    // Directories are upper-case, so that no file is in another's way; files may still be hidden with theirs.
    let dir = prop::collection::vec(prop::sample::select(vec!["A", "B"]), 0..3);
    let line = (dir, 0..6, prop::sample::select(vec!["x", "y"])).prop_map(|(dir, kind, name)| {
        let mut path = dir.join("/");
        if !path.is_empty() {
            path.push('/');
        }
        match kind {
            0 => format!("f {path}.wh.{name}"),
            1 => format!("f {path}.wh.{}", name.replace('x', "A").replace('y', "B")),
            2 => format!("f {path}.wh..wh..opq"),
            3 => format!("d {path}A"),
            _ => format!("f {path}{name} {kind}"),
        }
    });
    prop::collection::vec(line, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whiteouts_mean_the_same_in_whatever_order_they_come(
        stack in prop::collection::vec(any_layer(), 1..4)
    ) {
        let refs: Vec<Vec<&str>> = stack.iter().map(|layer| layer.iter().map(String::as_str).collect()).collect();
        let refs: Vec<&[&str]> = refs.iter().map(Vec::as_slice).collect();
        let ours = layers(&refs);
        let mut theirs = model(&stack);
        // Directories that only a whiteout needs are made too; the model does not know them.
        let extra: Vec<&String> = ours.iter().filter(|line| line.starts_with("d ") && !theirs.contains(line)).collect();
        for line in &extra {
            let path = line.split(' ').nth(2).unwrap();
            let needs = |line: &String| line.contains(&format!("{path}/")) && line.contains(".wh.");
            prop_assert!(stack.iter().flatten().any(needs));
        }
        theirs.extend(extra.into_iter().cloned());
        let key = |line: &String| line.split(' ').nth(2).map(|path| path.replace('/', "\0"));
        theirs.sort_by_key(key);
        prop_assert_eq!(ours, theirs);
    }
}
