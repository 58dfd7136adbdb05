//! What the command finds around it: arguments, variables, directory, user, devices, and the image as it is.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use sha2::{Digest, Sha256};

use crate::support::{Image, Rdvm, any_engine, busybox, engines, sized};

#[test]
fn an_image_of_one_static_binary_runs() {
    let image = Image::empty().program("hello", "hello");
    for engine in any_engine() {
        Rdvm::on(engine)
            .image(image.path())
            .command(&["/hello"])
            .run()
            .exits(7)
            .prints("hello\n")
            .says_only("");
    }
}

#[test]
fn mount_points_may_be_links_files_read_only_or_missing() {
    let mounted = "grep -c -E '^(proc /proc|sysfs /sys|devtmpfs /dev) ' /proc/mounts; test -c /dev/null && echo ok";
    let images = [
        Image::busybox()
            .link("/proc", "proc")
            .link("nowhere", "dev")
            .link("/bin", "sys")
            .link("/nowhere", "tmp"),
        Image::busybox()
            .file("proc", 0o644, "a file")
            .file("dev", 0o644, "")
            .file("tmp", 0o644, "")
            .file("run", 0o600, ""),
        Image::busybox()
            .directory("proc", 0o555)
            .directory("dev", 0o0)
            .directory("tmp", 0o555)
            .directory("sys", 0o0),
    ];
    for engine in any_engine() {
        for image in &images {
            Rdvm::on(engine)
                .image(image.path())
                .sh(mounted)
                .run()
                .exits(0)
                .prints("3\nok\n")
                .says_only("");
        }
        let script = "stat -c '%a %n' /tmp /run /dev/shm; ls /dev/pts /dev/fd/1 /dev/stdout; ip addr show lo | grep -c 'lo:.*UP'";
        let run = Rdvm::on(engine)
            .image(busybox().path())
            .sh(script)
            .run()
            .exits(0);
        run.prints(
            "1777 /tmp\n755 /run\n1777 /dev/shm\n/dev/fd/1\n/dev/stdout\n\n/dev/pts:\nptmx\n1\n",
        );
    }
}

#[test]
fn arguments_and_variables_arrive_byte_for_byte() {
    let image = Image::empty().program("dump", "dump");
    let odd = OsString::from_vec(vec![0xff, b'\n', 0x01, b' ', b'"', 0x80]);
    let mut value = OsString::from("ODD=");
    value.push(&odd);
    for engine in any_engine() {
        let run = Rdvm::on(engine)
            .option("-e")
            .option(&value)
            .option("-e")
            .option("EMPTY=")
            .option("-e")
            .option("HOME=/h");
        let words = [
            OsString::from("/dump"),
            OsString::new(),
            odd.clone(),
            "--".into(),
            "-x".into(),
            "a\u{e9}".into(),
        ];
        let run = run.image(image.path()).command(&words).run().exits(0);
        let mut expected = b"/dump\0\0".to_vec();
        expected.extend([0xff, b'\n', 0x01, b' ', b'"', 0x80]);
        expected.extend("\0--\0-x\0a\u{e9}\0".as_bytes());
        expected.extend(
            b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\0HOME=/h\0HOSTNAME=rdvm\0ODD=",
        );
        expected.extend([0xff, b'\n', 0x01, b' ', b'"', 0x80]);
        expected.extend(b"\0EMPTY=\0");
        run.prints(&expected);
    }
}

#[test]
fn a_mebibyte_of_arguments_and_ten_thousand_variables_arrive() {
    let image = Image::empty().program("dump", "dump");
    let words: Vec<String> = (0..sized(64, 4))
        .map(|n| format!("{n:02}").repeat(8192))
        .collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    let variables: String = (0..sized(10_000, 1_000))
        .map(|n| format!("V{n}=value {n}\n"))
        .collect();
    std::fs::write(file.path(), format!("# comment\n\n{variables}")).unwrap();
    let mut expected = Sha256::new();
    expected.update(b"/dump\0");
    words
        .iter()
        .for_each(|word| expected.update(format!("{word}\0")));
    expected
        .update(b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\0HOME=/root\0HOSTNAME=rdvm\0");
    expected.update(variables.replace('\n', "\0"));
    for engine in any_engine() {
        let command: Vec<&str> = std::iter::once("/dump")
            .chain(words.iter().map(String::as_str))
            .collect();
        let run = Rdvm::on(engine)
            .option("--env-file")
            .option(file.path())
            .image(image.path())
            .command(&command)
            .run()
            .exits(0);
        assert!(run.0.stdout.len() > words.len() << 14);
        assert!(
            Sha256::digest(&run.0.stdout) == expected.clone().finalize(),
            "something was changed on the way"
        );
    }
}

#[test]
fn what_is_more_than_the_guests_kernel_takes_is_126() {
    let word = "x".repeat(100_000);
    let words: Vec<&str> = std::iter::once("busybox")
        .chain(std::iter::repeat_n(word.as_str(), 19))
        .collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("A={}\n", "y".repeat(200_000))).unwrap();
    for engine in any_engine() {
        let run = Rdvm::on(engine)
            .option("--env-file")
            .option(file.path())
            .image(busybox().path())
            .command(&words)
            .run();
        run.exits(126).says("Argument list too long");
    }
}

