//! The plumbing of the tests: images made on the spot, a builder for runs, what came out of them.

pub(crate) mod canary;
pub(crate) mod processes;
pub(crate) mod scenario;
pub(crate) mod schema;
pub(crate) mod session;
mod skips;

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::OnceLock;

use rdvm_vmm::probe;
use tempfile::TempDir;

pub(crate) use self::processes::{children_of, hold_up, is_alive, send};
pub(crate) use self::skips::{left_out, left_out_of, missing};

/// The program under test.
pub(crate) const RDVM: &str = env!("CARGO_BIN_EXE_rdvm");

/// The engines to test: those that `RDVM_TEST_ENGINES` names, with commas between them, else those that can run here.
/// Engines that cannot run here are reported. CI must have QEMU; KVM it has through the rig (docs/testing.md), which runs every test that gets here.
pub(crate) fn engines() -> &'static [&'static str] {
    scenario::this_is_one();
    all_engines()
}

/// One engine, for a scenario about what the engines have in common: PID 1 and the command's surroundings, images, files that the
/// host reads and writes. The rig leaves it out where it runs all scenarios, unless `RIG_ALL` is set; with `RDVM_TEST_LONG` it
/// is tried on all engines.
pub(crate) fn any_engine() -> &'static [&'static str] {
    scenario::this_is_for_any();
    match std::env::var_os("RDVM_TEST_LONG") {
        None => all_engines().get(..1).unwrap_or_default(),
        Some(_) => all_engines(),
    }
}

fn all_engines() -> &'static [&'static str] {
    static ENGINES: OnceLock<Vec<&'static str>> = OnceLock::new();
    ENGINES.get_or_init(|| match std::env::var("RDVM_TEST_ENGINES") {
        Ok(list) => list.split(',').map(named_engine).collect(),
        Err(_) => engines_here(),
    })
}

fn named_engine(name: &str) -> &'static str {
    let known = ["kvm", "qemu"].into_iter().find(|known| *known == name);
    known.unwrap_or_else(|| panic!("RDVM_TEST_ENGINES: there is no engine {name:?}"))
}

fn engines_here() -> Vec<&'static str> {
    let mut engines = Vec::new();
    match probe::require_kvm(&probe::kvm()) {
        Ok(()) => engines.push("kvm"),
        Err(error) => left_out_of(
            "every scenario on kvm",
            &format!("{error}; the rig runs it"),
        ),
    }
    let qemu = Command::new("qemu-system-x86_64").arg("--version").output();
    match qemu.is_ok_and(|output| output.status.success()) {
        true => engines.push("qemu"),
        false => missing("qemu-system-x86_64"),
    }
    engines
}

/// Adds "ENGINE TEST" to the file that `RDVM_TEST_RUNS` names, for whoever wants to know what really ran. `Rdvm::on`
/// does; a test that starts the program by itself must.
pub(crate) fn note_run(engine: &str) {
    scenario::this_is_none();
    if let Some(path) = std::env::var_os("RDVM_TEST_RUNS") {
        let mut log = File::options()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        let thread = std::thread::current();
        let line = format!("{engine} {}\n", thread.name().unwrap_or("?"));
        log.write_all(line.as_bytes()).unwrap();
    }
}

/// `full`, or `small` where `RDVM_TEST_SMALL` is set: in the rig every instruction is emulated.
pub(crate) fn sized<T: Display>(full: T, small: T) -> T {
    match is_small() {
        true => {
            eprintln!("RDVM_TEST_SMALL: {small} instead of {full}");
            small
        }
        false => full,
    }
}

/// True in the rig, where every instruction is emulated.
pub(crate) fn is_small() -> bool {
    std::env::var_os("RDVM_TEST_SMALL").is_some()
}

/// Whether there is no such program on PATH.
pub(crate) fn is_missing(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path).chain(usual);
    !places.any(|place| place.join(program).is_file())
}

/// A file tree under construction.
pub(crate) struct Image {
    dir: TempDir,
}

