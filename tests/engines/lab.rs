//! The place that the engines are started in: rdvm installed as for all users, an image, and commands that end.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// The runtime, at the place that the configurations in examples/engines name.
pub(crate) const RUNTIME: &str = "/usr/local/bin/rdvm-oci";

/// The program, installed beside it.
pub(crate) const RDVM: &str = "/usr/local/bin/rdvm";

/// The image's name in every engine.
pub(crate) const IMAGE: &str = "docker.io/library/applets:1";

/// The seconds that a command of an engine may take before it counts as hanging.
const PATIENCE: &str = "300";

/// The state that all tests share.
pub(crate) struct Lab {
    /// A directory that everyone may read.
    pub(crate) dir: PathBuf,
    /// The image as a directory: busybox under the names of its applets.
    pub(crate) root: PathBuf,
    /// The image as an archive of docker's.
    pub(crate) archive: PathBuf,
}

/// The lab, which the first caller sets up.
///
/// # Panics
///
/// Outside of the namespaces that tests/engines/enter.sh makes, where this would change the host.
pub(crate) fn lab() -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(|| {
        let dir = std::env::var_os("RDVM_ENGINES_LAB");
        let dir = dir.expect("make test-engines runs these tests, in namespaces of their own");
        let dir = PathBuf::from(dir).join("shared");
        fs::create_dir(&dir).unwrap();
        install();
        let root = make_image(&dir.join("image"));
        let archive = dir.join("image.tar");
        let pack = command(
            RDVM,
            &[
                "pack", "--format", "docker", "--tag", IMAGE, "--cmd", "sh", "-o",
            ],
        );
        ended(with(pack, &[&archive, &root])).exits(0);
        Lab { dir, root, archive }
    })
}

/// Puts the tested rdvm, or the one that `RDVM_ENGINES_RDVM` names, where `make install` does, and the small kernel with it.
fn install() {
    let built = std::env::var_os("RDVM_ENGINES_RDVM");
    let built = built.map_or(PathBuf::from(env!("CARGO_BIN_EXE_rdvm")), PathBuf::from);
    fs::create_dir_all("/usr/local/bin").unwrap();
    // A former one may be a link to somewhere else.
    for path in [RDVM, RUNTIME] {
        let _ = fs::remove_file(path);
    }
    fs::copy(&built, RDVM).unwrap();
    symlink("rdvm", RUNTIME).unwrap();
    let kernel = std::env::var_os("RDVM_ENGINES_KERNEL").map(PathBuf::from);
    let kernel = kernel.expect("enter.sh says where the small kernel is");
    assert!(
        kernel.exists(),
        "{}: not found; make test-engines builds it",
        kernel.display()
    );
    fs::create_dir_all("/usr/local/lib/rdvm").unwrap();
    fs::copy(&kernel, "/usr/local/lib/rdvm/vmlinux").unwrap();
}

fn make_image(root: &Path) -> PathBuf {
    for directory in ["bin", "etc", "tmp", "root", "work"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let list = ended(command("/bin/busybox", &["--list"])).exits(0).text();
    for applet in list.lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let passwd = root.join("etc/passwd");
    fs::write(&passwd, "root:x:0:0::/root:/bin/sh\n").unwrap();
    fs::set_permissions(&passwd, fs::Permissions::from_mode(0o644)).unwrap();
    root.into()
}

/// A command with its arguments.
pub(crate) fn command(program: &str, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(words);
    command
}

/// The command with more arguments.
pub(crate) fn with<S: AsRef<std::ffi::OsStr>>(mut command: Command, words: &[S]) -> Command {
    command.args(words);
    command
}

/// The command started from another one, such as `timeout 10`, with its environment.
pub(crate) fn behind(mut outer: Command, inner: &Command) -> Command {
    outer.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        outer.env(name, value.expect("no variable is taken away"));
    }
    outer
}

/// The command run to its end, without standard input.
pub(crate) fn ended(command: Command) -> Ended {
    fed(command, b"")
}