#[test]
fn directory_host_name_and_user_are_as_asked() {
    let image = Image::busybox()
        .file(
            "etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n",
        )
        .file(
            "etc/group",
            0o644,
            "root:x:0:\nada:x:1000:\naudio:x:29:bob,ada\nstaff:x:50:\n",
        )
        .directory("srv", 0o755);
    let show = "pwd; hostname; id -u; id -g; id -G; echo $HOME";
    let cases = [
        (&[][..], "/\nrdvm\n0\n0\n0\n/root\n"),
        (
            &["-w", "/srv", "--hostname", "box"],
            "/srv\nbox\n0\n0\n0\n/root\n",
        ),
        (
            &["-w", "/made/of/new", "-u", "ada"],
            "/made/of/new\nrdvm\n1000\n1000\n1000 29\n/home/ada\n",
        ),
        (&["-u", "ada:staff"], "/\nrdvm\n1000\n50\n50\n/home/ada\n"),
        (&["-u", "77:78"], "/\nrdvm\n77\n78\n78\n/\n"),
    ];
    for engine in any_engine() {
        for (options, expected) in cases {
            let rdvm = options
                .iter()
                .fold(Rdvm::on(engine), |rdvm, option| rdvm.option(option));
            rdvm.image(image.path())
                .sh(show)
                .run()
                .exits(0)
                .prints(expected)
                .says_only("");
        }
        let run = Rdvm::on(engine)
            .option("-u")
            .option("eve")
            .image(image.path())
            .sh("true")
            .run();
        run.exits(125)
            .says("rdvm: --user: the image's /etc/passwd has no \"eve\"");
        let run = Rdvm::on(engine)
            .option("-w")
            .option("/etc/passwd")
            .image(image.path())
            .sh("true")
            .run();
        run.exits(125).says("--workdir: Not a directory");
    }
}

#[test]
fn limits_are_the_commands_own_whoever_runs_it() {
    let show = "ulimit -S -n; ulimit -H -n; ulimit -S -c; ulimit -H -c; ulimit -S -u; ulimit -H -s";
    for engine in any_engine() {
        for user in ["0", "77:78"] {
            let rdvm = Rdvm::on(engine).option("-u").option(user);
            let limits = [
                "nofile=9",
                "nofile=100000:200000",
                "core=0:unlimited",
                "nproc=55",
                "stack=1048576",
            ];
            let rdvm = limits
                .iter()
                .fold(rdvm, |rdvm, limit| rdvm.option("--ulimit").option(limit));
            let run = rdvm.image(busybox().path()).sh(show).run();
            run.exits(0)
                .prints("100000\n200000\n0\nunlimited\n55\n1024\n");
        }
        // More than fs.nr_open.
        let rdvm = Rdvm::on(engine)
            .option("--ulimit")
            .option("nofile=unlimited");
        let run = rdvm.image(busybox().path()).sh("echo ran").run();
        run.exits(125)
            .prints("")
            .says("rdvm: --ulimit: nofile: the guest's kernel refused");
    }
}

#[test]
fn a_program_in_the_place_of_the_images_own_gets_the_arguments() {
    for engine in any_engine() {
        let rdvm = Rdvm::on(engine)
            .option("--entrypoint")
            .option("/bin/busybox");
        let run = rdvm.image(busybox().path()).command(&["echo", "-n", "x y"]);
        run.run().exits(0).prints("x y");
    }
}

#[test]
fn the_guest_sees_nothing_of_rdvm_in_the_image() {
    for engine in any_engine() {
        let run = Rdvm::on(engine)
            .image(busybox().path())
            .sh("ls -A /")
            .run()
            .exits(0);
        // /root comes from the kernel's own built-in initramfs; the others are mount points, and /etc has the machine's names.
        run.prints("bin\ndev\netc\nproc\nroot\nrun\nsys\ntmp\n");
        let image = Image::busybox()
            .file(".rdvm", 0o644, "mine")
            .link("x", ".rdvm1");
        let run = Rdvm::on(engine)
            .image(image.path())
            .sh("cat /.rdvm; readlink /.rdvm1")
            .run();
        run.exits(0).prints("minex\n");
    }
}

#[test]
fn several_cpus_are_all_there() {
    for engine in engines() {
        // Sixteen emulated ones take their time.
        let most = if *engine == "kvm" { "16" } else { "4" };
        for cpus in ["2", most] {
            let run = Rdvm::on(engine)
                .option("--cpus")
                .option(cpus)
                .image(busybox().path())
                .command(&["busybox", "nproc"])
                .run();
            run.exits(0).prints(format!("{cpus}\n"));
        }
    }
}

#[test]
fn nothing_the_guest_does_changes_the_image() {
    let image = Image::busybox().file("file", 0o644, "old");
    for engine in any_engine() {
        Rdvm::on(engine)
            .image(image.path())
            .sh("echo new > /file; rm /bin/sh; cat /file")
            .run()
            .exits(0)
            .prints("new\n");
        assert_eq!(std::fs::read(image.path().join("file")).unwrap(), b"old");
        assert!(image.path().join("bin/sh").is_symlink());
    }
}
