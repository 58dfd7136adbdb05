//! A guest without a network card reaches what it may, by a proxy, and is reached where that was asked for.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{
    Image, Rdvm, Run, any_engine, busybox, children_of, engines, eventually, is_alive, send, sized,
};

/// An address of the test's own: 127.0.0.1 means the guest itself to a client that heeds `no_proxy`.
const OWN: &str = "127.0.0.2";

/// A web server that sends back what it gets, and to who sends nothing as many bytes as the path says. Returns its port, and how
/// many connections it has had.
fn server() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((OWN, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::Relaxed);
            thread::spawn(move || serve(&stream.unwrap()));
        }
    });
    (port, connections)
}

fn serve(stream: &TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        (reader.read_line(&mut head).ok()? > 0).then_some(())?;
    }
    let field = |name: &str| {
        let line = head.lines().find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix(name)
                .map(str::to_owned)
        })?;
        line.trim().parse::<u64>().ok()
    };
    let mut body = Vec::new();
    let length = field("content-length:").unwrap_or(0);
    reader.by_ref().take(length).read_to_end(&mut body).ok()?;
    // busybox says GET also when it sends something.
    if length == 0 {
        let count = head["GET /".len()..].split(' ').next()?.parse().ok()?;
        body = bytes(count);
    }
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )
    .ok()?;
    stream.write_all(&body).ok()
}

/// Bytes without a period that a buffer could hide.
fn bytes(count: usize) -> Vec<u8> {
    let words = (0..count as u32 / 4 + 1).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes());
    words.take(count).collect()
}

fn allowing(engine: &str, port: u16) -> Rdvm {
    let rule = format!("{OWN}:{port}");
    Rdvm::on(engine).option("--allow").option(rule)
}

fn report(file: &tempfile::NamedTempFile) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(file.path()).unwrap()).unwrap()
}

#[test]
fn what_is_allowed_is_reached_and_the_report_has_it() {
    let count = sized(4_000_000usize, 300_000);
    for engine in engines() {
        let (port, _) = server();
        let file = tempfile::NamedTempFile::new().unwrap();
        let run = allowing(engine, port)
            .option("--report")
            .option(file.path())
            .image(busybox().path())
            .sh(&format!("wget -q -O - http://{OWN}:{port}/{count}"))
            .run()
            .exits(0);
        assert!(run.0.stdout == bytes(count), "{} bytes", run.0.stdout.len());
        assert_eq!(run.stderr(), "");
        let network = &report(&file)["network"];
        let reached = &network["reached"][0];
        assert_eq!(reached["host"], OWN);
        assert_eq!(
            (&reached["port"], &reached["connections"]),
            (&port.into(), &1.into())
        );
        assert!(reached["received"].as_u64().unwrap() > count as u64);
        assert_eq!(network["refused"], serde_json::json!([]));
    }
}

#[test]
fn what_is_sent_arrives_whole() {
    let count = sized(4_000_000usize, 300_000);
    // As text: busybox ends a body at its first NUL.
    let body: Vec<u8> = bytes(count).iter().map(|byte| b'0' + byte % 64).collect();
    let image = Image::busybox().file("body", 0o644, body);
    for engine in any_engine() {
        let (port, _) = server();
        let run = allowing(engine, port)
            .image(image.path())
            .sh(&format!(
                "wget -q --post-file /body -O - http://{OWN}:{port}/ | cmp - /body"
            ))
            .run();
        run.exits(0).prints("");
    }
}

