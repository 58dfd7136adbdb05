//! Extended attributes: what a directory's files have is what the command finds, or a line says what is missing.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, lsetxattr};
use rustix::io::Errno;

use crate::support::{Image, Rdvm, Run, any_engine, busybox, left_out, missing};

/// `cap_net_bind_service=ep` as a file capability of revision 2 (`linux/capability.h`).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// `u::rw-,u:1000:r--,g::r--,m::r--,o::---` (`linux/posix_acl_xattr.h`).
const LIST: &[u8] = b"\x02\0\0\0\
    \x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\
    \x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";

const EPERM_OR_EACCES: [&str; 2] = ["errno 1\n", "errno 13\n"];

/// Sets an attribute; `false` where this user or the directory's file system may not have it, after a word about it.
fn set(path: &Path, name: &str, value: &[u8]) -> bool {
    match lsetxattr(path, name, value, XattrFlags::empty()) {
        Ok(()) => true,
        Err(Errno::PERM) => {
            missing(&format!("root, who may set {name},"));
            false
        }
        // In the rig: its kernel's tmpfs has no user.* before Linux 6.6.
        Err(Errno::NOTSUP) if name.starts_with("user.") => {
            left_out(&format!("no {name} on {}", path.display()));
            false
        }
        Err(errno) => panic!("{}: {name}: {errno}", path.display()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Releases whose tmpfs has `user.*`: since 6.6.
fn has_user_attributes(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|digits| digits.parse().ok());
    (number(), number()) >= (Some(6u32), Some(6u32))
}

/// The kernel that a run takes by itself, and a fetched one that has `user.*`.
fn kernels() -> Vec<Option<PathBuf>> {
    let directory = std::env::var_os("RDVM_TEST_KERNELS");
    let directory = directory.map_or_else(|| "target/kernels".into(), PathBuf::from);
    let files = fs::read_dir(&directory).into_iter().flatten().flatten();
    let new = files.map(|file| file.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let release = name.strip_prefix("vmlinuz-");
        release.is_some_and(|release| release.contains("cloud") && has_user_attributes(release))
    });
    if new.is_none() {
        left_out(&format!(
            "no second kernel, of 6.6 or newer, in {}",
            directory.display()
        ));
    }
    [None].into_iter().chain(new.map(Some)).collect()
}

fn run(engine: &str, kernel: Option<&Path>, image: &Image, user: &str, script: &str) -> Run {
    let mut rdvm = Rdvm::on(engine);
    if let Some(kernel) = kernel {
        rdvm = rdvm.option("-k").option(kernel);
    }
    rdvm.option("-u")
        .option(user)
        .image(image.path())
        .sh(script)
        .run()
        .exits(0)
}

#[test]
fn attributes_of_a_directorys_files_reach_the_command() {
    let image = Image::busybox()
        .program("bin/attributes", "attributes")
        .file("listed", 0o640, "x")
        .file("plain", 0o444, "x")
        .file("etc/passwd", 0o644, "web:x:1000:1000::/:/bin/sh\n")
        .directory("proc", 0o555)
        .directory("d", 0o755);
    let at = |name: &str| image.path().join(name);
    fs::hard_link(at("bin/attributes"), at("second")).unwrap();
    let settable = set(&at("bin/attributes"), "security.capability", &CAPABILITY)
        && set(&at("listed"), "system.posix_acl_access", LIST)
        && set(&at("d"), "system.posix_acl_default", LIST)
        && set(&at("d"), "trusted.on a directory", b"")
        && set(image.path(), "trusted.root", b"\0\n")
        // Below a mount of rdinit's, and a label of the host's.
        && set(&at("proc"), "trusted.hidden", b"1")
        && set(&at("plain"), "security.selinux", b"system_u:object_r:etc_t:s0\0");
    if !settable {
        return;
    }
    let long = vec![b'v'; 3000];
    let user = set(&at("plain"), "user.long", &long);
    let script = "uname -r
        attributes /listed system.posix_acl_access; attributes /d system.posix_acl_default 'trusted.on a directory'
        attributes / trusted.root; attributes /second security.capability; attributes -n /second
        attributes /plain user.long security.selinux; stat -c '%a %u' listed plain
        test $(stat -c %Y plain) = 0 && stat -c %Y listed; ls -a | grep rdvm; true";
    let expected = [
        hex(LIST),
        hex(LIST),
        String::new(),
        hex(b"\0\n"),
        hex(&CAPABILITY),
        "1".to_owned(),
    ];
    for engine in any_engine() {
        for kernel in kernels() {
            let seen = run(engine, kernel.as_deref(), &image, "0:0", script);
            let stdout = seen.stdout();
            let mut lines = stdout.lines();
            let release = lines.next().unwrap_or_default();
            let found: Vec<&str> = lines.by_ref().take(expected.len()).collect();
            assert_eq!(found, expected, "{engine} {release}");
            let arrives = user && has_user_attributes(release);
            let rest: Vec<&str> = lines.collect();
            match arrives {
                true => assert_eq!(rest[0], hex(&long)),
                false => assert!(rest[0].starts_with("errno "), "{}", rest[0]),
            }
            assert_eq!(rest[1], "errno 61", "the host's label");
            assert_eq!(rest[2..4], ["640 0", "444 0"]);
            assert!(["0"].starts_with(&rest[4..]), "times are kept: {rest:?}");
            let stderr = seen.stderr();
            let lost = stderr
                .lines()
                .filter(|line| line.contains("could not be set"));
            let lost: Vec<&str> = lost.collect();
            match user && !arrives {
                true => assert_eq!(
                    lost,
                    [
                        "rdvm: 1 extended attribute of 1 file could not be set in the guest, the first user.long of /plain: \
                      this kernel's tmpfs has none of that kind; use Linux 6.6 or newer"
                    ]
                ),
                false => assert!(lost.is_empty(), "{lost:?}"),
            }

            // What the capability is for: a user who may not listen there, as every user may by default, may by this program.
            let script = "echo 1024 >/proc/sys/net/ipv4/ip_unprivileged_port_start
                busybox cp /bin/attributes /tmp/copy
                busybox su -s /bin/sh web -c 'attributes -b 80; /tmp/copy -b 80'";
            let said = run(engine, kernel.as_deref(), &image, "0:0", script).stdout();
            let copy = said.strip_prefix("errno 0\n").expect(&said);
            assert!(EPERM_OR_EACCES.contains(&copy), "{said}");
        }
    }
}

#[test]
fn attributes_that_the_guest_cannot_have_are_told_on_stderr_and_in_the_report() {
    let image = Image::busybox().program("bin/attributes", "attributes");
    let image = image.file("other", 0o644, "");
    for (name, attribute) in [
        ("bin/attributes", "user.a"),
        ("bin/attributes", "user.b"),
        ("other", "user.a"),
    ] {
        if !set(&image.path().join(name), attribute, b"1") {
            return;
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report.json");
    for engine in any_engine() {
        let line = "rdvm: 3 extended attributes of 2 files could not be set in the guest, the first user.a of \
            /bin/attributes: this kernel's tmpfs has none of that kind; use Linux 6.6 or newer\n";
        let image = image.path();
        let command = ["sh", "-c", "attributes -n /bin/attributes; uname -r"];
        let run = Rdvm::on(engine).option("--report").option(&report);
        let run = run.image(image).command(&command).run().exits(0);
        let json = fs::read_to_string(&report).unwrap();
        let quiet = Rdvm::on(engine).option("-q").image(image).command(&command);
        quiet.run().exits(0).says_only("");
        let release = run.stdout();
        let release = release.lines().nth(1).unwrap();
        if has_user_attributes(release) {
            run.prints(format!("2\n{release}\n")).says_only("");
            assert!(!json.contains("attributes_lost"), "{json}");
            continue;
        }
        let lost = "\"attributes_lost\": {\n    \"attributes\": 3,\n    \"files\": 2,\n    \"capabilities\": 0,";
        assert!(json.contains(lost), "{json}");
        run.prints(format!("0\n{release}\n")).says(line);
    }
}

#[test]
fn what_has_no_place_for_attributes_says_so() {
    let image = Image::busybox().file("f", 0o644, "");
    if !set(&image.path().join("f"), "trusted.a", b"1")
        || !set(
            &image.path().join("bin/busybox"),
            "security.capability",
            &CAPABILITY,
        )
    {
        return;
    }
    let warning = "rdvm: 2 extended attributes of 2 files (1 a file capability) left out, \
        the first security.capability of /bin/busybox: a cpio archive has no place for them\n";
    let archive = image.path().join("../").join("attributes.cpio");
    let pack = Rdvm::verb("pack")
        .image(image.path())
        .command(&["-o".as_ref(), archive.as_os_str()]);
    pack.run().exits(0).says_only(warning);
    let quiet = Rdvm::verb("pack").image(busybox().path());
    quiet
        .command(&["-o".as_ref(), archive.as_os_str()])
        .run()
        .exits(0)
        .says_only("");
    fs::remove_file(archive).unwrap();
}

#[test]
fn override_stat_gives_owners_modes_and_devices_to_a_packed_image() {
    let image = Image::empty()
        .directory("home", 0o700)
        .file("home/.keep", 0o600, "kept")
        .file("null", 0o600, "")
        .file("su", 0o600, "#!");
    for (name, value) in [
        ("", "0:0:0755:dir"),
        ("home", "1000:100:2750:dir"),
        ("home/.keep", "1000:100:0640"),
        ("null", "0:5:0666:char-1-3"),
        ("su", "0:42:04755:file"),
    ] {
        let path = image.path().join(name);
        if !set(&path, "user.containers.override_stat", value.as_bytes()) {
            return;
        }
    }
    let pack = || {
        Rdvm::verb("pack")
            .image(image.path())
            .command(&["-o", "-"])
            .run()
    };
    let packed = pack().exits(0).says_only("");
    let listing = cpio(&packed.0.stdout, &["-tvn"]);
    let lines: Vec<String> = listing
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    for (line, expected) in lines.iter().zip([
        "drwxr-xr-x 2 0 0 ",
        "drwxr-s--- 2 1000 100 ",
        "-rw-r----- 1 1000 100 4 ",
        "crw-rw-rw- 1 0 5 1, 3 ",
        "-rwsr-xr-x 1 0 42 2 ",
    ]) {
        assert!(line.starts_with(expected), "{line:?}, not {expected:?}");
    }
    assert_eq!(lines.len(), 5, "{listing}");

    let bad = |value: &[u8], words: &str| {
        assert!(set(
            &image.path().join("su"),
            "user.containers.override_stat",
            value
        ));
        pack().exits(125).prints("").says(words);
    };
    bad(
        b"0:0:abc\x1b",
        "/su: its attribute user.containers.override_stat is \"0:0:abc\\u{1b}\" and not UID:GID:MODE",
    );
    bad(
        b"0:0:0644:char-1-3",
        "/su: its attribute user.containers.override_stat is \"0:0:0644:char-1-3\", which this file cannot",
    );
}

/// GNU cpio's words about an archive.
fn cpio(archive: &[u8], options: &[&str]) -> String {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut cpio = Command::new("cpio");
    let cpio = cpio
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = cpio
        .stderr(Stdio::null())
        .spawn()
        .expect("cpio is installed");
    child.stdin.take().unwrap().write_all(archive).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}