/// The command run to its end with these bytes as its standard input.
pub(crate) fn fed(inner: Command, input: &[u8]) -> Ended {
    let mut child = behind(command("timeout", &["-k", "10", PATIENCE]), &inner)
        .stdin(match input {
            [] => Stdio::null(),
            _ => Stdio::piped(),
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // A command that ends before it has read everything is no error of its own.
        scope.spawn(|| stdin.map(|mut stdin| stdin.write_all(input)));
        child.wait_with_output().unwrap()
    });
    let code = output.status.code();
    Ended {
        line: format!("{inner:?}"),
        code: code.unwrap_or_else(|| 128 + output.status.signal().unwrap()),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A daemon, started with its output in a file of this name; its process. It lives as long as the lab.
pub(crate) fn daemon(mut command: Command, name: &str) -> u32 {
    let path = lab().dir.join(name);
    let log = File::create(&path).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap());
    command.stderr(log).spawn().unwrap().id()
}

/// The result of an engine's command.
pub(crate) struct Ended {
    line: String,
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// Asserts an exit code other than 0, and that the message has this in it.
    #[track_caller]
    pub(crate) fn fails_with(self, text: &str) -> Self {
        assert_ne!(self.code, 0, "{self}");
        assert!(self.stderr.contains(text), "{text:?} is not in {self}");
        self
    }

    /// Asserts all of standard output, but for white space at its ends.
    #[track_caller]
    pub(crate) fn prints(self, text: &str) -> Self {
        assert_eq!(self.text().trim(), text, "{self}");
        self
    }

    /// Standard output as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (line, code, stdout) = (&self.line, self.code, self.text());
        let stdout: String = stdout.chars().take(2000).collect();
        write!(
            f,
            "{line}: exit code {code}\nstdout {stdout:?}\nstderr {:?}",
            self.stderr
        )
    }
}

/// Waits until `condition` holds, for a minute at most: an emulated machine boots beside others.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..600 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("did not happen within a minute: {what}");
}

/// The processes below this one, to any depth.
fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    // Each thread has its own children.
    for thread in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
    {
        let children = thread.map(|thread| fs::read_to_string(thread.path().join("children")));
        // Both vanish with their process.
        let Ok(Ok(children)) = children else { continue };
        for child in children.split_whitespace() {
            let child = child.parse().unwrap();
            found.push(child);
            found.extend(descendants(child));
        }
    }
    found
}

/// The QEMU of the machine whose runtime has this process.
///
/// # Panics
///
/// Without one within a minute.
#[track_caller]
pub(crate) fn qemu_of(pid: u32) -> u32 {
    let is_qemu = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("qemu"))
    };
    let mut found = None;
    eventually("there is a QEMU", || {
        found = descendants(pid).into_iter().find(is_qemu);
        found.is_some()
    });
    found.unwrap()
}

/// True if there is such a process and it is no zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
    state.is_some_and(|state| state != b'Z' && state != b'X')
}

/// Kills a process without a chance to do anything.
pub(crate) fn kill_9(pid: u32) {
    ended(command("kill", &["-9", &pid.to_string()])).exits(0);
}

/// Asserts that a container has left no state of its runtime and no cgroup. Waits, since an engine removes a container after it
/// has reported its end.
#[track_caller]
pub(crate) fn is_gone(id: &str) {
    assert!(id.len() > 3, "{id:?} would be found anywhere");
    eventually(&format!("nothing of {id} is left"), || {
        let cgroups = find("/sys/fs/cgroup", &format!("*{id}*"));
        let state = find("/run", &format!("*{id}*"));
        let state = state.lines().filter(|path| path.contains("rdvm"));
        cgroups.is_empty() && state.count() == 0
    });
}

fn find(below: &str, name: &str) -> String {
    // What vanishes meanwhile makes find fail.
    ended(command("find", &[below, "-name", name])).text()
}