#[test]
fn everything_else_is_refused_with_the_way_out_and_once_on_stderr() {
    for engine in engines() {
        let (port, connections) = server();
        let (other, _) = server();
        let script = format!(
            "for u in {OWN}:{other} a.example {OWN}:{other}; do wget -q -O - http://$u/ 2>&1; done; true"
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        let run = allowing(engine, port)
            .option("--report")
            .option(file.path())
            .image(busybox().path())
            .sh(&script)
            .run()
            .exits(0);
        let refused = format!("{OWN}:{other}: is not allowed; --allow {OWN}:{other} allows it");
        let stdout = run.stdout();
        assert_eq!(stdout.matches(&refused).count(), 2, "{stdout}");
        assert!(
            stdout.contains("403 a.example:80: is not allowed; --allow a.example"),
            "{stdout}"
        );
        let lines = [
            format!(
                "rdvm: network: {OWN}:{other}: is not allowed (2 times); --allow {OWN}:{other} allows it\n"
            ),
            "rdvm: network: a.example:80: is not allowed; --allow a.example allows it\n".to_owned(),
        ];
        assert_eq!(run.stderr(), lines.concat());
        let network = &report(&file)["network"];
        assert_eq!(network["refused"].as_array().unwrap().len(), 2);
        assert_eq!(network["reached"], serde_json::json!([]));
        assert_eq!(connections.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn without_the_options_there_is_only_the_guests_own_loopback() {
    for engine in any_engine() {
        let (port, connections) = server();
        let script = format!(
            "env | grep -i _proxy; cat /proc/net/dev | tail -n +3 | cut -d: -f1; wget -q -O - http://{OWN}:{port}/9 2>/dev/null || echo no"
        );
        let run = Rdvm::on(engine).image(busybox().path()).sh(&script).run();
        run.exits(0).prints("    lo\nno\n");
        assert_eq!(connections.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn an_images_own_settings_win_and_the_report_says_so() {
    for engine in any_engine() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let run = allowing(engine, 80)
            .option("--report")
            .option(file.path())
            .option("-e")
            .option("http_proxy=http://own:1")
            .image(busybox().path())
            .sh("echo $http_proxy $https_proxy $NODE_USE_ENV_PROXY")
            .run();
        run.exits(0)
            .prints("http://own:1 http://127.0.0.1:3128 1\n");
        let overridden = &report(&file)["network"]["overridden"];
        assert_eq!(*overridden, serde_json::json!(["http_proxy"]));
    }
}

#[test]
fn sixty_four_connections_at_once_arrive_each_with_its_own_bytes() {
    let count = 100_000usize;
    for engine in any_engine() {
        let (port, connections) = server();
        let script = format!(
            "i=0; while [ $i -lt 64 ]; do wget -q -O /out.$i http://{OWN}:{port}/$(({count} + i)) & i=$((i+1)); done
            wait; i=0; while [ $i -lt 64 ]; do wc -c </out.$i; i=$((i+1)); done; cat /out.0 | sha256sum; head -c {count} /out.63 | sha256sum"
        );
        let run = allowing(engine, port)
            .image(busybox().path())
            .sh(&script)
            .run()
            .exits(0);
        let stdout = run.stdout();
        let lines: Vec<&str> = stdout.lines().collect();
        for (at, line) in lines[..64].iter().enumerate() {
            assert_eq!(*line, (count + at).to_string(), "{stdout}");
        }
        assert_eq!(lines[64], lines[65]);
        assert!(connections.load(Ordering::Relaxed) >= 64);
    }
}

/// A port that is free now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Runs a script with a published port 7, and waits for its line "on".
fn published(engine: &str, script: &str) -> (Child, u16) {
    let port = free_port();
    let mut child = Rdvm::on(engine)
        .option("-p")
        .option(format!("{port}:7"))
        .image(busybox().path())
        .sh(script)
        .spawn();
    let mut line = [0; 3];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut line)
        .unwrap();
    assert_eq!(&line, b"on\n");
    (child, port)
}

fn ended(mut child: Child) -> Run {
    let mut stdout = Vec::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut stdout)
        .unwrap();
    let output = child.wait_with_output().unwrap();
    Run(std::process::Output { stdout, ..output })
}

#[test]
fn a_published_port_leads_to_the_guests_loopback_and_half_an_end_is_half_an_end() {
    for engine in engines() {
        // It prints how much it got when it is told that this was all.
        let script = "nc -ll -p 7 -e sh -c 'wc -c' & echo on; sleep 1000";
        let (child, port) = published(engine, script);
        for count in [0, 1, sized(3_000_000usize, 200_000)] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(&bytes(count)).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(answer.trim(), count.to_string());
        }
        send(child.id(), "TERM");
        ended(child).exits(143);
    }
}

#[test]
fn a_connection_before_anything_listens_waits_and_then_is_closed() {
    for engine in any_engine() {
        let script = "echo on; sleep 2; echo hello | nc -l -p 7; sleep 1000";
        let (child, port) = published(engine, script);
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
        drop(stream);
        // Nobody listens any more.
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let read = stream.read(&mut [0]);
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        send(child.id(), "TERM");
        ended(child).exits(143);
    }
}

#[test]
fn a_reader_that_sleeps_stops_its_own_connection_and_no_other() {
    for engine in any_engine() {
        let script = "nc -ll -p 7 -e cat & echo on; sleep 1000";
        let (child, port) = published(engine, script);
        let mut slow = TcpStream::connect(("127.0.0.1", port)).unwrap();
        slow.set_nonblocking(true).unwrap();
        let (mut sent, mut quiet) = (0, 0);
        // Until nothing goes in any more: what came back is not read.
        while quiet < 20 {
            match slow.write(&[7; 65536]) {
                Ok(count) => (sent, quiet) = (sent + count, 0),
                Err(_) => {
                    quiet += 1;
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
        assert!(sent > 65536);
        let mut other = TcpStream::connect(("127.0.0.1", port)).unwrap();
        other.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        other.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
        // And then all of it comes back.
        slow.set_nonblocking(false).unwrap();
        slow.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        slow.read_to_end(&mut back).unwrap();
        assert_eq!(back.len(), sent);
        send(child.id(), "TERM");
        ended(child).exits(143);
    }
}

#[test]
fn any_free_port_is_named_on_stderr_and_in_the_report() {
    for engine in any_engine() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let run = Rdvm::on(engine)
            .option("-p")
            .option("0:80")
            .option("--report")
            .option(file.path())
            .image(busybox().path())
            .sh("true")
            .run()
            .exits(0);
        let published = &report(&file)["network"]["published"][0];
        let address = published["address"].as_str().unwrap();
        assert_eq!(published["guest_port"], 80);
        assert!(
            address.starts_with("127.0.0.1:") && !address.ends_with(":0"),
            "{address}"
        );
        run.says_only(&format!(
            "rdvm: network: {address} leads to port 80 of the guest\n"
        ));
    }
}

#[test]
fn a_port_that_is_taken_is_an_error_before_anything_boots() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let run = Rdvm::on("qemu")
        .option("-p")
        .option(format!("{port}:80"))
        .image(busybox().path())
        .sh("true")
        .run();
    run.exits(125).prints("").says(&format!(
        "rdvm: --publish: 127.0.0.1:{port}: cannot listen there"
    ));
}

#[test]
fn a_dry_run_and_a_profile_have_the_network_too() {
    let dir = tempfile::tempdir().unwrap();
    let profile =
        "[profile.p]\nallow = [\"a.example\", \"*.b.example:8080\"]\npublish = \"8080:80\"\n";
    std::fs::write(dir.path().join("rdvm.toml"), profile).unwrap();
    let run = Rdvm::on("qemu")
        .option("--dry-run")
        .option("--config")
        .option(dir.path().join("rdvm.toml"))
        .option("--profile")
        .option("p")
        .option("--upstream-proxy")
        .option("http://user:secret@c.example:3128")
        .image(busybox().path())
        .sh("true")
        .run();
    run.exits(0)
        .says("rdvm: network: proxy to a.example, *.b.example:8080, by http://c.example:3128\n")
        .says("rdvm: network: 127.0.0.1:8080 leads to port 80 of the guest\n");
}

/// The proxy among the children of rdvm, which it does not outlive.
fn proxy_of(child: &Child) -> u32 {
    let is_proxy = |pid: &u32| {
        std::fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|words| words.ends_with(b"network-proxy\0"))
    };
    children_of(child.id())
        .into_iter()
        .find(is_proxy)
        .expect("no proxy")
}

#[test]
fn the_proxy_ends_with_rdvm_and_without_it_the_machine_goes() {
    for engine in any_engine() {
        let script = "echo on; sleep 1000";
        let (mut child, _) = published(engine, script);
        let proxy = proxy_of(&child);
        child.kill().unwrap();
        child.wait().unwrap();
        eventually("the proxy ends", || !is_alive(proxy));

        let (child, _) = published(engine, script);
        send(proxy_of(&child), "KILL");
        ended(child)
            .exits(125)
            .says("lost its network, since the proxy has ended");
    }
}

#[test]
fn options_that_contradict_each_other_are_told() {
    for (options, words) in [
        (&["--network", "proxy"][..], "add --allow HOST[:PORT]"),
        (
            &["--network", "none", "--allow", "a.example"],
            "--network none: contradicts",
        ),
        (
            &["--upstream-proxy", "http://a:1"],
            "add --allow HOST[:PORT]",
        ),
        (
            &["--ports", "uart", "-p", "1:1"],
            "--ports uart: connections",
        ),
        (&["--allow", "a b"], "write HOST or HOST:PORT"),
        (&["--allow", "0x7f.1"], "is the address 127.0.0.1"),
        (&["-p", "80"], "has no port of the guest"),
        (
            &["--upstream-proxy", "ftp://a"],
            "does not begin with http://",
        ),
        (
            &["--rdinit", "/x", "--allow", "a.example"],
            "--allow: cannot be used with --rdinit",
        ),
    ] {
        let rdvm = options
            .iter()
            .fold(Rdvm::on("qemu"), |rdvm, option| rdvm.option(option));
        let run = rdvm
            .image(busybox().path())
            .sh("true")
            .run()
            .exits(125)
            .prints("");
        assert!(
            run.stderr().contains(words),
            "{options:?}: {}",
            run.stderr()
        );
    }
}
