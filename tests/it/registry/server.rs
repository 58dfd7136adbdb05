//! docker-registry on a free port of loopback, a home to pull into, and what stands between them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use crate::support::{RDVM, Rdvm, Run, busybox, eventually, is_missing, missing};

/// A running registry, which ends with this.
pub(super) struct Registry {
    child: Child,
    host: String,
    _dir: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Both succeed too when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// Starts one with more lines of configuration, some of them of `http:`.
    pub(super) fn start(more: &str) -> Option<Self> {
        for program in ["docker-registry", "skopeo"] {
            if is_missing(program) {
                missing(program);
                return None;
            }
        }
        let dir = TempDir::new().unwrap();
        // Free now; whoever takes it meanwhile makes the registry end, and then there is another.
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap();
            let config = format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: {free}\n{more}",
                dir.path().join("data").display()
            );
            let path = dir.path().join("config.yml");
            fs::write(&path, config).unwrap();
            let mut command = Command::new("docker-registry");
            command
                .arg("serve")
                .arg(path)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            let mut ended = false;
            eventually("the registry answers", || {
                ended = child.try_wait().unwrap().is_some();
                ended || TcpStream::connect(free).is_ok()
            });
            if !ended {
                let host = free.to_string();
                return Some(Self {
                    child,
                    host,
                    _dir: dir,
                });
            }
        }
        panic!("docker-registry does not start");
    }

    /// Starts one with TLS, and returns the certificate of its CA.
    pub(super) fn start_with_tls(dir: &Path) -> Option<(Self, PathBuf)> {
        if is_missing("openssl") {
            missing("openssl");
            return None;
        }
        let script = "set -e
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.crt \
                -addext basicConstraints=critical,CA:TRUE
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=registry -keyout tls.key -out tls.csr
            printf 'subjectAltName=IP:127.0.0.1\\nbasicConstraints=CA:FALSE\\n' >ext
            openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out tls.crt";
        let made = Command::new("sh")
            .args(["-c", script])
            .current_dir(dir)
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let (certificate, key) = (dir.join("tls.crt"), dir.join("tls.key"));
        let more = format!(
            "  tls: {{certificate: {}, key: {}}}\n",
            certificate.display(),
            key.display()
        );
        Some((Self::start(&more)?, dir.join("ca.crt")))
    }

    /// Starts one that wants this name and password.
    pub(super) fn start_with_password(dir: &Path, user: &str, password: &str) -> Option<Self> {
        if is_missing("htpasswd") {
            missing("htpasswd");
            return None;
        }
        let made = Command::new("htpasswd")
            .args(["-Bbn", user, password])
            .output()
            .unwrap();
        let path = dir.join("htpasswd");
        fs::write(&path, made.stdout).unwrap();
        Self::start(&format!(
            "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            path.display()
        ))
    }

    /// Host and port.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The full name of an image here.
    pub(super) fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.host)
    }
}

