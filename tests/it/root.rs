//! The root file system: full, it gives an error and nothing else; it tells its size; and it can be pivoted.
//!
//! `RDVM_TEST_LONG=1` fills every combination of kernel, RAM, CPUs, huge pages and kind of file (`make test-root`);
//! without it the edges.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rdvm::memory::ROOM;
use serde_json::Value;
use tempfile::TempDir;

use crate::small_kernel::small_kernel;
use crate::support::schema::conforms;
use crate::support::{
    Image, Rdvm, any_engine, busybox, engines, is_missing, left_out, missing, reference_image,
    sized,
};

/// The small kernel and the newest of this machine's distribution; in the rig, which has one, that one.
fn kernels() -> Vec<PathBuf> {
    let boot = fs::read_dir("/boot").into_iter().flatten().flatten();
    let named = |path: &PathBuf| path.to_string_lossy().contains("/vmlinuz-");
    let newest = boot.map(|entry| entry.path()).filter(named).max();
    small_kernel().into_iter().chain(newest).collect()
}

/// All kernels there are.
fn all_kernels() -> Vec<PathBuf> {
    let more = std::env::var_os("RDVM_TEST_KERNELS").map(PathBuf::from);
    let more = fs::read_dir(more.unwrap_or_else(|| "target/kernels".into()));
    let more = more.into_iter().flatten().flatten();
    let more = more.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("vmlinuz-")
    });
    kernels().into_iter().chain(more).collect()
}

/// The least that `-m` accepts.
fn least(kernel: &Path, cpus: &str, image: &Path) -> String {
    let run = Rdvm::verb("run").option("-m").option("1m").option("-k");
    let run = run.option(kernel).option("--cpus").option(cpus);
    let refusal = run.image(image).sh("true").run().exits(125).stderr();
    let need = refusal.split("raise it to ").nth(1).unwrap();
    let mut words = need.split(' ');
    format!("{}{}", words.next().unwrap(), words.next().unwrap())
}

/// An image that can fill its root.
fn filler() -> Image {
    Image::busybox().program("bin/fill", "fill")
}

/// Ways to fill the root, and how each ends: one file, many of a byte, and what takes inodes and no room, then the rest
/// in one file.
const FILLS: [(&str, &str); 3] = [
    ("fill file", "file: No space left on device\n"),
    ("fill files 1", "files: No space left on device\n"),
    (
        "echo >file; mkdir empty; (cd empty; fill directories); fill file",
        "directories: No space left on device\nfile: No space left on device\n",
    ),
];

/// Fills the root. The command sees the error, can still start a process, its trap runs and its exit code is its own; the
/// kernel killed nobody and said nothing.
pub(crate) fn fill(engine: &str, options: &[&str], image: &Path, (script, said): (&str, &str)) {
    let dir = TempDir::new().unwrap();
    let report = dir.path().join("report.json");
    let mut run = Rdvm::on(engine).option("--report").option(&report);
    for option in options {
        run = run.option(option);
    }
    let script = format!(
        "trap 'echo trapped' EXIT; mkdir /work; cd /work; {script}; busybox true && echo child; exit 7"
    );
    eprintln!("{engine} {options:?}: {script}");
    let run = run.image(image).sh(&script).run().exits(7);
    let run = run.prints(format!("{said}child\ntrapped\n"));
    let line = run.stderr();
    assert!(
        line.starts_with("rdvm: sh: exited with 7, and the root file system is full (")
            && line.ends_with(" more RAM with -m\n")
            && line.lines().count() == 1,
        "{line}"
    );
    let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    conforms(&report);
    assert_eq!(report["guest"]["oom_kills"], 0);
    assert_eq!(report["guest"]["root_full"], true);
    assert_eq!(
        line,
        format!("rdvm: {}\n", report["message"].as_str().unwrap())
    );
}

#[test]
fn a_full_root_gives_an_error_and_nothing_else() {
    let (image, kernels) = (filler(), kernels());
    for engine in engines() {
        for kernel in &kernels {
            let path = kernel.to_str().unwrap();
            fill(engine, &["-k", path], image.path(), FILLS[0]);
            // The other ways take as long again: with the kernel that most runs boot, and with all in `make test-root`.
            if Some(kernel) != kernels.first() {
                continue;
            }
            let edge = least(kernel, "4", image.path());
            let options = ["-k", path, "-m", &edge, "--cpus", "4"];
            for what in &FILLS[1..] {
                fill(engine, &options, image.path(), *what);
            }
        }
    }
}

/// With huge pages the kernel keeps 44 MiB for itself, and has them in machines of 512 MiB and more.
#[test]
fn a_full_root_beside_huge_pages_gives_an_error_and_nothing_else() {
    let Some(kernel) = kernels().pop() else {
        return;
    };
    let image = filler();
    let kernel = kernel.to_str().unwrap();
    let options = ["-k", kernel, "-m", "540m", "--append"];
    for engine in engines() {
        let options: Vec<&str> = options
            .into_iter()
            .chain(["transparent_hugepage=always"])
            .collect();
        fill(engine, &options, image.path(), FILLS[0]);
    }
}

