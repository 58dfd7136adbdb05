//! `--scratch`: files may be larger than RAM, in a file of the host's that has no name and is gone with the machine; a host without
//! room for it ends the machine and nothing else.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::kernels::kernels;
use crate::root::fill;
use crate::small_kernel::small_kernel;
use crate::support::{
    Image, RDVM, Rdvm, Run, any_engine, busybox, children_of, engines, eventually, first_bytes,
    is_missing, left_out, missing, note_run, sized,
};

/// An image that can write large files, and fill its root.
fn image() -> Image {
    Image::busybox()
        .program("bin/pattern", "pattern")
        .program("bin/fill", "fill")
}

fn run_on(engine: &str, kernel: &Path, options: &[&str]) -> Rdvm {
    let run = Rdvm::on(engine).option("-k").option(kernel);
    let run = run.option("--timeout").option("300s");
    options.iter().fold(run, |run, option| run.option(option))
}

/// The small kernel, and one of a distribution, which has its drivers as modules.
fn two_kernels() -> Vec<std::path::PathBuf> {
    let newest = kernels().last().cloned();
    small_kernel().into_iter().chain(newest).collect()
}

#[test]
fn files_larger_than_ram_are_what_was_written_and_their_room_can_be_used_again() {
    let image = image();
    let mib = sized(120, 96);
    let scratch = format!("{}m", mib + 64);
    let script = format!(
        "cd /; pattern write a {mib}; pattern check a {mib}; rm a; pattern write b {mib}; pattern check b {mib}; grep -c pmem /proc/swaps"
    );
    let expected =
        format!("write: {mib} MiB\ncheck: {mib} MiB\nwrite: {mib} MiB\ncheck: {mib} MiB\n1\n");
    for engine in engines() {
        for kernel in two_kernels() {
            for root in ["initrd", "erofs"] {
                let memory = match Some(&kernel) == small_kernel().as_ref() {
                    true => "64m",
                    false => "192m",
                };
                eprintln!("{engine} {} {root}", kernel.display());
                let options = ["-m", memory, "--scratch", &scratch, "--root", root, "-q"];
                let run = run_on(engine, &kernel, &options).image(image.path());
                run.sh(&script)
                    .run()
                    .exits(0)
                    .prints(&expected)
                    .says_only("");
            }
        }
    }
}

/// A build's worth, in a machine that is a sixteenth of it; a distribution's kernel takes 30 MiB more.
#[test]
fn three_gibibytes_are_written_in_192_mebibytes() {
    if std::env::var_os("RDVM_TEST_LONG").is_none() {
        left_out("it takes minutes in QEMU; RDVM_TEST_LONG=1 runs it");
        return;
    }
    let image = image();
    for engine in engines() {
        for kernel in two_kernels() {
            let memory = match Some(&kernel) == small_kernel().as_ref() {
                true => "192m",
                false => "256m",
            };
            let options = ["-m", memory, "--scratch", "3500m", "-q"];
            let run = Rdvm::on(engine).option("-k").option(&kernel);
            let run = options.iter().fold(run, |run, option| run.option(option));
            let script = "cd /; pattern write a 3072; pattern check a 3072; fill file; rm a file; pattern write a 3072";
            let run = run.image(image.path()).sh(script).run().exits(0);
            let said = "write: 3072 MiB\ncheck: 3072 MiB\nfile: No space left on device\nwrite: 3072 MiB\n";
            run.prints(said).says_only("");
        }
    }
}

#[test]
fn a_root_with_scratch_space_that_is_full_gives_an_error_and_nothing_else() {
    let image = image();
    for engine in engines() {
        for kernel in two_kernels() {
            let kernel = kernel.to_str().unwrap();
            for cpus in ["1", "4"] {
                let options = [
                    "-k",
                    kernel,
                    "--scratch",
                    "64m",
                    "-m",
                    "192m",
                    "--cpus",
                    cpus,
                    "-q",
                ];
                fill(
                    engine,
                    &options,
                    image.path(),
                    ("fill file", "file: No space left on device\n"),
                );
            }
        }
    }
}

/// The links of a process's descriptors, and those of its children.
fn open_files(pid: u32) -> Vec<String> {
    let of = |pid: u32| {
        let list = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        let links = list
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok());
        links.map(|link| link.display().to_string())
    };
    [vec![pid], children_of(pid)]
        .concat()
        .into_iter()
        .flat_map(of)
        .collect()
}

#[test]
fn the_file_has_no_name_and_goes_with_the_machine_however_that_ends() {
    let dir = TempDir::new().unwrap();
    let place = dir.path().to_str().unwrap();
    let names = || fs::read_dir(dir.path()).unwrap().count();
    for engine in engines() {
        let run = Rdvm::on(engine).option("--scratch").option("32m");
        let run = run.with_variable("TMPDIR", place).image(busybox().path());
        let mut child = run.sh("echo on; sleep 1000").spawn();
        first_bytes::<3>(&mut child);
        let (pid, machine) = (child.id(), children_of(child.id()));
        let of_scratch = |file: &String| file.starts_with(place) && file.ends_with(" (deleted)");
        assert!(
            open_files(pid).iter().any(of_scratch),
            "{:?}",
            open_files(pid)
        );
        assert_eq!(names(), 0, "{engine}");
        // SIGKILL.
        child.kill().unwrap();
        child.wait().unwrap();
        eventually("nobody has the file", || {
            let mut all = machine.iter().flat_map(|pid| open_files(*pid));
            !all.any(|file| file.starts_with(place))
        });
        assert_eq!(names(), 0, "{engine}");
    }
}

