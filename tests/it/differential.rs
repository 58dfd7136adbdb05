//! What rdvm reads out of a tar archive, and what GNU tar and bsdtar extract from it, are one tree.
//!
//! Archives are made at random from few names, so that they meet: files in the place of directories, links on the way,
//! names that come twice. GNU tar extracts as root with all names as they are (`-P`), in a chroot, where nothing else
//! can be reached; trees are compared by their content digests.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rdvm::request::{Format, ImageRef, Ownership};
use rdvm_hostfs::Digest;
use rdvm_image;
use rdvm_image::digest;
use rdvm_image::tree::{Entry, Kind, Tree};
use rustix::process::geteuid;
use tempfile::TempDir;

use crate::support::missing;
use crate::support::scenario::this_is_none;

/// Archives in the ordinary run; `RDVM_TEST_FIXTURES` says otherwise.
const FIXTURES: u64 = 300;

#[test]
fn random_archives_become_the_tree_that_gnu_tar_extracts() {
    this_is_none();
    if !geteuid().is_root() {
        return missing("root, for extracting in a chroot,");
    }
    let count = std::env::var("RDVM_TEST_FIXTURES").map_or(FIXTURES, |text| text.parse().unwrap());
    let seed = std::env::var("RDVM_TEST_SEED").map_or(1, |text| text.parse().unwrap());
    let (Some(gnu), Some(bsd)) = (Tool::find("tar"), Tool::find("bsdtar")) else {
        return missing("tar or bsdtar");
    };
    let dir = tempfile::tempdir().unwrap();
    let (mut same, mut bsd_same, mut refused) = (0, 0, 0);
    for number in seed..seed + count {
        let fixture = Fixture::make(number);
        let path = dir.path().join("fixture.tar");
        fs::write(&path, &fixture.bytes).unwrap();
        let ours = rdvm_image::open(&ImageRef {
            path: path.clone(),
            format: Some(Format::Tar),
            ..ImageRef::default()
        });
        let ours = ours.map(|image| Seen::of(&image.tree));
        let extracted = gnu.extract(&path, "-xpP");
        match (&ours, &extracted) {
            (Ok(ours), Some(theirs)) => {
                assert!(
                    ours.digest == theirs.digest,
                    "fixture {number} is another tree:\n{}\nours:\n{}\nGNU tar's:\n{}",
                    fixture.text,
                    ours.text,
                    theirs.text
                );
                same += 1;
                bsd_same += u64::from(
                    bsd.extract(&path, "-xpP")
                        .is_some_and(|seen| seen.digest == ours.digest),
                );
            }
            (Err(error), Some(_)) => {
                assert!(
                    fixture.climbs,
                    "fixture {number}: {error}\n{}",
                    fixture.text
                );
                refused += 1;
            }
            // GNU tar goes on after an error and leaves something; there is no tree to agree on.
            (_, None) => refused += 1,
        }
    }
    println!(
        "{count} archives: {same} the same tree as GNU tar's ({bsd_same} bsdtar's too), {refused} not comparable"
    );
    assert!(same * 3 > count, "too few archives could be compared");
}

/// A tree, for comparing and for messages.
struct Seen {
    digest: Digest,
    text: String,
}

impl Seen {
    fn of(tree: &Tree) -> Self {
        let line = |entry: &Entry| {
            let kind = match &entry.kind {
                Kind::File(body) => format!("file of {} {:?}", body.size, body.link),
                other => format!("{other:?}"),
            };
            let path = String::from_utf8_lossy(&entry.path);
            format!(
                "/{path} {:o} {}:{} {kind}\n",
                entry.mode, entry.uid, entry.gid
            )
        };
        Self {
            digest: digest::of(tree).unwrap(),
            text: tree.entries().iter().map(line).collect(),
        }
    }
}

/// A program for extracting, with its libraries, to be put into a chroot.
struct Tool {
    dir: TempDir,
    name: &'static str,
}

