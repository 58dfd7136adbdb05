//! Trees written as EROFS and read again; files of mkfs.erofs; what other readers make of ours; files that lie.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rdvm_image::body::{Bodies, Piece};
use rdvm_image::erofs::{self, BLOCK, INODE, SLOT, SUPER, SUPER_AT};
use rdvm_image::fuzzing;
use rdvm_image::reference::{ImageRef, Ownership};
use rdvm_image::tree::{Content, Entry, FileBody, Kind, LinkId, Tree};
use rdvm_initrd::Epoch;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};
use tempfile::TempDir;

use crate::Layout;
use crate::skips::{left_out, missing};

/// Files of a test.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes the tree with all of its times.
    fn write(&self, tree: &Tree) -> PathBuf {
        let path = self.path("x.erofs");
        let layout = Layout::of(tree, Epoch(u32::MAX)).unwrap();
        let file = File::create(&path).unwrap();
        layout.write(tree, &|| false, &file).unwrap();
        file.set_len(layout.size()).unwrap();
        path
    }
}

fn open(path: &Path) -> Result<Tree, rdvm_image::Error> {
    let image = rdvm_image::open(&ImageRef {
        path: path.to_owned(),
        owner: Ownership::Keep,
        ..ImageRef::default()
    })?;
    Ok(image.tree)
}

/// The entries with their contents in memory, and links numbered in their order.
fn entries(tree: &Tree) -> Vec<Entry> {
    let mut numbers: HashMap<LinkId, u64> = HashMap::new();
    let entries = tree.entries().iter().cloned().map(|mut entry| {
        if let Kind::File(body) = &mut entry.kind {
            body.content = Content::Bytes(body.content.read(body.size).unwrap().into());
            let next = numbers.len() as u64;
            body.link = body
                .link
                .map(|link| LinkId(*numbers.entry(link).or_insert(next)));
        }
        entry
    });
    entries.collect()
}

#[track_caller]
fn assert_same(read: &[Entry], wanted: &[Entry], what: &str) {
    for (read, wanted) in read.iter().zip(wanted) {
        assert_eq!(read, wanted, "{what}");
    }
    assert_eq!(read.len(), wanted.len(), "{what}");
}

fn entry(path: impl Into<Vec<u8>>, kind: Kind) -> Entry {
    Entry {
        path: path.into(),
        mode: match kind {
            Kind::Symlink(_) => 0o777,
            _ => 0o640,
        },
        uid: 70_000,
        gid: 5,
        mtime: 1_000_000_007,
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

/// A file of `size` bytes with 3s in these places.
fn sparse(size: u64, data: &[(u64, u64)]) -> Kind {
    Kind::File(FileBody {
        size,
        content: fuzzing::sparse(data),
        link: None,
    })
}

fn attributes(all: &[(&str, &[u8])]) -> Option<Arc<BTreeMap<Vec<u8>, Vec<u8>>>> {
    let all = all
        .iter()
        .map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec()));
    Some(Arc::new(all.collect()))
}

/// The value that `setcap cap_net_bind_service+ep` sets.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// One of everything.
fn one_of_everything() -> Tree {
    let mut all = vec![
        entry("", Kind::Directory),
        entry("d", Kind::Directory),
        entry("d/e", Kind::Directory),
        entry("empty", file(b"", None)),
        entry("d/a", file(&[1; 5000], Some(9))),
        entry("d/e/b", file(&[1; 5000], Some(9))),
        entry("z", file(&[1; 5000], Some(9))),
        entry("block", file(&[2; 4096], None)),
        entry(
            "char",
            Kind::CharDevice {
                major: 4095,
                minor: 0xf_ffff,
            },
        ),
        entry(
            "disk",
            Kind::BlockDevice {
                major: 8,
                minor: 300,
            },
        ),
        entry("fifo", Kind::Fifo),
        entry("socket", Kind::Socket),
        entry("link", Kind::Symlink(b"../d/e".to_vec())),
        entry("long", Kind::Symlink(vec![b't'; 4095])),
        entry(vec![b'n'; 255], file(b"long name", None)),
        entry(&b"raw \xff\n"[..], file(b"raw", None)),
        entry("-", file(b"before the dot", None)),
        entry(
            "holes",
            sparse(10 << 20, &[(1 << 20, 70_000), (9 << 20, 1 << 20)]),
        ),
        entry("hole", sparse(1 << 20, &[])),
        entry("attributes", file(&[4; 100], None)),
    ];
    all[1].mode = 0o2755;
    all[2].mtime = 0;
    all[19].mode = 0o4711;
    all[19].xattrs = attributes(&[
        ("user.a", b""),
        ("user.long", &[9; 3000]),
        ("trusted.t", b"1"),
        ("security.capability", &CAPABILITY),
    ]);
    all[2].xattrs = attributes(&[("user.d", b"on a directory")]);
    Tree::from_entries(all).unwrap()
}

