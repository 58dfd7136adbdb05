//! The host's resources and permissions: memory, control groups, a home that is not there.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::{Image, RDVM, Rdvm, Run, any_engine, busybox, engines, missing, note_run};

/// RAM and swap of this host in bytes.
fn host_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let field = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
        kib.parse::<u64>().unwrap() << 10
    };
    field("MemTotal:") + field("SwapTotal:")
}

/// A control group of our own with a limit, swap included; removed on drop.
struct Group(PathBuf);

impl Group {
    /// `None` where we may not make one, which is said.
    fn new(limit: u64) -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.split_once(":memory:"));
        let name = format!("rdvm-test-{}-{limit}", std::process::id());
        let (place, files): (_, &[&str]) = match own {
            Some((_, own)) => (
                Path::new("/sys/fs/cgroup/memory").join(own.trim_start_matches('/')),
                &["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"],
            ),
            None => ("/sys/fs/cgroup".into(), &["memory.max"]),
        };
        let group = Self(place.join(name));
        let made = fs::create_dir(&group.0).and_then(|()| {
            files
                .iter()
                .try_for_each(|file| fs::write(group.0.join(file), limit.to_string()))
        });
        match made {
            Ok(()) => Some(group),
            Err(_) => {
                missing(
                    "a control group that we may make (root, and one with the memory controller)",
                );
                None
            }
        }
    }

    /// `rdvm WORDS` in it.
    fn rdvm(&self, words: &[&str]) -> Run {
        let output = Command::new("sh")
            .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
            .arg(self.0.join("cgroup.procs"))
            .arg(RDVM)
            .args(words)
            .stdin(Stdio::null())
            .output();
        Run(output.unwrap())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Processes that have just ended are in it for a moment more.
        for _ in 0..100 {
            match fs::remove_dir(&self.0) {
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(20)),
                Ok(()) => break,
            }
        }
    }
}

#[test]
fn more_ram_than_the_host_has_is_refused_before_anything_is_read() {
    let more = (host_memory() + (1 << 30)).to_string();
    Rdvm::verb("run")
        .option("-m")
        .option(more)
        .image("/nowhere/to/be/found")
        .run()
        .exits(125)
        .prints("")
        .says("rdvm: --memory: ")
        .says(" is more than there can be: this host has ")
        .says("; give it less, or ");
}

#[test]
fn files_that_the_host_has_no_memory_for_are_refused_before_they_are_read() {
    // A cpio archive has no larger files, and one without a block is read in no time.
    let size = 3 << 30;
    let large = Image::empty().file("init", 0o755, "");
    for number in 0..=host_memory() / size {
        let file = fs::File::create(large.path().join(number.to_string())).unwrap();
        file.set_len(size).unwrap();
    }
    Rdvm::verb("run")
        .option("--dry-run")
        .option("--root")
        .option("initrd")
        .image(large.path())
        .run()
        .exits(125)
        .says("rdvm: RAM: the machine needs ")
        .says(" and this host has ")
        .says("; leave files out");
    let copy = format!("{}:/data", large.path().display());
    for engine in any_engine() {
        Rdvm::on(engine)
            .option("--copy-in")
            .option(&copy)
            .image(busybox().path())
            .sh("true")
            .run()
            .exits(125)
            .prints("")
            .says("rdvm: RAM: the machine needs ")
            .says("--copy-in-exclude");
    }
}

#[test]
fn a_control_groups_limit_counts_like_the_hosts_memory() {
    let Some(group) = Group::new(256 << 20) else {
        return;
    };
    let image = busybox().path().to_str().unwrap();
    group
        .rdvm(&["run", "-m", "300m", "/nowhere"])
        .exits(125)
        .says("--memory: 300 MiB is more than there can be: the control group is limited to 256 MiB; ");
    let dir = TempDir::new().unwrap();
    let large = Image::empty()
        .file("init", 0o755, "")
        .file("zero", 0o644, vec![7; 270 << 20]);
    group
        .rdvm(&[
            "run",
            "--dry-run",
            "--no-cache",
            large.path().to_str().unwrap(),
        ])
        .exits(125)
        .says("and the control group is limited to 256 MiB; leave files out");
    group.rdvm(&["run", "--dry-run", image, "sh"]).exits(0);
    // What an archive may unpack to by default is half of it.
    let archive = dir.path().join("zero.tar.gz");
    let mut gzip = Command::new("sh")
        .args(["-c", "tar -c -C \"$0\" zero | gzip -1"])
        .arg(large.path())
        .stdout(fs::File::create(&archive).unwrap())
        .spawn()
        .unwrap();
    assert!(gzip.wait().unwrap().success());
    group
        .rdvm(&["inspect", archive.to_str().unwrap()])
        .exits(125)
        .says("comes to more than 128 MiB unpacked; raise the limit with --max-size");
}