impl Image {
    /// An empty directory.
    pub(crate) fn empty() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
        }
    }

    /// `/bin/busybox` and `/bin/sh`.
    pub(crate) fn busybox() -> Self {
        let image = Self::empty();
        fs::create_dir(image.path().join("bin")).unwrap();
        // A hard link would do, but /bin and the temporary directory may be on two file systems.
        fs::copy("/bin/busybox", image.path().join("bin/busybox"))
            .expect("busybox-static is installed");
        image.link("busybox", "bin/sh")
    }

    /// With a file.
    pub(crate) fn file(self, path: impl AsRef<Path>, mode: u32, content: impl AsRef<[u8]>) -> Self {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    /// With a directory.
    pub(crate) fn directory(self, path: &str, mode: u32) -> Self {
        fs::create_dir_all(self.path().join(path)).unwrap();
        fs::set_permissions(self.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    /// With a symbolic link.
    pub(crate) fn link(self, target: &str, path: &str) -> Self {
        symlink(target, self.path().join(path)).unwrap();
        self
    }

    /// With the program of tests/programs/NAME.c, linked statically: from the directory that `RDVM_TEST_PROGRAMS`
    /// names, where it has been compiled already, else by gcc.
    pub(crate) fn program(self, path: &str, name: &str) -> Self {
        let target = self.path().join(path);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        if let Some(compiled) = std::env::var_os("RDVM_TEST_PROGRAMS") {
            fs::copy(Path::new(&compiled).join(name), target).unwrap();
            return self;
        }
        let status = Command::new("gcc")
            .args(["-static", "-Os", "-s", "-o"])
            .arg(&target)
            .arg(format!("tests/programs/{name}.c"))
            .status()
            .unwrap();
        assert!(status.success(), "gcc failed");
        self
    }

    /// Its root directory.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// A shared busybox image that no test changes.
pub(crate) fn busybox() -> &'static Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE.get_or_init(Image::busybox)
}

/// One of the images of the reference scenario, as made by scripts/make-images.sh.
pub(crate) fn reference_image(name: &str) -> Option<PathBuf> {
    let below =
        std::env::var_os("RDVM_TEST_IMAGES").map_or_else(|| "target/images".into(), PathBuf::from);
    let path = below.join(name);
    if !path.join("init").is_symlink() && !path.join("init").exists() {
        missing(&format!(
            "{} (scripts/make-images.sh makes it)",
            path.display()
        ));
        return None;
    }
    Some(path)
}

/// A run of rdvm.
pub(crate) struct Rdvm {
    command: Command,
    arguments: Vec<OsString>,
}

impl Rdvm {
    /// `rdvm VERB`.
    pub(crate) fn verb(verb: &str) -> Self {
        let mut command = Command::new(RDVM);
        command.arg(verb).stdin(Stdio::null());
        Self {
            command,
            arguments: Vec::new(),
        }
    }

    /// `rdvm run --engine ENGINE`.
    pub(crate) fn on(engine: &str) -> Self {
        note_run(engine);
        Self::verb("run").option("--engine").option(engine)
    }

    /// With one more option word.
    pub(crate) fn option(mut self, option: impl AsRef<OsStr>) -> Self {
        self.command.arg(option);
        self
    }

    /// On an image.
    pub(crate) fn image(mut self, image: impl AsRef<Path>) -> Self {
        self.arguments.insert(0, image.as_ref().into());
        self
    }

    /// Running `sh -c SCRIPT`.
    pub(crate) fn sh(self, script: &str) -> Self {
        self.command(&["sh", "-c", script])
    }

    /// Running a command.
    pub(crate) fn command<S: AsRef<OsStr>>(mut self, words: &[S]) -> Self {
        self.arguments
            .extend(words.iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// With a variable of rdvm's own environment.
    pub(crate) fn with_variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// With this as its standard input, which else is `/dev/null`.
    pub(crate) fn stdin(mut self, source: impl Into<Stdio>) -> Self {
        self.command.stdin(source);
        self
    }

    /// Runs it to its end while `feed` writes its standard input; gives what that came to as well.
    pub(crate) fn fed<T: Send>(self, feed: impl FnOnce(ChildStdin) -> T + Send) -> (Run, T) {
        let mut child = self.stdin(Stdio::piped()).spawn();
        let stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            let feeding = scope.spawn(|| feed(stdin));
            let run = Run(child.wait_with_output().unwrap());
            (run, feeding.join().unwrap())
        })
    }

    /// Starts it with both output streams on pipes.
    pub(crate) fn spawn(mut self) -> Child {
        self.command
            .args(&self.arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs it to its end.
    pub(crate) fn run(mut self) -> Run {
        Run(self.command.args(&self.arguments).output().unwrap())
    }
}

/// What came out of a run.
pub(crate) struct Run(pub(crate) Output);

impl Run {
    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        let status = self.0.status;
        let stderr = self.stderr();
        let mut ours = stderr.lines().filter(|line| line.starts_with("rdvm: "));
        assert!(!ours.any(|line| line.contains("(os error ")), "{stderr}");
        assert!(
            status.signal().is_none(),
            "rdvm was killed: {status}; {}",
            self.stderr()
        );
        assert_eq!(
            status.code(),
            Some(code),
            "stdout {:?}, stderr {:?}",
            self.stdout(),
            self.stderr()
        );
        self
    }

    /// Asserts all of standard output.
    #[track_caller]
    pub(crate) fn prints(self, text: impl AsRef<[u8]>) -> Self {
        let text = text.as_ref();
        assert!(
            self.0.stdout == text,
            "stdout is {:?} and not {:?}; stderr {:?}",
            self.stdout(),
            String::from_utf8_lossy(text),
            self.stderr()
        );
        self
    }

    /// Asserts that standard error has this in it.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(
            self.stderr().contains(text),
            "{text:?} is not in {:?}",
            self.stderr()
        );
        self
    }

    /// Asserts that standard error is exactly this.
    #[track_caller]
    pub(crate) fn says_only(self, text: &str) -> Self {
        assert_eq!(self.stderr(), text);
        self
    }

    /// Standard output as text.
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    /// Standard error as text.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }
}

/// Runs a command that sleeps on those of `wanted` that are among [`engines`], and while it does so lets `look` at rdvm,
/// or end it; whoever is left is killed.
pub(crate) fn while_sleeping(wanted: &[&str], look: impl Fn(&str, &mut Child)) {
    for engine in engines().iter().filter(|engine| wanted.contains(engine)) {
        let run = Rdvm::on(engine).image(busybox().path());
        let mut child = run.sh("echo on; sleep 1000").spawn();
        first_bytes::<3>(&mut child);
        look(engine, &mut child);
        // Both succeed too for a child that has been waited for.
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// An image with a file of 32 MiB, which is made in 128 blocks, and the file's path. It has no holes.
pub(crate) fn large_image() -> (Image, PathBuf) {
    let image = Image::busybox().file("etc/large", 0o644, vec![7; 32 << 20]);
    let file = image.path().join("etc/large");
    (image, file)
}

/// What happens while a file is read: `inject` is what strace(1) is to do at a pread64 of it. Gives what came of the
/// program, and how often the file was read.
pub(crate) fn while_reading(file: &Path, inject: &str, program: &Command) -> (Run, usize) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o"]).arg(log.path());
    strace.arg("-P").arg(file);
    strace.args(["-e", "trace=pread64", "-e"]);
    strace.arg(format!("inject=pread64:{inject}"));
    strace.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        strace.env(name, value.expect("no variable is taken away"));
    }
    let output = strace.stdin(Stdio::null()).output().unwrap();
    let log = fs::read_to_string(log.path()).unwrap();
    let reads = log.lines().filter(|line| line.contains("pread64(")).count();
    (Run(output), reads)
}

/// Waits until the command has printed, and returns the first `N` bytes of that.
pub(crate) fn first_bytes<const N: usize>(child: &mut Child) -> [u8; N] {
    let mut bytes = [0; N];
    let stdout = child.stdout.as_mut().unwrap();
    stdout.read_exact(&mut bytes).unwrap();
    bytes
}

/// Waits until `condition` holds, for ten seconds at most.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("did not happen within ten seconds: {what}");
}
