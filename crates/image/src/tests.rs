//! Images as they are found on a host: what becomes an entry, what is refused, and in which words.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat};

use super::tree::{Content, Entry, FileBody, Kind, Tree, Warning};
use super::{Error, open};
use crate::reference::{ImageRef, OwnerRange, Ownership};
use crate::skips::{left_out, missing};

fn read(path: &Path) -> Result<Tree, Error> {
    read_as(path, Ownership::Keep, None)
}

fn read_as(path: &Path, owner: Ownership, fakeroot: Option<PathBuf>) -> Result<Tree, Error> {
    open(&ImageRef {
        path: path.to_owned(),
        owner,
        fakeroot,
        ..ImageRef::default()
    })
    .map(|image| image.tree)
}

fn names(tree: &Tree) -> Vec<String> {
    tree.entries()
        .iter()
        .map(|entry| entry.path.escape_ascii().to_string())
        .collect()
}

fn get<'a>(tree: &'a Tree, path: &str) -> &'a Entry {
    tree.get(path.as_bytes())
        .unwrap_or_else(|| panic!("no {path}"))
}

/// A message as `main` prints it.
fn told(error: &Error) -> String {
    error.to_string()
}

/// True in a process that runs one test on its own terms; otherwise starts that process, and looks how it went.
fn alone(start: impl FnOnce(&Path) -> Command) -> bool {
    if std::env::var_os("RDVM_TEST_ALONE").is_some() {
        return true;
    }
    let name = std::thread::current().name().unwrap().to_owned();
    let program = std::env::current_exe().unwrap();
    let output = start(&program)
        .args(["--exact", &name])
        .env("RDVM_TEST_ALONE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

#[test]
fn what_is_no_directory_with_something_in_it_is_refused_in_clear_words() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    fs::create_dir(dir.path().join("empty")).unwrap();
    mknodat(CWD, dir.path().join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    for (path, words) in [
        (
            file("app.tar", &[0; 1024]),
            "app.tar: nothing is in it; fill it",
        ),
        (
            file("app.tgz", b"\x1f\x8b\x08"),
            "app.tgz: the gzip data is cut off after 3 bytes",
        ),
        (
            file("app.tbz", b"BZh9"),
            "app.tbz: is compressed by bzip2, which rdvm does not unpack",
        ),
        (file("app.cpio", b"070701000"), "app.cpio: "),
        (file("app.zip", b"PK\x03\x04"), "is a zip archive"),
        (file("sh", b"\x7fELF"), "is a program"),
        (file("none", b""), "is an empty file"),
        (file("text", b"hello"), "is a file of unknown kind"),
        (dir.path().join("pipe"), "is a named pipe"),
        (
            dir.path().join("empty"),
            "empty: the directory is empty; fill it",
        ),
        (
            dir.path().join("no\nwhere"),
            "no\\nwhere: no such file or directory; give",
        ),
        (
            dir.path().join("text/below"),
            "text/below: the image cannot be read",
        ),
        ("/dev/null".into(), "is a device"),
    ] {
        let error = told(&read(&path).unwrap_err());
        assert!(error.contains(words) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn the_image_may_be_reached_through_a_link_but_links_in_it_are_entries() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("real/d")).unwrap();
    fs::write(dir.path().join("real/d/f"), "f").unwrap();
    symlink("/", dir.path().join("real/root")).unwrap();
    symlink("real", dir.path().join("link")).unwrap();
    let tree = read(&dir.path().join("link")).unwrap();
    assert_eq!(names(&tree), ["", "d", "d/f", "root"]);
    assert_eq!(get(&tree, "root").kind, Kind::Symlink(b"/".to_vec()));
}

#[test]
fn small_files_are_held_and_large_ones_stay_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    for size in [0, 4096, 4097] {
        fs::write(dir.path().join(size.to_string()), vec![b'x'; size]).unwrap();
    }
    let tree = read(dir.path()).unwrap();
    for (name, held) in [("0", true), ("4096", true), ("4097", false)] {
        let Kind::File(FileBody { content, size, .. }) = &get(&tree, name).kind else {
            panic!()
        };
        assert_eq!(matches!(content, Content::Bytes(_)), held, "{name}");
        assert_eq!(content.read(*size).unwrap(), vec![b'x'; *size as usize]);
    }
    let Kind::File(large) = &get(&tree, "4097").kind else {
        panic!()
    };
    fs::write(dir.path().join("4097"), "other").unwrap();
    assert!(large.content.read(large.size).is_err());
}

#[test]
fn a_tree_deeper_than_a_path_can_be_is_an_error_not_an_overflow() {
    let dir = tempfile::tempdir().unwrap();
    let mut at =
        rustix::fs::open(dir.path(), rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    for depth in 0..2100 {
        if depth == 2047 {
            // The deepest that fits: 2047 names and as many slashes but one.
            let tree = read(dir.path()).unwrap();
            assert_eq!(tree.entries().last().unwrap().path.len(), 4093);
        }
        rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, "d", rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let error = told(&read(dir.path()).unwrap_err());
    assert!(
        error.contains("the path has 4097 bytes, 4095 is the limit") && error.len() < 200,
        "{error}"
    );
    // The standard library's removal takes one descriptor per level.
    assert!(
        Command::new("rm")
            .arg("-rf")
            .arg(dir.path())
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn a_number_outside_the_owner_map_is_an_error_that_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file\x1b"), "").unwrap();
    let (uid, gid) = fs::metadata(dir.path())
        .map(|stat| (stat.uid(), stat.gid()))
        .unwrap();
    let range = |host, guest| OwnerRange {
        host,
        guest,
        count: 1,
    };
    let own = [uid, gid].map(|number| range(number, number + 7));
    let tree = read_as(dir.path(), Ownership::Map(own.to_vec()), None).unwrap();
    assert!(
        tree.entries()
            .iter()
            .all(|entry| (entry.uid, entry.gid) == (uid + 7, gid + 7))
    );
    let error =
        told(&read_as(dir.path(), Ownership::Map(vec![range(uid + 1, 0)]), None).unwrap_err());
    assert!(
        error.contains(&format!("user {uid} is in no range of the owner map")),
        "{error}"
    );
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(dir.path().join("file\x1b"), None, Some(4321)).unwrap();
        let error = told(&read_as(dir.path(), Ownership::Map(own.to_vec()), None).unwrap_err());
        assert!(
            error.contains("/file\\u{1b}: group 4321 is in no range"),
            "{error}"
        );
    } else {
        left_out("a file of another group takes root");
    }
}

#[test]
fn an_overlay_whiteout_is_refused_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    // Linux lets everybody make this one device.
    mknodat(
        CWD,
        dir.path().join("gone"),
        FileType::CharacterDevice,
        Mode::empty(),
        makedev(0, 0),
    )
    .unwrap();
    let error = told(&read(dir.path()).unwrap_err());
    assert!(
        error.contains("/gone: is an overlayfs whiteout") && error.contains("merged"),
        "{error}"
    );
}

#[test]
fn what_may_not_be_read_is_named_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    if rustix::process::geteuid().is_root() {
        // Root may read all; so somebody else does this test, in a directory of his own.
        if std::env::var_os("RDVM_TEST_ALONE").is_none() {
            fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
            let program = dir.path().join("test");
            fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
            alone(|_| {
                let mut command = Command::new(&program);
                command
                    .uid(65534)
                    .gid(65534)
                    .current_dir(dir.path())
                    .env("TMPDIR", "/tmp");
                command
            });
            return;
        }
        panic!("still root");
    }
    let root = dir.path().join("image");
    fs::create_dir_all(root.join("d")).unwrap();
    for name in ["d/small", "d/large"] {
        fs::write(
            root.join(name),
            vec![1; if name == "d/small" { 1 } else { 100_000 }],
        )
        .unwrap();
        fs::set_permissions(root.join(name), Permissions::from_mode(0o200)).unwrap();
        let error = told(&read(&root).unwrap_err());
        assert!(
            error.contains(&format!("image/{name}: cannot be read: ")) && error.contains("denied"),
            "{error}"
        );
        fs::remove_file(root.join(name)).unwrap();
    }
    fs::set_permissions(root.join("d"), Permissions::from_mode(0o000)).unwrap();
    let error = told(&read(&root).unwrap_err());
    fs::set_permissions(root.join("d"), Permissions::from_mode(0o700)).unwrap();
    assert!(error.contains("image/d: cannot be read: "), "{error}");
}

#[test]
fn a_mount_point_is_packed_empty_with_a_warning() {
    if !rustix::process::geteuid().is_root() {
        return missing("root, for mounting,");
    }
    let in_own_namespace = alone(|program| {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "--"])
            .arg(program);
        command
    });
    if !in_own_namespace {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["other", "same", "plain"] {
        fs::create_dir(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("below"), "").unwrap();
    }
    let mount = |args: &[&str], at: &str| {
        assert!(
            Command::new("mount")
                .args(args)
                .arg(dir.path().join(at))
                .status()
                .unwrap()
                .success()
        );
    };
    mount(&["-t", "tmpfs", "none"], "other");
    fs::write(dir.path().join("other/on top"), "").unwrap();
    // A bind mount of the same file system: only statx tells.
    mount(
        &["--bind", dir.path().join("plain").to_str().unwrap()],
        "same",
    );
    let tree = read(dir.path()).unwrap();
    assert_eq!(names(&tree), ["", "other", "plain", "plain/below", "same"]);
    let warned: Vec<_> = tree
        .warnings()
        .iter()
        .map(|warning| match warning {
            Warning::MountPoint { path } => &path[..],
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(warned, [b"other", &b"same"[..]]);
    assert!(
        tree.warnings()[0]
            .to_string()
            .starts_with("other: is a mount point, packed as an empty directory;")
    );
}

#[test]
fn fakeroot_has_the_last_word_on_owners_modes_and_devices() {
    let dir = tempfile::tempdir().unwrap();
    let (image, save) = (dir.path().join("image"), dir.path().join("save"));
    fs::create_dir(&image).unwrap();
    let script = "mknod null c 1 3; mknod disk b 259 65537; mknod pipe p; mkdir home; chown 1000:1001 home
        echo hello >su; chown 0:42 su; chmod 4755 su; ln -s su link; chown -h 7:8 link; ln su other; chmod 2775 .";
    match Command::new("fakeroot")
        .arg("-s")
        .arg(&save)
        .args(["sh", "-ec", script])
        .current_dir(&image)
        .output()
    {
        Ok(output) => assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(_) => return missing("fakeroot"),
    }
    fs::write(image.join("later"), "made without fakeroot").unwrap();
    fs::set_permissions(image.join("later"), Permissions::from_mode(0o604)).unwrap();

    let tree = read_as(&image, Ownership::Root, Some(save.clone())).unwrap();
    for (name, mode, owner) in [
        ("", 0o2775, (0, 0)),
        ("home", 0o755, (1000, 1001)),
        ("su", 0o4755, (0, 42)),
        ("other", 0o4755, (0, 42)),
        ("link", 0o777, (7, 8)),
        ("later", 0o604, (0, 0)),
    ] {
        let entry = get(&tree, name);
        assert_eq!(
            (entry.mode, (entry.uid, entry.gid)),
            (mode, owner),
            "{name}"
        );
    }
    assert_eq!(
        get(&tree, "null").kind,
        Kind::CharDevice { major: 1, minor: 3 }
    );
    assert_eq!(
        get(&tree, "disk").kind,
        Kind::BlockDevice {
            major: 259,
            minor: 65_537
        }
    );
    assert_eq!(get(&tree, "pipe").kind, Kind::Fifo);

    // A save file that knows a file's inode as a directory is another image's.
    let su = fs::metadata(image.join("su")).unwrap();
    let line = format!(
        "dev={:x},ino={},mode=40755,uid=0,gid=0,nlink=1,rdev=0\n",
        su.dev(),
        su.ino()
    );
    fs::write(&save, &line).unwrap();
    let error = told(&read_as(&image, Ownership::Root, Some(save.clone())).unwrap_err());
    assert!(
        error.contains("knows this inode as another kind of file"),
        "{error}"
    );
    File::options()
        .append(true)
        .open(&save)
        .unwrap()
        .write_all(b"what\n")
        .unwrap();
    let error = told(&read_as(&image, Ownership::Root, Some(save.clone())).unwrap_err());
    assert!(
        error.contains("save: line 2 is not one that fakeroot writes"),
        "{error}"
    );
    fs::remove_file(&save).unwrap();
    let error = told(&read_as(&image, Ownership::Root, Some(save)).unwrap_err());
    assert!(
        error.contains("save: the fakeroot save file cannot be read: "),
        "{error}"
    );
}

/// Sets an attribute; `false`, after a word, where this user or file system may not have it.
fn set(path: &Path, name: &str, value: &[u8]) -> bool {
    match lsetxattr(path, name, value, XattrFlags::empty()) {
        Ok(()) => true,
        Err(errno) => {
            missing(&format!("{name} on {} ({errno})", path.display()));
            false
        }
    }
}

#[test]
fn extended_attributes_are_read_of_files_and_directories_the_root_too() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["d", "d/e"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    for name in ["d/f", "d/none", "linked"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    fs::hard_link(dir.path().join("linked"), dir.path().join("d/other")).unwrap();
    symlink("linked", dir.path().join("d/link")).unwrap();
    let long = vec![b'v'; 3000];
    for (name, attribute, value) in [
        ("", "user.root", &b"r"[..]),
        ("d/e", "user.e", b"\0\xff"),
        ("d/f", "user.long", &long),
        ("d/f", "user.empty", b""),
        ("d/f", "user.overlay.origin", b"left out"),
        ("linked", "user.l", b"1"),
    ] {
        if !set(&dir.path().join(name), attribute, value) {
            return;
        }
    }
    let tree = read(dir.path()).unwrap();
    let seen: Vec<_> = tree
        .entries()
        .iter()
        .filter_map(|entry| {
            let list = entry.xattrs.as_ref()?;
            let list = list.iter().map(|(name, value)| (&name[..], &value[..]));
            Some((&entry.path[..], list.collect::<Vec<_>>()))
        })
        .collect();
    type List<'a> = Vec<(&'a [u8], &'a [u8])>;
    let expected: [(&[u8], List<'_>); 5] = [
        (b"", vec![(b"user.root", b"r")]),
        (b"d/e", vec![(b"user.e", b"\0\xff")]),
        (b"d/f", vec![(b"user.empty", b""), (b"user.long", &long)]),
        (b"d/other", vec![(b"user.l", b"1")]),
        (b"linked", vec![(b"user.l", b"1")]),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn numbers_in_an_access_control_list_are_moved_by_the_owner_map() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "").unwrap();
    let (uid, gid) = fs::metadata(dir.path())
        .map(|stat| (stat.uid(), stat.gid()))
        .unwrap();
    let list = |user: u32| {
        let entries = [
            (1, u32::MAX),
            (2, user),
            (4, u32::MAX),
            (16, u32::MAX),
            (32, u32::MAX),
        ];
        let mut list = vec![2, 0, 0, 0];
        for (kind, number) in entries {
            list.extend([kind, 0, 6, 0]);
            list.extend(number.to_le_bytes());
        }
        list
    };
    if !set(
        &dir.path().join("f"),
        "system.posix_acl_access",
        &list(54_321),
    ) {
        return;
    }
    let range = |host, guest| OwnerRange {
        host,
        guest,
        count: 1,
    };
    let map = vec![range(uid, 0), range(gid, 0), range(54_321, 77)];
    let read_by = |map: &[OwnerRange]| read_as(dir.path(), Ownership::Map(map.to_vec()), None);
    let tree = read_by(&map).unwrap();
    let xattrs = get(&tree, "f").xattrs.clone().unwrap();
    assert_eq!(xattrs[&b"system.posix_acl_access"[..]], list(77));
    let error = told(&read_by(&map[..2]).unwrap_err());
    assert!(
        error.contains("/f: user 54321 is in no range of the owner map"),
        "{error}"
    );
}

#[test]
fn override_stat_has_its_say_below_fakeroot_and_above_the_owner() {
    let dir = tempfile::tempdir().unwrap();
    let (image, save) = (dir.path().join("image"), dir.path().join("save"));
    fs::create_dir_all(image.join("d")).unwrap();
    for name in ["su", "node", "saved"] {
        fs::write(image.join(name), "").unwrap();
    }
    for (name, value) in [
        ("", "3:4:0711"),
        ("d", "1000:100:02750:dir"),
        ("su", "0:42:4755:file"),
        ("node", "0:6:0660:block-8-70000"),
        ("saved", "nonsense"),
    ] {
        if !set(
            &image.join(name),
            "user.containers.override_stat",
            value.as_bytes(),
        ) {
            return;
        }
    }
    let saved = fs::metadata(image.join("saved")).unwrap();
    let line = format!(
        "dev={:x},ino={},mode=100604,uid=7,gid=8,nlink=1,rdev=0\n",
        saved.dev(),
        saved.ino()
    );
    fs::write(&save, line).unwrap();
    // No range of the map has the files' real owner, and nobody asks for it.
    let map = Ownership::Map(vec![OwnerRange {
        host: 4_000_000,
        guest: 0,
        count: 1,
    }]);
    let tree = read_as(&image, map.clone(), Some(save)).unwrap();
    for (name, mode, owner) in [
        ("", 0o711, (3, 4)),
        ("d", 0o2750, (1000, 100)),
        ("su", 0o4755, (0, 42)),
        ("node", 0o660, (0, 6)),
        ("saved", 0o604, (7, 8)),
    ] {
        let entry = get(&tree, name);
        assert_eq!(
            (entry.mode, (entry.uid, entry.gid), &entry.xattrs),
            (mode, owner, &None),
            "{name}"
        );
    }
    assert_eq!(
        get(&tree, "node").kind,
        Kind::BlockDevice {
            major: 8,
            minor: 70_000
        }
    );
    let error = told(&read_as(&image, map, None).unwrap_err());
    assert!(
        error.ends_with("/saved: its attribute user.containers.override_stat is \"nonsense\" and not UID:GID:MODE[:KIND]; correct or remove it with setfattr"),
        "{error}"
    );
    for (name, value, good) in [
        ("saved", "0:0:0755:dir", "0:0:0644"),
        ("saved", "0:0:0777:symlink", "0:0:0644"),
        ("d", "0:0:0644:file", "0:0:0755"),
    ] {
        let put = |value: &str| {
            let path = image.join(name);
            assert!(set(
                &path,
                "user.containers.override_stat",
                value.as_bytes()
            ));
        };
        put(value);
        let error = told(&read(&image).unwrap_err());
        let words = format!(
            "/{name}: its attribute user.containers.override_stat is \"{value}\", which this file cannot stand for"
        );
        assert!(error.contains(&words), "{error}");
        put(good);
    }
    assert!(read(&image).is_ok());
}

#[test]
fn a_tree_that_changes_while_it_is_read_is_read_or_refused_never_followed_out() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("canary"), "").unwrap();
    for name in ["image", "image/a", "image/b"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    let swapped = dir.path().join("image/a");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                fs::remove_dir(&swapped).unwrap();
                symlink(outside.path(), &swapped).unwrap();
                fs::remove_file(&swapped).unwrap();
                fs::create_dir(&swapped).unwrap();
            }
        });
        let results: Vec<_> = (0..2000).map(|_| read(&dir.path().join("image"))).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        swapper.join().unwrap();
        for result in results {
            match result {
                Ok(tree) => assert!(names(&tree).iter().all(|name| !name.contains("canary"))),
                Err(Error::Changed { shown }) => assert!(shown.ends_with("image/a"), "{shown}"),
                Err(error) => panic!("{}", told(&error)),
            }
        }
    });
}
