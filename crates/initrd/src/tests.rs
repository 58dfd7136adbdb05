//! The packer as a whole: host directories through tree and layout to an archive, and back by other people's readers.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::newc::{self, Header};
use super::newc_reader;
use super::{Epoch, Error, Layout};
use rdvm_image as image;
use rdvm_image::body;
use rdvm_image::reference::{ImageRef, Ownership};
use rdvm_image::tree::{Content, Entry, FileBody, Kind, LinkId, Tree};

fn open(path: &Path, owner: Ownership) -> Result<Tree, image::Error> {
    image::open(&ImageRef {
        path: path.to_owned(),
        owner,
        ..ImageRef::default()
    })
    .map(|image| image.tree)
}

/// Packs into an unnamed file, and gives what is in it.
fn pack(tree: &Tree, epoch: Epoch) -> Result<Vec<u8>, Error> {
    let layout = Layout::of(tree, epoch)?;
    let file = tempfile::tempfile().unwrap();
    layout.write(&file, 0)?;
    let mut archive = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut archive, 0).unwrap();
    assert_eq!(archive.len() as u64, layout.packed_size());
    Ok(archive)
}

/// True if the tool is here; a test that does without says so, and fails where nothing may be missing.
fn have(tool: &str) -> bool {
    let found = Command::new(tool)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !found {
        crate::skips::missing(tool);
    }
    found
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A directory with one of everything; devices only where we may make them.
fn one_of_everything(root: &Path) {
    let at = |name: &[u8]| root.join(OsStr::from_bytes(name));
    fs::create_dir(at(b"empty")).unwrap();
    fs::create_dir(at(b"a")).unwrap();
    fs::create_dir(at(b"tmp")).unwrap();
    fs::set_permissions(at(b"tmp"), Permissions::from_mode(0o1777)).unwrap();
    fs::write(at(b"a/first"), "hard linked").unwrap();
    fs::hard_link(at(b"a/first"), at(b"z-last")).unwrap();
    fs::hard_link(at(b"a/first"), at(b"middle")).unwrap();
    fs::write(at(b"no bytes"), "").unwrap();
    fs::hard_link(at(b"no bytes"), at(b"no bytes either")).unwrap();
    fs::write(at(b"a-b"), "sorts between").unwrap();
    fs::write(at(b"new\nline"), "n").unwrap();
    fs::write(at(b"\xff\xfe not utf-8"), "no").unwrap();
    fs::write(at(b"-rf"), "dash").unwrap();
    fs::write(at("größe".as_bytes()), "utf-8").unwrap();
    fs::write(at(b"su"), "#!").unwrap();
    fs::set_permissions(at(b"su"), Permissions::from_mode(0o6755)).unwrap();
    fs::write(at(b"secret"), "s").unwrap();
    fs::set_permissions(at(b"secret"), Permissions::from_mode(0o400)).unwrap();
    symlink("a/first", at(b"link")).unwrap();
    symlink("/nowhere/\n", at(b"dangling")).unwrap();
    symlink("t".repeat(3000), at(b"long link")).unwrap();
    for size in [
        1,
        2,
        3,
        4,
        4096,
        (256 << 10) - 1,
        256 << 10,
        1 << 20,
        (1 << 20) + 3,
    ] {
        let bytes: Vec<u8> = (0..size).map(|at| (at * 7 + at / 251) as u8).collect();
        fs::write(root.join(format!("size-{size}")), bytes).unwrap();
    }
    let sparse = File::create(at(b"sparse")).unwrap();
    sparse.write_all_at(b"in the middle", 3 << 20).unwrap();
    sparse.set_len(5 << 20).unwrap();
    let mode = Mode::from_raw_mode(0o640);
    mknodat(CWD, at(b"pipe"), FileType::Fifo, mode, 0).unwrap();
    mknodat(CWD, at(b"socket"), FileType::Socket, mode, 0).unwrap();
    if is_root() {
        mknodat(
            CWD,
            at(b"null"),
            FileType::CharacterDevice,
            mode,
            makedev(1, 3),
        )
        .unwrap();
        mknodat(
            CWD,
            at(b"disk"),
            FileType::BlockDevice,
            mode,
            makedev(259, 65_537),
        )
        .unwrap();
        std::os::unix::fs::chown(at(b"a-b"), Some(1000), Some(4_000_000_000)).unwrap();
        std::os::unix::fs::lchown(at(b"link"), Some(5), Some(6)).unwrap();
    } else {
        crate::skips::left_out("no devices and foreign owners without root");
    }
    for day in ["a", "a-b", "empty", "size-1"] {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(86400 * day.len() as u64);
        File::open(root.join(day))
            .unwrap()
            .set_modified(time)
            .unwrap();
    }
}

/// The contents of a directory as the standard library sees them: independent of our own walk.
fn seen(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut seen = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let kind = stat.file_type();
        let mut what = format!("{:o} {}:{}", stat.mode(), stat.uid(), stat.gid());
        if !kind.is_dir() && !kind.is_symlink() {
            // GNU cpio gives links no time, and directories theirs before it fills them.
            what += &format!(" time {}", stat.mtime());
        }
        if kind.is_dir() {
            waiting.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else {
            what += &format!(" links {}", stat.nlink());
        }
        if kind.is_file() {
            what += &format!(
                " {:?}",
                sha2::Digest::finalize(<sha2::Sha256 as sha2::Digest>::new_with_prefix(
                    fs::read(&path).unwrap()
                ))
            );
        } else if kind.is_symlink() {
            what += &format!(" {:?}", fs::read_link(&path).unwrap());
        } else if kind.is_char_device() || kind.is_block_device() {
            what += &format!(" device {:x}", stat.rdev());
        }
        let name = path
            .strip_prefix(root)
            .unwrap()
            .as_os_str()
            .as_bytes()
            .to_vec();
        seen.insert(name, what);
    }
    seen
}

#[test]
fn a_record_is_byte_for_byte_what_the_format_says() {
    let file = Entry {
        path: b"a".to_vec(),
        mode: 0o4755,
        uid: 1000,
        gid: 0xfffffffe,
        mtime: 1_700_000_000,
        xattrs: None,
        kind: Kind::File(FileBody {
            size: 5,
            content: Content::Bytes(b"hello"[..].into()),
            link: None,
        }),
    };
    let tree = Tree::from_entries(vec![file]).unwrap();
    let archive = pack(&tree, Epoch(u32::MAX)).unwrap();
    let mut expected = b"070701\
        00000001000089ed000003e8fffffffe00000001\
        6553f10000000005000000000000000000000000000000000000000200000000a\0hello\0\0\0\
        070701\
        0000000000000000000000000000000000000001\
        0000000000000000000000000000000000000000000000000000000b00000000TRAILER!!!\0"
        .to_vec();
    expected.resize(512, 0);
    assert_eq!(
        archive.escape_ascii().to_string(),
        expected.escape_ascii().to_string()
    );
    assert_eq!(pack(&tree, Epoch(0)).unwrap()[46..54], *b"00000000");
}

#[test]
fn other_readers_list_and_extract_what_was_packed() {
    let source = tempfile::tempdir().unwrap();
    one_of_everything(source.path());
    let tree = open(source.path(), Ownership::Keep).unwrap();
    let archive = tempfile::NamedTempFile::new().unwrap();
    Layout::of(&tree, Epoch(u32::MAX))
        .unwrap()
        .write(archive.as_file(), 0)
        .unwrap();
    let run = |tool: &str, args: &[&str], at: &Path| {
        let input = File::open(archive.path()).unwrap();
        let done = Command::new(tool)
            .args(args)
            .current_dir(at)
            .stdin(input)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{tool}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        // GNU cpio says how many blocks it read, nothing else.
        let complaints = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(
            complaints.lines().all(|line| line.contains("block")),
            "{tool}: {complaints}"
        );
        done.stdout
    };
    let names: Vec<&[u8]> = tree
        .entries()
        .iter()
        .map(|entry| match &*entry.path {
            b"" => b".",
            path => path,
        })
        .collect();
    for (tool, list, separator, extract) in [
        (
            "cpio",
            &["-t", "-0"][..],
            &b"\0"[..],
            &["-idm", "--no-absolute-filenames"][..],
        ),
        ("bsdcpio", &["-i", "-t"], b"\n", &["-idm"]),
    ] {
        if !have(tool) {
            continue;
        }
        let listed = run(tool, list, source.path());
        let expected: Vec<u8> = names
            .iter()
            .flat_map(|name| [name, separator].concat())
            .collect();
        assert_eq!(
            listed.escape_ascii().to_string(),
            expected.escape_ascii().to_string(),
            "{tool}"
        );
        let copy = tempfile::tempdir().unwrap();
        run(tool, extract, copy.path());
        let (mut was, mut is) = (seen(source.path()), seen(copy.path()));
        if tool == "bsdcpio" {
            // It lists sockets, and makes empty files of them.
            assert!(was.remove(&b"socket"[..]).is_some() && is.remove(&b"socket"[..]).is_some());
        }
        assert!(was.keys().eq(is.keys()), "{tool}");
        for (name, what) in was {
            assert_eq!(what, is[&name], "{tool}: {}", name.escape_ascii());
        }
    }
}

#[test]
fn the_cpio_crate_reads_the_same_names_and_bytes() {
    let source = tempfile::tempdir().unwrap();
    one_of_everything(source.path());
    // It cannot read names that are not UTF-8.
    fs::remove_file(source.path().join(OsStr::from_bytes(b"\xff\xfe not utf-8"))).unwrap();
    let tree = open(source.path(), Ownership::Keep).unwrap();
    let archive = pack(&tree, Epoch(0)).unwrap();
    let (records, end) = newc_reader::read(&archive).unwrap();
    assert!(archive[end..].iter().all(|&byte| byte == 0));
    let mut rest = &archive[..];
    for record in &records {
        let mut reader = cpio::NewcReader::new(rest).unwrap();
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut data).unwrap();
        let entry = reader.entry();
        assert_eq!(
            (entry.name().as_bytes(), &data[..]),
            (record.name, record.data)
        );
        assert_eq!(
            (entry.ino(), entry.mode(), entry.nlink()),
            (record.header.ino, record.header.mode, record.header.nlink)
        );
        rest = reader.finish().unwrap();
    }
    assert!(cpio::NewcReader::new(rest).unwrap().entry().is_trailer());
}