#[test]
fn one_of_everything_is_read_as_it_was_written() {
    let bench = Bench::new();
    let tree = one_of_everything();
    let read = open(&bench.write(&tree)).unwrap();
    assert_same(&entries(&read), &entries(&tree), "all");
    // Nothing is copied, and holes stay holes.
    for entry in read.entries() {
        if let Kind::File(FileBody {
            size: 1.., content, ..
        }) = &entry.kind
        {
            assert!(matches!(content, Content::Span(_) | Content::Sparse(_)));
        }
    }
    let Kind::File(hole) = &read.get(b"hole").unwrap().kind else {
        panic!()
    };
    assert_eq!(hole.content, Content::Sparse([].into()));
}

#[test]
fn a_directory_of_three_thousand_names_and_a_path_of_the_longest_are_read() {
    let mut all = vec![entry("", Kind::Directory), entry("d", Kind::Directory)];
    all.extend((0..3000).map(|n| entry(format!("d/{n}{}", "x".repeat(n % 240)), Kind::Fifo)));
    let mut path = String::new();
    for _ in 0..16 {
        path += &"p".repeat(255 - usize::from(path.is_empty()));
        all.push(entry(path.clone(), Kind::Directory));
        path += "/";
    }
    let bench = Bench::new();
    let tree = Tree::from_entries(all).unwrap();
    let read = open(&bench.write(&tree)).unwrap();
    assert_same(&entries(&read), &entries(&tree), "all");
}

#[test]
fn two_million_entries_are_read_in_seconds() {
    if std::env::var_os("RDVM_TEST_LONG").is_none() {
        return left_out("RDVM_TEST_LONG is not set");
    }
    let mut all = vec![entry("", Kind::Directory)];
    for number in 0..2_000 {
        all.push(entry(format!("{number}"), Kind::Directory));
        all.extend((0..999).map(|file| {
            let kind = self::file(&[1; 7][..file % 7], None);
            entry(format!("{number}/name-{file}"), kind)
        }));
    }
    let bench = Bench::new();
    let tree = Tree::from_entries(all).unwrap();
    let path = bench.write(&tree);
    let begin = Instant::now();
    let read = open(&path).unwrap();
    let took = begin.elapsed();
    eprintln!("read {} entries in {took:?}", read.entries().len());
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_same(&entries(&read), &entries(&tree), "all");
}

#[test]
fn a_file_of_64_gib_with_holes_is_read_by_its_map() {
    let tree = Tree::from_entries(vec![
        entry("", Kind::Directory),
        entry(
            "large",
            sparse(64 << 30, &[(5 << 30, 1), ((64 << 30) - 10, 10)]),
        ),
    ]);
    let bench = Bench::new();
    let read = open(&bench.write(&tree.unwrap())).unwrap();
    let Kind::File(body) = &read.get(b"large").unwrap().kind else {
        panic!()
    };
    let Content::Sparse(extents) = &body.content else {
        panic!()
    };
    assert_eq!((body.size, extents.len()), (64 << 30, 2));
    let mut byte = [0];
    let read = Bodies::default().read(&body.content, 5 << 30, &mut byte);
    assert_eq!(read.unwrap(), Piece::Bytes);
    assert_eq!((extents[0].at, byte), (5 << 30, [3]));
}

