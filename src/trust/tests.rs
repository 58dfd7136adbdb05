//! Digests and lock files.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use super::digest::of;
use super::lock::{self, Lock};
use super::{Error, Wanted};
use rdvm_hostfs::Digest;
use rdvm_image::tree::{Content, Entry, FileBody, Kind, LinkId, Tree};

fn entry(path: &str, kind: Kind) -> Entry {
    Entry {
        path: path.into(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 7,
        xattrs: None,
        kind,
    }
}

fn file(bytes: &[u8], link: Option<u64>) -> Kind {
    Kind::File(FileBody {
        size: bytes.len() as u64,
        content: Content::Bytes(bytes.into()),
        link: link.map(LinkId),
    })
}

fn digest(entries: Vec<Entry>) -> Digest {
    of(&Tree::from_entries(entries).unwrap()).unwrap()
}

fn sample() -> Vec<Entry> {
    vec![
        entry("a", file(b"alpha", Some(3))),
        entry("b", file(b"alpha", Some(3))),
        entry("d", Kind::Directory),
        entry("d/l", Kind::Symlink(b"../a".to_vec())),
        entry("n", Kind::CharDevice { major: 1, minor: 3 }),
    ]
}

#[test]
fn the_definition_stays_what_it_is() {
    // Worked out by the program in docs/digest.md; a new definition needs a new first line.
    assert_eq!(
        digest(sample()).to_string(),
        "sha256:3af3f476d4c951c9139c1e1e1d6ecb90b5dcd3e0e9276f63a33be01e6e8d5005"
    );
}

#[test]
fn whatever_is_part_of_the_tree_changes_the_digest_and_times_do_not() {
    let original = digest(sample());
    let changed = |change: &dyn Fn(&mut Vec<Entry>)| {
        let mut entries = sample();
        change(&mut entries);
        digest(entries)
    };
    assert_eq!(changed(&|all| all[0].mtime = 9), original);
    assert_eq!(
        changed(&|all| for (at, number) in [(0, 99), (1, 99)] {
            all[at].kind = file(b"alpha", Some(number));
        }),
        original,
        "numbers of links mean nothing"
    );
    let mut root = entry("", Kind::Directory);
    root.mode = 0o755;
    assert_eq!(changed(&|all| all.push(root.clone())), original);
    let xattrs = Arc::new([(b"user.x".to_vec(), b"1".to_vec())].into());
    type Change<'a> = &'a dyn Fn(&mut Vec<Entry>);
    let changes: [Change<'_>; 10] = [
        &|all| all[0].mode = 0o600,
        &|all| all[2].uid = 1,
        &|all| all[2].gid = 1,
        &|all| all[3].kind = Kind::Symlink(b"../b".to_vec()),
        &|all| all[4].kind = Kind::CharDevice { major: 1, minor: 5 },
        &|all| all[4].kind = Kind::BlockDevice { major: 1, minor: 3 },
        &|all| all[1].kind = file(b"alpha", None),
        &|all| all[1].path = b"c".to_vec(),
        &|all| all[2].xattrs = Some(Arc::clone(&xattrs)),
        &|all| {
            all.pop();
        },
    ];
    let mut seen = vec![original];
    for change in changes {
        let digest = changed(change);
        assert!(!seen.contains(&digest));
        seen.push(digest);
    }
}

#[test]
fn digests_are_written_as_they_are_read() {
    let text = format!("sha256:{}", "0f".repeat(32));
    assert_eq!(text.parse::<Digest>().unwrap().to_string(), text);
    for bad in [
        "",
        "sha256:",
        &text[7..],
        &text.to_uppercase(),
        &format!("{text}0"),
        &text.replace("sha256", "sha512"),
        &text.replace("0f", "0g"),
    ] {
        assert!(bad.parse::<Digest>().is_err(), "{bad}");
    }
}

#[test]
fn a_lock_file_is_found_above_and_its_paths_are_relative_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().join("sub/dir");
    fs::create_dir_all(&below).unwrap();
    assert_eq!(
        lock::find(&below).map(|path| path.starts_with(dir.path())),
        None
    );
    let path = dir.path().join(lock::NAME);
    let (one, two) = (Digest([1; 32]), Digest([2; 32]));
    let mut lock = Lock::new(path.clone());
    lock.set(&below, Path::new("../../images/base.tar"), one)
        .unwrap();
    lock.set(dir.path(), Path::new("./other"), two).unwrap();
    lock.write().unwrap();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        format!("{one}  images/base.tar\n{two}  other\n")
    );
    assert_eq!(lock::find(&below), Some(path.clone()));
    let mut lock = Lock::read(&path).unwrap();
    let wanted = |lock: &Lock, here: &Path, image: &str| {
        lock.wanted(here, Path::new(image))
            .map(|wanted| wanted.digest)
    };
    assert_eq!(wanted(&lock, dir.path(), "images/base.tar"), Some(one));
    assert_eq!(wanted(&lock, &below, "../../other"), Some(two));
    assert_eq!(wanted(&lock, &below, "other"), None);
    lock.set(&below, Path::new("../../other"), one).unwrap();
    assert_eq!(wanted(&lock, dir.path(), "other"), Some(one));
    assert!(lock.set(dir.path(), Path::new("-"), one).is_err());
    assert!(lock.set(dir.path(), Path::new("a\nb"), one).is_err());
}

