//! Archives made by hand, by GNU cpio and by bsdcpio, and what is read from them.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::byte_source::{ByteSource, CHUNK};
use crate::limit;
use crate::reference::Limits;
use rdvm_hostfs::units::ByteSize;

fn region(bytes: &[u8]) -> Region {
    let chunks = bytes
        .chunks(CHUNK)
        .map(|chunk| Some(chunk.into()))
        .collect();
    let store = ByteSource::of_chunks(chunks, bytes.len() as u64, "a.cpio".into());
    Region::whole(Arc::new(store))
}

fn members(bytes: &[u8]) -> Result<Vec<Member>, Error> {
    let limits = Limits {
        unpacked: Some(ByteSize(64 << 20)),
        ..Limits::default()
    };
    let mut members = Vec::new();
    read(
        &region(bytes),
        None,
        &Counter::new(&limits),
        &Budget::new(&limits),
        &mut |member| {
            members.push(member);
            Ok::<(), Error>(())
        },
    )?;
    Ok(members)
}

fn content(member: &Member) -> Vec<u8> {
    let EntryKind::File {
        size,
        content: FileContent::Span(span),
        ..
    } = &member.what
    else {
        panic!("no file: {member:?}");
    };
    let mut bytes = vec![0; *size as usize];
    span.store.read_exact(span.offset, &mut bytes).unwrap();
    bytes
}

/// The fields of a record: file 0644 1:2 of the third second.
#[derive(Clone, Copy)]
struct Draft {
    magic: &'static str,
    inode: u32,
    mode: u32,
    nlink: u32,
    rdev: (u32, u32),
    sum: u32,
}

const FILE: Draft = Draft {
    magic: "070701",
    inode: 7,
    mode: 0o100_644,
    nlink: 1,
    rdev: (0, 0),
    sum: 0,
};

impl Draft {
    fn build(self, name: &[u8], data: &[u8]) -> Vec<u8> {
        let name = [name, b"\0"].concat();
        let (major, minor) = self.rdev;
        let mut bytes = self.magic.as_bytes().to_vec();
        for field in [
            self.inode,
            self.mode,
            1,
            2,
            self.nlink,
            3,
            data.len() as u32,
            8,
            1,
            major,
            minor,
            name.len() as u32,
            self.sum,
        ] {
            bytes.extend(format!("{field:08x}").as_bytes());
        }
        bytes.extend(name);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}

fn file(name: &str, data: &str) -> Vec<u8> {
    FILE.build(name.as_bytes(), data.as_bytes())
}

fn of_mode(mode: u32) -> Draft {
    Draft { mode, ..FILE }
}

fn linked(inode: u32) -> Draft {
    Draft {
        inode,
        nlink: 2,
        ..FILE
    }
}

fn trailer() -> Vec<u8> {
    let (mode, inode) = (0, 0);
    Draft {
        mode,
        inode,
        ..FILE
    }
    .build(TRAILER, b"")
}

fn archive(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), trailer()].concat()
}

fn flaw(bytes: &[u8]) -> ParseError {
    match members(bytes).expect_err("it was taken") {
        Error::Archive { flaw, .. } | Error::Member { flaw, .. } => flaw,
        error => panic!("{error}"),
    }
}

