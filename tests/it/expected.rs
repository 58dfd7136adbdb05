//! The image that was agreed on and no other: `--expect`, `rdvm.lock`, and a digest that is one tree's in every form.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::pack::one_of_everything;
use crate::support::{Image, RDVM, Rdvm, Run, any_engine, missing, note_run};

/// `rdvm WORDS` in a directory.
pub(crate) fn rdvm_in<S: AsRef<OsStr>>(dir: &Path, words: &[S]) -> Run {
    let mut command = Command::new(RDVM);
    command.current_dir(dir).args(words).stdin(Stdio::null());
    Run(command.output().unwrap())
}

/// The digest that `rdvm inspect` prints.
pub(crate) fn digest_of(image: &Path, words: &[&str]) -> String {
    let mut rdvm = Rdvm::verb("inspect");
    for word in words {
        rdvm = rdvm.option(word);
    }
    digest_in(&rdvm.image(image).run().exits(0).stdout())
}

fn digest_in(page: &str) -> String {
    let line = page.lines().find_map(|line| line.strip_prefix("digest"));
    line.expect("inspect prints a digest").trim().to_owned()
}

/// The digest with another last digit.
fn other(digest: &str) -> String {
    let (rest, last) = digest.split_at(digest.len() - 1);
    format!("{rest}{}", if last == "0" { "1" } else { "0" })
}

/// The message about an image that is another one.
fn refusal(image: &str, digest: &str, by: &str, wanted: &str) -> String {
    format!(
        "rdvm: {image}: its digest is {digest}, and {by} wants {wanted}; get the right image, or run this one with \
         --no-expect\n"
    )
}

/// A project: `rdvm.lock` for `base`, `top` and `app.tar`, and a directory `deep/down` in it.
struct Project {
    dir: TempDir,
}

impl Project {
    /// Locked by `rdvm inspect --lock`.
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let project = Self { dir };
        for (name, file) in [("base", "etc/base"), ("top", "etc/top")] {
            let path = project.path().join(name);
            fs::create_dir_all(path.join("etc")).unwrap();
            fs::create_dir(path.join("bin")).unwrap();
            fs::write(path.join(file), name).unwrap();
        }
        for program in ["bin/sh", "init"] {
            fs::copy("/bin/busybox", project.path().join("base").join(program)).unwrap();
        }
        fs::create_dir_all(project.path().join("deep/down")).unwrap();
        rdvm_in(project.path(), &["pack", "-o", "app.tar", "base"]).exits(0);
        for image in ["base", "top"] {
            rdvm_in(project.path(), &["inspect", "--lock", image]).exits(0);
        }
        // From below: it is the project's file that is written.
        rdvm_in(&project.deep(), &["inspect", "--lock", "../../app.tar"]).exits(0);
        assert!(!project.deep().join("rdvm.lock").exists());
        project
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn deep(&self) -> PathBuf {
        self.path().join("deep/down")
    }

    fn lock(&self) -> PathBuf {
        self.path().join("rdvm.lock")
    }

    /// Changes a file of `image`; gives what its digest was and is.
    fn change(&self, image: &str) -> (String, String) {
        let path = self.path().join(image);
        let before = digest_of(&path, &[]);
        let file = path.join("etc").join(image);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(file, text + " changed").unwrap();
        (before, digest_of(&path, &[]))
    }
}

#[test]
fn the_expected_image_boots_and_no_other_does() {
    let image = Image::busybox().file("etc/word", 0o644, "agreed");
    let digest = digest_of(image.path(), &[]);
    let wrong = other(&digest);
    let named = image.path().to_str().unwrap();
    for engine in any_engine() {
        let run = |words: &[&str]| {
            let mut rdvm = Rdvm::on(engine);
            for word in words {
                rdvm = rdvm.option(word);
            }
            rdvm.image(image.path()).sh("cat /etc/word").run()
        };
        run(&["--expect", &digest]).exits(0).prints("agreed");
        run(&["--expect", &wrong])
            .exits(125)
            .prints("")
            .says_only(&refusal(named, &digest, "--expect", &wrong));
        run(&["--expect", &wrong, "--no-expect"])
            .exits(0)
            .prints("agreed");
    }
}

