//! The cache: an image that was packed once is not read again, a changed one is, and no accident makes the cache lie.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use rustix::fs::{XattrFlags, lsetxattr};
use rustix::process::geteuid;
use tempfile::TempDir;

use crate::support::{Image, RDVM, Run, any_engine, busybox, eventually, missing, note_run};

/// Entries that are too young are not remembered: its stamp could be the same after a change (`SETTLED` in crates/hostfs/src/stamp.rs).
const SETTLED: Duration = Duration::from_secs(12);

/// An error that comes after the image was read and kept, and before anything boots.
const NO_CONSOLE: &str = "--console=/nowhere/at/all";
/// Its words.
const REFUSED: &str = "/nowhere/at/all: No such file or directory";

/// A cache of its own, and archives.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `rdvm WORDS` with the cache, not yet started.
    fn rdvm(&self, words: &[&str]) -> Command {
        let mut command = Command::new(RDVM);
        command.args(words).stdin(Stdio::null());
        // The kernel that a user's own cache has; ours has none.
        command.env("RDVM_CACHE", self.path("cache"));
        command.env("RDVM_KERNEL", kernel());
        command
    }

    /// Packs `image` to `name`.
    fn archive(&self, name: &str, image: &Path, words: &[&str]) -> String {
        let path = self.path(name).to_str().unwrap().to_owned();
        let mut command = self.rdvm(&["pack", "--owner", "keep", "-o", &path]);
        Run(command.args(words).arg(image).output().unwrap()).exits(0);
        path
    }

    /// How often a run opens `archive`; it ends before it boots.
    fn opens(&self, archive: &str, words: &[&str]) -> usize {
        // By its whole name: whether it is a directory with a kernel in boot/ is asked in any case.
        self.opened(archive, archive, words)
    }

    /// How often a run of `image` opens the file `name`.
    fn opened(&self, name: &str, image: &str, words: &[&str]) -> usize {
        let log = self.path("log");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", "trace=open,openat,openat2", "-o"]);
        command.arg(&log).arg(RDVM).args(["run", "--root", "erofs"]);
        command.args([NO_CONSOLE, "--engine", any_engine()[0]]);
        command.args(words).args([image, "sh"]);
        command.env("RDVM_CACHE", self.path("cache"));
        command.env("RDVM_KERNEL", kernel());
        let output = command.stdin(Stdio::null()).output();
        let output = output.expect("strace is installed");
        Run(output).exits(125).says(REFUSED);
        let calls = fs::read_to_string(log).unwrap();
        let name = format!("\"{name}\"");
        calls.lines().filter(|call| call.contains(&name)).count()
    }

    /// Names of the entries, and of all else that is there.
    fn kept(&self) -> (Vec<String>, Vec<String>) {
        let list = fs::read_dir(self.path("cache/images"));
        let list = list.into_iter().flatten();
        let names = list.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.partition(|name| name.ends_with(".erofs"))
    }
}

/// The kernel that runs take by themselves, as `inspect` says it.
pub(crate) fn kernel() -> &'static Path {
    static KERNEL: OnceLock<PathBuf> = OnceLock::new();
    KERNEL.get_or_init(|| {
        let mut inspect = Command::new(RDVM);
        let output = inspect.arg("inspect").arg(busybox().path()).output();
        let page = Run(output.unwrap()).exits(0).stdout();
        let line = page.lines().find_map(|line| line.strip_prefix("kernel"));
        let (path, _) = line.unwrap().trim().rsplit_once(" (").unwrap();
        path.into()
    })
}

/// Waits until a file has been left alone for long enough; nobody can set the time that counts.
pub(crate) fn settle(path: &str) {
    let changed = fs::metadata(path).unwrap().ctime();
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(changed as u64) + SETTLED;
    std::thread::sleep(
        until
            .duration_since(SystemTime::now())
            .unwrap_or(Duration::ZERO),
    );
}

pub(crate) fn has_strace() -> bool {
    let is_here = Command::new("strace").arg("-V").output().is_ok();
    if !is_here {
        missing("strace");
    }
    is_here
}

