//! `rdvm kernel build`: what it leaves behind when it goes well, fails or is stopped; and the small kernel itself.
//!
//! Building Linux takes minutes, so that most tests here build a source of two files, whose Makefile does what the
//! kernel's does as far as rdvm can see.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::small_kernel::small_kernel;
use crate::support::{Image, Rdvm, busybox, engines, eventually, is_alive};

/// Its vmlinux has a PVH entry and a banner, and stops the CPU.
const START: &str = r#"
.globl _start
_start: hlt
.section .rodata
.asciz "Linux version 6.6.6-fake (nobody@nowhere)"
.section .note.Xen, "a", @note
.long 4, 4, 18
.asciz "Xen"
.long _start
"#;

const CONFIGURE: &str = "cp $(KCONFIG_ALLCONFIG) $(O)/.config";
const COMPILE: &str = "mkdir -p $(O)/include/config
	echo 6.6.6-fake >$(O)/include/config/kernel.release
	gcc -static -no-pie -nostdlib -Wl,-Ttext-segment=0x1000000 -Wl,--build-id=none -o $(O)/vmlinux start.S";

/// A kernel's source and a cache directory.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(TempDir::new().unwrap());
        fs::create_dir(place.source()).unwrap();
        fs::write(place.source().join("start.S"), START).unwrap();
        place.recipe(CONFIGURE, COMPILE)
    }

    /// With these commands for the two steps.
    fn recipe(self, configure: &str, compile: &str) -> Self {
        let script = "arch/x86/kernel/vmlinux.lds:\n\tmkdir -p $(O)/$(@D)\n\techo '. = ALIGN((1 << 21));' >$(O)/$@";
        let text = format!("allnoconfig:\n\t{configure}\n{script}\nvmlinux:\n\t{compile}\n");
        fs::write(self.source().join("Makefile"), text).unwrap();
        self
    }

    fn source(&self) -> PathBuf {
        self.0.path().join("source")
    }

    fn cache(&self) -> PathBuf {
        self.0.path().join("cache")
    }

    fn kernel(&self) -> PathBuf {
        self.cache().join("kernel/vmlinux")
    }

    /// `rdvm VERB` with this cache, and without what the tests' own environment says of kernels.
    fn rdvm(&self, verb: &str) -> Rdvm {
        Rdvm::verb(verb)
            .with_variable("RDVM_CACHE", self.cache())
            .with_variable("RDVM_KERNEL", "")
            .with_variable("TMPDIR", "")
    }

    fn build(&self, source: &Path) -> Rdvm {
        self.rdvm("kernel")
            .option("build")
            .option("--source")
            .option(source)
    }

    /// What is in the cache, without the lock.
    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.cache().join("kernel")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name != "lock").collect();
        names.sort();
        names
    }

    /// As an archive with everything below one directory.
    fn archive(&self) -> PathBuf {
        let archive = self.0.path().join("linux-source-6.6.tar.gz");
        let tar = Command::new("tar")
            .arg("-C")
            .arg(self.0.path())
            .arg("-czf")
            .arg(&archive)
            .arg("source")
            .status();
        assert!(tar.unwrap().success());
        archive
    }
}

#[test]
fn a_built_kernel_is_the_one_that_later_runs_take() {
    let place = Place::new();
    let path = format!("{}\n", place.kernel().display());
    place
        .build(&place.source())
        // Those of a make that calls us have no say in the kernel's.
        .with_variable("MAKEFLAGS", "n")
        .with_variable("ARCH", "arm")
        .run()
        .exits(0)
        .prints(path)
        .says("kernel 6.6.6-fake built in ")
        .says(&digest(&place.kernel()));
    assert_eq!(place.left(), ["vmlinux"]);
    let list = place.rdvm("kernel").option("list").run().exits(0).stdout();
    let line = list.lines().nth(1).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[..3], ["*", "6.6.6-fake", "vmlinux"], "{list}");
    assert!(line.ends_with("used: built by rdvm kernel build"), "{list}");
    let chosen = format!("{} (built by rdvm kernel build)", place.kernel().display());
    let dry = place.rdvm("run").option("--dry-run");
    dry.image(busybox().path())
        .sh("true")
        .run()
        .exits(0)
        .says(&format!("kernel {chosen}"));
    let inspect = place.rdvm("inspect").image(busybox().path()).run();
    let plan = inspect.exits(0).stdout();
    assert!(plan.contains(&chosen), "{plan}");
}

