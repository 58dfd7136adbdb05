//! `--root erofs`: an image in place is a root like any other; machines have one file of it in common, and none of them can
//! change it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::kept::kernel;
use crate::kernels::kernels;
use crate::support::{Image, RDVM, Rdvm, Run, busybox, children_of, engines, note_run};

/// The bytes of the image that are in nobody's busybox.
const LARGE: usize = 24 << 20;

/// A directory with a large file, and a cache of its own.
struct Place {
    image: Image,
    cache: TempDir,
}

impl Place {
    fn new() -> Self {
        // No two pages are the same, and none is empty.
        let words = (0..LARGE as u64 / 8).flat_map(u64::to_le_bytes);
        let large: Vec<u8> = words.collect();
        Self {
            image: Image::busybox().file("large", 0o644, large),
            cache: TempDir::new().unwrap(),
        }
    }

    fn rdvm(&self, engine: &str, options: &[&str], script: &str) -> Command {
        note_run(engine);
        let mut command = Command::new(RDVM);
        command.env("RDVM_CACHE", self.cache.path());
        command.env("RDVM_KERNEL", kernel());
        command.args(["run", "--engine", engine]).args(options);
        command.arg(self.image.path()).args(["sh", "-c", script]);
        command.stdin(Stdio::null());
        command
    }

    /// Waits until the directory's state can be relied upon.
    fn settle(&self) {
        crate::kept::settle(self.image.path().to_str().unwrap());
    }

    fn run(&self, engine: &str, options: &[&str], script: &str) -> Run {
        Run(self.rdvm(engine, options, script).output().unwrap())
    }

    /// The kept images, and the checksum of each.
    fn kept(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let list = fs::read_dir(self.cache.path().join("images"));
        let paths = list.into_iter().flatten();
        let sum = |path: PathBuf| {
            let sum = Sha256::digest(fs::read(&path).unwrap()).to_vec();
            (path, sum)
        };
        paths.map(|entry| sum(entry.unwrap().path())).collect()
    }

    fn large(&self) -> String {
        let sum = Sha256::digest(fs::read(self.image.path().join("large")).unwrap());
        sum.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// KiB of a process and its children: what of the mappings of `file` is shared or could be, and what is their own.
fn mapped(pid: u32, file: &Path) -> (u64, u64) {
    let mut sums = (0, 0);
    for pid in [vec![pid], children_of(pid)].concat() {
        let Ok(maps) = fs::read_to_string(format!("/proc/{pid}/smaps")) else {
            continue;
        };
        let mut is_it = false;
        for line in maps.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [range, _, _, _, _, ref path @ ..] if range.contains('-') => {
                    is_it = path.first().is_some_and(|path| Path::new(path) == file);
                }
                ["Rss:", all, _] if is_it => sums.0 += all.parse::<u64>().unwrap(),
                ["Anonymous:", own, _] if is_it => sums.1 += own.parse::<u64>().unwrap(),
                _ => {}
            }
        }
    }
    sums
}

/// A run that goes on for long, and ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A run whose command has said a line.
fn until_it_speaks(mut command: Command) -> (Running, String) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let stdout = child.stdout.as_mut().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    (Running(child), line)
}

#[test]
fn a_dry_run_plans_what_the_run_gets_and_keeps_nothing() {
    let planned = |run: &Run| {
        let said = run.stderr();
        let line = said.lines().find(|line| line.starts_with("rdvm: ram "));
        line.unwrap_or_else(|| panic!("{said}")).to_owned()
    };
    for engine in engines() {
        let place = Place::new();
        let copy = format!("{}:/copy", place.image.path().join("large").display());
        let plain = planned(&place.run(engine, &["--root", "initrd", "--dry-run"], "true"));
        for options in [
            &["--root", "initrd", "--copy-in", &copy][..],
            &["--root", "erofs"],
        ] {
            let dry = place.run(engine, &[options, &["--dry-run"]].concat(), "true");
            assert_eq!(place.kept(), [], "{options:?}");
            let run = place.run(engine, &[options, &["--verbose"]].concat(), "true");
            assert_eq!(planned(&run.exits(0)), planned(&dry), "{options:?}");
            assert_ne!(planned(&dry), plain, "{options:?}");
        }
    }
}