#[test]
fn the_second_run_of_an_archive_does_not_open_it() {
    if !has_strace() {
        return;
    }
    let image = Image::busybox().file("etc/word", 0o644, "word");
    let place = Place::new();
    let archives = [
        place.archive("a.tar", image.path(), &[]),
        place.archive("a.tar.gz", image.path(), &[]),
        place.archive("docker", image.path(), &["--format", "docker"]),
        place.archive("oci", image.path(), &["--format", "oci"]),
        place.archive("a.cpio", image.path(), &[]),
    ];
    settle(&archives[4]);
    for (at, archive) in archives.iter().enumerate() {
        assert!(place.opens(archive, &[]) > 0, "{archive}");
        let (entries, other) = place.kept();
        assert_eq!((entries.len(), other.len()), (at + 1, 0), "{archive}");
        assert_eq!(place.opens(archive, &[]), 0, "{archive}");
    }
}

#[test]
fn the_second_run_of_a_directory_opens_no_file_in_it() {
    if !has_strace() {
        return;
    }
    let image = Image::busybox().file("etc/word", 0o644, "word");
    let place = Place::new();
    let archive = place.archive("oci", image.path(), &["--format", "oci"]);
    let layout = place.path("layout");
    fs::create_dir(&layout).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&layout).args(["-xf", &archive]);
    assert!(tar.status().unwrap().success());
    let [directory, layout] = [image.path(), &layout].map(|path| path.to_str().unwrap());
    settle(layout);
    for (at, (name, image)) in [("word", directory), ("index.json", layout)]
        .into_iter()
        .enumerate()
    {
        let file = match name {
            "word" => format!("{image}/etc/word"),
            name => format!("{image}/{name}"),
        };
        for entries in [at, at + 1] {
            assert_eq!(place.kept().0.len(), entries, "{image}");
            let opened = place.opened(name, image, &[]);
            assert_eq!(opened > 0, entries == at, "{image}: {opened}");
        }
        // Its owner's rights, which only the last time of change tells.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(place.opened(name, image, &[]) > 0, "{image}");
        settle(&file);
        assert!(place.opened(name, image, &[]) > 0, "{image}");
        assert_eq!(place.opened(name, image, &[]), 0, "{image}");
        // In the place of the one before.
        assert_eq!(place.kept().0.len(), at + 1, "{image}");
    }
}

#[test]
fn other_options_and_a_changed_archive_are_read_again() {
    if !has_strace() {
        return;
    }
    let image = Image::busybox().file("etc/word", 0o644, "word");
    let top = Image::empty().file("etc/top", 0o644, "top");
    let place = Place::new();
    let base = place.archive("a.tar", image.path(), &[]);
    let layer = place.archive("layer.tar", top.path(), &[]);
    settle(&layer);
    assert!(place.opens(&base, &[]) > 0);
    assert_eq!(place.opens(&base, &[]), 0);
    for words in [
        &["--layer", &layer][..],
        &["--format", "tar"],
        &["--owner", "root"],
        &["--max-entries", "1000"],
    ] {
        assert!(place.opens(&base, words) > 0, "{words:?}");
        assert_eq!(place.opens(&base, words), 0, "{words:?}");
    }
    // A layer's file counts as well as the image's.
    assert!(place.opens(&layer, &["--layer", &base]) > 0);
    assert_eq!(place.opens(&base, &[]), 0);
    // A digest that is asked for is that of what is there now.
    let wrong = format!("sha256:{}", "0".repeat(64));
    let refused = place
        .rdvm(&["run", "--root", "erofs", "--expect", &wrong, &base, "sh"])
        .output();
    Run(refused.unwrap()).exits(125).says("and --expect wants");

    // Another word of the same length, and the old time of change.
    let meta = fs::metadata(&base).unwrap();
    let mut bytes = fs::read(&base).unwrap();
    let at = bytes
        .windows(512)
        .position(|block| block.starts_with(b"word\0") && block[5..].iter().all(|&byte| byte == 0));
    bytes[at.unwrap()] = b'W';
    fs::write(&base, bytes).unwrap();
    let file = fs::File::options().write(true).open(&base).unwrap();
    file.set_modified(meta.modified().unwrap()).unwrap();
    drop(file);
    assert!(place.opens(&base, &[]) > 0);
    // Too young to be remembered.
    assert!(place.opens(&base, &[]) > 0);
    settle(&base);
    assert!(place.opens(&base, &[]) > 0);
    assert_eq!(place.opens(&base, &[]), 0);
    for engine in any_engine() {
        note_run(engine);
        let words = ["run", "--root", "erofs", "--engine", engine, &base];
        let mut run = place.rdvm(&words);
        run.args(["sh", "-c", "cat /etc/word"]);
        Run(run.output().unwrap()).exits(0).prints("Word");
    }
}

