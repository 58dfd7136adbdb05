//! There and back: what `pack` writes in one form and reads in another is in the guest the tree that it was, and runs as
//! the image says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::pack::one_of_everything;
use crate::support::{Image, RDVM, Rdvm, Run, any_engine, note_run};

/// Packs one image after the other, each from the one before; gives the last.
fn chain(dir: &TempDir, from: &Path, steps: &[(&str, &[&str])]) -> PathBuf {
    let mut image = from.to_owned();
    for (name, words) in steps {
        let output = dir.path().join(name);
        let mut rdvm = Rdvm::verb("pack").option("--owner").option("keep");
        for word in *words {
            rdvm = rdvm.option(word);
        }
        rdvm.option("-o")
            .option(&output)
            .image(&image)
            .run()
            .exits(0)
            .says_only("");
        image = output;
    }
    image
}

/// What tests/programs/walk.c finds, owners too.
fn walked(image: &Path) -> String {
    let mut walk = Command::new(image.join("walk"));
    let output = walk.current_dir(image).output().unwrap();
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_tree_that_went_through_all_forms_is_the_same_in_the_guest() {
    let image = one_of_everything();
    // A tar archive has no sockets.
    fs::remove_file(image.path().join("socket")).unwrap();
    let outside = walked(image.path());
    assert!(outside.lines().count() > 30, "{outside}");
    let dir = TempDir::new().unwrap();
    let chains: [&[(&str, &[&str])]; 3] = [
        &[("docker", &["--format", "docker"])],
        &[
            ("oci", &["--format", "oci", "--compress", "zstd"]),
            ("a.tar", &[]),
            ("a.cpio", &[]),
        ],
        &[
            ("b.cpio.gz", &[]),
            ("b.docker", &["--format", "docker", "--compress", "gzip"]),
            ("b.tar.lz4", &[]),
            ("b.oci", &["--format", "oci"]),
        ],
    ];
    for steps in chains {
        let packed = chain(&dir, image.path(), steps);
        for engine in any_engine() {
            let run = Rdvm::on(engine).image(&packed);
            let inside = run.sh("cd /; exec /walk").run().exits(0).says_only("");
            assert_eq!(
                inside.stdout().lines().collect::<Vec<_>>(),
                outside.lines().collect::<Vec<_>>(),
                "{engine}: {steps:?}"
            );
        }
    }
}

#[test]
fn the_way_there_does_not_show_in_the_bytes() {
    let image = one_of_everything();
    fs::remove_file(image.path().join("socket")).unwrap();
    let dir = TempDir::new().unwrap();
    let direct = chain(&dir, image.path(), &[("direct.cpio", &[])]);
    let around: &[(&str, &[&str])] = &[
        ("a.oci", &["--format", "oci", "--compress", "gzip"]),
        ("a.tar.zst", &[]),
        ("a.docker", &["--format", "docker"]),
        ("a.cpio.lz4", &[]),
        ("a.cpio", &[]),
    ];
    let around = chain(&dir, image.path(), around);
    assert!(fs::read(direct).unwrap() == fs::read(around).unwrap());
}

/// What a command sees of how it is run.
const LOOK: &str = "echo \"$0 $@\"; echo $A,$B; pwd; id -u; id -g; id -G";

/// An image of users with names, and in it a program that tells how it is run.
fn served() -> Image {
    Image::busybox()
        .file("srv/serve", 0o755, format!("#!/bin/sh\n{LOOK}\n"))
        .file(
            "etc/passwd",
            0o644,
            "root:x:0:0::/:/bin/sh\napp:x:1000:100::/srv:/bin/sh\nother:x:1001:101::/:/bin/sh\n",
        )
        .file(
            "etc/group",
            0o644,
            "root:x:0:\nusers:x:100:\nextra:x:2000:root,app\nmore:x:2001:app,other\n",
        )
}

/// What `pack` says of the image.
const SAID: [&str; 12] = [
    "--entrypoint",
    "/srv/serve first",
    "--cmd",
    "[\"two words\", \"\"]",
    "--env",
    "A=image",
    "--env",
    "B=image",
    "--workdir",
    "/srv",
    "--user",
    "app",
];

#[test]
fn an_image_runs_as_it_says_and_options_say_otherwise() {
    let image = served();
    let dir = TempDir::new().unwrap();
    let everybody = "1000\n100\n100 2000 2001\n";
    let cases: [(&[&str], &[&str], String); 7] = [
        (
            &[],
            &[],
            format!("/srv/serve first two words \nimage,image\n/srv\n{everybody}"),
        ),
        (
            &[],
            &["given"],
            format!("/srv/serve first given\nimage,image\n/srv\n{everybody}"),
        ),
        (
            &["--entrypoint", "/srv/serve"],
            &[],
            format!("/srv/serve \nimage,image\n/srv\n{everybody}"),
        ),
        (
            &["--entrypoint", "sh"],
            &["-c", LOOK, "name", "x"],
            format!("name x\nimage,image\n/srv\n{everybody}"),
        ),
        (
            &["--env", "B=mine", "--workdir", "/etc"],
            &["given"],
            format!("/srv/serve first given\nimage,mine\n/etc\n{everybody}"),
        ),
        (
            &["--user", "other:users"],
            &["given"],
            // As docker: a group that is given keeps only that.
            "/srv/serve first given\nimage,image\n/srv\n1001\n100\n100\n".to_owned(),
        ),
        (
            &["--user", "4321:1234"],
            &["given"],
            "/srv/serve first given\nimage,image\n/srv\n4321\n1234\n1234\n".to_owned(),
        ),
    ];
    for format in ["docker", "oci"] {
        let words = [&["--format", format][..], &SAID].concat();
        let archive = chain(&dir, image.path(), &[(format, &words)]);
        for engine in any_engine() {
            for (at, (options, command, expected)) in cases.iter().enumerate() {
                // The second form needs no more than to be understood the same.
                if format == "oci" && at > 0 {
                    continue;
                }
                let mut rdvm = Rdvm::on(engine);
                for option in *options {
                    rdvm = rdvm.option(option);
                }
                let run = rdvm.image(&archive).command(command).run();
                let run = run.exits(0);
                assert_eq!(&run.stdout(), expected, "{format}: {options:?} {command:?}");
            }
        }
    }
}

#[test]
fn what_an_image_says_stays_with_it_from_form_to_form() {
    let image = served();
    let dir = TempDir::new().unwrap();
    let words = [&["--format", "docker"][..], &SAID].concat();
    let steps: [(&str, &[&str]); 3] = [
        ("docker", &words),
        ("oci", &["--format", "oci"]),
        ("again", &["--format", "docker", "--compress", "gzip"]),
    ];
    let said = |image: &Path| {
        let page = Rdvm::verb("inspect").image(image).run().exits(0).stdout();
        let words = ["entrypoint", "cmd", "env", "workdir", "user"];
        let lines = page
            .lines()
            .filter(|line| words.iter().any(|word| line.starts_with(word)));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let first = said(&chain(&dir, image.path(), &steps[..1]));
    assert_eq!(
        first,
        [
            "entrypoint  /srv/serve first",
            "cmd         \"two words\" \"\"",
            "env         A=image B=image",
            "workdir     /srv",
            "user        app",
        ]
    );
    assert_eq!(said(&chain(&dir, image.path(), &steps[..2])), first);
    assert_eq!(said(&chain(&dir, image.path(), &steps)), first);
}

#[test]
fn a_stack_of_directories_becomes_an_image_of_layers_that_runs_from_a_pipe() {
    let base = Image::busybox()
        .file("etc/secret", 0o600, "x")
        .file("etc/word", 0o644, "base");
    let top = Image::empty()
        .file("etc/word", 0o644, "top")
        .file("etc/.wh.secret", 0o644, "");
    let dir = TempDir::new().unwrap();
    let layer = top.path().to_str().unwrap();
    let entrypoint = "[\"sh\", \"-c\", \"cat /etc/word; ls -d /etc/[sw]*\"]";
    for format in ["docker", "oci"] {
        let words = [
            "--format",
            format,
            "--layer",
            layer,
            "--entrypoint",
            entrypoint,
        ];
        let archive = chain(&dir, base.path(), &[(format, &words)]);
        for engine in any_engine() {
            note_run(engine);
            let mut cat = Command::new("cat")
                .arg(&archive)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let run = Command::new(RDVM)
                .args(["run", "--engine", engine, "-"])
                .stdin(cat.stdout.take().unwrap())
                .output();
            Run(run.unwrap()).exits(0).prints("top/etc/word\n");
            assert!(cat.wait().unwrap().success());
        }
    }
}

/// Nothing of an image's words is on the kernel's command line.
#[test]
fn words_that_a_kernel_or_a_shell_would_take_for_theirs_arrive_as_they_are() {
    let image = served();
    let dir = TempDir::new().unwrap();
    let words = ["init=/bin/none", " -- ", "two\nlines", "\"", "panic=1"];
    let entrypoint = [
        &["sh", "-c", "printf '<%s>' \"$@\" \"$A\"", "sh"][..],
        &words,
    ]
    .concat();
    let entrypoint = serde_json::json!(entrypoint).to_string();
    let options = ["--entrypoint", &entrypoint, "--env", "A=init=/x -- \n1"];
    for format in ["docker", "oci"] {
        let words = [&["--format", format][..], &options].concat();
        let archive = chain(&dir, image.path(), &[(format, &words)]);
        for engine in any_engine() {
            Rdvm::on(engine)
                .image(&archive)
                .run()
                .exits(0)
                .prints("<init=/bin/none>< -- ><two\nlines><\"><panic=1><init=/x -- \n1>");
        }
    }
}
