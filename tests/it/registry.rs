//! Images by name: from docker's own registry program on loopback, pushed by skopeo, with and without TLS and logins. How
//! rdvm bears hostile servers is tested in `crates/registry/src/tests`.

mod server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use self::server::{Home, Registry, Slow, all_there, blobs, push};
use crate::support::{Image, Rdvm, any_engine, busybox, eventually, left_out, reference_image};

/// A registry with `app:1`, an image of three layers; `None` where the programs for that are missing.
fn registry_with_app() -> Option<(Registry, Home)> {
    let registry = Registry::start("")?;
    let home = Home::new();
    push(&home.archive(), &registry.name("app:1"), &[]);
    Some((registry, home))
}

#[test]
fn what_is_pulled_is_what_skopeo_copies_and_skopeo_reads_it() {
    let Some((registry, home)) = registry_with_app() else {
        return;
    };
    let name = registry.name("app:1");
    let line = home.rdvm(&["pull", &name]).exits(0).says_only("").stdout();
    let copied = home.path().join("copied");
    let skopeo = |words: &[&str]| {
        let output = Command::new("skopeo").args(words).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let from = format!("docker://{name}");
    skopeo(&[
        "copy",
        "-q",
        "--src-tls-verify=false",
        &from,
        &format!("oci:{}:x", copied.display()),
    ]);
    assert_eq!(blobs(&home.store()), blobs(&copied));
    assert_eq!(
        blobs(&home.store()).len(),
        5,
        "three layers, manifest and configuration"
    );
    let digest = skopeo(&[
        "inspect",
        "--format",
        "{{.Digest}}",
        &format!("oci:{}:{name}", home.store().display()),
    ]);
    assert_eq!(line, format!("{name} {digest}"));
    // docker's form of a manifest as well.
    let docker = registry.name("docker/form:1");
    push(&home.archive(), &docker, &["--format", "v2s2"]);
    home.rdvm(&["pull", "-q", &docker]).exits(0);
    let (own, other) = (home.inspect(&name), home.inspect(&docker));
    assert_eq!(own["digest"], other["digest"]);
    assert_ne!(own["manifest"], other["manifest"]);
    let plain: serde_json::Value = serde_json::from_str(
        &home
            .rdvm(&["inspect", "--json", home.archive().to_str().unwrap()])
            .exits(0)
            .stdout(),
    )
    .unwrap();
    assert_eq!(own["digest"], plain["digest"]);
}

#[test]
fn images_are_listed_and_removed() {
    let Some((registry, home)) = registry_with_app() else {
        return;
    };
    let (first, second) = (registry.name("app:1"), registry.name("other:2"));
    push(&home.archive(), &second, &[]);
    assert_eq!(
        home.rdvm(&["images"]).exits(0).stdout(),
        "NAME  DIGEST  SIZE  PULLED\n"
    );
    home.rdvm(&["pull", &first, &format!("docker://{second}")])
        .exits(0);
    let table = home.rdvm(&["images"]).exits(0).stdout();
    let listed = home.images();
    assert_eq!(listed.len(), 2);
    let digest = listed[0]["digest"].as_str().unwrap();
    for name in [&first, &second] {
        let line = table
            .lines()
            .find(|line| line.starts_with(name.as_str()))
            .unwrap();
        assert!(
            line.contains(&digest[7..19]) && line.ends_with("just now"),
            "{line}"
        );
    }
    home.rdvm(&["rmi", &first])
        .exits(0)
        .prints(format!("removed {first}\n"));
    assert_eq!(home.images().len(), 1);
    all_there(&home.store());
    home.rdvm(&["rmi", &first])
        .exits(125)
        .says("is not in the local store; rdvm images lists");
    home.rdvm(&["rmi", &digest[7..19]])
        .exits(0)
        .prints(format!("removed {second}\n"));
    assert!(home.images().is_empty() && blobs(&home.store()).is_empty());
    home.rdvm(&["inspect", "--pull", "never", &first])
        .exits(125)
        .says_only(&format!(
            "rdvm: {first}: is not in the local store; rdvm pull {first} fetches it\n"
        ));
    let missing = registry.name("none:1");
    home.rdvm(&["pull", &missing, &first])
        .exits(125)
        .says(&format!(
            "rdvm: {missing}: {} has no such image",
            registry.host()
        ));
    // The other one came all the same.
    assert_eq!(home.images().len(), 1);
}

#[test]
fn an_image_runs_by_its_name_and_once_more_without_its_registry() {
    for engine in any_engine() {
        let Some(registry) = Registry::start("") else {
            return;
        };
        let home = Home::new();
        let name = registry.name("box:1");
        let archive = home.path().join("box.tar");
        home.rdvm(&[
            "pack",
            "--format",
            "oci",
            "-o",
            archive.to_str().unwrap(),
            busybox().path().to_str().unwrap(),
        ])
        .exits(0);
        push(&archive, &name, &[]);
        let run = |name: &str, script: &str| {
            home.environment(Rdvm::on(engine))
                .image(name)
                .sh(script)
                .run()
        };
        run(&name, "echo by name")
            .exits(0)
            .prints("by name\n")
            .says(&format!("rdvm: pulled {name}, "));
        drop(registry);
        run(&format!("docker://{name}"), "exit 7").exits(7);
        let digest = home.images()[0]["digest"].as_str().unwrap().to_owned();
        let pinned = name.replace(":1", &format!("@{digest}"));
        run(&pinned, "echo pinned").exits(0).prints("pinned\n");
        let other = run(&registry_name(&name, "other:1"), "exit 0")
            .exits(125)
            .stderr();
        assert!(other.contains("try again later"), "{other}");
    }
}

/// Another name at the registry of this one.
fn registry_name(name: &str, other: &str) -> String {
    let (host, _) = name.split_once('/').unwrap();
    format!("{host}/{other}")
}

#[test]
fn packed_images_have_the_tree_of_the_named_one_and_profiles_name_it() {
    let Some((registry, home)) = registry_with_app() else {
        return;
    };
    let name = registry.name("app:1");
    let tar = home.path().join("out.tar");
    home.rdvm(&["pack", "-o", tar.to_str().unwrap(), &name])
        .exits(0)
        .says(&format!("pulled {name}"));
    let packed: serde_json::Value = serde_json::from_str(
        &home
            .rdvm(&["inspect", "--json", tar.to_str().unwrap()])
            .exits(0)
            .stdout(),
    )
    .unwrap();
    assert_eq!(packed["digest"], home.inspect(&name)["digest"]);
    home.rdvm(&["run", "--layer", &name, "x"])
        .exits(125)
        .says("rdvm reads files and directories; skopeo copy docker://");
    home.rdvm(&["inspect", "--tag", "x", &name])
        .exits(125)
        .says("--tag is about files");
    let zeros = format!("sha256:{}", "0".repeat(64));
    home.rdvm(&["inspect", "--expect", &zeros, &name])
        .exits(125)
        .says(&format!("rdvm: {name}: its digest is sha256:"));
    fs::write(
        home.path().join("rdvm.toml"),
        format!("[profile.p]\nimage = \"{name}\"\ncommand = [\"sh\", \"-c\", \"true\"]\n"),
    )
    .unwrap();
    home.rdvm(&["run", "--dry-run", "--profile", "p"])
        .exits(0)
        .says("rdvm: kernel");
}

#[test]
fn a_lock_file_keeps_the_image_of_a_name() {
    let Some((registry, home)) = registry_with_app() else {
        return;
    };
    let name = registry.name("app:1");
    home.rdvm(&["inspect", "--lock", &name]).exits(0);
    let locked = home.inspect(&name)["manifest"].clone();
    let lock = home.path().join("rdvm.lock");
    let text = fs::read_to_string(&lock).unwrap();
    assert_eq!(
        text,
        format!("{}  docker://{name}\n", locked.as_str().unwrap())
    );
    // The tag moves, and everything that is here goes.
    let other = home.path().join("other.tar");
    home.rdvm(&[
        "pack",
        "--format",
        "oci",
        "-o",
        other.to_str().unwrap(),
        busybox().path().to_str().unwrap(),
    ])
    .exits(0);
    push(&other, &name, &[]);
    home.rdvm(&["rmi", &name]).exits(0);
    assert_eq!(home.inspect(&name)["manifest"], locked);
    assert_eq!(
        home.images()[0]["name"],
        name.replace(":1", &format!("@{}", locked.as_str().unwrap()))
    );
    let words = ["inspect", "--json", "--no-expect", &name];
    let moved: serde_json::Value =
        serde_json::from_str(&home.rdvm(&words).exits(0).stdout()).unwrap();
    assert_ne!(moved["manifest"], locked);
    // The lock counts also when the tag's new image is here, and for names that are written otherwise.
    assert_eq!(home.inspect(&name)["manifest"], locked);
    assert_eq!(
        home.inspect(&format!("docker://{name}"))["manifest"],
        locked
    );
    fs::write(home.path().join("file"), "").unwrap();
    home.rdvm(&["inspect", "--lock", "--no-expect", &name])
        .exits(0);
    assert_eq!(home.inspect(&name)["manifest"], moved["manifest"]);
    let text = fs::read_to_string(&lock).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    // Files are locked beside it as ever.
    home.rdvm(&["inspect", "--lock", "other.tar"]).exits(0);
    let text = fs::read_to_string(&lock).unwrap();
    assert!(
        text.lines().count() == 2 && text.ends_with("  other.tar\n"),
        "{text}"
    );
    fs::write(
        &lock,
        text.replace(
            moved["manifest"].as_str().unwrap(),
            &format!("sha256:{}", "0".repeat(64)),
        ),
    )
    .unwrap();
    home.rdvm(&["run", "--dry-run", &name])
        .exits(125)
        .says("has no such image");
    let pinned = name.replace(":1", &format!("@{}", moved["manifest"].as_str().unwrap()));
    home.rdvm(&["inspect", "--lock", &pinned])
        .exits(125)
        .says("its name has a digest already");
}

#[test]
fn tls_needs_a_ca_that_is_trusted() {
    let home = Home::new();
    let Some((registry, ca)) = Registry::start_with_tls(home.path()) else {
        return;
    };
    let name = registry.name("app:1");
    push(&home.archive(), &name, &[]);
    home.rdvm(&["pull", &name])
        .exits(125)
        .says("its certificate is not trusted");
    let ok = |home: &Home, variables: &[(&str, &Path)]| {
        home.rdvm_with(&["pull", &name], variables)
            .exits(0)
            .says_only("");
        all_there(&home.store());
        home.rdvm(&["rmi", &name]).exits(0);
    };
    ok(&home, &[("SSL_CERT_FILE", &ca)]);
    let conf = home.path().join("insecure.conf");
    fs::write(
        &conf,
        format!(
            "[[registry]]\nlocation = '{}'\ninsecure = true\n",
            registry.host()
        ),
    )
    .unwrap();
    ok(&home, &[("CONTAINERS_REGISTRIES_CONF", &conf)]);
    home.rdvm(&["pull", &name]).exits(125);
    let certs = home
        .path()
        .join(".config/containers/certs.d")
        .join(registry.host());
    fs::create_dir_all(&certs).unwrap();
    fs::copy(&ca, certs.join("ca.crt")).unwrap();
    ok(&home, &[]);
}

#[test]
fn a_registry_with_passwords_wants_the_right_one() {
    let home = Home::new();
    let Some(registry) = Registry::start_with_password(home.path(), "user", "secret") else {
        return;
    };
    let name = registry.name("app:1");
    push(&home.archive(), &name, &["--dest-creds", "user:secret"]);
    home.rdvm(&["pull", &name])
        .exits(125)
        .says("grants no access");
    // user:secret and user:wrong in base64.
    let auth = |word: &str| {
        format!(
            r#"{{"auths":{{"{}":{{"auth":"{word}"}}}}}}"#,
            registry.host()
        )
    };
    let write = |path: &str, text: &str| {
        let path = home.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    };
    write(".docker/config.json", &auth("dXNlcjp3cm9uZw=="));
    home.rdvm(&["pull", &name])
        .exits(125)
        .says("grants no access");
    let file = write("auth.json", &auth("dXNlcjpzZWNyZXQ="));
    home.rdvm_with(&["pull", &name], &[("REGISTRY_AUTH_FILE", &file)])
        .exits(0);
    write(".docker/config.json", r#"{"credsStore":"test"}"#);
    let program = write(
        "bin/docker-credential-test",
        &format!(
            "#!/bin/sh\nread -r host\n[ \"$host\" = {} ] && echo '{{\"Username\":\"user\",\"Secret\":\"secret\"}}'\n",
            registry.host()
        ),
    );
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&program, mode).unwrap();
    let path = PathBuf::from(format!(
        "{}:/usr/bin:/bin",
        program.parent().unwrap().display()
    ));
    home.rdvm(&["rmi", "--to", "0"]).exits(0);
    home.rdvm_with(&["pull", &name], &[("PATH", &path)])
        .exits(0);
    all_there(&home.store());
}

#[test]
fn short_names_mirrors_and_blocks_are_those_of_the_configuration() {
    let Some((registry, home)) = registry_with_app() else {
        return;
    };
    let conf = home.path().join("registries.conf");
    let text = format!(
        "unqualified-search-registries = ['{0}']\n[aliases]\nshort = '{0}/app'\n\
         [[registry]]\nprefix = 'r.example/x'\nlocation = '{0}'\n[[registry]]\nlocation = 'blocked.example'\nblocked = true\n",
        registry.host()
    );
    fs::write(&conf, text).unwrap();
    let variables: &[(&str, &Path)] = &[("CONTAINERS_REGISTRIES_CONF", &conf)];
    for (name, full) in [
        ("app:1", registry.name("app:1")),
        ("short:1", registry.name("app:1")),
        ("r.example/x/app:1", "r.example/x/app:1".to_owned()),
    ] {
        let line = home.rdvm_with(&["pull", name], variables).exits(0).stdout();
        assert!(line.starts_with(&format!("{full} sha256:")), "{line}");
    }
    assert_eq!(home.images().len(), 2);
    home.rdvm_with(&["inspect", "--pull", "never", "app:1"], variables)
        .exits(0);
    home.rdvm_with(&["pull", "blocked.example/app:1"], variables)
        .exits(125)
        .says("blocks this registry");
}

#[test]
fn signatures_that_a_policy_demands_are_skopeos_to_check() {
    let Some((registry, home)) = registry_with_app() else {
        return;
    };
    let name = registry.name("app:1");
    let conf = home.path().join("registries.conf");
    fs::write(
        &conf,
        format!(
            "[[registry]]\nlocation = '{}'\ninsecure = true\n",
            registry.host()
        ),
    )
    .unwrap();
    let key = home.path().join("key.pub");
    fs::write(&key, "").unwrap();
    let policy = home.path().join(".config/containers/policy.json");
    fs::create_dir_all(policy.parent().unwrap()).unwrap();
    fs::write(
        &policy,
        format!(
            r#"{{"default":[{{"type":"signedBy","keyType":"GPGKeys","keyPath":"{}"}}]}}"#,
            key.display()
        ),
    )
    .unwrap();
    let variables: &[(&str, &Path)] = &[("CONTAINERS_REGISTRIES_CONF", &conf)];
    home.rdvm_with(&["pull", &name], variables)
        .exits(125)
        .says("skopeo: ");
    assert!(home.images().is_empty());
    let none: &[(&str, &Path)] = &[("PATH", Path::new("/nowhere"))];
    home.rdvm_with(&["pull", &name], none)
        .exits(125)
        .says("demands a signature (signedBy), which skopeo checks; install skopeo");
    // One that finds every signature good.
    let bin = home.path().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let program = bin.join("skopeo");
    fs::write(
        &program,
        "#!/bin/sh\nexec /usr/bin/skopeo --insecure-policy \"$@\"\n",
    )
    .unwrap();
    fs::set_permissions(
        &program,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let variables: &[(&str, &Path)] = &[("CONTAINERS_REGISTRIES_CONF", &conf), ("PATH", &bin)];
    home.rdvm_with(&["pull", &name], variables).exits(0);
    all_there(&home.store());
    assert_eq!(home.images()[0]["layers"], 3);
    fs::remove_file(policy).unwrap();
    home.rdvm(&["inspect", "--pull", "never", &name]).exits(0);
}

#[test]
fn three_processes_pull_one_image_and_one_is_there() {
    let Some((registry, home)) = registry_with_app() else {
        return;
    };
    let name = registry.name("app:1");
    let children: Vec<_> = (0..3)
        .map(|_| home.command(&["pull", &name]).spawn().unwrap())
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(home.images().len(), 1);
    all_there(&home.store());
    assert_eq!(
        fs::read_dir(home.store().join("partial")).unwrap().count(),
        0
    );
}

#[test]
fn a_pull_that_is_killed_goes_on_the_next_time() {
    let Some((registry, home)) = registry_with_app() else {
        return;
    };
    // The largest layer has more bytes than come before the connection stands still.
    let slow = Slow::before(registry.host(), 300_000);
    let name = slow.name("app:1");
    let mut child = home.command(&["pull", &name]).spawn().unwrap();
    let partial = || {
        let entries = fs::read_dir(home.store().join("partial"))
            .into_iter()
            .flatten()
            .flatten();
        entries
            .map(|entry| entry.metadata().unwrap().len())
            .max()
            .unwrap_or(0)
    };
    eventually("some of the layer is there", || partial() > 100_000);
    child.kill().unwrap();
    child.wait().unwrap();
    let before = partial();
    assert!(home.images().is_empty() && before > 100_000);
    slow.stop_being_slow();
    home.rdvm(&["pull", &name]).exits(0);
    all_there(&home.store());
    assert_eq!(partial(), 0);
    let ranges = slow.ranges();
    assert!(
        ranges.iter().any(|from| (100_000..=before).contains(from)),
        "{ranges:?} {before}"
    );
}

#[test]
fn the_store_keeps_to_its_limit() {
    let Some((registry, home)) = registry_with_app() else {
        return;
    };
    let names = [registry.name("app:1"), registry.name("box:1")];
    let archive = home.path().join("box.tar");
    home.rdvm(&[
        "pack",
        "--format",
        "oci",
        "-o",
        archive.to_str().unwrap(),
        busybox().path().to_str().unwrap(),
    ])
    .exits(0);
    push(&archive, &names[1], &[]);
    for name in &names {
        home.rdvm_with(&["pull", name], &[("RDVM_STORE_LIMIT", Path::new("1k"))])
            .exits(0);
        let images = home.images();
        assert!(
            images.len() == 1 && images[0]["name"] == **name,
            "{images:?}"
        );
        all_there(&home.store());
    }
    home.rdvm_with(
        &["pull", &names[0]],
        &[("RDVM_STORE_LIMIT", Path::new("much"))],
    )
    .exits(125)
    .says("is not a size");
    home.rdvm(&["rmi", "--to", "0"])
        .exits(0)
        .prints(format!("removed {}\n", names[1]));
}

#[test]
fn a_full_disk_loses_the_pull_alone() {
    let Some((registry, home)) = registry_with_app() else {
        return;
    };
    if !rustix::process::geteuid().is_root() {
        left_out("mounting a small file system needs root");
        return;
    }
    let small = registry.name("small:1");
    let image = Image::empty()
        .file("etc/a", 0o644, "a")
        .file("init", 0o755, "#!/bin/sh\n");
    let archive = home.path().join("small.tar");
    home.rdvm(&[
        "pack",
        "--format",
        "oci",
        "-o",
        archive.to_str().unwrap(),
        image.path().to_str().unwrap(),
    ])
    .exits(0);
    push(&archive, &small, &[]);
    fs::create_dir_all(home.path().join("cache")).unwrap();
    // More is free when the pull begins than when the layers have come.
    let script = "mount -t tmpfs -o size=3m none cache && rdvm=$0 && \
        $rdvm pull $1 || exit 1; head -c 1m /dev/zero >cache/other; $rdvm pull $2; echo $?; $rdvm images; rm cache/other; \
        $rdvm inspect --pull never $1 >/dev/null && $rdvm pull $1";
    let mut unshare = Command::new("unshare");
    unshare.args([
        "--mount",
        "sh",
        "-c",
        script,
        crate::support::RDVM,
        &small,
        &registry.name("app:1"),
    ]);
    let run = crate::support::Run(home.surround(&mut unshare).output().unwrap()).exits(0);
    let lines = run.stdout();
    assert!(
        lines.contains("\n125\n") && lines.matches(&small).count() == 3,
        "{lines} {}",
        run.stderr()
    );
    assert!(
        run.stderr().contains("are free, and") || run.stderr().contains("No space left"),
        "{}",
        run.stderr()
    );
}

#[test]
fn the_reference_image_runs_by_name() {
    let (Some(libs), Some(registry)) = (reference_image("libs"), Registry::start("")) else {
        return;
    };
    for engine in any_engine() {
        let home = Home::new();
        let archive = home.path().join("libs.tar");
        home.rdvm(&[
            "pack",
            "--format",
            "oci",
            "-o",
            archive.to_str().unwrap(),
            libs.to_str().unwrap(),
        ])
        .exits(0);
        let name = registry.name("libs:1");
        push(&archive, &name, &[]);
        let run = home
            .environment(Rdvm::on(engine))
            .option("-q")
            .image(&name)
            .run();
        run.exits(0).says_only("");
    }
}
