//! A bundle as engines write it, and a container of it without an engine: a process takes the place of conmon and of
//! containerd's shim, the parent that inherits the container's.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, WaitOptions, set_child_subreaper, wait};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Image, RDVM, busybox, eventually, note_run};

/// A root file system, a configuration, and the runtime's own directory.
pub(super) struct Bundle {
    dir: TempDir,
    engine: String,
    pub(super) config: Value,
    /// Variables and options of the runtime beside its root and engine.
    pub(super) options: Vec<String>,
}

/// A container that was created; killed and deleted if the test fails.
pub(super) struct Container<'a> {
    bundle: &'a Bundle,
    pub(super) id: &'static str,
    pub(super) pid: i32,
    parent: Child,
}

impl Bundle {
    /// A bundle of busybox with this command.
    pub(super) fn new(engine: &str, argv: &[&str]) -> Self {
        Self::of(engine, busybox(), argv)
    }

    /// A bundle of an image, which is linked.
    pub(super) fn of(engine: &str, image: &Image, argv: &[&str]) -> Self {
        note_run(engine);
        Self {
            dir: TempDir::new().unwrap(),
            engine: engine.to_owned(),
            config: config(image.path(), argv),
            options: Vec::new(),
        }
    }

    /// A bundle with a script.
    pub(super) fn sh(engine: &str, script: &str) -> Self {
        Self::new(engine, &["sh", "-c", script])
    }

    /// The same with a change of the configuration: the member that a JSON pointer leads to.
    pub(super) fn with(mut self, pointer: &str, value: Value) -> Self {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = self.config.pointer_mut(parent).unwrap();
        match parent {
            Value::Array(items) if name == "-" => items.push(value),
            parent => parent[name] = value,
        }
        self
    }

    /// The same with an annotation.
    pub(super) fn annotated(self, name: &str, value: &str) -> Self {
        self.with(&format!("/annotations/{name}"), json!(value))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The directory of the runtime.
    pub(super) fn state_root(&self) -> PathBuf {
        self.path("state")
    }

    /// `rdvm oci`, with these words.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(RDVM);
        command.arg("oci").arg("--root").arg(self.state_root());
        command.args(["--engine", &self.engine]).args(&self.options);
        command.args(words).stdin(Stdio::null());
        command
    }

    /// Calls the runtime. To files: a container that it leaves behind would keep pipes open.
    pub(super) fn oci(&self, words: &[&str]) -> Output {
        let (mut out, mut err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let mut command = self.command(words);
        command
            .stdout(out.try_clone().unwrap())
            .stderr(err.try_clone().unwrap());
        let status = command.status().unwrap();
        let read = |file: &mut File| {
            let mut bytes = Vec::new();
            file.rewind().unwrap();
            file.read_to_end(&mut bytes).unwrap();
            bytes
        };
        Output {
            status,
            stdout: read(&mut out),
            stderr: read(&mut err),
        }
    }

    /// Calls the runtime, which does what it is asked to. Returns what it prints.
    pub(super) fn does(&self, words: &[&str]) -> String {
        let output = self.oci(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Calls the runtime, which refuses with a line that has `text` in it.
    pub(super) fn refuses(&self, words: &[&str], text: &str) {
        let output = self.oci(words);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {errors}");
        assert!(
            errors.contains(text),
            "{words:?}: {errors:?} has no {text:?}"
        );
        assert!(!errors.contains("panicked"), "{errors}");
    }

    /// Writes the configuration.
    pub(super) fn write(&self) -> &Self {
        fs::write(self.path("config.json"), self.config.to_string()).unwrap();
        self
    }

    /// The bundle is refused with a line that has `text` in it, and nothing is left.
    pub(super) fn is_refused(&self, text: &str) {
        self.write();
        let bundle = self.path("");
        self.refuses(&["create", "-b", bundle.to_str().unwrap(), "refused"], text);
        assert!(!self.state_root().join("refused").exists());
    }

    /// Creates a container without standard input.
    pub(super) fn create(&self, id: &'static str) -> Container<'_> {
        self.create_with(id, Stdio::null(), &[])
    }

    /// Creates a container.
    pub(super) fn create_with(
        &self,
        id: &'static str,
        stdin: Stdio,
        options: &[&str],
    ) -> Container<'_> {
        self.write();
        for old in ["pid", "created", "ended"] {
            let _ = fs::remove_file(self.path(old));
        }
        let mut words = self.command(&["create", "--pid-file"]);
        words
            .arg(self.path("pid"))
            .arg("--bundle")
            .arg(self.path(""))
            .args(options)
            .arg(id);
        let words: Vec<_> = words
            .get_args()
            .map(|word| word.to_str().unwrap().to_owned())
            .collect();
        let task = json!({ "directory": self.dir.path(), "words": words });
        let mut parent = Command::new(std::env::current_exe().unwrap());
        parent
            .args(["--exact", "oci::bundle::parent"])
            .env(PARENT, task.to_string());
        parent
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let parent = parent.spawn().unwrap();
        eventually("create", || self.path("created").exists());
        let code = fs::read_to_string(self.path("created")).unwrap();
        assert_eq!(code, "0", "{}", self.printed("err"));
        let pid = fs::read_to_string(self.path("pid"))
            .unwrap()
            .parse()
            .unwrap();
        Container {
            bundle: self,
            id,
            pid,
            parent,
        }
    }

    /// Runs a container to its end. Returns its exit code and what it printed on both streams.
    pub(super) fn run(&self) -> (i32, String, String) {
        let mut container = self.create("run");
        container.start();
        let code = container.wait();
        self.does(&["delete", "run"]);
        (code, self.printed("out"), self.printed("err"))
    }

    /// Returns the bytes printed on `out` or `err`, as text.
    pub(super) fn printed(&self, stream: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(stream)).unwrap()).into_owned()
    }
}

impl Container<'_> {
    /// Starts it.
    pub(super) fn start(&self) {
        self.bundle.does(&["start", self.id]);
    }