#[test]
fn nothing_is_started_for_another_image() {
    let image = Image::busybox();
    let wrong = other(&digest_of(image.path(), &[]));
    let dir = TempDir::new().unwrap();
    let log = dir.path().join("log");
    for engine in any_engine() {
        note_run(engine);
        let traced = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=execve,ioctl", "-o"])
            .arg(&log)
            .args([RDVM, "run", "--engine", engine, "--expect", &wrong])
            .arg(image.path())
            .args(["sh", "-c", "true"])
            .stdin(Stdio::null())
            .output();
        let Ok(traced) = traced else {
            return missing("strace");
        };
        Run(traced).exits(125);
        let calls = fs::read_to_string(&log).unwrap();
        // To ask QEMU for its version is no boot.
        let boots = ["-initrd", "-kernel", "KVM_CREATE_VM", "KVM_RUN"];
        let boots: Vec<_> = calls
            .lines()
            .filter(|call| boots.iter().any(|word| call.contains(word)))
            .collect();
        assert!(calls.contains("execve("), "{calls}");
        assert!(boots.is_empty(), "{boots:?}");
    }
}

#[test]
fn what_is_no_digest_is_told_before_the_image_is_read() {
    for word in ["", "sha256:12", "md5:0123", &"0".repeat(64)] {
        let run = Rdvm::verb("run").option("--expect").option(word);
        run.image("/nowhere")
            .run()
            .exits(125)
            .says("a digest is sha256: and 64 hexadecimal digits");
    }
}

#[test]
fn pack_and_inspect_refuse_another_image_too_and_leave_nothing() {
    let image = Image::empty().file("f", 0o644, "x");
    let digest = digest_of(image.path(), &[]);
    let wrong = other(&digest);
    let named = image.path().to_str().unwrap();
    let refused = refusal(named, &digest, "--expect", &wrong);
    let dir = TempDir::new().unwrap();
    let run = |words: &[&str]| rdvm_in(dir.path(), &[words, &[named]].concat());
    for format in ["cpio", "tar", "docker", "oci"] {
        let words = ["pack", "--format", format, "-o", "out", "--expect"];
        run(&[&words[..], &[&wrong]].concat())
            .exits(125)
            .says_only(&refused);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{format}");
        run(&[&words[..], &[&digest]].concat()).exits(0);
        fs::remove_file(dir.path().join("out")).unwrap();
    }
    run(&["inspect", "--expect", &wrong])
        .exits(125)
        .prints("")
        .says_only(&refused);
    run(&["inspect", "--expect", &wrong, "--no-expect"]).exits(0);
}

#[test]
fn the_lock_file_names_each_image_as_sha256sum_would() {
    let project = Project::new();
    let line = |name: &str| {
        let digest = digest_of(&project.path().join(name), &[]);
        format!("{digest}  {name}\n")
    };
    let text = fs::read_to_string(project.lock()).unwrap();
    assert_eq!(text, [line("base"), line("top"), line("app.tar")].concat());
    // Again: the same line, in its place.
    fs::write(project.path().join("base/etc/base"), "changed").unwrap();
    rdvm_in(
        project.path(),
        &["inspect", "--no-expect", "--lock", "base"],
    )
    .exits(0);
    let text = fs::read_to_string(project.lock()).unwrap();
    assert_eq!(text, [line("base"), line("top"), line("app.tar")].concat());
}

#[test]
fn a_locked_image_that_changed_is_refused_wherever_it_is_asked_for() {
    let project = Project::new();
    let (before, after) = project.change("base");
    let lock = project.lock();
    let lock = lock.to_str().unwrap();
    let full = project.path().join("base");
    let (above, deep) = (project.path().to_owned(), project.deep());
    let places = [
        (&above, "base"),
        (&above, "./deep/../base"),
        (&deep, "../../base"),
        (&deep, full.to_str().unwrap()),
    ];
    for (place, image) in places {
        let refused = refusal(image, &after, lock, &before);
        for words in [
            &["run", "--engine", "qemu", image, "sh", "-c", "true"][..],
            &["run", "--dry-run", image],
            &["inspect", image],
            &["pack", "-o", "out", image],
            &["pack", "--format", "docker", "-o", "out", image],
        ] {
            rdvm_in(place, words)
                .exits(125)
                .prints("")
                .says_only(&refused);
            assert!(!place.join("out").exists());
        }
        rdvm_in(place, &["inspect", "--no-expect", image]).exits(0);
        rdvm_in(place, &["pack", "--no-expect", "-o", "out", image]).exits(0);
        fs::remove_file(place.join("out")).unwrap();
        rdvm_in(place, &["inspect", "--expect", &after, image]).exits(0);
    }
    // The other images are as they were, and what nobody locked is anybody's.
    rdvm_in(&deep, &["inspect", "../../app.tar"]).exits(0);
    fs::rename(&full, project.path().join("elsewhere")).unwrap();
    rdvm_in(&deep, &["inspect", "../../elsewhere"]).exits(0);
}