#[derive(Debug, Clone)]
struct Draft {
    place: prop::sample::Index,
    name: Vec<u8>,
    entry: Entry,
    /// Another name of an earlier file.
    is_link: bool,
}

fn any_kind() -> impl Strategy<Value = Kind> {
    let sizes = prop_oneof![
        0..100usize,
        Just(4032),
        Just(4095),
        Just(4096),
        0..20_000usize
    ];
    prop_oneof![
        4 => Just(Kind::Directory),
        3 => (sizes, any::<u8>()).prop_map(|(size, byte)| file(&vec![byte; size], None)),
        1 => prop::collection::vec((1..60_000u64, 1..9000u64), 0..5).prop_map(|steps| {
            let mut end = 0;
            let data: Vec<_> = steps.into_iter().map(|(gap, length)| {
                let at = end + gap;
                end = at + length;
                (at, length)
            }).collect();
            sparse(end + 7000, &data)
        }),
        1 => prop::collection::vec(1..=255u8, 1..4096).prop_map(Kind::Symlink),
        1 => (0..4096u32, 0..1u32 << 20).prop_map(|(major, minor)| Kind::CharDevice { major, minor }),
        1 => (0..4096u32, 0..1u32 << 20).prop_map(|(major, minor)| Kind::BlockDevice { major, minor }),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
    ]
}

fn any_draft() -> impl Strategy<Value = Draft> {
    let byte = prop_oneof![Just(b'a'), Just(b'.'), Just(b'-'), 1..=255u8]
        .prop_filter("a slash", |byte| *byte != b'/');
    let name = prop_oneof![
        prop::collection::vec(byte.clone(), 1..4),
        prop::collection::vec(byte, 1..256)
    ];
    let attribute = (
        "user\\.[a-z]{1,20}",
        prop::collection::vec(any::<u8>(), 0..200),
    );
    let attributes = prop::collection::btree_map(attribute.0, attribute.1, 0..3);
    let owner = (0..0o10000u16, any::<u32>(), any::<u32>(), any::<u32>());
    (
        any::<prop::sample::Index>(),
        name,
        any_kind(),
        owner,
        attributes,
        any::<u8>(),
    )
        .prop_map(
            |(place, name, kind, (mode, uid, gid, mtime), attributes, dice)| Draft {
                place,
                name,
                entry: Entry {
                    path: Vec::new(),
                    mode: if matches!(kind, Kind::Symlink(_)) {
                        0o777
                    } else {
                        mode
                    },
                    uid,
                    gid,
                    mtime: mtime.into(),
                    xattrs: (!attributes.is_empty()).then(|| {
                        let all = attributes.into_iter();
                        Arc::new(
                            all.map(|(name, value)| (name.into_bytes(), value))
                                .collect(),
                        )
                    }),
                    kind,
                },
                is_link: dice < 40,
            },
        )
}

fn tree_of(drafts: Vec<Draft>) -> Tree {
    // Without any it would be no image.
    let mut all: Vec<Entry> = vec![entry("", Kind::Directory), entry("first", Kind::Fifo)];
    let mut paths = HashSet::from([b"first".to_vec()]);
    for (number, draft) in drafts.into_iter().enumerate() {
        let is_directory = |entry: &&Entry| entry.kind == Kind::Directory;
        let directories: Vec<&Entry> = all.iter().filter(is_directory).collect();
        let mut path = draft.place.get(&directories).path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(&draft.name);
        let is_dots = matches!(&*draft.name, b"." | b"..");
        if is_dots || path.len() > 4095 || !paths.insert(path.clone()) {
            continue;
        }
        let mut new = Entry {
            path: path.clone(),
            ..draft.entry
        };
        let is_file = |entry: &&mut Entry| matches!(entry.kind, Kind::File(_));
        if draft.is_link
            && let Some(other) = all.iter_mut().find(is_file)
        {
            if let Kind::File(body) = &mut other.kind {
                body.link.get_or_insert(LinkId(number as u64));
            }
            new = Entry {
                path,
                ..other.clone()
            };
        }
        all.push(new);
    }
    Tree::from_entries(all).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn any_tree_is_read_as_it_was_written(drafts in prop::collection::vec(any_draft(), 1..40)) {
        let tree = tree_of(drafts);
        let bench = Bench::new();
        let read = open(&bench.write(&tree)).unwrap();
        prop_assert_eq!(entries(&read), entries(&tree));
    }
}

