//! Real clients, unmodified, in machines without a network card: package managers against the mirrors that this host uses, and others
//! against servers of the tests' own; and real servers in machines, reached by published ports.
//!
//! One machine with one client takes some ten seconds in QEMU; those that take minutes run where `RDVM_TEST_LONG` is set. What a host
//! has no client or no mirror for is noted.

mod fixtures;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use self::fixtures::{Client, Mirrors, OWN, Servers, output, with_certificates};
use crate::support::{Rdvm, Run, any_engine, eventually, is_missing, left_out, send};

/// The engine, if it is QEMU: what a client sends does not depend on the engine, and these are full systems.
fn engine() -> Option<&'static str> {
    let qemu = any_engine().iter().find(|engine| **engine == "qemu");
    if qemu.is_none() {
        left_out("real clients run on the QEMU engine");
    }
    qemu.copied()
}

fn is_long() -> bool {
    let is_long = std::env::var_os("RDVM_TEST_LONG").is_some();
    if !is_long {
        left_out("it takes minutes; RDVM_TEST_LONG=1 runs it");
    }
    is_long
}

/// The hosts and ports that the report of a run says were reached.
fn reached(report: &Path) -> Vec<(String, u16)> {
    let report: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    let network = &report["network"];
    assert_eq!(network["refused"], serde_json::json!([]), "{network}");
    let reached = network["reached"].as_array().unwrap().iter();
    let mut reached: Vec<_> = reached
        .map(|each| {
            let port = each["port"].as_u64().unwrap();
            (each["host"].as_str().unwrap().to_owned(), port as u16)
        })
        .collect();
    reached.sort();
    reached
}

/// Runs a script in the image of a client with these mirrors, and asserts that it reached them and nothing else.
fn fetch(engine: &str, client: &Client, mirrors: &Mirrors, script: &str) -> Run {
    let file = tempfile::NamedTempFile::new().unwrap();
    let rdvm = Rdvm::on(engine)
        .option("--show-boot")
        .option("-m")
        .option("1g");
    let rdvm = with_certificates(mirrors.allow(rdvm), client);
    let rdvm = rdvm.option("--report").option(file.path());
    let run = rdvm.image(client.path()).sh(script).run().exits(0);
    let mut hosts = mirrors.hosts.clone();
    hosts.sort();
    hosts.dedup();
    assert_eq!(reached(file.path()), hosts);
    run
}

#[test]
fn curl_and_wget_fetch_over_http_and_https() {
    let Some(engine) = engine() else { return };
    let (Some(servers), Some(client)) = (Servers::start(), Client::of_programs(&["curl", "wget"]))
    else {
        return;
    };
    let body: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    fs::write(servers.files().join("body"), &body).unwrap();
    fs::write(client.path().join("body"), &body).unwrap();
    client.add(&servers.certificate(), "own.crt");
    client.add(Path::new("/etc/ssl/certs/ca-certificates.crt"), "host.crt");
    let [http, https] = servers.urls();
    let script = format!(
        "for url in {http}/body {https}/body; do
            curl -sSf --cacert /own.crt $url | cmp - /body && echo curl
            # busybox has a wget of its own, which is found first without the path.
            /usr/bin/wget -nv --ca-certificate=/own.crt -O - $url | cmp - /body && echo wget
        done
        curl -sS -o /dev/null -o /dev/null -w '%{{http_code}} %{{http_connect}}\\n' --cacert /own.crt {http}/none {https}/none
        curl -sS --cacert /host.crt {https}/body 2>&1"
    );
    let rdvm = servers.allow(Rdvm::on(engine));
    let run = rdvm.image(client.path()).sh(&script).run().exits(60);
    let stdout = run.stdout();
    let rest = stdout.strip_prefix("curl\nwget\ncurl\nwget\n404 000\n404 200\n");
    // The server proves itself to the client: there is nothing between them.
    let proven = rest.is_some_and(|rest| rest.contains("SSL certificate problem"));
    assert!(proven, "{stdout}");
}

