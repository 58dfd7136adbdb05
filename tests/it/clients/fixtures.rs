//! Parts of the tests of real clients: images with clients, servers of the tests' own, and the mirrors that this host uses.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{Rdvm, is_missing, left_out, missing, reference_image};

/// An address of the tests' own: 127.0.0.1 means the guest itself to a client that heeds `no_proxy`.
pub(super) const OWN: &str = "127.0.0.2";

/// The standard output of a command of the host that succeeds, without its line end.
pub(super) fn output(program: &str, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success()).then(|| text.trim_end().to_owned())
}

/// An image that a test adds files to.
pub(super) struct Client {
    dir: TempDir,
}

impl Client {
    /// A reference image with hard links to its files, which therefore must not be written to.
    pub(super) fn on(name: &str) -> Option<Self> {
        let image = reference_image(name)?;
        let dir = TempDir::new_in("target").unwrap();
        let to = dir.path().join("root");
        let made = output(
            "cp",
            &["-al", image.to_str().unwrap(), to.to_str().unwrap()],
        );
        made.expect("links to the image's files");
        Some(Self { dir })
    }

    /// busybox, and programs of this host with their libraries.
    pub(super) fn of_programs(programs: &[&str]) -> Option<Self> {
        let dir = TempDir::new_in("target").unwrap();
        let client = Self { dir };
        let bin = client.path().join("usr/bin");
        fs::create_dir_all(&bin).unwrap();
        std::os::unix::fs::symlink("usr/bin", client.path().join("bin")).unwrap();
        fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed");
        for applet in ["sh", "cmp", "cat"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).unwrap();
        }
        for program in programs {
            if is_missing(program) {
                missing(program);
                return None;
            }
            let path = output("sh", &["-c", &format!("command -v {program}")]).unwrap();
            client.add_program(Path::new(&path), &format!("usr/bin/{program}"));
        }
        Some(client)
    }

    /// Adds a program of the host, and the libraries that it loads and the image lacks.
    pub(super) fn add_program(&self, from: &Path, to: &str) {
        self.add(from, to);
        let libraries = output("ldd", &[from.to_str().unwrap()]).unwrap_or_default();
        for word in libraries
            .split_whitespace()
            .filter(|word| word.starts_with('/'))
        {
            if !self.path().join(&word[1..]).exists() {
                self.add(Path::new(word), &word[1..]);
            }
        }
    }

    /// Adds a file or a directory of the host where nothing is yet.
    pub(super) fn add(&self, from: &Path, to: &str) {
        let to = self.path().join(to);
        assert!(!to.exists(), "{} is the image's", to.display());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let from = from.canonicalize().unwrap();
        let words = ["-r", from.to_str().unwrap(), to.to_str().unwrap()];
        output("cp", &words).expect("a copy");
    }

    pub(super) fn write(&self, path: &str, content: &str) {
        let path = self.path().join(path);
        // The link leads to the image's own file.
        let _ = fs::remove_file(&path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("root")
    }
}

/// Servers of the tests' own on [`OWN`], and the directory that they serve.
pub(super) struct Servers {
    child: Child,
    dir: TempDir,
    pub(super) http: u16,
    pub(super) https: u16,
    pub(super) proxy: u16,
}

impl Servers {
    /// Starts them, with a certificate of their own.
    pub(super) fn start() -> Option<Self> {
        for program in ["python3", "openssl", "git"] {
            if is_missing(program) {
                missing(program);
                return None;
            }
        }
        let dir = TempDir::new().unwrap();
        let [files, certificate, key] =
            ["files", "own.crt", "own.key"].map(|name| dir.path().join(name));
        fs::create_dir(&files).unwrap();
        let certified = Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-subj", "/CN=tests", "-addext"])
            .arg(format!("subjectAltName=IP:{OWN}"))
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .unwrap();
        assert!(certified.status.success(), "{certified:?}");
        let mut child = Command::new("python3")
            .args(["tests/it/clients/server.py", OWN])
            .args([&files, &certificate, &key])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut port = || lines.next().unwrap().unwrap().parse().unwrap();
        let (http, https, proxy) = (port(), port(), port());
        Some(Self {
            child,
            dir,
            http,
            https,
            proxy,
        })
    }

