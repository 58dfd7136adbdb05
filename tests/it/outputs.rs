//! What `pack` writes is what other tools read: tar, bsdtar, skopeo, umoci and podman, and what it was made of.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};
use tempfile::TempDir;

use crate::pack::{one_of_everything, walked_outside};
use crate::support::{Image, RDVM, Rdvm, left_out, missing};

/// `rdvm pack WORDS -o FILE IMAGE`, with owners as they are; gives FILE.
fn packed(dir: &TempDir, name: &str, words: &[&str], image: &Path) -> PathBuf {
    let path = dir.path().join(name);
    let mut rdvm = Rdvm::verb("pack").option("--owner").option("keep");
    for word in words {
        rdvm = rdvm.option(word);
    }
    let run = rdvm.option("-o").option(&path).image(image).run().exits(0);
    run.says_only("");
    path
}

/// Runs a tool; `None`, and a word about it, where it is not there.
fn tool(name: &str, arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Option<Output> {
    let mut command = Command::new(name);
    for argument in arguments {
        command.arg(argument);
    }
    let Ok(output) = command.stdin(Stdio::null()).output() else {
        missing(name);
        return None;
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    Some(output)
}

/// One of everything that a tar archive can hold.
fn one_of_everything_but_sockets() -> Image {
    let image = one_of_everything();
    fs::remove_file(image.path().join("socket")).unwrap();
    image
}

/// Has umoci unpack an image's archive; gives the directory that its root is in.
fn unpacked_by_umoci(archive: &Path) -> Option<TempDir> {
    let dir = TempDir::new().unwrap();
    let layout = dir.path().join("layout");
    fs::create_dir(&layout).unwrap();
    tool("tar", &[&"-xf", &archive, &"-C", &layout])?;
    let reference = format!("{}:t", layout.display());
    tool(
        "umoci",
        &[
            &"unpack",
            &"--image",
            &reference,
            &dir.path().join("bundle"),
        ],
    )?;
    Some(dir)
}

#[test]
fn gnu_tar_and_bsdtar_unpack_to_the_same_tree() {
    let image = one_of_everything_but_sockets();
    let outside = walked_outside(image.path());
    let dir = TempDir::new().unwrap();
    let plain = packed(&dir, "plain.tar", &[], image.path());
    for unpacker in ["tar", "bsdtar"] {
        let target = TempDir::new().unwrap();
        let Some(output) = tool(unpacker, &[&"-xpf", &plain, &"-C", &target.path()]) else {
            continue;
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said, "", "{unpacker}");
        assert_eq!(walked_outside(target.path()), outside, "{unpacker}");
    }
    for (name, unpacker) in [
        ("x.tar.gz", "gzip"),
        ("x.tar.zst", "zstd"),
        ("x.tar.lz4", "lz4"),
    ] {
        let compressed = packed(&dir, name, &[], image.path());
        if let Some(output) = tool(unpacker, &[&"-dc", &compressed]) {
            assert!(output.stdout == fs::read(&plain).unwrap(), "{name}");
        }
    }
}

#[test]
fn access_control_lists_come_out_of_gnu_tar_and_bsdtar() {
    // `u::rw-,u:1000:r--,g::r--,m::r--,o::---` (`linux/posix_acl_xattr.h`).
    const LIST: &[u8] = b"\x02\0\0\0\
        \x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\xe8\x03\0\0\x04\0\x04\0\xff\xff\xff\xff\
        \x10\0\x04\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff";
    let name = "system.posix_acl_access";
    let image = Image::busybox().file("f", 0o640, "text");
    if let Err(errno) = lsetxattr(image.path().join("f"), name, LIST, XattrFlags::empty()) {
        left_out(&format!(
            "{errno} for access control lists in the directory for temporary files"
        ));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let archive = packed(&dir, "a.tar", &["--format", "tar"], image.path());
    for (program, how) in [("tar", "--acls"), ("bsdtar", "--acls")] {
        let place = tempfile::tempdir_in(dir.path()).unwrap();
        if tool(program, &[&"-C", &place.path(), &how, &"-xpf", &archive]).is_none() {
            continue;
        }
        let mut list = [0; 100];
        let length = lgetxattr(place.path().join("f"), name, &mut list[..]).unwrap_or(0);
        assert_eq!(&list[..length], LIST, "{program}");
    }
}

#[test]
fn a_compressed_initrd_is_the_plain_one() {
    let image = one_of_everything();
    let dir = TempDir::new().unwrap();
    let plain = packed(&dir, "x.cpio", &[], image.path());
    for (how, unpacker) in [("gzip", "gzip"), ("zstd", "zstd"), ("lz4", "lz4")] {
        let path = packed(&dir, how, &["--compress", how], image.path());
        if let Some(output) = tool(unpacker, &[&"-dc", &path]) {
            assert!(output.stdout == fs::read(&plain).unwrap(), "{how}");
        }
    }
    let legacy = fs::read(dir.path().join("lz4")).unwrap();
    assert_eq!(
        legacy[..4],
        [2, 0x21, 0x4c, 0x18],
        "what kernels know as lz4"
    );
}

#[test]
fn umoci_unpacks_docker_and_oci_images_to_the_same_tree() {
    let image = one_of_everything_but_sockets();
    let outside = walked_outside(image.path());
    let dir = TempDir::new().unwrap();
    for format in ["docker", "oci"] {
        for how in ["none", "gzip"] {
            let words = ["--format", format, "--compress", how, "--tag", "a:t"];
            let archive = packed(&dir, &format!("{format}-{how}"), &words, image.path());
            let Some(unpacked) = unpacked_by_umoci(&archive) else {
                return;
            };
            let root = unpacked.path().join("bundle/rootfs");
            assert_eq!(walked_outside(&root), outside, "{format} {how}");
        }
    }
}

#[test]
fn skopeo_reads_and_copies_docker_and_oci_images() {
    let image = Image::empty().file("etc/motd", 0o644, "hello\n");
    let dir = TempDir::new().unwrap();
    let words = "--tag app:1 --tag ghcr.io/me/app --cmd serve --entrypoint [\"/bin/app\",\"-x\"] -e A=1 -e B=2 -e A=3 \
                 -w /srv -u 1000:100 --label one=two";
    for (format, transport) in [("docker", "docker-archive"), ("oci", "oci-archive")] {
        for how in ["none", "gzip", "zstd"] {
            let mut options: Vec<&str> = words.split_whitespace().collect();
            options.extend(["--format", format, "--compress", how]);
            let archive = packed(&dir, &format!("{format}-{how}"), &options, image.path());
            // An OCI layout with two names wants to be asked by one; docker's is found without.
            let name = match format {
                "oci" => format!("{transport}:{}:1", archive.display()),
                _ => format!("{transport}:{}:app:1", archive.display()),
            };
            let Some(output) = tool("skopeo", &[&"inspect", &"--config", &name]) else {
                return;
            };
            let config: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(
                config["config"],
                serde_json::json!({
                    "User": "1000:100", "Env": ["A=3", "B=2"], "Entrypoint": ["/bin/app", "-x"], "Cmd": ["serve"],
                    "WorkingDir": "/srv", "Labels": {"one": "two"},
                })
            );
            assert_eq!(config["architecture"], "amd64");
            assert_eq!(config["created"], "1970-01-01T00:00:00Z");
            let copy = dir.path().join(format!("copy-{format}-{how}"));
            let target = format!("dir:{}", copy.display());
            tool("skopeo", &[&"--insecure-policy", &"copy", &name, &target]).unwrap();
            let files = fs::read_dir(copy).unwrap().count();
            assert_eq!(
                files, 4,
                "a layer, a configuration, a manifest and a version"
            );
        }
    }
}

#[test]
fn podman_loads_docker_and_oci_images() {
    if Command::new("podman").arg("--version").output().is_err() {
        left_out("podman is not here");
        return;
    }
    let image = Image::empty().file("etc/motd", 0o644, "hello\n");
    let dir = TempDir::new().unwrap();
    let store = dir.path().join("store");
    let state = dir.path().join("state");
    let podman = |words: &[&str]| {
        let mut arguments: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"--root", &store, &"--runroot"];
        let rest: [&dyn AsRef<std::ffi::OsStr>; 4] = [
            &state,
            &"--storage-driver",
            &"vfs",
            &"--events-backend=none",
        ];
        arguments.extend(rest);
        arguments.extend(words.iter().map(|word| word as &dyn AsRef<std::ffi::OsStr>));
        let output = tool("podman", &arguments).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for format in ["docker", "oci"] {
        for how in ["none", "gzip"] {
            let words = [
                "--format",
                format,
                "--tag",
                "rdvm-test:1",
                "--compress",
                how,
                "--cmd",
                how,
            ];
            let archive = packed(&dir, &format!("{format}-{how}"), &words, image.path());
            let said = podman(&["load", "-i", archive.to_str().unwrap()]);
            assert!(said.contains("docker.io/library/rdvm-test:1"), "{said}");
            let said = podman(&["inspect", "--format", "{{.Config.Cmd}}", "rdvm-test:1"]);
            assert_eq!(said, format!("[{how}]\n"), "{format}");
        }
    }
}

/// A tree, and another one that differs from it in every way that a layer can say.
fn before_and_after() -> (Image, Image) {
    let make = || {
        Image::empty()
            .program("walk", "walk")
            .file("same/file", 0o644, "1")
            .file("etc/passwd", 0o644, "root")
            .file("etc/shadow", 0o600, "secret")
            .file("opt/old/deep/tree", 0o644, "x")
            .file("dir-to-file/inside", 0o644, "x")
            .file("file-to-dir", 0o644, "x")
            .file("file-to-link", 0o644, "x")
            .link("nowhere", "link-to-dir")
            .file("linked", 0o644, "two names")
            .file("parted", 0o644, "two names")
            .file("mode", 0o644, "x")
    };
    let (before, after) = (make(), make());
    for image in [&before, &after] {
        fs::hard_link(image.path().join("parted"), image.path().join("parted-too")).unwrap();
    }
    let path = |name: &str| after.path().join(name);
    fs::write(path("etc/passwd"), "toor").unwrap();
    fs::remove_file(path("etc/shadow")).unwrap();
    fs::remove_dir_all(path("opt/old")).unwrap();
    fs::remove_dir_all(path("dir-to-file")).unwrap();
    fs::write(path("dir-to-file"), "now a file").unwrap();
    for name in ["file-to-dir", "link-to-dir"] {
        fs::remove_file(path(name)).unwrap();
        fs::create_dir(path(name)).unwrap();
        fs::write(path(name).join("new"), "x").unwrap();
    }
    fs::remove_file(path("file-to-link")).unwrap();
    symlink("etc", path("file-to-link")).unwrap();
    fs::hard_link(path("linked"), path("etc/linked-too")).unwrap();
    fs::remove_file(path("parted-too")).unwrap();
    fs::write(path("parted-too"), "two names").unwrap();
    fs::set_permissions(path("mode"), fs::Permissions::from_mode(0o4711)).unwrap();
    (before, after)
}

#[test]
fn a_layer_says_what_differs_and_its_base_with_it_is_the_new_tree() {
    let (before, after) = before_and_after();
    let dir = TempDir::new().unwrap();
    let base = ["--base", before.path().to_str().unwrap()];
    let layer = packed(&dir, "layer.tar", &base, after.path());
    let output = tool("tar", &[&"-tf", &layer]).unwrap();
    let mut names: Vec<_> = str::from_utf8(&output.stdout).unwrap().lines().collect();
    let order = names.clone();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "dir-to-file",
            "etc/",
            "etc/.wh.shadow",
            "etc/linked-too",
            "etc/passwd",
            "file-to-dir/",
            "file-to-dir/new",
            "file-to-link",
            "link-to-dir/",
            "link-to-dir/new",
            "linked",
            "mode",
            "opt/",
            "opt/.wh.old",
            "parted",
            "parted-too",
        ]
    );
    assert_eq!(order[2], "etc/.wh.shadow", "before its siblings: {order:?}");

    for format in ["docker", "oci"] {
        let words = [&base[..], &["--format", format, "--tag", "a:t"]].concat();
        let archive = packed(&dir, format, &words, after.path());
        let layer_digest = digest(&fs::read(&layer).unwrap());
        let listed = tool("tar", &[&"-tf", &archive]).unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(
            listed.contains(&layer_digest),
            "the layer alone and in an image is one"
        );
        if let Some(unpacked) = unpacked_by_umoci(&archive) {
            let root = unpacked.path().join("bundle/rootfs");
            assert_eq!(
                walked_outside(&root),
                walked_outside(after.path()),
                "{format}"
            );
        }
    }
}

/// sha256 in hexadecimal.
fn digest(bytes: &[u8]) -> String {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x");
    fs::write(&path, bytes).unwrap();
    let output = tool("sha256sum", &[&path]).unwrap();
    String::from_utf8_lossy(&output.stdout[..64]).into_owned()
}

/// Every form that there is.
const FORMS: [&[&str]; 9] = [
    &["--format", "cpio"],
    &["--format", "cpio", "--compress", "gzip"],
    &["--format", "tar"],
    &["--format", "tar", "--compress", "gzip"],
    &["--format", "tar", "--compress", "zstd"],
    &["--format", "tar", "--compress", "lz4"],
    &["--format", "docker", "--tag", "a"],
    &["--format", "oci", "--compress", "gzip"],
    &["--format", "oci", "--compress", "zstd"],
];

#[test]
fn the_same_tree_gives_the_same_bytes_wherever_it_is_and_wherever_they_go() {
    let names: Vec<String> = (0..300)
        .map(|number| format!("d/{:03}", number * 7 % 300))
        .collect();
    let make = |names: &mut dyn Iterator<Item = &String>| {
        names.fold(Image::busybox(), |image, name| {
            image.file(name, 0o644, name)
        })
    };
    let (one, other) = (make(&mut names.iter()), make(&mut names.iter().rev()));
    let dir = TempDir::new().unwrap();
    for form in FORMS {
        let first = fs::read(packed(&dir, "1", form, one.path())).unwrap();
        let second = fs::read(packed(&dir, "2", form, other.path())).unwrap();
        assert!(first == second, "{form:?}");
        let mut rdvm = Rdvm::verb("pack").option("-o").option("-");
        for word in form {
            rdvm = rdvm.option(word);
        }
        let run = rdvm
            .option("--owner")
            .option("keep")
            .image(one.path())
            .run();
        assert!(run.exits(0).0.stdout == first, "{form:?} to a pipe");
    }
}

#[test]
fn source_date_epoch_is_the_latest_time_and_an_images_date() {
    let image = Image::empty().file("f", 0o644, "");
    let file = File::open(image.path().join("f")).unwrap();
    let dir = TempDir::new().unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(86_400);
    file.set_modified(time).unwrap();
    let pack = |format: &str, epoch: &str| {
        let path = dir.path().join(format);
        Rdvm::verb("pack")
            .with_variable("SOURCE_DATE_EPOCH", epoch)
            .option("--format")
            .option(format)
            .option("-o")
            .option(&path)
            .image(image.path())
            .run()
            .exits(0);
        path
    };
    for (epoch, date) in [
        ("1000000000", "1970-01-02 00:00"),
        ("60", "1970-01-01 00:01"),
    ] {
        let path = pack("tar", epoch);
        let mut command = Command::new("tar");
        let listed = command
            .env("TZ", "UTC")
            .arg("-tvf")
            .arg(path)
            .arg("f")
            .output()
            .unwrap();
        assert!(
            String::from_utf8_lossy(&listed.stdout).contains(date),
            "{epoch}"
        );
    }
    let path = pack("oci", "1000000000");
    let text = fs::read(path).unwrap();
    let date = b"\"created\":\"2001-09-09T01:46:40Z\"";
    assert!(text.windows(date.len()).any(|bytes| bytes == date));
}

#[test]
fn what_cannot_be_written_leaves_nothing_behind() {
    let image = Image::empty().file("d/.wh.x", 0o644, "");
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("out");
    fs::write(&path, "old").unwrap();
    for format in ["docker", "oci"] {
        let rdvm = Rdvm::verb("pack").option("--format").option(format);
        let run = rdvm.option("-o").option(&path).image(image.path()).run();
        run.exits(125)
            .says("d/.wh.x: in a layer this name says that another file is gone");
    }
    for form in FORMS {
        let mut rdvm = Rdvm::verb("pack").option("-o").option("/dev/full");
        for word in form {
            rdvm = rdvm.option(word);
        }
        let plain = Image::empty().file("f", 0o644, "");
        rdvm.image(plain.path())
            .run()
            .exits(125)
            .says("No space left");
    }
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_reader_that_goes_away_ends_it_as_it_ends_any_command() {
    let image = Image::empty().file("big", 0o644, vec![7; 3 << 20]);
    for form in FORMS {
        let mut child = Command::new(RDVM)
            .args(["pack", "-o", "-"])
            .args(form)
            .arg(image.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(141), ""), "{form:?}");
    }
}

#[test]
fn sockets_are_left_out_of_everything_but_cpio_and_told() {
    let image = Image::empty().file("f", 0o644, "");
    drop(std::os::unix::net::UnixListener::bind(image.path().join("socket")).unwrap());
    let dir = TempDir::new().unwrap();
    for format in ["tar", "docker", "oci"] {
        let rdvm = Rdvm::verb("pack").option("--format").option(format);
        let run = rdvm
            .option("-o")
            .option(dir.path().join("out"))
            .image(image.path())
            .run();
        run.exits(0)
            .says_only("rdvm: socket: is a socket, which a tar archive cannot hold; left out\n");
    }
}