/// `current -> release/N`, switched while it is read, and back.
#[test]
fn what_was_read_is_kept_and_not_what_the_path_led_to_before() {
    if !has_strace() {
        return;
    }
    let place = Place::new();
    let archives = ["one", "two"].map(|word| {
        let image = Image::busybox().file("etc/word", 0o644, word);
        place.archive(&format!("{word}.tar"), image.path(), &[])
    });
    settle(&archives[1]);
    let link = place.path("current.tar");
    let lead = |to: &str| {
        let new = place.path("new");
        symlink(to, &new).unwrap();
        fs::rename(new, &link).unwrap();
    };
    lead("one.tar");
    let name = link.to_str().unwrap();
    let log = place.path("paused");
    fs::write(&log, "").unwrap();
    // Stands still for a while before it opens the link.
    let mut run = Command::new("strace")
        .args(["-f", "-qq", "-P", name, "-o"])
        .arg(&log)
        .args(["-e", "inject=openat:delay_enter=5000000"])
        .args([RDVM, "run", "--root", "erofs", NO_CONSOLE])
        .args(["--engine", any_engine()[0], name, "sh"])
        .env("RDVM_CACHE", place.path("cache"))
        .env("RDVM_KERNEL", kernel())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // By now it knows what the path led to.
    eventually("the path is looked at", || {
        fs::read_to_string(&log).unwrap().contains("stat")
    });
    lead("two.tar");
    assert_eq!(run.wait().unwrap().code(), Some(125));
    assert_eq!(
        place.kept().0.len(),
        0,
        "what was read is not what was there before"
    );
    lead("one.tar");
    for engine in any_engine() {
        note_run(engine);
        let mut run = place.rdvm(&["run", "--root", "erofs", "--engine", engine, name]);
        run.args(["sh", "-c", "cat /etc/word"]);
        Run(run.output().unwrap()).exits(0).prints("one");
    }
}

#[test]
fn standard_input_is_not_kept_and_a_directory_until_anything_in_it_changes() {
    let place = Place::new();
    let image = Image::busybox().file("etc/word", 0o644, "one");
    let archive = place.archive("a.tar", image.path(), &[]);
    let engine = any_engine()[0];
    let run = |image: &str, input: Stdio| {
        note_run(engine);
        let mut rdvm = place.rdvm(&["run", "--root", "erofs", "--engine", engine, image]);
        let output = rdvm
            .args(["sh", "-c", "cat /etc/word"])
            .stdin(input)
            .output();
        Run(output.unwrap()).exits(0).says_only("").stdout()
    };
    let input = fs::File::open(&archive).unwrap();
    assert_eq!(run("-", input.into()), "one");
    let directory = image.path().to_str().unwrap();
    assert_eq!(run(directory, Stdio::null()), "one", "made just now");
    assert_eq!(place.kept(), (vec![], vec![]));
    settle(&archive);
    for _ in ["cold", "warm"] {
        assert_eq!(run(directory, Stdio::null()), "one");
        assert_eq!(place.kept().0.len(), 1);
    }
    // Deep in it, of the same length, with the old time.
    let word = image.path().join("etc/word");
    let time = fs::metadata(&word).unwrap().modified().unwrap();
    fs::write(&word, "two").unwrap();
    let file = fs::File::options().write(true).open(&word).unwrap();
    file.set_modified(time).unwrap();
    assert_eq!(run(directory, Stdio::null()), "two");
    let mut run = place.rdvm(&["run", "--root", "erofs", "--no-cache", "--engine", engine]);
    let run = run.args([directory, "sh", "-c", "cat /etc/word"]).output();
    Run(run.unwrap()).exits(0).prints("two");
    assert_eq!(place.kept().0.len(), 1);
}

