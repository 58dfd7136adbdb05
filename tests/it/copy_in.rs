//! Files that go in: what arrives, where, as whose; what stays out; and what is said when it cannot be done.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::{Image, RDVM, Rdvm, Run, any_engine, busybox, engines, note_run, sized};

/// `--copy-in` with a path of the host's.
fn copy(rdvm: Rdvm, host: &Path, guest: &str) -> Rdvm {
    let mut word = host.as_os_str().to_owned();
    word.push(":");
    word.push(guest);
    rdvm.option("--copy-in").option(word)
}

/// A directory with some of everything.
fn everything() -> TempDir {
    let dir = TempDir::new().unwrap();
    let at = |path: &str| dir.path().join(path);
    fs::create_dir_all(at("src/empty")).unwrap();
    fs::write(at("src/file"), "text").unwrap();
    fs::write(at("src/run"), "#!/bin/sh\necho ran\n").unwrap();
    fs::write(at("src/large"), vec![b'x'; 100_000]).unwrap();
    fs::hard_link(at("src/large"), at("src/name")).unwrap();
    symlink("/nowhere/at all", at("src/link")).unwrap();
    fs::write(dir.path().join(OsStr::from_bytes(b"src/a\nb\xff")), "odd").unwrap();
    for (path, mode) in [
        ("src/file", 0o640),
        ("src/run", 0o4755),
        ("src/empty", 0o1711),
        ("src", 0o750),
    ] {
        fs::set_permissions(at(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_234_567_890);
    for path in ["src/file", "src/empty", "src"] {
        let file = fs::File::open(at(path)).unwrap();
        file.set_modified(time).unwrap();
    }
    dir
}

#[test]
fn everything_arrives_as_it_is_and_is_the_users() {
    let dir = everything();
    let show = "cd /work/src || exit 1
        stat -c '%n %a %u:%g %Y' . file run empty
        stat -c '%h %s' large name; cmp large name; cat file; readlink link; ./run
        for name in a*; do printf %s \"$name\" | od -An -c; cat \"$name\"; done; echo; ls -A /";
    let run_mtime = fs::metadata(dir.path().join("src/run")).unwrap().mtime();
    for engine in any_engine() {
        for (user, owner) in [(None, "0:0"), (Some("77:78"), "77:78")] {
            let mut rdvm = copy(Rdvm::on(engine), &dir.path().join("src"), "/work/src");
            if let Some(user) = user {
                rdvm = rdvm.option("-u").option(user);
            }
            let run = rdvm.image(busybox().path()).sh(show).run();
            run.exits(0).says_only("").prints(format!(
                ". 750 {owner} 1234567890\nfile 640 {owner} 1234567890\nrun 4755 {owner} {run_mtime}\nempty 1711 {owner} 1234567890\n\
                 2 100000\n2 100000\ntext/nowhere/at all\nran\n   a  \\n   b 377\nodd\nbin\ndev\netc\nproc\nroot\nrun\nsys\ntmp\nwork\n"
            ));
        }
    }
}

#[test]
fn several_copies_go_where_they_are_meant_to() {
    let dir = everything();
    let image = Image::busybox()
        .file("etc/there/old", 0o644, "old")
        .file("etc/there/file", 0o644, "old")
        .link("etc", "link");
    for engine in engines() {
        let rdvm = Rdvm::on(engine).option("-w").option("/new/dir");
        let rdvm = [
            ("src/file", "relative"),
            ("src/file", "into/"),
            ("src/file", "/etc/there"),
            ("src/empty", "../up"),
            ("src/.", "/link/there"),
            ("src", "/etc/"),
            ("src/link", "/followed"),
            ("src/file", "/etc/late"),
            ("src/run", "/etc/late"),
            ("src/file", "/ten/1"),
            ("src/file", "/ten/2"),
        ]
        .into_iter()
        .fold(rdvm, |rdvm, (host, guest)| match host {
            // Like an argument of any command, and unlike what is found below, it is what it leads to.
            "src/link" => copy(rdvm, &dir.path().join("to-file"), guest),
            host => copy(rdvm, &dir.path().join(host), guest),
        });
        let _ = fs::remove_file(dir.path().join("to-file"));
        symlink("src/file", dir.path().join("to-file")).unwrap();
        let show = "find . /new/up /etc /followed /ten -type f | sort | while read -r f; do echo \"$f $(head -c 9 \"$f\")\"; done";
        let run = rdvm.image(image.path()).sh(show).run().exits(0);
        let lines: Vec<String> = run.stdout().lines().map(str::to_owned).collect();
        for expected in [
            "./relative text",
            "./into/file text",
            "/etc/there/old old",
            "/etc/there/file text",
            "/etc/there/run #!/bin/sh",
            "/etc/src/file text",
            "/followed text",
            "/etc/late #!/bin/sh",
            "/ten/1 text",
            "/ten/2 text",
        ] {
            assert!(
                lines.iter().any(|line| line == expected),
                "{expected}: {lines:#?}"
            );
        }
    }
}

#[test]
fn patterns_keep_things_out() {
    let dir = TempDir::new().unwrap();
    for path in [
        "a.o",
        "keep.o",
        "sub/b.o",
        "sub/c.c",
        "build/x",
        "top",
        "sub/top",
        ".git/config",
    ] {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    fs::write(
        dir.path().join(".rdvmignore"),
        "# objects\n*.o\nbuild/\n/top\n",
    )
    .unwrap();
    // One of these may not be read, and the other would end the run: nobody looks at what stays out.
    fs::set_permissions(dir.path().join("build"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::File::create(dir.path().join("huge.o"))
        .unwrap()
        .set_len(5 << 30)
        .unwrap();
    let _socket = UnixListener::bind(dir.path().join("socket")).unwrap();
    for engine in any_engine() {
        let rdvm = copy(Rdvm::on(engine), dir.path(), "/src");
        let rdvm = ["!keep.o", ".git"].into_iter().fold(rdvm, |rdvm, pattern| {
            rdvm.option("--copy-in-exclude").option(pattern)
        });
        let run = rdvm
            .image(busybox().path())
            .sh("cd src; find . -type f | sort")
            .run();
        run.exits(0)
            .prints("./.rdvmignore\n./keep.o\n./sub/c.c\n./sub/top\n")
            .says("socket: is a socket, and is left out");
    }
}

#[test]
fn what_cannot_be_copied_in_is_told_before_anything_boots() {
    let dir = everything();
    let at = |path: &str| dir.path().join(path);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        at("pipe"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    fs::create_dir(at("bad")).unwrap();
    fs::write(at("bad/.rdvmignore"), "ok\n[a\n").unwrap();
    fs::create_dir(at("big")).unwrap();
    fs::File::create(at("big/file"))
        .unwrap()
        .set_len(4 << 30)
        .unwrap();
    let run = |host: &str, more: &[&str]| {
        let rdvm = copy(Rdvm::verb("run"), &at(host), "/x").option("-q");
        let rdvm = more.iter().fold(rdvm, |rdvm, word| rdvm.option(word));
        // Nothing can boot, and nobody gets so far as to notice.
        let run = rdvm
            .with_variable("PATH", "/usr/bin:/bin")
            .image(busybox().path())
            .sh("echo ran")
            .run();
        let run = run.exits(125).prints("");
        assert_eq!(run.stderr().matches('\n').count(), 1, "{:?}", run.stderr());
        run
    };
    run("none", &[]).says("none: No such file or directory; name a file or a directory");
    run("src/link", &[]).says("No such file or directory");
    run("pipe", &[]).says("pipe: is neither a file nor a directory");
    run("bad", &[]).says("bad/.rdvmignore:2: unclosed character class");
    run("big", &[]).says("big/file: has 4294967296 bytes");
    run("src", &["--copy-in-exclude", "[a"]).says("rdvm: --copy-in-exclude: \"[a\": unclosed");
    for (copy, says) in [
        ("src", "HOST:GUEST"),
        (":x", "HOST:GUEST"),
        ("x:", "HOST:GUEST"),
    ] {
        let run = Rdvm::verb("run").option("--copy-in").option(copy);
        run.image(busybox().path()).run().exits(125).says(says);
    }
}

#[test]
fn places_that_cannot_be_are_told_by_the_guests_kernel() {
    let dir = everything();
    let image = Image::busybox()
        .file("etc/file", 0o644, "")
        .directory("etc/dir/file", 0o755);
    for engine in any_engine() {
        for (host, guest, says) in [
            ("src/file", "/etc/file/below", "Not a directory"),
            ("src", "/etc/file", "Not a directory"),
            ("src", "/etc/dir", "Is a directory"),
            (
                "src/file",
                "/dev/shm/file",
                "another file system is mounted",
            ),
            ("src/file", "/proc/file", "another file system is mounted"),
        ] {
            let rdvm = copy(Rdvm::on(engine), &dir.path().join("src/empty"), "/fine");
            let rdvm = copy(rdvm, &dir.path().join(host), guest);
            let run = rdvm.image(image.path()).sh("echo ran").run();
            let run = run.exits(125).prints("");
            assert!(
                run.stderr().to_lowercase().contains(&says.to_lowercase()),
                "{guest}: {:?}",
                run.stderr()
            );
            let host = dir.path().join(host);
            let subject = format!("rdvm: --copy-in {}:{guest}: ", host.display());
            assert!(run.stderr().contains(&subject), "{:?}", run.stderr());
        }
        // Upwards ends at the guest's own root.
        let rdvm = copy(
            Rdvm::on(engine),
            &dir.path().join("src/file"),
            "../../../../etc/up",
        );
        rdvm.image(image.path())
            .sh("cat /etc/up")
            .run()
            .exits(0)
            .prints("text");
        assert!(!Path::new("/etc/up").exists());
    }
}

#[test]
fn a_hundred_thousand_files_are_copied_and_counted() {
    let engines = any_engine(); // Known for a scenario before it makes the files.
    let dir = TempDir::new().unwrap();
    let count = sized(100_000, 2_000);
    for n in 0..count {
        if n % 1000 == 0 {
            fs::create_dir(dir.path().join(format!("{}", n / 1000))).unwrap();
        }
        fs::write(dir.path().join(format!("{}/{n}", n / 1000)), "").unwrap();
    }
    for engine in engines {
        let rdvm = copy(Rdvm::on(engine), dir.path(), "/many");
        let run = rdvm
            .image(busybox().path())
            .sh("find /many -type f | wc -l")
            .run();
        run.exits(0).prints(format!("{count}\n")).says_only("");
    }
    // Their RAM is planned for.
    let need = |rdvm: Rdvm| {
        let run = rdvm
            .option("-q")
            .option("-m")
            .option("8m")
            .image(busybox().path())
            .sh("true")
            .run();
        let text = run.exits(125).stderr();
        let (_, rest) = text.split_once("the image needs ").expect(&text);
        rest.split(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let with = need(copy(Rdvm::verb("run"), dir.path(), "/many"));
    let without = need(Rdvm::verb("run"));
    // Both are whole mebibytes.
    assert!(
        with > without && with >= without + f64::from(count) / 2000.0,
        "{with} MiB, {without} MiB"
    );
}

#[test]
fn every_name_is_looked_at_once_and_small_files_are_opened_once() {
    let dir = TempDir::new().unwrap();
    for n in 0..50 {
        fs::create_dir(dir.path().join(format!("dir{n}"))).unwrap();
        fs::write(dir.path().join(format!("dir{n}/marked-{n}")), "small").unwrap();
    }
    let log = tempfile::NamedTempFile::new().unwrap();
    let engine = any_engine()[0];
    note_run(engine);
    let mut copy = dir.path().as_os_str().to_owned();
    copy.push(":/x");
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-e", "trace=%file,getdents64", "-o"])
        .arg(log.path());
    strace
        .args([RDVM, "run", "-q", "--engine", engine, "--copy-in"])
        .arg(copy);
    strace
        .arg(busybox().path())
        .args(["sh", "-c", "ls /x | wc -l"]);
    Run(strace.stdin(Stdio::null()).output().unwrap())
        .exits(0)
        .prints("50\n");
    let log = fs::read_to_string(log.path()).unwrap();
    let lines = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!(lines("\"marked-"), 50, "{log}");
    // A directory's name is looked at once and opened once.
    // (Where the kernel has no openat2 it is asked for once more.)
    let directories = log
        .lines()
        .filter(|line| line.contains("\"dir") && !line.contains("ENOSYS"));
    assert_eq!(directories.count(), 100, "{log}");
}

#[test]
fn a_kept_image_gets_files_too() {
    let image = Image::busybox();
    let dir = TempDir::new().unwrap();
    let tar = dir.path().join("image.tar");
    let status = Command::new("tar")
        .arg("-C")
        .arg(image.path())
        .arg("-cf")
        .arg(&tar)
        .arg(".")
        .status();
    assert!(status.unwrap().success());
    let settled = std::time::SystemTime::now() - std::time::Duration::from_secs(100);
    fs::File::open(&tar).unwrap().set_modified(settled).unwrap();
    fs::write(dir.path().join("file"), "in\n").unwrap();
    for engine in any_engine() {
        for _ in 0..2 {
            let rdvm = copy(Rdvm::on(engine), &dir.path().join("file"), "/new/file")
                .option("--root")
                .option("erofs");
            let rdvm = rdvm.with_variable("RDVM_CACHE", dir.path().join("cache"));
            let rdvm = rdvm.with_variable("RDVM_KERNEL", crate::kept::kernel());
            rdvm.image(&tar)
                .sh("cat /new/file")
                .run()
                .exits(0)
                .prints("in\n");
        }
    }
}