#[test]
fn the_same_tree_in_another_place_is_the_same_bytes() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    one_of_everything(one.path());
    // Made in another order: other inodes, other positions in the directory, other times.
    fs::create_dir(two.path().join("empty")).unwrap();
    fs::remove_dir(two.path().join("empty")).unwrap();
    one_of_everything(two.path());
    fs::write(two.path().join("x"), "x").unwrap();
    fs::remove_file(two.path().join("x")).unwrap();
    let bytes = [&one, &two].map(|dir| {
        let tree = open(dir.path(), Ownership::Root).unwrap();
        pack(&tree, Epoch(0)).unwrap()
    });
    assert!(bytes[0] == bytes[1]);
    let (records, _) = newc_reader::read(&bytes[0]).unwrap();
    assert!(records.iter().all(|record| (
        record.header.uid,
        record.header.gid,
        record.header.mtime
    ) == (0, 0, 0)));
}

#[test]
fn a_stream_gets_the_same_bytes_as_a_file() {
    let source = tempfile::tempdir().unwrap();
    one_of_everything(source.path());
    let tree = open(source.path(), Ownership::Root).unwrap();
    let mut stream = Vec::new();
    Layout::of(&tree, Epoch(0))
        .unwrap()
        .stream(&mut stream)
        .unwrap();
    assert!(stream == pack(&tree, Epoch(0)).unwrap());
}