#[test]
fn each_type_becomes_what_it_is() {
    let rdev = (8, 300_000);
    let (major, minor) = rdev;
    for (mode, what) in [
        (0o040_755, EntryKind::Directory),
        (0o020_755, EntryKind::CharDevice { major, minor }),
        (0o060_755, EntryKind::BlockDevice { major, minor }),
        (0o010_755, EntryKind::Fifo),
        (0o140_755, EntryKind::Socket),
    ] {
        let draft = Draft {
            rdev,
            ..of_mode(mode)
        };
        let member = members(&archive(&[draft.build(b"x", b"")]))
            .unwrap()
            .remove(0);
        assert_eq!(member.what, what);
        assert_eq!(
            (member.mode, member.uid, member.gid, member.mtime),
            (0o755, 1, 2, 3)
        );
        let flawed = flaw(&archive(&[draft.build(b"x", b"abc")]));
        assert!(matches!(flawed, ParseError::Data { bytes: 3, .. }));
    }
    let both = [
        of_mode(0o120_777).build(b"l", b"to/what"),
        of_mode(0o104_711).build(b"f", b"data"),
    ];
    let both = members(&archive(&both)).unwrap();
    assert_eq!(both[0].what, EntryKind::Symlink(b"to/what".to_vec()));
    assert_eq!(
        (content(&both[1]), both[1].mode),
        (b"data".to_vec(), 0o4711)
    );
    for mode in [0, 0o644, 0o110_644, 0o170_644] {
        assert!(matches!(
            flaw(&archive(&[of_mode(mode).build(b"x", b"")])),
            ParseError::Type(_)
        ));
    }
}

#[test]
fn names_are_bytes_ended_by_nuls() {
    for name in [
        &b"\xff\x1b\n"[..],
        b".",
        b"/abs/../x",
        b"dir/TRAILER!!!",
        &[b'n'; 4095],
    ] {
        let read = members(&archive(&[FILE.build(name, b"")])).unwrap();
        assert_eq!(read[0].name, name);
    }
    // More than one is how data are brought to a page's start; Linux's own program ends link targets with one.
    assert_eq!(
        members(&archive(&[file("a\0\0\0\0", "x")])).unwrap()[0].name,
        b"a"
    );
    let link = of_mode(0o120_777).build(b"l", b"target\0");
    assert_eq!(
        members(&archive(&[link])).unwrap()[0].what,
        EntryKind::Symlink(b"target".to_vec())
    );
    // Both end at their first NUL for the kernel, GNU cpio and bsdcpio.
    let cut = [file("a\0b", "x"), of_mode(0o120_777).build(b"l", b"a\0b")];
    let cut = members(&archive(&cut)).unwrap();
    assert_eq!(
        (&cut[0].name[..], &cut[1].what),
        (&b"a"[..], &EntryKind::Symlink(b"a".to_vec()))
    );
    assert_eq!(flaw(&archive(&[file("\0", "x")])), ParseError::Nul);
    assert!(matches!(
        flaw(&archive(&[of_mode(0o120_777).build(b"l", &[b'a'; 4097])])),
        ParseError::Data { .. }
    ));
    assert_eq!(
        flaw(&archive(&[FILE.build(&[b'n'; 4096], b"")])),
        ParseError::NameLength(4097)
    );
    assert_eq!(flaw(&archive(&[file("", "x")])), ParseError::NameLength(1));
    let mut record = file("abc", "x");
    for (digits, length) in [(b"00000000", 0), (b"ffffffff", u32::MAX)] {
        record[94..102].copy_from_slice(digits);
        assert_eq!(
            flaw(&archive(&[record.clone()])),
            ParseError::NameLength(length)
        );
    }
    record[94..102].copy_from_slice(b"00000003");
    assert_eq!(flaw(&archive(&[record])), ParseError::Nul);
    assert_eq!(
        members(&archive(&[
            file("a", ""),
            of_mode(0).build(b"\x1b[2J", b"")
        ]))
        .unwrap_err()
        .to_string(),
        "a.cpio: \\u{1b}[2J (header at offset 112): is of the unknown file type 0; write the archive anew"
    );
}