/// True if a program of erofs-utils is here.
fn is_here(program: &str) -> bool {
    let is_here = Command::new(program).arg("-V").output().is_ok();
    if !is_here {
        missing(program);
    }
    is_here
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn ran(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// A directory on the host with what a user may make, and more for root.
fn directory(bench: &Bench) -> PathBuf {
    let dir = bench.path("dir");
    let path = |name: &str| dir.join(name);
    fs::create_dir_all(path("d/e")).unwrap();
    fs::create_dir_all(path("many")).unwrap();
    for (name, size) in [
        ("empty", 0),
        ("small", 10),
        ("block", 4096),
        ("d/large", 70_001),
    ] {
        let bytes: Vec<u8> = (0..size).map(|n| (n * 7 % 251) as u8).collect();
        fs::write(path(name), bytes).unwrap();
    }
    fs::hard_link(path("small"), path("d/second")).unwrap();
    fs::hard_link(path("d/large"), path("third")).unwrap();
    symlink("d/e", path("link")).unwrap();
    symlink("t".repeat(3000), path("long")).unwrap();
    for number in 0..700 {
        fs::write(
            path(&format!("many/{number}{}", "x".repeat(number % 200))),
            b"",
        )
        .unwrap();
    }
    let holes = File::create(path("holes")).unwrap();
    holes.set_len(1 << 20).unwrap();
    holes.write_all_at(b"in the middle", 300_000).unwrap();
    fs::set_permissions(path("small"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::set_permissions(path("d"), fs::Permissions::from_mode(0o1777)).unwrap();
    let fifo = mknodat(CWD, path("fifo"), FileType::Fifo, Mode::RUSR, 0);
    fifo.unwrap();
    drop(std::os::unix::net::UnixListener::bind(path("socket")).unwrap());
    if is_root() {
        let device = makedev(7, 300);
        mknodat(CWD, path("disk"), FileType::BlockDevice, Mode::RUSR, device).unwrap();
        for (name, owner) in [("empty", 70_000), ("block", 1000), ("d/e", 1000)] {
            std::os::unix::fs::chown(path(name), Some(owner), Some(3)).unwrap();
        }
    }
    let mut names = vec![("user.common", "the same for all".to_owned())];
    if is_root() {
        names.push(("trusted.own", "t".repeat(100)));
    }
    for (number, file) in ["empty", "small", "block", "d/large", "d", "many"]
        .iter()
        .enumerate()
    {
        for (name, value) in &names {
            let value = [value.as_bytes(), &[b'0'; 5][..number % 2]].concat();
            if setxattr(path(file), *name, &value, XattrFlags::empty()).is_err() {
                left_out("the host's file system has no extended attributes");
            }
        }
    }
    dir
}

/// On both sides of what is copied by the kernel and of a block that is written.
#[test]
fn files_of_any_size_side_by_side_are_read_as_they_were_written() {
    let bench = Bench::new();
    let dir = bench.path("dir");
    fs::create_dir(&dir).unwrap();
    let sizes = [
        1, 32_768, 5000, 32_767, 300_000, 4097, 10, 262_144, 70_001, 1_000_003, 9000, 40_960,
        65_536,
    ];
    for (number, size) in sizes.into_iter().enumerate() {
        let bytes = (0..size).map(|at| (at * 7 % 251 + number) as u8);
        fs::write(dir.join(format!("{number:02}")), Vec::from_iter(bytes)).unwrap();
    }
    let holes = File::create(dir.join("04-holes")).unwrap();
    holes.set_len(1 << 20).unwrap();
    holes.write_all_at(&[9; 50_000], 290_000).unwrap();
    let archive = bench.path("x.tar");
    ran(Command::new("tar")
        .arg("-C")
        .arg(&dir)
        .arg("-cf")
        .args([&archive, Path::new(".")]));
    for image in [dir, archive] {
        let tree = open(&image).unwrap();
        let read = open(&bench.write(&tree)).unwrap();
        let shown = image.display().to_string();
        assert_same(&entries(&read), &entries(&tree), &shown);
    }
}

#[test]
fn a_file_that_has_changed_is_not_copied() {
    let bench = Bench::new();
    let dir = bench.path("dir");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("file"), [1; 100_000]).unwrap();
    let tree = open(&dir).unwrap();
    let layout = Layout::of(&tree, Epoch(0)).unwrap();
    // Longer than the coarsest clock of a local file system ticks.
    std::thread::sleep(Duration::from_millis(30));
    fs::write(dir.join("file"), [2; 100_000]).unwrap();
    let out = tempfile::tempfile().unwrap();
    let error = layout.write(&tree, &|| false, &out).unwrap_err();
    assert!(
        error.to_string().contains("/file: changed while"),
        "{error}"
    );
}

#[test]
fn what_mkfs_erofs_writes_is_what_the_directory_is() {
    if !is_here("mkfs.erofs") {
        return;
    }
    let bench = Bench::new();
    let dir = directory(&bench);
    let wanted = entries(&open(&dir).unwrap());
    for options in [
        "",
        "-Enoinline_data",
        "-Eforce-inode-compact",
        "-Eforce-inode-extended",
        "-Eforce-inode-extended,noinline_data",
        "-Enosbcrc",
        "-x0",
        "-x1",
        "-x-1",
        "--chunksize=4096",
        "--chunksize=65536",
        "--chunksize=4096 -Eforce-chunk-indexes",
        "--chunksize=4096 -x1 -Eforce-inode-compact",
    ] {
        let image = bench.path("other.erofs");
        let mut mkfs = Command::new("mkfs.erofs");
        mkfs.args(options.split_whitespace()).arg("--quiet");
        // A compact inode has no room for a large one.
        if options.contains("compact") {
            mkfs.arg("--force-uid=7");
        }
        ran(mkfs.arg(&image).arg(&dir));
        let mut wanted = wanted.clone();
        let mut read = entries(&open(&image).unwrap());
        for entry in wanted.iter_mut().chain(&mut read) {
            if options.contains("compact") {
                (entry.mtime, entry.uid) = (0, 7);
            }
            if options == "-x-1" {
                entry.xattrs = None;
            }
        }
        assert_same(&read, &wanted, options);
    }
}

#[test]
fn what_is_compressed_or_unknown_is_refused_with_a_way_out() {
    if !is_here("mkfs.erofs") {
        return;
    }
    let bench = Bench::new();
    let dir = bench.path("dir");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("text"), "all the same ".repeat(10_000)).unwrap();
    fs::write(dir.join("tail"), "all the same ".repeat(10_100)).unwrap();
    let device = format!(
        "--chunksize=4096 --blobdev={}",
        bench.path("blob").display()
    );
    for (options, says) in [
        ("-zlz4", "x.erofs: tail (at offset "),
        (
            "-zlz4hc,9",
            "): is compressed, which is not read in EROFS; mount the file system",
        ),
        ("-zlz4 -Eztailpacking", "is compressed"),
        ("-zlz4 -C65536", "is compressed"),
        ("-zlz4 -Elegacy-compress", "is compressed"),
        ("-zlz4 -Efragments", "is compressed"),
        ("-zlz4 -Ededupe", "is compressed"),
        (
            &device,
            "x.erofs: the file system has 1 further devices, which is not read; mount it",
        ),
    ] {
        let image = bench.path("x.erofs");
        let mut mkfs = Command::new("mkfs.erofs");
        mkfs.args(options.split_whitespace()).arg("--quiet");
        ran(mkfs.arg(&image).arg(&dir));
        let error = open(&image).unwrap_err().to_string();
        assert!(error.contains(says), "{options}: {error}");
    }
}

fn on_the_host(path: &Path) -> Vec<Entry> {
    entries(&open(path).unwrap())
}

#[test]
fn fsck_erofs_accepts_and_extracts_what_the_writer_writes() {
    if !is_here("fsck.erofs") {
        return;
    }
    let bench = Bench::new();
    let tree = one_of_everything();
    ran(Command::new("fsck.erofs").arg(bench.write(&tree)));
    // Version 1.5 does not restore holes, and gives files to their owners only as root.
    if !is_root() {
        return left_out("only root can extract owners and devices");
    }
    let without = tree
        .entries()
        .iter()
        .filter(|entry| !entry.path.starts_with(b"hole"));
    let tree = Tree::from_entries(without.cloned().collect()).unwrap();
    let out = bench.path("out");
    let extract = format!("--extract={}", out.display());
    ran(Command::new("fsck.erofs")
        .arg(extract)
        .arg(bench.write(&tree)));
    let simple = |mut all: Vec<Entry>| {
        for entry in &mut all {
            entry.xattrs = None;
            entry.mtime = 0;
            // It gives files to their owners last, which takes these bits from them.
            entry.mode &= 0o1777;
            if let Kind::File(body) = &mut entry.kind {
                body.link = None;
            }
        }
        all
    };
    assert_same(
        &simple(on_the_host(&out)),
        &simple(entries(&tree)),
        "extracted",
    );
}

/// A mounted file system, which is unmounted in the end.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn the_hosts_kernel_mounts_what_the_writer_writes() {
    let bench = Bench::new();
    let tree = one_of_everything();
    let image = bench.write(&tree);
    let place = bench.path("mounted");
    fs::create_dir(&place).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "erofs", "-o", "loop,ro"]);
    let done = mount.arg(&image).arg(&place).output();
    if !done.is_ok_and(|output| output.status.success()) {
        return left_out(
            "this host cannot mount EROFS files (root, a loop device, the kernel's CONFIG_EROFS_FS)",
        );
    }
    let mounted = Mounted(place);
    assert_same(&on_the_host(&mounted.0), &entries(&tree), "mounted");
}

