//! The surroundings of the command are those of a docker container: docs/guest.md, as tests.

use std::io::Write;
use std::process::Stdio;

use crate::support::{Image, Rdvm, Run, any_engine, busybox, sized};

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
    for engine in any_engine() {
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

const LOCAL: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
                     ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

#[test]
fn files_of_names_are_filled_where_they_are_missing_or_empty() {
    let show = "cat /etc/hosts /etc/hostname; readlink /etc/mtab; stat -c '%a %u' /etc/hosts /etc/hostname";
    let images = [
        Image::busybox(),
        Image::busybox().directory("etc", 0o755),
        // As `docker export` leaves them.
        Image::busybox()
            .file("etc/hosts", 0o644, "")
            .file("etc/hostname", 0o644, ""),
    ];
    for engine in any_engine() {
        for image in &images {
            let own = "127.0.0.1\trdvm\nrdvm\n";
            sh(engine, &[], image, show)
                .prints(format!("{LOCAL}{own}/proc/mounts\n644 0\n644 0\n"));
        }
        let options = ["--hostname", "box.example.org"];
        let own = "127.0.0.1\tbox.example.org box\nbox.example.org\n";
        sh(engine, &options, &images[1], "cat /etc/hosts /etc/hostname")
            .prints(format!("{LOCAL}{own}"));
        // Every name is found.
        let script = "for name in localhost box box.example.org; do ping -c 1 $name >/dev/null || echo $name; done";
        sh(engine, &options, &images[2], script).prints("");
    }
}

#[test]
fn files_of_names_that_are_the_images_own_choice_stay_as_they_are() {
    let image = Image::busybox()
        .file("etc/hosts", 0o600, "10.0.0.1 mine\n")
        .link("/other", "etc/hostname")
        .link("mine", "etc/mtab");
    let elsewhere = Image::busybox()
        .directory("real", 0o755)
        .link("real", "etc");
    let odd = Image::busybox().file("etc", 0o644, "a file");
    let bare = Image::busybox().directory("etc", 0o755);
    let copied = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(copied.path(), "10.0.0.2 copied\n").unwrap();
    for engine in any_engine() {
        let script =
            "cat /etc/hosts; stat -c %a /etc/hosts; ls -A / | grep other; readlink /etc/mtab";
        sh(engine, &[], &image, script).prints("10.0.0.1 mine\n600\nmine\n");
        sh(engine, &[], &elsewhere, "ls -A /real; readlink /etc").prints("real\n");
        sh(engine, &[], &odd, "cat /etc").prints("a file");
        let copy = format!("{}:/etc/hosts", copied.path().display());
        let options = ["--copy-in", &copy];
        sh(engine, &options, &bare, "cat /etc/hosts").prints("10.0.0.2 copied\n");
    }
}

#[test]
fn the_environment_is_dockers() {
    let show = "env | grep -E '^(PATH|HOME|HOSTNAME|TERM|container)=' | sort";
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    for engine in any_engine() {
        let expected = format!("HOME=/root\nHOSTNAME=rdvm\n{path}\n");
        sh(engine, &[], busybox(), show).prints(expected);
        let expected = format!("HOME=/\nHOSTNAME=box\n{path}\nTERM=xterm\n").replace('\n', "\r\n");
        let options = ["-t", "-u", "1000", "--hostname", "box"];
        sh(engine, &options, busybox(), show).prints(expected);
        let options = ["-t", "-e", "TERM=vt100", "-e", "HOSTNAME=mine"];
        let show = "echo $TERM $HOSTNAME";
        sh(engine, &options, busybox(), show).prints("vt100 mine\r\n");
    }
}

#[test]
fn root_is_what_the_image_says_of_it() {
    let image = Image::busybox()
        .file("etc/passwd", 0o644, "root:x:0:0::/home/admin:/bin/sh\n")
        .file("etc/group", 0o644, "root:x:0:\nadm:x:4:daemon,root\n");
    for engine in any_engine() {
        sh(engine, &[], &image, "echo $HOME; id -u; id -G").prints("/home/admin\n0\n0 4\n");
    }
}

#[test]
fn a_terminal_belongs_to_its_user_and_to_group_tty_and_is_the_console() {
    let show = "stat -c '%u:%g %a' $(tty) /dev/console; echo seen >/dev/console";
    for engine in any_engine() {
        for user in ["0", "1000"] {
            let expected = format!("{user}:5 620\r\n{user}:5 620\r\nseen\r\n");
            sh(engine, &["-tu", user], busybox(), show)
                .prints(expected)
                .says_only("");
        }
    }
}

#[test]
fn every_user_may_listen_on_any_port_and_ping() {
    // busybox's ping asks for a raw socket, which is root's.
    let script = "httpd -p 127.0.0.1:80 -h /www && wget -q -O - http://127.0.0.1/page; \
                  cat /proc/sys/net/ipv4/ping_group_range";
    let image = Image::busybox().file("www/page", 0o644, "served\n");
    for engine in any_engine() {
        sh(engine, &["-u", "1000:1000"], &image, script).prints("served\n0\t2147483647\n");
    }
}

#[test]
fn every_user_may_open_and_start_as_much_as_in_a_container() {
    let limits =
        "ulimit -S -n; ulimit -H -n; ulimit -S -u; ulimit -H -u; cat /proc/sys/fs/file-max";
    let expected = "1024\n524288\nunlimited\nunlimited\n9223372036854775807\n";
    let raised = "ulimit -n 65536 && ulimit -n";
    let count = sized(600, 100);
    // As many as there is RAM for: the kernel's own limit would have been half of that.
    let many = format!("i=0; while [ $i -lt {count} ]; do sleep 1000 & i=$((i+1)); done; echo $i");
    for engine in any_engine() {
        for user in ["0", "1000"] {
            sh(engine, &["-u", user], busybox(), limits).prints(expected);
        }
        sh(engine, &["-u", "1000"], busybox(), raised).prints("65536\n");
        let options = ["-m", "160m", "-u", "1000"];
        sh(engine, &options, busybox(), &many).prints(format!("{count}\n"));
    }
}

#[test]
fn message_queues_have_their_directory() {
    let script =
        "grep -o ' /dev/mqueue mqueue rw,nosuid,nodev,noexec' /proc/mounts; stat -c %a /dev/mqueue";
    for engine in any_engine() {
        let run = sh(engine, &[], busybox(), script);
        run.prints(" /dev/mqueue mqueue rw,nosuid,nodev,noexec\n1777\n");
    }
}

/// An init that does what its argument says.
const INIT: &str = "#!/bin/sh
echo \"$$ $(cat /proc/1/comm) $container $0\"
set -- \"$1\" /proc/[0-9]*
[ $# = 2 ] && echo alone
case $1 in
exit) exit 9 ;;
halt) busybox poweroff -f ;;
wait) trap 'echo stopped; exit 4' 37; while :; do sleep 0.1; done ;;
esac
";