#[test]
fn machines_of_a_directory_have_one_file_mapped_and_it_stays_what_it_is() {
    for engine in engines() {
        let place = Place::new();
        place.settle();
        // The last words of the image, and what is done to memory that the image was unpacked from.
        let script = "sha256sum /large | cut -c-64; sleep 1000";
        let start = || until_it_speaks(place.rdvm(engine, &["--root", "erofs"], script));
        let (first, said) = start();
        assert_eq!(said, format!("{}\n", place.large()));
        let kept = place.kept();
        let [(file, _)] = &kept[..] else {
            panic!("{kept:?}")
        };
        let (second, said) = start();
        assert_eq!(said, format!("{}\n", place.large()));
        for child in [&first, &second] {
            let (all, own) = mapped(child.0.id(), file);
            assert!(all >= LARGE as u64 >> 10, "{engine}: {all} KiB are mapped");
            assert!(own < 64, "{engine}: {own} KiB were written to");
        }
        drop((first, second));
        assert_eq!(place.kept(), kept, "{engine}");
    }
}

#[test]
fn a_guest_that_writes_to_its_region_changes_nothing_for_others() {
    for engine in engines() {
        let place = Place::new();
        place.settle();
        place.run(engine, &["--root", "erofs"], "exit 3").exits(3);
        let kept = place.kept();
        assert_eq!(kept.len(), 1);
        // The device, and all memory that there is; then what it has of itself.
        let write = "dd if=/dev/zero of=/dev/pmem0 bs=1M 2>/dev/null; dd if=/dev/zero of=/full bs=1M 2>/dev/null
            sync; cat /proc/cmdline";
        let run = place.run(engine, &["--root", "erofs"], write);
        let written = run.stdout();
        assert_eq!(place.kept(), kept, "{engine}: {written}");
        let run = place.run(engine, &["--root", "erofs"], "sha256sum /large | cut -c-64");
        run.exits(0).prints(format!("{}\n", place.large()));
    }
}

/// Everything that programs do to a root, and all that it says of itself.
#[test]
fn an_image_in_place_is_a_root_like_any_other() {
    let script = r#"
        set -e
        stat -c '%a %u:%g' /; stat -c '%a %u:%g %h' /etc/word /hard/a /etc/link | tr '\n' ' '; readlink /etc/link
        echo more >>/hard/a; cat /hard/b; stat -c %h /hard/b
        mv /dir /moved; cat /moved/deep/file; mkdir /dir; ls /dir
        rm -rf /moved /hard; test ! -e /moved; test ! -e /hard
        mkdir /hard; ls /hard
        chown 5:6 /etc/word; chmod 600 /etc/word; stat -c '%a %u:%g' /etc/word; cat /etc/word
        mkdir /own; cp /bin/busybox /own/true; /own/true; ln /etc/word /word; stat -c %h /word
        mount | grep -c ' on / '
        test "$(stat -c %d /bin/busybox)" = "$(stat -c %d /etc/word)"; echo one device
        mkdir /l /u /m; mount -t tmpfs t /u; mkdir /u/u /u/w; echo low >/l/low
        mount -t overlay o -o lowerdir=/l,upperdir=/u/u,workdir=/u/w /m; cat /m/low; echo up >/m/up; cat /u/u/up
        mount --bind / /n; cd /n; pivot_root . old; echo pivoted; exec /bin/busybox true
    "#;
    let image = Image::busybox()
        .file("etc/word", 0o640, "word\n")
        .file("hard/a", 0o644, "text\n")
        .file("dir/deep/file", 0o644, "deep\n")
        .directory("n", 0o755)
        .directory("old", 0o755);
    fs::hard_link(image.path().join("hard/a"), image.path().join("hard/b")).unwrap();
    std::os::unix::fs::symlink("word", image.path().join("etc/link")).unwrap();
    let expected = "755 0:0\n640 0:0 1 644 0:0 2 777 0:0 1 word\ntext\nmore\n2\ndeep\n600 5:6\nword\n2\n1\none device\n";
    for engine in engines() {
        for root in ["erofs", "initrd"] {
            let run = Rdvm::on(engine)
                .option("--root")
                .option(root)
                .image(image.path());
            let run = run.sh(script).run();
            let said = run.exits(0).stdout();
            assert!(said.contains(expected), "{root}: {said}");
            assert!(said.ends_with("low\nup\npivoted\n"), "{root}: {said}");
        }
    }
}