/// Reads bytes as a file system, and checks what every member has to keep to.
fn members(bytes: &[u8]) -> Result<usize, erofs::Error> {
    members_within(bytes, 100_000, 64 << 20)
}

fn members_within(bytes: &[u8], entries: u64, memory: u64) -> Result<usize, erofs::Error> {
    fuzzing::erofs_within(bytes, entries, memory).map(|(members, _)| members)
}

fn bytes_of(tree: &Tree) -> Vec<u8> {
    fs::read(Bench::new().write(tree)).unwrap()
}

/// `f` and `x` are files, `l` is a link, `s` has a hole.
fn small() -> Tree {
    let mut all = vec![
        entry("", Kind::Directory),
        entry("d", Kind::Directory),
        entry("f", file(&[1; 5000], None)),
        entry("l", Kind::Symlink(b"target".to_vec())),
        entry("s", sparse(40_960, &[(8192, 4096)])),
        entry("x", file(b"x", None)),
    ];
    all[5].xattrs = attributes(&[("user.a", b"1")]);
    Tree::from_entries(all).unwrap()
}

#[test]
fn a_file_that_is_cut_off_is_refused_wherever_it_ends() {
    let bytes = bytes_of(&small());
    for length in (0..bytes.len()).step_by(512) {
        let error = members(&bytes[..length]).unwrap_err().to_string();
        let says = match length {
            0..1152 => "there is no EROFS file system in it".to_owned(),
            _ => format!(
                "the file has {length} bytes, its file system {}; it is cut off",
                bytes.len()
            ),
        };
        assert!(error.contains(&says), "{length}: {error}");
    }
    // And where it does not say how long it is.
    let mut bytes = bytes;
    bytes[1024 + 36..][..4].fill(0);
    members(&bytes).unwrap();
    for length in (1152..bytes.len() - BLOCK as usize).step_by(16) {
        let error = members(&bytes[..length]).unwrap_err().to_string();
        assert!(error.contains("outside of the file"), "{length}: {error}");
    }
}