impl Tool {
    fn find(name: &'static str) -> Option<Self> {
        let path = ["/usr/bin", "/bin"].map(|dir| Path::new(dir).join(name));
        let path = path.into_iter().find(|path| path.exists())?;
        let dir = tempfile::tempdir().unwrap();
        let ldd = Command::new("ldd").arg(&path).output().unwrap();
        let libraries = String::from_utf8(ldd.stdout).unwrap();
        for word in libraries
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            let from = Path::new(word);
            fs::copy(from, dir.path().join(from.file_name().unwrap())).unwrap();
        }
        fs::copy(&path, dir.path().join(name)).unwrap();
        Some(Self { dir, name })
    }

    /// What it extracts; `None` where it complains.
    fn extract(&self, archive: &Path, how: &str) -> Option<Seen> {
        let root = tempfile::tempdir_in(self.dir.path()).unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let tools = root.path().join(".tools");
        fs::create_dir(&tools).unwrap();
        for file in fs::read_dir(self.dir.path()).unwrap().flatten() {
            if file.file_type().unwrap().is_file() {
                fs::hard_link(file.path(), tools.join(file.file_name())).unwrap();
            }
        }
        let done = Command::new("chroot")
            .arg(root.path())
            .args(["/.tools/ld-linux-x86-64.so.2", "--library-path", "/.tools"])
            .arg(Path::new("/.tools").join(self.name))
            .args([how, "--numeric-owner", "-f", "-"])
            .stdin(fs::File::open(archive).unwrap())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        fs::remove_dir_all(&tools).unwrap();
        done.success().then(|| {
            let image = rdvm_image::open(&ImageRef {
                path: root.path().to_owned(),
                owner: Ownership::Keep,
                ..ImageRef::default()
            });
            match image {
                Ok(image) => Seen::of(&image.tree),
                // Nothing but the root: a tree too, if none that anybody would run.
                Err(_) => Seen {
                    digest: Digest([0; 32]),
                    text: String::new(),
                },
            }
        })
    }
}

/// A random archive.
struct Fixture {
    bytes: Vec<u8>,
    /// For messages: a line for each member.
    text: String,
    /// A name or hard link has `..` in it, which rdvm refuses and GNU tar, asked so, follows.
    climbs: bool,
}

impl Fixture {
    fn make(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut fixture = Self {
            bytes: Vec::new(),
            text: String::new(),
            climbs: false,
        };
        let mut names: Vec<String> = Vec::new();
        // Something that always is there, so that no tree is empty.
        fixture.member(&mut random, "base/", b'5', "");
        for _ in 0..random.below(9) + 2 {
            let mut name = random.name();
            let kind = *random.pick(b"000000555555522136");
            let target = match kind {
                b'1' if names.is_empty() => continue,
                b'1' => random.pick(&names).clone(),
                b'2' => random.target(),
                _ => String::new(),
            };
            if kind == b'2' {
                name = (*random.pick(&["a", "c", "./e", "/g"])).to_owned();
            }
            if kind == b'5' && random.below(2) == 0 {
                name.push('/');
            }
            fixture.member(&mut random, &name, kind, &target);
            if kind == b'0' {
                names.push(name);
            }
        }
        fixture.bytes.resize(fixture.bytes.len() + 1024, 0);
        fixture
    }

    fn member(&mut self, random: &mut Random, name: &str, kind: u8, target: &str) {
        use std::fmt::Write;
        let data = match kind {
            b'0' => vec![b'a' + random.below(26) as u8; random.below(1500) as usize],
            _ => Vec::new(),
        };
        let climbs = |name: &str| name.split('/').any(|part| part == "..");
        self.climbs |= climbs(name) || kind == b'1' && climbs(target);
        let mode = [0o644, 0o755, 0o4755, 0o700, 0o1777, 0o444][random.below(6) as usize];
        let (uid, gid) = (random.below(3) * 1000, random.below(2) * 5_000_000);
        let _ = writeln!(
            self.text,
            "{} {mode:o} {uid}:{gid} {name} {target}",
            kind as char
        );
        // A long name is carried by GNU tar's own member before it, or by a PAX header.
        let mut records = Vec::new();
        for (text, key, letter) in [(name, "path", b'L'), (target, "linkpath", b'K')] {
            if text.is_empty() || text.len() <= 100 && random.below(12) > 0 {
                continue;
            }
            match random.below(2) {
                0 => self.carrier(letter, &[text.as_bytes(), b"\0"].concat()),
                _ => records.extend(pax(key, text)),
            }
        }
        if !records.is_empty() {
            self.carrier(b'x', &records);
        }
        self.raw(name, kind, target, mode, uid, gid, &data);
    }