#[test]
fn a_locked_image_runs_from_a_subdirectory() {
    let project = Project::new();
    for engine in any_engine() {
        note_run(engine);
        let words = ["run", "--engine", engine, "../../app.tar", "sh", "-c"];
        let words = [&words[..], &["cat /etc/base"]].concat();
        rdvm_in(&project.deep(), &words).exits(0).prints("base");
        let archive = project.path().join("app.tar");
        let agreed = fs::read(&archive).unwrap();
        // Another archive under the same name.
        rdvm_in(
            project.path(),
            &["pack", "--no-expect", "-o", "app.tar", "top"],
        )
        .exits(0);
        let text = rdvm_in(&project.deep(), &words).exits(125).prints("");
        text.says("../../app.tar: its digest is sha256:");
        fs::write(&archive, agreed).unwrap();
        let mut anyway = words.clone();
        anyway.insert(1, "--no-expect");
        rdvm_in(&project.deep(), &anyway).exits(0).prints("base");
    }
}

#[test]
fn each_layer_on_top_is_what_the_lock_file_says() {
    let project = Project::new();
    let run = |words: &[&str]| rdvm_in(project.path(), words);
    let dry = ["run", "--dry-run", "--layer", "top", "base"];
    let inspect = ["inspect", "--layer", "top", "base"];
    let pack = ["pack", "-o", "out", "--layer", "top", "base"];
    let docker = [
        "pack",
        "--format=docker",
        "-o",
        "out",
        "--layer=top",
        "base",
    ];
    let all: [&[&str]; 4] = [&dry, &inspect, &pack, &docker];
    for words in all {
        run(words).exits(0);
    }
    let lock = project.lock();
    let lock = lock.to_str().unwrap();
    for changed in ["top", "base"] {
        let (before, after) = project.change(changed);
        for words in all {
            run(words)
                .exits(125)
                .says_only(&refusal(changed, &after, lock, &before));
        }
        run(&["inspect", "--no-expect", "--layer", "top", "base"]).exits(0);
        run(&["inspect", "--no-expect", "--lock", changed]).exits(0);
    }
    // The base of a layer that is written is an image of the project as well.
    let (before, after) = project.change("top");
    fs::write(project.path().join("base/etc/base"), "base").unwrap();
    run(&["inspect", "--no-expect", "--lock", "base"]).exits(0);
    run(&[
        "pack", "--format", "tar", "--base", "top", "-o", "out", "base",
    ])
    .exits(125)
    .says_only(&refusal("top", &after, lock, &before));
    // All together have a digest too; the file has no line for that.
    let all = digest_in(&run(&["inspect", "--no-expect", "--layer=top", "base"]).stdout());
    run(&["inspect", "--expect", &all, "--layer=top", "base"]).exits(0);
    run(&["inspect", "--no-expect", "--lock", "--layer=top", "base"])
        .exits(125)
        .says("lock each by itself");
}