#[test]
fn comments_stay_and_a_line_that_is_none_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(lock::NAME);
    let line = format!("{}  with two  spaces", Digest([7; 32]));
    fs::write(&path, format!("# agreed on Friday\n\n{line}\n")).unwrap();
    let lock = Lock::read(&path).unwrap();
    lock.write().unwrap();
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        format!("# agreed on Friday\n\n{line}\n")
    );
    assert!(
        lock.wanted(dir.path(), Path::new("with two  spaces"))
            .is_some()
    );
    for bad in [
        "sha256:12  x",
        "x",
        &line[..71],
        &format!("{}  ", &line[..71]),
    ] {
        fs::write(&path, format!("# one\n{bad}\n")).unwrap();
        let error = Lock::read(&path).unwrap_err();
        assert!(
            matches!(error, Error::LockLine { line: 2, .. }),
            "{bad}: {error}"
        );
    }
}

#[test]
fn another_image_than_the_one_wanted_is_refused_with_both_digests() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), vec![5; 600 << 10]).unwrap();
    fs::set_permissions(dir.path().join("f"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("f", dir.path().join("l")).unwrap();
    let image = crate::request::Request::new(dir.path(), ["x"]).image;
    let tree = || rdvm_image::open(&image).unwrap().tree;
    let wanted = Wanted {
        digest: of(&tree()).unwrap(),
        by: "--expect".into(),
    };
    wanted.check(dir.path(), of(&tree()).unwrap()).unwrap();
    fs::write(dir.path().join("f"), vec![6; 600 << 10]).unwrap();
    let error = wanted
        .check(dir.path(), of(&tree()).unwrap())
        .unwrap_err()
        .to_string();
    let now = of(&tree()).unwrap();
    assert!(
        error.contains(&wanted.digest.to_string()) && error.contains(&now.to_string()),
        "{error}"
    );
}

#[test]
fn the_program_in_the_documents_gives_the_same_digest() {
    let document = fs::read_to_string("docs/digest.md").unwrap();
    let program = document.split("```python\n").nth(1).unwrap();
    let program = program.split("```").next().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["a", "a/b", "a-b", "a.d"] {
        fs::create_dir(path(name)).unwrap();
    }
    fs::write(path("a/b/file"), "text").unwrap();
    fs::write(path("a-b/big"), vec![7; 1 << 20]).unwrap();
    fs::hard_link(path("a/b/file"), path("a.d/name")).unwrap();
    symlink("../nowhere", path("a/link")).unwrap();
    let request = crate::request::Request::new(dir.path(), ["x"]);
    let image = crate::request::ImageRef {
        owner: crate::request::Ownership::Keep,
        ..request.image
    };
    let ours = of(&rdvm_image::open(&image).unwrap().tree).unwrap();
    let theirs = std::process::Command::new("python3")
        .args(["-c", program])
        .arg(dir.path())
        .output()
        .expect("python3, which scripts/install-deps.sh installs");
    assert_eq!(
        String::from_utf8(theirs.stdout).unwrap().trim_end(),
        ours.to_string()
    );
}

#[test]
fn names_of_images_have_lines_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rdvm.lock");
    let line = |digit: &str, what: &str| format!("sha256:{}  {what}\n", digit.repeat(64));
    let text = [
        "# kept\n".to_owned(),
        line("1", "docker://docker.io/library/debian:12"),
        // A file in a directory, and no image of docker's.
        line("2", "user/app:1"),
        line("3", "docker://debian:12"),
    ];
    fs::write(&path, text.concat()).unwrap();
    let mut lock = Lock::read(&path).unwrap();
    let name = |text: &str| text.parse::<rdvm_registry::Reference>().unwrap();
    let digit = |lock: &Lock, text: &str| {
        let digest = lock.digest_of_name(&name(text));
        digest.map(|digest| digest.to_string()[7..8].to_owned())
    };
    assert_eq!(
        digit(&lock, "docker.io/library/debian:12").as_deref(),
        Some("1")
    );
    assert_eq!(
        digit(&lock, "index.docker.io/debian:12").as_deref(),
        Some("1")
    );
    assert_eq!(digit(&lock, "docker.io/library/debian:11"), None);
    assert_eq!(digit(&lock, "docker.io/user/app:1"), None);
    let wanted = lock.wanted(dir.path(), Path::new("user/app:1")).unwrap();
    assert!(wanted.digest.to_string().starts_with("sha256:2"));
    lock.set_name(&name("docker.io/library/debian:12"), wanted.digest);
    lock.write().unwrap();
    let expected = [
        &text[0],
        &text[2],
        &text[3],
        &line("2", "docker://docker.io/library/debian:12"),
    ];
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        expected.map(String::as_str).concat()
    );
}