#[test]
fn random_damage_is_an_error_or_another_file_system() {
    let mut seed = 1u64;
    let mut random = |below: u64| {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) % below
    };
    let whole = bytes_of(&one_of_everything());
    // Contents count for nothing here, and copying them would.
    let mut whole = whole[..whole.len().min(256 << 10)].to_vec();
    whole[1024 + 36..][..4].fill(0);
    let small = bytes_of(&small());
    let bench = Bench::new();
    let mut refused = 0;
    for round in 0..10_000 {
        let mut bytes = if round % 4 == 0 {
            whole.clone()
        } else {
            small.clone()
        };
        let end = bytes.len().min(16 << 10) as u64;
        for _ in 0..=random(4) {
            let at = SUPER_AT + random(end - SUPER_AT);
            bytes[at as usize] ^= 1 << random(8);
            if random(4) == 0 {
                bytes[at as usize] = [0, 1, 0x7f, 0x80, 0xff][random(5) as usize];
            }
        }
        match members(&bytes) {
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().contains(char::is_control), "{error}");
            }
            Ok(_) if round % 16 == 0 => {
                let path = bench.path("damaged");
                fs::write(&path, &bytes).unwrap();
                let _ = open(&path);
            }
            Ok(_) => {}
        }
    }
    assert!((1000..9900).contains(&refused), "{refused}");
}