#[test]
fn an_archive_can_start_anywhere_in_its_file() {
    let source = tempfile::tempdir().unwrap();
    one_of_everything(source.path());
    let tree = open(source.path(), Ownership::Root).unwrap();
    let file = tempfile::tempfile().unwrap();
    let layout = Layout::of(&tree, Epoch(0)).unwrap();
    layout.write(&file, 512).unwrap();
    let mut bytes = vec![1; layout.packed_size() as usize + 512];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes[..512] == [0; 512] && bytes[512..] == pack(&tree, Epoch(0)).unwrap());
}

#[test]
fn hard_links_carry_their_bytes_with_the_last_name() {
    let source = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        match name {
            "a" => fs::write(source.path().join(name), "once").unwrap(),
            _ => fs::hard_link(source.path().join("a"), source.path().join(name)).unwrap(),
        }
    }
    // A name outside the image does not count.
    let outside = tempfile::tempdir_in(source.path().parent().unwrap()).unwrap();
    fs::hard_link(source.path().join("a"), outside.path().join("d")).unwrap();
    fs::write(source.path().join("alone"), "x").unwrap();
    fs::hard_link(source.path().join("alone"), outside.path().join("alone")).unwrap();
    let tree = open(source.path(), Ownership::Root).unwrap();
    let archive = pack(&tree, Epoch(0)).unwrap();
    let (records, _) = newc_reader::read(&archive).unwrap();
    let facts: Vec<_> = records
        .iter()
        .map(|r| (r.name, r.header.ino, r.header.nlink, r.data))
        .collect();
    let none = &b""[..];
    assert_eq!(
        facts,
        [
            (&b"."[..], 1, 2, none),
            (b"a", 2, 3, none),
            (b"alone", 3, 1, b"x"),
            (b"b", 2, 3, none),
            (b"c", 2, 3, b"once"),
        ]
    );
    let contents = Layout::of(&tree, Epoch(0)).unwrap().contents();
    assert_eq!(
        (
            contents.entries,
            contents.inodes,
            contents.page_rounded_bytes
        ),
        (5, 3, 2 * 4096)
    );
}

