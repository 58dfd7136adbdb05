//! Standard input: none without `-i`, and with it every byte in order and a real end.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::support::{RDVM, Rdvm, Run, any_engine, busybox, engines, missing, note_run, sized};

/// `rdvm run -i` on the image that no test changes.
fn interactive(engine: &str) -> Rdvm {
    Rdvm::on(engine).option("-i").image(busybox().path())
}

/// All byte values, and what a terminal or a line reader would change.
fn all_bytes() -> Vec<u8> {
    let odd = b"\r\n\n\r\x03\x04\x11\x13\x1a\x1c\x1d\x1d\x1d\x7f\xff\xff\0\0";
    (0..=255).chain(odd.iter().copied()).collect()
}

/// Bytes without a period that any buffer divides.
fn plenty(length: usize) -> Vec<u8> {
    let words = (0..length.div_ceil(4) as u32).map(|n| n.wrapping_mul(2_654_435_761));
    let mut bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).collect();
    bytes.truncate(length);
    bytes
}

fn sha256sum(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{digits}  -\n")
}

/// Writes until nobody takes more; gives how that was said.
fn without_end(mut stdin: impl Write) -> ErrorKind {
    let block = [b'x'; 1 << 16];
    loop {
        if let Err(error) = stdin.write_all(&block) {
            return error.kind();
        }
    }
}

#[test]
fn without_i_the_command_has_no_input_and_ours_is_left_alone() {
    for engine in engines() {
        let (ours, theirs) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&theirs, b"not for it").unwrap();
        Rdvm::on(engine)
            .image(busybox().path())
            .stdin(ours.try_clone().unwrap())
            .sh("cat; echo end")
            .run()
            .exits(0)
            .prints("end\n");
        drop(theirs);
        let mut left = String::new();
        File::from(ours).read_to_string(&mut left).unwrap();
        assert_eq!(left, "not for it");
    }
}

#[test]
fn every_byte_value_goes_in_and_the_end_is_seen() {
    for engine in engines() {
        let (run, fed) = interactive(engine)
            .sh("cat; echo end")
            .fed(|mut stdin| stdin.write_all(&all_bytes()));
        fed.unwrap();
        run.exits(0)
            .prints([all_bytes(), b"end\n".to_vec()].concat())
            .says_only("");
    }
}

#[test]
fn sixty_four_mebibytes_go_in_with_the_same_checksum() {
    let all = plenty(sized(64 << 20, 1 << 20));
    for engine in engines() {
        let (run, fed) = interactive(engine)
            .sh("sha256sum")
            .fed(|mut stdin| stdin.write_all(&all));
        fed.unwrap();
        run.exits(0).prints(sha256sum(&all));
    }
}

#[test]
fn what_goes_in_comes_out_while_both_sides_are_busy() {
    let all = plenty(sized(4 << 20, 200_000));
    for engine in engines() {
        let (run, fed) = interactive(engine)
            .command(&["busybox", "cat"])
            .fed(|mut stdin| stdin.write_all(&all));
        fed.unwrap();
        run.exits(0).prints(&all);
    }
}

/// One line for everything below a directory, which both sides' busybox writes.
const LISTING: &str = r#"find . | sort | while read -r name; do
    stat -c '%n %f' "$name"
    if [ -L "$name" ]; then readlink "$name"
    elif [ -f "$name" ]; then stat -c '%s %Y' "$name"; sha256sum <"$name"; fi
done"#;

