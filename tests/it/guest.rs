//! What the command finds is what it would find in a docker container: docs/guest.md, as tests.

use std::io::Write;

use crate::support::{Image, Rdvm, Run, engines};

/// busybox with two users.
fn users() -> Image {
    let passwd = "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n";
    let image = Image::busybox().file("etc/passwd", 0o644, passwd);
    image.file("etc/shadow", 0o600, "root:*:::::::\nweb:*:::::::\n")
}

/// A run of a script.
fn sh(engine: &str, options: &[&str], image: &Image, script: &str) -> Run {
    let rdvm = Rdvm::on(engine);
    let rdvm = options
        .iter()
        .fold(rdvm, |rdvm, option| rdvm.option(option));
    rdvm.image(image.path()).sh(script).run().exits(0)
}

const OPENS: &str = "cat /dev/stdin; cat /proc/self/fd/0; echo 1 >/dev/stdout; echo 2 >/dev/stderr; \
                     echo 3 >/proc/self/fd/1; echo 4 >/proc/self/fd/2";

#[test]
fn standard_streams_can_be_opened_by_name_whoever_the_command_runs_as() {
    let image = users();
    for engine in engines() {
        // The second one changes its user by itself.
        let changed = format!("exec su -s /bin/sh web -c '{OPENS}'");
        for (options, script) in [(&["-iu", "1000"][..], OPENS), (&["-i"], &changed)] {
            let rdvm = options
                .iter()
                .fold(Rdvm::on(engine), |rdvm, option| rdvm.option(option));
            let (run, fed) = rdvm
                .image(image.path())
                .sh(script)
                .fed(|mut stdin| stdin.write_all(b"in\n"));
            fed.unwrap();
            run.exits(0).prints("in\n1\n3\n").says_only("2\n4\n");
        }
        let script = "cat /dev/stdin; echo out >/dev/stdout";
        sh(engine, &["-u", "1000"], &image, script).prints("out\n");
        sh(engine, &["-tu", "1000"], &image, "echo out >/dev/stdout").prints("out\r\n");
    }
}