    /// A member that says something of the next one.
    fn carrier(&mut self, kind: u8, data: &[u8]) {
        self.raw("././@LongLink", kind, "", 0, 0, 0, data);
    }

    #[allow(clippy::too_many_arguments)]
    fn raw(
        &mut self,
        name: &str,
        kind: u8,
        target: &str,
        mode: u64,
        uid: u64,
        gid: u64,
        data: &[u8],
    ) {
        let mut header = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &name.as_bytes()[..name.len().min(100)]);
        put(100, format!("{mode:07o}").as_bytes());
        for (at, id) in [(108, uid), (116, gid)] {
            // What seven octal digits do not hold is written in base 256.
            match id < 0o7777777 {
                true => put(at, format!("{id:07o}").as_bytes()),
                false => put(at, &(id | 1 << 63).to_be_bytes()),
            }
        }
        put(124, format!("{:011o}", data.len()).as_bytes());
        put(136, format!("{:011o}", 1_700_000_000).as_bytes());
        put(148, b"        ");
        put(156, &[kind]);
        put(157, &target.as_bytes()[..target.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, b"0000001");
        put(337, b"0000003");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(data);
        let padded = self.bytes.len().next_multiple_of(512);
        self.bytes.resize(padded, 0);
    }
}

/// A PAX record: its own length in decimal, a space, key, `=`, value and a line feed.
fn pax(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while length.to_string().len() + rest.len() != length {
        length += 1;
    }
    format!("{length}{rest}").into_bytes()
}

/// Numbers that are the same for the same seed (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }

    /// A name of few components, written in one of the ways there are.
    fn name(&mut self) -> String {
        let parts = ["a", "b", "c", "d", "e", "f", "g", "h", "base"];
        let depth = *self.pick(&[1, 1, 2, 2, 2, 3]);
        let mut name: Vec<String> = (0..depth)
            .map(|_| (*self.pick(&parts)).to_owned())
            .collect();
        if self.below(30) == 0 {
            name.push("n".repeat(150));
        }
        if self.below(40) == 0 {
            name.insert(0, "..".to_owned());
        }
        let start = *self.pick(&["", "", "", "./", "/", ".//"]);
        let between = *self.pick(&["/", "/", "/", "//", "/./"]);
        format!("{start}{}", name.join(between))
    }

    /// Never a directory above the link: replacing a link that is on the way to itself, GNU tar loses its way.
    fn target(&mut self) -> String {
        let targets = [
            "a", "b", "../a", "/b", "c/d", "/a/b", "../../d", "nowhere", "/tmp/p", "base",
        ];
        (*self.pick(&targets)).to_owned()
    }
}

#[test]
fn nothing_outside_the_archive_is_followed_or_touched() {
    let dir = tempfile::tempdir().unwrap();
    let canary: PathBuf = dir.path().join("canary");
    fs::write(&canary, "alive").unwrap();
    let mut fixture = Fixture {
        bytes: Vec::new(),
        text: String::new(),
        climbs: false,
    };
    let outside = dir.path().to_str().unwrap();
    fixture.raw(&format!("{outside}/canary"), b'0', "", 0o644, 0, 0, b"dead");
    fixture.raw("etc", b'2', outside, 0o777, 0, 0, b"");
    fixture.raw("etc/canary", b'0', "", 0o644, 0, 0, b"dead");
    fixture.raw("etc/second", b'0', "", 0o644, 0, 0, b"dead");
    fixture.bytes.resize(fixture.bytes.len() + 1024, 0);
    let path = dir.path().join("hostile.tar");
    fs::write(&path, &fixture.bytes).unwrap();
    // Inside, the name leads to a directory of the image's own.
    let image = rdvm_image::open(&ImageRef {
        path,
        ..ImageRef::default()
    });
    let inside = format!("{}/second", outside.trim_start_matches('/'));
    let tree = image.unwrap().tree;
    assert!(
        tree.get(inside.as_bytes()).is_some(),
        "{:?}",
        tree.entries()
    );
    assert_eq!(fs::read_to_string(&canary).unwrap(), "alive");
    symlink("x", dir.path().join("still-writable")).unwrap();
}
