//! The two images of the reference scenario: one directory, run in a chroot and in rdvm, with the same outcome.

use std::process::Command;

use crate::support::{Rdvm, any_engine, engines, missing, reference_image};

/// Runs `/init` in a chroot; `None` where that cannot be done here.
fn in_chroot(image: &std::path::Path) -> Option<std::process::Output> {
    let output = Command::new("unshare")
        .args(["-r", "chroot"])
        .arg(image)
        .arg("/init")
        .output()
        .ok()?;
    if output.status.code() == Some(0) {
        return Some(output);
    }
    let output = Command::new("chroot")
        .arg(image)
        .arg("/init")
        .output()
        .ok()?;
    output.status.success().then_some(output)
}

#[test]
fn both_reference_images_say_the_same_in_a_chroot_and_in_rdvm() {
    for name in ["libs", "debian"] {
        let Some(image) = reference_image(name) else {
            continue;
        };
        let Some(chroot) = in_chroot(&image) else {
            missing("chroot (user namespaces or root)");
            continue;
        };
        assert!(
            !chroot.stdout.is_empty(),
            "/init of {name} prints something"
        );
        for engine in engines() {
            Rdvm::on(engine)
                .image(&image)
                .run()
                .exits(0)
                .prints(&chroot.stdout)
                .says_only("");
        }
    }
}

#[test]
fn the_debian_image_needs_less_than_three_times_its_size() {
    let Some(image) = reference_image("debian") else {
        return;
    };
    let run = Rdvm::verb("inspect").option(&image).run().exits(0);
    let text = run.stdout();
    let number = |line: &str| -> u64 {
        let line = text.lines().find(|l| l.starts_with(line)).unwrap();
        line.split_whitespace()
            .skip(1)
            .find_map(|word| word.parse().ok())
            .unwrap()
    };
    let cookbook = 3 * number("initrd") + 64;
    assert!(
        number("memory") < cookbook,
        "{} MiB against {cookbook} MiB",
        number("memory")
    );
}

#[test]
fn programs_of_the_debian_image_run_as_they_do_anywhere() {
    let Some(image) = reference_image("debian") else {
        return;
    };
    for engine in any_engine() {
        let script = "set -e; apt-get --version | head -1 | cut -d' ' -f1; perl -e 'print 6*7, \"\\n\"'; \
                      dpkg-query -W -f '${Status}\\n' dpkg; mkdir /tmp/x; df / >/dev/null; tar -C /etc -cf - passwd | tar -tf -";
        let run = Rdvm::on(engine).image(&image).sh(script).run();
        run.exits(0)
            .prints("apt\n42\ninstall ok installed\npasswd\n");
    }
}
