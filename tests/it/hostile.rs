//! Archives that mean harm: they come to an error of one line, in bounded memory, and touch nothing on the host.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

use crate::archives::{archive, docker, gzip};
use crate::support::canary::Canary;
use crate::support::scenario::this_is_none;
use crate::support::{RDVM, Run, engines, missing, note_run, sized};
use crate::terminal::terminal;

/// Address space of rdvm while it reads a bomb. Threads' stacks and the allocator's arenas are in it.
const SPACE: &str = "--as=536870912";

/// `rdvm pack` of an image in little address space, to a file that must not be there afterwards.
fn packed_in_little_space(image: &Path, words: &[&str]) -> Run {
    this_is_none();
    let dir = TempDir::new().unwrap();
    let output = dir.path().join("out");
    let mut command = Command::new("prlimit");
    command.args([SPACE, RDVM, "pack", "-o"]).arg(&output);
    let run = command.args(words).arg(image).stdin(Stdio::null()).output();
    let run = Run(run.expect("prlimit is installed (util-linux)"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{words:?}");
    run
}

/// Asserts an error of one line without control characters.
#[track_caller]
fn is_one_plain_line(run: &Run) {
    let said = run.stderr();
    let line = said.strip_suffix('\n').unwrap_or("no line");
    assert!(!line.chars().any(char::is_control), "{said:?}");
    assert!(line.starts_with("rdvm: "), "{said:?}");
    assert!(!run.0.stderr.contains(&0x9b), "{said:?}");
}

/// A member of a tar archive with any name, target and type; the crate refuses such.
fn member(name: &[u8], kind: u8, target: &[u8], size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_entry_type(tar::EntryType::new(kind));
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..name.len()].copy_from_slice(name);
    gnu.linkname[..target.len()].copy_from_slice(target);
    if matches!(kind, b'3' | b'4') {
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
    }
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// With the two blocks that end an archive.
fn ended(members: &[Vec<u8>]) -> Vec<u8> {
    [members.concat(), vec![0; 1024]].concat()
}

/// Files below a directory of their own.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// `block`, compressed by a program, as often as asked.
fn pressed(program: &str, block: &[u8], times: usize) -> Option<Vec<u8>> {
    this_is_none();
    let Ok(mut child) = Command::new(program)
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
    else {
        missing(program);
        return None;
    };
    let mut input = child.stdin.take().unwrap();
    let block = block.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&block).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Some(output.stdout.repeat(times))
}

#[test]
fn bombs_end_at_the_limit_in_bounded_memory() {
    let place = Place::new();
    let zeros = vec![0; 64 << 20];
    let pattern: Vec<u8> = (0..64 << 20).map(|at| (at % 251) as u8).collect();
    // 16 GiB each.
    let times = sized(256, 8);
    for program in ["gzip", "zstd", "xz", "lz4"] {
        for (what, block) in [("zeros", &zeros), ("pattern", &pattern)] {
            // xz takes long to press what it presses so well.
            if program == "xz" && what == "pattern" {
                continue;
            }
            let Some(bomb) = pressed(program, block, times) else {
                continue;
            };
            let image = place.file("bomb", &bomb);
            let run = packed_in_little_space(&image, &["--max-size", "256M"]).exits(125);
            is_one_plain_line(&run);
            run.says("bomb: comes to more than 256 MiB unpacked; raise the limit with --max-size");
            // Zeros are not even kept.
            if what == "zeros" && program == "gzip" {
                let limit = sized("2G", "400M");
                let run = packed_in_little_space(&image, &["--max-size", limit]).exits(125);
                is_one_plain_line(&run);
                run.says("raise the limit with --max-size");
            }
            // Where the limit is above what there is, that is said.
            if what == "pattern" && program == "zstd" {
                let run = packed_in_little_space(&image, &["--max-size", "8G"]).exits(125);
                is_one_plain_line(&run);
                run.says("bomb: no memory for what it unpacks to");
            }
        }
    }
}

#[test]
fn bombs_inside_of_archives_count_as_well() {
    let place = Place::new();
    let Some(bomb) = pressed("gzip", &vec![0; 64 << 20], sized(64, 8)) else {
        return;
    };
    let limit = ["--max-size", "256M"];
    // A layer, in a plain archive and in a compressed one.
    let image = docker(std::slice::from_ref(&bomb));
    for (name, bytes) in [("docker", image.clone()), ("docker.gz", gzip(&image))] {
        let run = packed_in_little_space(&place.file(name, &bytes), &limit).exits(125);
        is_one_plain_line(&run);
        run.says("raise the limit with --max-size");
    }
    // What is inside of a compressed stream is not unpacked a second time.
    let twice = packed_in_little_space(&place.file("twice.gz", &gzip(&bomb)), &limit).exits(125);
    is_one_plain_line(&twice);
    twice.says("twice.gz: ");
}

#[test]
fn records_and_names_of_a_gibibyte_are_refused_before_they_are_read() {
    let place = Place::new();
    for kind in [b'x', b'g', b'L', b'K'] {
        let header = member(b"long", kind, b"", 1 << 30);
        let image = place.file("long.tar", &header);
        // The data are there, as a hole.
        let file = File::options().write(true).open(&image).unwrap();
        file.set_len((1 << 30) + 4096).unwrap();
        let run = packed_in_little_space(&image, &[]).exits(125);
        is_one_plain_line(&run);
        run.says("long.tar: at offset 0: ")
            .says("1073741824 bytes, 1048576 are the most");
    }
}

#[test]
fn layers_are_limited_in_number_even_when_they_are_empty() {
    let place = Place::new();
    let empty = ended(&[]);
    let mut layers = vec![empty; 1024];
    layers[0] = ended(&[member(b"a", b'0', b"", 0)]);
    let run = |layers: &[Vec<u8>]| {
        let image = place.file("docker", &docker(layers));
        let mut command = Command::new("prlimit");
        command.args([SPACE, RDVM, "pack", "-o", "/dev/null"]);
        Run(command.arg(image).output().unwrap())
    };
    run(&layers).exits(0);
    layers.push(layers[1].clone());
    let run = run(&layers).exits(125);
    is_one_plain_line(&run);
    run.says("1024");
}

#[test]
fn members_are_limited_in_number_and_the_first_too_many_is_named() {
    let place = Place::new();
    let count = sized(300_000, 30_000);
    let most = count * 2 / 3;
    let names = (0..count).map(|at| format!("d/{at:07}"));
    let members = names.map(|name| member(name.as_bytes(), b'0', b"", 0));
    let tar = ended(&members.collect::<Vec<_>>());
    for (name, bytes) in [("many.tar", &tar), ("many.tgz", &gzip(&tar))] {
        let image = place.file(name, bytes);
        let limit = most.to_string();
        let run = packed_in_little_space(&image, &["--max-entries", &limit]).exits(125);
        is_one_plain_line(&run);
        // The directory that no member made is a name as well.
        run.says(&format!(
            "{name}: d/{:07}: one name more than the {most} there may be",
            most - 1
        ));
    }
    // One name again and again is one entry, and is read every time.
    let same = member(b"same", b'0', b"", 0).repeat(count);
    let image = place.file("same.tar", &ended(&[same]));
    let limit = ["--max-entries", &most.to_string()];
    let run = packed_in_little_space(&image, &limit).exits(125);
    is_one_plain_line(&run);
    run.says(&format!(
        "same.tar: same is one more than {most} members; raise the limit with --max-entries"
    ));
    // Ten million of them are five gigabytes of headers, and that is too much before they are counted.
    let times = sized(10_000_000, 1_000_000) / count + 1;
    let image = place.file("more.tgz", &gzip(&tar).repeat(times));
    let run = packed_in_little_space(&image, &["--max-size", "256M"]).exits(125);
    is_one_plain_line(&run);
    run.says("raise the limit with --max-size");
}

#[test]
fn two_million_entries_are_read() {
    this_is_none();
    let count = sized(2_000_000u32, 20_000);
    let place = Place::new();
    let path = place.file("many.cpio", b"");
    let mut out = BufWriter::new(File::create(&path).unwrap());
    let mut put = |name: &str, mode: u32| {
        let length = name.len() + 1;
        let head = format!("070701{:08x}{mode:08x}{:072x}{length:08x}{:08x}", 1, 0, 0);
        out.write_all(head.as_bytes()).unwrap();
        out.write_all(name.as_bytes()).unwrap();
        let padding = (110 + length).next_multiple_of(4) - 110 - length;
        out.write_all(&[0; 4][..padding + 1]).unwrap();
    };
    for at in 0..count / 1000 {
        put(&format!("d{at}"), 0o40755);
        (1..1000).for_each(|file| put(&format!("d{at}/{file}"), 0o100644));
    }
    put("TRAILER!!!", 0);
    out.flush().unwrap();
    drop(out);
    let output = Command::new(RDVM).arg("inspect").arg(&path).output();
    let page = Run(output.unwrap()).exits(0).stdout();
    let (files, directories) = (count - count / 1000, count / 1000);
    // The root is an entry too.
    let expected = format!("({files} files, {} directories, 0 links", directories + 1);
    assert!(page.contains(&expected), "{page}");
}

#[test]
fn control_characters_in_names_do_not_reach_the_terminal() {
    let place = Place::new();
    let evil = b"\x1b[31m\r\n\x07\x9b2Jx";
    let with = |before: &[u8], after: &[u8]| [before, evil, after].concat();
    let fine = member(b"fine", b'0', b"", 0);
    let archives = [
        (
            "climbs",
            ended(&[fine.clone(), member(&with(b"../", b""), b'0', b"", 0)]),
        ),
        (
            "missing",
            ended(&[fine.clone(), member(b"h", b'1', evil, 0)]),
        ),
        (
            "misses",
            ended(&[fine.clone(), member(evil, b'1', b"nothing", 0)]),
        ),
        (
            "below",
            ended(&[
                member(evil, b'0', b"", 0),
                member(&with(b"", b"/f"), b'0', b"", 0),
            ]),
        ),
        (
            "loop",
            ended(&[
                member(evil, b'2', evil, 0),
                member(&with(b"", b"/f"), b'0', b"", 0),
            ]),
        ),
        ("kind", ended(&[member(evil, b'M', b"", 0)])),
        ("cut", member(evil, b'0', b"", 1 << 20)),
    ];
    for (what, bytes) in archives {
        let image = place.file(&format!("{what}\x1b[31m.tar"), &bytes);
        let run = packed_in_little_space(&image, &[]).exits(125);
        is_one_plain_line(&run);
        run.says("\\u{1b}[31m");
    }
    // A page about an image, and a list in one.
    let list = format!(
        r#"[{{"Config":"{0}","RepoTags":[],"Layers":["{0}"]}}]"#,
        "..\\u001b[31m\\n"
    );
    let image = place.file(
        "list",
        &archive(&[("manifest.json".to_owned(), list.into_bytes())]),
    );
    let run = packed_in_little_space(&image, &["--format", "tar"]).exits(125);
    is_one_plain_line(&run);
}

/// What an archive names is never opened, made or changed on the host; `inspect` writes nothing at all.
#[test]
fn inspect_opens_nothing_that_an_archive_names_and_writes_nothing() {
    let place = Place::new();
    let canary = Canary::new(place.0.path());
    let full = canary.name();
    let up = format!("../../../../../..{full}");
    let name = |text: &str| format!("{text}/file").into_bytes();
    let root = member(b"base/", b'5', b"", 0);
    let archives = [
        ("absolute", vec![member(&name(full), b'0', b"", 0)]),
        ("up", vec![member(&name(&up), b'0', b"", 0)]),
        (
            "out",
            vec![
                member(b"out", b'2', full.as_bytes(), 0),
                member(b"out/file", b'0', b"", 0),
                member(b"out/new/", b'5', b"", 0),
            ],
        ),
        (
            "climbing",
            vec![
                member(b"out", b'2', up.as_bytes(), 0),
                member(b"out/file", b'0', b"", 0),
            ],
        ),
        ("hard", vec![member(b"hard", b'1', &name(full), 0)]),
        ("hard-up", vec![member(b"hard", b'1', &name(&up), 0)]),
        (
            "hard-through",
            vec![
                member(b"out", b'2', full.as_bytes(), 0),
                member(b"hard", b'1', b"out/file", 0),
            ],
        ),
        (
            "devices",
            vec![
                member(b"null", b'3', b"", 0),
                member(b"disk", b'4', b"", 0),
                member(b"pipe", b'6', b"", 0),
                member(&name(full), b'6', b"", 0),
            ],
        ),
    ];
    let kernels = place.0.path().join("kernels");
    let mut read = 0;
    for (what, members) in archives {
        let bytes = ended(&[vec![root.clone()], members].concat());
        let forms = [
            (format!("{what}.tar"), bytes.clone()),
            (format!("{what}.docker"), docker(&[bytes])),
        ];
        for (file, bytes) in forms {
            let image = place.file(&file, &bytes);
            let log = place.0.path().join("log");
            let traced = Command::new("strace")
                .args(["-f", "-qq", "-s", "4096", "-e", "trace=%file,%creds", "-o"])
                .arg(&log)
                .args([RDVM, "inspect"])
                .arg(&image)
                // The kernel is unpacked there.
                .env("RDVM_CACHE", &kernels)
                .stdin(Stdio::null())
                .output();
            let Ok(traced) = traced else {
                return missing("strace");
            };
            let code = traced.status.code();
            assert!(matches!(code, Some(0 | 125)), "{file}: {traced:?}");
            read += usize::from(code == Some(0));
            let calls = fs::read_to_string(&log).unwrap();
            assert!(calls.contains(image.to_str().unwrap()), "{calls}");
            for call in calls.lines() {
                assert!(!call.contains("canary"), "{file}: {call}");
                let writes = [
                    "O_WRONLY",
                    "O_RDWR",
                    "O_CREAT",
                    "O_TMPFILE",
                    "mkdir",
                    "link(",
                    "linkat",
                    "rename",
                    "mknod",
                    "mkfifo",
                    "chmod",
                    "chown",
                    "truncate",
                    "utime",
                    "mount",
                    "setxattr",
                    "chroot",
                ];
                // That of a thread's memory or of a link's target is no writing.
                let is_write = writes.iter().any(|word| call.contains(word))
                    && !call.contains("readlink")
                    && !call.contains(kernels.to_str().unwrap());
                assert!(!is_write, "{file}: {call}");
            }
        }
    }
    // Some are good images, of names that are only odd.
    assert!(read >= 4, "{read}");
    canary.is_untouched();
}

/// Numbers that overlayfs makes of a layer's and a file's, so that the files of two layers differ above bit 32 only.
#[test]
fn files_whose_numbers_differ_above_bit_32_are_not_one_file() {
    let place = Place::new();
    let script =
        "cd \"$1\" && mkdir a b m && mount -t tmpfs none a && mount -t tmpfs none b || exit 77
        for d in a b; do echo $d > $d/$d && ln $d/$d $d/$d-too; done
        mount -t overlay -o xino=on,lowerdir=a:b none m || exit 77
        stat -c %i m/a m/b && shift && exec \"$@\" m";
    let output = place.0.path().join("out.tar");
    let run = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .args([place.0.path(), Path::new(RDVM)])
        .args(["pack", "-o"])
        .arg(&output)
        .output()
        .unwrap();
    if matches!(run.status.code(), Some(1 | 77)) {
        return missing("the right to mount an overlay (root)");
    }
    let run = Run(run).exits(0).says_only("").stdout();
    let numbers: Vec<u64> = run.lines().map(|line| line.parse().unwrap()).collect();
    let [one, other] = numbers[..] else {
        panic!("{run}")
    };
    assert!(one != other && one as u32 == other as u32, "{one} {other}");
    let listed = Command::new("tar").arg("-tvf").arg(output).output();
    let listed = Run(listed.unwrap()).exits(0).stdout();
    for link in ["a-too link to a\n", "b-too link to b\n"] {
        assert!(listed.contains(link), "{listed}");
    }
    assert_eq!(listed.matches(" link to ").count(), 2, "{listed}");
}

/// A newc archive has 32 bits for the seconds since 1970.
#[test]
fn times_before_1970_and_after_2106_become_the_nearest_there_is() {
    let place = Place::new();
    let dir = place.0.path().join("d");
    fs::create_dir(&dir).unwrap();
    for (name, date) in [("old", "1960-01-01"), ("new", "2200-01-01")] {
        let touched = Command::new("touch")
            .args(["-d", date])
            .arg(dir.join(name))
            .status();
        assert!(touched.unwrap().success());
    }
    let tar = place.0.path().join("d.tar");
    let made = Command::new("tar")
        .args(["--format=pax", "-cf"])
        .arg(&tar)
        .arg("-C")
        .arg(&dir)
        .arg(".")
        .status();
    assert!(made.unwrap().success());
    for image in [dir, tar] {
        let run = Command::new(RDVM)
            .args(["pack", "-o", "-"])
            .arg(&image)
            // Without it all times are 0.
            .env("SOURCE_DATE_EPOCH", u32::MAX.to_string())
            .output();
        let archive = Run(run.unwrap()).exits(0).says_only("").0.stdout;
        for (name, seconds) in [("old\0", "00000000"), ("new\0", "ffffffff")] {
            let at = archive
                .windows(4)
                .position(|bytes| bytes == name.as_bytes())
                .unwrap();
            // The sixth of 13 fields of eight digits, which stand before the name.
            let field = &archive[at - (13 - 5) * 8..][..8];
            assert_eq!(field.to_ascii_lowercase(), seconds.as_bytes(), "{name}");
        }
    }
}

/// A run of an image on standard input that is not the one expected, so that nothing boots.
fn slow(words: &[&str], stderr: Stdio) -> Child {
    note_run(engines()[0]);
    Command::new(RDVM)
        .args(["run", "--engine", engines()[0]])
        .args(words)
        .arg("--expect")
        .arg(format!("sha256:{}", "0".repeat(64)))
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .unwrap()
}

/// An archive of some mebibytes.
fn archive_of_some_size() -> Vec<u8> {
    archive(&[("big".to_owned(), vec![7; 4 << 20])])
}

/// All that comes to a terminal, in pieces as it comes.
fn shown(mut window: File) -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        // It ends with EIO when the last program has closed it.
        while let Ok(count @ 1..) = window.read(&mut buffer) {
            if send.send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    receive
}

#[test]
fn a_slow_image_shows_a_bar_on_a_terminal_and_takes_it_away() {
    let (window, programs) = terminal();
    let mut child = slow(&[], programs.into());
    let archive = archive_of_some_size();
    let mut input = child.stdin.take().unwrap();
    let (first, second) = archive.split_at(archive.len() / 2);
    input.write_all(first).unwrap();
    let receive = shown(window);
    let mut seen = String::new();
    // The rest comes only when there is a bar.
    while !seen.contains("MiB/s") && !seen.contains("KiB/s") {
        let piece = receive.recv_timeout(Duration::from_secs(60));
        let piece = piece.expect("there is no bar");
        seen.push_str(&String::from_utf8_lossy(&piece));
    }
    input.write_all(second).unwrap();
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(125));
    receive
        .iter()
        .for_each(|piece| seen.push_str(&String::from_utf8_lossy(&piece)));
    let (bars, message) = seen.rsplit_once("\r\x1b[K").expect("it is erased");
    assert!(message.starts_with("rdvm: -: its digest is "), "{seen:?}");
    assert_eq!(message.lines().count(), 1, "{seen:?}");
    let bar = bars.rsplit('\r').next().unwrap();
    assert!(bar.contains("rdvm: ") && bar.contains("iB, "), "{seen:?}");
    assert!(!bars.contains('\n'), "{seen:?}");
}