#[test]
fn git_clones_over_http_and_https_with_a_certificate_of_its_own() {
    let Some(engine) = engine() else { return };
    let (Some(servers), Some(client)) = (Servers::start(), Client::on("tools")) else {
        return;
    };
    let bare = servers.files().join("git/one.git");
    let script = format!(
        "git init -q work && cd work && seq 100000 >numbers && git add . &&
        git -c user.name=me -c user.email= commit -q -m one &&
        git clone -q --bare . {0} && git -C {0} update-server-info",
        bare.display()
    );
    let work = tempfile::tempdir().unwrap();
    let made = Command::new("sh")
        .args(["-ec", &script])
        .current_dir(work.path())
        .status();
    assert!(made.unwrap().success());
    client.add(&servers.certificate(), "own.crt");
    let [http, https] = servers.urls();
    // The files of a repository can be fetched one by one as well, as git did before it had a protocol for this.
    fs::rename(&bare, servers.files().join("dumb.git")).unwrap();
    std::os::unix::fs::symlink("../dumb.git", &bare).unwrap();
    let script = format!(
        "export HOME=/root; git config --global http.sslCAInfo /own.crt
        for url in {http}/git {https}/git {http}/dumb; do
            rm -rf /one; git clone -q ${{url%/dumb}}/$(case $url in *dumb) echo dumb;; *) echo one;; esac).git /one && tail -n 1 /one/numbers
        done"
    );
    let rdvm = servers.allow(Rdvm::on(engine));
    let run = rdvm.image(client.path()).sh(&script).run();
    run.exits(0).prints("100000\n100000\n100000\n");
}

/// The index that the host's pip uses, and where that has its files.
fn pip_urls() -> Option<Vec<String>> {
    if let Some(index) = output(
        "python3",
        &["-m", "pip", "config", "get", "global.index-url"],
    ) {
        return Some(vec![index]);
    }
    let script = "from pip._internal.models.index import PyPI as p; print(p.simple_url, 'https://' + p.file_storage_domain)";
    let urls = output("python3", &["-c", script])?;
    Some(urls.split(' ').map(str::to_owned).collect())
}

#[test]
fn pip_installs_from_the_hosts_index() {
    let Some(engine) = engine() else { return };
    let Some(mirrors) = Mirrors::of_client("pip", pip_urls) else {
        return;
    };
    let Some(client) = Client::on("tools") else {
        return;
    };
    let pip = output("python3", &["-c", "import pip; print(pip.__path__[0])"]).unwrap();
    client.add(Path::new(&pip), "opt/python/pip");
    let index = pip_urls().unwrap().remove(0);
    let script = format!(
        "export PYTHONPATH=/opt/python:/site HOME=/root
        python3 -m pip install -q --disable-pip-version-check --root-user-action ignore -i {index} --target /site six >&2 &&
        python3 -c 'import six; print(six.ensure_str(\"six\"))'"
    );
    fetch(engine, &client, &mirrors, &script).prints("six\n");
}

fn npm_urls() -> Option<Vec<String>> {
    let registry = output("npm", &["config", "get", "registry"])?;
    Some(vec![registry])
}

#[test]
fn npm_installs_from_the_hosts_registry() {
    let Some(engine) = engine() else { return };
    let Some(mirrors) = Mirrors::of_client("npm", npm_urls) else {
        return;
    };
    let Some(client) = Client::on("tools") else {
        return;
    };
    let modules = output("npm", &["root", "-g"]).unwrap();
    let node = output("node", &["-p", "process.execPath"]).unwrap();
    client.add(&Path::new(&modules).join("npm"), "opt/npm");
    client.add_program(Path::new(&node), "opt/node");
    let registry = npm_urls().unwrap().remove(0);
    let script = format!(
        "export HOME=/root; mkdir /project && cd /project &&
        /opt/node /opt/npm/bin/npm-cli.js install --silent --no-audit --no-fund --no-update-notifier --registry {registry} is-number >&2 &&
        /opt/node -p 'require(\"is-number\")(7)'"
    );
    fetch(engine, &client, &mirrors, &script).prints("true\n");
}

