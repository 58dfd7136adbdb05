//! A directory becomes an archive that means the same everywhere: on disk, to other readers, in the guest.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::support::scenario::this_is_none;
use crate::support::{Image, RDVM, Rdvm, Run, any_engine, busybox, missing};

/// One of everything that a file system can hold.
pub(crate) fn one_of_everything() -> Image {
    let image = Image::busybox()
        .program("walk", "walk")
        // Empty or missing ones would be filled in the guest.
        .file("etc/hosts", 0o644, "127.0.0.1 localhost\n")
        .file("etc/hostname", 0o644, "box\n")
        .link("/proc/mounts", "etc/mtab")
        .file("usr/plain", 0o644, "contents\n")
        .file("usr/empty", 0o600, "")
        .file("usr/setuid", 0o4755, "x")
        .file("usr/secret", 0o400, "only its owner reads it")
        .file("usr/odd-size", 0o644, vec![7; 12_345])
        .directory("empty", 0o755)
        .directory("sticky", 0o1777)
        .directory("setgid", 0o2750)
        .file(std::ffi::OsStr::from_bytes(b"names/new\nline"), 0o644, "1")
        .file(
            std::ffi::OsStr::from_bytes(b"names/\xff\xfe raw"),
            0o644,
            "2",
        )
        .file("names/-rf", 0o644, "3")
        .file("names/TRAILER!!!", 0o644, "4")
        .file("names/ spaces  ", 0o644, "5")
        .file(format!("names/{}", "l".repeat(255)), 0o644, "6")
        .file("a-b", 0o644, "sorts between a and a/b by bytes")
        .file("a/b", 0o644, "")
        .link("usr/plain", "relative")
        .link("/usr/plain", "absolute")
        .link("nowhere/at/all", "dangling");
    let path = |name: &str| image.path().join(name);
    symlink("t".repeat(4000), path("long-target")).unwrap();
    fs::hard_link(path("usr/odd-size"), path("names/second-name")).unwrap();
    fs::hard_link(path("usr/odd-size"), path("zz-third-name")).unwrap();
    fs::hard_link(path("usr/empty"), path("also-empty")).unwrap();
    let sparse = File::create(path("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 1 << 20).unwrap();
    assert!(
        Command::new("mkfifo")
            .arg(path("fifo"))
            .status()
            .unwrap()
            .success()
    );
    drop(std::os::unix::net::UnixListener::bind(path("socket")).unwrap());
    for (name, words) in [("char", ["c", "1", "3"]), ("block", ["b", "7", "300"])] {
        if !Command::new("mknod")
            .arg(path(name))
            .args(words)
            .status()
            .unwrap()
            .success()
        {
            missing("the right to make device nodes (root)");
        }
    }
    image
}

pub(crate) fn walked_outside(image: &Path) -> String {
    let output = Command::new(image.join("walk"))
        .arg("root")
        .current_dir(image)
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_guest_sees_the_same_tree() {
    let image = one_of_everything();
    let outside = walked_outside(image.path());
    assert!(
        outside.lines().count() > 30 && outside.contains("zz-third-name"),
        "{outside}"
    );
    for engine in any_engine() {
        let inside = Rdvm::on(engine)
            .image(image.path())
            .sh("cd /; exec /walk")
            .run()
            .exits(0)
            .says_only("")
            .stdout();
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines(&inside), lines(&outside));
    }
}

/// The kernel sets a file's times when it has unpacked it; the small kernel's way there is ours (`kernels/patches`).
#[test]
fn times_of_the_image_are_those_in_the_guest() {
    let image = Image::busybox()
        .file("of/plain", 0o644, "contents")
        .file("of/empty", 0o600, "")
        .file("of/setuid", 0o4755, "x")
        .file("of/large", 0o644, vec![7; 100_000])
        .directory("of/directory", 0o755)
        .file("of/directory/below", 0o644, "made after it")
        .link("plain", "of/link");
    let path = |name: &str| image.path().join(name);
    fs::hard_link(path("of/large"), path("of/second")).unwrap();
    let names = "plain empty setuid large directory directory/below link second .";
    for (name, time) in names.split(' ').zip(1_000_000_001..) {
        let touched = Command::new("touch")
            .args(["-h", "-d", &format!("@{time}")])
            .arg(path("of").join(name))
            .status();
        assert!(touched.unwrap().success());
    }
    let said = |time: i64, name: &str| format!("{time} {name}\n");
    let wanted: String = names
        .split(' ')
        .map(|name| {
            let meta = fs::symlink_metadata(path("of").join(name)).unwrap();
            said(meta.mtime(), name)
        })
        .collect();
    for engine in any_engine() {
        Rdvm::on(engine)
            .image(image.path())
            .sh(&format!("cd /of; exec busybox stat -c '%Y %n' {names}"))
            .run()
            .exits(0)
            .prints(&wanted);
    }
}

fn pack(image: &Path, output: &Path) -> Run {
    Rdvm::verb("pack")
        .option("-o")
        .option(output)
        .image(image)
        .run()
}

#[test]
fn the_same_tree_is_the_same_bytes_in_another_place_by_another_user_on_another_day() {
    let image = one_of_everything();
    let copies = tempfile::tempdir().unwrap();
    fs::set_permissions(copies.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = copies.path().join("copy");
    // Made in another order, so with other inode numbers; `cp -a` keeps the rest.
    assert!(
        Command::new("cp")
            .arg("-a")
            .arg(image.path())
            .arg(&copy)
            .status()
            .unwrap()
            .success()
    );
    for name in ["usr/plain", "empty"] {
        assert!(
            Command::new("touch")
                .args(["-h", "-d", "2001-02-03"])
                .arg(copy.join(name))
                .status()
                .unwrap()
                .success()
        );
    }
    let packed = [copies.path().join("1.cpio"), copies.path().join("2.cpio")];
    pack(image.path(), &packed[0])
        .exits(0)
        .prints("")
        .says_only("");
    if rustix::process::geteuid().is_root() {
        assert!(
            Command::new("chown")
                .args(["-hR", "65534:65534"])
                .arg(copies.path())
                .status()
                .unwrap()
                .success()
        );
        // chown takes set-user-ID bits away.
        fs::set_permissions(copy.join("usr/setuid"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::set_permissions(copy.join("setgid"), fs::Permissions::from_mode(0o2750)).unwrap();
        // The program is where only we may look, so it is handed over as an open file.
        let script = "exec 9<\"$0\"; exec setpriv --reuid=65534 --regid=65534 --clear-groups /proc/self/fd/9 pack -o \"$1\" \"$2\"";
        let run = Command::new("sh")
            .args(["-c", script, RDVM])
            .args([&packed[1], &copy])
            .output()
            .unwrap();
        Run(run).exits(0).says("--owner keep").says("--fakeroot");
    } else {
        missing("root, to pack as two users");
        pack(&copy, &packed[1]).exits(0);
    }
    assert!(
        fs::read(&packed[0]).unwrap() == fs::read(&packed[1]).unwrap(),
        "the archives differ"
    );
}

#[test]
fn times_are_kept_in_a_run_and_clamped_to_source_date_epoch() {
    let image = Image::busybox()
        .file("old", 0o644, "")
        .file("new", 0o644, "");
    for (name, day) in [("old", "2001-01-01 UTC"), ("new", "2030-01-01 UTC")] {
        assert!(
            Command::new("touch")
                .args(["-d", day])
                .arg(image.path().join(name))
                .status()
                .unwrap()
                .success()
        );
    }
    for engine in any_engine() {
        let run = Rdvm::on(engine)
            .with_variable("SOURCE_DATE_EPOCH", "1000000000")
            .image(image.path());
        run.sh("stat -c %Y /old /new")
            .run()
            .exits(0)
            .prints("978307200\n1000000000\n");
        let run = Rdvm::on(engine)
            .image(image.path())
            .sh("stat -c %Y /old /new")
            .run();
        run.exits(0).prints("978307200\n1893456000\n");
    }
    let run = Rdvm::verb("pack")
        .option("-o")
        .option("/dev/null")
        .with_variable("SOURCE_DATE_EPOCH", "soon");
    run.image(image.path())
        .run()
        .exits(125)
        .says("SOURCE_DATE_EPOCH=soon");
}

#[test]
fn owners_are_kept_by_root_unless_they_are_to_be_roots_or_mapped() {
    if !rustix::process::geteuid().is_root() {
        return missing("root, to own files as others");
    }
    let image = Image::busybox().file("file", 0o644, "");
    std::os::unix::fs::chown(image.path().join("file"), Some(1005), Some(2000)).unwrap();
    for engine in any_engine() {
        let run = Rdvm::on(engine).image(image.path());
        run.sh("stat -c %u:%g /file; stat -c %u:%g /bin")
            .run()
            .exits(0)
            .prints("1005:2000\n0:0\n");
        for (owner, expected) in [
            ("auto", "1005:2000\n"),
            ("root", "0:0\n"),
            ("keep", "1005:2000\n"),
            ("0:0:1,1000:100:10,2000:7:1", "105:7\n"),
        ] {
            let run = Rdvm::on(engine)
                .option("--owner")
                .option(owner)
                .image(image.path());
            run.sh("stat -c %u:%g /file")
                .run()
                .exits(0)
                .prints(expected);
        }
        let run = Rdvm::on(engine)
            .option("--owner")
            .option("0:0:1")
            .image(image.path())
            .sh("true")
            .run();
        run.exits(125).says("/file").says("1005");
    }
}

/// Lists owner and name of what `rdvm pack WORDS` makes of a directory, packed by user 65534 in a shell with `prelude`.
fn owners_packed_by_nobody(prelude: &str, words: &[&str], image: &Path) -> Run {
    // The program is where only we may look, so it is handed over as an open file.
    let script = format!("exec 9<\"$0\"; {prelude} /proc/self/fd/9 \"$@\" | cpio -itvn --quiet");
    let output = Command::new("bash")
        .args(["-o", "pipefail", "-c", &script, RDVM, "pack"])
        .args(words)
        .args(["-o", "-"])
        .arg(image)
        .output();
    Run(output.unwrap())
}

#[test]
fn owners_count_for_root_of_a_user_namespace_and_no_one_else_is_asked_to_believe_them() {
    if !rustix::process::geteuid().is_root() {
        return missing("root, to own files as others");
    }
    let image = Image::empty()
        .file("mine", 0o644, "")
        .file("theirs", 0o644, "");
    fs::set_permissions(image.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (path, owner) in [("", 65534), ("mine", 65534), ("theirs", 1005)] {
        std::os::unix::fs::chown(image.path().join(path), Some(owner), Some(owner)).unwrap();
    }
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let owners = |run: &Run| -> Vec<String> {
        let text = run.stdout();
        let lines = text.lines().map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            format!("{} {}:{}", words[words.len() - 1], words[2], words[3])
        });
        lines.collect()
    };
    let run = owners_packed_by_nobody(nobody, &[], image.path()).exits(0);
    assert_eq!(owners(&run), [". 0:0", "mine 0:0", "theirs 0:0"]);
    let run = run.says("read without root").says("--owner keep");
    run.says("--fakeroot FILE");
    let run = owners_packed_by_nobody(nobody, &["--owner", "root"], image.path());
    let run = run.exits(0).says_only("");
    assert_eq!(owners(&run), [". 0:0", "mine 0:0", "theirs 0:0"]);
    // Its own files are root's to the root of the namespace, as they are in a chroot there.
    let mapped = format!("{nobody} unshare --user --map-root-user");
    let run = owners_packed_by_nobody(&mapped, &[], image.path());
    if run.stderr().contains("unshare failed") {
        return missing("user namespaces");
    }
    let run = run.exits(0).says_only("");
    assert_eq!(owners(&run), [". 0:0", "mine 0:0", "theirs 65534:65534"]);
}

#[test]
fn a_tree_made_under_fakeroot_has_its_users_and_devices_in_the_guest() {
    let image = Image::busybox();
    let save = tempfile::NamedTempFile::new().unwrap();
    let script = "mkdir -p etc var/mail && touch etc/shadow && chown 0:42 etc/shadow && chmod 640 etc/shadow && \
                  chown 0:8 var/mail && chmod 2775 var/mail && mknod zero c 1 5 && mknod disk b 8 1 && \
                  touch app && chown 33:33 app && chmod 6755 app";
    let status = Command::new("fakeroot")
        .arg("-s")
        .arg(save.path())
        .args(["sh", "-c", script])
        .current_dir(image.path())
        .status();
    if !status.is_ok_and(|status| status.success()) {
        return missing("fakeroot");
    }
    assert!(
        image.path().join("zero").metadata().unwrap().is_file(),
        "on the host it is a plain file"
    );
    for engine in any_engine() {
        let run = Rdvm::on(engine)
            .option("--fakeroot")
            .option(save.path())
            .image(image.path());
        let run = run.sh("stat -c '%n %F %u:%g %a %t,%T' /etc/shadow /var/mail /zero /disk /app; head -c 3 /zero | wc -c").run();
        run.exits(0).prints(
            "/etc/shadow regular empty file 0:42 640 0,0\n/var/mail directory 0:8 2775 0,0\n\
             /zero character special file 0:0 644 1,5\n/disk block special file 0:0 644 8,1\n\
             /app regular empty file 33:33 6755 0,0\n3\n",
        );
    }
}

#[test]
fn files_up_to_four_gibibytes_less_one_are_taken_and_larger_ones_refused_by_name() {
    this_is_none();
    let image = Image::busybox();
    let large = File::create(image.path().join("large")).unwrap();
    large.set_len((4 << 30) - 1).unwrap();
    let out = tempfile::tempdir().unwrap();
    let archive = out.path().join("a.cpio");
    pack(image.path(), &archive).exits(0);
    let meta = archive.metadata().unwrap();
    assert!(
        meta.len() > 4 << 30 && meta.blocks() * 512 < 64 << 20,
        "holes stay holes: {} blocks",
        meta.blocks()
    );
    let list = Command::new("cpio")
        .args(["-itv", "--quiet"])
        .stdin(File::open(&archive).unwrap())
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&list.stdout).contains("4294967295"),
        "GNU cpio reads the size back"
    );
    fs::remove_file(&archive).unwrap();
    large.set_len(4 << 30).unwrap();
    pack(image.path(), &archive)
        .exits(125)
        .says("large: has 4294967296 bytes");
    assert_eq!(
        fs::read_dir(out.path()).unwrap().count(),
        0,
        "nothing was written"
    );
}

#[test]
fn pack_leaves_the_old_file_when_it_fails_and_half_a_file_never() {
    let image = Image::busybox();
    let out = tempfile::tempdir().unwrap();
    let archive = out.path().join("a.cpio");
    fs::write(&archive, "old").unwrap();
    // No room for the archive: a file size limit stands in for a full disk.
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$0\" pack -o \"$1\" \"$2\"";
    let run = Command::new("sh")
        .args(["-c", script, RDVM])
        .args([&archive, image.path()])
        .output()
        .unwrap();
    Run(run).exits(125).says("rdvm: ");
    assert_eq!(fs::read(&archive).unwrap(), b"old");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1);
    pack(image.path(), Path::new("/no/such/dir/a.cpio"))
        .exits(125)
        .says("/no/such/dir/a.cpio: ");
    pack(image.path(), out.path())
        .exits(125)
        .says("s a directory");
    let elsewhere = tempfile::tempdir().unwrap();
    pack(image.path(), &elsewhere.path().join("a.cpio")).exits(0);
    let whole = fs::read(elsewhere.path().join("a.cpio")).unwrap();
    // Killed at some moment of its work, it leaves no trace either.
    for delay in 0..20 {
        let mut child = Rdvm::verb("pack")
            .option("-o")
            .option(&archive)
            .image(image.path())
            .spawn();
        std::thread::sleep(std::time::Duration::from_micros(delay * 300));
        child.kill().unwrap();
        child.wait().unwrap();
        let names: Vec<_> = fs::read_dir(out.path())
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
            // A whole archive has a name of its own for the moment before it replaces the old one.
            .filter(|name| !name.as_encoded_bytes().starts_with(b"."))
            .collect();
        let content = fs::read(&archive).unwrap();
        assert!(
            (content == b"old" || content == whole) && names.len() == 1,
            "{} bytes beside {names:?}",
            content.len()
        );
    }
}

#[test]
fn pack_writes_the_same_to_a_pipe_as_to_a_file() {
    let out = tempfile::tempdir().unwrap();
    let archive = out.path().join("a.cpio");
    pack(busybox().path(), &archive).exits(0);
    let piped = Rdvm::verb("pack")
        .option("-o")
        .option("-")
        .image(busybox().path())
        .run()
        .exits(0)
        .says_only("");
    assert!(
        piped.0.stdout == fs::read(&archive).unwrap(),
        "the archives differ"
    );
}

#[test]
fn other_readers_list_and_extract_the_same_tree() {
    let image = one_of_everything();
    let out = tempfile::tempdir().unwrap();
    let archive = out.path().join("a.cpio");
    pack(image.path(), &archive).exits(0);
    let outside = walked_outside(image.path());
    for (reader, words) in [
        ("cpio", ["-idm", "--quiet"].as_slice()),
        ("bsdcpio", &["-id", "--quiet"]),
    ] {
        let extracted = out.path().join(reader);
        fs::create_dir(&extracted).unwrap();
        let result = Command::new(reader)
            .args(words)
            .stdin(File::open(&archive).unwrap())
            .current_dir(&extracted)
            .output();
        let Ok(result) = result else {
            missing(reader);
            continue;
        };
        assert!(
            result.status.success(),
            "{reader}: {}",
            String::from_utf8_lossy(&result.stderr)
        );
        // bsdcpio makes a plain file of a socket; its listing and everything else agree.
        let seen = walked_outside(&extracted).replace("/socket 100755", "/socket 140755");
        let differing: Vec<_> = seen
            .lines()
            .zip(outside.lines())
            .filter(|(a, b)| a != b)
            .collect();
        assert!(
            seen.lines().count() == outside.lines().count() && differing.is_empty(),
            "{reader}: {differing:#?}"
        );
    }
}

#[test]
fn a_file_that_vanishes_or_changes_while_it_is_packed_is_an_error_that_names_it() {
    let image = Image::busybox().file("victim", 0o644, vec![1; 8 << 20]);
    let victim = image.path().join("victim");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let named = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut length = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                length = (length + 1) % 100;
                File::options()
                    .write(true)
                    .open(&victim)
                    .unwrap()
                    .set_len((8 << 20) - length)
                    .unwrap();
            }
        });
        let tried: Vec<Run> = (0..20)
            .map(|_| pack(image.path(), Path::new("/dev/null")))
            .collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        tried
            .into_iter()
            .filter(|run| {
                run.0.status.code() == Some(125) && run.stderr().contains("/victim: changed")
            })
            .count()
    });
    assert!(
        named > 0,
        "twenty packings under a racing writer, and none noticed"
    );
}