#[test]
fn what_bodies_take_unpacked_is_counted_in_pages() {
    let body = |size: usize| {
        Kind::File(FileBody {
            size: size as u64,
            content: Content::Bytes(vec![1; size].into()),
            link: None,
        })
    };
    for (kind, bytes) in [
        (body(0), 0),
        (body(1), 4096),
        (body(4096), 4096),
        (body(4097), 8192),
        (Kind::Symlink(vec![b't'; 127]), 0),
        (Kind::Symlink(vec![b't'; 128]), 4096),
        (Kind::Directory, 0),
        (Kind::Fifo, 0),
    ] {
        let tree = Tree::from_entries(vec![Entry {
            path: b"x".to_vec(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: None,
            kind,
        }])
        .unwrap();
        assert_eq!(
            Layout::of(&tree, Epoch(0))
                .unwrap()
                .contents()
                .page_rounded_bytes,
            bytes,
            "{tree:?}"
        );
    }
}

#[test]
fn a_file_of_4_gib_is_refused_by_name_and_one_byte_less_is_packed() {
    use rustix::fs::{MemfdFlags, memfd_create};
    let source = tempfile::tempdir().unwrap();
    let big = File::create(source.path().join("big")).unwrap();
    big.set_len(1 << 32).unwrap();
    let tree = open(source.path(), Ownership::Root).unwrap();
    let error = Layout::of(&tree, Epoch(0)).unwrap_err();
    assert!(
        matches!(&error, Error::FileTooLarge { path, size: 0x1_0000_0000 } if path == b"big"),
        "{error}"
    );

    big.set_len((1 << 32) - 1).unwrap();
    big.write_all_at(b"end", (1 << 32) - 4).unwrap();
    let tree = open(source.path(), Ownership::Root).unwrap();
    let layout = Layout::of(&tree, Epoch(0)).unwrap();
    let out = File::from(memfd_create("archive", MemfdFlags::CLOEXEC).unwrap());
    layout.write(&out, 0).unwrap();
    assert!(
        out.metadata().unwrap().blocks() * 512 < 4 << 20,
        "holes were written"
    );
    let mut head = [0; 110];
    out.read_exact_at(&mut head, layout.records[1].offset)
        .unwrap();
    assert_eq!(head[54..62], *b"ffffffff");
    let mut tail = [0; 4];
    out.read_exact_at(&mut tail, layout.trailer - 4).unwrap();
    assert_eq!(tail, *b"end\0");
}

type Change = Box<dyn FnOnce(&Path)>;

/// Opens a directory with one file of `size` bytes, lets `change` do something to it, and packs.
fn changed(size: usize, change: impl FnOnce(&Path)) -> Result<Vec<u8>, Error> {
    let source = tempfile::tempdir().unwrap();
    fs::create_dir(source.path().join("d")).unwrap();
    let file = source.path().join("d/file");
    fs::write(&file, vec![b'x'; size]).unwrap();
    let tree = open(source.path(), Ownership::Root).unwrap();
    // The clock that stamps files is a few milliseconds coarse on older kernels.
    std::thread::sleep(std::time::Duration::from_millis(20));
    change(&file);
    pack(&tree, Epoch(0))
}

#[test]
fn a_file_that_is_not_what_it_was_is_an_error_that_names_it() {
    let resize = |to: u64| {
        move |file: &Path| {
            File::options()
                .write(true)
                .open(file)
                .unwrap()
                .set_len(to)
                .unwrap()
        }
    };
    let replace = |kind: FileType| {
        move |file: &Path| {
            fs::remove_file(file).unwrap();
            mknodat(CWD, file, kind, Mode::from_raw_mode(0o644), 0).unwrap();
        }
    };
    for size in [4097, 100_000, 3 << 20] {
        assert!(changed(size, |_| {}).is_ok());
        let cases: [(&str, Change); 9] = [
            ("grown", Box::new(resize(size as u64 + 1))),
            ("shrunk", Box::new(resize((size as u64).saturating_sub(1)))),
            (
                "rewritten",
                Box::new(move |file| fs::write(file, vec![b'y'; size]).unwrap()),
            ),
            ("gone", Box::new(|file| fs::remove_file(file).unwrap())),
            ("a pipe", Box::new(replace(FileType::Fifo))),
            ("a socket", Box::new(replace(FileType::Socket))),
            (
                "a directory",
                Box::new(|file| {
                    fs::remove_file(file).unwrap();
                    fs::create_dir(file).unwrap();
                }),
            ),
            (
                "a link to itself elsewhere",
                Box::new(|file| {
                    fs::rename(file, file.with_extension("moved")).unwrap();
                    symlink("file.moved", file).unwrap();
                }),
            ),
            (
                "in a directory that is a link now",
                Box::new(|file| {
                    let dir = file.parent().unwrap();
                    fs::rename(dir, dir.with_extension("moved")).unwrap();
                    symlink("d.moved", dir).unwrap();
                }),
            ),
        ];
        for (what, change) in cases {
            match changed(size, change) {
                Err(Error::Body(body::Error::Changed { shown })) => {
                    assert!(shown.contains("/d/file"), "{shown}")
                }
                other => panic!(
                    "{size} bytes, {what}: {:?}",
                    other.map(|archive| archive.len())
                ),
            }
        }
    }
}

#[test]
fn a_small_file_is_packed_as_it_was_found_whatever_happens_to_it_later() {
    for size in [0, 1, 4096] {
        let archive = changed(size, |file| fs::remove_file(file).unwrap()).unwrap();
        let (records, _) = newc_reader::read(&archive).unwrap();
        assert_eq!(records[2].data, vec![b'x'; size]);
    }
}

/// Sets its flag when it goes, also when a test fails: the thread that waits for it must end.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_racing_writer_gives_one_state_or_an_error_never_a_mixture() {
    let source = tempfile::tempdir().unwrap();
    for size in [3000, 300_000] {
        let path = source.path().join("file");
        fs::write(&path, vec![1; size]).unwrap();
        let stop = AtomicBool::new(false);
        let (mut good, mut bad) = (0, 0);
        std::thread::scope(|scope| {
            let _stop = StopOnDrop(&stop);
            scope.spawn(|| {
                let file = File::options().write(true).open(&path).unwrap();
                // Each state has its own length and is of one byte throughout, but for zeros where it just grew.
                for state in (2u8..=200)
                    .cycle()
                    .take_while(|_| !stop.load(Ordering::Relaxed))
                {
                    let length = size - usize::from(state);
                    file.set_len(0).unwrap();
                    file.set_len(length as u64).unwrap();
                    file.write_all_at(&vec![state; length], 0).unwrap();
                    std::thread::sleep(std::time::Duration::from_micros(300));
                }
            });
            for _ in 0..1000 {
                let packed = match open(source.path(), Ownership::Root) {
                    Ok(tree) => pack(&tree, Epoch(0)).map_err(|error| error.to_string()),
                    Err(error @ image::Error::Changed { .. }) => Err(error.to_string()),
                    Err(error) => panic!("{error}"),
                };
                match packed {
                    Ok(archive) => {
                        let (records, _) = newc_reader::read(&archive).unwrap();
                        let data = records[1].data;
                        let state = (size - data.len()) as u8;
                        let whole = data.iter().all(|&byte| byte == state)
                            || data.iter().all(|&byte| byte == 0);
                        assert!(
                            whole || data.len() == size,
                            "a mixture of {} bytes",
                            data.len()
                        );
                        good += 1;
                    }
                    Err(error) => {
                        assert!(error.contains("/file: changed while"), "{error}");
                        bad += 1;
                    }
                }
            }
        });
        println!("{size} bytes: {good} times one state, {bad} times an error");
        assert!(good > 0);
    }
}