#[test]
fn volumes_are_what_their_directories_were_and_read_only() {
    let places =
        [1, 2, 3, 4].map(|number| Image::empty().file("a/number", 0o644, format!("{number}\n")));
    for engine in engines() {
        for root in ["erofs", "initrd"] {
            let mut run = Rdvm::on(engine).option("--root").option(root);
            for (number, place) in (1..).zip(&places) {
                let volume = format!(
                    "{}:/mnt/deep/{number}{}",
                    place.path().display(),
                    [":ro", ""][number % 2]
                );
                run = run.option("-v").option(volume);
            }
            let script = "cat /mnt/deep/*/a/number; ls /mnt/deep/1; touch /mnt/deep/2/x; mount | grep -c 'type erofs (ro'";
            let run = run.image(busybox().path()).sh(script).run();
            run.exits(0)
                .prints("1\n2\n3\n4\na\n4\n")
                .says("Read-only file system");
        }
    }
    let refused = |volume: &str| {
        Rdvm::verb("run")
            .option("-v")
            .option(volume)
            .image(busybox().path())
            .run()
    };
    refused("/tmp:/x:rw")
        .exits(125)
        .says("a volume is read-only; leave :rw out, and --copy-out GUEST:HOST brings files back");
    refused("/tmp:x")
        .exits(125)
        .says("write GUEST from the root on");
    refused("/nowhere/at/all:/x")
        .exits(125)
        .says("/nowhere/at/all");
}

/// QEMU puts the initrd, in which they travel, at the end of the RAM; an image in place is not far from there.
#[test]
fn files_that_are_copied_in_take_nothing_of_an_image_in_place() {
    for engine in engines() {
        let place = Place::new();
        let copy = format!("{}:/copy", place.image.path().join("large").display());
        let options = ["--root", "erofs", "--copy-in", &copy];
        let run = place.run(engine, &options, "cat /large /copy | sha256sum | cut -c-64");
        let large = fs::read(place.image.path().join("large")).unwrap();
        let both = Sha256::digest([&large[..], &large].concat());
        let both: String = both.iter().map(|byte| format!("{byte:02x}")).collect();
        run.exits(0).prints(format!("{both}\n"));
    }
}

/// As on a full disk, or when somebody is careless with the cache.
#[test]
fn a_region_whose_file_is_cut_off_ends_its_machine_and_nothing_else() {
    for engine in engines() {
        let place = Place::new();
        place.settle();
        place.run(engine, &["--root", "erofs"], "exit 3").exits(3);
        let script = "echo there; sleep 1; sha256sum /large >/dev/null; echo read";
        let (mut running, said) = until_it_speaks(place.rdvm(engine, &["--root", "erofs"], script));
        assert_eq!(said, "there\n");
        let (file, _) = &place.kept()[0];
        fs::File::options()
            .write(true)
            .open(file)
            .unwrap()
            .set_len(8 << 20)
            .unwrap();
        let status = running.0.wait().unwrap();
        assert_eq!(status.code(), Some(125), "{engine}: {status}");
    }
}

/// Kernels of distributions have the drivers as modules, which come along and are gone from the root.
#[test]
fn an_image_is_in_place_on_every_kernel_by_its_modules() {
    let mut boots = 0;
    for kernel in kernels() {
        for engine in engines() {
            let run = Rdvm::on(engine).option("--timeout").option("300s");
            let run = run.option("--root").option("erofs");
            let run = run.option("-k").option(kernel).image(busybox().path());
            let script = "ls -A / | grep rdvm; grep ' / ' /proc/mounts; echo marker";
            let run = run.sh(script).run().exits(0);
            let said = run.stdout();
            assert!(said.starts_with("overlay / overlay "), "{said}");
            assert!(said.ends_with("\nmarker\n"), "{}: {said}", kernel.display());
            boots += 1;
        }
    }
    assert_eq!(boots, kernels().len() * engines().len());
}

/// A place with a kernel of a distribution, by a link, and copies of its modules.
fn kernel_apart() -> (TempDir, PathBuf, PathBuf) {
    let kernel = kernels().first().unwrap();
    let release = kernel.file_name().unwrap().to_str().unwrap();
    let release = release.strip_prefix("vmlinuz-").unwrap();
    let from = kernel.with_file_name("modules").join(release);
    let dir = TempDir::new().unwrap();
    let to = dir.path().join("lib/modules");
    fs::create_dir_all(&to).unwrap();
    let copied = Command::new("cp").arg("-r").args([&from, &to]).status();
    assert!(copied.unwrap().success());
    let boot = dir.path().join("boot");
    fs::create_dir(&boot).unwrap();
    let link = boot.join(kernel.file_name().unwrap());
    std::os::unix::fs::symlink(fs::canonicalize(kernel).unwrap(), &link).unwrap();
    (dir, link, to.join(release))
}