/// The index that the host's cargo has fetched from, and where that has its crates.
fn cargo_urls() -> Option<Vec<String>> {
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        Into::into,
    );
    for entry in fs::read_dir(home.join("registry/index")).ok()?.flatten() {
        let name = entry.file_name().into_string().ok()?;
        let (host, _) = name.rsplit_once('-')?;
        let Ok(config) = fs::read(entry.path().join("config.json")) else {
            continue;
        };
        let config: serde_json::Value = serde_json::from_slice(&config).ok()?;
        return Some(vec![
            format!("https://{host}/"),
            config["dl"].as_str()?.to_owned(),
        ]);
    }
    None
}

#[test]
fn cargo_builds_a_crate_with_a_dependency() {
    let Some(engine) = engine() else { return };
    if !is_long() {
        return;
    }
    let Some(mirrors) = Mirrors::of_client("cargo's index", cargo_urls) else {
        return;
    };
    let Some(client) = Client::on("tools") else {
        return;
    };
    let root = output("rustc", &["--print", "sysroot"]).unwrap();
    let root = Path::new(&root);
    for program in ["bin/cargo", "bin/rustc"] {
        client.add(&root.join(program), &format!("opt/rust/{program}"));
    }
    for entry in fs::read_dir(root.join("lib")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.contains(".so") {
            client.add(&entry.path(), &format!("opt/rust/lib/{name}"));
        }
    }
    // What programs are linked with, and rustc's own linker.
    for own in ["lib", "bin"].map(|own| format!("lib/rustlib/x86_64-unknown-linux-gnu/{own}")) {
        client.add(&root.join(&own), &format!("opt/rust/{own}"));
    }
    let manifest = "[package]\nname = \"one\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[dependencies]\nitoa = \"1\"\n";
    client.write("project/Cargo.toml", manifest);
    let main = "fn main() { println!(\"{}\", itoa::Buffer::new().format(42)); }\n";
    client.write("project/src/main.rs", main);
    let script = "export HOME=/root PATH=/opt/rust/bin:$PATH; cd /project && cargo run -q";
    fetch(engine, &client, &mirrors, script).prints("42\n");
}

/// The mirror in the sources of an image of Debian's, if it can be reached.
fn apt_mirror(image: &Path) -> Option<Mirrors> {
    let sources = fs::read_to_string(image.join("etc/apt/sources.list")).unwrap();
    let mut words = sources.split_whitespace();
    let Some(url) = words.find(|word| word.starts_with("http")) else {
        left_out("the image debian has no mirror that is reached by HTTP");
        return None;
    };
    Mirrors::of(&[url.to_owned()])
}

/// True if packages can be fetched for an image of Debian's; what the test leaves out is noted if not.
pub(crate) fn has_apt_mirror(image: &Path) -> bool {
    apt_mirror(image).is_some()
}

/// The image debian, and its mirror.
fn debian() -> Option<(Client, Mirrors)> {
    let client = Client::on("debian")?;
    let mirrors = apt_mirror(&client.path())?;
    Some((client, mirrors))
}

const APT: &str = "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update >&2 && apt-get -qq install -y --no-install-recommends";

/// A machine with a published port, and where that is on the host.
struct Published {
    child: Child,
    address: String,
}

impl Published {
    /// Starts a script that prints a line once it serves the guest's port.
    fn start(rdvm: Rdvm, guest_port: u16, client: &Client, script: &str) -> Self {
        let rdvm = rdvm.option("-p").option(format!("0:{guest_port}"));
        let mut child = rdvm.image(client.path()).sh(script).spawn();
        let mut stderr = child.stderr.take().unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b" of the guest\n") {
            let mut byte = [0];
            let count = stderr.read(&mut byte).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&said));
            said.push(byte[0]);
        }
        let line = String::from_utf8(said).unwrap();
        let line = line.lines().last().unwrap();
        let address = line["rdvm: network: ".len()..].split(' ').next().unwrap();
        // What apt says, so that it does not stop at a full pipe.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::stderr()));
        let mut byte = [0];
        let read = child.stdout.as_mut().unwrap().read(&mut byte).unwrap();
        assert_eq!(read, 1, "the script ended");
        Self {
            child,
            address: address.to_owned(),
        }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).unwrap()
    }

    fn end(self) {
        send(self.child.id(), "TERM");
        Run(self.child.wait_with_output().unwrap()).exits(143);
    }
}

