//! A bundle as engines write it, and a container of it without an engine: this process is the parent that inherits the
//! container's, as conmon and containerd's shim are.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, WaitOptions, WaitStatus, set_child_subreaper, waitpid};
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
    ended: Option<WaitStatus>,
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
        set_child_subreaper(Some(Pid::from_raw(1).unwrap())).unwrap();
        self.write();
        let (pid_file, bundle) = (self.path("pid"), self.path(""));
        let mut command = self.command(&["create", "--pid-file"]);
        command
            .arg(&pid_file)
            .arg("--bundle")
            .arg(bundle)
            .args(options)
            .arg(id);
        let (out, err) = (self.path("out"), self.path("err"));
        command.stdin(stdin);
        command
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap());
        let status = command.status().unwrap();
        assert!(status.success(), "{}", fs::read_to_string(err).unwrap());
        let pid = fs::read_to_string(pid_file).unwrap().parse().unwrap();
        Container {
            bundle: self,
            id,
            pid,
            ended: None,
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

    /// What was printed on `out` or `err`.
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

    /// Waits for its process, as a parent does. Returns the exit code, of a killed one 128 and the signal.
    pub(super) fn wait(&mut self) -> i32 {
        let pid = Pid::from_raw(self.pid).unwrap();
        let ended = loop {
            match waitpid(Some(pid), WaitOptions::empty()) {
                Ok(Some((_, status))) => break status,
                Err(rustix::io::Errno::INTR) | Ok(None) => {}
                Err(error) => panic!("{error}: {}", self.bundle.printed("err")),
            }
        };
        self.ended = Some(ended);
        let signal = ended.terminating_signal().map(|signal| 128 + signal);
        ended.exit_status().or(signal).unwrap()
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.bundle.oci(&["delete", "--force", self.id]);
        if self.ended.is_none() {
            let _ = waitpid(Pid::from_raw(self.pid), WaitOptions::empty());
        }
    }
}

/// What podman writes for `run --network none`, without what changes nothing here.
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