    /// The directory that they serve.
    pub(super) fn files(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    /// The certificate by which clients know them.
    pub(super) fn certificate(&self) -> PathBuf {
        self.dir.path().join("own.crt")
    }

    /// The beginnings of their addresses.
    pub(super) fn urls(&self) -> [String; 2] {
        [
            format!("http://{OWN}:{}", self.http),
            format!("https://{OWN}:{}", self.https),
        ]
    }

    /// Allows the web servers.
    pub(super) fn allow(&self, rdvm: Rdvm) -> Rdvm {
        let ports = [self.http, self.https];
        ports.iter().fold(rdvm, |rdvm, port| {
            rdvm.option("--allow").option(format!("{OWN}:{port}"))
        })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // It ends with its standard input as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Mirrors that this host uses: hosts with their ports, and the addresses that they have.
pub(super) struct Mirrors {
    pub(super) hosts: Vec<(String, u16)>,
    addresses: Vec<SocketAddr>,
}

impl Mirrors {
    /// The mirrors of some URLs, if they can be reached from here; what the test leaves out is noted if not.
    pub(super) fn of(urls: &[String]) -> Option<Self> {
        let (mut hosts, mut addresses) = (Vec::new(), Vec::new());
        for url in urls {
            let (scheme, rest) = url.split_once("://")?;
            let authority = rest.split('/').next()?.rsplit('@').next()?;
            let usual = if scheme == "https" { 443 } else { 80 };
            let (host, port) = match authority.split_once(':') {
                Some((host, port)) => (host, port.parse().ok()?),
                None => (authority, usual),
            };
            let found = (host, port)
                .to_socket_addrs()
                .map_or(Vec::new(), Iterator::collect);
            let patience = Duration::from_secs(10);
            let reached = |address| TcpStream::connect_timeout(address, patience).is_ok();
            if !found.iter().any(reached) {
                left_out(&format!("{host}, which this host uses, cannot be reached"));
                return None;
            }
            hosts.push((host.to_owned(), port));
            addresses.extend(found);
        }
        Some(Self { hosts, addresses })
    }

    /// The mirrors that a program of the host names in its configuration, as `find` returns them.
    pub(super) fn of_client(name: &str, find: impl Fn() -> Option<Vec<String>>) -> Option<Self> {
        match find() {
            Some(urls) => Self::of(&urls),
            None => {
                left_out(&format!("{name} is not here"));
                None
            }
        }
    }

    /// Allows them by name, and by address too: a mirror may be at one that is not public.
    pub(super) fn allow(&self, rdvm: Rdvm) -> Rdvm {
        let names = self
            .hosts
            .iter()
            .map(|(host, port)| format!("{host}:{port}"));
        let addresses = self.addresses.iter().map(ToString::to_string);
        let rules = names.chain(addresses);
        rules.fold(rdvm, |rdvm, rule| rdvm.option("--allow").option(rule))
    }
}

/// With the host's certificates, under the names by which clients look for them, for mirrors that the host reaches over TLS of its own.
pub(super) fn with_certificates(rdvm: Rdvm, client: &Client) -> Rdvm {
    let certificates = Path::new("/etc/ssl/certs/ca-certificates.crt");
    if !certificates.exists() {
        return rdvm;
    }
    client.add(certificates, "host.crt");
    let names = [
        "SSL_CERT_FILE",
        "CURL_CA_BUNDLE",
        "PIP_CERT",
        "NODE_EXTRA_CA_CERTS",
        "CARGO_HTTP_CAINFO",
    ];
    names.into_iter().fold(rdvm, |rdvm, name| {
        rdvm.option("-e").option(format!("{name}=/host.crt"))
    })
}