/// What rdvm says of a file, by another program.
fn digest(file: &Path) -> String {
    let sum = Command::new("sha256sum").arg(file).output().unwrap().stdout;
    let sum = String::from_utf8(sum).unwrap();
    format!(", sha256 {}; ", sum.split(' ').next().unwrap())
}

#[test]
fn a_build_says_how_far_it_is() {
    let files = "for file in $$(seq 400); do echo \"  CC      $$file.o\"; done";
    let place = Place::new().recipe(CONFIGURE, &format!("@{files}\n\t{COMPILE}"));
    let said = place.build(&place.source()).run().exits(0).stderr();
    assert!(said.contains("rdvm: compiled 400 of about "), "{said}");
    assert!(said.contains("rdvm: compiled 400 files\n"), "{said}");
}

#[test]
fn a_build_says_nothing_of_who_built_it_when() {
    let note = "echo $(KBUILD_BUILD_USER) $(KBUILD_BUILD_HOST) $(KBUILD_BUILD_VERSION) $(KBUILD_BUILD_TIMESTAMP)";
    let place = Place::new();
    let noted = place.0.path().join("noted");
    let place = place.recipe(
        CONFIGURE,
        &format!("{note} >{}\n\t{COMPILE}", noted.display()),
    );
    let touched = Command::new("touch")
        .args(["--date", "2020-02-29 12:00 UTC"])
        .arg(place.source().join("Makefile"))
        .status();
    assert!(touched.unwrap().success());
    place.build(&place.source()).run().exits(0);
    let noted = fs::read_to_string(noted).unwrap();
    assert_eq!(noted, "rdvm rdvm 1 2020-02-29\n");
}

#[test]
fn the_parts_of_a_kernel_lie_behind_one_another() {
    let place = Place::new();
    let kept = place.0.path().join("script");
    let keep = format!("cp $(O)/arch/x86/kernel/vmlinux.lds {}", kept.display());
    let place = place.recipe(CONFIGURE, &format!("{keep}\n\t{COMPILE}"));
    place.build(&place.source()).run().exits(0);
    assert_eq!(fs::read_to_string(kept).unwrap(), ". = ALIGN((1 << 12));\n");
}

#[test]
fn an_archive_is_built_once_until_it_changes_or_force_is_given() {
    let place = Place::new();
    let archive = place.archive();
    let path = format!("{}\n", place.kernel().display());
    let build = || place.build(&archive);
    build().run().exits(0).says("built in");
    assert_eq!(place.left(), ["vmlinux", "vmlinux.stamp"]);
    let made = || fs::metadata(place.kernel()).unwrap().modified().unwrap();
    let first = made();
    build().run().exits(0).prints(&path).says_only(
        "rdvm: kernel 6.6.6-fake is up to date, same source and options; --force builds it again\n",
    );
    assert_eq!(made(), first);
    build()
        .option("--force")
        .run()
        .exits(0)
        .prints(&path)
        .says("built in");
    assert_ne!(made(), first);
    let second = made();
    fs::write(place.source().join("README"), "more").unwrap();
    place.archive();
    build().run().exits(0).says("built in");
    assert_ne!(made(), second);
    fs::write(place.kernel(), "damaged").unwrap();
    build().run().exits(0).says("built in");
}

#[test]
fn a_build_that_fails_leaves_the_old_kernel_and_a_log() {
    let place = Place::new();
    place.build(&place.source()).run().exits(0);
    let old = fs::read(place.kernel()).unwrap();
    let log = place.cache().join("kernel/build.log");
    let place = place.recipe(
        CONFIGURE,
        "echo 'drivers/a.c:1: error: no such thing'; exit 3",
    );
    let run = place.build(&place.source()).run().exits(125).prints("");
    let run =
        run.says("rdvm: kernel build: make vmlinux failed (exit status: 2); the whole log is ");
    let run = run.says(&format!("{}, it ends with\n", log.display()));
    run.says("\n  drivers/a.c:1: error: no such thing\n");
    assert!(fs::read_to_string(log).unwrap().contains("no such thing"));
    assert_eq!(place.left(), ["build.log", "vmlinux"]);
    let place = place.recipe(
        "grep -v -e PVH -e NR_CPUS $(KCONFIG_ALLCONFIG) >$(O)/.config",
        COMPILE,
    );
    let run = place.build(&place.source()).run().exits(125);
    run.says("options that did not take effect in this source: CONFIG_PVH=y, CONFIG_NR_CPUS=16; ");
    let place = place.recipe(CONFIGURE, &COMPILE.replace("start.S", "-x c /dev/null"));
    let run = place.build(&place.source()).run().exits(125);
    run.says("kernel build: what came out cannot be booted: ");
    assert_eq!(fs::read(place.kernel()).unwrap(), old);
    assert_eq!(place.left(), ["build.log", "vmlinux"]);
}