#[test]
fn what_does_not_fit_is_refused_by_name_and_place() {
    let bytes = bytes_of(&small());
    let root = SUPER_AT as usize + SUPER;
    let names = root + INODE as usize;
    // Of its seven entries the names follow.
    let (directory, f, l) = (root + 160, root + 256, root + 320);
    let (s, x) = (l + 96, l + 96 + 128);
    let number = |at: usize| (at as u64 / SLOT).to_le_bytes();
    let dirent = |index: usize| names + 12 * index;
    let text = dirent(7);
    let at = |place: usize| format!(" (at offset {place}): ");
    let in_root = format!("fuzz: the root directory{}", at(root));
    assert_eq!(&bytes[text..text + 8], b"...dflsx");
    let table: &[(usize, &[u8], &str)] = &[
        (1024, b"x", "fuzz: there is no EROFS file system in it"),
        (1036, &[13], "its blocks have 2^13 bytes and not 4096"),
        (1036, &[255], "its blocks have 2^255 bytes and not 4096"),
        (1032, &[3], "the super block has the checksum "),
        (1060, &[255], "it is cut off, get all of it"),
        (
            1104,
            &[0x20],
            "has fragments or shared compressed data, which",
        ),
        (1104, &[0x80], "has 48-bit block addresses, which"),
        (1105, &[0x10], "has the unknown features 0x1000, which"),
        (1114, &[1], "has directory blocks of another size, which"),
        (
            1038,
            &[0xff, 0xff],
            "fuzz: the root directory (at offset 2097120): its inode lies outside of the file",
        ),
        (
            1038,
            &number(f)[..2],
            &format!("the root directory{}is no directory", at(f)),
        ),
        (1067, &[0xff], "its inode lies outside of the file"),
        (f, &[1 | 1 << 1], &format!("fuzz: f{}is compressed", at(f))),
        (f, &[1 | 3 << 1], "is compressed"),
        (f, &[1 | 5 << 1], "its inode has the unknown format 0xb"),
        (f + 1, &[1], "its inode has the unknown format 0x101"),
        (
            f + 5,
            &[0x10],
            "its directory has it as type 1, its inode as another",
        ),
        (
            f + 8,
            &[0, 0, 1],
            "a part of its contents lies outside of the file",
        ),
        (
            f + 8,
            &[255; 8],
            &format!("f{}a file of {} bytes", at(f), u64::MAX),
        ),
        (f + 16, &[255; 4], "a part of its contents lies outside"),
        (l + 8, &[0], "a symbolic link of 0 bytes"),
        (l + 8, &[0, 16], "a symbolic link of 4096 bytes"),
        (l + 8, &[250, 15], "its last bytes cross the end of a block"),
        (
            l + 66,
            &[0],
            &format!("l{}its target has a NUL byte", at(l)),
        ),
        (l, &[1 | 4 << 1], "a symbolic link in chunks"),
        (
            directory,
            &[1 | 4 << 1],
            &format!("d{}a directory in chunks", at(directory)),
        ),
        (s + 16, &[0x40], "has chunks of the unknown form 0x40"),
        (s + 16, &[0x20], "s (at"),
        (
            s + 64 + 8,
            &[0, 0, 1, 0],
            "a part of its contents lies outside",
        ),
        (s + 11, &[255], "its map of chunks lies outside of the file"),
        (
            x + 2,
            &[255, 255],
            "an extended attribute lies outside of the file",
        ),
        (
            x + 2,
            &[2],
            "an extended attribute lies outside of the file",
        ),
        (
            x + 68,
            &[200],
            "an extended attribute lies outside of the file",
        ),
        (
            x + 76 + 1,
            &[9],
            "an extended attribute is in an unknown namespace",
        ),
        (
            x + 76,
            &[0],
            "an extended attribute has a name that cannot be",
        ),
        (
            x + 76 + 1,
            &[2],
            "an extended attribute has a name that cannot be",
        ),
        (
            x + 80,
            &[0],
            "an extended attribute has a name that cannot be",
        ),
        (
            dirent(0),
            &number(directory),
            &format!("{in_root}a directory block whose . or .. leads elsewhere"),
        ),
        (
            dirent(1),
            &number(directory),
            "whose . or .. leads elsewhere",
        ),
        (
            dirent(2),
            &number(root),
            "d (at offset 1152): a directory with two names",
        ),
        (dirent(2), &[255; 8], "its inode lies outside of the file"),
        (dirent(3) + 10, &[7], "its directory has it as type 7"),
        (
            dirent(0) + 8,
            &[85],
            &format!("{in_root}a directory block whose first name is out of place"),
        ),
        (dirent(0) + 8, &[0], "whose first name is out of place"),
        (dirent(0) + 8, &[0, 255], "whose first name is out of place"),
        (
            dirent(3) + 8,
            &[0],
            "a directory block whose names are out of place",
        ),
        (
            dirent(6) + 8,
            &[0, 16],
            "a directory block whose names are out of place",
        ),
        (dirent(3) + 8, &[87], "its name is empty"),
        (text + 3, b"/", "its name has a slash"),
        (text + 3, &[0], "its name has a NUL byte"),
        (text + 7, &[0], "its name is empty"),
        (
            text + 3,
            b"f",
            "a directory block whose names are not in order",
        ),
        (
            text + 3,
            b"z",
            "a directory block whose names are not in order",
        ),
        (
            directory + 8,
            &[0],
            &format!("d{}a directory block without . or ..", at(directory)),
        ),
    ];
    for &(place, patch, says) in table {
        let mut damaged = bytes.clone();
        damaged[place..place + patch.len()].copy_from_slice(patch);
        let error = match members(&damaged) {
            Err(error) => error.to_string(),
            Ok(_) => "it was read".to_owned(),
        };
        assert!(
            error.contains(says),
            "{place} {patch:?}: {error}; not {says}"
        );
    }
}

#[test]
fn what_a_small_file_comes_to_counts_against_the_limits() {
    let bytes = bytes_of(&small());
    assert_eq!(members_within(&bytes, 5, 1 << 20).unwrap(), 6);
    let error = members_within(&bytes, 4, 1 << 20).unwrap_err().to_string();
    assert_eq!(error, "fuzz: x is one more than 4 members");
    let error = members_within(&bytes, 5, 20).unwrap_err().to_string();
    assert!(
        error.starts_with("fuzz: comes to more than 20 B unpacked"),
        "{error}"
    );
    // A file of 4 GiB whose map would be all of the file, and again for every name.
    let mut bytes = bytes;
    let x = SUPER_AT as usize + SUPER + 544;
    assert_eq!(bytes[x], 1);
    bytes[x] |= 4 << 1;
    bytes[x + 8..x + 16].copy_from_slice(&(BLOCK << 20).to_le_bytes());
    bytes[x + 16..x + 20].fill(0);
    bytes[x + 84..].fill(255);
    bytes.resize(8 << 20, 255);
    let error = members_within(&bytes, 5, 1 << 20).unwrap_err().to_string();
    assert!(
        error.starts_with("fuzz: comes to more than 1024 KiB unpacked"),
        "{error}"
    );
}
