//! Streams that a guest may send and their results, without a machine.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use rdvm_proto::{COPY_DEPTH, COPY_MAX, COPY_PATH, CopyFrame, MOUNTED, Sent};
use tempfile::TempDir;

use super::*;
use crate::request::{Copies, CopyOut, Links};
use rdvm_hostfs::units::ByteSize;

const FILE: u32 = 0o100644;
const DIRECTORY: u32 = 0o040755;
const LINK: u32 = 0o120777;

/// The stream that a guest sends.
#[derive(Debug, Default, Clone)]
struct Stream(Vec<u8>);

impl Stream {
    fn with(mut self, parcel: &CopyFrame<'_>) -> Self {
        let mut frame = vec![0; COPY_MAX];
        let length = parcel.encode(&mut frame).unwrap();
        self.0.extend_from_slice(&frame[..length]);
        self
    }

    fn begin() -> Self {
        Self::default().with(&CopyFrame::Begin(0))
    }

    fn entry(self, mode: u32, path: impl AsRef<[u8]>, size: u64, target: &[u8]) -> Self {
        self.with(&CopyFrame::Entry(Sent {
            mode,
            mtime: 1_000_000_000,
            mtime_ns: 5,
            size,
            path: path.as_ref(),
            target,
        }))
    }

    fn directory(self, path: impl AsRef<[u8]>) -> Self {
        self.entry(DIRECTORY, path, 0, b"")
    }

    fn file(self, path: impl AsRef<[u8]>, content: &[u8]) -> Self {
        let mut stream = self.entry(FILE, path, content.len() as u64, b"");
        for piece in content.chunks(60_000) {
            stream = stream.with(&CopyFrame::Data(piece));
        }
        stream.with(&CopyFrame::FileEnd(0))
    }

    fn link(self, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(LINK, path, 0, target.as_ref())
    }

    fn end(self) -> Vec<u8> {
        self.with(&CopyFrame::End).0
    }
}

fn spec(guest: &str, host: impl Into<PathBuf>) -> CopyOut {
    CopyOut {
        guest: guest.into(),
        host: host.into(),
    }
}

fn copies(out: Vec<CopyOut>, limit: u64) -> Copies {
    Copies {
        out,
        limit: ByteSize(limit),
        ..Copies::default()
    }
}

/// The result of one copy.
fn received(guest: &str, host: impl Into<PathBuf>, bytes: &[u8]) -> Copied {
    let copies = copies(vec![spec(guest, host)], 1 << 20);
    let mut receiver = Receiver::open(&copies).unwrap();
    receiver.receive(bytes);
    receiver.finish(None).pop().unwrap()
}

/// All that is below a directory: path, mode, time, and content or target.
fn listing(root: &Path) -> Vec<(PathBuf, u32, i64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut paths = vec![root.to_path_buf()];
    while let Some(path) = paths.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            paths.extend(entries.map(|entry| entry.unwrap().path()));
            Vec::new()
        } else if meta.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_vec()
        } else {
            fs::read(&path).unwrap()
        };
        let below = path.strip_prefix(root).unwrap().to_path_buf();
        let time = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
        found.push((below, meta.mode(), time, content));
    }
    found.sort();
    found
}

/// A directory to copy to, in one with things that must stay as they are.
struct Place {
    canary: TempDir,
}

impl Place {
    fn new() -> Self {
        let canary = TempDir::new().unwrap();
        let place = Self { canary };
        fs::create_dir(place.canary.path().join("beside")).unwrap();
        fs::write(place.canary.path().join("beside/file"), "untouched").unwrap();
        fs::write(place.canary.path().join("file"), "untouched").unwrap();
        fs::create_dir(place.home()).unwrap();
        place
    }

    fn home(&self) -> PathBuf {
        self.canary.path().join("home")
    }