#[test]
fn what_is_kept_is_listed_and_pruned_to_a_size() {
    let place = Place::new();
    let cache = |words: &[&str]| {
        let output = place.rdvm(&[&["cache"], words].concat()).output();
        Run(output.unwrap()).exits(0).says_only("").stdout()
    };
    assert_eq!(cache(&["list"]), "");
    let archives = ["1", "2", "3"].map(|word| {
        let image = Image::busybox().file("etc/word", 0o644, word);
        place.archive(&format!("{word}.tar"), image.path(), &[])
    });
    for archive in archives {
        settle(&archive);
        let words = [
            "run",
            "--root",
            "erofs",
            NO_CONSOLE,
            "--engine",
            any_engine()[0],
        ];
        let output = place.rdvm(&words).args([&*archive, "sh"]).output();
        Run(output.unwrap()).exits(125).says(REFUSED);
    }
    let list = cache(&["list"]);
    assert_eq!(list.lines().count(), 3, "{list}");
    for line in list.lines() {
        assert!(line.contains("  used 0 days ago  "), "{line}");
        let (image, name) = line.rsplit_once(' ').unwrap();
        let directory = place.path("").display().to_string();
        assert!(
            image.contains(&directory) && image.contains(".tar"),
            "{line}"
        );
        let file = place.path("cache/images").join(name);
        // Nobody else looks into images.
        assert_eq!(fs::metadata(file).unwrap().mode() & 0o777, 0o600);
    }
    let one = fs::metadata(place.path("cache/images").join(&place.kept().0[0])).unwrap();
    let size = (one.len() * 2 + one.len() / 2).to_string();
    assert!(cache(&["prune", "--to", &size]).starts_with("removed 1 images, "));
    assert_eq!(cache(&["list"]).lines().count(), 2);
    assert!(cache(&["prune", "--to", "0"]).starts_with("removed 2 images, "));
    assert_eq!(place.kept(), (vec![], vec![]));
}

#[test]
fn on_a_full_disk_the_run_goes_on_with_a_warning() {
    if !geteuid().is_root() {
        return missing("root, for a small file system,");
    }
    let place = Place::new();
    let archive = place.archive("a.tar", busybox().path(), &[]);
    settle(&archive);
    fs::create_dir(place.path("cache")).unwrap();
    for engine in any_engine() {
        note_run(engine);
        let run = place.rdvm(&["run", "--root", "erofs", "--engine", engine, &archive]);
        // In a name space of its own, so that the file system goes with the run.
        let output = Command::new("unshare")
            .args(["-m", "sh", "-c"])
            .arg("mount -t tmpfs -o size=256k none \"$RDVM_CACHE\" && \"$@\"; echo $?; find \"$RDVM_CACHE/images\" -type f")
            .args(["sh", RDVM])
            .args(run.get_args())
            .args(["sh", "-c", "echo on"])
            .env("RDVM_CACHE", place.path("cache"))
            .env("RDVM_KERNEL", kernel())
            .stdin(Stdio::null())
            .output();
        let Ok(output) = output else {
            return missing("unshare");
        };
        Run(output)
            .prints("on\n0\n")
            .says("rdvm: ")
            .says("/images: No space left on device; the packed image is not kept\n");
    }
}

#[test]
fn a_cache_that_cannot_be_is_no_reason_to_stop() {
    let place = Place::new();
    let archive = place.archive("a.tar", busybox().path(), &[]);
    settle(&archive);
    fs::write(place.path("cache"), "a file").unwrap();
    for engine in any_engine() {
        note_run(engine);
        let mut run = place.rdvm(&["run", "--root", "erofs", "--engine", engine, &archive]);
        run.args(["sh", "-c", "echo on"]);
        Run(run.output().unwrap())
            .exits(0)
            .prints("on\n")
            .says("/cache/images: Not a directory; the packed image is not kept\n");
    }
}

#[test]
fn a_run_that_is_killed_while_it_keeps_an_image_leaves_nothing_that_counts() {
    if !has_strace() {
        return;
    }
    let place = Place::new();
    let archive = place.archive("a.tar", busybox().path(), &[]);
    settle(&archive);
    // Before anything is in the file, in the middle of it, before it has a name, and before its last name.
    for (call, at) in [
        ("ftruncate", 1),
        ("copy_file_range", 2),
        ("linkat", 1),
        ("rename", 1),
    ] {
        let killed = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e"])
            .arg(format!("trace={call}"))
            .arg("-e")
            .arg(format!("inject={call}:signal=KILL:when={at}"))
            .args([RDVM, "run", "--root", "erofs", NO_CONSOLE])
            .args(["--engine", any_engine()[0], &archive, "sh"])
            .env("RDVM_CACHE", place.path("cache"))
            .env("RDVM_KERNEL", kernel())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(killed.status.signal(), Some(9), "{call}: {killed:?}");
        // Nothing that leads to a part of an image: it is read again.
        assert!(place.opens(&archive, &[]) > 0, "{call}");
        assert_eq!(place.opens(&archive, &[]), 0, "{call}");
        let (entries, _) = place.kept();
        assert_eq!(entries.len(), 1, "{call}");
        fs::remove_dir_all(place.path("cache")).unwrap();
    }
}

