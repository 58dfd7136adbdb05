//! Archives made by hand, by GNU tar and by bsdtar, and what is read from them.

mod differential;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use super::*;
use crate::byte_source::{ByteSource, CHUNK, Span};
use crate::limit;
use crate::member::{EntryKind, FileContent};
use crate::reference::Limits;
use crate::tree::read_sparse;

fn region(bytes: &[u8]) -> Region {
    let chunks = bytes
        .chunks(CHUNK)
        .map(|chunk| Some(chunk.into()))
        .collect();
    let store = ByteSource::of_chunks(chunks, bytes.len() as u64, "a.tar".into());
    Region::whole(Arc::new(store))
}

fn members_and_end(region: &Region) -> Result<(Vec<Member>, End), Error> {
    let mut members = Vec::new();
    let counter = Counter::new(&Limits::default());
    let end = read(region, &counter, &mut |member| {
        members.push(member);
        Ok::<(), Error>(())
    })?;
    Ok((members, end))
}

fn members_of(region: &Region) -> Result<Vec<Member>, Error> {
    members_and_end(region).map(|(members, _)| members)
}

fn members(bytes: &[u8]) -> Result<Vec<Member>, Error> {
    members_of(&region(bytes))
}

fn content(what: &EntryKind) -> Vec<u8> {
    let EntryKind::File { size, content, .. } = what else {
        panic!("no file: {what:?}");
    };
    let mut bytes = vec![0; *size as usize];
    match content {
        FileContent::Span(Span { store, offset }) => store.read_exact(*offset, &mut bytes),
        FileContent::Sparse(extents) => read_sparse(extents, 0, &mut bytes),
    }
    .unwrap();
    bytes
}

/// A header in the making; the checksum comes last.
#[derive(Clone)]
struct Draft([u8; 512]);