    fn outside(&self) -> Vec<(PathBuf, u32, i64, Vec<u8>)> {
        let mut all = listing(self.canary.path());
        all.retain(|(path, ..)| !path.starts_with("home"));
        all
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.home())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// The stream that PID 1 sends for these paths.
fn collected(specs: &[&Path]) -> Vec<u8> {
    let port = tempfile::NamedTempFile::new().unwrap();
    let mut paths = Vec::new();
    for spec in specs {
        paths.extend_from_slice(spec.as_os_str().as_bytes());
        paths.push(0);
    }
    rdinit::collect::send_by_port(port.as_file().as_raw_fd(), &paths, specs.len());
    fs::read(port.path()).unwrap()
}

fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn a_tree_comes_out_as_it_was_in_pieces_of_any_size() {
    let guest = TempDir::new().unwrap();
    let root = guest.path().join("out");
    fs::create_dir_all(root.join("a/empty")).unwrap();
    fs::write(root.join("a/all bytes"), (0..=255).collect::<Vec<u8>>()).unwrap();
    fs::write(root.join("large"), vec![7; 300_001]).unwrap();
    fs::write(root.join("none"), "").unwrap();
    fs::write(root.join("line\nbreak \u{1b}[2J"), "x").unwrap();
    let name = std::ffi::OsString::from_vec(b"\xff\xfe".to_vec());
    fs::write(root.join(name), "y").unwrap();
    symlink("a/all bytes", root.join("link")).unwrap();
    symlink("../link", root.join("a/back")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    symlink("..", root.join("a/up")).unwrap();
    let mode = |path: &str, mode| {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    // Who is not root can read it no more than PID 1 could.
    let closed = match rustix::process::geteuid().is_root() {
        true => 0o000,
        false => 0o400,
    };
    mode("none", closed);
    mode("large", 0o751);
    for link in ["link", "a/back"] {
        set_time(&root.join(link), 3, 999_999_999);
    }
    set_time(&root.join("large"), -5, 1);
    set_time(&root.join("a"), 1 << 33, 0);
    set_time(&root, 7, 8);
    let expected = |root: &Path| {
        mode("none", 0o400);
        let all = listing(root);
        mode("none", closed);
        all
    };
    let bytes = collected(&[&root]);
    let wanted = expected(&root);
    for size in [1, 13, 4096, 100_000, usize::MAX] {
        let place = Place::new();
        let canary = place.outside();
        let copies = copies(vec![spec("out", place.home().join("new"))], 1 << 20);
        let mut receiver = Receiver::open(&copies).unwrap();
        for piece in bytes.chunks(size.min(bytes.len())) {
            assert!(!receiver.is_over());
            receiver.receive(piece);
        }
        assert!(receiver.is_over());
        assert_eq!(receiver.progress(), bytes.len() as u64);
        assert_eq!(place.names().len(), 1, "it waits under a name of ours");
        let copied = receiver.finish(None).pop().unwrap();
        assert_eq!(copied.error, None);
        let counts = (copied.files, copied.directories, copied.links, copied.bytes);
        assert_eq!(counts, (5, 3, 4, 256 + 300_001 + 2));
        let new = place.home().join("new");
        let none = fs::metadata(new.join("none")).unwrap();
        assert_eq!(none.mode() & 0o7777, closed);
        fs::set_permissions(new.join("none"), fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(listing(&new), wanted);
        assert_eq!(place.names(), ["new"]);
        assert_eq!(place.outside(), canary);
    }
}

#[test]
fn directories_that_nobody_may_write_to_come_with_their_modes() {
    // As root nobody is kept out; the modes are looked at all the same.
    let stream = Stream::begin()
        .entry(0o047555, "", 0, b"")
        .entry(0o040000, "closed", 0, b"")
        .entry(0o104777, "setuid", 0, b"")
        .with(&CopyFrame::FileEnd(0));
    let place = Place::new();
    for host in ["new", "old"] {
        if host == "old" {
            fs::create_dir(place.home().join(host)).unwrap();
            let mode = fs::Permissions::from_mode(0o751);
            fs::set_permissions(place.home().join(host), mode).unwrap();
        }
        let copied = received("out", place.home().join(host), &stream.clone().end());
        assert_eq!(copied.error, None);
        let mode = |path: &str| {
            let path = place.home().join(host).join(path);
            fs::symlink_metadata(path).unwrap().mode() & 0o7777
        };
        // What is there already keeps its own.
        let root = if host == "new" { 0o555 } else { 0o751 };
        assert_eq!(mode(""), root);
        assert_eq!((mode("closed"), mode("setuid")), (0, 0o777));
        for path in ["", "closed"] {
            let open = fs::Permissions::from_mode(0o700);
            fs::set_permissions(place.home().join(host).join(path), open).unwrap();
        }
    }
    assert_eq!(place.names(), ["new", "old"]);
    // A whole one that finds no place is removed, whatever its modes.
    fs::write(place.home().join("in-the-way"), "").unwrap();
    let copied = received("out", place.home().join("in-the-way"), &stream.end());
    assert!(copied.error.unwrap().contains("is no directory"));
    assert_eq!(place.names(), ["in-the-way", "new", "old"]);
}

/// Row c9: what is wrong with one wish, and no file of it on the host.
#[test]
fn what_a_hostile_guest_sends_is_refused_and_leaves_nothing() {
    let root = || Stream::begin().directory("");
    let long = |length| vec![b'x'; length];
    let deep = |depth| vec!["d"; depth].join("/");
    let streams: Vec<(&str, Stream)> = vec![
        ("below", root().file("..", b"")),
        ("below", root().file("../x", b"")),
        ("below", root().directory("a").file("a/../../x", b"")),
        ("below", root().file("/etc/passwd", b"")),
        ("below", root().file(".", b"")),
        ("below", root().directory("a/")),
        ("below", root().file("a//b", b"")),
        ("NUL", root().file("a\0b", b"")),
        ("too long", root().file(long(256), b"")),
        ("too long", root().file(long(COPY_PATH + 1), b"")),
        ("too long", root().directory(deep(COPY_DEPTH + 1))),
        ("without a directory", root().file("a/b", b"")),
        ("without a directory", Stream::begin().file("a", b"")),
        (
            "without a directory",
            root().file("a", b"").file("a/b", b""),
        ),
        (
            "without a directory",
            root().link("a", "..").file("a/x", b""),
        ),
        (
            "without a directory",
            root().link("a", ".").file("a/x", b""),
        ),
        ("twice", root().file("a", b"").file("a", b"")),
        ("twice", root().file("a", b"").directory("a")),
        ("twice", root().directory("a").file("a", b"")),
        ("twice", root().directory("a").directory("a")),
        ("twice", root().link("a", "b").file("a", b"")),
        ("twice", root().file("a", b"").link("a", "b")),
        ("twice", root().directory("")),
        ("twice", Stream::begin().file("", b"").directory("")),
        ("twice", Stream::begin().file("", b"").file("a", b"")),
        (
            "neither file nor directory",
            Stream::begin().link("", "/etc"),
        ),
        (
            "neither file nor directory",
            Stream::begin().entry(0o010644, "", 0, b""),
        ),
        (
            "neither file nor directory",
            Stream::begin().entry(0o020644, "", 0, b""),
        ),
        ("no known kind", root().entry(0o644, "a", 0, b"")),
        ("link to nothing", root().link("a", "")),
        ("link to nothing", root().link("a", "b\0c")),
        ("link to nothing", root().link("a", long(4096))),
        (
            "a time",
            root()
                .with(&CopyFrame::Entry(Sent {
                    mode: FILE,
                    mtime: 0,
                    mtime_ns: (1 << 30) - 1,
                    size: 0,
                    path: b"a",
                    target: b"",
                }))
                .with(&CopyFrame::FileEnd(0)),
        ),
        (
            "another length",
            root()
                .entry(FILE, "a", 2, b"")
                .with(&CopyFrame::Data(b"x"))
                .with(&CopyFrame::FileEnd(0)),
        ),
        (
            "another length",
            root()
                .entry(FILE, "a", 0, b"")
                .with(&CopyFrame::Data(b"x"))
                .with(&CopyFrame::FileEnd(0)),
        ),
        (
            "Input/output error",
            root().entry(FILE, "a", 2, b"").with(&CopyFrame::FileEnd(5)),
        ),
        (
            "Permission denied",
            root().with(&CopyFrame::Unread {
                errno: 13,
                path: b"a",
            }),
        ),
        (
            "below",
            root().with(&CopyFrame::Unread {
                errno: MOUNTED,
                path: b"../a",
            }),
        ),
        ("no order", Stream::begin()),
        ("no order", Stream::default()),
        ("no order", Stream::default().directory("")),
        ("no order", Stream::begin().with(&CopyFrame::Begin(0))),
        ("no order", Stream::default().with(&CopyFrame::Begin(1))),
        ("no order", root().with(&CopyFrame::Data(b"x"))),
        ("no order", root().with(&CopyFrame::FileEnd(0))),
        ("no order", root().entry(FILE, "a", 0, b"").directory("b")),
        ("no order", root().entry(FILE, "a", 0, b"")),
        (
            "not there",
            Stream::default().with(&CopyFrame::Missing { copy: 0, errno: 2 }),
        ),
        ("more than", root().entry(FILE, "a", 1 << 40, b"")),
    ];
    for (words, stream) in streams {
        for host in ["new", "old"] {
            let place = Place::new();
            let old = place.home().join("old");
            fs::create_dir(&old).unwrap();
            let before = listing(place.canary.path());
            let copied = received("out", place.home().join(host), &stream.clone().end());
            let error = copied
                .error
                .unwrap_or_else(|| panic!("{words}: it was taken"));
            assert!(error.contains(words), "{error:?} has no {words:?}");
            assert!(!error.contains(['\n', '\u{1b}', '\0']));
            let mut after = listing(place.canary.path());
            let is_same = |path: &PathBuf| !path.starts_with("home");
            let without_times = |all: &mut Vec<(PathBuf, u32, i64, Vec<u8>)>| {
                all.iter_mut()
                    .filter(|(path, ..)| !is_same(path))
                    .for_each(|(_, _, time, _)| *time = 0);
            };
            let mut before = before;
            without_times(&mut before);
            without_times(&mut after);
            assert_eq!(before, after, "{words}");
        }
    }
}

#[test]
fn what_is_neither_file_nor_directory_nor_link_is_counted() {
    let mut stream = Stream::begin().directory("");
    for (at, kind) in [0o010000, 0o020000, 0o060000, 0o140000].iter().enumerate() {
        stream = stream.entry(kind | 0o666, format!("{at}"), 0, b"");
    }
    let stream = stream
        .directory("proc")
        .with(&CopyFrame::Unread {
            errno: MOUNTED,
            path: b"proc",
        })
        .file("a", b"x");
    let place = Place::new();
    let copied = received("out", place.home().join("new"), &stream.end());
    assert_eq!((copied.error, copied.left_out), (None, 5));
    assert_eq!(listing(&place.home().join("new")).len(), 3);
}

/// Copies one path out under this rule for links.
fn received_by(links: Links, host: PathBuf, bytes: &[u8]) -> Copied {
    let copies = Copies {
        links,
        ..copies(vec![spec("out", host)], 1 << 20)
    };
    let mut receiver = Receiver::open(&copies).unwrap();
    receiver.receive(bytes);
    receiver.finish(None).pop().unwrap()
}

/// Whatever a later run puts where a name is: what goes up behind one leads out as well.
#[test]
fn links_that_lead_out_are_left_out_and_named_and_all_else_comes() {
    let root = || {
        Stream::begin()
            .directory("")
            .directory("d")
            .file("d/file", b"x")
    };
    let root = || root().link("fine", "d/file");
    let cases: Vec<(&[&str], Stream)> = vec![
        (&["a -> /etc/passwd"], root().link("a", "/etc/passwd")),
        (&["a -> .."], root().link("a", "..")),
        (&["a -> x/../.."], root().link("a", "x/../..")),
        (&["d/b -> ../../home"], root().link("d/b", "../../home")),
        (
            &["c -> d/b/.."],
            root().link("d/b", "..").link("c", "d/b/.."),
        ),
        (
            &["l -> d/up/../x"],
            root().link("d/up", "..").link("l", "d/up/../x"),
        ),
        (&["d/l -> m/../x"], root().link("d/l", "m/../x")),
        (&["d/l -> ./m/.."], root().link("d/l", "./m/..")),
        (&["d/l -> m//..//x"], root().link("d/l", "m//..//x")),
        // One that leads to one that leads out does so too.
        (
            &["a -> b/../x", "b -> c", "c -> /"],
            root().link("a", "b/../x").link("b", "c").link("c", "/"),
        ),
        (&["e\\u{1b} -> /"], root().link("e\u{1b}", "/")),
    ];
    for (out, stream) in cases {
        for host in ["new", "old"] {
            let place = Place::new();
            fs::create_dir(place.home().join("old")).unwrap();
            fs::write(place.home().join("old/kept"), "k").unwrap();
            let canary = place.outside();
            let bytes = stream.clone().end();
            let copied = received_by(Links::Inside, place.home().join(host), &bytes);
            assert_eq!(copied.error, None, "{out:?}");
            let named = copied.left_links.iter();
            let named: Vec<_> = named
                .map(|link| format!("{} -> {}", link.path, link.target))
                .collect();
            assert_eq!(named, out);
            let count = out.len() as u64;
            assert_eq!((copied.links_left_out, copied.left_out), (count, count));
            let message = copied.message().unwrap();
            assert!(
                message.contains(&out[..out.len().min(3)].join(", ")),
                "{message}"
            );
            assert!(!copied.is_complete());
            let new = place.home().join(host);
            assert_eq!(fs::read(new.join("fine")).unwrap(), b"x");
            let links = listing(&new).into_iter();
            let links = links.filter(|(_, mode, ..)| mode & 0o170000 == 0o120000);
            assert_eq!(links.count() as u64, copied.links);
            for link in &copied.left_links {
                assert!(!new.join(&link.path).is_symlink(), "{out:?}");
            }
            assert_eq!(place.outside(), canary);
            // The other way all of them come, and nothing is followed.
            let kept = received_by(Links::Keep, place.home().join(host), &bytes);
            assert_eq!((kept.error.as_ref(), kept.links_left_out), (None, 0));
            assert_eq!(kept.links, copied.links + count);
            assert!(kept.is_complete());
            let again = received_by(Links::Keep, place.home().join(host), &bytes);
            assert_eq!(again.error, None);
            assert_eq!(place.outside(), canary);
        }
    }
}

#[test]
fn of_very_many_links_that_lead_out_the_first_are_named() {
    let mut stream = Stream::begin().directory("").file("file", b"x");
    for at in 0..LINKS_NAMED + 50 {
        stream = stream.link(format!("l{at:03}"), "/");
    }
    let place = Place::new();
    let copied = received("out", place.home().join("new"), &stream.end());
    assert_eq!(copied.links_left_out, LINKS_NAMED as u64 + 50);
    assert_eq!(copied.left_links.len(), LINKS_NAMED);
    let message = copied.message().unwrap();
    assert!(
        message.contains("l000 -> /, l001 -> /, l002 -> / and 147 more"),
        "{message}"
    );
    assert_eq!(listing(&place.home().join("new")).len(), 2);
}

#[test]
fn links_that_stay_inside_come_even_in_loops() {
    let stream = Stream::begin()
        .directory("")
        .directory("a")
        .directory("a/b")
        .link("a/b/top", "../..")
        .link("loop", "loop")
        .link("ping", "./pong")
        .link("pong", "./ping")
        .link("through", "a/b/top/a/b/top/x")
        .link("self", ".")
        .link("a/odd", ".././a//b//./");
    let place = Place::new();
    let copied = received("out", place.home().join("new"), &stream.end());
    assert_eq!((copied.error, copied.links), (None, 7));
    let read = |path: &str| fs::read_link(place.home().join("new").join(path)).unwrap();
    assert_eq!(read("a/odd").as_os_str(), ".././a//b//./");
    assert_eq!(read("through").as_os_str(), "a/b/top/a/b/top/x");
}

#[test]
fn links_that_lead_to_one_another_for_ever_are_given_up() {
    let mut stream = Stream::begin().directory("");
    // Each goes through the next twenty thousand times over.
    for at in 0..39 {
        let target = format!("l{}/", at + 1).repeat(800);
        stream = stream.link(format!("l{at}"), &target[..target.len() - 1]);
    }
    stream = stream.link("l39", ".");
    let place = Place::new();
    let started = std::time::Instant::now();
    let copied = received("out", place.home().join("new"), &stream.end());
    eprintln!("{:?}", started.elapsed());
    // Linux follows forty links in all, so it is over at once; that is as good as being refused.
    assert_eq!(copied.error, None);
}

#[test]
fn limits_of_bytes_and_entries_end_the_stream() {
    let place = Place::new();
    let out = ["a", "b", "c"].map(|name| spec(name, place.home().join(name)));
    let copies = copies(out.to_vec(), 10);
    let stream = Stream::begin()
        .file("", b"12345")
        .with(&CopyFrame::Begin(1))
        .file("", b"67890")
        .with(&CopyFrame::Begin(2))
        .entry(FILE, "", 1, b"");
    let mut receiver = Receiver::open(&copies).unwrap();
    receiver.receive(&stream.0);
    assert!(receiver.is_over());
    let progress = receiver.progress();
    receiver.receive(&stream.0);
    assert_eq!(receiver.progress(), progress);
    let copied = receiver.finish(Some("never said"));
    assert!(copied[0].error.is_none() && copied[1].error.is_none());
    let error = copied[2].message().unwrap();
    assert_eq!(
        error,
        "--copy-out: c: more than 10 B in all, which is the limit; allow more with --copy-out-limit"
    );
    assert_eq!(place.names(), ["a", "b"]);

    // One that fails is counted all the same: a guest cannot go on with it for ever.
    for bad in ["..", "a"] {
        let mut receiver = Receiver::open(&copies).unwrap();
        receiver.receive(&Stream::begin().directory("").0);
        let piece = Stream::default().file(bad, b"123");
        for round in 0..4 {
            assert_eq!(receiver.is_over(), round == 4, "{round}");
            receiver.receive(&piece.0);
        }
        assert!(receiver.is_over());
    }
    let fifo = Stream::default().entry(0o010644, "x", 0, b"").0;
    let many = fifo.repeat(1000);
    for first in [
        Stream::begin().directory(""),
        Stream::begin().directory(".."),
    ] {
        let mut receiver = Receiver::open(&copies).unwrap();
        receiver.receive(&first.0);
        for _ in 0..ENTRIES / 1000 - 1 {
            receiver.receive(&many);
        }
        assert!(!receiver.is_over());
        receiver.receive(&many);
        assert!(receiver.is_over());
        let error = receiver.finish(None)[1].error.clone().unwrap();
        assert!(error.contains("1000000 files"), "{error}");
    }
}

#[test]
fn a_stream_that_stops_or_is_damaged_costs_only_what_was_not_whole() {
    let place = Place::new();
    let out = ["a", "b", "c"].map(|name| spec(name, place.home().join(name)));
    let copies = copies(out.to_vec(), 1000);
    let stream = Stream::begin()
        .directory("")
        .file("x", b"whole")
        .with(&CopyFrame::Begin(1))
        .directory("")
        .file("x", b"half");
    for damage in [None, Some(&b"junk"[..])] {
        let mut receiver = Receiver::open(&copies).unwrap();
        receiver.receive(&stream.0);
        receiver.receive(damage.unwrap_or_default());
        assert_eq!(receiver.is_over(), damage.is_some());
        let copied = receiver.finish(Some("the machine was stopped after --timeout"));
        let why = match damage {
            None => "not copied out: the machine was stopped after --timeout",
            Some(_) => "what the machine sent is damaged",
        };
        assert_eq!(copied[0].error, None);
        assert_eq!(copied[1].error.as_deref(), Some(why));
        assert_eq!(copied[2].error.as_deref(), Some(why));
        assert_eq!(place.names(), ["a"]);
    }
}

#[test]
fn nothing_is_staged_before_the_first_thing_comes_nor_after_a_drop() {
    let place = Place::new();
    let copies = copies(vec![spec("out", place.home().join("new"))], 1000);
    let mut receiver = Receiver::open(&copies).unwrap();
    receiver.receive(&Stream::begin().0);
    assert!(place.names().is_empty());
    receiver.receive(&Stream::default().directory("").directory("a").0);
    receiver.receive(&Stream::default().file("a/b", b"x").0);
    let [staging] = &place.names()[..] else {
        panic!("{:?}", place.names());
    };
    assert!(staging.starts_with(".rdvm-"), "{staging}");
    let mode = fs::metadata(place.home().join(staging)).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o700);
    drop(receiver);
    assert!(place.names().is_empty());
}

/// One thing onto another: what is there before, HOST, what comes, what is there then or what is said.
#[test]
fn a_directory_is_merged_and_a_file_goes_inside_or_replaces() {
    type Check = Result<&'static [(&'static str, &'static str)], &'static str>;
    let cases: &[(&[&str], &str, &str, Check)] = &[
        // A slash at the end of what is there before makes it a directory; files have their own name as content.
        (&[], "new", "file", Ok(&[("new", "came")])),
        (
            &[],
            "new",
            "tree",
            Ok(&[("new/a", "came"), ("new/d/b", "came")]),
        ),
        (&["old"], "old", "file", Ok(&[("old", "came")])),
        (&["old/"], "old", "file", Ok(&[("old/thing", "came")])),
        (&["old/thing"], "old", "file", Ok(&[("old/thing", "came")])),
        (
            &["old/thing/"],
            "old",
            "file",
            Err("old: thing is a directory and what came is none"),
        ),
        (
            &["old"],
            "old",
            "tree",
            Err("old: old is no directory and what came is one"),
        ),
        (
            &["old/k"],
            "old",
            "tree",
            Ok(&[("old/a", "came"), ("old/d/b", "came"), ("old/k", "k")]),
        ),
        (
            &["old/a", "old/d/k"],
            "old",
            "tree",
            Ok(&[("old/a", "came"), ("old/d/b", "came"), ("old/d/k", "k")]),
        ),
        (
            &["old/d/b/"],
            "old",
            "tree",
            Err("old: d/b is a directory and what came is none"),
        ),
        (
            &["old/d"],
            "old",
            "tree",
            Err("old: d is no directory and what came is one"),
        ),
        (&[], "new/", "file", Ok(&[("new/thing", "came")])),
        (
            &[],
            "x/y/z/",
            "tree",
            Ok(&[("x/y/z/thing/a", "came"), ("x/y/z/thing/d/b", "came")]),
        ),
        (
            &["old/"],
            "old/",
            "tree",
            Ok(&[("old/thing/a", "came"), ("old/thing/d/b", "came")]),
        ),
        (
            &["old/thing/k"],
            "old/",
            "tree",
            Ok(&[
                ("old/thing/a", "came"),
                ("old/thing/d/b", "came"),
                ("old/thing/k", "k"),
            ]),
        ),
        (
            &["old/thing"],
            "old/",
            "tree",
            Err("old/: thing is no directory and what came is one"),
        ),
        (&["old/thing"], "old/", "file", Ok(&[("old/thing", "came")])),
        (
            &["old/thing/"],
            "old/",
            "file",
            Err("old/: thing is a directory and what came is none"),
        ),
        (
            &["old/"],
            "old/.",
            "tree",
            Ok(&[("old/a", "came"), ("old/d/b", "came")]),
        ),
    ];
    for (before, host, what, check) in cases {
        let place = Place::new();
        let home = place.home();
        for path in *before {
            let path = home.join(path);
            match path.as_os_str().as_bytes().ends_with(b"/") {
                true => fs::create_dir_all(path).unwrap(),
                false => {
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(&path, path.file_name().unwrap().as_bytes()).unwrap();
                }
            }
        }
        let canary = place.outside();
        let kept = |root: &Path| {
            let mut all = listing(root);
            all.iter_mut().for_each(|(_, _, time, _)| *time = 0);
            all
        };
        let then = kept(&home);
        let stream = match *what {
            "file" => Stream::begin().file("", b"came"),
            _ => Stream::begin()
                .directory("")
                .file("a", b"came")
                .directory("d")
                .file("d/b", b"came"),
        };
        let copied = received("/some/thing/", home.join(host), &stream.end());
        let case = format!("{before:?} {host} {what}");
        match check {
            Ok(expected) => {
                assert_eq!(copied.error, None, "{case}");
                let mut files = listing(&home);
                files.retain(|(_, mode, ..)| mode & 0o170000 == 0o100000);
                let files: Vec<_> = files
                    .iter()
                    .map(|(path, _, _, content)| (path.to_str().unwrap(), &content[..]))
                    .collect();
                let expected: Vec<_> = expected
                    .iter()
                    .map(|(path, content)| (*path, content.as_bytes()))
                    .collect();
                assert_eq!(files, expected, "{case}");
            }
            Err(words) => {
                let error = copied.error.unwrap();
                assert!(error.contains(words), "{case}: {error}");
                assert_eq!(kept(&home), then, "{case}");
            }
        }
        assert_eq!(place.outside(), canary, "{case}");
    }
}

#[test]
fn links_of_the_hosts_are_followed_where_the_user_named_them_and_nowhere_else() {
    let place = Place::new();
    let beside = place.canary.path().join("beside");
    symlink(&beside, place.home().join("directory")).unwrap();
    symlink(beside.join("file"), place.home().join("file")).unwrap();
    let file = Stream::begin().file("", b"came").end();
    let copied = received("thing", place.home().join("directory"), &file);
    assert_eq!(copied.error, None);
    assert_eq!(fs::read(beside.join("thing")).unwrap(), b"came");
    let copied = received("thing", place.home().join("file"), &file);
    assert_eq!(copied.error, None);
    assert_eq!(fs::read(beside.join("file")).unwrap(), b"came");
    assert!(place.home().join("file").is_symlink());
    // Below what was named they are names like others.
    let canary = place.outside();
    let tree = Stream::begin().directory("").file("file", b"own").end();
    assert_eq!(received("x", place.home(), &tree).error, None);
    assert_eq!(fs::read(place.home().join("file")).unwrap(), b"own");
    assert!(!place.home().join("file").is_symlink());
    let tree = Stream::begin().directory("").directory("directory");
    let tree = tree.file("directory/x", b"own").end();
    let error = received("x", place.home(), &tree).error.unwrap();
    assert!(error.contains("directory is no directory"), "{error}");
    // Nor may what comes lead through them.
    let tree = Stream::begin().directory("").link("l", "directory/x");
    let tree = tree.file("new", b"own").end();
    let copied = received("x", place.home(), &tree);
    assert_eq!((copied.error, copied.links_left_out), (None, 1));
    assert_eq!(copied.left_links[0].path, "l");
    assert_eq!(place.outside(), canary);
    assert_eq!(place.names(), ["directory", "file", "new"]);
}

#[test]
fn places_that_cannot_be_written_to_are_refused_before_the_machine_runs() {
    let place = Place::new();
    let home = place.home();
    fs::write(home.join("file"), "").unwrap();
    let fifo = home.join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
    let shown = |path: &Path| path.to_str().unwrap().to_owned();
    for (guest, host, words) in [
        ("a", home.join("no/new"), "its directory is not there"),
        ("a", home.join("file/"), "is not a directory"),
        ("a", home.join("file/x"), "Not a directory"),
        ("a", fifo, "neither file nor directory"),
        ("a", "/dev/null".into(), "neither file nor directory"),
        ("/", home.join("new/"), "no name of its own"),
        ("a/..", home.join(""), "no name of its own"),
        (".", home.join(""), "no name of its own"),
        ("a", home.join("no/../new/"), "no/../new/: "),
        ("a", "/proc/new".into(), "/proc/new"),
        ("", home.join("new"), "is no path"),
        ("a\0", home.join("new"), "is no path"),
        ("a", PathBuf::new(), "is no path"),
    ] {
        let host_shown = shown(&host);
        match Receiver::open(&copies(vec![spec(guest, host)], 1)) {
            Err(error) => {
                let error = error.to_string();
                assert!(error.starts_with("--copy-out: "), "{error}");
                assert!(error.contains(words), "{guest}:{host_shown}: {error}");
            }
            // What is not refused before must fail afterwards (root may write to /proc, says the kernel).
            Ok(receiver) => {
                assert!(host_shown.starts_with("/proc"), "{guest}:{host_shown}");
                drop(receiver);
            }
        }
    }
    assert_eq!(place.names(), ["fifo", "file"]);
}

#[test]
fn pid_1_says_what_it_cannot_send() {
    let guest = TempDir::new().unwrap();
    let fifo = guest.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
    let mut deep = guest.path().join("deep");
    fs::create_dir(&deep).unwrap();
    let top = deep.clone();
    for _ in 1..COPY_DEPTH {
        deep.push("d");
        fs::create_dir(&deep).unwrap();
    }
    let place = Place::new();
    let new = place.home().join("new");
    let taken = received("deep", &new, &collected(&[&top]));
    assert_eq!(taken.error, None);
    assert_eq!(taken.directories, COPY_DEPTH as u64);
    deep.push("d");
    fs::create_dir(&deep).unwrap();
    let table: [(&Path, &str); 5] = [
        (&top, "File name too long"),
        (&fifo, "neither file nor directory"),
        (&guest.path().join("nothing"), "not there"),
        (Path::new("/proc/self/status"), "another length"),
        (Path::new("/proc/self/mem"), "could not be read"),
    ];
    for (path, words) in table {
        let copied = received("x", place.home().join("x"), &collected(&[path]));
        let error = copied.error.unwrap();
        assert!(error.contains(words), "{error}");
    }
    // The others of the same run are not touched by it. A wish that is a link is followed.
    let link = guest.path().join("link");
    symlink("fifo/..", guest.path().join("bad")).unwrap();
    fs::write(guest.path().join("file"), "content").unwrap();
    symlink("file", &link).unwrap();
    let bytes = collected(&[&top, &link, &fifo, &guest.path().join("bad"), &link]);
    let out = ["a", "b", "c", "d", "e"].map(|name| spec(name, place.home().join(name)));
    let mut receiver = Receiver::open(&copies(out.to_vec(), 1 << 20)).unwrap();
    receiver.receive(&bytes);
    let errors: Vec<bool> = receiver
        .finish(None)
        .iter()
        .map(|copied| copied.error.is_some())
        .collect();
    assert_eq!(errors, [true, false, true, true, false]);
    assert_eq!(place.names(), ["b", "e", "new"]);
    assert_eq!(fs::read(place.home().join("b")).unwrap(), b"content");
}

/// A well-formed stream of many kinds of things, to be damaged.
fn sample() -> Vec<u8> {
    Stream::begin()
        .directory("")
        .file("a", &[7; 3000])
        .directory("d")
        .file("d/b", b"b")
        .link("d/l", "../a")
        .entry(0o010644, "fifo", 0, b"")
        .with(&CopyFrame::Begin(1))
        .file("", b"single")
        .with(&CopyFrame::Missing { copy: 2, errno: 2 })
        .end()
}

/// Takes any bytes in pieces; asserts that nothing but the two names is there afterwards, and those whole or not at all.
fn take_damaged(bytes: &[u8], sizes: &[usize]) {
    let place = Place::new();
    let out = ["a", "b", "c"].map(|name| spec(name, place.home().join(name)));
    let canary = place.outside();
    let mut receiver = Receiver::open(&copies(out.to_vec(), 1 << 16)).unwrap();
    let mut rest = bytes;
    for size in sizes.iter().cycle() {
        let (piece, after) = rest.split_at(rest.len().min(*size.max(&1)));
        receiver.receive(piece);
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    let copied = receiver.finish(None);
    assert_eq!(copied.len(), 3);
    assert_eq!(place.outside(), canary);
    let good: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .zip(&copied)
        .filter(|(_, copied)| copied.error.is_none())
        .map(|(name, _)| name)
        .collect();
    assert_eq!(place.names(), good);
}

/// A parcel of random content, by which anything well-formed can be said.
fn any_parcel() -> impl Strategy<Value = Stream> {
    let name = prop::sample::select(vec![
        "",
        "a",
        "b",
        "d",
        "d/b",
        "d/d",
        "..",
        "../x",
        "/x",
        "a/a",
        ".",
        "d/../../x",
        "l",
        "l/x",
    ]);
    let target = prop::sample::select(vec!["", "a", "..", "../..", "/etc", "l", "d/../..", "."]);
    let mode = prop::sample::select(vec![
        FILE, DIRECTORY, LINK, 0o010644, 0o020644, 0, 0o107777, 0o040000,
    ]);
    let entry = (mode, name.clone(), target, 0..9u64).prop_map(|(mode, path, target, size)| {
        Stream::default().entry(mode, path, size, target.as_bytes())
    });
    prop_oneof![
        6 => entry,
        4 => (name.clone(), 0..3usize).prop_map(|(name, size)| {
            Stream::default().file(name, &b"abc"[..size])
        }),
        3 => name.clone().prop_map(|name| Stream::default().directory(name)),
        1 => Just(Stream::default().with(&CopyFrame::Data(b"xy"))),
        1 => (0..2i32).prop_map(|errno| Stream::default().with(&CopyFrame::FileEnd(errno))),
        1 => (0..4u32).prop_map(|spec| Stream::default().with(&CopyFrame::Begin(spec))),
        1 => (0..4u32).prop_map(|spec| Stream::default().with(&CopyFrame::Missing { copy: spec, errno: 1 })),
        1 => (name, 17..19i32).prop_map(|(path, errno)| {
            Stream::default().with(&CopyFrame::Unread { errno, path: path.as_bytes() })
        }),
        1 => Just(Stream(Stream::default().end())),
    ]
}

/// How much of what takes long is done: all of it where `RDVM_SOAK` is set.
fn rounds(soak: u32, ordinary: u32) -> u32 {
    match std::env::var_os("RDVM_SOAK") {
        Some(_) => soak,
        None => {
            eprintln!("RDVM_SOAK is not set: {ordinary} rounds instead of {soak}");
            ordinary
        }
    }
}

/// Rows c9 and c12.
#[test]
fn no_stream_whatever_leaves_anything_but_what_is_whole() {
    take_damaged(&sample(), &[usize::MAX]);
    for byte in 0..sample().len() {
        let mut damaged = sample();
        damaged[byte] ^= 1 << (byte % 8);
        if byte % 7 == 0 || byte < 200 {
            take_damaged(&damaged, &[usize::MAX]);
            take_damaged(&sample()[..byte], &[100]);
        }
    }
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(rounds(100_000, 512))
    };
    proptest!(config, |(
        parcels in prop::collection::vec(any_parcel(), 0..24),
        sizes in prop::collection::vec(1..70usize, 1..5),
        has_begin in any::<bool>(),
        junk in prop::collection::vec(any::<u8>(), 0..3),
    )| {
        let mut bytes = if has_begin { Stream::begin().0 } else { Vec::new() };
        bytes.extend(parcels.into_iter().flat_map(|stream| stream.0));
        bytes.extend(junk);
        take_damaged(&bytes, &sizes);
    });
}

#[test]
fn no_more_than_a_frame_is_kept_of_what_does_not_end() {
    let place = Place::new();
    let mut receiver = Receiver::open(&copies(vec![spec("a", place.home())], 1)).unwrap();
    let head = &Stream::begin().directory("").0;
    receiver.receive(head);
    // A frame of full length that never comes whole.
    let mut frame = vec![0; COPY_MAX];
    CopyFrame::encode_data(&mut frame, rdvm_proto::COPY_PAYLOAD).unwrap();
    receiver.receive(&frame[..COPY_MAX - 1]);
    assert!(!receiver.is_over());
    assert_eq!(receiver.pending.len(), COPY_MAX - 1);
    assert_eq!(receiver.progress(), head.len() as u64);
    receiver.receive(&vec![0; 1 << 20]);
    assert!(receiver.is_over());
    assert_eq!(receiver.pending.capacity(), 0);
    assert_eq!(receiver.progress(), head.len() as u64);
}

/// Row c10: another process swaps a directory of the destination for a link that leads elsewhere, and back.
#[test]
fn a_directory_that_becomes_a_link_meanwhile_leads_nowhere() {
    let place = Place::new();
    let (sub, aside) = (place.home().join("sub"), place.home().join("aside"));
    let beside = place.canary.path().join("beside");
    fs::create_dir(&sub).unwrap();
    symlink(&beside, &aside).unwrap();
    let canary = place.outside();
    let stop = AtomicBool::new(false);
    let (mut good, mut bad) = (0, 0);
    let bytes = Stream::begin()
        .directory("")
        .directory("sub")
        .file("sub/file", b"from the guest")
        .file("sub/other", b"from the guest")
        .link("sub/link", "file")
        .end();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            while !stop.load(Ordering::Relaxed) {
                renameat_with(CWD, &sub, CWD, &aside, RenameFlags::EXCHANGE).unwrap();
            }
        });
        for _ in 0..rounds(100_000, 2_000) {
            match received("tree", place.home(), &bytes).error {
                None => good += 1,
                Some(_) => bad += 1,
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    eprintln!("{good} merged, {bad} refused");
    assert!(good > 0 && bad > 0, "there was no race: {good} and {bad}");
    assert_eq!(place.outside(), canary);
    assert_eq!(place.names(), ["aside", "sub"]);
    // The same with the directory that was named: it is held since before, whatever has its name now.
    let bytes = Stream::begin().directory("").file("file", b"guest").end();
    let copies = copies(vec![spec("tree", &sub)], 1000);
    if sub.is_symlink() {
        let exchange = rustix::fs::RenameFlags::EXCHANGE;
        let cwd = rustix::fs::CWD;
        rustix::fs::renameat_with(cwd, &sub, cwd, &aside, exchange).unwrap();
    }
    let mut receiver = Receiver::open(&copies).unwrap();
    let moved = place.home().join("moved");
    fs::rename(&sub, &moved).unwrap();
    symlink(&beside, &sub).unwrap();
    receiver.receive(&bytes);
    assert_eq!(receiver.finish(None)[0].error, None);
    assert_eq!(fs::read(moved.join("file")).unwrap(), b"guest");
    assert_eq!(place.outside(), canary);
}