/// The large image, whose plan is set by the half that a tmpfs may have, shared and not.
#[test]
fn a_full_root_of_a_large_image_gives_an_error_and_nothing_else() {
    let image = filler();
    let large = fs::File::create(image.path().join("large")).unwrap();
    large.set_len(sized(160, 64) << 20).unwrap();
    let cache = TempDir::new().unwrap();
    for engine in engines() {
        fill(engine, &[], image.path(), FILLS[2]);
        let script = "fill file; sha256sum /large >/dev/null || echo lost; exit 7";
        let run = Rdvm::on(engine)
            .option("--root")
            .option("erofs")
            .image(image.path());
        let run = run
            .with_variable("RDVM_CACHE", cache.path())
            .with_variable("RDVM_KERNEL", crate::kept::kernel())
            .sh(script);
        run.run().exits(7).prints("file: No space left on device\n");
    }
}

/// Every combination: with `make test-root`, which takes hours.
#[test]
fn a_full_root_gives_an_error_with_every_kernel_and_plan() {
    if std::env::var_os("RDVM_TEST_LONG").is_none() {
        left_out("it takes hours; make test-root runs it");
        return;
    }
    let image = filler();
    let debian = reference_image("debian");
    for engine in engines() {
        for kernel in all_kernels() {
            let path = kernel.to_str().unwrap();
            for cpus in ["1", "4"] {
                let edge = least(&kernel, cpus, image.path());
                for pages in ["always", "never"] {
                    let pages = format!("transparent_hugepage={pages}");
                    for memory in ["auto", &edge, "256m", "540m", "1g", "2g"] {
                        let options = ["-k", path, "--cpus", cpus, "--append", &pages];
                        let options = options.into_iter().chain(["-m", memory]);
                        let options: Vec<&str> = options.collect();
                        for what in FILLS {
                            fill(engine, &options, image.path(), what);
                        }
                    }
                }
                let Some(debian) = &debian else { continue };
                let edge = least(&kernel, cpus, debian);
                for memory in ["auto", &edge, "700m", "1g", "2g"] {
                    let run = Rdvm::on(engine).option("-k").option(path).option("-m");
                    let run = run.option(memory).option("--cpus").option(cpus);
                    let script = "head -c 9G /dev/zero >/big; perl -e 'print qq(after\\n)'";
                    eprintln!("{engine} {path} {cpus} {memory} debian");
                    let run = run.option("-q").image(debian).sh(script).run().exits(0);
                    run.prints("after\n").says("No space left on device");
                }
            }
        }
    }
}

/// Files that the command has written come out of a root that is full, and the line about the root is there too.
#[test]
fn what_is_there_is_copied_out_of_a_full_root() {
    let image = filler();
    for engine in any_engine() {
        let dir = TempDir::new().unwrap();
        let out = dir.path().join("out");
        let copy = format!("/out:{}", out.display());
        let run = Rdvm::on(engine).option("--copy-out").option(copy);
        let script = "mkdir /out; cd /out; echo kept >note; fill file; exit 9";
        let run = run.image(image.path()).sh(script).run().exits(9);
        run.prints("file: No space left on device\n")
            .says("rdvm: sh: exited with 9, and the root file system is full");
        assert_eq!(fs::read(out.join("note")).unwrap(), b"kept\n");
        assert!(fs::metadata(out.join("file")).unwrap().len() > 1 << 20);
    }
}

#[test]
fn a_command_that_succeeds_on_a_full_root_is_told_nothing() {
    let image = filler();
    let run = Rdvm::on(any_engine()[0]).image(image.path());
    let run = run.sh("fill file; exit 0").run().exits(0);
    run.says_only("");
}

/// `/dev/shm` and the root have their room together, and `/dev` has hardly any.
#[test]
fn everything_that_is_writable_can_be_full_at_once() {
    let image = filler();
    for engine in any_engine() {
        for kernel in kernels() {
            let run = Rdvm::on(engine).option("-k").option(&kernel);
            let run = run.option("-q").image(image.path());
            let script = "cd /dev/shm; stat -c %a .; grep -c ' /dev/shm [^ ]* [^ ]*nosuid,nodev' /proc/mounts
                echo >/file; fill file; cd /dev; fill files 1; cd /; fill file; exit 0";
            let run = run.sh(script).run().exits(0).says_only("");
            let full = "file: No space left on device\n";
            run.prints(format!(
                "1777\n1\n{full}files: No space left on device\n{full}"
            ));
        }
    }
}