#[test]
fn an_init_is_pid_1_of_its_own_processes() {
    let image = Image::busybox()
        .file("sbin/init", 0o755, INIT)
        .directory("lib/systemd", 0o755)
        .link("../../sbin/init", "lib/systemd/systemd");
    for engine in any_engine() {
        let run = |name: &str, options: &[&str], argument: &str| {
            let rdvm = options
                .iter()
                .fold(Rdvm::on(engine), |rdvm, option| rdvm.option(option));
            rdvm.stdin(Stdio::null())
                .image(image.path())
                .command(&[name, argument])
                .run()
        };
        let run_of = |name: &str, argument| run(name, &[], argument);
        run_of("/sbin/init", "exit")
            .exits(9)
            .prints("1 init rdvm /sbin/init\nalone\n");
        run_of("init", "halt")
            .exits(0)
            .prints("1 init rdvm /sbin/init\nalone\n");
        run_of("/lib/systemd/systemd", "exit")
            .exits(9)
            .prints("1 systemd rdvm /lib/systemd/systemd\nalone\n");
        // The deadline stops it by its own signal.
        let stopped = run("/sbin/init", &["--timeout", sized("6s", "20s")], "wait");
        stopped
            .exits(124)
            .prints("1 init rdvm /sbin/init\nalone\nstopped\n");
    }
}

#[test]
fn other_commands_are_not_pid_1() {
    let script = "#!/bin/sh\n[ $$ != 1 ] && cat /proc/1/comm && echo \"$container\"\n";
    let image = Image::busybox()
        .file("init", 0o755, script)
        .file("bin/systemd-run", 0o755, script);
    for engine in any_engine() {
        for command in [&[][..], &["/init"], &["systemd-run"]] {
            let run = Rdvm::on(engine).image(image.path()).command(command).run();
            run.exits(0).prints(".rdvm\n\n");
        }
    }
}