#[test]
fn apt_get_installs_nginx_and_a_published_port_leads_to_it() {
    let Some(engine) = engine() else { return };
    let Some((client, mirrors)) = debian() else {
        return;
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let rdvm = Rdvm::on(engine)
        .option("-m")
        .option("1g")
        .option("--report");
    let rdvm = mirrors.allow(rdvm.option(file.path()));
    let script = format!(
        "{APT} nginx-light >&2 && seq 1000000 >/var/www/html/numbers && nginx >&2 && echo on && exec sleep 1000"
    );
    let nginx = Published::start(rdvm, 80, &client, &script);
    let numbers: Vec<u8> = (1..=1_000_000)
        .flat_map(|n| format!("{n}\n").into_bytes())
        .collect();
    let get = |name: &str| {
        let mut stream = nginx.connect();
        let request = format!("GET /{name} HTTP/1.0\r\nHost: guest\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    // One that asks, and reads later than all others.
    let mut slow = get("numbers");
    let body = |mut stream: TcpStream| {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let head = answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap();
        assert!(
            answer.starts_with(b"HTTP/1.1 200 OK\r\n"),
            "{:?}",
            String::from_utf8_lossy(&answer[..head])
        );
        answer.split_off(head + 4)
    };
    for _ in 0..3 {
        assert!(body(get("numbers")) == numbers);
    }
    std::thread::sleep(Duration::from_millis(500));
    let mut first = [0; 8];
    slow.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1");
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).unwrap();
    assert!(rest.ends_with(&numbers));
    nginx.end();
    assert_eq!(reached(file.path()), mirrors.hosts);
}

#[test]
fn postgresql_answers_its_own_client_by_a_published_port() {
    let Some(engine) = engine() else { return };
    if !is_long() {
        return;
    }
    if is_missing("psql") {
        return left_out("psql is not here");
    }
    let Some((client, mirrors)) = debian() else {
        return;
    };
    let rdvm = mirrors.allow(Rdvm::on(engine).option("-m").option("2g"));
    let script = format!(
        "{APT} postgresql >&2 && cd / &&
        printf '%s\\n' 'local all all trust' 'host all all 127.0.0.1/32 trust' >$(ls -d /etc/postgresql/*/main)/pg_hba.conf &&
        pg_ctlcluster $(ls /etc/postgresql) main start >&2 && echo on && exec sleep 1000"
    );
    let postgresql = Published::start(rdvm, 5432, &client, &script);
    let (host, port) = postgresql.address.split_once(':').unwrap();
    let psql = |query: &str| {
        let words = ["-h", host, "-p", port, "-U", "postgres", "-At", "-c", query];
        output("psql", &words)
    };
    assert_eq!(psql("select 6 * 7").as_deref(), Some("42"));
    let query = "create table t as select generate_series(1, 100000) n; select sum(n) from t";
    assert!(psql(query).unwrap().ends_with("5000050000"));
    let all = psql("copy t to stdout").unwrap();
    assert_eq!(all.lines().count(), 100_000);
    postgresql.end();
}

#[test]
fn an_upstream_proxy_with_a_password_is_used_for_both_kinds_of_request() {
    let Some(engine) = engine() else { return };
    let (Some(servers), Some(client)) = (Servers::start(), Client::of_programs(&["curl"])) else {
        return;
    };
    fs::write(servers.files().join("body"), "through two proxies\n").unwrap();
    client.add(&servers.certificate(), "own.crt");
    client.add(Path::new("/etc/ssl/certs/ca-certificates.crt"), "host.crt");
    let [http, https] = servers.urls();
    let script = format!(
        "for url in {http}/body {https}/body; do curl -sS --cacert /own.crt $url || echo $?; done 2>&1"
    );
    for (password, words) in [
        (
            "secret",
            &["through two proxies\nthrough two proxies\n"][..],
        ),
        (
            "wrong",
            &[
                "does not accept the credentials; name it with",
                "curl: (56)",
            ],
        ),
    ] {
        let proxy = format!("http://user:{password}@{OWN}:{}", servers.proxy);
        let rdvm = servers
            .allow(Rdvm::on(engine))
            .option("--upstream-proxy")
            .option(proxy);
        let run = rdvm.image(client.path()).sh(&script).run().exits(0);
        let said = run.stdout();
        for word in words {
            assert!(said.contains(word), "{password}: {said}");
        }
        assert!(!said.contains(password) && !run.stderr().contains(password));
    }
}

/// apt-cacher-ng, unpacked from Debian's package and run as the caller.
struct Cacher {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Cacher {
    fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        // Its resolver takes a port's number for one with a sign.
        let first = 10_000 + (std::process::id() % 10_000) as u16;
        let mut ports = first..i16::MAX as u16;
        let port = ports.find(|port| std::net::TcpListener::bind((OWN, *port)).is_ok());
        let port = port.unwrap();
        // With the libraries that few hosts have: the C library and its like have to be the host's own.
        let script = "apt-get -qq download apt-cacher-ng $(apt-cache depends apt-cacher-ng |
            sed -n -E 's/^ *Depends: (lib(event|wrap|fuse|c-ares).*)/\\1/p')
            for package in *.deb; do dpkg-deb -x $package root; done";
        let unpacked = Command::new("sh")
            .args(["-ec", script])
            .current_dir(dir.path())
            .output();
        if !unpacked.is_ok_and(|output| output.status.success()) {
            left_out("apt-get has no apt-cacher-ng to download");
            return None;
        }
        let root = dir.path().join("root");
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        let program = root.join("usr/sbin/apt-cacher-ng");
        let needs = Command::new("ldd")
            .arg(&program)
            .env("LD_LIBRARY_PATH", &libraries)
            .output();
        let needs = String::from_utf8(needs.unwrap().stdout).unwrap();
        if let Some(library) = needs.lines().find(|line| line.contains("not found")) {
            left_out(&format!("apt-cacher-ng needs{library}"));
            return None;
        }
        let option = |name: &str, path: &Path| format!("{name}={}", path.display());
        let child = Command::new(program)
            .env("LD_LIBRARY_PATH", libraries)
            .arg("-c")
            .arg(root.join("etc/apt-cacher-ng"))
            .args(["ForeGround=1", "SocketPath=", "PidFile="])
            .args([format!("Port={port}"), format!("BindAddress={OWN}")])
            .arg(option("CacheDir", &dir.path().join("cache")))
            .arg(option("LogDir", &dir.path().join("log")))
            .arg(option("SupportDir", &root.join("usr/lib/apt-cacher-ng")))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let cacher = Self { child, port, dir };
        eventually("apt-cacher-ng listens", || {
            TcpStream::connect((OWN, port)).is_ok()
        });
        Some(cacher)
    }
}

impl Drop for Cacher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn apt_get_updates_by_apt_cacher_ng() {
    let Some(engine) = engine() else { return };
    let (Some((client, mirrors)), Some(cacher)) = (debian(), Cacher::start()) else {
        return;
    };
    // The updates alone: their lists are small.
    let sources = fs::read_to_string(client.path().join("etc/apt/sources.list")).unwrap();
    let mut words = sources.split_whitespace().take(3).map(str::to_owned);
    let [kind, url, suite] = [(); 3].map(|()| words.next().unwrap());
    client.write(
        "etc/apt/sources.list",
        &format!("{kind} {url} {suite}-updates main\n"),
    );
    let upstream = format!("http://{OWN}:{}", cacher.port);
    let rdvm = mirrors
        .allow(Rdvm::on(engine))
        .option("--upstream-proxy")
        .option(upstream);
    let file = tempfile::NamedTempFile::new().unwrap();
    let rdvm = rdvm
        .option("-m")
        .option("1g")
        .option("--report")
        .option(file.path());
    let script = "apt-get -qq update >&2 && ls /var/lib/apt/lists | grep -c -e -updates_InRelease";
    rdvm.image(client.path())
        .sh(script)
        .run()
        .exits(0)
        .prints("1\n");
    assert_eq!(reached(file.path()), mirrors.hosts);
    let kept = output(
        "find",
        &[
            cacher.dir.path().join("cache").to_str().unwrap(),
            "-name",
            "InRelease",
        ],
    );
    assert!(!kept.unwrap().is_empty(), "apt-cacher-ng fetched nothing");
}
