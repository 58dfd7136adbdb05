//! The example of the container cookbook: layers by make, of which only those that depend on a change are made again.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{RDVM, Rdvm, engines, missing};

/// What make did, or with `-n` would do, as the last word of each `-o`.
fn make(dir: &Path, options: &[&str]) -> Vec<String> {
    let made = Command::new("make")
        .current_dir(dir)
        .arg(format!("RDVM={RDVM}"))
        .args(options)
        .output()
        .unwrap();
    let said = String::from_utf8(made.stdout).unwrap();
    let error = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}{error}");
    let lines = said.lines().filter_map(|line| line.split_once("-o "));
    let outputs = lines.filter_map(|(_, rest)| rest.split(' ').next());
    outputs.map(str::to_owned).collect()
}

#[test]
fn only_what_depends_on_a_change_is_made_again_and_the_image_runs() {
    if [Path::new("/usr/bin/make"), Path::new("/usr/bin/cc")]
        .iter()
        .any(|tool| !tool.exists())
    {
        // In the rig, too, there is neither.
        return missing("make or cc");
    }
    let dir = tempfile::tempdir().unwrap();
    for file in fs::read_dir("examples/cookbook").unwrap().flatten() {
        if file.file_type().unwrap().is_file() {
            fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
        }
    }
    let image = "hello.docker.tar";
    assert_eq!(
        make(dir.path(), &[image]),
        ["simple.tar", "libs.tar", "hello.docker.tar"]
    );
    assert_eq!(make(dir.path(), &[image]), [""; 0]);
    for (touched, outputs) in [
        ("hello.c", &["libs.tar", "hello.docker.tar"][..]),
        ("simple.sh", &["simple.tar", "libs.tar", "hello.docker.tar"]),
        ("init.sh", &[]),
    ] {
        assert_eq!(
            make(dir.path(), &["-n", "-W", touched, image]),
            outputs,
            "{touched}"
        );
    }
    assert_eq!(
        make(
            dir.path(),
            &[
                "-n",
                "-W",
                "app.sh",
                "-o",
                "install.made",
                "-o",
                "install.tar",
                "debian.docker.tar"
            ]
        ),
        ["app.tar", "debian.docker.tar"]
    );
    // Nothing of what is below is in the layer on top.
    let listed = Command::new("tar")
        .arg("-tf")
        .arg(dir.path().join("libs.tar"))
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(
        listed.contains("bin/hello\n") && !listed.contains("busybox"),
        "{listed}"
    );
    for engine in engines() {
        Rdvm::on(engine)
            .image(dir.path().join(image))
            .run()
            .exits(0)
            .prints("Hello from a program with libraries.\n");
    }
}