#[test]
fn a_header_is_hexadecimal_digits_and_nothing_else() {
    let good = archive(&[file("f", "data")]);
    for at in 6..110 {
        for bad in [b'+', b'-', b' ', b'x', b'g', 0, 0xff] {
            let mut damaged = good.clone();
            damaged[at] = bad;
            assert_eq!(flaw(&damaged), ParseError::Digit, "{at} {bad}");
        }
    }
    let upper = good.iter().map(u8::to_ascii_uppercase).collect::<Vec<_>>();
    assert_eq!(members(&upper).unwrap()[0].name, b"F");
    for (magic, flawed) in [
        ("070707", ParseError::OldFormat("odc")),
        ("070700", ParseError::Magic),
        ("0707\0\0", ParseError::Magic),
    ] {
        assert_eq!(
            flaw(&archive(&[Draft { magic, ..FILE }.build(b"f", b"")])),
            flawed
        );
    }
    for bytes in [&b""[..], &[0; 1000]] {
        assert_eq!(flaw(bytes), ParseError::Nothing);
    }
    for bytes in [&b"text, not an archive"[..], b"\x1f\x8b\x08\0\0\0\0\0"] {
        assert_eq!(flaw(bytes), ParseError::Magic);
    }
}

#[test]
fn checksums_are_compared_where_the_format_has_them() {
    let draft = |sum| Draft {
        magic: "070702",
        sum,
        ..FILE
    };
    let data = vec![0xff; 200_000];
    let good = archive(&[
        draft(200_000 * 255).build(b"f", &data),
        draft(0).build(b"empty", b""),
    ]);
    assert_eq!(members(&good).unwrap().len(), 2);
    let (promised, found) = (7, 200_000 * 255);
    let bad = archive(&[draft(7).build(b"f", &data)]);
    assert_eq!(flaw(&bad), ParseError::Checksum { promised, found });
}