#[test]
fn the_root_tells_its_size_and_takes_what_a_tmpfs_takes() {
    for engine in any_engine() {
        for kernel in kernels() {
            let run = Rdvm::on(engine).option("-k").option(&kernel);
            let script =
                "stat -f -c '%T' /; stat -f -c '%b %a' /; fallocate -l 4096 /f && stat -c %b /f";
            let image = Image::busybox();
            let run = run.image(image.path()).sh(script).run().exits(0);
            let said = run.stdout();
            let mut lines = said.lines();
            assert_eq!(lines.next(), Some("tmpfs"), "{said}");
            let sizes = lines.next().unwrap().split(' ');
            let sizes: Vec<u64> = sizes.map(|size| size.parse().unwrap()).collect();
            assert!(sizes[0] > sizes[1] && sizes[1] > 2 << 10, "{said}");
            assert!(sizes[1] << 12 < 2 * ROOM.0, "{said}");
            assert_eq!(lines.next(), Some("8"), "{said}");
        }
    }
}

#[test]
fn the_root_can_be_pivoted_and_is_one_mount() {
    let script = "mkdir /n; mount -t tmpfs x /n; mkdir /n/o /n/bin; cp /bin/busybox /n/bin
        unshare -m sh -c 'cd /n; pivot_root . o; echo pivoted $?; /bin/busybox ls -d /o/n'
        awk '$5 == \"/\" {print $4, $7 == \"-\"}' /proc/self/mountinfo; ls -d /n/..; ls -a / | grep rdvm";
    for engine in any_engine() {
        for kernel in kernels() {
            let run = Rdvm::on(engine).option("-k").option(&kernel);
            let run = run.image(busybox().path()).sh(script).run();
            // grep found nothing.
            run.exits(1)
                .prints("pivoted 0\n/o/n\n/ 1\n/n/..\n")
                .says_only("");
        }
    }
}

/// As a program with a root that is not its namespace's it could not.
#[test]
fn every_user_makes_a_user_namespace() {
    for engine in any_engine() {
        for kernel in kernels() {
            let run = Rdvm::on(engine).option("-k").option(&kernel);
            let run = run.option("--user").option("1000:1000");
            let run = run.image(busybox().path());
            let script = "busybox unshare -U -r -m sh -c 'busybox id -u'";
            run.sh(script).run().exits(0).prints("0\n").says_only("");
        }
    }
}

/// An image with one of the host's programs and the libraries that it is linked with.
fn with_program(image: Image, program: &str) -> Option<Image> {
    if is_missing(program) {
        missing(program);
        return None;
    }
    let places = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
    let mut places = places.iter().map(|place| Path::new(place).join(program));
    let path = places.find(|path| path.is_file()).unwrap();
    let listing = Command::new("ldd").arg(&path).output().unwrap().stdout;
    let listing = String::from_utf8(listing).unwrap();
    let words = listing.split_whitespace();
    let libraries = words.filter(|word| word.starts_with('/'));
    let image = image.file(format!("bin/{program}"), 0o755, fs::read(&path).unwrap());
    Some(libraries.fold(image, |image, library| {
        image.file(&library[1..], 0o755, fs::read(library).unwrap())
    }))
}

#[test]
fn bubblewrap_works_as_root_and_as_another_user() {
    let Some(image) = with_program(Image::busybox(), "bwrap") else {
        return;
    };
    let script = "bwrap --dev-bind / / sh -c 'busybox id -u' &&
        bwrap --ro-bind / / --tmpfs /tmp --dev /dev --proc /proc --unshare-all sh -c 'echo x 2>/dev/null >/y || echo read-only'";
    for engine in any_engine() {
        for kernel in kernels() {
            for user in ["0", "1000"] {
                let run = Rdvm::on(engine).option("-k").option(&kernel);
                let run = run.option("--user").option(format!("{user}:{user}"));
                let run = run.image(image.path()).sh(script).run().exits(0);
                run.prints(format!("{user}\nread-only\n")).says_only("");
            }
        }
    }
}

/// The script for a container by `runc spec`'s own configuration, run by `program`. Both put their containers into
/// groups, and guard devices by a program for the kernel.
fn contained(program: &str) {
    let image = Image::busybox().directory("bundle/rootfs/bin", 0o755);
    fs::copy(
        "/bin/busybox",
        image.path().join("bundle/rootfs/bin/busybox"),
    )
    .unwrap();
    let image = image.link("busybox", "bundle/rootfs/bin/sh");
    let Some(image) = with_program(image, "runc").and_then(|image| with_program(image, program))
    else {
        return;
    };
    let script = format!(
        "cd /bundle && runc spec && sed -i -e 's/\"terminal\": true/\"terminal\": false/' \
         -e 's/\"sh\"$/\"sh\", \"-c\", \"busybox hostname; busybox ls -d \\/bundle || exit 5\"/' config.json; \
         {program} run one 2>/dev/null; echo $?"
    );
    for engine in any_engine() {
        for kernel in kernels() {
            let run = Rdvm::on(engine).option("-k").option(&kernel);
            let run = run.image(image.path()).sh(&script).run().exits(0);
            run.prints("runc\n5\n").says_only("");
        }
    }
}

#[test]
fn runc_runs_a_container() {
    contained("runc");
}

#[test]
fn crun_runs_a_container() {
    contained("crun");
}