#[test]
fn four_runs_at_once_on_a_cold_cache_all_work() {
    let place = Place::new();
    let archive = place.archive("a.tar", busybox().path(), &[]);
    settle(&archive);
    for engine in any_engine() {
        let start = || {
            note_run(engine);
            let mut run = place.rdvm(&["run", "--root", "erofs", "--engine", engine, &archive]);
            run.args(["sh", "-c", "echo on"]);
            run.stdout(Stdio::piped()).stderr(Stdio::piped());
            run.spawn().unwrap()
        };
        let children = [start(), start(), start(), start()];
        for child in children {
            Run(child.wait_with_output().unwrap())
                .exits(0)
                .prints("on\n")
                .says_only("");
        }
        let (entries, other) = place.kept();
        assert_eq!((entries.len(), other.len()), (1, 0), "{other:?}");
        fs::remove_dir_all(place.path("cache")).unwrap();
    }
}

/// Everything that travels beside the archive: how it is run, by whom, and extended attributes.
#[test]
fn an_entry_that_the_disk_has_damaged_is_made_anew() {
    if !has_strace() {
        return;
    }
    let place = Place::new();
    let archive = place.archive("image.tar", busybox().path(), &[]);
    settle(&archive);
    assert!(place.opens(&archive, &[]) > 0);
    assert_eq!(place.opens(&archive, &[]), 0, "it is kept");
    let (entries, _) = place.kept();
    let entry = place.path("cache/images").join(&entries[0]);
    // An inode behind the superblock.
    let file = fs::File::options().write(true).open(entry).unwrap();
    file.write_all_at(&[0xff; 8], 1500).unwrap();
    drop(file);
    assert!(place.opens(&archive, &[]) > 0, "it is not noticed");
    assert_eq!(place.opens(&archive, &[]), 0);
}

#[test]
fn a_kept_image_is_run_as_it_was_at_first() {
    if !has_strace() {
        return;
    }
    let image = Image::busybox()
        .program("bin/attributes", "attributes")
        .file(
            "etc/passwd",
            0o644,
            "root:x:0:0::/:/bin/sh\napp:x:1000:100::/srv:/bin/sh\n",
        )
        .file("etc/group", 0o644, "extra:x:2000:root,app\n")
        .file("etc/word", 0o640, "")
        .directory("srv", 0o755);
    let attribute = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let file = image.path().join("bin/attributes");
    let set = lsetxattr(file, "security.capability", &attribute, XattrFlags::empty());
    if set.is_err() {
        return missing("root, who may set file capabilities,");
    }
    let script = "echo $0 $A; id -u; id -G; pwd; stat -c %a /etc/word; \
                  /bin/attributes /bin/attributes security.capability";
    let entrypoint = serde_json::json!(["sh", "-c", script]).to_string();
    let words = [
        "--format",
        "docker",
        "--entrypoint",
        &entrypoint,
        "--cmd",
        "zero",
    ];
    let more = ["--env", "A=kept", "--workdir", "/srv", "--user", "app"];
    let place = Place::new();
    let archive = place.archive("docker", image.path(), &[words, more].concat());
    settle(&archive);
    let expected =
        "zero kept\n1000\n100 2000\n/srv\n640\n0100000200040000000000000000000000000000\n";
    for engine in any_engine() {
        for _ in ["cold", "warm"] {
            note_run(engine);
            let run = place.rdvm(&["run", "--root", "erofs", "--engine", engine, &archive]);
            let mut run = run;
            Run(run.output().unwrap())
                .exits(0)
                .prints(expected)
                .says_only("");
        }
        // Names of users that nobody asked for at first, and the options' words over the image's.
        note_run(engine);
        let words = [
            "run", "--root", "erofs", "--engine", engine, "--user", "root",
        ];
        let more = ["--entrypoint", "sh", "--workdir", "/", "--env", "A=mine"];
        let command = [&archive, "-c", "echo $A; id -u; id -G; pwd"];
        let mut run = place.rdvm(&[&words[..], &more].concat());
        Run(run.args(command).output().unwrap())
            .exits(0)
            .prints("mine\n0\n0 2000\n/\n");
        assert_eq!(place.opens(&archive, &[]), 0, "it was kept all the time");
        fs::remove_dir_all(place.path("cache")).unwrap();
    }
}
