//! The container cookbook: its own docker image, and our example of it, layers by make, of which only those that depend on
//! a change are made again.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{RDVM, Rdvm, engines, is_missing, missing};

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

/// As redo's cookbook makes `simple` and `libs` and the layers of both, and docker's 1.0 form of them: cpio writes the
/// layers, and tar puts the topmost one first.
const IMAGE: &str = r##"
    set -e
    mkdir -p simple/bin
    cp "$(command -v busybox)" simple/bin/busybox
    ln -s busybox simple/bin/sh
    printf '#!/bin/sh\necho "from below"\n' >simple/init
    chmod 755 simple/init
    cp -a simple libs
    cc -O2 -s -o libs/bin/hello hello.c
    ldd libs/bin/hello | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "libs/${library%/*}"
        cp -L "$library" "libs$library"
    done
    rm libs/init
    ln -s bin/hello libs/init
    ids= parent=
    for layer in simple libs; do
        (cd $layer && find . -print | sort) >$layer.names
        case $layer in
            simple) cp simple.names simple.list ;;
            # What simple has alike is not in the layer of libs.
            *) while read -r name; do
                   [ ! -L "libs/$name" ] && [ -f "libs/$name" ] && cmp -s "simple/$name" "libs/$name" || echo "$name"
               done <libs.names >libs.list ;;
        esac
        (cd $layer && cpio -Hustar -o --quiet) <$layer.list >$layer.layer
        id=$(sha256sum <$layer.list)
        id=${id%% *}
        mkdir -p "image/$id"
        echo 1.0 >"image/$id/VERSION"
        line=
        [ -z "$parent" ] || line="\"parent\": \"$parent\","
        cat >"image/$id/json" <<EOF
            { "architecture": "amd64", "comment": "Imported from -", "id": "$id", $line
              "config": { "AttachStdin": false, "Cmd": ["/init"], "CpuShares": 0, "Entrypoint": null, "Env": null,
                          "ExposedPorts": null, "Hostname": "", "Labels": null, "Memory": 0, "User": "",
                          "Volumes": null, "WorkingDir": "" },
              "container_config": { "Cmd": null, "Hostname": "" }, "created": "2024-01-01T00:00:00.000000000Z",
              "docker_version": "1.6.2", "os": "linux", "Size": $(wc -c <$layer.layer) }
EOF
        ln $layer.layer "image/$id/layer.tar"
        ids="$id $ids"
        parent=$id
    done
    printf '{\n    "libs":{\n        "latest":"%s"\n    }\n}\n' "$parent" >image/repositories
    tar -C image -cf named.tar $ids repositories
    tar -C image -cf unnamed.tar $ids
"##;

#[test]
fn the_cookbooks_own_docker_image_runs() {
    // In the rig there are neither.
    if ["cc", "cpio"].into_iter().any(is_missing) {
        return missing("cc or cpio");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::copy("examples/cookbook/hello.c", dir.path().join("hello.c")).unwrap();
    let made = Command::new("bash")
        .args(["-c", IMAGE])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    for engine in engines() {
        // Older revisions of it wrote no `repositories`.
        for name in ["named.tar", "unnamed.tar"] {
            let run = Rdvm::on(engine).image(dir.path().join(name)).run();
            run.exits(0)
                .prints("Hello from a program with libraries.\n");
        }
    }
    let tagged = Rdvm::on(engines()[0]).option("--tag").option("libs:latest");
    let image = tagged.image(dir.path().join("named.tar"));
    let run = image.command(&["/bin/busybox", "readlink", "/init"]).run();
    run.exits(0).prints("bin/hello\n");
}