    /// Sends a signal.
    pub(super) fn kill(&self, signal: &str) {
        self.bundle.does(&["kill", self.id, signal]);
    }

    /// The status that the runtime prints.
    pub(super) fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }

    /// The state that the runtime prints.
    pub(super) fn state(&self) -> Value {
        serde_json::from_str(&self.bundle.does(&["state", self.id])).unwrap()
    }

    /// Waits until it has printed `text`.
    pub(super) fn has_printed(&self, text: &str) {
        eventually(text, || self.bundle.printed("out").contains(text));
    }

    /// Waits for its process, as its parent does. Returns the exit code, of a killed one 128 and the signal.
    pub(super) fn wait(&mut self) -> i32 {
        self.parent.wait().unwrap();
        let code = fs::read_to_string(self.bundle.path("ended")).unwrap();
        code.parse().unwrap()
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.bundle.oci(&["delete", "--force", self.id]);
        let _ = self.parent.wait();
    }
}

/// The variable by which [`parent`] knows its task.
const PARENT: &str = "RDVM_TEST_PARENT";

/// A container's parent, in a process of its own: one that inherits other processes' children has to wait for all of them, and
/// other tests start programs that wait for the end of theirs. As a test it has no task.
#[test]
fn parent() {
    let Some(task) = std::env::var_os(PARENT) else {
        return;
    };
    let task: Value = serde_json::from_str(task.to_str().unwrap()).unwrap();
    let directory = Path::new(task["directory"].as_str().unwrap());
    set_child_subreaper(Some(Pid::from_raw(1).unwrap())).unwrap();
    let stream = |name: &str| File::create(directory.join(name)).unwrap();
    let words = task["words"].as_array().unwrap().iter();
    let mut create = Command::new(RDVM);
    create
        .args(words.map(|word| word.as_str().unwrap()))
        .env_remove(PARENT);
    let created = create
        .stdout(stream("out"))
        .stderr(stream("err"))
        .status()
        .unwrap();
    let says = |name: &str, code: i32| {
        fs::write(directory.join("new"), code.to_string()).unwrap();
        fs::rename(directory.join("new"), directory.join(name)).unwrap();
    };
    says("created", created.code().unwrap());
    let pid = fs::read_to_string(directory.join("pid")).unwrap_or_default();
    let pid = pid.parse().ok().and_then(Pid::from_raw);
    // All that are inherited, the container's process among them.
    while let Ok(Some((ended, status))) = wait(WaitOptions::empty()) {
        if Some(ended) == pid {
            let signal = status.terminating_signal().map(|signal| 128 + signal);
            says("ended", status.exit_status().or(signal).unwrap());
        }
    }
    std::process::exit(0);
}

/// Returns the configuration that podman writes for `run --network none`, less what has no effect here.
fn config(root: &Path, argv: &[&str]) -> Value {
    let capabilities = [
        "CAP_CHOWN",
        "CAP_KILL",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETUID",
    ];
    let kinds = ["pid", "network", "ipc", "uts", "mount"];
    let namespaces: Vec<Value> = kinds.iter().map(|kind| json!({ "type": kind })).collect();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0, "umask": 18, "additionalGids": []},
            "args": argv,
            "env": ["PATH=/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                "inheritable": null, "ambient": null
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 512}]
        },
        "root": {"path": root},
        "hostname": "box",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rprivate", "nosuid", "noexec", "nodev", "relatime", "ro"]}
        ],
        "annotations": {},
        "hooks": {},
        "linux": {
            "namespaces": namespaces,
            "resources": {"devices": [{"allow": false, "access": "rwm"}], "pids": {"limit": 2048}},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/sys"],
            "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"}
        }
    })
}
