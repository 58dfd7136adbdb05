//! Random archives, as they are read here and as GNU tar and bsdtar list them.

use std::cell::Cell;
use std::fmt;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{Draft, archive, members, meta, record, run};
use crate::member::{EntryKind, Member};

/// A header with its data, and what it is called in messages.
#[derive(Clone)]
struct Part {
    shown: String,
    bytes: Vec<u8>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Bytes put over a field that was right, and their place.
type Field = (usize, &'static [u8]);

const FIELDS: [Field; 18] = [
    (108, b"     17\0"),
    (108, b"0000018\0"),
    (108, b"\x80\0\0\0\0\0\x01\x02"),
    (108, b"\0\0\0\0\0\0\0\0"),
    (108, b"        "),
    (108, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
    (136, b"77777777777\0"),
    (136, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf0"),
    (124, b"00000000000\0"),
    (124, b"00000001000\0"),
    (124, b"\x80\0\0\0\0\0\0\0\0\0\0\x05"),
    (124, b"00000000003 "),
    (124, b"           \0"),
    (345, b"pre"),
    (345, b"p/q"),
    (257, b"ustar\x0000"),
    (257, b"ustar  \0"),
    (100, b"0104711\0"),
];

const NAME: &str = "[a-c]{1,3}(/[a-c]{1,2}){0,2}";
const LONG_NAME: &str = "[a-c]{1,3}(/[x-z]{1,90}){0,2}";

fn member() -> impl Strategy<Value = Part> {
    let kind = prop_oneof![
        12 => Just(b'0'),
        2 => prop::sample::select(&b"\x007123456DVZA"[..]),
    ];
    let data = prop_oneof![Just(0_usize), 1..20_usize, 500..1030_usize];
    let field = prop_oneof![8 => Just(None), 1 => prop::sample::select(&FIELDS[..]).prop_map(Some)];
    let slash = prop_oneof![8 => Just(""), 1 => Just("/")];
    let name = (NAME, slash).prop_map(|(name, slash)| name + slash);
    (name, kind, data, 0..3, field).prop_map(|(name, kind, data, dialect, field)| {
        let size = match kind {
            b'0' | 0 | b'7' | b'D' | b'Z' => data,
            _ => 0,
        };
        let draft = Draft::new(&name, kind, size as u64).link("aa");
        let draft = match dialect {
            0 => draft,
            1 => draft.gnu(),
            _ => draft.v7(),
        };
        // Nobody needs the owner of the archive's own name.
        let field = field.filter(|_| kind != b'V');
        let draft = field.map_or(draft.clone(), |(at, bytes)| draft.with(at, bytes));
        let kind = char::from(kind);
        Part {
            shown: format!("{name:?} {kind:?} {size} dialect {dialect} {field:?}"),
            bytes: draft.build(&vec![b'd'; size]),
        }
    })
}

fn value() -> impl Strategy<Value = (&'static str, String)> {
    let one_of = |values: &'static [&'static str]| {
        prop::sample::select(values).prop_map(str::to_owned).boxed()
    };
    let number = || one_of(&["1", "77", "4294967295", "-1", ""]);
    prop_oneof![
        (Just("path"), LONG_NAME.boxed()),
        (Just("linkpath"), LONG_NAME.boxed()),
        (Just("size"), one_of(&["0", "3", "512", "1000"])),
        (Just("mtime"), one_of(&["5", "6.5", "-7", "x", ""])),
        (Just("uid"), number()),
        (Just("gid"), number()),
        (Just("comment"), number()),
    ]
}

fn header() -> impl Strategy<Value = Part> {
    let records = prop::collection::vec(value(), 1..3);
    let pax = (prop::sample::select(&b"xxxxg"[..]), records).prop_map(|(kind, pairs)| {
        let record = |(keyword, value): &(&str, String)| record(keyword, value.as_bytes());
        Part {
            shown: format!("{} {pairs:?}", char::from(kind)),
            bytes: meta(kind, &pairs.iter().flat_map(record).collect::<Vec<u8>>()),
        }
    });
    let gnu = (prop::sample::select(&b"LLK"[..]), LONG_NAME).prop_map(|(kind, name)| Part {
        shown: format!("{} {name:?}", char::from(kind)),
        bytes: meta(kind, format!("{name}\0").as_bytes()),
    });
    prop_oneof![5 => pax, 3 => gnu]
}

/// Type, owner, size, time and name of each member, as GNU tar lists them, without the archive's own name.
fn gnu_listing(text: &str) -> Vec<String> {
    let line = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [mode, owner, size, date, time, ref rest @ ..] = words[..] else {
            return line.to_owned();
        };
        // A contiguous file or one of a type that nobody knows is a file here, and data of directories and links are nothing.
        // (Of a contiguous one with a slash at the end tar makes a directory, whatever it lists.)
        let (letter, size) = match &mode[..1] {
            "C" if line.ends_with('/') => ("d", "0"),
            "C" | "?" => ("-", size),
            letter @ ("d" | "h") => (letter, "0"),
            letter => (letter, size),
        };
        let time = time.split('.').next().unwrap_or_default();
        let name = rest.join(" ").replace(" link to ", " -> ");
        let name = name.split(" unknown file type").next().unwrap_or_default();
        format!("{letter} {owner} {size} {date} {time} {name}")
    };
    let is_member = |line: &&str| !line.starts_with('V');
    text.lines().filter(is_member).map(line).collect()
}

/// The same of what was read here.
fn our_listing(members: &[Member]) -> Vec<String> {
    members
        .iter()
        .map(|member| {
            let name = String::from_utf8(member.name.clone()).unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let (letter, size, target) = match &member.what {
                EntryKind::Directory => ('d', "0".to_owned(), String::new()),
                EntryKind::File { size, .. } => ('-', size.to_string(), String::new()),
                EntryKind::HardLink(to) => ('h', "0".to_owned(), format!(" -> {}", text(to))),
                EntryKind::Symlink(to) => ('l', "0".to_owned(), format!(" -> {}", text(to))),
                EntryKind::CharDevice { major, minor } => {
                    ('c', format!("{major},{minor}"), String::new())
                }
                EntryKind::BlockDevice { major, minor } => {
                    ('b', format!("{major},{minor}"), String::new())
                }
                EntryKind::Fifo => ('p', "0".to_owned(), String::new()),
                EntryKind::Socket => panic!("a socket"),
            };
            let (date, time) = date(member.mtime);
            format!(
                "{letter} {}/{} {size} {date} {time} {name}{target}",
                member.uid, member.gid
            )
        })
        .collect()
}

/// Seconds since the epoch as a date and a time.
fn date(mtime: i64) -> (String, String) {
    let (days, second) = (mtime.div_euclid(86400), mtime.rem_euclid(86400));
    // Howard Hinnant's days_from_civil, backwards.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    (
        format!("{year:04}-{month:02}-{day:02}"),
        format!("{hour:02}:{minute:02}:{second:02}"),
    )
}

/// Archives accepted here are listed alike by GNU tar, and bsdtar sees the same names. Those rejected here need not be
/// refused by them. `RDVM_SOAK_ARCHIVES` is how many archives, 300 when not given.
#[test]
fn what_is_taken_is_what_gnu_tar_and_bsdtar_take() {
    let cases = std::env::var("RDVM_SOAK_ARCHIVES").map_or(300, |count| count.parse().unwrap());
    let here = Path::new("/");
    if run("bsdtar", &["--version"], here, b"").is_none() {
        return;
    }
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::with_cases(cases)
    });
    let parts = prop::collection::vec(prop_oneof![3 => member(), 1 => header()], 1..6);
    let taken = Cell::new(0);
    let checked = runner.run(&parts, |parts| {
        let bytes: Vec<_> = parts.into_iter().map(|part| part.bytes).collect();
        let bytes = archive(&bytes);
        if let Ok(members) = members(&bytes) {
            taken.set(taken.get() + 1);
            compare(&members, &bytes, here)?;
        }
        Ok(())
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
    println!("{} of {cases} were taken", taken.get());
    assert!(taken.get() > cases / 5, "too few to compare");
}

fn compare(members: &[Member], bytes: &[u8], here: &Path) -> Result<(), TestCaseError> {
    let options = ["-tvvf", "-", "--numeric-owner", "--full-time"];
    let output = run("tar", &options, here, bytes).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    prop_assert!(output.status.success(), "GNU tar: {}", errors);
    let theirs = gnu_listing(str::from_utf8(&output.stdout).unwrap());
    prop_assert_eq!(our_listing(members), theirs, "here, GNU tar: {}", errors);

    let output = run("bsdtar", &["-tf", "-"], here, bytes).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    prop_assert!(output.status.success(), "bsdtar: {}", errors);
    let lines = str::from_utf8(&output.stdout).unwrap().lines();
    let ours = members
        .iter()
        .map(|member| String::from_utf8_lossy(&member.name));
    prop_assert_eq!(
        ours.collect::<Vec<_>>(),
        lines.collect::<Vec<_>>(),
        "here, bsdtar: {}",
        errors
    );
    Ok(())
}