/// A file system of 24 MiB that is only there for the run.
#[test]
fn a_host_without_room_ends_the_machine_with_one_line() {
    if is_missing("unshare") {
        return missing("unshare");
    }
    let image = image();
    let dir = TempDir::new().unwrap();
    let place = dir.path().to_str().unwrap();
    let Some(kernel) = small_kernel() else { return };
    for engine in engines() {
        note_run(engine);
        let host = format!("mount -t tmpfs -o size=24m scratch {place} && exec \"$@\"");
        let mut command = Command::new("unshare");
        command.args(["-r", "-m", "sh", "-c", &host, "sh", RDVM, "run", "-q"]);
        command.args(["--engine", engine, "--timeout", "120s", "-m", "64m"]);
        command.arg("-k").arg(&kernel).args(["--scratch", "256m"]);
        command.arg(image.path());
        command.args(["sh", "-c", "echo begun; cd /; pattern write a 200"]);
        command.env("TMPDIR", place).stdin(Stdio::null());
        let run = Run(command.output().unwrap());
        let line = format!(
            "rdvm: --scratch: no space left on {place}'s file system, so the machine was stopped while sh ran; make room there, or set TMPDIR to another directory\n"
        );
        run.exits(125).prints("begun\n").says_only(&line);
    }
}

#[test]
fn a_plan_names_the_scratch_space_and_its_ram_and_makes_no_file() {
    let dir = TempDir::new().unwrap();
    let Some(kernel) = small_kernel() else { return };
    let dry = || {
        let run = run_on(any_engine()[0], &kernel, &["--scratch", "3g", "--dry-run"]);
        run.with_variable("TMPDIR", dir.path())
            .image(busybox().path())
    };
    let line = format!(
        "rdvm: scratch space 3072 MiB in a file in {}\n",
        dir.path().display()
    );
    let run = dry().sh("true").run().exits(0).prints("");
    run.says(&line)
        .says("page structs of the scratch space 48 MiB");
    let inspect = Rdvm::verb("inspect").option("--scratch").option("3g");
    let page = inspect.option("-k").option(&kernel).image(busybox().path());
    let page = page.run().exits(0).stdout();
    assert!(
        page.contains("page structs of the scratch space 48 MiB"),
        "{page}"
    );
    // A directory that is not there is no matter of the plan.
    let run = dry().with_variable("TMPDIR", "/nowhere/at/all");
    run.sh("true").run().exits(0);
}

#[test]
fn scratch_space_that_cannot_be_is_refused_before_anything_boots() {
    let Some(small) = small_kernel() else { return };
    for engine in engines() {
        let refused = |options: &[&str], kernel: &Path, words: &str| {
            let run = run_on(engine, kernel, options).image(busybox().path());
            run.sh("echo booted")
                .run()
                .exits(125)
                .prints("")
                .says(words);
        };
        let scratch = ["--scratch", "64m"];
        refused(&["--scratch", "1m"], &small, "write a size from 16 MiB to ");
        refused(
            &["--scratch", "64m", "--rdinit", "/bin/busybox"],
            &small,
            "--scratch: cannot be used with --rdinit",
        );
        refused(
            &["--scratch", "3g", "-m", "40m"],
            &small,
            "--memory: the image needs ",
        );
        // Its modules are not where they belong.
        if let Some(kernel) = kernels().first() {
            let dir = TempDir::new().unwrap();
            let link = dir.path().join(kernel.file_name().unwrap());
            std::os::unix::fs::symlink(fs::canonicalize(kernel).unwrap(), &link).unwrap();
            refused(&scratch, &link, "rdvm: --scratch: ");
        }
        let run = run_on(engine, &small, &scratch).with_variable("TMPDIR", "/nowhere/at/all");
        run.image(busybox().path()).sh("true").run().exits(125).says(
            "rdvm: --scratch: /nowhere/at/all: No such file or directory; set TMPDIR to a directory on a disk\n",
        );
    }
}

/// The other engine has no limit but the host's.
#[test]
fn in_qemu_image_and_ram_have_to_fit_beside_it() {
    let Some(small) = small_kernel() else { return };
    for engine in engines().iter().filter(|engine| **engine == "qemu") {
        let options = ["--scratch", "64m", "-m", "3g", "--dry-run"];
        let run = run_on(engine, &small, &options).image(busybox().path());
        run.sh("true")
            .run()
            .exits(125)
            .says("in QEMU image and RAM have to fit into 3 GiB");
    }
}