#[test]
fn all_names_of_a_file_get_its_data_wherever_they_are() {
    let dir = of_mode(0o040_755).build(b"d", b"");
    let none = || linked(5).build(b"a", b"");
    let data = |name: &str| linked(5).build(name.as_bytes(), b"data");
    for parts in [
        [none(), dir.clone(), data("b")],
        [data("a"), dir.clone(), linked(5).build(b"b", b"")],
        [data("a"), dir.clone(), data("b")],
    ] {
        let read = members(&archive(&parts)).unwrap();
        for name in [&read[0], &read[2]] {
            assert_eq!(content(name), b"data");
            assert!(matches!(name.what, EntryKind::File { link: 1, .. }));
        }
    }
    // Two archives: numbers of one mean nothing in the other. Two files that are empty, one with a single name here.
    let first = archive(&[none(), data("b")]);
    let second = archive(&[
        linked(5).build(b"c", b""),
        linked(6).build(b"d", b"other"),
        linked(5).build(b"e", b""),
        linked(9).build(b"f", b"alone"),
        linked(6).build(b"g", b""),
    ]);
    let read = members(&[first, second].concat()).unwrap();
    let link = |member: &Member| match member.what {
        EntryKind::File { link, size, .. } => (link, size),
        _ => panic!("{member:?}"),
    };
    let links: Vec<_> = read.iter().map(link).collect();
    assert_eq!(
        links,
        [(1, 4), (1, 4), (2, 0), (3, 5), (2, 0), (0, 5), (3, 5)]
    );
    // The device counts as well.
    let mut other = linked(5).build(b"b", b"more data");
    other[62..70].copy_from_slice(b"00000009");
    let read = members(&archive(&[data("a"), other])).unwrap();
    assert_eq!(
        (content(&read[0]), content(&read[1])),
        (b"data".to_vec(), b"more data".to_vec())
    );
    let differ = archive(&[data("a"), linked(5).build(b"b", b"more data")]);
    assert_eq!(flaw(&differ), ParseError::LinksDiffer(4));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn archives_behind_one_another_are_one_and_any_may_be_compressed() {
    let (first, second) = (
        archive(&[file("a", "1")]),
        archive(&[file("b", "2"), file("c", "3")]),
    );
    let names = |bytes: &[u8]| {
        let names: Vec<_> = members(bytes)
            .unwrap()
            .into_iter()
            .map(|member| member.name)
            .collect();
        String::from_utf8(names.concat()).unwrap()
    };
    let zeros = |count: usize| vec![0; count];
    assert_eq!(names(&[&first[..], &second].concat()), "abc");
    for padding in [4, 388, 70_000] {
        let all = [&first[..], &zeros(padding), &second, &zeros(padding)].concat();
        assert_eq!(names(&all), "abc");
    }
    assert_eq!(
        flaw(&[&first[..], &zeros(3), &second].concat()),
        ParseError::Unaligned
    );
    assert_eq!(
        names(&first[..first.len() - 3]),
        "a",
        "without the padding at its end"
    );
    let packed = gzip(&[&second[..], &zeros(100), &first].concat());
    for padding in [0, 1, 512] {
        let all = [&first[..], &zeros(padding), &packed, &zeros(padding)].concat();
        assert_eq!(names(&all), "abca");
        for cut in first.len() + padding + 1..first.len() + padding + packed.len() {
            assert!(members(&all[..cut]).is_err(), "{cut}");
        }
    }
    let trailing = |bytes: &[u8]| assert_eq!(flaw(bytes), ParseError::Trailing);
    trailing(&[&first[..], b"something"].concat());
    trailing(&[&first[..], &zeros(512), b"something"].concat());
    trailing(&[&first[..], &gzip(&[&second[..], b"x"].concat())].concat());
    // Packed twice.
    trailing(&[&first[..], &gzip(&[&second[..], &packed].concat())].concat());
    let bomb = [&first[..], &gzip(&vec![0; 65 << 20])].concat();
    let error = members(&bomb).unwrap_err().to_string();
    assert!(
        error.contains("a.cpio from offset 240 on: comes to more than 64 MiB"),
        "{error}"
    );
    let odd = Draft { mode: 0, ..FILE }.build(TRAILER, b"data");
    assert!(matches!(
        flaw(&odd),
        ParseError::Data {
            what: "trailer",
            ..
        }
    ));
}

/// Compressed with a program; nothing where it is missing.
fn packed(command: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let (program, options) = command.split_once(' ')?;
    if !crate::samples::is_here(program) {
        return None;
    }
    let mut child = Command::new(program)
        .args(options.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    Some(child.wait_with_output().unwrap().stdout)
}

#[test]
fn plain_and_compressed_archives_may_be_mixed_in_any_order() {
    let part = |name: &str| archive(&[file(name, name)]);
    let mut packers = vec![gzip(&part("g"))];
    packers.extend(packed("zstd -qc", &part("z")));
    packers.extend(packed("xz -c", &part("x")));
    // Linux knows the older form of lz4 only, and needs a length of zero to see that it ends.
    packers.extend(packed("lz4 -qlc", &part("l")).map(|bytes| [&bytes[..], &[0; 4]].concat()));
    packers.push(part("p"));
    let name = |bytes: &[u8]| members(bytes).unwrap().last().unwrap().name.clone();
    let first = part("first");
    for one in &packers {
        for other in &packers {
            for zeros in [0, 4, 512] {
                let mut bytes = first.clone();
                let mut want = vec![b"first".to_vec()];
                for part in [one, other, one] {
                    bytes.extend(part);
                    bytes.resize(bytes.len().next_multiple_of(4) + zeros, 0);
                    want.push(name(&[&first[..], part].concat()));
                }
                let found = members(&bytes).unwrap();
                let found: Vec<_> = found.into_iter().map(|member| member.name).collect();
                assert_eq!(found, want);
            }
        }
    }
    // A plain archive begins at a multiple of four, also behind a compressed one.
    let mut bytes = [&first[..], &packers[0]].concat();
    bytes.resize(bytes.len().next_multiple_of(4) + 1, 0);
    assert_eq!(flaw(&[&bytes[..], &first].concat()), ParseError::Unaligned);
    // Numbers of hard links are those of one archive each.
    let pair = |name: &str| {
        let names = [format!("{name}1"), format!("{name}2")];
        archive(&names.map(|name| linked(5).build(name.as_bytes(), b"data")))
    };
    let mixed = [&pair("a")[..], &gzip(&pair("b")), &gzip(&pair("c"))].concat();
    let links: Vec<_> = members(&mixed)
        .unwrap()
        .iter()
        .map(|member| match member.what {
            EntryKind::File { link, .. } => link,
            _ => panic!("{member:?}"),
        })
        .collect();
    assert_eq!(links, [1, 1, 2, 2, 3, 3]);
}

#[test]
fn what_follows_a_compressed_archive_is_read_where_it_is() {
    let first = archive(&[file("a", "1")]);
    let plain = archive(&[file("b", "2")]);
    let limits = Limits::default();
    let read_with = |rest: &[u8], at: usize| {
        let rest = Rest {
            region: region(&[&vec![0xff; at % 4][..], rest].concat()),
            start: (at - at % 4) as u64,
            from: (at % 4) as u64,
        };
        let mut names = Vec::new();
        let (counter, budget) = (Counter::new(&limits), Budget::new(&limits));
        read(
            &region(&first),
            Some(&rest),
            &counter,
            &budget,
            &mut |member| {
                names.extend(member.name);
                Ok::<(), Error>(())
            },
        )
        .map(|()| String::from_utf8(names).unwrap())
    };
    assert_eq!(read_with(&plain, 8).unwrap(), "ab");
    assert_eq!(read_with(&[&[0], &plain[..]].concat(), 7).unwrap(), "ab");
    assert_eq!(read_with(&gzip(&plain), 7).unwrap(), "ab");
    assert_eq!(read_with(&[0; 3], 7).unwrap(), "a");
    let told = |rest: &[u8], at| read_with(rest, at).unwrap_err().to_string();
    assert!(told(&plain, 7).contains("at offset 7: an archive begins at no multiple of four"));
    assert!(told(b"junk", 8).contains("at offset 8: something that is no cpio archive follows"));
}

#[test]
fn compressed_archives_are_limited_in_number() {
    let part = [&gzip(&archive(&[]))[..], &[0; 4]].concat();
    let first = archive(&[file("a", "1")]);
    assert_eq!(
        members(&[&first[..], &part.repeat(1024)].concat())
            .unwrap()
            .len(),
        1
    );
    let many = [&first[..], &part.repeat(1025)].concat();
    assert_eq!(flaw(&many), ParseError::TooMany(1024));
}

#[test]
fn members_are_counted_and_errors_of_the_caller_come_through() {
    let limits = Limits {
        entries: 2,
        ..Limits::default()
    };
    let bytes = archive(&[file("a", ""), file("b", ""), file("c", "")]);
    let (counter, budget) = (Counter::new(&limits), Budget::new(&limits));
    let mut seen = 0;
    let error = read(&region(&bytes), None, &counter, &budget, &mut |_| {
        seen += 1;
        Ok::<(), Error>(())
    });
    assert!(matches!(
        error,
        Err(Error::Limit(limit::Error::Members { .. }))
    ));
    assert_eq!(seen, 2);

    #[derive(Debug, PartialEq)]
    struct Mine(bool);
    impl From<Error> for Mine {
        fn from(_: Error) -> Self {
            Self(false)
        }
    }
    let counter = Counter::new(&Limits::default());
    let mut each = |_| Err(Mine(true));
    let error = read(&region(&bytes), None, &counter, &budget, &mut each);
    assert_eq!(error, Err(Mine(true)));
}

/// A directory with one of everything that needs no privileges.
fn everything() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("dir/empty")).unwrap();
    fs::write(at("dir/file"), b"hello\n").unwrap();
    fs::hard_link(at("dir/file"), at("dir/link")).unwrap();
    fs::hard_link(at("dir/file"), at("another")).unwrap();
    fs::write(at("empty"), b"").unwrap();
    fs::hard_link(at("empty"), at("empty too")).unwrap();
    let bytes: Vec<u8> = (0..18_000).map(|n| (n % 251) as u8).collect();
    fs::write(at("big"), bytes).unwrap();
    std::os::unix::fs::symlink("../dir/file", at("symlink")).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(at("fifo"))
            .status()
            .unwrap()
            .success()
    );
    dir
}

