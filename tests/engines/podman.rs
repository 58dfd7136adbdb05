//! podman, as root and as a user, on its storage drivers vfs and overlay: what it is configured with, and the table of commands.
//!
//! Where there is no systemd, podman keeps cgroups itself; and it asks for more open files than a container without
//! CAP_SYS_RESOURCE may have, so that the lab sets its own limits. The rest of the configuration is the one of
//! examples/engines/podman.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

use crate::lab::{Ended, IMAGE, behind, command, ended, lab, with};
use crate::table::{self, Engine, Streams};

/// The user of rootless containers, and the range of its subordinate ids.
const USER: u32 = 4000;
const RANGE: &str = "rdvm-user:200000:65536\n";

const LAB: &str = r#"
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"#;

/// podman of a user with a storage driver.
pub(crate) struct Podman {
    user: u32,
    driver: &'static str,
    store: PathBuf,
}

/// podman of root on overlay, which has the image.
pub(crate) fn root() -> &'static Podman {
    static PODMAN: OnceLock<Podman> = OnceLock::new();
    PODMAN.get_or_init(|| Podman::new(0, "overlay"))
}

/// podman of a user on overlay, which has the image.
pub(crate) fn rootless() -> &'static Podman {
    static PODMAN: OnceLock<Podman> = OnceLock::new();
    PODMAN.get_or_init(|| Podman::new(USER, "overlay"))
}

impl Podman {
    /// A store of its own with the image.
    fn new(user: u32, driver: &'static str) -> Self {
        configure();
        let store = PathBuf::from(format!("/var/lib/containers/{user}-{driver}"));
        fs::create_dir(&store).unwrap();
        chown(&store, Some(user), Some(user)).unwrap();
        let podman = Self {
            user,
            driver,
            store,
        };
        let archive = lab().archive.to_str().unwrap();
        podman.run(&["load", "-q", "-i", archive]).exits(0);
        podman
    }

    /// `podman WORDS`.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut podman = command("podman", &["--runtime", "rdvm"]);
        podman.args(["--storage-driver", self.driver]);
        podman.arg("--root").arg(self.store.join("storage"));
        podman.arg("--runroot").arg(self.store.join("run"));
        podman.args(words);
        if self.user == 0 {
            return podman;
        }
        let user = self.user.to_string();
        let words = ["--reuid", &user, "--regid", &user, "--clear-groups"];
        let mut outer = behind(command("setpriv", &words), &podman);
        outer
            .env("HOME", home())
            .env("XDG_RUNTIME_DIR", runtime_directory());
        outer.env("TMPDIR", home()).current_dir(home());
        outer
    }

    /// `podman WORDS`, run to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Ended {
        ended(self.command(words))
    }

    /// `podman run --rm OPTIONS IMAGE WORDS`, run to its end.
    pub(crate) fn container_with(&self, options: &[&str], words: &[&str]) -> Ended {
        let run = with(
            self.command(&["run", "--rm", "--network=none", "--pull=never"]),
            options,
        );
        ended(with(with(run, &[IMAGE]), words))
    }

    /// A container in the background, and its id.
    pub(crate) fn detached(&self, options: &[&str], words: &[&str]) -> String {
        let run = with(
            self.command(&["run", "-d", "--network=none", "--pull=never"]),
            options,
        );
        let id = ended(with(with(run, &[IMAGE]), words)).exits(0).text();
        id.trim().to_owned()
    }

    /// A field of `podman inspect`.
    pub(crate) fn inspect(&self, id: &str, field: &str) -> String {
        let format = format!("{{{{{field}}}}}");
        let words = ["inspect", "--format", &format, id];
        self.run(&words).exits(0).text().trim().to_owned()
    }

    /// The process that stands for a container on the host.
    pub(crate) fn pid(&self, id: &str) -> u32 {
        self.inspect(id, ".State.Pid").parse().unwrap()
    }
}

impl Engine for Podman {
    fn container(&self, streams: Streams, words: &[&str]) -> Command {
        let run = self.command(&["run", "--rm", "--network=none", "--pull=never"]);
        let options: &[&str] = match streams {
            Streams::Output => &[],
            Streams::Input => &["-i"],
            Streams::Terminal => &["-it"],
        };
        with(with(with(run, options), &[IMAGE]), words)
    }
}

fn home() -> &'static Path {
    Path::new("/run/engines/rdvm-user")
}

fn runtime_directory() -> &'static Path {
    Path::new("/run/user/4000")
}

/// Writes the configuration, and makes the user.
fn configure() {
    static DONE: Mutex<bool> = Mutex::new(false);
    let mut done = DONE.lock().unwrap();
    if *done {
        return;
    }
    *done = true;
    lab();
    let conf = Path::new("/etc/containers/containers.conf.d");
    fs::create_dir_all(conf).unwrap();
    let example = "examples/engines/podman/containers.conf";
    fs::copy(example, conf.join("rdvm.conf")).unwrap();
    fs::write(conf.join("zz-lab.conf"), LAB).unwrap();
    for (path, line) in [
        (
            "/etc/passwd",
            format!("rdvm-user:x:{USER}:{USER}::{}:/bin/sh\n", home().display()),
        ),
        ("/etc/group", format!("rdvm-user:x:{USER}:\n")),
        ("/etc/subuid", RANGE.into()),
        ("/etc/subgid", RANGE.into()),
    ] {
        let before = fs::read_to_string(path).unwrap_or_default();
        fs::write(path, before + &line).unwrap();
    }
    for directory in [home(), runtime_directory()] {
        fs::create_dir_all(directory).unwrap();
        chown(directory, Some(USER), Some(USER)).unwrap();
    }
}

#[test]
fn podman_of_root_runs_the_table_on_overlay() {
    table::all(root());
}

#[test]
fn podman_of_root_runs_commands_on_vfs() {
    let podman = Podman::new(0, "vfs");
    table::exit_codes(&podman);
    table::input(&podman);
}

#[test]
fn podman_of_a_user_runs_the_table_on_overlay() {
    table::all(rootless());
}

#[test]
fn podman_of_a_user_runs_commands_on_vfs() {
    let podman = Podman::new(USER, "vfs");
    table::exit_codes(&podman);
    table::input(&podman);
}

#[test]
fn a_user_without_root_is_any_user_in_the_machine() {
    let run = rootless().container_with(&["-u", "1000:100"], &["sh", "-c", "id -u; id -g"]);
    run.exits(0).prints("1000\n100");
}