#[test]
fn a_build_that_is_stopped_leaves_the_old_kernel_and_no_process() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let place = Place::new();
        place.build(&place.source()).run().exits(0);
        let old = fs::read(place.kernel()).unwrap();
        let mark = place.0.path().join("mark");
        let wait = format!(
            "echo $$$$ >{0}.new; mv {0}.new {0}; exec sleep 1000",
            mark.display()
        );
        let place = place.recipe(CONFIGURE, &wait);
        let child = place.build(&place.source()).spawn();
        eventually("the compiler runs", || mark.exists());
        let compiler = fs::read_to_string(&mark).unwrap();
        let kill = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(child.id().to_string())
            .status();
        assert!(kill.unwrap().success());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(
            stderr.contains("kernel build: stopped by signal"),
            "{stderr}"
        );
        let compiler = compiler.trim().parse().unwrap();
        eventually("the compiler is gone", || !is_alive(compiler));
        assert_eq!(fs::read(place.kernel()).unwrap(), old);
        assert_eq!(place.left(), ["build.log", "vmlinux"]);
    }
}

#[test]
fn what_a_build_lacks_is_said_before_anything_is_made() {
    let place = Place::new();
    let gone = place.0.path().join("gone");
    place.build(&gone).run().exits(125).prints("").says_only(&format!(
        "rdvm: --source: {}: no such file or directory; name a kernel's source, a .tar.xz, .tar.bz2, .tar.gz or .tar.zst \
         or its directory\n",
        gone.display()
    ));
    assert!(!place.cache().exists());
    let bin = place.0.path().join("bin");
    fs::create_dir(&bin).unwrap();
    for program in ["make", "gcc", "ld", "strip", "tar", "bc", "patch"] {
        symlink("/bin/true", bin.join(program)).unwrap();
    }
    let run = place
        .build(&place.source())
        .with_variable("PATH", &bin)
        .run();
    run.exits(125)
        .says("kernel build: flex, bison are missing; sudo apt install flex bison\n");
    assert_eq!(place.left(), [""; 0]);
    let run = place
        .build(&place.source())
        .with_variable("RDVM_CACHE", "/proc/none")
        .run();
    run.exits(125)
        .says("rdvm: kernel build: /proc/none/kernel/lock: ");
}

#[test]
fn the_small_kernel_has_what_programs_expect() {
    let Some(kernel) = small_kernel() else { return };
    let image = Image::busybox().directory("tmp", 0o1777);
    let script = "set -e; B=/bin/busybox; $B uname -r; $B nproc
        $B nc -l -p 7 >/tmp/heard &
        until echo loopback | $B nc 127.0.0.1 7; do $B sleep .1; done 2>/dev/null; wait; $B cat /tmp/heard
        $B ls /dev/shm /dev/full /dev/tty /proc/sysvipc/shm /proc/sys/fs/mqueue /proc/1/smaps \
            /sys/fs/cgroup/cgroup.procs >/dev/null
        $B unshare -p -n -u -i -f $B hostname
        exec 3<>/dev/ptmx; $B ls /dev/pts/0; $B date +%Y";
    for engine in engines() {
        let run = Rdvm::on(engine)
            .option("--cpus")
            .option("2")
            .option("-k")
            .option(&kernel);
        let run = run
            .option("--hostname")
            .option("small")
            .image(image.path())
            .sh(script)
            .run();
        let text = run.exits(0).stdout();
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with(|c: char| c.is_ascii_digit()) && lines[0].ends_with("-rdvm"),
            "{text}"
        );
        assert_eq!(
            lines[1..5],
            ["2", "loopback", "small", "/dev/pts/0"],
            "{text}"
        );
        assert!(
            lines[5].parse::<u32>().unwrap() >= 2025,
            "the clock: {text}"
        );
    }
}