#[test]
fn a_qemu_that_the_host_killed_for_memory_is_said_to_be_that() {
    if !engines().contains(&"qemu") {
        return;
    }
    let Some(group) = Group::new(160 << 20) else {
        return;
    };
    note_run("qemu");
    let dir = TempDir::new().unwrap();
    let report = dir.path().join("report.json");
    let words = ["run", "--engine", "qemu", "-m", "160m", "--report"];
    let image = busybox().path().to_str().unwrap();
    let script = "busybox dd if=/dev/zero of=/large bs=1M count=200; busybox sleep 1000";
    let command = [report.to_str().unwrap(), image, "sh", "-c", script];
    group
        .rdvm(&[&words[..], &command].concat())
        .exits(125)
        .says(": the host's kernel killed the machine for want of memory ")
        .says(" (the control group is limited to 160 MiB); ");
    let report = fs::read_to_string(report).unwrap();
    assert!(report.contains("\"outcome\": \"machine-died\""), "{report}");
    assert!(report.contains("for want of memory"), "{report}");
}

/// Rdvm with this home and no other word on where its cache is.
fn at_home(home: &Path, words: &[&str]) -> Run {
    let mut command = Command::new(RDVM);
    command.args(words).env("HOME", home);
    command
        .env_remove("XDG_CACHE_HOME")
        .env_remove("RDVM_CACHE");
    Run(command.stdin(Stdio::null()).output().unwrap())
}

#[test]
fn a_home_that_does_not_exist_is_not_made() {
    let dir = TempDir::new().unwrap();
    let home = dir.path().join("gone");
    let image = busybox().path().to_str().unwrap();
    let kernel = crate::kept::kernel().to_str().unwrap();
    for engine in any_engine() {
        let run = ["run", "--engine", engine, "--kernel", kernel];
        let command = [image, "sh", "-c", "echo on"];
        note_run(engine);
        at_home(&home, &[&run[..], &command].concat())
            .exits(0)
            .prints("on\n")
            .says_only("");
        note_run(engine);
        let verbose = at_home(&home, &[&run[..], &["--verbose"], &command].concat()).exits(0);
        let about: Vec<_> = verbose.stderr().lines().map(str::to_owned).collect();
        let about: Vec<_> = about.iter().filter(|line| line.contains("HOME")).collect();
        assert_eq!(about.len(), 1, "{about:?}");
        assert!(about[0].contains("/gone, which is no directory; nothing is kept"));
        note_run(engine);
        at_home(&home, &[&run[..], &["--root=erofs"], &command].concat())
            .exits(0)
            .prints("on\n")
            .says_only("");
    }
    at_home(&home, &["kernel", "build"]).exits(125);
    assert!(!home.exists());
}

#[test]
fn a_home_that_cannot_be_written_to_is_no_matter() {
    if !rustix::process::geteuid().is_root() {
        return missing("root, for a file system that takes nothing,");
    }
    let dir = TempDir::new().unwrap();
    let kernels = fs::read_dir("/boot").into_iter().flatten().flatten();
    let mut packed = kernels.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap().to_str();
        name.is_some_and(|name| name.starts_with("vmlinuz-"))
    });
    // One that is unpacked, and would be kept.
    let Some(kernel) = packed.next() else {
        return missing("a kernel in /boot");
    };
    for engine in any_engine() {
        for options in [&[][..], &["--verbose"]] {
            note_run(engine);
            let output = Command::new("unshare")
                .args(["-m", "sh", "-c"])
                .arg("mount -t tmpfs -o ro none \"$HOME\" && exec \"$@\"")
                .args(["sh", RDVM, "run", "--engine", engine, "--kernel"])
                .arg(&kernel)
                .args(options)
                .arg(busybox().path())
                .args(["sh", "-c", "echo on"])
                .env("HOME", dir.path())
                .env_remove("XDG_CACHE_HOME")
                .env_remove("RDVM_CACHE")
                .stdin(Stdio::null())
                .output();
            let run = Run(output.unwrap()).exits(0).prints("on\n");
            match options.is_empty() {
                true => run.says_only(""),
                false => run.says("which cannot be written to; nothing is kept there"),
            };
        }
    }
}

#[test]
fn leftovers_of_a_killed_run_are_not_in_the_way_of_one_with_its_process_id() {
    let dir = TempDir::new().unwrap();
    // In a PID namespace the ID is 1 every time.
    for name in [".out.cpio.1.tmp", ".report.json.1.tmp"] {
        let mut file = fs::File::create(dir.path().join(name)).unwrap();
        file.write_all(b"half").unwrap();
    }
    let output = Command::new("unshare")
        .args(["-pf", RDVM, "pack", "-o"])
        .arg(dir.path().join("out.cpio"))
        .arg(busybox().path())
        .output();
    let run = Run(output.unwrap());
    if run.stderr().contains("Operation not permitted") {
        return missing("root, for a PID namespace,");
    }
    run.exits(0).says_only("");
    assert!(fs::metadata(dir.path().join("out.cpio")).unwrap().len() > 1000);
}