#[test]
fn without_a_terminal_or_when_told_to_be_quiet_there_is_no_bar() {
    let archive = archive_of_some_size();
    for quiet in [true, false] {
        let (window, programs) = terminal();
        let mut child = match quiet {
            true => slow(&["-q"], programs.into()),
            false => slow(&[], Stdio::piped()),
        };
        let mut input = child.stdin.take().unwrap();
        let (first, second) = archive.split_at(archive.len() / 2);
        input.write_all(first).unwrap();
        // Three times as long as it takes for a bar to come.
        std::thread::sleep(Duration::from_millis(1500));
        input.write_all(second).unwrap();
        drop(input);
        let piped = child.stderr.take();
        assert_eq!(child.wait().unwrap().code(), Some(125));
        let mut said = String::new();
        match piped {
            Some(mut pipe) => {
                pipe.read_to_string(&mut said).unwrap();
            }
            None => shown(window)
                .iter()
                .for_each(|piece| said.push_str(&String::from_utf8_lossy(&piece))),
        }
        assert!(said.starts_with("rdvm: -: its digest is "), "{said:?}");
        assert_eq!(said.lines().count(), 1, "{said:?}");
        assert!(!said.contains('\x1b'), "{said:?}");
    }
}

/// All files of Rust below a directory.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let (dirs, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let below = dirs.iter().flat_map(|dir| sources(dir));
    let all = files.into_iter().chain(below);
    all.filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

#[test]
fn every_row_of_the_lists_of_hostile_input_has_its_tests() {
    let document = fs::read_to_string("docs/testing.md").unwrap();
    let files: Vec<_> = [Path::new("src"), Path::new("tests/it")]
        .into_iter()
        .flat_map(sources)
        .map(|path| (path.with_extension(""), fs::read_to_string(path).unwrap()))
        .collect();
    let images = (1..=24).map(|row| format!("a{row}"));
    for row in images.chain(["c9", "c10", "c12"].map(str::to_owned)) {
        let start = format!("| {row} |");
        let line = document.lines().find(|line| line.starts_with(&start));
        let line = line.unwrap_or_else(|| panic!("docs/testing.md has no row {row}"));
        let names = line.split('`').filter_map(|word| word.split_once("::"));
        let mut found = 0;
        for (module, name) in names {
            let test = format!("#[test]\nfn {name}(");
            let unindented = |text: &str| text.replace("\n    fn ", "\nfn ");
            let is_there = files.iter().any(|(path, text)| {
                path.iter().any(|part| part == module) && unindented(text).contains(&test)
            });
            assert!(is_there, "{row} names {module}::{name}, which is not there");
            found += 1;
        }
        assert!(found > 0, "{row} has no test");
    }
}