#[test]
fn what_is_checked_is_what_is_read_each_part_is_opened_once() {
    let project = Project::new();
    rdvm_in(project.path(), &["pack", "-o", "top.tar", "top"]).exits(0);
    rdvm_in(project.path(), &["inspect", "--lock", "top.tar"]).exits(0);
    let opens = |words: &[&str], parts: &[&str]| {
        let log = project.path().join("log");
        let traced = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=open,openat,openat2", "-o"])
            .arg(&log)
            .arg(RDVM)
            .args(words)
            .current_dir(project.path())
            .stdin(Stdio::null())
            .output();
        Run(traced.expect("strace is installed")).exits(0);
        let calls = fs::read_to_string(log).unwrap();
        for part in parts {
            let name = format!("AT_FDCWD, \"{part}\"");
            let count = calls.lines().filter(|call| call.contains(&name)).count();
            assert_eq!(count, 1, "{part} by {words:?}");
        }
    };
    if !crate::kept::has_strace() {
        return;
    }
    for (base, top) in [("app.tar", "top.tar"), ("base", "top"), ("base", "top.tar")] {
        opens(&["run", "--dry-run", "--layer", top, base], &[top, base]);
        opens(&["inspect", "--layer", top, base], &[top, base]);
        let pack = [
            "pack", "--format", "docker", "-o", "out", "--layer", top, base,
        ];
        opens(&pack, &[top, base]);
    }
}

#[test]
fn a_damaged_lock_file_is_named_with_the_line() {
    let project = Project::new();
    let good = fs::read_to_string(project.lock()).unwrap();
    let named = project.lock().display().to_string();
    for line in [
        "sha256:0123  base",
        "sha512:0123  base",
        // No path.
        &good[..73],
        "base",
        "<<<<<<< HEAD",
    ] {
        fs::write(project.lock(), format!("# agreed\n\n{line}\n{good}")).unwrap();
        for words in [
            &["inspect", "base"][..],
            &["run", "--dry-run", "base"],
            &["pack", "-o", "out", "base"],
            &["inspect", "--no-expect", "--lock", "base"],
        ] {
            rdvm_in(project.path(), words)
                .exits(125)
                .prints("")
                .says_only(&format!(
                    "rdvm: {named}: line 3: a digest is sha256: and 64 hexadecimal digits; rdvm inspect prints an \
                     image's, two spaces and the image's path\n"
                ));
        }
        rdvm_in(project.path(), &["inspect", "--no-expect", "base"]).exits(0);
    }
    assert!(!project.path().join("out").exists());
}

#[test]
fn one_tree_has_one_digest_in_every_form() {
    let image = one_of_everything();
    // A tar archive has no sockets.
    fs::remove_file(image.path().join("socket")).unwrap();
    fs::set_permissions(image.path(), fs::Permissions::from_mode(0o750)).unwrap();
    if rustix::process::geteuid().is_root() {
        let owned = image.path().join("usr/plain");
        std::os::unix::fs::chown(owned, Some(1234), Some(5_000_000)).unwrap();
    } else {
        missing("root, who may have other owners' files,");
    }
    let expected = digest_of(image.path(), &["--owner", "keep"]);
    let dir = TempDir::new().unwrap();
    let forms: [(&str, &[&str]); 10] = [
        ("a.tar", &[]),
        ("a.tar.gz", &[]),
        ("a.tar.zst", &[]),
        ("a.tar.lz4", &[]),
        ("docker", &["--format", "docker"]),
        ("docker-gz", &["--format", "docker", "--compress", "gzip"]),
        ("oci", &["--format", "oci"]),
        ("oci-zst", &["--format", "oci", "--compress", "zstd"]),
        ("a.cpio", &[]),
        ("a.cpio.gz", &[]),
    ];
    for (name, words) in forms {
        let packed = dir.path().join(name);
        let mut rdvm = Rdvm::verb("pack").option("--owner").option("keep");
        for word in words {
            rdvm = rdvm.option(word);
        }
        rdvm.option("-o")
            .option(&packed)
            .image(image.path())
            .run()
            .exits(0);
        assert_eq!(digest_of(&packed, &[]), expected, "{name}");
    }
    let layout = dir.path().join("layout");
    fs::create_dir(&layout).unwrap();
    let unpacked = Command::new("tar")
        .arg("-xf")
        .arg(dir.path().join("oci"))
        .arg("-C")
        .arg(&layout)
        .status();
    assert!(unpacked.unwrap().success());
    assert_eq!(digest_of(&layout, &[]), expected, "a layout's directory");
    assert_ne!(digest_of(image.path(), &["--owner", "root"]), expected);
    fs::write(image.path().join("usr/plain"), "contentS\n").unwrap();
    assert_ne!(digest_of(image.path(), &["--owner", "keep"]), expected);
}