impl Draft {
    /// ustar, mode 0644, owner 1:2, from the year 1970.
    fn new(name: &str, kind: u8, size: u64) -> Self {
        let mut draft = Self([0; 512]);
        draft.put(0, name.as_bytes());
        draft.put(100, b"0000644\0");
        draft.put(108, b"0000001\0");
        draft.put(116, b"0000002\0");
        draft.put(124, format!("{size:011o}\0").as_bytes());
        draft.put(136, b"00000000003\0");
        draft.0[156] = kind;
        draft.put(257, b"ustar\x0000");
        draft.put(329, b"0000000\x000000000\0");
        draft
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn with(mut self, at: usize, bytes: &[u8]) -> Self {
        self.put(at, bytes);
        self
    }

    fn gnu(self) -> Self {
        self.with(257, b"ustar  \0").with(329, &[0; 16])
    }

    fn v7(self) -> Self {
        self.with(257, &[0; 88])
    }

    fn link(self, target: &str) -> Self {
        self.with(157, target.as_bytes())
    }

    /// With its checksum, and the data padded to whole blocks.
    fn build(self, data: &[u8]) -> Vec<u8> {
        let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
        let total = sum(&self.0) - sum(&self.0[148..156]) + 8 * 32;
        let mut bytes = self
            .with(148, format!("{total:06o}\0 ").as_bytes())
            .0
            .to_vec();
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

fn file(name: &str, data: &str) -> Vec<u8> {
    Draft::new(name, b'0', data.len() as u64).build(data.as_bytes())
}

/// A header with data of its own about what follows.
fn meta(kind: u8, data: &[u8]) -> Vec<u8> {
    let draft = Draft::new("././@LongLink", kind, data.len() as u64);
    match kind {
        b'L' | b'K' => draft.gnu(),
        _ => draft,
    }
    .build(data)
}

fn record(keyword: &str, value: &[u8]) -> Vec<u8> {
    let rest = keyword.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length += 1;
    }
    [format!("{length} {keyword}=").as_bytes(), value, b"\n"].concat()
}

fn pax(kind: u8, records: &[(&str, &str)]) -> Vec<u8> {
    let records: Vec<u8> = records
        .iter()
        .flat_map(|(keyword, value)| record(keyword, value.as_bytes()))
        .collect();
    meta(kind, &records)
}

const END: [u8; 1024] = [0; 1024];

fn archive(parts: &[Vec<u8>]) -> Vec<u8> {
    [&parts.concat()[..], &END].concat()
}

/// The only member of an archive of these parts.
fn one(parts: &[Vec<u8>]) -> Result<Member, Error> {
    members(&archive(parts)).map(|mut members| {
        assert_eq!(members.len(), 1, "{members:?}");
        members.remove(0)
    })
}

fn flaw(parts: &[Vec<u8>]) -> ParseError {
    match members(&archive(parts)).expect_err("it was taken") {
        Error::Archive { flaw, .. } | Error::Member { flaw, .. } => flaw,
        error => panic!("{error}"),
    }
}

#[test]
fn each_type_becomes_what_it_is() {
    let draft = |kind| Draft::new("x", kind, 0);
    let device = |kind| draft(kind).with(329, b"0000010\x000000003\0");
    let (major, minor) = (8, 3);
    let target = b"t".to_vec();
    for (parts, what) in [
        (draft(b'5'), EntryKind::Directory),
        (draft(b'2').link("t"), EntryKind::Symlink(target.clone())),
        (draft(b'1').link("t"), EntryKind::HardLink(target)),
        (device(b'3'), EntryKind::CharDevice { major, minor }),
        (device(b'4'), EntryKind::BlockDevice { major, minor }),
        (
            device(b'4').gnu().with(329, b"0000010\x000000003\0"),
            EntryKind::BlockDevice { major, minor },
        ),
        (
            draft(b'3').v7(),
            EntryKind::CharDevice { major: 0, minor: 0 },
        ),
        (draft(b'6'), EntryKind::Fifo),
    ] {
        let member = one(&[parts.build(b"")]).unwrap();
        assert_eq!(member.what, what);
        assert_eq!((member.uid, member.gid, member.mtime), (1, 2, 3));
        assert_eq!((member.mode, member.name), (0o644, b"x".to_vec()));
    }
    for kind in [b'0', b'\0', b'7', b'Z', b'8', b'a', 0xff] {
        for draft in [Draft::new("f", kind, 3), Draft::new("f", kind, 3).v7()] {
            assert_eq!(content(&one(&[draft.build(b"abc")]).unwrap().what), b"abc");
        }
    }
    // A trailing slash makes it a directory, as v7 writes them.
    for kind in [b'0', b'\0', b'7'] {
        let dir = one(&[Draft::new("d/", kind, 0).v7().build(b"")]).unwrap();
        assert_eq!((dir.what, dir.name), (EntryKind::Directory, b"d/".to_vec()));
    }
    assert!(matches!(
        flaw(&[Draft::new("d/", b'Z', 0).build(b"")]),
        ParseError::Type { .. }
    ));
    let dump = Draft::new("d/", b'D', 6).gnu().build(b"Yfile\0");
    let both = members(&archive(&[dump, file("f", "x")])).unwrap();
    assert_eq!(both[0].what, EntryKind::Directory);
    assert_eq!(both[1].name, b"f");
    let label = Draft::new("backup of monday", b'V', 0).gnu().build(b"");
    assert_eq!(one(&[label, file("f", "x")]).unwrap().name, b"f");
    assert_eq!(
        flaw(&[Draft::new("x", b'M', 3).gnu().build(b"abc")]),
        ParseError::Volumes
    );
    for kind in [b'A', b'E', b'I', b'N'] {
        assert!(matches!(
            flaw(&[Draft::new("x", kind, 3).build(b"abc")]),
            ParseError::Type { .. }
        ));
    }
}

#[test]
fn names_come_from_the_last_word_on_them() {
    let long = "n/".repeat(150) + "end";
    let file = || Draft::new("short", b'0', 0);
    let name = |parts: &[Vec<u8>]| String::from_utf8(one(parts).unwrap().name).unwrap();
    let x = |path: &str| pax(b'x', &[("path", path)]);
    let gnu = |name: &str| meta(b'L', format!("{name}\0").as_bytes());
    assert_eq!(
        name(&[file().with(345, b"pre/fix").build(b"")]),
        "pre/fix/short"
    );
    // GNU tar has other things in the place of the prefix, v7 nothing.
    assert_eq!(
        name(&[file().gnu().with(345, b"pre/fix").build(b"")]),
        "short"
    );
    assert_eq!(
        name(&[file().v7().with(345, b"pre/fix").build(b"")]),
        "short"
    );
    let full = Draft::new(&"n".repeat(100), b'0', 0).with(345, &[b'p'; 155]);
    assert_eq!(name(&[full.build(b"")]).len(), 256);
    assert_eq!(name(&[gnu(&long), file().build(b"")]), long);
    assert_eq!(name(&[x(&long), file().build(b"")]), long);
    assert_eq!(name(&[x(&long), gnu(&long), file().build(b"")]), long);
    assert_eq!(name(&[gnu(&long), x(&long), file().build(b"")]), long);
    // Nothing of it is left for the next.
    let two = members(&archive(&[x(&long), file().build(b""), file().build(b"")])).unwrap();
    assert_eq!(two[1].name, b"short");
    // Of two headers of GNU tar's own the last one counts; in all else programs differ.
    assert_eq!(name(&[gnu("a"), gnu("b"), file().build(b"")]), "b");
    let twice = |what| ParseError::Twice { what };
    assert_eq!(flaw(&[gnu("a"), x("b"), file().build(b"")]), twice("name"));
    assert_eq!(flaw(&[x("b"), gnu("a"), file().build(b"")]), twice("name"));
    assert_eq!(
        flaw(&[x("a"), x("a"), file().build(b"")]),
        twice("PAX header")
    );

    let link = || Draft::new("l", b'2', 0).link("short");
    let target = |parts: &[Vec<u8>]| one(parts).unwrap().what;
    let is_long = EntryKind::Symlink(long.clone().into_bytes());
    assert_eq!(
        target(&[meta(b'K', long.as_bytes()), link().build(b"")]),
        is_long
    );
    assert_eq!(
        target(&[pax(b'x', &[("linkpath", &long)]), link().build(b"")]),
        is_long
    );
    let two = [
        meta(b'K', b"a"),
        meta(b'K', long.as_bytes()),
        link().build(b""),
    ];
    assert_eq!(target(&two), is_long);
    let both = [
        meta(b'K', b"a"),
        pax(b'x', &[("linkpath", "b")]),
        link().build(b""),
    ];
    assert_eq!(flaw(&both), twice("link target"));
    assert_eq!(flaw(&[gnu("a")]), ParseError::NoMember);
    assert_eq!(flaw(&[x("a")]), ParseError::NoMember);
}

#[test]
fn names_are_bytes_and_messages_escape_them() {
    for name in [
        &b"\xff\xfe"[..],
        b"a\nb",
        b"\x1b[2J",
        b"TRAILER!!!",
        b"-rf",
        b"./a//b/../c",
    ] {
        let draft = Draft::new("", b'0', 0).with(0, name);
        assert_eq!(one(&[draft.build(b"")]).unwrap().name, name);
        assert_eq!(
            one(&[meta(b'x', &record("path", name)), file("x", "")])
                .unwrap()
                .name,
            name
        );
    }
    let bad = Draft::new("\x1b[2J\n", b'2', 5).build(b"12345");
    assert_eq!(
        members(&archive(&[file("a", ""), bad]))
            .unwrap_err()
            .to_string(),
        "a.tar: \\u{1b}[2J\\n (header at offset 512): a symbolic link with 5 bytes of data, which some programs skip \
         and some do not; write the archive anew with GNU tar"
    );
}

#[test]
fn numbers_are_octal_or_base_256_and_nothing_else() {
    let uid = |field: &[u8]| Draft::new("f", b'0', 0).with(108, field).build(b"");
    for (field, number) in [
        (&b"0000017\0"[..], 15),
        (b"     17 ", 15),
        (b"17\0 junk\0"[..8].try_into().unwrap(), 15),
        (b"00000017", 15),
        (b"77777777", 0o77_777_777),
        (b"\0\0\0\0\0\0\0\0", 0),
        (b"\x80\0\0\0\0\0\x01\x02", 258),
        (b"\x80\0\0\0\xff\xff\xff\xff", u32::MAX),
    ] {
        assert_eq!(one(&[uid(field)]).unwrap().uid, number, "{field:?}");
    }
    for field in [
        &b"        "[..],
        b"0000018\0",
        b"-000001\0",
        b"+000001\0",
        b"0x00001\0",
        b"1 2345a\xff"[..8].try_into().unwrap(),
    ] {
        let taken = one(&[uid(field)]);
        match field[1] {
            // GNU tar stops reading at a blank, too.
            b' ' if field[0] == b'1' => assert_eq!(taken.unwrap().uid, 1),
            _ => assert_eq!(
                flaw(&[uid(field)]),
                ParseError::Number { what: "uid" },
                "{field:?}"
            ),
        }
    }
    for (field, value) in [
        (b"\x80\0\0\x01\0\0\0\0", 1_i128 << 32),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff", -1),
    ] {
        assert_eq!(
            flaw(&[uid(field)]),
            ParseError::OutOfRange { what: "uid", value }
        );
    }

    let mtime = |field: &[u8; 12]| Draft::new("f", b'0', 0).with(136, field).build(b"");
    assert_eq!(
        one(&[mtime(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe")])
            .unwrap()
            .mtime,
        -2
    );
    assert_eq!(one(&[mtime(b"777777777777")]).unwrap().mtime, (1 << 36) - 1);
    assert_eq!(
        one(&[mtime(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff")])
            .unwrap()
            .mtime,
        i64::MAX
    );
    assert_eq!(
        one(&[mtime(b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0")])
            .unwrap()
            .mtime,
        i64::MIN
    );
    let what = "mtime";
    assert_eq!(
        flaw(&[mtime(b"\x80\0\0\0\x80\0\0\0\0\0\0\0")]),
        ParseError::TooLarge { what }
    );

    let size = |field: &[u8; 12]| Draft::new("f", b'0', 0).with(124, field).build(b"abc");
    assert_eq!(
        content(&one(&[size(b"\x80\0\0\0\0\0\0\0\0\0\0\x03")]).unwrap().what),
        b"abc"
    );
    let value = -3;
    let what = "size";
    assert_eq!(
        flaw(&[size(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfd")]),
        ParseError::OutOfRange { what, value }
    );
    let cut = ParseError::Cut { what: "its data" };
    assert_eq!(
        flaw(&[size(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff")]),
        cut
    );
    assert_eq!(flaw(&[size(b"77777777777\0")]), cut);

    // Some programs write the type of the file as well.
    let mode = |field| Draft::new("f", b'0', 0).with(100, field).build(b"");
    assert_eq!(one(&[mode(b"0104755\0")]).unwrap().mode, 0o4755);
    assert!(matches!(
        flaw(&[mode(b"\xff\xff\xff\xff\xff\xff\xff\xff")]),
        ParseError::OutOfRange { .. }
    ));
}

#[test]
fn a_checksum_counts_signed_or_unsigned_and_a_wrong_one_is_no_header() {
    let mut header = Draft::new("f\u{e9}\u{e9}", b'0', 0).build(b"");
    let unsigned: i64 = header.iter().map(|&byte| i64::from(byte)).sum();
    let high = header.iter().filter(|&&byte| byte >= 0x80).count() as i64;
    let own: i64 = header[148..156].iter().map(|&byte| i64::from(byte)).sum();
    let signed = unsigned - own + 256 - 256 * high;
    header[148..156].copy_from_slice(format!("{signed:06o}\0 ").as_bytes());
    assert_eq!(
        one(&[header.clone()]).unwrap().name,
        "f\u{e9}\u{e9}".as_bytes()
    );
    header[148..156].copy_from_slice(format!("{:06o}\0 ", signed + 1).as_bytes());
    assert_eq!(flaw(&[header.clone()]), ParseError::Checksum);
    header[148..156].copy_from_slice(b"        ");
    assert_eq!(flaw(&[header]), ParseError::Checksum);
    let text = b"This is a text, and not a short one. ".repeat(30);
    assert_eq!(flaw(&[text]), ParseError::Checksum);
}

/// A header that is neither ustar's nor GNU tar's is v7 to GNU tar and umoci, and ustar to bsdtar.
#[test]
fn an_odd_magic_number_is_refused_where_it_matters_what_it_means() {
    for magic in [b"ustar00\0", b"ustar \0\0", b"ustar\n\n\n", b"ustar  0"] {
        let odd = |kind| Draft::new("f", kind, 0).with(257, magic);
        assert_eq!(one(&[odd(b'0').build(b"")]).unwrap().name, b"f");
        assert_eq!(
            one(&[odd(b'5').build(b"")]).unwrap().what,
            EntryKind::Directory
        );
        let prefixed = odd(b'0').with(345, b"pre");
        for differs in [prefixed, odd(b'3'), odd(b'4')] {
            assert_eq!(flaw(&[differs.build(b"")]), ParseError::Magic);
        }
    }
}

#[test]
fn data_are_where_all_programs_look_for_them() {
    for kind in [b'2', b'3', b'4', b'5', b'6'] {
        let bad = Draft::new("x", kind, 5).link("t").build(b"12345");
        assert!(matches!(flaw(&[bad]), ParseError::Data { bytes: 5, .. }));
        let bad = Draft::new("x", kind, 0).link("t").build(b"12345");
        assert!(matches!(
            flaw(&[pax(b'x', &[("size", "5")]), bad]),
            ParseError::Data { bytes: 5, .. }
        ));
    }
    let bad = Draft::new("d/", b'0', 5).build(b"12345");
    assert!(matches!(flaw(&[bad]), ParseError::Data { bytes: 5, .. }));

    // A hard link: old programs wrote the file's size without data, PAX has data when it says so.
    let link = |size| Draft::new("l", b'1', size).link("t");
    let names = |parts: &[Vec<u8>]| {
        let members = members(&archive(parts)).unwrap();
        let names: Vec<_> = members.into_iter().map(|member| member.name).collect();
        String::from_utf8(names.join(&b' ')).unwrap()
    };
    assert_eq!(names(&[link(600).build(b""), file("f", "")]), "l f");
    assert_eq!(names(&[link(600).gnu().build(b""), file("f", "")]), "l f");
    let data = [1; 600];
    let x = || pax(b'x', &[("size", "600")]);
    assert_eq!(names(&[x(), link(0).build(&data), file("f", "")]), "l f");
    assert_eq!(names(&[x(), link(600).build(&data), file("f", "")]), "l f");
    let dir = Draft::new("l/", b'1', 0).build(&data);
    assert!(matches!(
        flaw(&[x(), dir, file("f", "")]),
        ParseError::Data { .. }
    ));
    let other = pax(b'x', &[("comment", "hi")]);
    assert!(matches!(
        flaw(&[other, link(600).build(b""), file("f", "")]),
        ParseError::Data { .. }
    ));

    // The size of a PAX header counts, whatever the plain one says.
    for plain in [0, 3, 5000] {
        let draft = Draft::new("f", b'0', plain);
        let long = [2; 1000];
        let parts = [
            pax(b'x', &[("size", "1000")]),
            draft.build(&long),
            file("g", ""),
        ];
        let both = members(&archive(&parts)).unwrap();
        assert_eq!(content(&both[0].what), long);
        assert_eq!(both[1].name, b"g");
    }
}

#[test]
fn pax_records_are_read_to_the_letter() {
    let with = |records: &[u8]| one(&[meta(b'x', records), file("f", "")]);
    let pairs = |pairs: &[(&str, &str)]| one(&[pax(b'x', pairs), file("f", "")]);
    let member = pairs(&[
        ("atime", "12.5"),
        ("comment", "a=b\nc"),
        ("uid", "4294967295"),
        ("gid", "70000"),
        ("mtime", "-1.5"),
        ("hdrcharset", "BINARY"),
        ("VENDOR.keyword", ""),
    ])
    .unwrap();
    assert_eq!(
        (member.uid, member.gid, member.mtime),
        (u32::MAX, 70_000, -2)
    );
    for (text, seconds) in [
        ("0", 0),
        ("1.999999999", 1),
        ("-0.000000001", -1),
        ("-3.000", -3),
        ("9223372036854775807.9", i64::MAX),
        ("-9223372036854775808", i64::MIN),
        ("5.", 5),
    ] {
        assert_eq!(pairs(&[("mtime", text)]).unwrap().mtime, seconds, "{text}");
    }
    for bad in [
        "", "1e9", "nan", "1.5.2", ".5", "0x10", "1,5", " 1", "1 ", "--1",
    ] {
        assert!(pairs(&[("mtime", bad)]).is_err(), "{bad}");
    }
    for (keyword, value) in [
        ("uid", "-1"),
        ("gid", "4294967296"),
        ("mtime", "9223372036854775808"),
        ("uid", "18446744073709551616"),
        ("size", "-5"),
        ("size", "5 "),
        ("uid", ""),
        ("path", ""),
        ("path", "a\0b"),
        ("linkpath", "a\0"),
    ] {
        assert!(pairs(&[(keyword, value)]).is_err(), "{keyword}={value}");
    }
    for bad in [
        &b"x"[..],
        b"6 a=b",
        b"6 a=b\n\0",
        b"7 a=b\n",
        b"5 a=b\n",
        b"0 a=b\n",
        b"4 a\n",
        b"5 ab\n",
        b"6 =bc\n",
        b"-6 a=b\n",
        b" 6 a=b\n",
        b"06  a=b\n",
        b"99999999999999999999 a=b\n",
        b"18446744073709551615 a=b\n",
        b"1152921504606846976 a=b\n",
        b"7 a\0=b\n",
        b"2 \n",
        b"\n",
    ] {
        assert!(
            matches!(
                flaw(&[meta(b'x', bad), file("f", "")]),
                ParseError::Pax { .. }
            ),
            "{bad:?}"
        );
    }
    assert!(with(b"6 a=b\n").is_ok());
    assert!(with(b"").is_ok());
    let last = pairs(&[("path", "first"), ("path", "second")]).unwrap();
    assert_eq!(last.name, b"second");
}

#[test]
fn a_global_header_holds_for_all_that_follows_and_is_the_only_one() {
    let g = |pairs: &[(&str, &str)]| pax(b'g', pairs);
    let all = [("comment", "0123"), ("uid", "77"), ("mtime", "5")];
    let parts = [
        g(&[
            ("comment", "as git archive writes it"),
            ("comment", "twice"),
        ]),
        file("a", ""),
        g(&all),
        file("b", ""),
        pax(b'x', &[("uid", "88")]),
        file("c", ""),
        file("d", ""),
    ];
    let read = members(&archive(&parts)).unwrap();
    let ids = |member: &Member| (member.uid, member.mtime);
    assert_eq!(
        read.iter().map(ids).collect::<Vec<_>>(),
        [(1, 3), (77, 5), (88, 5), (77, 5)]
    );
    for own in [
        "path",
        "linkpath",
        "size",
        "GNU.sparse.size",
        "SCHILY.xattr.user.a",
        "SCHILY.acl.access",
    ] {
        assert!(matches!(
            flaw(&[g(&[(own, "1")]), file("f", "")]),
            ParseError::Pax { .. }
        ));
    }
    let twice = |parts: &[Vec<u8>]| assert!(matches!(flaw(parts), ParseError::Twice { .. }));
    twice(&[g(&[("uid", "77"), ("uid", "77")]), file("f", "")]);
    twice(&[g(&all), file("f", ""), g(&[("gid", "1")]), file("f", "")]);
    twice(&[
        g(&all),
        file("f", ""),
        g(&[("comment", "1")]),
        file("f", ""),
    ]);
}

fn xattrs(parts: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    one(parts)
        .unwrap()
        .xattrs
        .map_or_else(BTreeMap::new, |xattrs| (*xattrs).clone())
}

#[test]
fn extended_attributes_are_bytes_in_whatever_way_they_are_written() {
    let mut records = record("SCHILY.xattr.security.capability", b"\x01\0\0\x02\n=\xff");
    records.extend(record("SCHILY.xattr.user.empty", b""));
    records.extend(record("SCHILY.xattr.user.a%3Db%25", b"quoted"));
    records.extend(record("LIBARCHIVE.xattr.user.b%20c", b"AQID/w"));
    // Both ways: the plain one counts.
    records.extend(record("LIBARCHIVE.xattr.user.empty", b"AAAA"));
    records.extend(record("RHT.security.selinux", b"unconfined"));
    let xattrs = xattrs(&[meta(b'x', &records), file("f", "")]);
    let want: &[(&[u8], &[u8])] = &[
        (b"security.capability", b"\x01\0\0\x02\n=\xff"),
        (b"security.selinux", b"unconfined"),
        (b"user.a=b%", b"quoted"),
        (b"user.b c", b"\x01\x02\x03\xff"),
        (b"user.empty", b""),
    ];
    let got: Vec<_> = xattrs
        .iter()
        .map(|(name, value)| (&name[..], &value[..]))
        .collect();
    assert_eq!(got, want);
    for (keyword, value) in [
        ("SCHILY.xattr.", "x"),
        ("LIBARCHIVE.xattr.user.x", "A"),
        ("LIBARCHIVE.xattr.user.x", "A*=="),
        ("LIBARCHIVE.xattr.user.%", "AAAA"),
        ("LIBARCHIVE.xattr.user.%4", "AAAA"),
        ("LIBARCHIVE.xattr.user.%00", "AAAA"),
    ] {
        let bad = flaw(&[pax(b'x', &[(keyword, value)]), file("f", "")]);
        assert!(matches!(bad, ParseError::Pax { .. }), "{keyword}={value}");
    }
}

#[test]
fn access_control_lists_become_what_linux_has() {
    let read = |text: &str| {
        let parts = [pax(b'x', &[("SCHILY.acl.access", text)]), file("f", "")];
        one(&parts).map(|member| {
            member
                .xattrs
                .map(|all| all[&b"system.posix_acl_access"[..]].clone())
        })
    };
    // As `setfacl -m u:1000:rw,g:7:r` on a file of mode 0644 leaves it.
    let mut want = b"\x02\0\0\0".to_vec();
    for (tag, permissions, id) in [
        (1_u16, 6_u16, u32::MAX),
        (2, 6, 1000),
        (4, 4, u32::MAX),
        (8, 4, 7),
        (0x10, 6, u32::MAX),
        (0x20, 4, u32::MAX),
    ] {
        want.extend(tag.to_le_bytes());
        want.extend(permissions.to_le_bytes());
        want.extend(id.to_le_bytes());
    }
    for text in [
        "user::rw-,user:1000:rw-,group::r--,group:7:r--,mask::rw-,other::r--",
        "user::rw-\nuser:lisa:rw-:1000\ngroup::r--\t#effective:r--\ngroup:users:r--:7\nmask::rw-\nother::r--\n",
        "mask::rw,other::r,u::rw,g::r,g:7:r,u:1000:rw",
    ] {
        assert_eq!(read(text).unwrap().unwrap(), want, "{text}");
    }
    assert_eq!(read("user::rw-,group::r--,other::r--").unwrap(), None);
    for bad in [
        "user::rw-,group::r--",
        "user::rw-,user:1000:rw-,group::r--,other::r--",
        "user::rw-,user::rw-,group::r--,other::r--",
        "user::rwz,group::r--,other::r--",
        "user::rw-,group::r--,other::r--,mask:5:r--",
        "who::rw-,group::r--,other::r--",
        "user",
        "user::rw-,user:99999999999:rw-,group::r--,mask::rw-,other::r--",
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
    let named = read("user::rw-,user:lisa:rw-,group::r--,mask::rw-,other::r--");
    assert!(named.unwrap_err().to_string().contains("--xattrs"));
    // The list itself beside its text: names do not matter then.
    let mut records = record(
        "SCHILY.acl.access",
        b"user::rw-,user:somebody:r--,group::r--,mask::r--,other::---",
    );
    records.extend(record("SCHILY.xattr.system.posix_acl_access", b"the list"));
    let both = xattrs(&[meta(b'x', &records), file("f", "")]);
    assert_eq!(
        both.get(&b"system.posix_acl_access"[..]),
        Some(&b"the list".to_vec())
    );
}

#[test]
fn a_record_of_more_than_a_mebibyte_is_refused_before_it_is_read() {
    let long = |kind, bytes: usize| {
        let value = vec![b'n'; bytes - 14];
        match kind {
            b'x' => meta(kind, &record("path", &value)),
            _ => meta(kind, &vec![b'n'; bytes]),
        }
    };
    for kind in [b'x', b'L', b'K'] {
        let limit = RECORD_LIMIT as usize;
        let last = long(kind, limit);
        assert_eq!(last.len(), limit + 512);
        assert!(one(&[last, file("f", "")]).is_ok());
        assert!(matches!(
            flaw(&[long(kind, limit + 1), file("f", "")]),
            ParseError::Record {
                limit: RECORD_LIMIT,
                ..
            }
        ));
        // Nothing of it needs to be there.
        let promise = Draft::new("x", kind, 1 << 30).build(b"");
        assert!(matches!(
            flaw(&[promise]),
            ParseError::Record {
                bytes: 0x4000_0000,
                ..
            }
        ));
    }
}

#[test]
fn members_are_counted_over_all_archives() {
    let counter = Counter::new(&Limits {
        entries: 3,
        ..Limits::default()
    });
    let two = region(&archive(&[file("a", ""), file("b", "")]));
    let mut seen = 0;
    let mut each = |_: Member| {
        seen += 1;
        Ok::<(), Error>(())
    };
    read(&two, &counter, &mut each).unwrap();
    let error = read(&two, &counter, &mut each).unwrap_err();
    assert!(matches!(
        error,
        Error::Limit(limit::Error::Members { limit: 3, .. })
    ));
    assert_eq!(seen, 3);
}

#[test]
fn errors_of_the_caller_come_through() {
    #[derive(Debug)]
    enum Own {
        Tar,
        Mine,
    }
    impl From<Error> for Own {
        fn from(_: Error) -> Self {
            Self::Tar
        }
    }
    let read = |bytes: &[u8]| {
        let counter = Counter::new(&Limits::default());
        read(&region(bytes), &counter, &mut |_| Err(Own::Mine)).unwrap_err()
    };
    assert!(matches!(read(&archive(&[file("a", "")])), Own::Mine));
    assert!(matches!(read(b"nothing"), Own::Tar));
}

#[test]
fn files_of_more_than_four_gibibytes_and_regions_inside_others_are_found() {
    // 5 GiB of zeros that need no memory, and an archive that does not begin where its store does.
    let size = 5_u64 << 30;
    let mut first = vec![7; CHUNK - 512];
    first.extend(Draft::new("big", b'0', size).build(b""));
    let mut chunks = vec![Some(first.into_boxed_slice())];
    chunks.extend(std::iter::repeat_n(None, 5 << 10));
    let mut last = file("after", "data");
    last.extend(END);
    last.resize(CHUNK, 7);
    chunks.push(Some(last.into_boxed_slice()));
    let store = ByteSource::of_chunks(chunks, size + 2 * CHUNK as u64, "x".into());
    let region = Region {
        store: Arc::new(store),
        offset: CHUNK as u64 - 512,
        length: 512 + size + 1024 + 1024,
    };
    let members = members_of(&region).unwrap();
    let EntryKind::File {
        size: got,
        content: FileContent::Span(span),
        ..
    } = &members[0].what
    else {
        panic!("{members:?}");
    };
    assert_eq!((*got, span.offset), (size, CHUNK as u64));
    assert_eq!(content(&members[1].what), b"data");
}

#[test]
fn the_end_is_the_first_zero_block_or_the_end_of_the_file() {
    let body = file("a", "data");
    let read = |end: &[u8]| members_and_end(&region(&[&body[..], end].concat()));
    let ended = |end: &[u8]| {
        let (members, end) = read(end).unwrap();
        assert_eq!(members.len(), 1);
        end
    };
    for good in [512, 600, 1024, 1025, 10240, 100_000] {
        assert_eq!(ended(&vec![0; good]), End::Marked, "{good}");
    }
    assert_eq!(ended(&[]), End::Unmarked);
    // What is behind the end is nothing to GNU tar, bsdtar and umoci, also where it would be a member.
    let more = |zeros: usize| [&vec![0; zeros][..], &body].concat();
    assert_eq!(ended(&more(1024)), End::Followed(2048));
    assert_eq!(ended(&more(20_000)), End::Followed(21_024));
    assert_eq!(ended(&[&[0; 1024][..], b"x"].concat()), End::Followed(2048));
    let flaw = |end: &[u8]| match read(end).unwrap_err() {
        Error::Archive { offset, flaw, .. } => (offset, flaw),
        error => panic!("{error}"),
    };
    let cut = || ParseError::Cut {
        what: "a block of 512 bytes",
    };
    assert_eq!(flaw(&[0]), (1024, cut()));
    assert_eq!(flaw(&[0; 511]), (1024, cut()));
    assert_eq!(flaw(b"junk"), (1024, cut()));
    assert_eq!(flaw(&more(512)), (1536, ParseError::LoneZeroBlock));
    for (nothing, end) in [(&END[..], End::Marked), (b"", End::Unmarked)] {
        let (members, found) = members_and_end(&region(nothing)).unwrap();
        assert_eq!((members.len(), found), (0, end));
    }
}

/// Each way to end that is taken is taken by these, with the same members.
#[test]
fn gnu_tar_and_bsdtar_agree_on_where_an_archive_ends() {
    let (one, two) = (file("one", "data"), file("two", "data"));
    for (bytes, names) in [
        (one.clone(), "one\n"),
        ([&one[..], &two].concat(), "one\ntwo\n"),
        ([&one[..], &[0; 512]].concat(), "one\n"),
        ([&one[..], &END, b"junk"].concat(), "one\n"),
        ([&one[..], &END, &two, &END].concat(), "one\n"),
    ] {
        let ours = members(&bytes).unwrap();
        let ours: Vec<_> = ours.into_iter().map(|it| it.name).collect();
        assert_eq!(ours.join(&b'\n'), names.trim_end().as_bytes());
        for program in ["tar", "bsdtar"] {
            if let Some(output) = run(program, &["-tf", "-"], Path::new("/"), &bytes) {
                assert!(output.status.success(), "{program}: {names:?}");
                assert_eq!(output.stdout, names.as_bytes(), "{program}");
            }
        }
    }
}

fn run(program: &str, arguments: &[&str], directory: &Path, input: &[u8]) -> Option<Output> {
    let child = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            crate::skips::missing(program);
            return None;
        }
        child => child.unwrap(),
    };
    let mut stdin = child.stdin.take().unwrap();
    Some(std::thread::scope(|scope| {
        // It may stop reading at the archive's end.
        scope.spawn(move || stdin.write_all(input).ok());
        child.wait_with_output().unwrap()
    }))
}

fn write(program: &str, arguments: &str, directory: &Path) -> Option<Vec<u8>> {
    let arguments: Vec<_> = arguments.split(' ').collect();
    let output = run(program, &arguments, directory, b"")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    Some(output.stdout)
}

/// A directory with one of everything that needs no privileges.
fn everything() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("dir")).unwrap();
    fs::create_dir(at("dir/empty")).unwrap();
    fs::write(at("dir/file"), b"hello\n").unwrap();
    fs::write(at("empty"), b"").unwrap();
    fs::write(at("block"), [b'b'; 512]).unwrap();
    fs::write(
        at("big"),
        (0..7000).map(|n| (n % 251) as u8).collect::<Vec<_>>(),
    )
    .unwrap();
    fs::write(at("n\u{e9}w line\n\u{1b}"), b"x").unwrap();
    fs::hard_link(at("dir/file"), at("dir/link")).unwrap();
    std::os::unix::fs::symlink("../dir/file", at("symlink")).unwrap();
    let deep = at("dir").join(["d".repeat(60), "e".repeat(60), "f".repeat(60)].join("/"));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("long"), b"far down").unwrap();
    let fifo = Command::new("mkfifo").arg(at("fifo")).status().unwrap();
    assert!(fifo.success());
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4711);
    fs::set_permissions(at("big"), mode).unwrap();
    dir
}

/// Formats get only what they can hold.
const WRITERS: [(&str, &str); 9] = [
    ("tar", "-cf - --format=v7 --exclude=d* --exclude=fifo ."),
    ("tar", "-cf - --format=ustar ."),
    ("tar", "-cf - --format=oldgnu ."),
    ("tar", "-cf - --format=gnu ."),
    ("tar", "-cf - --format=posix ."),
    ("tar", "-cf - --format=posix --sort=name -b 1 ."),
    ("bsdtar", "-cf - --format=gnutar ."),
    ("bsdtar", "-cf - --format=ustar ."),
    ("bsdtar", "-cf - --format=pax ."),
];

#[test]
fn what_gnu_tar_and_bsdtar_write_is_what_was_in_the_directory() {
    let dir = everything();
    for (program, arguments) in WRITERS {
        let Some(archive) = write(program, arguments, dir.path()) else {
            continue;
        };
        let members = members(&archive).unwrap_or_else(|error| panic!("{arguments}: {error}"));
        assert!(members.len() > 5, "{arguments}");
        for member in &members {
            let name = str::from_utf8(&member.name).unwrap();
            let path = dir.path().join(name);
            let facts = path.symlink_metadata().unwrap();
            let shown = format!("{program} {arguments}: {name:?}");
            assert_eq!(u32::from(member.mode), facts.mode() & 0o7777, "{shown}");
            assert_eq!(
                (member.uid, member.gid),
                (facts.uid(), facts.gid()),
                "{shown}"
            );
            assert_eq!(member.mtime, facts.mtime(), "{shown}");
            match &member.what {
                EntryKind::Directory => assert!(facts.is_dir(), "{shown}"),
                EntryKind::File { .. } => {
                    assert_eq!(content(&member.what), fs::read(&path).unwrap())
                }
                EntryKind::Symlink(target) => assert_eq!(target, b"../dir/file"),
                EntryKind::Fifo => assert_eq!(name, "./fifo"),
                EntryKind::HardLink(target) => {
                    let other = dir.path().join(str::from_utf8(target).unwrap());
                    assert_eq!(other.metadata().unwrap().ino(), facts.ino(), "{shown}");
                }
                what => panic!("{shown}: {what:?}"),
            }
        }
    }
}

#[test]
fn an_archive_that_is_cut_anywhere_before_its_end_is_refused_or_told_to_have_none() {
    let dir = everything();
    for (program, arguments) in &WRITERS {
        let Some(archive) = write(program, arguments, dir.path()) else {
            continue;
        };
        let whole = members(&archive).unwrap().len();
        let used = archive.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        let end = used.next_multiple_of(512);
        assert!(end > 8000, "{arguments}");
        let mut between = Vec::new();
        for cut in 0..archive.len() {
            let read = members_and_end(&region(&archive[..cut]));
            // The end of the file passes for the second zero block, here as in GNU tar.
            match read {
                Ok((members, End::Marked)) => {
                    assert!(cut >= end + 512, "{program} {arguments}: {cut} of {end}");
                    assert_eq!(members.len(), whole);
                }
                Ok((members, End::Unmarked)) => between.push((cut, members.len())),
                Ok((_, End::Followed(at))) => panic!("{program} {arguments}: {cut}, {at}"),
                Err(_) => assert!(cut < end + 512, "{program} {arguments}: {cut} of {end}"),
            }
        }
        // Between members, and nowhere else.
        let counts: Vec<usize> = between.iter().map(|&(_, count)| count).collect();
        assert_eq!(counts, (0..=whole).collect::<Vec<_>>(), "{between:?}");
    }
}

/// A file with data in every other block of 4 KiB, `parts` times, and a hole at the end.
fn sparse_file(dir: &Path, parts: u64) -> Vec<u8> {
    let file = fs::File::create(dir.join("sparse")).unwrap();
    for part in 0..parts {
        let text = format!("part {part}\n").repeat(300);
        file.write_all_at(text.as_bytes(), part * 16384 + 8192)
            .unwrap();
    }
    file.set_len(parts * 16384 + 50_000).unwrap();
    fs::read(dir.join("sparse")).unwrap()
}

#[test]
fn sparse_files_of_all_formats_read_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let mut shown = String::new();
    for parts in [0, 1, 3, 4, 5, 25, 26, 200] {
        let want = sparse_file(dir.path(), parts);
        fs::write(dir.path().join("after"), b"after").unwrap();
        for (program, arguments) in [
            ("tar", "-Scf - --format=oldgnu sparse after"),
            ("tar", "-Scf - --format=gnu sparse after"),
            (
                "tar",
                "-Scf - --format=posix --sparse-version=0.0 sparse after",
            ),
            (
                "tar",
                "-Scf - --format=posix --sparse-version=0.1 sparse after",
            ),
            (
                "tar",
                "-Scf - --format=posix --sparse-version=1.0 sparse after",
            ),
            ("bsdtar", "-cf - --format=pax sparse after"),
        ] {
            let Some(archive) = write(program, arguments, dir.path()) else {
                continue;
            };
            let members = members(&archive).unwrap_or_else(|error| panic!("{arguments}: {error}"));
            assert_eq!(members[0].name, b"sparse", "{arguments}");
            assert!(content(&members[0].what) == want, "{arguments}, {parts}");
            assert_eq!(content(&members[1].what), b"after", "{arguments}, {parts}");
            let is_sparse = matches!(
                members[0].what,
                EntryKind::File {
                    content: FileContent::Sparse(_),
                    ..
                }
            );
            write!(shown, "{}", u8::from(is_sparse)).unwrap();
        }
    }
    // Where the file system has holes; without them this test shows nothing.
    if !shown.contains('1') {
        crate::skips::left_out(&format!("{} keeps no holes", dir.path().display()));
    }
}

/// A header of GNU tar's old format: parts, size of the file, whether more follow.
fn old_sparse(parts: &[(u64, u64)], stored: u64, size: u64, more: bool) -> Draft {
    let mut draft = Draft::new("sparse", b'S', stored).gnu();
    for (index, (at, length)) in parts.iter().enumerate() {
        draft.put(
            386 + 24 * index,
            format!("{at:011o}\0{length:011o}\0").as_bytes(),
        );
    }
    draft.put(482, &[u8::from(more)]);
    draft.with(483, format!("{size:011o}\0").as_bytes())
}

#[test]
fn maps_of_sparse_files_that_cannot_be_are_refused() {
    let good = |parts: &[(u64, u64)], size| {
        let stored = parts.iter().map(|part| part.1).sum();
        one(&[old_sparse(parts, stored, size, false).build(&vec![b'd'; stored as usize])])
    };
    let bytes = content(
        &good(&[(2, 3), (5, 0), (5, 2), (9, 0), (10, 0)], 10)
            .unwrap()
            .what,
    );
    assert_eq!(bytes, b"\0\0ddddd\0\0\0");
    assert_eq!(content(&good(&[], 0).unwrap().what), b"");
    for (parts, size) in [
        (&[(5, 3), (2, 3)][..], 10),
        (&[(2, 3), (4, 3)], 10),
        (&[(2, 3)], 4),
        (&[(9, 0)], 8),
        (&[(2, 3), (9, 0), (5, 1)], 10),
    ] {
        assert!(good(parts, size).is_err(), "{parts:?}");
    }
    let no = |what| ParseError::Sparse { what };
    let lengths = no("the parts are not as long as the data");
    assert_eq!(
        flaw(&[old_sparse(&[(0, 5)], 4, 9, false).build(b"dddd")]),
        lengths
    );
    assert_eq!(
        flaw(&[old_sparse(&[(0, 3)], 4, 9, false).build(b"dddd")]),
        lengths
    );
    assert_eq!(
        flaw(&[
            old_sparse(&[(0, 0o77_777_777_777), (0o77_777_777_777, 1)], 1, 9, false).build(b"d")
        ]),
        no("a part ends beyond the file")
    );
    let four = &[(0, 1), (2, 1), (4, 1), (6, 1)];
    let cut = ParseError::Cut {
        what: "a list of data and holes",
    };
    let mut alone = old_sparse(four, 4, 9, true).build(b"");
    assert!(matches!(members(&alone), Err(Error::Member { flaw, .. }) if flaw == cut));
    alone.extend([0; 512]);
    assert!(members(&alone).is_err());
    let ustar = old_sparse(four, 4, 9, false).with(257, b"ustar\x0000");
    assert!(matches!(
        flaw(&[ustar.build(b"dddd")]),
        ParseError::Sparse { .. }
    ));

    let pairs = |pairs: &[(&str, &str)], data: &str| one(&[pax(b'x', pairs), file("f", data)]);
    let ok = pairs(
        &[
            ("GNU.sparse.size", "10"),
            ("GNU.sparse.name", "real"),
            ("GNU.sparse.map", "2,3,9,1"),
        ],
        "ddde",
    )
    .unwrap();
    assert_eq!(
        (&ok.name[..], &content(&ok.what)[..]),
        (&b"real"[..], &b"\0\0ddd\0\0\0\0e"[..])
    );
    for bad in [
        &[("GNU.sparse.map", "2,3")][..],
        &[("GNU.sparse.size", "10")],
        &[("GNU.sparse.name", "real")],
        &[("GNU.sparse.size", "10"), ("GNU.sparse.map", "2")],
        &[("GNU.sparse.size", "10"), ("GNU.sparse.map", "2,3,")],
        &[("GNU.sparse.size", "10"), ("GNU.sparse.map", "2,-3")],
        &[
            ("GNU.sparse.size", "10"),
            ("GNU.sparse.map", "18446744073709551615,3"),
        ],
        &[("GNU.sparse.size", "10"), ("GNU.sparse.offset", "1")],
        &[("GNU.sparse.size", "10"), ("GNU.sparse.numbytes", "1")],
        &[
            ("GNU.sparse.size", "10"),
            ("GNU.sparse.offset", "1"),
            ("GNU.sparse.offset", "2"),
        ],
        &[
            ("GNU.sparse.size", "10"),
            ("GNU.sparse.major", "2"),
            ("GNU.sparse.map", "2,3"),
        ],
        &[("GNU.sparse.size", "4"), ("GNU.sparse.map", "2,3")],
        &[
            ("GNU.sparse.realsize", "10"),
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "1"),
        ],
    ] {
        assert!(pairs(bad, "ddd").is_err(), "{bad:?}");
    }
    let one_zero = &[
        ("GNU.sparse.realsize", "10"),
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
    ];
    let padded = |map: &str| format!("{map}{}ddd", "\0".repeat(512 - map.len()));
    let ok = pairs(one_zero, &padded("1\n2\n3\n")).unwrap();
    assert_eq!(content(&ok.what), b"\0\0ddd\0\0\0\0\0");
    for bad in [
        padded("2\n2\n3\n"),
        padded("1\n2\n"),
        padded("99999999999999999999\n"),
        padded("1000000000\n2\n3\n"),
        padded("1\n2\n4\n"),
        padded("x\n"),
        padded("\n"),
        padded("-1\n"),
        padded("000000000000000000001\n2\n3\n"),
        "1\n2\n3\nddd".into(),
        String::new(),
    ] {
        assert!(pairs(one_zero, &bad).is_err(), "{bad:?}");
    }
    let dir = Draft::new("d/", b'5', 0).build(b"");
    let sparse = pax(b'x', &[("GNU.sparse.size", "0"), ("GNU.sparse.map", "0,0")]);
    assert!(matches!(flaw(&[sparse, dir]), ParseError::Sparse { .. }));
    assert_eq!(
        flaw(&[pax(b'x', &[("GNU.volume.offset", "512")]), file("f", "")]),
        ParseError::Volumes
    );
}

#[test]
fn no_byte_of_a_header_can_make_it_panic() {
    let dir = everything();
    sparse_file(dir.path(), 6);
    let mut arguments = "-Scf - --format=gnu sparse symlink dir/link".to_owned();
    for _ in 0..2 {
        let archive = write("tar", &arguments, dir.path()).unwrap();
        for at in 0..archive.len().min(6 * 512) {
            for value in [0, b' ', b'7', b'9', 0x80, 0xff] {
                let mut damaged = archive.clone();
                damaged[at] = value;
                // The checksum would catch nearly all of it.
                let block = at / 512 * 512;
                let sum: u32 = (block..block + 512)
                    .map(|at| match at - block {
                        148..156 => 32,
                        _ => u32::from(damaged[at]),
                    })
                    .sum();
                if !(148..156).contains(&(at - block)) {
                    damaged[block + 148..block + 156]
                        .copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                }
                members(&damaged).ok();
            }
        }
        arguments = arguments.replace("gnu", "posix");
    }
}