#[test]
fn sixteen_descriptors_are_enough_for_a_deep_tree() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let source = tempfile::tempdir().unwrap();
    let mut deep = source.path().to_owned();
    for depth in 0..200 {
        deep.push("d");
        fs::create_dir(&deep).unwrap();
        fs::create_dir(deep.with_file_name("e")).unwrap();
        fs::write(deep.join("file"), format!("{depth}")).unwrap();
    }
    // The limit is the whole process's: this test again, alone in a process of its own.
    if std::env::var_os("RDVM_TEST_ALONE").is_none() {
        let name = std::thread::current().name().unwrap().to_owned();
        let alone = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name])
            .env("RDVM_TEST_ALONE", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&alone.stdout);
        assert!(
            alone.status.success() && said.contains("1 passed"),
            "{said}"
        );
        return;
    }
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(16),
            maximum: Some(16),
        },
    )
    .unwrap();
    let tree = open(source.path(), Ownership::Root).unwrap();
    let archive = pack(&tree, Epoch(0)).unwrap();
    assert_eq!(newc_reader::read(&archive).unwrap().0.len(), 1 + 3 * 200);
}

#[test]
fn a_source_date_epoch_is_a_number_of_seconds() {
    assert_eq!(Epoch::parse("0".into()).unwrap(), Epoch(0));
    assert_eq!(Epoch::parse("4294967295".into()).unwrap(), Epoch(u32::MAX));
    for bad in ["", "-1", "+1", "4294967296", "yesterday", "1.5"] {
        assert!(
            matches!(Epoch::parse(bad.into()), Err(Error::Epoch { .. })),
            "{bad:?}"
        );
    }
}