/// Pushes an OCI archive.
pub(super) fn push(archive: &Path, name: &str, options: &[&str]) {
    let output = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"])
        .args(options)
        .arg(format!("oci-archive:{}", archive.display()))
        .arg(format!("docker://{name}"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A home directory with a cache in it, and nothing of this host's configuration of the user.
pub(super) struct Home {
    dir: TempDir,
}

impl Home {
    pub(super) fn new() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn store(&self) -> PathBuf {
        self.path().join("cache/oci")
    }

    fn variables(&self) -> [(&'static str, PathBuf); 4] {
        [
            ("HOME", self.path().to_owned()),
            ("RDVM_CACHE", self.path().join("cache")),
            ("XDG_RUNTIME_DIR", self.path().join("run")),
            ("XDG_CONFIG_HOME", self.path().join(".config")),
        ]
    }

    /// With this home.
    pub(super) fn environment(&self, rdvm: Rdvm) -> Rdvm {
        let variables = self.variables().into_iter();
        variables.fold(rdvm, |rdvm, (name, value)| rdvm.with_variable(name, value))
    }

    /// Gives a command this home.
    pub(super) fn surround<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let command = command.current_dir(self.path()).stdin(Stdio::null());
        command.envs(self.variables())
    }

    /// `rdvm WORDS` here.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(RDVM);
        self.surround(&mut command).args(words);
        command
    }

    pub(super) fn rdvm(&self, words: &[&str]) -> Run {
        Run(self.command(words).output().unwrap())
    }

    pub(super) fn rdvm_with(&self, words: &[&str], variables: &[(&str, &Path)]) -> Run {
        let mut command = self.command(words);
        Run(command.envs(variables.iter().copied()).output().unwrap())
    }

    /// Returns the output of `rdvm images --json`.
    pub(super) fn images(&self) -> Vec<serde_json::Value> {
        serde_json::from_str(&self.rdvm(&["images", "--json"]).exits(0).stdout()).unwrap()
    }

    /// Returns the output of `rdvm inspect --json`.
    pub(super) fn inspect(&self, name: &str) -> serde_json::Value {
        serde_json::from_str(&self.rdvm(&["inspect", "--json", name]).exits(0).stdout()).unwrap()
    }

    /// An OCI archive of three layers, of which one has some hundred kilobytes that cannot be compressed.
    pub(super) fn archive(&self) -> PathBuf {
        let archive = self.path().join("app.tar");
        if archive.exists() {
            return archive;
        }
        let mut noise = vec![0; 3 << 20];
        fs::File::open("/dev/urandom")
            .unwrap()
            .read_exact(&mut noise)
            .unwrap();
        for (directory, content) in [("one", &noise[..]), ("two", b"two")] {
            fs::create_dir_all(self.path().join(directory).join("etc")).unwrap();
            fs::write(
                self.path().join(directory).join("etc").join(directory),
                content,
            )
            .unwrap();
        }
        let base = busybox().path().to_str().unwrap().to_owned();
        let packed = self.rdvm(&[
            "pack",
            "--format",
            "oci",
            "--compress",
            "gzip",
            "-o",
            "app.tar",
            &base,
            "--layer",
            "one",
            "--layer",
            "two",
        ]);
        packed.exits(0);
        archive
    }
}

/// The blobs of a layout by name.
pub(super) fn blobs(layout: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(layout.join("blobs/sha256")).unwrap().flatten();
    entries
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                fs::read(entry.path()).unwrap(),
            )
        })
        .collect()
}

/// Asserts that every blob has the digest that it is named by, and that there are some.
#[track_caller]
pub(super) fn all_there(layout: &Path) {
    use sha2::Digest as _;
    let blobs = blobs(layout);
    assert!(blobs.len() >= 3);
    for (name, bytes) in blobs {
        let digest: String = sha2::Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(name, digest);
    }
}

/// A way to a registry on which every connection stands still after some bytes from it, until it is told not to.
pub(super) struct Slow {
    host: String,
    most: Arc<AtomicU64>,
    ranges: Arc<Mutex<Vec<u64>>>,
}

impl Slow {
    pub(super) fn before(registry: &str, most: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let slow = Self {
            host: listener.local_addr().unwrap().to_string(),
            most: Arc::new(AtomicU64::new(most)),
            ranges: Arc::default(),
        };
        let (registry, most, ranges) =
            (registry.to_owned(), slow.most.clone(), slow.ranges.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(&registry).unwrap();
                let (mut from_client, mut to_server) =
                    (client.try_clone().unwrap(), server.try_clone().unwrap());
                let ranges = ranges.clone();
                std::thread::spawn(move || {
                    let mut piece = [0; 8192];
                    // Whichever side goes away first ends it.
                    while let Ok(count @ 1..) = from_client.read(&mut piece) {
                        let text = String::from_utf8_lossy(&piece[..count]).to_lowercase();
                        let range: Option<u64> = text
                            .split("range: bytes=")
                            .nth(1)
                            .and_then(|rest| rest.split('-').next()?.parse().ok());
                        ranges.lock().unwrap().extend(range);
                        if to_server.write_all(&piece[..count]).is_err() {
                            break;
                        }
                    }
                    let _ = to_server.shutdown(std::net::Shutdown::Write);
                });
                let most = most.clone();
                std::thread::spawn(move || trickle(server, client, &most));
            }
        });
        slow
    }

    pub(super) fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.host)
    }

    pub(super) fn stop_being_slow(&self) {
        self.most.store(u64::MAX, Ordering::SeqCst);
    }

    /// The first bytes that were asked for, where not all were.
    pub(super) fn ranges(&self) -> Vec<u64> {
        self.ranges.lock().unwrap().clone()
    }
}

fn trickle(mut from: TcpStream, mut to: TcpStream, most: &AtomicU64) {
    let (mut piece, mut sent) = ([0; 8192], 0);
    while let Ok(count @ 1..) = from.read(&mut piece) {
        while sent > most.load(Ordering::SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        if to.write_all(&piece[..count]).is_err() {
            return;
        }
        sent += count as u64;
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}