#[test]
fn a_tree_goes_in_as_a_tar_of_the_hosts_and_is_the_same_inside() {
    let tree = tempfile::tempdir().unwrap();
    let path = |name: &str| tree.path().join(name);
    fs::create_dir_all(path("src/empty")).unwrap();
    for size in [0, 1, 511, 512, 513, 10_240, sized(3_000_000, 100_000)] {
        fs::write(path(&format!("src/of {size}")), plenty(size)).unwrap();
    }
    symlink("../src/of 1", path("src/link")).unwrap();
    symlink("/nowhere", path("dangling")).unwrap();
    fs::hard_link(path("src/of 513"), path("again")).unwrap();
    let expected = Command::new("busybox")
        .args(["sh", "-c", LISTING])
        .current_dir(tree.path())
        .output();
    let expected = Run(expected.unwrap()).exits(0).stdout();
    assert!(expected.contains("./src/of 10240"), "{expected}");
    for engine in any_engine() {
        let mut tar = Command::new("tar")
            .args(["c", "."])
            .current_dir(tree.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        interactive(engine)
            .stdin(tar.stdout.take().unwrap())
            .sh(&format!("mkdir /t && cd /t && tar x && {LISTING}"))
            .run()
            .exits(0)
            .prints(&expected);
        assert!(tar.wait().unwrap().success());
    }
}

#[test]
fn input_that_is_empty_ends_at_once() {
    for engine in any_engine() {
        let empty = tempfile::tempfile().unwrap();
        let (pipe, _) = rustix::pipe::pipe().unwrap();
        let null = File::open("/dev/null").unwrap();
        for source in [empty, File::from(pipe), null] {
            let run = interactive(engine).stdin(source).sh("wc -c").run();
            run.exits(0).prints("0\n").says_only("");
        }
        // Closed: not even a descriptor.
        note_run(engine);
        let closed = Command::new("sh")
            .args(["-c", r#"exec "$@" <&-"#, "sh", RDVM])
            .args(["run", "--engine", engine, "-i"])
            .arg(busybox().path())
            .args(["busybox", "wc", "-c"])
            .output();
        Run(closed.unwrap()).exits(0).prints("0\n").says_only("");
    }
}

#[test]
fn a_file_is_read_from_where_it_stands() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"read already, and this").unwrap();
    for engine in any_engine() {
        file.seek(SeekFrom::Start(13)).unwrap();
        interactive(engine)
            .stdin(file.try_clone().unwrap())
            .command(&["busybox", "cat"])
            .run()
            .exits(0)
            .prints(" and this");
    }
}

#[test]
fn input_that_cannot_be_read_is_an_error_and_not_its_end() {
    for engine in any_engine() {
        let directory = File::open("/").unwrap();
        interactive(engine)
            .stdin(directory)
            .sh("cat; echo took it for all")
            .run()
            .exits(125)
            .says("rdvm: standard input: Is a directory");
    }
}

/// Each byte goes in and comes out before the next, and none of them is the last.
#[test]
fn input_arrives_when_it_is_written_and_not_only_with_more_of_it() {
    for engine in engines() {
        let run = interactive(engine).stdin(Stdio::piped());
        let mut child = run.command(&["busybox", "cat"]).spawn();
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        for round in 0..10u8 {
            stdin.write_all(&[round, b'\n']).unwrap();
            let mut seen = [0; 2];
            stdout.read_exact(&mut seen).unwrap();
            assert_eq!(seen, [round, b'\n']);
        }
        assert!(child.try_wait().unwrap().is_none(), "there may be more");
        drop(stdin);
        assert_eq!(stdout.read(&mut [0; 2]).unwrap(), 0);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_command_that_has_read_enough_ends_and_the_writer_hears_of_it() {
    for engine in engines() {
        let (run, ended) = interactive(engine).sh("head -c 10; echo").fed(without_end);
        run.exits(0).prints("xxxxxxxxxx\n");
        assert_eq!(ended, ErrorKind::BrokenPipe);
    }
}

#[test]
fn a_command_that_never_reads_ends_all_the_same() {
    for engine in engines() {
        let (run, ended) = interactive(engine).sh("echo on; exit 4").fed(without_end);
        run.exits(4).prints("on\n");
        assert_eq!(ended, ErrorKind::BrokenPipe);
        // Neither does one wait for input that never comes.
        let run = interactive(engine).stdin(Stdio::piped());
        let mut child = run.sh("exit 5").spawn();
        let open = child.stdin.take();
        assert_eq!(child.wait().unwrap().code(), Some(5));
        drop(open);
    }
}

#[test]
fn a_command_that_closes_its_input_goes_on() {
    for engine in any_engine() {
        let script = "head -c 1; exec <&-; sleep 1; echo on; sleep 1; exit 6";
        let (run, ended) = interactive(engine).sh(script).fed(without_end);
        run.exits(6).prints("xon\n");
        assert_eq!(ended, ErrorKind::BrokenPipe);
    }
}

#[test]
fn the_next_command_reads_on_where_the_last_one_stopped() {
    for engine in any_engine() {
        let (run, fed) = interactive(engine)
            .sh("read -r a; read -r b; echo \"$b $a\"; sleep 1; cat")
            .fed(|mut stdin| stdin.write_all(b"one\ntwo\nthree\n"));
        fed.unwrap();
        run.exits(0).prints("two one\nthree\n");
    }
}

/// A kernel of a distribution's in which nobody has `/dev/mem`, not even PID 1: there are no rings then.
fn locked_down() -> Option<PathBuf> {
    let files = fs::read_dir("/boot").into_iter().flatten().flatten();
    let is_kernel = |name: &str| name.starts_with("vmlinuz-");
    let kernel = files
        .filter(|file| file.file_name().to_str().is_some_and(is_kernel))
        .map(|file| file.path())
        .max();
    if kernel.is_none() {
        missing("/boot/vmlinuz-*");
    }
    kernel
}

fn by_ports(engine: &str, kernel: &Path) -> Rdvm {
    interactive(engine)
        .option("--append")
        .option("lockdown=confidentiality")
        .option("--kernel")
        .option(kernel)
}

#[test]
fn where_the_guest_has_no_dev_mem_the_ports_carry_the_same() {
    let Some(kernel) = locked_down() else { return };
    let all = [all_bytes(), plenty(sized(150_000, 40_000))].concat();
    for engine in engines() {
        let locked = "dd if=/dev/mem of=/dev/null bs=1 count=1 2>/dev/null || echo locked; ";
        let (run, fed) = by_ports(engine, &kernel)
            .sh(&format!("{locked} sha256sum"))
            .fed(|mut stdin| stdin.write_all(&all));
        fed.unwrap();
        run.exits(0).prints(format!("locked\n{}", sha256sum(&all)));
        let (run, ended) = by_ports(engine, &kernel)
            .sh("head -c 10; exec <&-; sleep 1; echo; exit 3")
            .fed(without_end);
        run.exits(3).prints("xxxxxxxxxx\n");
        assert_eq!(ended, ErrorKind::BrokenPipe);
    }
}

#[test]
fn a_script_can_be_what_goes_in() {
    for engine in any_engine() {
        let run = interactive(engine).stdin(Stdio::piped());
        let mut child = run.command(&["sh"]).spawn();
        let mut stdin = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        writeln!(stdin, "echo $((6 * 7))").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "42");
        writeln!(stdin, "exit 7; echo never").unwrap();
        assert!(lines.next().is_none());
        assert_eq!(child.wait().unwrap().code(), Some(7));
    }
}