#[test]
fn the_reader_refuses_an_archive_cut_anywhere() {
    let tree = Tree::from_entries(vec![Entry {
        path: b"name".to_vec(),
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: None,
        kind: Kind::File(FileBody {
            size: 5,
            content: Content::Bytes(b"hello"[..].into()),
            link: None,
        }),
    }])
    .unwrap();
    let archive = pack(&tree, Epoch(0)).unwrap();
    let (_, end) = newc_reader::read(&archive).unwrap();
    for cut in 0..end {
        assert!(newc_reader::read(&archive[..cut]).is_err(), "{cut}");
    }
    for (at, byte) in [
        (5, b'2'),
        (6, b'+'),
        (20, b' '),
        (14, b'g'),
        (100, b'1'),
        (109, b'1'),
        (111, 0),
        (114, b'x'),
    ] {
        let mut damaged = archive.clone();
        damaged[at] = byte;
        assert!(newc_reader::read(&damaged).is_err(), "{at}");
    }
}

/// Any header survives being written and read.
fn header() -> impl Strategy<Value = Header> {
    (any::<[u32; 7]>(), any::<[u32; 4]>(), 2u32..=4096).prop_map(
        |([ino, mode, uid, gid, nlink, mtime, _], dev, namesize)| Header {
            ino,
            mode,
            uid,
            gid,
            nlink,
            mtime,
            filesize: 0,
            dev: (dev[0], dev[1]),
            rdev: (dev[2], dev[3]),
            namesize,
        },
    )
}