const NAMES: &str =
    ".\ndir\ndir/empty\ndir/file\nanother\ndir/link\nempty\nbig\nempty too\nsymlink\nfifo\n";

/// The output of a program for the list of names; nothing if it is missing.
fn write(command: &str, dir: &Path) -> Option<Vec<u8>> {
    let mut words = command.split(' ');
    let program = words.next().unwrap();
    let child = Command::new(program)
        .args(words)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = match child {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            crate::skips::missing(program);
            return None;
        }
        child => child.unwrap(),
    };
    child
        .stdin
        .take()
        .unwrap()
        .write_all(NAMES.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command}");
    Some(output.stdout)
}

const WRITERS: [&str; 4] = [
    "cpio -o -H newc",
    "cpio -o -H crc",
    "bsdcpio -o -H newc",
    "bsdtar -cf - --format=newc -n -T -",
];

#[test]
fn what_gnu_cpio_and_bsdcpio_write_is_what_was_in_the_directory() {
    let dir = everything();
    for command in WRITERS {
        let Some(bytes) = write(command, dir.path()) else {
            continue;
        };
        let read = members(&bytes).unwrap_or_else(|error| panic!("{command}: {error}"));
        assert_eq!(read.len(), 11, "{command}");
        let mut inodes = HashMap::new();
        for member in &read {
            let path = dir.path().join(str::from_utf8(&member.name).unwrap());
            let facts = path.symlink_metadata().unwrap();
            let shown = format!("{command}: {path:?}");
            assert_eq!(u32::from(member.mode), facts.mode() & 0o7777, "{shown}");
            assert_eq!(
                (member.uid, member.gid),
                (facts.uid(), facts.gid()),
                "{shown}"
            );
            assert_eq!(member.mtime, facts.mtime(), "{shown}");
            match &member.what {
                EntryKind::Directory => assert!(facts.is_dir(), "{shown}"),
                EntryKind::Symlink(target) => assert_eq!(target, b"../dir/file"),
                EntryKind::Fifo => assert_eq!(member.name, b"fifo"),
                EntryKind::File { link, .. } => {
                    assert_eq!(content(member), fs::read(&path).unwrap(), "{shown}");
                    assert_eq!(*link == 0, facts.nlink() == 1, "{shown}");
                    let inode = inodes.entry(facts.ino()).or_insert(*link);
                    assert_eq!(inode, link, "{shown}");
                }
                what => panic!("{shown}: {what:?}"),
            }
        }
    }
    for command in ["cpio -o -H odc", "bsdcpio -o -H odc"] {
        if let Some(bytes) = write(command, dir.path()) {
            assert_eq!(flaw(&bytes), ParseError::OldFormat("odc"));
        }
    }
    if let Some(bytes) = write("cpio -o -H bin", dir.path()) {
        assert_eq!(flaw(&bytes), ParseError::Magic);
    }
}

#[test]
fn an_archive_that_is_cut_anywhere_before_its_end_is_refused() {
    let dir = everything();
    for command in WRITERS {
        let Some(bytes) = write(command, dir.path()) else {
            continue;
        };
        // The trailer's name and its NUL; what follows is padding.
        let name = bytes.windows(10).rposition(|window| window == TRAILER);
        let end = name.unwrap() + 11;
        assert!(end > 18_000, "{command}");
        for cut in 0..bytes.len() {
            assert_eq!(
                members(&bytes[..cut]).is_ok(),
                cut >= end,
                "{command}, {cut} of {end}"
            );
        }
    }
}

#[test]
fn no_byte_can_make_it_panic() {
    let good = archive(&[
        linked(5).build(b"a", b""),
        of_mode(0o120_777).build(b"l", b"target"),
        linked(5).build(b"b", b"data"),
    ]);
    for at in 0..good.len() {
        for value in [0, b'0', b'7', b'f', 0xff] {
            let mut damaged = good.clone();
            damaged[at] = value;
            members(&damaged).ok();
        }
    }
}