#[test]
fn modules_that_come_or_go_or_cannot_be_read_are_noticed() {
    let (_dir, kernel, modules) = kernel_apart();
    let place = Place::new();
    let run = |root: &str, options: &[&str]| {
        let mut command = place.rdvm(
            "qemu",
            &[options, &["--root", root, "--dry-run"]].concat(),
            "true",
        );
        command.env("RDVM_KERNEL", &kernel);
        Run(command.output().unwrap())
    };
    let erofs = fs::read_dir(modules.join("kernel/fs/erofs"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let has_regions = |run: Run| run.exits(0).stderr().contains("page structs of the image");
    assert!(has_regions(run("auto", &[])));
    run("erofs", &[]).exits(0).says("modules, loaded");
    // Damaged; then a list without it; then no list at all.
    let good = fs::read(&erofs).unwrap();
    fs::write(&erofs, "text").unwrap();
    assert!(!has_regions(run("auto", &[])));
    let file = erofs.display().to_string();
    run("erofs", &[])
        .exits(125)
        .says(&format!("rdvm: --root erofs: {file}: "));
    fs::remove_file(&erofs).unwrap();
    run("erofs", &[]).exits(125).says(&format!(
        "{file}: no such file (rdvm kernel check); --root auto"
    ));
    fs::write(&erofs, good).unwrap();
    assert!(has_regions(run("auto", &[])));
    fs::remove_file(modules.join("modules.dep")).unwrap();
    assert!(!has_regions(run("auto", &[])));
}

#[test]
fn the_reason_why_a_large_image_is_unpacked_is_told_under_verbose_alone() {
    let (_dir, kernel, modules) = kernel_apart();
    fs::remove_dir_all(modules).unwrap();
    for engine in engines() {
        let place = Place::new();
        let run = |options: &[&str]| {
            let mut command = place.rdvm(engine, options, "exit 3");
            Run(command.env("RDVM_KERNEL", &kernel).output().unwrap()).exits(3)
        };
        run(&["--verbose"]).says("rdvm: the image is unpacked, not used in place: ");
        run(&[]).says_only("");
    }
}

/// By the table of `rdvm kernel check`.
#[test]
fn a_kernel_is_judged_with_its_modules() {
    let (dir, kernel, modules) = kernel_apart();
    let check = |file: &Path| Rdvm::verb("kernel").option("check").option(file).run();
    let by = format!(
        "large images in place: by modules of {}\n",
        modules.display()
    );
    let said = check(&kernel).exits(0).stdout();
    assert!(said.contains(&by), "{said}");
    let release = modules.file_name().unwrap().to_str().unwrap();
    let config = dir.path().join("boot").join(format!("config-{release}"));
    fs::rename(modules.join("config"), &config).unwrap();
    assert!(check(&config).exits(0).stdout().contains(&by));
    fs::remove_dir_all(modules.join("kernel/fs")).unwrap();
    let said = check(&config).exits(0).stdout();
    assert!(
        said.contains("CONFIG_EROFS_FS is a module") && said.contains("erofs.ko"),
        "{said}"
    );
}

#[test]
fn what_comes_behind_the_shared_part_arrives_too() {
    for engine in engines() {
        let place = Place::new();
        fs::write(place.cache.path().join("note"), "copied").unwrap();
        let copy = format!("{}/note:/note", place.cache.path().display());
        let script = "cat /note; tail -c 8 /large | od -An -t u8 | tr -d ' '; cat; echo $A";
        let options = [
            "--root",
            "erofs",
            "-i",
            "--copy-in",
            &copy,
            "-e",
            "A=set",
            "--cpus",
            "2",
        ];
        let run = place.run(engine, &options, script);
        run.exits(0)
            .prints(format!("copied{}\nset\n", LARGE / 8 - 1));
    }
}

#[test]
fn what_cannot_be_in_place_is_refused_and_a_cache_that_cannot_be_is_not_needed() {
    for option in ["--share", "--root=erofs"] {
        let run = Rdvm::verb("run").option(option).option("--rdinit");
        let run = run.option("/bin/true").image(busybox().path()).run();
        run.exits(125)
            .says("--root erofs: cannot be used with --rdinit");
    }
}