fn kind() -> impl Strategy<Value = Kind> {
    let bytes = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (0usize..600_000).prop_map(|size| (0..size).map(|at| (at % 253) as u8).collect()),
    ];
    let file = |(bytes, link): (Vec<u8>, Option<bool>)| {
        // Names of one file must agree: what is linked has contents that follow from the link.
        let content: Vec<u8> = link.map_or(
            bytes,
            |which| if which { b"linked".to_vec() } else { vec![] },
        );
        let link = link.map(|which| LinkId(which.into()));
        Kind::File(FileBody {
            size: content.len() as u64,
            content: Content::Bytes(content.into()),
            link,
        })
    };
    prop_oneof![
        4 => Just(Kind::Directory),
        6 => (bytes, prop::option::weighted(0.3, any::<bool>())).prop_map(file),
        1 => prop::collection::vec(1u8.., 1..200).prop_map(Kind::Symlink),
        1 => (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| Kind::CharDevice { major, minor }),
        1 => (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| Kind::BlockDevice { major, minor }),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
    ]
}

/// Trees of up to 40 entries with awkward names; each entry goes below one of the directories made so far.
fn tree() -> impl Strategy<Value = Tree> {
    let name = prop::collection::vec(
        prop_oneof![
            Just(b'-'),
            Just(b'a'),
            Just(b'\n'),
            Just(0xff),
            (1u8..).prop_filter("no slash", |&b| b != b'/')
        ],
        1..12,
    );
    let name = prop_oneof![8 => name, 1 => (200usize..255).prop_map(|length| vec![b'n'; length])]
        .prop_filter("dots", |name| name != b"." && name != b"..");
    let one = (
        name,
        any::<prop::sample::Index>(),
        0u16..0o10000,
        any::<[u32; 2]>(),
        any::<i64>(),
        kind(),
    );
    prop::collection::vec(one, 0..40).prop_map(|wishes| {
        let mut dirs: Vec<Vec<u8>> = vec![vec![]];
        let mut entries: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
        for (name, under, mode, [uid, gid], mtime, kind) in wishes {
            let mut path = dirs[under.index(dirs.len())].clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(name);
            if path.len() > 4095 || entries.contains_key(&path) {
                continue;
            }
            if kind == Kind::Directory {
                dirs.push(path.clone());
            }
            entries.insert(
                path.clone(),
                Entry {
                    path,
                    mode,
                    uid,
                    gid,
                    mtime,
                    xattrs: None,
                    kind,
                },
            );
        }
        Tree::from_entries(entries.into_values().collect()).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn every_header_is_read_as_it_was_written(header in header()) {
        let mut bytes = header.encode().to_vec();
        bytes.extend(vec![b'n'; header.namesize as usize - 1]);
        bytes.push(0);
        bytes.resize(newc::align(bytes.len() as u64) as usize, 0);
        let mut trailer = Vec::new();
        Layout::append_trailer(&mut trailer);
        bytes.extend(trailer);
        let (records, end) = newc_reader::read(&bytes).unwrap();
        prop_assert_eq!((records[0].header, end), (header, bytes.len()));
    }

    #[test]
    fn every_tree_is_read_as_it_was_packed(tree in tree(), epoch: u32) {
        let archive = pack(&tree, Epoch(epoch)).unwrap();
        let (records, _) = newc_reader::read(&archive).unwrap();
        prop_assert_eq!(records.len(), tree.entries().len());
        let mut inodes: BTreeMap<LinkId, (u32, u32, usize)> = BTreeMap::new();
        let mut own = std::collections::HashSet::new();
        for (record, entry) in records.iter().zip(tree.entries()) {
            let header = record.header;
            prop_assert_eq!(record.name, &entry.path[..]);
            prop_assert_eq!(header.mode & 0o7777, u32::from(entry.mode));
            prop_assert_eq!((header.uid, header.gid), (entry.uid, entry.gid));
            prop_assert_eq!(i64::from(header.mtime), entry.mtime.clamp(0, epoch.into()));
            let (file_type, rdev, data) = match &entry.kind {
                Kind::Directory => (0o04, (0, 0), &b""[..]),
                Kind::File(FileBody { content: Content::Bytes(bytes), link, .. }) => {
                    if let Some(link) = link {
                        let seen = inodes.entry(*link).or_insert((header.ino, 0, 0));
                        prop_assert_eq!(seen.0, header.ino);
                        seen.1 = header.nlink;
                        seen.2 += 1;
                        let last = seen.2 == header.nlink as usize;
                        (0o10, (0, 0), if last { &bytes[..] } else { b"" })
                    } else {
                        (0o10, (0, 0), &bytes[..])
                    }
                }
                Kind::File(_) => unreachable!(),
                Kind::Symlink(target) => (0o12, (0, 0), &target[..]),
                Kind::CharDevice { major, minor } => (0o02, (*major, *minor), &b""[..]),
                Kind::BlockDevice { major, minor } => (0o06, (*major, *minor), &b""[..]),
                Kind::Fifo => (0o01, (0, 0), &b""[..]),
                Kind::Socket => (0o14, (0, 0), &b""[..]),
            };
            prop_assert_eq!((header.mode >> 12, header.rdev, header.dev), (file_type, rdev, (0, 0)));
            prop_assert_eq!(record.data, data);
            let linked = matches!(&entry.kind, Kind::File(FileBody { link: Some(_), .. }));
            prop_assert!(linked || own.insert(header.ino));
        }
        prop_assert!(inodes.values().all(|&(ino, nlink, count)| nlink as usize == count && !own.contains(&ino)));
    }
}

#[test]
fn an_archive_that_was_made_before_is_a_segment_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let made: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let path = dir.path().join("made");
    fs::write(&path, &made).unwrap();
    let size = 2_999_808;
    let own = || {
        let entry = Tree::from_entries(vec![Entry {
            path: b"init".to_vec(),
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: None,
            kind: Kind::File(FileBody {
                size: 2,
                content: Content::Bytes(b"#!"[..].into()),
                link: None,
            }),
        }])
        .unwrap();
        let places = Layout::of(&entry, Epoch::default()).unwrap().into_places();
        (entry, places)
    };
    let mut initrd = super::Initrd::default();
    initrd.push_made(fs::File::open(&path).unwrap(), size);
    let (tree, places) = own();
    initrd.push(tree, places);
    let mut memory = vec![0; initrd.size() as usize];
    initrd.fill(0, &|| false, &mut memory).unwrap();
    assert!(memory[..size as usize] == made[..size as usize]);
    assert!(memory[size as usize..].starts_with(b"070701"));
    let mut file = Vec::new();
    let mut written = initrd.to_file(0, &|| false).unwrap();
    std::io::Read::read_to_end(&mut written, &mut file).unwrap();
    assert!(file == memory);
    let stopped = initrd.fill(0, &|| true, &mut memory);
    assert!(matches!(stopped, Err(Error::Stopped)));
    fs::write(&path, "short").unwrap();
    assert!(initrd.fill(0, &|| false, &mut memory).is_err());
}
